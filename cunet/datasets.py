"""Image data sets as one uint8 tensor in memory.

Small images (32 to 64 pixels a side) fit into memory whole: 60,000 digits at 32 x 32 are 61 MB. So a data
set here is a tensor with an index, not a pipeline of files, transforms and worker processes, and a training
loop draws integers. `mnist` ships with the library, `avatars` and `landscapes` are drawn on first use
(`cunet.drawn`), and `celeba`, `lsun_church` and `folder` read what the user has fetched (`cunet.photos`).
"""

import gzip
import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cunet import assets, drawn, photos
from cunet.errors import InputError
from cunet.sources import SOURCES

DATASETS = tuple(SOURCES)
SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageDataset:
    """Images and labels in memory.

    Attributes:
        name: name of the data set, as given to `load`.
        split: "train" or "test".
        images: uint8 (N, C, H, W), 0 is black.
        labels: int64 (N,), the digit of mnist and the head style of avatars; int64 (N, 40), the attributes of
            celeba; None where the data set has none.
        credit: whom to credit, and the licence.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor | None = None
    credit: str = ""

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.images.shape[-1]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of shape and pixels: what was trained on, whatever it was read from."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()

    def batch(self, indices: Tensor | Sequence[int] | slice) -> Tensor:
        """Images number `indices` as float32 (B, C, H, W) in [-1, 1]."""
        return from_uint8(self.images[indices])


@dataclass(frozen=True)
class Slices:
    """Images in place of a tensor of all of them: they are read where they are asked for, a slice at a time.

    count: how many they are. read: from the first number and the one after the last to a tensor of these.
    """

    count: int
    read: Callable[[int, int], Tensor]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, chosen: slice) -> Tensor:
        first, end, step = chosen.indices(self.count)
        if step != 1:
            raise InputError(f"Every {step}th image was asked for; images on disk are read without a step.")
        return self.read(first, max(first, end))


def from_uint8(images: Tensor | Slices) -> Tensor | Slices:
    """uint8 0 ... 255 -> float32 in [-1, 1]; of `Slices` each when it is read."""
    if isinstance(images, Slices):
        return Slices(images.count, lambda first, end: from_uint8(images.read(first, end)))
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1], clamped, -> the nearest uint8: the inverse of `from_uint8`."""
    return images.clamp(-1.0, 1.0).add(1.0).mul_(127.5).round_().to(torch.uint8)


def checked(images: Tensor) -> Tensor:
    """The images as they are, when they are float (B, 1 or 3, H, W), finite and in [-1, 1] up to rounding.

    Images in [0, 1] cannot be told from bright ones, so they pass: map them first, by 2 x - 1.

    Raises:
        InputError: when they are not, or when there are none.
    """
    advice = "expected float images (B, C, H, W) with 1 or 3 channels and values in [-1, 1]"
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.numel():
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"{shape} is no batch of images; {advice}.")
    if not images.is_floating_point() or images.shape[1] not in (1, 3):
        raise InputError(
            f"Images of type {images.dtype} and shape {tuple(images.shape)} cannot be used; {advice} "
            "(uint8 is converted by from_uint8)."
        )
    low, high = (float(bound) for bound in images.aminmax())
    if not (low >= -1.001 and high <= 1.001):  # NaN fails both
        raise InputError(f"Images with values from {low:.4g} to {high:.4g} cannot be used; {advice}.")
    return images


def resize(images: Tensor, image_size: int, chunk: int = 2048) -> Tensor:
    """uint8 (N, C, H, W) to a side of `image_size`: means of areas going down, bilinear going up."""
    side = images.shape[-1]
    if side == image_size:
        return images
    how = {"mode": "area"} if image_size < side else {"mode": "bilinear", "align_corners": False}
    parts = [
        F.interpolate(part.float(), size=(image_size, image_size), **how).round_().to(torch.uint8)
        for part in images.split(chunk)
    ]
    return torch.cat(parts)


def data_root(root: str | Path | None = None) -> Path:
    """`root`, else the environment variable CUNET_DATA, else .cache/datasets beside the package."""
    default = Path(__file__).parent.parent / ".cache" / "datasets"
    return Path(root or os.environ.get("CUNET_DATA") or default).expanduser()


def load(
    name: str, split: str = "train", image_size: int = 32, root: str | Path | None = None
) -> ImageDataset:
    """Load one split of a data set.

    Args:
        name: one of `DATASETS`; "folder:PATH" is short for name "folder" and root PATH.
        split: "train" or "test".
        image_size: side of the images in pixels, a multiple of 8 from 8 to 256.
        root: folder of the data sets that do not ship with the library (`data_root` has the default); for
            "folder", the folder of images.

    Raises:
        InputError: unknown name or split, unusable size, or files that are missing or damaged.
    """
    kind, folder = _named(name, root)
    if split not in SPLITS:
        raise InputError(f"Unknown split {split!r} of data set {name!r}; expected {' or '.join(SPLITS)}.")
    if type(image_size) is not int or image_size % 8 or not 8 <= image_size <= 256:
        raise InputError(
            f"The image size {image_size!r} cannot be used; expected a multiple of 8 from 8 to 256 pixels, "
            "for example 32."
        )
    loader = {"vendored": _mnist, "drawn": _drawn, "photographs": _photos}[SOURCES[kind].kind]
    return loader(kind, split, image_size, folder)


def _named(name: str, root: str | Path | None) -> tuple[str, Path]:
    """The data set of a name, without a path, and the folder where it is; InputError if there is no such."""
    kind, colon, path = name.partition(":")
    if kind not in DATASETS or (colon and kind != "folder") or (kind == "folder" and not (path or root)):
        raise InputError(
            f"Unknown data set {name!r}; expected one of {', '.join(DATASETS)}, the last as `folder:PATH`."
        )
    return kind, data_root(path or root)


def find(name: str, root: str | Path | None = None) -> tuple[int, int]:
    """How many training and test images a data set has, as they are there or will be drawn.

    Lists files and decodes none: it tells before a long run what `load` would tell in the middle of it.

    Raises:
        InputError: as `load`, if the data set is unknown or its files are not there.
    """
    kind, folder = _named(name, root)
    source = SOURCES[kind]
    if source.kind != "photographs":
        return source.train, source.test
    train, test = (len(_listed(kind, split, folder).items) for split in SPLITS)
    return train, test


def class_names(name: str) -> tuple[str, ...]:
    """What the labels 0, 1, ... of a data set stand for; empty where an image has no single class."""
    if name == "mnist":
        return tuple("0123456789")
    styles = tuple(drawn.RECIPES[name]["styles"]) if name in drawn.RECIPES else ()
    return styles if len(styles) > 1 else ()


def read_idx(content: bytes) -> np.ndarray:
    """Array from the content of an IDX file of bytes (magic 0, 0, 8, rank; big-endian sizes; data).

    Raises:
        InputError: another element type, or more or fewer bytes than the header says.
    """
    try:
        zero, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
    except struct.error as error:
        raise InputError(
            f"This is no IDX file: its header is cut ({error}). Fetch the file again."
        ) from error
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if (zero, kind) != (0, 8) or data.size != np.prod(shape):
        raise InputError(
            f"This is no IDX file of bytes: magic ({zero}, {kind}, {rank}), {data.size} bytes of data for "
            f"the shape {shape}; expected magic (0, 8, rank) and a byte an element. Fetch the file again."
        )
    return data.reshape(shape)


def _mnist(name: str, split: str, image_size: int, root: Path) -> ImageDataset:
    """The vendored digits, padded with black from 28 to 32 so that three halvings are whole, then resized."""
    stem = {"train": "train", "test": "t10k"}[split]
    digits, labels = (
        torch.from_numpy(read_idx(gzip.decompress(assets.read(f"mnist/{stem}-{file}.gz"))).copy())
        for file in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images = F.pad(digits, (2, 2, 2, 2)).unsqueeze(1)
    return ImageDataset(name, split, resize(images, image_size), labels.long(), SOURCES[name].credit)


def _drawn(name: str, split: str, image_size: int, root: Path) -> ImageDataset:
    """Images drawn from seeds, at 64 or 32 as rendered, at other sides resized from 64."""
    file = drawn.build(name, root / "drawn")
    images = torch.from_numpy(
        drawn.load(file, split, image_size if image_size in drawn.SIDES else drawn.SIDE)
    )
    styles = len(drawn.RECIPES[name]["styles"])
    labels = torch.arange(len(images)) % styles if styles > 1 else None
    credits = json.loads(file.with_suffix(".json").read_text())["credits"]
    credit = "; ".join([entry["text"] for entry in credits] + ["drawn with DiceBear"])
    return ImageDataset(name, split, resize(images, image_size), labels, credit)


def _photos(name: str, split: str, image_size: int, root: Path) -> ImageDataset:
    """Photographs, cropped to their centred square and decoded once."""
    found = _listed(name, split, root)
    images = photos.decode(found, image_size, data_root() / "decoded", f"{name}-{split}")
    credit = SOURCES[name].credit or f"images in {root}"
    return ImageDataset(name, split, images, found.labels, credit)


def _listed(name: str, split: str, root: Path) -> photos.Photos:
    """The photographs of a data set, found by the function of its name."""
    return getattr(photos, name)(root, split)
