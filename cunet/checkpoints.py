"""Weights on disk: one safetensors file and one JSON card beside it, written whole or not at all.

A pair of files is written in this order: the weights under a temporary name, the card under the name
`.<name>.json.pending`, then the weights are renamed into place and last the card. Each is flushed to the disk
(fsync) before it is renamed. A process killed at any moment therefore leaves the old pair, the new pair, or the
new weights with their card still pending; :func:`read` recognises all three, because the card carries the SHA-256
of its weights file and of itself.

Nothing here unpickles: the hash is checked on the bytes before they are parsed, and the parser is safetensors',
which holds numbers only.
"""

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import cunet
from cunet.errors import InputError

ASSETS = Path(__file__).parent / "assets" / "checkpoints"
"""Where the released weights live."""

DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""How weights may be stored; they are always float32 again after :func:`load`."""

PACKAGES = ("torch", "lightning-fabric", "safetensors", "numpy", "diffusers", "torchdiffeq")
"""Packages whose versions a card records."""


def stem(dataset: str, model: str, size: str, seed: int = 0, variant: str = "") -> str:
    """The name, without suffix, of a checkpoint: `<dataset>-<model>-<size>-s<seed>[-variant]`."""
    return f"{dataset}-{model}-{size}-s{seed}" + (f"-{variant}" if variant else "")


def released(dataset: str, model: str, size: str, seed: int = 0, variant: str = "") -> Path:
    """The path of a checkpoint that comes with the package.

    Args:
        dataset, model, size: names as in `cunet.datasets.DATASETS`, `cunet.models.MODELS`, `cunet.models.SIZES`.
        seed: the training seed, 0 or more.
        variant: what sets this training apart from the standard one, such as `time` (same wall time).

    Returns:
        The path of the `.safetensors` file; its card lies beside it.

    Raises:
        InputError: no such checkpoint was released; the text lists those that were.
    """
    path = ASSETS / f"{stem(dataset, model, size, seed, variant)}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in ASSETS.glob("*.safetensors"))) or "none"
        raise InputError(
            f"There is no released checkpoint {path.stem!r}. Released are: {known}. "
            "Choose one of these, or train the network with `cunet train` and give the path of the result."
        )
    return path


def save(path: str | Path, model: nn.Module, card: dict[str, Any], dtype: str = "float32") -> Path:
    """Write a network's weights and its card, atomically.

    Args:
        path: where to; the suffix is made `.safetensors`, and the card goes beside it with the suffix `.json`.
        model: a network from `cunet.models.build` (its attributes name, size, channels and image_size go into the card).
        card: what to remember; must be JSON. `model, size, channels, image_size, dtype, sha256` and where the
            weights were made (`code_version, processor, packages`) are filled in.
        dtype: how floating-point weights are stored, `float32` or `float16` (half the size, 3 decimal digits).

    Returns:
        The path of the `.safetensors` file.

    Raises:
        InputError: a weight is not finite (or overflows float16), the card is no JSON, or the disk refuses.
    """
    if dtype not in DTYPES:
        raise InputError(f"Weights cannot be stored as dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")
    path = Path(path).with_suffix(".safetensors")
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().to("cpu", DTYPES[dtype] if value.dtype == torch.float32 else value.dtype)
        tensors[name] = value.contiguous().clone()
    _refuse_nonfinite(tensors, path, "would be written")
    own = {
        "model": model.name,
        "size": model.size,
        "channels": model.channels,
        "image_size": model.image_size,
    }
    for key, value in own.items():
        if card.get(key, value) != value:
            raise InputError(
                f"The card says {key}={card[key]!r} but the network to be saved in {path} has {key}={value!r}. "
                "Leave the key out of the card (it is filled in) or save the network that the card describes."
            )
    write(path, tensors, {**provenance(), **card, **own, "dtype": dtype})
    return path


def load(
    path: str | Path, model: str | None = None, size: str | None = None, channels: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Read a network that :func:`save` wrote, after checking it.

    Args:
        path: the `.safetensors` file, its card beside it.
        model, size, channels: what the caller expects; None accepts whatever the card says.

    Returns:
        The network in evaluation mode, float32, on the CPU, and its card.

    Raises:
        InputError: the file or its card is missing, damaged, edited, a pickle, holds non-finite weights, or
            belongs to another network than was asked for.
    """
    from cunet import models  # imported here: reading and writing a training state needs no networks

    path = Path(path)
    tensors, card = read(path)
    for key, kind in (("model", str), ("size", str), ("channels", int)):
        if not isinstance(card.get(key), kind) or isinstance(card.get(key), bool):
            raise InputError(
                f"The card of {path} does not say the network's {key}, so this is no checkpoint of a cunet "
                "network. Give a file written by `cunet train` or cunet.checkpoints.save."
            )
    for key, wanted in (("model", model), ("size", size), ("channels", channels)):
        if wanted is not None and card[key] != wanted:
            raise InputError(
                f"The checkpoint {path} holds {key}={card[key]!r}, but {key}={wanted!r} was asked for. "
                f"Ask for {card[key]!r} or give a checkpoint of {wanted!r}."
            )
    _refuse_swapped(path, card)
    with torch.random.fork_rng(devices=[]):
        network = models.build(card["model"], size=card["size"], channels=card["channels"])
    fill(network, tensors, path)
    return network.eval(), card


def verify(path: str | Path) -> dict[str, Any]:
    """Check a pair of files (hashes, finite numbers, name) without building the network; returns the card.

    Raises:
        InputError: as :func:`load`.
    """
    path = Path(path)
    _, card = read(path)
    _refuse_swapped(path, card)
    return card


def fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `network`; names and shapes must match one to one. `path` is for the error's text.

    Raises:
        InputError: a tensor is missing, left over, or of another shape or kind.
    """
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        have, want = tensors[name], own[name]
        if have.shape != want.shape:
            faults.append(f"{name} has shape {tuple(have.shape)}, not {tuple(want.shape)}")
        elif have.dtype != want.dtype and not (have.is_floating_point() and want.is_floating_point()):
            faults.append(f"{name} has dtype {have.dtype}, not {want.dtype}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(
            f"The weights in {path} are not those of the network its card names: {'; '.join(faults[:3])}{more}. "
            "The file was made by other code or for another network; train it again or fetch the original file."
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


# --- a pair of files: tensors and a JSON card ---------------------------------------------------------------------


def write(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write `tensors` to `path` (.safetensors) and `card` beside it (.json): the new pair whole, or the old one kept.

    Args:
        path: the `.safetensors` file; its folder is made if needed.
        tensors: names to contiguous CPU tensors that share no memory.
        card: JSON values. `sha256` (of the tensors' file) and `card_sha256` (of the card without that key) are added.

    Raises:
        InputError: the card is no JSON, or the operating system refuses (disk full, folder read-only).
    """
    data = safetensors.torch.save(tensors)
    try:
        card = json.loads(json.dumps({**card, "sha256": hashlib.sha256(data).hexdigest()}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The card for {path} is no JSON ({error}). Use numbers, texts, lists and dicts only, and no NaN."
        ) from error
    card["card_sha256"] = _card_hash(card)
    text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(_pending(path), text.encode())
        _replace(path, data)
        os.replace(_pending(path), path.with_suffix(".json"))
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror or error}. What was there before is unchanged. "
            "Make room on the disk or choose a folder that can be written, and start again."
        ) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a pair that :func:`write` wrote; the hash of the bytes is checked before anything parses them.

    Returns:
        Names to tensors (as stored), and the card.

    Raises:
        InputError: missing, truncated, altered, not safetensors, or holding NaN or infinity.
    """
    card, data = _matching_card(path)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}), although its hash agrees with its card: a pickle or another "
            "format was renamed. Such files are never opened. Use a file written by cunet.checkpoints.save."
        ) from error
    _refuse_nonfinite(tensors, path, "are stored")
    return tensors, card


def remove(path: Path) -> None:
    """Delete a pair and whatever an interrupted :func:`write` left of it."""
    for file in (path, path.with_suffix(".json"), _pending(path), *_temporaries(path)):
        file.unlink(missing_ok=True)


def exists(path: Path) -> bool:
    """Whether any part of a pair is at `path`, whole or damaged."""
    return path.exists() or path.with_suffix(".json").exists()


def _pending(path: Path) -> Path:
    return path.parent / f".{path.stem}.json.pending"


def _temporaries(path: Path) -> list[Path]:
    """What writers of this pair that were killed half-way left behind."""
    prefixes = tuple(f".{file.name}.tmp-" for file in (path, _pending(path)))
    return [file for file in path.parent.glob(".*.tmp-*") if file.name.startswith(prefixes)]


def _replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` by way of a temporary file in the same folder, flushed to disk before the rename."""
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _card_hash(card: dict[str, Any]) -> str:
    rest = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file {path}. A checkpoint is two files with one name, .safetensors and .json; "
            "check the path, or make the checkpoint with `cunet train`."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_read_bytes(path).decode())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"The card {path} is damaged: it is no JSON ({error}). Restore it, or delete it and its weights."
        ) from error
    if not isinstance(card, dict) or not isinstance(card.get("sha256"), str):
        raise InputError(
            f"The card {path} has no sha256 of its weights, so they cannot be checked. Restore it."
        )
    if card.get("card_sha256") != _card_hash(card):
        raise InputError(
            f"The card {path} was edited or damaged: its content does not give the card_sha256 it carries. "
            "Restore the original, or delete it and its weights and make them again."
        )
    return card


def _matching_card(path: Path) -> tuple[dict[str, Any], bytes]:
    """The card whose hash agrees with the bytes at `path`, and those bytes."""
    data = _read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    pending = _pending(path)
    if pending.exists():  # the writer was killed between the two renames, or before them
        try:
            card = _read_card(pending)
        except InputError:
            card = {}
        if card.get("sha256") == found:
            return card, data
    card = _read_card(path.with_suffix(".json"))
    if card["sha256"] != found:
        kind = (
            " It looks like a pickle or a zip file." if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else ""
        )
        raise InputError(
            f"{path} is damaged or was replaced: its SHA-256 is {found[:16]}..., its card says {card['sha256'][:16]}... "
            f"({len(data)} bytes).{kind} It was not opened. Restore the file, or delete both and make them again."
        )
    return card, data


def _refuse_nonfinite(tensors: dict[str, Tensor], path: Path, what: str) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(
                f"Numbers that are NaN or infinite {what} in {path} (tensor {name!r}, {value.dtype}). "
                "Such weights give no images; use an earlier checkpoint, or train again at a lower learning rate."
            )


def _refuse_swapped(path: Path, card: dict[str, Any]) -> None:
    """A file with a standard name must hold what the name says."""
    keys = ("dataset", "model", "size", "seed")
    if re.fullmatch(r".+-.+-.+-s\d+(-.+)?", path.stem) and all(key in card for key in keys):
        wanted = stem(*(card[key] for key in keys))
        if path.stem != wanted and not path.stem.startswith(wanted + "-"):
            raise InputError(
                f"{path} holds the weights of {wanted!r}, not of what its name says: files were swapped or renamed. "
                f"Rename it to {wanted}.safetensors, or restore the right file."
            )


# --- where it was made ----------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """`code_version` (git commit, `+` when edited, or the package's version), `processor` and `packages` in use."""
    packages = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"code_version": _code_version(), "processor": _processor(), "packages": packages}


@functools.cache
def _code_version() -> str:
    folder = Path(cunet.__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10
        )
        edits = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return cunet.__version__
    if commit.returncode != 0 or edits.returncode != 0:
        return cunet.__version__
    return f"{cunet.__version__}-{commit.stdout.strip()}" + ("+" if edits.stdout.strip() else "")


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or f"{platform.machine()} ({sys.platform})"
