"""Sets of samples, made and measured block by block: by one job, or by many on as many devices.

A set is what one network gives for images 0 ... n - 1 with one sampler and number of steps. It is cut into
blocks of `BLOCK` images, always at the same places, and shard k of N makes the blocks k, k + N, k + 2 N ...
Image i has a random stream of its own (`cunet.sampling`), and the batches of a block begin where the block
begins: so which images a block holds depends neither on how many shards there are nor on who makes it.

Of a block two files are kept in the run's folder `samples`: its features (float32, 1 kB an image) and its
pixels (uint8, 12 kB an image in colour of 64 x 64). Making a set takes the memory of one block, however many
samples it has.

Whatever is measured is of all images of a set. A Frechet distance alone takes the memory of one block: sums
over it (`frechet.FrechetAlexNet`, `Statistics`) are a torchmetrics state, and states of blocks, by whichever
job, merge into that of the set. Its bootstrap, kernel distances, precision and recall need the features of
each image, 1 kB: these grow with the set, to 31 MB of 30,000 images, and copies in float64 take four times as
much. Pixels are read a block at a time (`pixels`): the search for copies, and FID with Inception's weights,
take the memory of one.
"""

import functools
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cunet import alexnet, checkpoints, datasets, folders, sampling, storage
from cunet.datasets import Slices
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.provenance import sampling_code

BATCH = 64  # images at once
BLOCK = 8 * BATCH  # images a block


@dataclass(frozen=True)
class Samples:
    """A set of samples: the checkpoint's path, the sampler and its steps, the seed, the number of images."""

    checkpoint: Path
    sampler: str
    steps: int
    seed: int
    count: int

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """First image and number of images of each block."""
        return [(first, min(BLOCK, self.count - first)) for first in range(0, self.count, BLOCK)]

    def folder(self, run_dir: Path) -> Path:
        """Where the blocks are: another folder for another network, diffusion, seed, or code.

        Raises InputError for a checkpoint that is missing or damaged.
        """
        weights, diffusion = _card(self.checkpoint)
        key = hashlib.sha256(f"{weights} {json.dumps(diffusion, sort_keys=True)}".encode()).hexdigest()
        return run_dir / "samples" / f"{self.name}-{key[:12]}-{sampling_code()[:12]}"

    @property
    def name(self) -> str:
        """Names the set, whatever network has the checkpoint's name."""
        return f"{self.checkpoint.stem}-{self.sampler}{self.steps}-s{self.seed}"


def _card(checkpoint: Path) -> tuple[str, dict]:
    """What decides a checkpoint's samples: the hash of its weights, and the settings of its diffusion."""
    files = [file for file in (checkpoint, checkpoint.with_suffix(".json")) if file.is_file()]
    return _read_card(checkpoint, *((file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@functools.cache
def _read_card(checkpoint: Path, *stamp: tuple[int, int]) -> tuple[str, dict]:
    """`_card`, read once while the files stay as they are: it is asked for with every set."""
    card = checkpoints.verify(checkpoint)
    return card["sha256"], card["diffusion"]


def make(
    which: Samples, run_dir: Path, network: nn.Module, diffusion: Diffusion, shard: int = 0, of: int = 1
) -> None:
    """Make those blocks of a set that belong to a shard and are not there yet, or are damaged.

    Sets of the same name that another network, diffusion or code has made are deleted, which is printed. The
    network is on the first GPU, or shard k on GPU k of this machine's, for the time of the call.

    Raises:
        InputError: as `cunet.sampling.sample`; `shard` is not 0 ... of - 1; or `diffusion` is not that of the
            checkpoint's card, by which the set is known.
    """
    if not 0 <= shard < of:
        raise InputError(f"There is no shard {shard} of {of}: shards are 0 ... {of - 1}.")
    if diffusion.settings() != (known := _card(which.checkpoint)[1]):
        raise InputError(
            f"{which.checkpoint.name} was trained with the diffusion {known}, but is sampled with "
            f"{diffusion.settings()}. Give Diffusion(**card['diffusion']), of its own card."
        )
    folder, gpus = which.folder(run_dir), torch.cuda.device_count()
    for old in sorted(folder.parent.glob(f"{which.name}-????????????-????????????")):
        if old != folder:
            print(
                f"Deleting {folders.shown(old)}: samples of another network, diffusion or code by this name."
            )
            shutil.rmtree(old, ignore_errors=True)
    device = torch.device("cuda", shard % gpus) if gpus else sampling.device_of(network)
    with sampling.placed(device, network):
        for first, count in which.blocks[shard::of]:
            if _there(folder, first, count):
                continue
            images = sampling.sample(
                *(network, count, diffusion, which.sampler, which.steps, which.seed, BATCH), first=first
            )
            storage.keep(_file(folder, "pixels", first, count), datasets.to_uint8(images))
            storage.keep(_file(folder, "features", first, count), alexnet.features(images.to(device), BATCH))


def _file(folder: Path, kind: str, first: int, count: int) -> Path:
    """The file of a block, with its "features" or "pixels"."""
    return folder / f"{first}-{count}-{kind}.safetensors"


def _there(folder: Path, first: int, count: int) -> bool:
    """Whether a block is there and as it was written: its content is read and compared with its hash."""
    return all(storage.kept(_file(folder, kind, first, count)) is not None for kind in ("features", "pixels"))


def features(which: Samples, run_dir: Path) -> Tensor:
    """AlexNet features of a set that was made: float32 (count, 256).

    Raises InputError for a block that is missing or damaged.
    """
    folder = which.folder(run_dir)
    return torch.cat([_block(folder, "features", *block) for block in which.blocks])


def pixels(which: Samples, run_dir: Path) -> Slices:
    """The images of a set that was made, uint8 (count, C, H, W): a block, the last one asked for, is held.

    A slice raises InputError for a block that is missing or damaged.
    """
    folder = which.folder(run_dir)
    block = functools.lru_cache(1)(lambda first, count: _block(folder, "pixels", first, count))

    def read(first: int, end: int) -> Tensor:
        inside = [one for one in which.blocks if one[0] < end and first < sum(one)] or which.blocks[:1]
        parts = [block(start, count)[max(0, first - start) : max(0, end - start)] for start, count in inside]
        return torch.cat(parts)

    return Slices(which.count, read)


def _block(folder: Path, kind: str, first: int, count: int) -> Tensor:
    """What is kept of a block; InputError if it is missing or damaged."""
    found = storage.kept(_file(folder, kind, first, count))
    if found is None:
        raise InputError(
            f"Images {first} ... {first + count - 1} are missing in {folders.shown(folder)}, or damaged. "
            "The same command as before makes them again, and them alone."
        )
    return found
