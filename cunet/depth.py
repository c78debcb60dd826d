"""How many solver steps the ODE blocks take: chosen for a while, or drawn anew at every training step.

A network trained with two steps may have learned an ODE, or a residual network of two layers that happens to
be written as one: more steps then make it worse (notebook 11). `RandomSteps` is trained with another number
of steps at every call, so that only what does not depend on that number, the ODE, can lower its loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .blocks import ODEBlock
from .continuous import ContinuousUNet
from .errors import InputError


@contextlib.contextmanager
def solved_with(network: nn.Module, steps: int | None = None, solver: str | None = None) -> Iterator[None]:
    """Within, all ODE blocks of the network take `steps` steps of `solver`; after, what they took before.

    None leaves steps or solver as they are. Raises InputError for a network without ODE blocks whose steps
    can be chosen.
    """
    chosen = [module for module in network.modules() if isinstance(module, ODEBlock)]
    if not chosen:
        raise InputError(f"{type(network).__name__} has no ODE blocks whose steps could be chosen.")
    before = [(block.steps, block.solver) for block in chosen]
    try:
        for block in chosen:
            block.steps, block.solver = steps or block.steps, solver or block.solver
        yield
    finally:
        for block, (steps, solver) in zip(chosen, before, strict=True):
            block.steps, block.solver = steps, solver


class RandomSteps(ContinuousUNet):
    """A continuous U-Net whose training calls take random_steps[0] ... random_steps[1] steps in all blocks.

    The number is drawn from torch's own generator, which `cunet.training` seeds by (seed, step): a resumed
    training draws what an undisturbed one would have. In eval mode it takes `steps`. The other keywords are
    those of `ContinuousUNet`. Raises InputError for a range that is empty or begins below 1.
    """

    def __init__(self, *arguments, random_steps: tuple[int, int] = (1, 4), **options):
        low, high = random_steps
        if not 1 <= low <= high:
            raise InputError(
                f"random_steps={random_steps!r}: give the fewest, 1 or more, and the most steps."
            )
        super().__init__(*arguments, **options)
        self.random_steps = (low, high)

    def forward(self, sample: Tensor, timestep: int | Tensor, *ignored) -> Tensor:
        """As `ContinuousUNet.forward`."""
        if not self.training:
            return super().forward(sample, timestep)
        low, high = self.random_steps
        with solved_with(self, int(torch.randint(low, high + 1, ()))):
            return super().forward(sample, timestep)
