"""Checkpoints: a network's weights (safetensors) and the card (JSON) that says what they are.

The files are `<dataset>-<model>-<size>-s<seed>[-variant].safetensors` and `.json` (`cunet.checkpoint_names`);
how they are written and checked is in `cunet.storage`. A card holds `model, size, channels, image_size,
dataset, seed, diffusion (settings), images_seen, steps, batch_size, recipe (every setting), loss_curve
[[images, loss] ...], validation [[images, loss] ...], validation_loss, wall_time_s, code_version, processor,
packages, sha256, dtype`; that of a training also `code`, the hash of the modules that decided it.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cunet import storage
from cunet.checkpoint_names import Trained, stem
from cunet.errors import InputError
from cunet.precision import packed, unpacked
from cunet.provenance import environment

if TYPE_CHECKING:
    from cunet.diffusion import Diffusion

ASSETS = Path(__file__).parent / "assets" / "checkpoints"
"""Where the released weights live."""


def released(dataset: str, model: str, size: str, seed: int = 0, variant: str = "") -> Path:
    """The path of a checkpoint that comes with the package.

    Args:
        dataset, model, size: as in `cunet.datasets.DATASETS`, `cunet.models.MODELS`, `cunet.models.SIZES`.
        seed: the training seed, 0 or more.
        variant: what sets this training apart from the standard one, such as `time` (same wall time).

    Returns:
        The path of the `.safetensors` file; its card lies beside it.

    Raises:
        InputError: no such checkpoint was released; the text lists those that were.
    """
    return _shipped(stem(dataset, model, size, seed, variant))


def _shipped(name: str) -> Path:
    """The path of the released checkpoint whose `stem` is `name`."""
    path = ASSETS / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in ASSETS.glob("*.safetensors"))) or "none"
        raise InputError(
            f"There is no released checkpoint {name!r}. Released are: {known}. Choose one of these, or "
            "train the network with `cunet train` and give the path of the result."
        )
    return path


def there(
    folder: Path,
    size: str,
    datasets: Iterable[str],
    models: Iterable[str],
    seeds: Iterable[int] = (0,),
    variants: Iterable[str] = ("",),
) -> tuple[dict[Trained, Path], list[str]]:
    """The checkpoints in a folder, of all combinations of what is asked for.

    Args:
        folder: `ASSETS`, or a run's folder of checkpoints.
        size, datasets, models, seeds, variants: as in `stem`.

    Returns:
        The trainings whose checkpoint is there, with its path, data set by data set, then network, then seed;
        and the names of those that are not there.
    """
    asked = (Trained(*which) for which in itertools.product(datasets, models, seeds, variants))
    paths = {which: folder / f"{which.stem(size)}.safetensors" for which in asked}
    found = {which: path for which, path in paths.items() if path.is_file()}
    return found, [path.stem for which, path in paths.items() if which not in found]


def complete(
    folder: Path, size: str, datasets: Iterable[str], models: Iterable[str], seed: int = 0
) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """The checkpoints of the data sets that have one for each of the models, which are to be compared.

    Args:
        folder, size, datasets, models, seed: as in `there`.

    Returns:
        (dataset, model) -> path, in the order given, and the names of those that are not there.

    Raises:
        InputError: no data set has them all; the text names what is missing.
    """
    datasets, models = list(datasets), list(models)
    found, missing = there(folder, size, datasets, models, [seed])
    paths = {(which.dataset, which.model): path for which, path in found.items()}
    whole = [d for d in datasets if all((d, m) in paths for m in models)]
    if not whole:
        raise InputError(
            f"No data set has a checkpoint for each of {', '.join(models)} in {folder}: missing are "
            f"{', '.join(missing)}. Train them with `cunet train`, or name other data sets or networks."
        )
    return {key: path for key, path in paths.items() if key[0] in whole}, missing


def save(path: str | Path, model: nn.Module, card: dict[str, Any], dtype: str = "float32") -> Path:
    """Write a network's weights and its card, atomically.

    Args:
        path: where to; `.safetensors` is added if it is missing, the card goes beside it as `.json`.
        model: a network from `cunet.models.build`; its name, size, channels and image_size go into the card.
        card: what to remember; must be JSON. `model, size, channels, image_size, dtype, sha256` and where
            the weights were made (`code_version, processor, packages`) are filled in.
        dtype: how float32 weights are stored, one of `cunet.precision.DTYPES`.

    Returns:
        The path of the `.safetensors` file.

    Raises:
        InputError: an unknown `dtype`, a weight is not finite (or overflows float16), the card is no JSON or
            speaks of another network, or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    own = {key: getattr(model, key) for key in ("size", "channels", "image_size")} | {"model": model.name}
    for key, value in own.items():
        if card.get(key, value) != value:
            raise InputError(
                f"The card for {path} says {key}={card[key]!r}, but the network has {key}={value!r}. Leave "
                "the key out of the card (it is filled in) or save the network that the card describes."
            )
    tensors = packed(model.state_dict(), dtype)
    storage.write(path, tensors, {**environment(), **card, **own, "dtype": dtype})
    return path


def load(
    path: str | Path, model: str | None = None, size: str | None = None, channels: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Read a network that :func:`save` wrote, after checking it.

    Args:
        path: the `.safetensors` file, its card beside it.
        model, size, channels: what the caller expects; None accepts what the card says.

    Returns:
        The network in evaluation mode, float32, on the CPU, and its card.

    Raises:
        InputError: the file or its card is missing, damaged, edited, a pickle, holds non-finite weights, or
            belongs to another network than was asked for.
    """
    from cunet import denoisers, models  # here: reading a card or a state must not import every network

    path = Path(path)
    tensors, card = storage.read(path)
    _refuse_foreign(path, card)
    for key, wanted in (("model", model), ("size", size), ("channels", channels)):
        if wanted is not None and card[key] != wanted:
            raise InputError(
                f"The checkpoint {path} holds {key}={card[key]!r}, but {key}={wanted!r} was asked for. Ask "
                f"for {card[key]!r}, or give a checkpoint of {wanted!r}."
            )
    with torch.random.fork_rng(devices=[]):  # building draws initial weights that are then overwritten
        build = denoisers.build if card["model"] in denoisers.NETWORKS else models.build
        network = build(card["model"], size=card["size"], channels=card["channels"])
    fill(network, unpacked(tensors), path)
    return network.eval(), card


def start(network: nn.Module, name: str, diffusion: dict[str, Any]) -> str:
    """Give an untrained network the weights of a released checkpoint; what it has beyond keeps its own.

    Args:
        network: like the checkpoint's, or with classes where that has none.
        name: what `stem` says of the checkpoint, such as `mnist-cunet-laptop-s0`.
        diffusion: the settings that the network will be trained with (`Diffusion.settings`).

    Returns:
        The SHA-256 of the weights, as the checkpoint's card has it.

    Raises:
        InputError: no such checkpoint was released, or it is of another network, or was trained to predict
            something else.
    """
    path = _shipped(name)
    tensors, card = storage.read(path)
    _refuse_foreign(path, card)
    if card["diffusion"] != diffusion:
        raise InputError(
            f"{name} was trained with {card['diffusion']}, and cannot be the start of a training with "
            f"{diffusion}: its answers mean something else. Take the settings of the checkpoint."
        )
    added = {key: value for key, value in network.state_dict().items() if key.startswith("labels.")}
    fill(network, {**added, **unpacked(tensors)}, path)
    return card["sha256"]


def verify(path: str | Path) -> dict[str, Any]:
    """Check a checkpoint's hashes, numbers and name without building the network; returns its card.

    Raises:
        InputError: as :func:`load`.
    """
    _, card = storage.read(Path(path))
    _refuse_foreign(Path(path), card)
    return card


def diffusion(card: dict[str, Any], path: str | Path) -> "Diffusion":
    """The diffusion that the card of the checkpoint `path` describes; InputError if it describes none."""
    from cunet.diffusion import Diffusion  # here, since this module decides no number

    settings = card.get("diffusion")
    try:
        return Diffusion(**settings)
    except (TypeError, InputError) as error:
        raise InputError(
            f"The card of {path} does not say the network's diffusion, so it cannot draw images (it has "
            f"{settings!r}: {error}). Give a checkpoint of a diffusion network, as `cunet train` writes."
        ) from error


def fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `network`: names and shapes match one to one. `path` is for the error's text.

    Raises:
        InputError: a tensor is missing, left over, or of another shape or kind.
    """
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in own]
    for name in sorted(own.keys() & tensors.keys()):
        have, want = tensors[name], own[name]
        if have.shape != want.shape:
            faults.append(f"{name} has shape {tuple(have.shape)}, not {tuple(want.shape)}")
        elif have.dtype != want.dtype and not (have.is_floating_point() and want.is_floating_point()):
            faults.append(f"{name} has dtype {have.dtype}, not {want.dtype}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(
            f"The weights in {path} are not those of the network its card names: "
            f"{'; '.join(faults[:3])}{more}. The file was made by other code or for "
            "another network: make it again, or fetch the original."
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _refuse_foreign(path: Path, card: dict[str, Any]) -> None:
    """Refuse a card that is none of a network, or files whose standard name belongs to others."""
    for key, kind in (("model", str), ("size", str), ("channels", int)):
        if not isinstance(card.get(key), kind):
            raise InputError(
                f"The card of {path} does not say the network's {key}, so this is no checkpoint of a "
                "network. Give a file that `cunet train` or cunet.checkpoints.save wrote."
            )
    keys = ("dataset", "model", "size", "seed")
    if re.fullmatch(r".+-.+-.+-s\d+(-[a-z0-9_]+)?", path.stem) and all(key in card for key in keys):
        own = stem(*(card[key] for key in keys), card.get("variant", ""))
        if path.stem != own:
            raise InputError(
                f"{path} holds {own!r}, not what its name says: files were swapped or renamed. Rename it to "
                f"{own}.safetensors (and .json), or restore the right file."
            )
