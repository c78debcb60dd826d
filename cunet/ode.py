"""Solving the second-order equation x'' = f(s, x, x') of an ODE block (equation 4 of the paper).

The state is position x and velocity v, the equation the pair

    dx/ds = v,    dv/ds = f(s, x, v),    x(s0) = x0,  v(s0) = v0.

Written so, dx/ds is the velocity and nothing else: that is what makes the system second order. First-order
solvers of torchdiffeq integrate the stacked state [x, v]; `leapfrog` uses the structure and needs one
evaluation of f a step.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .errors import InputError

Acceleration = Callable[[float, Tensor, Tensor], Tensor]
FIXED_STEP = ("euler", "midpoint", "rk4")
ADAPTIVE = ("dopri5",)
SOLVERS = ("leapfrog",) + FIXED_STEP + ADAPTIVE
GRADIENTS = ("direct", "checkpoint")


class Solution(NamedTuple):
    """Position and velocity at the end of the span, and how often the acceleration was evaluated."""

    x: Tensor
    v: Tensor
    evaluations: int


def solve(
    acceleration: Acceleration,
    x0: Tensor,
    v0: Tensor,
    span: tuple[float, float] = (0.0, 1.0),
    steps: int = 4,
    solver: str = "leapfrog",
    gradient: str = "direct",
) -> Solution:
    """Integrate x'' = acceleration(s, x, x') from span[0] to span[1]."""
    _check(x0, v0, steps, solver, gradient)
    evaluate, count = _counted(acceleration, gradient)
    if solver == "leapfrog":
        x, v = leapfrog(evaluate, x0, v0, span, steps)
    else:
        x, v = _torchdiffeq(evaluate, x0, v0, span, steps, solver)
    return Solution(x, v, count[0])


def leapfrog(acceleration: Acceleration, x: Tensor, v: Tensor, span, steps: int) -> tuple[Tensor, Tensor]:
    """Drift, kick, drift (Stormer-Verlet), one evaluation a step, order 2.

    A force that depends on velocity is evaluated at the velocity extrapolated to the half step with the last
    acceleration, v + (h/2) a. The first step has no last acceleration and uses v0: its local error is
    O(h^2), and happens once, so the global order stays 2. Where the force does not depend on velocity this
    is position Verlet to the letter.
    """
    h = (span[1] - span[0]) / steps
    v_half = v
    x = torch.add(x, v, alpha=h / 2)
    for n in range(steps):
        a = acceleration(span[0] + (n + 0.5) * h, x, v_half)
        v = torch.add(v, a, alpha=h)
        v_half = torch.add(v, a, alpha=h / 2)
        x = torch.add(x, v, alpha=h if n + 1 < steps else h / 2)
    return x, v


def _torchdiffeq(acceleration, x0, v0, span, steps, solver):
    from torchdiffeq import odeint

    times = torch.linspace(span[0], span[1], steps + 1, device=x0.device, dtype=torch.float64)
    if solver in ADAPTIVE:
        times = times[[0, -1]]
    x, v = odeint(lambda s, y: (y[1], acceleration(s, *y)), (x0, v0), times.to(x0.dtype), method=solver)
    return x[-1], v[-1]


def _counted(acceleration: Acceleration, gradient: str):
    count = [0]

    def evaluate(s, x, v):
        count[0] += 1
        if gradient == "checkpoint" and torch.is_grad_enabled():
            return checkpoint(acceleration, s, x, v, use_reentrant=False, preserve_rng_state=False)
        return acceleration(s, x, v)

    return evaluate, count


def _check(x0, v0, steps, solver, gradient):
    for what, value, known in (("solver", solver, SOLVERS), ("gradient", gradient, GRADIENTS)):
        if value not in known:
            near = get_close_matches(str(value), known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"Unknown {what} {value!r}: expected one of {', '.join(known)}.{hint}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: the number of solver steps is a whole number from 1 up.")
    if x0.shape != v0.shape:
        raise InputError(
            f"Position {tuple(x0.shape)} and velocity {tuple(v0.shape)} differ in shape: give both the same."
        )
