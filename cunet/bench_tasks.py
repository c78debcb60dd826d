"""What `cunet bench` times: a call, a denoising step, a training step; and the modes that it runs them in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import sampling
from .diffusion import Diffusion
from .errors import InputError
from .running import Running
from .samplers import trailing_timesteps

BASES, OPTIONS = ("eager", "compiled"), ("channels_last", "bf16")
DDIM_STEPS = 50  # of the chain whose single steps are timed


class Mode(NamedTuple):
    """How a network is run."""

    compiled: bool
    channels_last: bool
    bf16: bool


def mode(text: str) -> Mode:
    """ "compiled+channels_last" -> Mode. Raises InputError for what is not known."""
    base, *options = text.split("+")
    if base not in BASES or not set(options) <= set(OPTIONS):
        raise InputError(
            f"Unknown mode {text!r}: expected {' or '.join(BASES)}, followed by any of "
            f"{', '.join('+' + option for option in OPTIONS)}, as in 'compiled+channels_last'."
        )
    return Mode(base == "compiled", "channels_last" in options, "bf16" in options)


def forward_task(call: Callable, images: Tensor, model: nn.Module) -> Callable[[], None]:
    """One call of the network."""
    t = torch.full((len(images),), 500)

    def run() -> None:
        with torch.no_grad():
            call(images, t)

    return run


def step_task(call: Callable, images: Tensor, model: nn.Module) -> Callable[[], None]:
    """One step of DDIM, the next of an endless row of chains, exactly as `sampling.sample` does it."""
    diffusion = Diffusion()
    timesteps = trailing_timesteps(diffusion, DDIM_STEPS)

    def endless() -> Iterator[sampling.Step]:
        for _ in itertools.count():
            yield from sampling.walk(call, images, diffusion, timesteps, "ddim")

    steps = endless()
    return lambda: next(steps)


def training_task(call: Callable, images: Tensor, model: nn.Module) -> Callable[[], None]:
    """Forward, backward and Adam's update on a batch in memory, each image at its own diffusion step."""
    diffusion, optimizer = Diffusion(), torch.optim.Adam(model.train().parameters())
    t = torch.linspace(0, diffusion.timesteps - 1, len(images)).long()
    noise = torch.randn_like(images)

    def run() -> None:
        optimizer.zero_grad()
        diffusion.loss(call, images, t, noise).mean().backward()
        optimizer.step()

    return run


RUNNERS = {"forward": forward_task, "step": step_task, "training": training_task}


def callable_in(model: nn.Module, how: Mode) -> Callable[[Tensor, Tensor], Tensor]:
    """The network as a function of (sample, timestep), run the way `how` says; as it is in eager mode."""
    call = torch.compile(model, dynamic=False) if how.compiled else model
    return Running(call, how.bf16, how.channels_last) if how.bf16 or how.channels_last else call
