"""Solving the second-order equation x'' = f(s, x, x') of an ODE block (equation 4 of the paper).

The state is position x and velocity v, the equation the pair

    dx/ds = v,    dv/ds = f(s, x, v),    x(s0) = x0,  v(s0) = v0.

Written so, dx/ds is the velocity and nothing else: that is what makes the system second order.

Solvers, h being the step:

    name                  order  evaluations of f a step
    leapfrog              2      1   drift, kick, drift; uses the structure (Stormer, Verlet)
    reversible_leapfrog   2      1   the same with a second velocity, and can be run backwards exactly
    nystrom4              4      4   Runge-Kutta-Nystrom for f(s, x, v)
    euler                 1      1   torchdiffeq's, on the stacked first-order state [x, v], as are
    midpoint              2      2   those that follow
    rk4                   4      4   Kutta's 3/8 rule
    dopri5                5      6   adaptive

Gradients of a function of the final state, with respect to x0, v0 and everything f depends on:

    direct       autograd through the steps. Exact; keeps the activations of every evaluation.
    checkpoint   keeps the states, evaluates f again on the way back. Exact.
    reversible   keeps the final state only, recovers the earlier ones by running the solver backwards.
                 Exact up to rounding; reversible_leapfrog only.
    adjoint      keeps the final state only, solves the adjoint equation backwards (Chen et al. 2018; section
                 3.3 of the paper) with the same torchdiffeq solver. Right up to the solver's error.

Orders and gradients are measured in notebooks 01 and 02.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .errors import InputError
from .outside import Outside

Acceleration = Callable[[float | Tensor, Tensor, Tensor], Tensor]
FIXED_STEP = ("euler", "midpoint", "rk4")
ADAPTIVE = ("dopri5",)
SOLVERS = ("leapfrog", "reversible_leapfrog", "nystrom4") + FIXED_STEP + ADAPTIVE
ORDER = dict(leapfrog=2, reversible_leapfrog=2, nystrom4=4, euler=1, midpoint=2, rk4=4, dopri5=5)
GRADIENTS = ("direct", "checkpoint", "reversible", "adjoint")


class Solution(NamedTuple):
    """Position and velocity at the end of the span, and how often f was evaluated to get there."""

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
    tolerance: float | None = None,
) -> Solution:
    """Integrate x'' = f(s, x, x') from span[0] to span[1] (equation 4).

    acceleration: f(s, x, v) -> tensor like x; s is a float or a 0-d tensor. It must give the same answer when
        it is called again with the same arguments (no dropout) unless gradient="direct".
    x0, v0: position and velocity at span[0]; one shape and one floating dtype.
    steps: number of equal steps, from 1 up. dopri5 chooses its own steps and ignores it.
    solver: one of SOLVERS. gradient: one of GRADIENTS; both are described at the head of the module.
    tolerance: dopri5 only: relative and absolute tolerance; None is 1e-9 in float64 and 1e-5 below. With
        math.inf no step is refused, and dopri5 takes `steps` equal steps.

    Returns x, v at span[1] and the number of evaluations that the forward pass made.
    Raises InputError for an unknown name, steps below 1, an empty span, or tensors that do not match.
    """
    _check(x0, v0, span, steps, solver, gradient, tolerance)
    if not torch.is_grad_enabled():
        gradient = "direct"
    f = _Counted(acceleration, recompute=gradient == "checkpoint")
    if gradient == "reversible":
        x, v = _reversible_gradient(f, x0, v0, span, steps)
    elif gradient == "adjoint":
        x, v = _adjoint_gradient(f, x0, v0, span, steps, solver, tolerance)
    elif solver in _OWN:
        x, v = _OWN[solver](f, x0, v0, span, steps)
    else:
        x, v = _torchdiffeq(f, x0, v0, span, steps, solver, tolerance)
    return Solution(x, v, f.calls)


# ---------------------------------------------------------------------------------------------- solvers


def leapfrog(f: Acceleration, x: Tensor, v: Tensor, span, steps: int) -> tuple[Tensor, Tensor]:
    """Drift, kick, drift (Stormer-Verlet), one evaluation a step, order 2.

    x_half = x_n + h/2 v_n;   a_n = f(s_n + h/2, x_half, v_n + h/2 a_{n-1});
    v_{n+1} = v_n + h a_n;    x_{n+1} = x_half + h/2 v_{n+1}.

    The velocity handed to f is extrapolated to the half step with the last acceleration, or a force that
    depends on velocity would make the scheme first order. The first step has no last acceleration and uses
    v_0: its local error is O(h^2), and happens once, so the global order stays 2. Where the force does not
    depend on velocity this is position Verlet to the letter. Two drifts that meet are made in one addition.
    """
    h = (span[1] - span[0]) / steps
    v_half = v
    x = torch.add(x, v, alpha=h / 2)
    for n in range(steps):
        a = f(span[0] + (n + 0.5) * h, x, v_half)
        v = torch.add(v, a, alpha=h)
        last = n + 1 == steps
        v_half = v if last else torch.add(v, a, alpha=h / 2)
        x = torch.add(x, v, alpha=h / 2 if last else h)
    return x, v


def reversible_leapfrog(f: Acceleration, x: Tensor, v: Tensor, span, steps: int) -> tuple[Tensor, Tensor]:
    """Leapfrog that stays reversible when the force depends on velocity; one evaluation a step, order 2.

    A second velocity w lives at the half steps and is carried over the first by reflection:

        x_half = x_n + h/2 v_n;   a_n = f(s_n + h/2, x_half, w_n);
        v_{n+1} = v_n + h a_n;    x_{n+1} = x_half + h/2 v_{n+1};    w_{n+1} = 2 v_{n+1} - w_n,    w_0 = v_0.

    Every line can be solved for what stands on its right (compare the asynchronous leapfrog of Mutze 2013).
    The price is stability: with friction c, w - v grows like exp(c s) and changes sign every step, so keep
    c times the span small.
    """
    return _reversible_steps(f, x, v, span, steps)[:2]


def _reversible_steps(f, x, v, span, steps):
    h = (span[1] - span[0]) / steps
    w = v
    x = torch.add(x, v, alpha=h / 2)
    for n in range(steps):
        v = torch.add(v, f(span[0] + (n + 0.5) * h, x, w), alpha=h)
        if n + 1 < steps:
            w = torch.sub(2 * v, w)
        x = torch.add(x, v, alpha=h if n + 1 < steps else h / 2)
    return x, v, w


def nystrom4(f: Acceleration, x: Tensor, v: Tensor, span, steps: int) -> tuple[Tensor, Tensor]:
    """Runge-Kutta-Nystrom of order 4 for f(s, x, v); four evaluations a step.

    k1 = f(s, x, v);                                    k2 = f(s + h/2, x + h/2 v + h^2/8 k1, v + h/2 k1);
    k3 = f(s + h/2, x + h/2 v + h^2/8 k1, v + h/2 k2);  k4 = f(s + h, x + h v + h^2/2 k3, v + h k3);
    x' = x + h v + h^2/6 (k1 + k2 + k3);                v' = v + h/6 (k1 + 2 k2 + 2 k3 + k4).

    Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.14.
    """
    h = (span[1] - span[0]) / steps
    for n in range(steps):
        s = span[0] + n * h
        k1 = f(s, x, v)
        middle = x + h / 2 * v + h**2 / 8 * k1
        k2 = f(s + h / 2, middle, v + h / 2 * k1)
        k3 = f(s + h / 2, middle, v + h / 2 * k2)
        k4 = f(s + h, x + h * v + h**2 / 2 * k3, v + h * k3)
        x = x + h * v + h**2 / 6 * (k1 + k2 + k3)
        v = v + h / 6 * (k1 + 2 * (k2 + k3) + k4)
    return x, v


_OWN = {"leapfrog": leapfrog, "reversible_leapfrog": reversible_leapfrog, "nystrom4": nystrom4}


def _torchdiffeq(f, x0, v0, span, steps, solver, tolerance, integrate=None, **options):
    """The pair as a first-order system of torchdiffeq, of which only the end points are kept."""
    from torchdiffeq import odeint

    ends = torch.tensor(span, dtype=torch.float64, device=x0.device)
    if solver not in ADAPTIVE:
        # The grid is built inside, so that the solution at the grid's points is not kept.
        how = dict(options=dict(grid_constructor=lambda f, y, t: _grid(t, steps)))
        ends = ends.to(x0.dtype)
    elif tolerance == math.inf:
        # An infinite tolerance accepts every step and doubles the next, which step_t then cuts at the grid.
        first = 2 * abs(span[1] - span[0]) / steps
        how = dict(options=dict(first_step=first, ifactor=2.0, step_t=_grid(ends, steps)))
        how.update(rtol=math.inf, atol=math.inf)
    else:
        # Without step_t the last step would reach beyond the end, where f may not be defined.
        tolerance = (1e-9 if x0.dtype == torch.float64 else 1e-5) if tolerance is None else tolerance
        how = dict(rtol=tolerance, atol=tolerance, options=dict(step_t=ends))
    x, v = (integrate or odeint)(
        lambda s, y: (y[1], f(s, *y)), (x0, v0), ends, method=solver, **how, **options
    )
    return x[-1], v[-1]


def _grid(ends: Tensor, steps: int) -> Tensor:
    grid = torch.linspace(ends[0].item(), ends[-1].item(), steps + 1, dtype=torch.float64, device=ends.device)
    return grid.to(ends.dtype)


# -------------------------------------------------------------------------------------------- gradients


class _Counted:
    """f, with its calls counted and the shape of its answer checked; recompute=True checkpoints each call."""

    def __init__(self, acceleration: Acceleration, recompute: bool = False):
        self.acceleration, self.recompute, self.calls = acceleration, recompute, 0

    def __call__(self, s, x, v):
        self.calls += 1
        if self.recompute:
            a = checkpoint(self.acceleration, s, x, v, use_reentrant=False, preserve_rng_state=False)
        else:
            a = self.acceleration(s, x, v)
        if a.shape != x.shape:
            raise InputError(
                f"The acceleration returned shape {tuple(a.shape)} for a position of shape {tuple(x.shape)}: "
                f"it has to give one number for every number of the position."
            )
        return a


def _adjoint_gradient(f, x0, v0, span, steps, solver, tolerance):
    """torchdiffeq's continuous adjoint of the first-order system d[x, v]/ds = [v, f].

    The search for parameters costs no evaluation: its answer is the solver's first, f(s0, x0, v0).
    """
    from torchdiffeq import odeint_adjoint

    outside = Outside()
    start = torch.tensor(span[0], dtype=x0.dtype, device=x0.device)
    first = [outside.search(f, start, x0, v0)]
    f = outside.wrap(f, x0.device.type)
    options = dict(adjoint_params=tuple(outside.views.values()))
    if solver in ADAPTIVE and tolerance != math.inf:
        # The integral for the parameters does not feed back, so its error need not steer the steps
        # (Kidger et al. 2021, "Hey, that's not an ODE").
        # Steps must end at the span's ends, and torchdiffeq's own first step would look beyond them. Where
        # time runs down it has turned its sign by then, but not that of these options.
        ends = torch.tensor(span, dtype=torch.float64, device=x0.device)
        ends = ends if span[1] > span[0] else -ends
        eighth = abs(span[1] - span[0]) / 8
        options["adjoint_options"] = dict(norm="seminorm", step_t=ends, first_step=eighth)

    def evaluate(s, x, v):
        return first.pop() if first else f(s, x, v)

    return _torchdiffeq(evaluate, x0, v0, span, steps, solver, tolerance, odeint_adjoint, **options)


def _reversible_gradient(f, x0, v0, span, steps):
    outside = Outside()

    def evaluate(s, x, v):
        return outside.search(f, s, x, v) if outside.searching else f(s, x, v)

    with torch.no_grad():
        final = _reversible_steps(evaluate, x0, v0, span, steps)
    f = outside.wrap(f.acceleration, x0.device.type)
    return _Reverse.apply(f, span, steps, final, x0, v0, *outside.views.values())


class _Reverse(torch.autograd.Function):
    """Hands on the final state of reversible_leapfrog; backwards, it runs the solver in reverse.

    With X_n the position at the half step, the solver is X_0 = x_0 + h/2 v_0, w_0 = v_0 and

        v_{n+1} = v_n + h f(X_n, w_n),    X_{n+1} = X_n + h v_{n+1},    w_{n+1} = 2 v_{n+1} - w_n,

    and its transpose, one evaluation of f and one vector-Jacobian product a step, with p, q, r the gradients
    with respect to X, v, w:

        p += h q df/dX,   r += h q df/dw,   g += h q df/dtheta      at (X_n, w_n);
        q += h p + 2 r,   r = -r                                    at n > 0.
    """

    @staticmethod
    def forward(ctx, f, span, steps, final, x0, v0, *outside):
        x, v, w = final
        ctx.f, ctx.span, ctx.steps = f, span, steps
        ctx.save_for_backward(x, v, w, *outside)
        return x, v

    @staticmethod
    @once_differentiable
    def backward(ctx, p, q):
        x, v, w, *outside = ctx.saved_tensors
        h = (ctx.span[1] - ctx.span[0]) / ctx.steps
        x = torch.sub(x, v, alpha=h / 2)
        q = torch.add(q, p, alpha=h / 2)
        r, sums = torch.zeros_like(q), [torch.zeros_like(g) for g in outside]
        for n in reversed(range(ctx.steps)):
            with torch.enable_grad():
                X, W = x.detach().requires_grad_(), w.detach().requires_grad_()
                a = ctx.f(ctx.span[0] + (n + 0.5) * h, X, W)
            pulled = (h * q).to(a.dtype)
            wanted = (X, W, *outside)
            found = torch.autograd.grad(a, wanted, pulled, allow_unused=True, materialize_grads=True)
            p, r = p + found[0], r + found[1]
            sums = [total.add_(g) for total, g in zip(sums, found[2:], strict=True)]
            v = torch.sub(v, a.detach(), alpha=h)
            if n > 0:
                q, r = q + h * p + 2 * r, -r
                x, w = torch.sub(x, v, alpha=h), 2 * v - w
        return None, None, None, None, p, q + h / 2 * p + r, *sums


# ----------------------------------------------------------------------------------------------- checks


def _check(x0, v0, span, steps, solver, gradient, tolerance):
    for what, value, known in (("solver", solver, SOLVERS), ("gradient", gradient, GRADIENTS)):
        if value not in known:
            near = get_close_matches(str(value), known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"Unknown {what} {value!r}: expected one of {', '.join(known)}.{hint}")
    if gradient == "reversible" and solver != "reversible_leapfrog":
        raise InputError(
            f"gradient='reversible' runs the solver backwards, which {solver!r} cannot do exactly: choose "
            f"solver='reversible_leapfrog'."
        )
    if gradient == "adjoint" and solver in _OWN:
        raise InputError(
            f"gradient='adjoint' is torchdiffeq's and {solver!r} is not one of its solvers: choose one of "
            f"{', '.join(FIXED_STEP + ADAPTIVE)} (midpoint has leapfrog's order)."
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: the number of solver steps is a whole number from 1 up.")
    if len(span) != 2 or not all(math.isfinite(s) for s in span):
        raise InputError(f"span={tuple(span)!r}: give two finite times, as in (0.0, 1.0).")
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance={tolerance!r}: give a number above 0, or None.")
    if not span[1] - span[0]:
        raise InputError(f"span={tuple(span)!r} is empty: give two different times, as in (0.0, 1.0).")
    if x0.shape != v0.shape or x0.dtype != v0.dtype or not x0.is_floating_point():
        raise InputError(
            f"Position {tuple(x0.shape)} {x0.dtype} and velocity {tuple(v0.shape)} {v0.dtype} do not match: "
            f"give both the same shape and the same floating dtype."
        )
