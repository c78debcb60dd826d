"""Diffusion in continuous time: the SDE, its probability flow, Langevin, and data with an exact score.

With infinitely many steps the forward process becomes a stochastic differential equation (Song et al. 2021),
in the variance-preserving form of section 3.3 of the paper

    dx = -1/2 beta(t) x dt + sqrt(beta(t)) dw,    so    x_t = sqrt(abar(t)) x_0 + sqrt(1 - abar(t)) e.

Backwards from t = 1 to t = 0 a whole family of equations has the same densities p_t,

    dx = [-1/2 beta x - (1 + l^2)/2 beta score(x, t)] dt + l sqrt(beta) dw,    score = gradient of log p_t,

with l = 0 the probability flow (equation 8; equation 6 with the factor 1/2 that it lacks), l = 1 the reverse
SDE (equations 5, 7), and in the terms with l Langevin dynamics (equation 9). dt is negative on the way back,
as in the paper, so drifts are written as they are printed there.

A mixture of Gaussians stays one under this process. Its score is a formula, so every sampler here can be held
against the exact density. Here t is the diffusion's clock scaled to 0 ... 1 (a step counted in whole numbers
is t times T), a float that all points share; points are (B, D), or (B, ...) where any shape will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError, one_of

Field = Callable[
    [Tensor, float], Tensor
]  # a score or a drift: points (B, ...) and the time -> like the points
TRACES = ("exact", "hutchinson")


class GaussianMixture:
    """The density sum_k w_k N(x; m_k, C_k).

    weights: (K,), positive, made to sum to 1; means: (K, D); covariances: (K, D, D), positive definite. Float
    tensors of one dtype, which all results have.

    Raises InputError for shapes that do not fit, or a covariance that is not positive definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        k, d = means.shape if means.ndim == 2 else (-1, -1)
        if weights.shape != (k,) or covariances.shape != (k, d, d) or bool((weights <= 0).any()):
            raise InputError(
                f"Weights {tuple(weights.shape)}, means {tuple(means.shape)} and covariances"
                f" {tuple(covariances.shape)} make no mixture: give positive weights (K,), means (K, D) and"
                " covariances (K, D, D)."
            )
        self._root, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any():
            raise InputError(
                f"Covariance {covariances[failed > 0][0].tolist()} is not positive definite: a component"
                " needs a symmetric matrix with positive eigenvalues."
            )
        self.weights, self.means, self.covariances = weights / weights.sum(), means, covariances
        self._precision = torch.cholesky_inverse(self._root)
        log_det = 2 * self._root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self._constant = self.weights.log() - 0.5 * (log_det + d * math.log(2 * math.pi))

    def log_prob(self, x: Tensor) -> Tensor:
        """Logarithm of the density at x, (B, D) -> (B,)."""
        return self._components(x)[0].logsumexp(0)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log_prob: sum_k r_k(x) C_k^-1 (m_k - x), r_k the probability of component k given x."""
        joint, pull = self._components(x)
        return -(joint.softmax(0)[:, None] * pull).sum(0).T

    def sample(self, n: int, generator: torch.Generator | None = None, quasi: bool = False) -> Tensor:
        """n points (n, D).

        quasi: scrambled Sobol points instead of independent ones (best with n a power of 2). They fill the
        density so evenly that an average over them errs by about 1/n, not 1/sqrt(n): for deterministic
        solvers, whose error would otherwise drown in sampling noise.
        """
        k, d = self.means.shape
        like = {"dtype": self.means.dtype, "device": self.means.device}
        if quasi:
            seed = int(torch.randint(2**31, (1,), generator=generator))
            u = torch.quasirandom.SobolEngine(d + 1, scramble=True, seed=seed).draw(n, dtype=torch.float64)
            u = u.clamp(2**-32, 1 - 2**-32)
            cumulative = self.weights.double().cumsum(0)[:-1]
            component, z = (
                torch.searchsorted(cumulative, u[:, 0].contiguous()),
                torch.special.ndtri(u[:, 1:]).to(**like),
            )
        else:
            component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
            z = torch.randn(n, d, generator=generator, **like)
        return self.means[component] + torch.einsum("nij,nj->ni", self._root[component], z)

    def cdf(self, z: Tensor, direction: Tensor) -> Tensor:
        """Probability that direction . x <= z, exactly: z any shape, direction (D,), returns like z."""
        centre = self.means @ direction
        spread = (self.covariances @ direction @ direction).sqrt()
        return (self.weights * torch.special.ndtr((z[..., None] - centre) / spread)).sum(-1)

    def noised(self, signal: float) -> GaussianMixture:
        """The density of sqrt(signal) x + sqrt(1 - signal) e, e ~ N(0, I), for x from this one.

        signal: the signal power abar, in 0 ... 1.
        """
        noise = (1 - signal) * torch.eye(self.means.shape[1]).to(self.means)
        return GaussianMixture(
            self.weights, math.sqrt(signal) * self.means, signal * self.covariances + noise
        )

    def mean(self) -> Tensor:
        """(D,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """(D, D)."""
        apart = self.means - self.mean()
        return torch.einsum("k,kij->ij", self.weights, self.covariances + apart[:, :, None] * apart[:, None])

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(x; m_k, C_k), (K, B), and C_k^-1 (x - m_k), (K, D, B): points last: 4 times as fast."""
        apart = x.T[None] - self.means[..., None]
        pull = self._precision @ apart
        return self._constant[:, None] - 0.5 * (apart * pull).sum(1), pull


@dataclass(frozen=True)
class VariancePreserving:
    """The forward SDE dx = -1/2 beta(t) x dt + sqrt(beta(t)) dw, beta linear in t (Song et al. 2021, eq. 32).

    The defaults are the limit of Ho et al.'s beta_t = 1e-4 ... 0.02 in 1000 steps.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: float) -> float:
        """Noise power added a unit of time, at t in 0 ... 1."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def alpha_bar(self, t: float) -> float:
        """Signal power left at t, exp(-integral of beta)."""
        return math.exp(-self.beta_min * t - 0.5 * (self.beta_max - self.beta_min) * t * t)

    def drift(self, x: Tensor, t: float) -> Tensor:
        """f(x, t) = -1/2 beta(t) x of the forward SDE."""
        return -0.5 * self.beta(t) * x

    def diffusion(self, t: float) -> float:
        """g(t) = sqrt(beta(t))."""
        return math.sqrt(self.beta(t))

    def marginal(self, data: GaussianMixture, t: float) -> GaussianMixture:
        """The density p_t at time t when the data have the density `data`: again a mixture."""
        return data.noised(self.alpha_bar(t))

    def score(self, data: GaussianMixture) -> Field:
        """The exact score (x, t) -> gradient of log p_t(x)."""
        return lambda x, t: self.marginal(data, t).score(x)

    def reverse_drift(self, score: Field, langevin: float = 1.0) -> Field:
        """f - (1 + langevin^2)/2 g^2 score, the drift of the way back (module's head).

        langevin: 0 for the probability flow (equation 8), 1 for the reverse SDE (equation 7), more for more
        noise, each with `reverse_diffusion` of the same number.
        """
        weight = 0.5 * (1 + langevin**2)
        return lambda x, t: -self.beta(t) * (0.5 * x + weight * score(x, t))

    def reverse_diffusion(self, langevin: float = 1.0) -> Callable[[float], float]:
        """langevin * g(t), the noise of the way back."""
        return lambda t: langevin * self.diffusion(t)

    def posterior_mean(self, score: Field, x: Tensor, t: float) -> Tensor:
        """E[x_0 | x_t = x] = (x + (1 - abar) score(x, t)) / sqrt(abar) (Tweedie; Robbins 1956). Like x."""
        signal = self.alpha_bar(t)
        return (x + (1 - signal) * score(x, t)) / math.sqrt(signal)


def time_grid(steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """steps + 1 times from start to end, evenly spaced. Raises InputError for less than one step."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: the number of solver steps is a whole number from 1 up.")
    return [start + (end - start) * n / steps for n in range(steps)] + [end]


def euler_maruyama(
    drift: Field,
    diffusion: Callable[[float], float],
    x: Tensor,
    times: Sequence[float],
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """dx = drift dt + diffusion dw in steps x + h drift(x, t) + sqrt|h| diffusion(t) z.

    Weak order 1, and strong order 1 too, because the noise does not depend on x.

    x: (B, ...); times: from first to last, rising or falling; noise: (steps, B, ...) standard normal draws z,
    to give several solvers the same Brownian path; else they come from `generator`. Where diffusion(t) is 0
    no noise is drawn and this is Euler's method. Returns the points at times[-1].
    """
    for n, (t, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
        h, scale = after - t, diffusion(t)
        step = h * drift(x, t)
        if scale:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype) if noise is None else noise[n]
            step = step + scale * math.sqrt(abs(h)) * z
        x = x + step
    return x


def euler(drift: Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """dx = drift dt, order 1, one evaluation a step. Arguments as `euler_maruyama`."""
    return euler_maruyama(drift, lambda t: 0.0, x, times)


def heun(drift: Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """dx = drift dt by the average of the slopes at both ends of a step: order 2, two evaluations a step.

    Arguments as `euler_maruyama`. Karras et al. (2022) sample with it.
    """
    for t, after in zip(times[:-1], times[1:], strict=True):
        h, slope = after - t, drift(x, t)
        x = x + 0.5 * h * (slope + drift(x + h * slope, after))
    return x


def langevin(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    h: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`steps` unadjusted Langevin steps x + (h/2) score(x) + sqrt(h) z towards the density of that score.

    score: of one fixed density, for example GaussianMixture.score; h: the step, in units of variance: it has
    to be small against the density's narrowest variance (for a Gaussian of variance V the result has variance
    V / (1 - h/(4V))). This is equation 9's second part at a frozen t, with h = beta(t) dt.
    """
    return euler_maruyama(
        lambda x, _: 0.5 * score(x), lambda _: 1.0, x, time_grid(steps, 0.0, h * steps), generator
    )


def log_likelihood(
    sde: VariancePreserving,
    score: Field,
    x: Tensor,
    steps: int = 100,
    trace: str = "exact",
    prior: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p_0(x) by the instantaneous change of variables along the probability flow b (Chen et al. 2018;
    Song et al. 2021, equation 39): log p_0(x_0) = log p_1(x_1) + integral over t of div b(x_t, t).

    score: a formula or a network; x: (B, ...); steps: rk4 steps from t = 0 to 1, four evaluations each;
    trace: "exact" takes the divergence by D backward passes, "hutchinson" estimates it by one, with a random
    vector of signs for each point, kept along the path: unbiased, for images; prior: log p_1, points -> (B,),
    by default that of N(0, I), which p_1 is up to sqrt(abar(1)). Returns (B,) in nats, without gradient.

    Raises InputError for an unknown trace or less than one step.
    """
    from torchdiffeq import odeint

    one_of("trace", trace, TRACES)
    flow, signs = sde.reverse_drift(score, 0.0), None
    if trace == "hutchinson":
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1

    def slopes(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return velocity_and_divergence(lambda y: flow(y, float(t)), state[0], signs)

    times = torch.tensor(time_grid(steps, 0.0, 1.0), dtype=x.dtype)
    state = (x.detach(), torch.zeros(len(x), dtype=x.dtype))
    end, gained = (values[-1] for values in odeint(slopes, state, times, method="rk4"))
    return (prior or standard_normal_log_prob)(end) + gained


def velocity_and_divergence(
    field: Callable[[Tensor], Tensor], x: Tensor, signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """field(x), like x (B, ...), and its divergence, (B,): exact, or as e' (d field / dx) e for signs e."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        if signs is not None:
            (back,) = torch.autograd.grad(value, x, signs)
            return value.detach(), (back * signs).flatten(1).sum(1)
        columns = value.flatten(1).unbind(1)
        rows = (torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in columns)
        divergence = sum(row.flatten(1)[:, i] for i, row in enumerate(rows))
    return value.detach(), divergence


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """log N(x; 0, I), (B, ...) -> (B,)."""
    flat = x.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))


def sliced_wasserstein(x: Tensor, exact: GaussianMixture, directions: int = 16) -> float:
    """Distance between points x (B, 2) and a density: how far mass has to move, seen from the side.

    The average over `directions` directions of the plane of the 1-D Wasserstein distance, the integral of
    |F_points - F_exact|, with F_exact in closed form: nothing is sampled for the comparison. In units of x.
    The points' own number leaves a floor near 1.3 standard deviations / sqrt(B), for a perfect sampler too.
    """
    total = 0.0
    for n in range(directions):
        angle = math.pi * n / directions
        direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=x.dtype)
        seen = (x @ direction).sort().values
        reach = max(8 * float(exact.covariance().trace().sqrt()), float(seen.abs().max()))
        z = torch.linspace(-reach, reach, 4001, dtype=x.dtype)
        points = torch.searchsorted(seen, z).to(x.dtype) / len(seen)
        total += float(torch.trapezoid((points - exact.cdf(z, direction)).abs(), z))
    return total / directions
