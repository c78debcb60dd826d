"""Second-order equations x'' = f(s, x, x') whose solution is known, to measure solvers against.

Each problem gives the acceleration, the start, a span and the exact position and velocity at any time, in
float64. Notebook 01 measures orders of convergence on them, and the tests hold the solvers to them.

    harmonic    x'' = -w^2 x                               energy kept; no dependence on velocity
    damped      x'' = -2 z w v - w^2 x                     force linear in the velocity
    cycle       x'' = -w^2 x + m (1 - x^2 - v^2/w^2) v     force nonlinear in position and velocity
    magnetic    x'' = E + B J v                            charge in crossed fields; energy kept
    driven      x'' = -w^2 x + cos(u s)                    force depends on time
    kepler      x'' = -x / |x|^3                           orbit of eccentricity 0.2; energy kept
    linear      x'' = -K x - C v                           twelve dimensions, K and C symmetric
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .ode import solve

FLOAT = dict(dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    """acceleration(s, x, v) -> like x; start (x0, v0); exact(s) -> (x, v) at time s, a float.

    energy(x, v) is constant along the exact solution, or None where nothing is.
    """

    name: str
    acceleration: Callable[[float, Tensor, Tensor], Tensor]
    x0: Tensor
    v0: Tensor
    span: tuple[float, float]
    exact: Callable[[float], tuple[Tensor, Tensor]]
    velocity_dependent: bool
    energy: Callable[[Tensor, Tensor], Tensor] | None = None

    def error(self, x: Tensor, v: Tensor, s: float | None = None) -> float:
        """Euclidean distance of (x, v) from the exact state at time s (the span's end if None)."""
        exact = torch.cat(self.exact(self.span[1] if s is None else s))
        return (torch.cat((x, v)) - exact).norm().item()


def harmonic(w: float = 3.0) -> Problem:
    """x = x0 cos(w s) + v0/w sin(w s)."""
    x0, v0 = torch.tensor([1.0], **FLOAT), torch.tensor([0.5], **FLOAT)

    def exact(s):
        c, d = math.cos(w * s), math.sin(w * s)
        return x0 * c + v0 / w * d, v0 * c - w * x0 * d

    return Problem(
        "harmonic", lambda s, x, v: -(w**2) * x, x0, v0, (0.0, 2.0), exact, False,
        lambda x, v: (v**2 + w**2 * x**2).sum() / 2,
    )  # fmt: skip


def damped(w: float = 3.0, z: float = 0.2) -> Problem:
    """x = exp(-z w s) (x0 cos(u s) + (v0 + z w x0)/u sin(u s)), u = w sqrt(1 - z^2)."""
    x0, v0, g, u = torch.tensor([1.0], **FLOAT), torch.tensor([0.5], **FLOAT), z * w, w * math.sqrt(1 - z**2)
    b = (v0 + g * x0) / u

    def exact(s):
        c, d, decay = math.cos(u * s), math.sin(u * s), math.exp(-g * s)
        x = decay * (x0 * c + b * d)
        return x, -g * x + u * decay * (b * c - x0 * d)

    return Problem("damped", lambda s, x, v: -2 * g * v - w**2 * x, x0, v0, (0.0, 2.0), exact, True)


def cycle(w: float = 3.0, m: float = 0.3) -> Problem:
    """A clock: friction pulls the amplitude to 1, where it vanishes and x = cos(w s) is the solution."""
    x0, v0 = torch.tensor([1.0], **FLOAT), torch.tensor([0.0], **FLOAT)

    def force(s, x, v):
        return -(w**2) * x + m * (1 - x**2 - (v / w) ** 2) * v

    def exact(s):
        return x0 * math.cos(w * s), -w * x0 * math.sin(w * s)

    return Problem("cycle", force, x0, v0, (0.0, 2.0), exact, True)


def magnetic(b: float = 3.0, e: tuple[float, float] = (0.0, 1.0)) -> Problem:
    """Gyration about a drift: v = d + R(b s) (v0 - d), where E + b J d = 0 and J = [[0, 1], [-1, 0]]."""
    x0, v0, field = (
        torch.tensor([0.0, 0.0], **FLOAT),
        torch.tensor([1.0, 0.5], **FLOAT),
        torch.tensor(e, **FLOAT),
    )
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], **FLOAT)
    turn, one, drift = b * quarter, torch.eye(2, **FLOAT), quarter @ field / b

    def exact(s):
        c, d, half = math.cos(b * s), math.sin(b * s), math.sin(b * s / 2)
        swept = (d * one + 2 * half**2 * quarter) / b  # the integral of the rotation
        return x0 + drift * s + swept @ (v0 - drift), drift + (c * one + d * quarter) @ (v0 - drift)

    return Problem(
        "magnetic", lambda s, x, v: field + turn @ v, x0, v0, (0.0, 2.0), exact, True,
        lambda x, v: (v**2).sum() / 2 - field @ x,
    )  # fmt: skip


def driven(w: float = 2.0, u: float = 3.0) -> Problem:
    """The homogeneous solution plus cos(u s) / (w^2 - u^2)."""
    x0, v0, a = torch.tensor([1.0], **FLOAT), torch.tensor([0.5], **FLOAT), 1 / (w**2 - u**2)

    def exact(s):
        c, d = math.cos(w * s), math.sin(w * s)
        x = (x0 - a) * c + v0 / w * d + a * math.cos(u * s)
        return x, -w * (x0 - a) * d + v0 * c - a * u * math.sin(u * s)

    return Problem(
        "driven",
        lambda s, x, v: -(w**2) * x + torch.cos(u * torch.as_tensor(s, **FLOAT)),
        x0,
        v0,
        (0.0, 2.0),
        exact,
        False,
    )


def kepler(e: float = 0.2) -> Problem:
    """A planet from its perihelion; Kepler's equation E - e sin E = s by Newton's method."""
    side = math.sqrt(1 - e**2)

    def exact(s):
        E = s
        for _ in range(50):
            E -= (E - e * math.sin(E) - s) / (1 - e * math.cos(E))
        rate = 1 / (1 - e * math.cos(E))
        x = torch.tensor([math.cos(E) - e, side * math.sin(E)], **FLOAT)
        return x, rate * torch.tensor([-math.sin(E), side * math.cos(E)], **FLOAT)

    return Problem(
        "kepler", lambda s, x, v: -x / x.norm() ** 3, *exact(0.0), (0.0, 3.0), exact, False,
        lambda x, v: (v**2).sum() / 2 - 1 / x.norm(),
    )  # fmt: skip


def linear(dimensions: int = 12, seed: int = 0) -> Problem:
    """K, C = A A^T / n from a seed; [x, v](s) = exp(s [[0, I], [-K, -C]]) [x0, v0]."""
    g = torch.Generator().manual_seed(seed)
    A, B = (torch.randn(dimensions, dimensions, generator=g, **FLOAT) for _ in range(2))
    K, C = A @ A.T / dimensions, B @ B.T / dimensions / 2
    x0, v0 = (torch.randn(dimensions, generator=g, **FLOAT) for _ in range(2))
    zero, one = torch.zeros_like(K), torch.eye(dimensions, **FLOAT)
    M = torch.cat((torch.cat((zero, one), 1), torch.cat((-K, -C), 1)))

    def exact(s):
        return torch.chunk(torch.matrix_exp(M * s) @ torch.cat((x0, v0)), 2)

    return Problem("linear", lambda s, x, v: -(K @ x) - C @ v, x0, v0, (0.0, 2.0), exact, True)


PROBLEMS: dict[str, Problem] = {
    make.__name__: make() for make in (harmonic, damped, cycle, magnetic, driven, kepler, linear)
}


def global_error(problem: Problem, solver: str, steps: int) -> float:
    """Error at the end of the span after `steps` equal steps (dopri5 too)."""
    end = solve(problem.acceleration, problem.x0, problem.v0, problem.span, steps, solver, tolerance=math.inf)
    return problem.error(end.x, end.v)


def local_error(problem: Problem, solver: str, h: float, starts: int = 8) -> float:
    """Error of one step of size h from the exact solution, root mean square over starts along the span.

    Several starts, because at a single one the leading term of the error may happen to vanish.
    """
    squares = []
    for i in range(starts):
        s = problem.span[0] + (problem.span[1] - problem.span[0]) * i / starts
        end = solve(problem.acceleration, *problem.exact(s), (s, s + h), 1, solver, tolerance=math.inf)
        squares.append(problem.error(end.x, end.v, s + h) ** 2)
    return math.sqrt(sum(squares) / starts)
