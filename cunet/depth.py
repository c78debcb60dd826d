"""How many solver steps the ODE blocks take, chosen for a while.

Blocks may have numbers of steps of their own, so depth is counted in multiples of them: at depth 2 every
block takes twice its own steps. `cunet.models.RandomDepth` is trained with a depth drawn at every call.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from torch import nn

from .blocks import ode_blocks
from .errors import InputError


@contextlib.contextmanager
def solved_with(
    network: nn.Module, steps: int | None = None, solver: str | None = None, depth: float = 1.0
) -> Iterator[None]:
    """Within, all ODE blocks of the network are solved so; after, as before.

    steps: of every block, 1 or more; None for each block's own times `depth`, rounded up. solver: None for
    the blocks' own. Raises InputError for steps that are no whole number above 0, a depth that is not above
    0, a network without ODE blocks whose steps can be chosen, or a solver that its blocks do not take.
    """
    chosen = ode_blocks(network)
    if not chosen:
        raise InputError(f"{type(network).__name__} has no ODE blocks whose steps could be chosen.")
    if not depth > 0:
        raise InputError(
            f"depth={depth!r}: give a multiple of the blocks' own steps above 0, such as 0.5 or 2."
        )
    before = [(block.solver, block.steps) for block in chosen]
    try:
        for block in chosen:
            own = math.ceil(depth * block.steps) if steps is None else steps
            block.solve_with(solver or block.solver, own)
        yield
    finally:
        for block, own in zip(chosen, before, strict=True):
            block.solve_with(*own)
