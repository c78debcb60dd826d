"""Tensors on disk beside a JSON card, written whole or not at all, and checked before they are believed.

Everything the project keeps of a network is such a pair: `<name>.safetensors` and `<name>.json`. The card
carries the SHA-256 of the tensors' file and of itself. A pair is written in this order, every file flushed
to the disk (fsync) before it is renamed: the card under the name `.<name>.json.pending`, the tensors, and
then the card gets its name. A process killed at any moment leaves the old pair, the new pair, or the new
tensors with their card still pending, and `read` recognises all three.

Nothing here unpickles. The hash is checked on the bytes before they are parsed, and the parser is
safetensors', whose files hold numbers only.

What can be computed again, a cache, is a tensor or several in a file that carries its own hash and name:
`keep` and `kept`.
"""

import contextlib
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from safetensors.torch import save_file
from torch import Tensor

from cunet import folders
from cunet.errors import InputError

ALONE = "kept"  # the name, in a cache, of a tensor that was handed over without one


def write(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write `tensors` to `path` and `card` beside it: the new pair whole, or the old one is kept.

    Args:
        path: ends in `.safetensors`; its folder is made if needed.
        tensors: names to contiguous CPU tensors that share no memory, every number finite.
        card: JSON values. `sha256` (of the tensors' file) and `card_sha256` (of the card without that key)
            are added.

    Raises:
        InputError: a number is NaN or infinite, the card is no JSON, or the system refuses (disk full,
            folder read-only).
    """
    _refuse_nonfinite(tensors, path, "would be written to")
    data = bytes_of(tensors)
    try:
        card = json.loads(json.dumps({**card, "sha256": hashlib.sha256(data).hexdigest()}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The card for {path} is no JSON ({error}). Use numbers, texts, lists and dicts only, and no NaN."
        ) from error
    card["card_sha256"] = _card_hash(card)
    early = False  # whether a pending card has no tensors yet
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _settle(path)
        early = True
        _replace(_pending(path), _card_bytes(card))
        _replace(path, data)
        early = False
        os.replace(_pending(path), path.with_suffix(".json"))
        _sync_folder(path.parent)
    except OSError as error:
        if early:
            _pending(path).unlink(missing_ok=True)
        raise InputError(
            f"{path} could not be written: {error.strerror or error}. What was there before is unchanged. "
            "Make room on the disk or choose a folder that can be written, and start again."
        ) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a pair that :func:`write` wrote.

    Returns:
        Names to tensors (as stored), and the card.

    Raises:
        InputError: missing, truncated, altered, not safetensors, or holding NaN or infinity.
    """
    card, data = _matching_card(path)
    try:
        tensors = tensors_of(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}), although its hash agrees with its card: a pickle "
            "or another format was renamed, and it was not opened. Use a file that `cunet train` wrote."
        ) from error
    _refuse_nonfinite(tensors, path, "are stored in")
    return tensors, card


def keep(path: Path, what: Tensor | dict[str, Tensor]) -> None:
    """Write a cache, with its hash, atomically; the folder is made if needed.

    what: a CPU tensor of any dtype, or several by name.

    Raises InputError where the system refuses (disk full, folder read-only).
    """
    named = what if isinstance(what, dict) else {ALONE: what}
    tensors = {name: tensor.contiguous() for name, tensor in named.items()}
    try:
        with folders.replacing(path) as draft:
            save_file(tensors, draft, metadata={"sha256": _digest(tensors, path)})
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"The cache {path} could not be written: {error}. Make room on the disk, or set CUNET_DATA or "
            "the run to a folder that can be written, and start again."
        ) from error


def kept(path: Path) -> Tensor | dict[str, Tensor] | None:
    """What :func:`keep` wrote, a tensor or several; None if there is nothing or, with a warning, if it is
    damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            # copies: whoever writes into the file would change a tensor that is mapped from it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            written = file.metadata() or {}
        if _digest(tensors, path) == written.get("sha256"):
            return tensors[ALONE] if tensors.keys() == {ALONE} else tensors
        problem = "its content, its name or its folder's name is not the one that was hashed"
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        problem = str(error)
    warnings.warn(f"The cache {path} is damaged ({problem}) and is made again.", stacklevel=2)
    return None


def _digest(tensors: dict[str, Tensor], path: Path) -> str:
    """SHA-256 of the names of the file and its folder, which together say what is in it, and of the tensors'
    names, dtypes, shapes and bytes; without its name of one that is alone."""
    digest = hashlib.sha256("/".join(path.absolute().parts[-2:]).encode())
    for name, tensor in sorted(tensors.items()):
        named = () if name == ALONE else (name,)
        digest.update(repr((*named, str(tensor.dtype), tuple(tensor.shape))).encode())
        if tensor.numel():
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def exists(path: Path) -> bool:
    """Whether any part of a pair is at `path`, whole or damaged."""
    return path.exists() or path.with_suffix(".json").exists()


def remove(path: Path) -> None:
    """Delete a pair and whatever an interrupted :func:`write` left of it."""
    for file in (path, path.with_suffix(".json"), _pending(path)):
        file.unlink(missing_ok=True)
    clean(path)


def clean(path: Path) -> None:
    """Delete drafts of writers of this pair that were killed. The caller holds the output's lock."""
    for file in (path, _pending(path)):
        folders.clean(file)


def _pending(path: Path) -> Path:
    return path.parent / f".{path.stem}.json.pending"


def _settle(path: Path) -> None:
    """Finish a write that was killed between its two renames, before the next one reuses the pending name."""
    with contextlib.suppress(InputError):
        card = _read_card(_pending(path))
        if card["sha256"] == hashlib.sha256(_read_bytes(path)).hexdigest():
            os.replace(_pending(path), path.with_suffix(".json"))
            _sync_folder(path.parent)


def _replace(path: Path, data: bytes) -> None:
    with folders.replacing(path) as draft:
        draft.write_bytes(data)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _card_hash(card: dict[str, Any]) -> str:
    rest = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _card_bytes(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file {path}. A checkpoint is two files with one name, .safetensors and .json: "
            "check the path, or make it with `cunet train` (and delete the other half, if only one is left)."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Check what it is, and its permissions."
        ) from error


def _read_card(path: Path) -> dict[str, Any]:
    try:
        data = _read_bytes(path)
        card = json.loads(data.decode())
        intact = isinstance(card, dict) and card.get("card_sha256") == _card_hash(card)
        intact = intact and data == _card_bytes(card)  # not even 1e-5 written as 1E-5
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"The card {path} is damaged: it is no JSON ({error}). Restore it, or delete it and its weights."
        ) from error
    if not intact or not isinstance(card.get("sha256"), str):
        raise InputError(
            f"The card {path} was edited or damaged: its content does not give the card_sha256 that it "
            "should carry. Restore the original, or delete it and its weights and make them again."
        )
    return card


def _matching_card(path: Path) -> tuple[dict[str, Any], bytes]:
    """The card whose hash agrees with the bytes at `path`, and those bytes."""
    data = _read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    with contextlib.suppress(InputError):  # no pending card, or a damaged one: the usual case
        card = _read_card(_pending(path))
        if card["sha256"] == found:
            return card, data
    card = _read_card(path.with_suffix(".json"))
    if card["sha256"] != found:
        kind = (
            " It looks like a pickle or a zip file." if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else ""
        )
        raise InputError(
            f"{path} is damaged or was replaced: its SHA-256 is {found[:16]}..., its card says "
            f"{card['sha256'][:16]}... ({len(data)} bytes).{kind} It was not opened. Restore the file, or "
            "delete it and its card and make them again."
        )
    return card, data


def _refuse_nonfinite(tensors: dict[str, Tensor], path: Path, what: str) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(
                f"Numbers that are NaN or infinite {what} {path} (tensor {name!r}, {value.dtype}). Such "
                "weights give no images: use an earlier checkpoint, or train again at a lower learning rate."
            )
