"""The state of an unfinished training on disk: what is in it, and when it may be gone on from.

The state is a pair of files (`cunet.storage`), `<name>.state.safetensors` with everything that a step changes
(weights, their average, Adam's moments) and `<name>.state.json` with the counters, curves and settings, and
the scale of the loss where the precision is 16-mixed. Random states are not in it: they follow from the step
(`cunet.batches`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cunet import checkpoints, processes, storage
from cunet.errors import InputError
from cunet.provenance import environment, training_code
from cunet.recipe import TrainConfig

if TYPE_CHECKING:
    from cunet.training import Training

COPIES = 9
"""Of the weights, on the disk of a training: two states of 4 (the old stays until the new is there; weights,
their average, Adam's two moments), and the checkpoint."""


def state_path(path: Path) -> Path:
    """Where the state of the training that will write the checkpoint `path` is."""
    return path.with_name(f"{path.stem}.state.safetensors")


def lock(path: Path) -> contextlib.AbstractContextManager:
    """The one lock of the checkpoint `path`, `.<name>.lock` beside it; the system drops it when we die.

    Raises:
        InputError: another process holds it, or the folder cannot be made or written to.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be made: {error.strerror}. Choose another.") from error
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"The folder {folder} cannot be written to. Change its permissions, or choose another."
        )
    return processes.locked(folder / f".{path.stem}.lock", f"The checkpoint {path}")


@contextlib.contextmanager
def claimed(config: TrainConfig, path: Path, renew: bool) -> Iterator[None]:
    """Hold the lock of the checkpoint `path`, without what a killed owner left of half-written files.

    renew: move what other code has trained there to aside/, see :func:`set_aside`.

    Raises:
        InputError: as :func:`lock` and :func:`set_aside`.
    """
    with lock(path):
        storage.clean(path)
        storage.clean(state_path(path))
        if renew:
            set_aside(config, path)
        yield


def save(training: Training) -> None:
    """Write the state of `training`, atomically."""
    state = {key: getattr(owner, key) for key, owner in _counters(training).items()}
    state |= {"code": training_code(), "config": training.config.model_dump()}
    state |= {"data": [training.data.sha256, training.test.sha256]}
    state |= {"precision": training.fabric.strategy.precision.state_dict()}  # the scale of 16-mixed
    tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(training).items()}
    storage.write(state_path(training.path), tensors, {**environment(), **state})


def restore(training: Training) -> None:
    """Put `training` where the saved state was.

    Raises:
        InputError: the files are damaged, or of other settings, images or code.
    """
    path = state_path(training.path)
    tensors, state = storage.read(path)
    _refuse_foreign(training, state, path)
    if state["threads"] != torch.get_num_threads():
        warnings.warn(
            f"{path} was trained on {state['threads']} threads and goes on with {torch.get_num_threads()}: "
            "the last bits can differ from those of an undisturbed training.",
            stacklevel=4,  # where `train` was called
        )
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "adam": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    checkpoints.fill(training.network, parts["network"], path)
    checkpoints.fill(training.ema, parts["ema"], path)
    fill_adam(training.network, training.adam, training.names, parts["adam"])
    if state.get("precision"):
        training.fabric.strategy.precision.load_state_dict(state["precision"])
    for key, owner in _counters(training).items():
        setattr(owner, key, state[key])
    training.last_save = (training.step, time.monotonic())


def refuse_other(config: TrainConfig, saved: dict[str, Any], path: Path, code: str | None = None) -> None:
    """Raise InputError, naming the settings, if the file `path` was trained with others than `config`'s.

    code: what `training_code` gave when it was trained, if known; InputError if it gives another now.
    """
    changes = config.changes(saved)
    if changes:
        raise InputError(
            f"{path} was trained with other settings: {changes}. Go on with the old settings, train into "
            "another folder or as another `variant`, or delete the file and its .json to start again."
        )
    if code not in (None, training_code()):
        raise InputError(
            f"{path} was trained by other code: a module that decides what a training computes has changed "
            "since. Train into another folder or as another `variant`, go back to the old code, or move the "
            "file and its .json away to start again."
        )


def set_aside(config: TrainConfig, path: Path) -> None:
    """Move checkpoint and state of the training `path` to aside/ beside them if other code made them.

    Raises:
        InputError: as :func:`refuse_other` for other settings; damaged files.
    """
    for old, settings in ((path, "recipe"), (state_path(path), "config")):
        if not storage.exists(old):
            continue
        card = storage.read(old)[1]
        refuse_other(config, card.get(settings, {}), old)
        if card.get("code") not in (None, training_code()):
            move_aside(old, card)


def move_aside(old: Path, card: dict[str, Any]) -> None:
    """Move a pair, whose card is `card`, to aside/, because other code has trained it; says so."""
    (old.parent / "aside").mkdir(exist_ok=True)
    for file in (old, old.with_suffix(".json")):
        number = f"{card['code'][:8]}-{card['card_sha256'][:8]}"
        os.replace(file, old.parent / "aside" / f"{old.stem}-{number}{file.suffix}")
    print(f"{old.name} was trained by other code: it is in aside/ now, and is trained again.")


def check_disk(training: Training) -> None:
    """Raise InputError if the disk has no room for a training's files (`COPIES`)."""
    folder, weights = training.path.parent, sum(p.nbytes for p in training.current)
    free, needed = shutil.disk_usage(folder).free, COPIES * weights
    if free < needed:
        raise InputError(
            f"The disk of {folder} has {free / 2**20:.1f} MiB free, but training {training.config.name} "
            f"needs {needed / 2**20:.1f} MiB for its state and checkpoint. Make room, or choose "
            "another folder."
        )


def _counters(training: Training) -> dict[str, Any]:
    """The numbers of a training that go into the JSON, by name, each with the object that has it."""
    curve = training.progress
    return dict(step=training, elapsed=training, loss_curve=curve, validation=training, window=curve)


def _tensors(training: Training) -> dict[str, Tensor]:
    """Everything that a step changes, by name."""
    out = {f"network.{name}": value for name, value in training.network.state_dict().items()}
    out |= {f"ema.{name}": value for name, value in training.ema.state_dict().items()}
    for index, moments in training.adam.state_dict()["state"].items():
        out |= {f"adam.{training.names[index]}.{key}": value for key, value in moments.items()}
    return out


def _refuse_foreign(training: Training, state: dict[str, Any], path: Path) -> None:
    """Raise InputError if the state at `path` is of other settings, code or images than the training's."""
    refuse_other(training.config, state.get("config", {}), path, state.get("code"))
    if state["data"] != [training.data.sha256, training.test.sha256]:
        raise InputError(
            f"The images of {training.config.dataset} are not those that {path} was trained on (their "
            "SHA-256 differs). Restore the data set, or delete the state (and its .json) to start again."
        )


def fill_adam(
    network: nn.Module, adam: torch.optim.Adam, names: list[str], tensors: dict[str, Tensor]
) -> None:
    """Give an optimiser its moments back.

    names: of the network's parameters that it moves, in its order.
    tensors: named `<parameter>.<key of Adam's state>`.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    weights = dict(network.named_parameters())
    for name, value in tensors.items():
        parameter, _, key = name.rpartition(".")
        if value.shape == weights[parameter].shape:  # the fused Adam pairs values by their place in memory
            value = torch.empty_like(weights[parameter], dtype=value.dtype).copy_(value)
        moments.setdefault(names.index(parameter), {})[key] = value
    groups = adam.state_dict()["param_groups"]
    adam.load_state_dict({"state": moments, "param_groups": groups})
