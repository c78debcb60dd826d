"""The state of an unfinished training of `cunet.denoiser_training` on disk, as `cunet.resume` keeps that of
the diffusion networks: a pair of files with all that a step changes. Random numbers follow from the step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cunet import checkpoints, resume, storage
from cunet.errors import InputError

SECONDS = 60.0  # between two saved states


class State:
    """What a step changes, and where it is saved.

    Arguments:
        path: of the checkpoint that the training will write; the state is beside it.
        network, adam: trained, and its optimiser.
        about: what the training is of, JSON; a state of another is refused.

    Attributes:
        step: steps done.    curve, window: of the losses.    seconds: spent in the steps.
        good: steps done in the state on disk; None if there is none.
    """

    def __init__(self, path: Path, network: nn.Module, adam: torch.optim.Adam, about: dict[str, Any]):
        self.path, self.network, self.adam, self.about = resume.state_path(path), network, adam, about
        self.names = [name for name, _ in network.named_parameters()]
        self.step, self.seconds, self.good = 0, 0.0, None
        self.curve: list[list[float]] = []
        self.window: list[float] = []
        if storage.exists(self.path):
            self._restore()
        self.began = self.saved = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of all calls so far."""
        return self.seconds + time.monotonic() - self.began

    def save_if_due(self) -> None:
        """Write the state, atomically, `SECONDS` after the last time."""
        if time.monotonic() - self.saved >= SECONDS:
            self.save()

    def save(self) -> None:
        """Write the state, atomically."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, moments in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{self.names[index]}.{key}": value for key, value in moments.items()}
        card = dict(step=self.step, curve=self.curve, window=self.window, seconds=self.elapsed())
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        storage.write(self.path, whole, card | self.about)
        self.saved, self.good = time.monotonic(), self.step

    def _restore(self) -> None:
        """Go on from what was saved.

        Raises:
            InputError: the files are damaged, or of another training.
        """
        tensors, card = storage.read(self.path)
        other = [key for key, value in self.about.items() if card.get(key) != value]
        if other:
            raise InputError(
                f"{self.path} is the state of another training: its {' and '.join(other)} differ. Train into "
                "another folder or as another `--variant`, or delete the file and its .json to start again."
            )
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "adam": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        checkpoints.fill(self.network, parts["network"], self.path)
        resume.fill_adam(self.network, self.adam, self.names, parts["adam"])
        self.step = self.good = card["step"]
        self.seconds = card["seconds"]
        self.curve, self.window = card["curve"], card["window"]
