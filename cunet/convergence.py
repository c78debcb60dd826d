"""How converged are the ODE blocks of a network?

A network is trained with few steps of a solver a block: one or two of leapfrog as described, one of rk4 as
released. Whether its blocks then solve their equation, or are just the map that those steps happen to be, is
a question one can measure: take a block's equation and its starting state as they occur inside the network,
and solve again with other solvers and more steps. The error is given as a share of the distance travelled,

    share = |z - z*| / |z* - z(0)|,    z the state at s = 1,    z* the same, converged,

so a solver that does not move has error 1. Both kinds of block are known: the second-order ones of
`cunet.continuous`, z = [x, v], and the first-order ones of `cunet.released` and of the ablation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from .blocks import ODEBlock, ode_blocks
from .errors import InputError
from .ode import FIXED_STEP, solve
from .released import Block

REFERENCE_STEPS = 64  # of rk4, or nystrom4 where it applies: error about 1e-9 of what one step makes


class Equation(NamedTuple):
    """A block's equation with its starting state, as they stand inside a network.

    name: of the block. order: 2 for x'' = f(s, x, v), start (x0, v0); 1 for z' = f(s, z), start (z0,).
    solver, steps: what the network itself uses.
    """

    name: str
    order: int
    function: Callable[..., Tensor]
    start: tuple[Tensor, ...]
    solver: str
    steps: int

    def solve(self, solver: str, steps: int, end: float = 1.0) -> tuple[Tensor, int]:
        """The state at s = end, position and velocity stacked along the channels; and the evaluations made.

        Of dopri5, `steps` equal steps are made. Raises InputError for a solver that the order rules out.
        """
        with torch.no_grad():
            if self.order == 2:
                x, v, evaluations = solve(
                    self.function, *self.start, (0.0, end), steps, solver, tolerance=math.inf
                )
                return torch.cat((x, v), dim=1), evaluations
            if solver not in FIXED_STEP:
                raise InputError(
                    f"The block {self.name} is of first order and {solver!r} is not for it: choose one of "
                    f"{', '.join(FIXED_STEP)}."
                )
            calls = []
            times = torch.linspace(0, end, steps + 1, dtype=self.start[0].dtype)
            z = odeint(lambda s, z: calls.append(1) or self.function(s, z), *self.start, times, method=solver)
            return z[-1], len(calls)

    def converged(self) -> Tensor:
        """The state at s = 1 to all digits that matter here."""
        return self.solve("nystrom4" if self.order == 2 else "rk4", REFERENCE_STEPS)[0]

    def share(self, z: Tensor, reference: Tensor) -> float:
        """|z - reference| over the distance from the start to the reference."""
        start = torch.cat(self.start, dim=1)
        return ((z - reference).norm() / (reference - start).norm()).item()


def record(
    network: nn.Module, images: Tensor, timestep: int | Tensor, dtype: torch.dtype = torch.float64
) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """The ODE blocks of a copy of the network in `dtype`, and the arguments that network(images, timestep)
    calls each with.

    images: (B, C, H, W). Returns name -> (block, arguments), in the order of the calls. Raises InputError for
    a network without ODE blocks.
    """
    network = copy.deepcopy(network).to(dtype).eval()
    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda block, args, name=name: found.update({name: (block, args)}))
        for name, module in network.named_modules()
        if isinstance(module, ODEBlock | Block)
    ]
    with torch.no_grad():
        network(images.to(dtype), timestep)
    for hook in hooks:
        hook.remove()
    if not found:
        raise InputError(f"{type(network).__name__} has no ODE blocks: give a continuous U-Net.")
    return found


def equations(
    network: nn.Module, images: Tensor, timestep: int | Tensor, dtype: torch.dtype = torch.float64
) -> list[Equation]:
    """Every ODE block's equation and start, as `record` finds them."""
    with torch.no_grad():
        found = record(network, images, timestep, dtype)
        return [_equation(name, block, args) for name, (block, args) in found.items()]


def _equation(name: str, block: ODEBlock | Block, args: tuple[Tensor, ...]) -> Equation:
    if isinstance(block, Block):
        z, sinusoids = args
        if block.time is not None:
            z = z + block.time(sinusoids)[:, :, None, None]
        return Equation(name, 1, block.derivative, (z,), "rk4", 1)
    x, v, embedding = args
    modulation = block.acceleration.modulation(embedding)
    if block.acceleration.order == 2:
        force = lambda s, x, v: block.acceleration(s, x, v, modulation)  # noqa: E731
        return Equation(name, 2, force, (x, v), block.solver, block.steps)
    drive = lambda s, z: block.acceleration(s, *z.chunk(2, dim=1), modulation)  # noqa: E731
    return Equation(name, 1, drive, (torch.cat((x, v), dim=1),), block.solver, block.steps)


def errors(
    blocks: Iterable[Equation], solvers: Iterable[str], steps: Iterable[int] = (1, 2, 4, 8, 16)
) -> pd.DataFrame:
    """Error of every solver on every block: columns block, order, solver, steps, evaluations, share."""
    rows = []
    for block in blocks:
        reference = block.converged()
        for solver in solvers:
            for n in steps:
                z, evaluations = block.solve(solver, n)
                rows.append((block.name, block.order, solver, n, evaluations, block.share(z, reference)))
    return pd.DataFrame(rows, columns=["block", "order", "solver", "steps", "evaluations", "share"])


def needed(frame: pd.DataFrame, share: float = 0.01, of: str = "evaluations") -> pd.Series:
    """How many evaluations (or steps) bring the error down to `share`, by block and solver.

    Read off the line through the two neighbouring points on two logarithms, from the last crossing on, so
    the answer need not be whole; beyond the last point it follows the last two. Infinite where the error does
    not fall.

    Raises InputError for a frame without rows.
    """
    if not len(frame):
        raise InputError("No error was measured, so what brings it down cannot be said: give a row or more.")

    def crossing(line: pd.DataFrame) -> float:
        line = line.sort_values(of)
        x, y = [torch.tensor(line[c].to_numpy(), dtype=torch.float64).log() for c in (of, "share")]
        above = (y > math.log(share)).nonzero().flatten()
        if not len(above):
            return float(x[0].exp())
        i = min(int(above[-1]), len(x) - 2)
        slope = (y[i + 1] - y[i]) / (x[i + 1] - x[i])
        return float((x[i] + (math.log(share) - y[i]) / slope).exp()) if slope < 0 else math.inf

    return frame.groupby(["block", "solver"], sort=False)[["evaluations", "steps", "share"]].apply(crossing)


def with_solver(network: nn.Module, solver: str, steps: int, gradient: str = "direct") -> nn.Module:
    """A copy of a continuous U-Net (as described) with the same weights whose blocks are solved so.

    Raises InputError for a network without such blocks, or as `cunet.blocks.ODEBlock.solve_with`.
    """
    network = copy.deepcopy(network)
    blocks = ode_blocks(network)
    if not blocks:
        raise InputError(f"{type(network).__name__} has no blocks with a choice of solver.")
    for block in blocks:
        block.solve_with(solver, steps, gradient)
    return network
