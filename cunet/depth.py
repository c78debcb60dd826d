"""How many solver steps the ODE blocks take, chosen for a while.

Blocks may have numbers of steps of their own, so depth is counted in multiples of them: at depth 2 every
block takes twice its own steps. `cunet.models.RandomDepth` is trained with a depth drawn at every call.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from torch import nn

from .blocks import ODEBlock
from .errors import InputError


@contextlib.contextmanager
def solved_with(
    network: nn.Module, steps: int | None = None, solver: str | None = None, depth: float = 1.0
) -> Iterator[None]:
    """Within, all ODE blocks of the network are solved so; after, as before.

    steps: of every block, 1 or more; None for each block's own times `depth`, rounded up. solver: None for
    the blocks' own. Raises InputError for steps that are no whole number above 0, a depth that is not above
    0, or a network without ODE blocks whose steps can be chosen.
    """
    chosen = [module for module in network.modules() if isinstance(module, ODEBlock)]
    if not chosen:
        raise InputError(f"{type(network).__name__} has no ODE blocks whose steps could be chosen.")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"steps={steps!r}: give a whole number of solver steps, 1 or more, or None.")
    if not depth > 0:
        raise InputError(
            f"depth={depth!r}: give a multiple of the blocks' own steps above 0, such as 0.5 or 2."
        )
    before = [(block.steps, block.solver) for block in chosen]
    try:
        for block in chosen:
            block.steps = math.ceil(depth * block.steps) if steps is None else steps
            block.solver = solver or block.solver
        yield
    finally:
        for block, (steps, solver) in zip(chosen, before, strict=True):
            block.steps, block.solver = steps, solver
