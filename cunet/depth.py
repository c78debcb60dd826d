"""How many solver steps the ODE blocks take: chosen for a while, or drawn anew at every training step.

A network trained with two steps may have learned an ODE, or a residual network of two layers that happens to
be written as one: more steps then make it worse (notebook 11). `RandomDepth` is trained with another number
of steps at every call, so that only what does not depend on that number, the ODE, can lower its loss.

Blocks may have numbers of steps of their own, so depth is counted in multiples of them: at depth 2 every
block takes twice its own steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .blocks import ODEBlock
from .continuous import ContinuousUNet
from .errors import InputError


@contextlib.contextmanager
def solved_with(
    network: nn.Module, steps: int | None = None, solver: str | None = None, depth: float = 1.0
) -> Iterator[None]:
    """Within, all ODE blocks of the network are solved so; after, as before.

    steps: of every block; None for each block's own times `depth`, rounded up. solver: None for the blocks'
    own. Raises InputError for a depth that is not above 0, or a network without ODE blocks whose steps can be
    chosen.
    """
    chosen = [module for module in network.modules() if isinstance(module, ODEBlock)]
    if not chosen:
        raise InputError(f"{type(network).__name__} has no ODE blocks whose steps could be chosen.")
    if not depth > 0:
        raise InputError(
            f"depth={depth!r}: give a multiple of the blocks' own steps above 0, such as 0.5 or 2."
        )
    before = [(block.steps, block.solver) for block in chosen]
    try:
        for block in chosen:
            block.steps = steps or math.ceil(depth * block.steps)
            block.solver = solver or block.solver
        yield
    finally:
        for block, (steps, solver) in zip(chosen, before, strict=True):
            block.steps, block.solver = steps, solver


class RandomDepth(ContinuousUNet):
    """A continuous U-Net whose training calls multiply all blocks' steps by a whole number drawn at random.

    depths: the least and the largest such number. It is drawn from torch's own generator, which
    `cunet.training` seeds by (seed, step): a resumed training draws what an undisturbed one would have. In
    eval mode blocks take their own steps. The other keywords are those of `ContinuousUNet`.

    Raises InputError for a range that is empty or begins below 1.
    """

    def __init__(self, *arguments, depths: tuple[int, int] = (1, 3), **options):
        low, high = depths
        if not 1 <= low <= high:
            raise InputError(
                f"depths={depths!r}: give the least multiple of the steps, 1 or more, and the most."
            )
        super().__init__(*arguments, **options)
        self.depths = (low, high)

    def forward(self, sample: Tensor, timestep: int | Tensor, *ignored) -> Tensor:
        """As `ContinuousUNet.forward`."""
        if not self.training:
            return super().forward(sample, timestep)
        low, high = self.depths
        with solved_with(self, depth=int(torch.randint(low, high + 1, ()))):
            return super().forward(sample, timestep)
