"""Second-order equations x'' = f(s, x, x') whose solution is known, to measure solvers against.

Each problem gives the acceleration, the start, a span and the exact position and velocity at any time, in
float64. Notebook 01 measures orders of convergence on them, and the tests hold the solvers to them.

    harmonic     x'' = -w^2 x                        energy kept; no dependence on velocity
    damped       x'' = -2 z w v - w^2 x              force linear in the velocity
    drag         x'' = -k |v| v                      force nonlinear in the velocity
    magnetic     x'' = E + B J v                     charge in crossed fields: velocity turns, energy kept
    driven       x'' = -w^2 x + cos(u s)             force depends on time
    kepler       x'' = -x / |x|^3                    orbit of eccentricity 0.3; nonlinear in the position
    linear       x'' = -K x - C v                    twelve coupled dimensions, K and C symmetric
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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


def drag(k: float = 0.8) -> Problem:
    """Both components slow down on their own: v = v0 / r, x = x0 + sign(v0) log(r) / k, r = 1 + k |v0| s."""
    x0, v0 = torch.tensor([0.0, 1.0], **FLOAT), torch.tensor([1.5, -1.0], **FLOAT)

    def exact(s):
        r = 1 + k * v0.abs() * s
        return x0 + v0.sign() * r.log() / k, v0 / r

    return Problem("drag", lambda s, x, v: -k * v.abs() * v, x0, v0, (0.0, 2.0), exact, True)


def magnetic(b: float = 3.0, e: tuple[float, float] = (0.0, 1.0)) -> Problem:
    """Gyration about a drift: v = d + R(b s) (v0 - d), where E + b J d = 0 and J = [[0, 1], [-1, 0]]."""
    x0, v0, field = (
        torch.tensor([0.0, 0.0], **FLOAT),
        torch.tensor([1.0, 0.5], **FLOAT),
        torch.tensor(e, **FLOAT),
    )
    turn = b * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], **FLOAT)
    drift = -torch.linalg.solve(turn, field)

    def exact(s):
        rotation = torch.matrix_exp(turn * s)
        swept = torch.linalg.solve(turn, rotation - torch.eye(2, **FLOAT))
        return x0 + drift * s + swept @ (v0 - drift), drift + rotation @ (v0 - drift)

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

    return Problem("driven", lambda s, x, v: -(w**2) * x + math.cos(u * s), x0, v0, (0.0, 2.0), exact, False)


def kepler(e: float = 0.3) -> Problem:
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
    make.__name__: make() for make in (harmonic, damped, drag, magnetic, driven, kepler, linear)
}
