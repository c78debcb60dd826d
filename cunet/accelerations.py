"""Ways to take fewer steps that know nothing of the network, and how far they get with each (claim C25).

Samplers of `cunet.samplers`, a better variance and a later start, in one table, `METHODS`:

    ddpm             equation 2 on a shortened chain (respaced): what the others are compared with
    analytic         the same with the variance that is best for this network on this chain (Bao et al. 2022,
                     Analytic-DPM, theorem 1), for the standard deviation of q(x_{t-1} | x_t, x_0):

                         sigma*^2 = sigma^2 + (sqrt((1 - abar_t) / alpha) - sqrt(1 - abar_before - sigma^2))^2
                                              (1 - Gamma_t),    Gamma_t = E |epsilon(x_t, t)|^2 / pixels

                     with sigma^2 that of equation 2, alpha = abar_t / abar_before. Gamma is measured once.
    ddim, dpmsolver++, dpmsolver++sde, unipc, heun     diffusers' schedulers
    ddim-early, dpmsolver++-early      the reverse process begins at a step t' below T (Lyu et al. 2022,
                     ES-DDPM), from a coarse image with noise of that level. Coarse images come from a
                     Gaussian in the training images' leading principal components (`CoarseImages`): blurred
                     pictures of nothing in particular, drawn in microseconds; no training image is shown.

Every method is given a number of network calls, and all start from the same noise, image by image: sets are
paired, and so are their resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import sampling, subsets
from .datasets import ImageDataset
from .diffusion import Diffusion, one_of
from .errors import InputError
from .recipe import generator
from .samplers import SAMPLERS, evenly


class Method(NamedTuple):
    """How to sample: the sampler, whether its variance is the analytic one, whether it starts early."""

    sampler: str
    label: str
    analytic: bool = False
    early: bool = False


METHODS = {
    "ddpm": Method("ddpm", "DDPM, respaced"),
    "analytic": Method("ddpm", "Analytic-DPM", analytic=True),
    "ddim": Method("ddim", "DDIM"),
    "dpmsolver++": Method("dpmsolver++", "DPM-Solver++ 2M"),
    "dpmsolver++sde": Method("dpmsolver++sde", "DPM-Solver++ 2M SDE"),
    "unipc": Method("unipc", "UniPC"),
    "heun": Method("heun", "Heun"),
    "ddim-early": Method("ddim", "DDIM, early start", early=True),
    "dpmsolver++-early": Method("dpmsolver++", "DPM-Solver++ 2M, early start", early=True),
}
HEUN_LEAST = 10  # steps below which Heun's method leaves the range of its numbers


@dataclass(frozen=True)
class CoarseImages:
    """A Gaussian in the leading principal components of images, and nothing in the others: blurred pictures.

    mean: (D,); directions: (D, K), orthonormal; deviations: (K,), along each; shape: (C, H, W), D = C H W.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, train: ImageDataset, components: int = 64, images: int = 4000) -> CoarseImages:
        """Fit to `images` of a data set, by a randomised decomposition with a fixed seed."""
        pixels = subsets.images(train, min(images, len(train))).flatten(1)
        if len(pixels) <= components:
            raise InputError(
                f"{len(pixels)} images have no {components} principal components: give more images."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, singular, directions = torch.pca_lowrank(pixels, q=components)
        deviations = singular / math.sqrt(len(pixels) - 1)
        return cls(pixels.mean(0), directions, deviations, tuple(train.images.shape[1:]))

    def __call__(self, noise: Tensor) -> Tensor:
        """Coarse images (B, C, H, W) of standard normal noise of that shape: its shadow on the components."""
        coordinates = noise.flatten(1) @ self.directions * self.deviations
        return (self.mean + coordinates @ self.directions.T).view(-1, *self.shape).clamp(-1, 1)


@torch.no_grad()
def noise_power(
    network: Callable, diffusion: Diffusion, train: ImageDataset, levels: int = 20, images: int = 32
) -> Tensor:
    """Gamma_t, the mean square of the noise that a network sees in noisy training images: (T,) float64.

    Measured at `levels` steps, evenly spaced, on `images` images each, and interpolated between them; at most
    1, its value for the true noise's posterior mean being below that of the noise itself.
    """
    steps = torch.linspace(0, diffusion.timesteps - 1, levels).round().long().unique()
    found = []
    for number, t in enumerate(steps.tolist()):
        draw = generator(0, "noise power", t)
        x0 = train.batch(torch.randint(len(train), (images,), generator=draw))
        x = diffusion.add_noise(x0, torch.randn(x0.shape, generator=draw), t)
        answer = network(x, torch.full((images,), t))
        found.append(float(diffusion.to_epsilon(answer, x, t).double().square().mean()))
        if not math.isfinite(found[number]):
            raise InputError(f"At t = {t} the network's answer is not finite: train or load it again.")
    every = np.interp(np.arange(diffusion.timesteps), steps.numpy(), found)
    return torch.from_numpy(every).clamp(max=1.0)


def analytic_std(diffusion: Diffusion, gamma: Tensor, t: int, before: int) -> float:
    """sigma*, the standard deviation of Analytic-DPM's step from t to `before` (see the module's head).

    At most what it is when a pixel's clean value, in [-1, 1], is either -1 or 1 (Bao et al., theorem 2).
    """
    abar, abar_before = (diffusion.alphas_cumprod[i] for i in (t, before))
    posterior = sampling.posterior_std(abar, abar_before) ** 2
    lever = ((1 - abar) * abar_before / abar).sqrt() - (1 - abar_before - posterior).clamp(min=0).sqrt()
    unknown = (1 - gamma[t]).clamp(0, float(abar / (1 - abar)))
    return float((posterior + lever**2 * unknown).sqrt())


@dataclass(frozen=True)
class Prepared:
    """What the methods need besides the network: Gamma_t, coarse images, and t', where early starts begin."""

    gamma: Tensor
    coarse: CoarseImages
    early: int

    @classmethod
    def of(
        cls, network: Callable, diffusion: Diffusion, train: ImageDataset, early: int, **options
    ) -> Prepared:
        """Measured on training images. options: `levels` and `images` of `noise_power`."""
        if not 0 < early < diffusion.timesteps:
            raise InputError(
                f"early={early}: an early start is at a step of 1 ... {diffusion.timesteps - 1}."
            )
        with sampling.evaluating(network):
            gamma = noise_power(network, diffusion, train, **options)
        return cls(gamma, CoarseImages.fit(train, min(64, len(train) // 4)), early)


def possible(method: str, calls: int) -> bool:
    """Whether a method can do with so many calls: Heun's has two a step but one, and 10 steps or more."""
    sampler = SAMPLERS[METHODS[method].sampler]
    return not sampler.two_calls or (calls % 2 == 1 and (calls + 1) // 2 >= HEUN_LEAST)


@torch.no_grad()
def draw(
    network: nn.Module,
    n: int,
    diffusion: Diffusion,
    method: str,
    calls: int,
    prepared: Prepared,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """n images in `calls` network calls each: (n, C, H, W) float32 in [-1, 1].

    network: of `cunet.models`. method: a key of METHODS. Image i depends on (seed, i) alone.

    Raises InputError for an unknown method, or calls that it cannot do with.
    """
    one_of("method", method, METHODS)
    if not possible(method, calls):
        raise InputError(
            f"Heun's method cannot take {calls} calls: give an odd number, {2 * HEUN_LEAST - 1} or more."
        )
    how = METHODS[method]
    if not how.analytic and not how.early:
        steps = (calls + 1) // 2 if SAMPLERS[how.sampler].two_calls else calls
        return sampling.sample(network, n, diffusion, how.sampler, steps, seed=seed, batch_size=batch_size)
    top = prepared.early + 1 if how.early else diffusion.timesteps
    timesteps = evenly(top, calls)
    shape, parts = (network.channels, network.image_size, network.image_size), []
    with sampling.evaluating(network):
        for first in range(0, n, batch_size):
            noise = sampling.NoiseStreams(seed, range(first, min(first + batch_size, n)), shape)
            x = noise()
            if how.early:
                x = diffusion.add_noise(prepared.coarse(noise()), x, prepared.early)
            args = (network, x, diffusion, timesteps)
            walk = (
                _analytic_walk(*args, noise, prepared.gamma)
                if how.analytic
                else sampling.walk(*args, how.sampler, noise)
            )
            *_, last = walk
            parts.append(last.x.clamp(-1, 1))
    return torch.cat(parts)


def _analytic_walk(
    network: Callable,
    x: Tensor,
    diffusion: Diffusion,
    timesteps: Sequence[int],
    noise: Callable,
    gamma: Tensor,
) -> Iterator[sampling.Step]:
    """`sampling.walk` of equation 2 with Analytic-DPM's variance."""
    for t, before in zip(timesteps, [*timesteps[1:], -1], strict=True):
        x0 = sampling.predict(network, diffusion, x, t)
        epsilon = diffusion.noise_between(x0.double(), x.double(), t)
        x = sampling.ancestral_step(diffusion, epsilon, x, t, None, before)
        if before >= 0:
            x = x + analytic_std(diffusion, gamma, t, before) * noise()
        yield sampling.Step(t, x, x0)


# ------------------------------------------------------------------------------------------- what they reach


THOUSAND = 1000  # distances are given in thousandths
CHUNK = 2000  # rows of a kernel matrix that are held at once


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a . b / D + 1)^3, the kernel of KID (Binkowski et al., 2018)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


@dataclass(frozen=True)
class RealImages:
    """What sets are compared with: features of real images, (R, D), and the mean of the kernel over pairs."""

    features: Tensor
    within: float

    @classmethod
    def of(cls, features: Tensor) -> RealImages:
        """Raises InputError for fewer than two images."""
        count, total = len(features), 0.0
        if count < 2:
            raise InputError(f"A distance to {count} real images was asked for: give two or more.")
        for rows in features.split(CHUNK):
            total += float(_kernel(rows, features).double().sum() - _kernel_diagonal(rows).double().sum())
        return cls(features, total / (count * (count - 1)))


def _kernel_diagonal(rows: Tensor) -> Tensor:
    return (rows.square().sum(1) / rows.shape[1] + 1) ** 3


class Distances(NamedTuple):
    """A distance, and the same of resampled images, (R,)."""

    value: float
    draws: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval."""
        low, high = np.quantile(self.draws, (0.025, 0.975))
        return float(low), float(high)


def distances(real: RealImages, features: Tensor, resamples: int = 500, seed: int = 0) -> Distances:
    """1000 times KID-AlexNet of a set, (N, D) features, to real images, with a bootstrap over the set.

    The same number as `cunet.frechet.kid` of whole sets: unbiased at every N, so that real images have 0 in
    expectation however few they are, and a value may be below 0. (A Frechet distance of N images is too
    large by what N and the set's own spread decide: sets of 80 came out nearer than as many real images.)

    A resample weighs image i by how often it was drawn, w_i; pairs of an image with itself stay out, so that
    repeats do not make it look alike: sum_ij w_i w_j k_ij / sum_ij w_i w_j over i != j. Near real images,
    where the statistic is degenerate, such intervals are too wide, which is the safe side. With one `seed`,
    the i-th images of all sets of a size have one weight, and differences of sets that start from the same
    noise are those of pairs.
    """
    rows, count = features.to(real.features.dtype), len(features)
    pairs = _kernel(rows, rows).double().fill_diagonal_(0)
    to_real = torch.cat([_kernel(some, real.features).double().mean(1) for some in rows.split(CHUNK)])
    choose = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=choose)
    weights = torch.cat((torch.ones(1, count), _counted(drawn, count))).double()
    inside = ((weights @ pairs) * weights).sum(1) / (count**2 - weights.square().sum(1))
    found = THOUSAND * (inside + real.within - 2 * (weights @ to_real) / count)
    return Distances(float(found[0]), found[1:].numpy())


def _counted(drawn: Tensor, count: int) -> Tensor:
    """How often each of 0 ... count - 1 is in each row."""
    return torch.zeros(len(drawn), count).scatter_add_(1, drawn, torch.ones(drawn.shape))


Key = tuple[str, str, int]  # network, method, calls
Measure = tuple[float, float, float]  # a value with the ends of its 95 % interval


class Gain(NamedTuple):
    """How much accelerations help the second network, over what they help the first: 1, as much.

    ratio, low, high: with its 95 % interval; NaN where no comparison was possible. used: the comparisons,
    (method, calls). left_out: why others are not among them. excess: how far above real images the sets
    compared are, the nearest and the farthest; NaN likewise.
    """

    ratio: float
    low: float
    high: float
    used: list[tuple[str, int]]
    left_out: dict[tuple[str, int], str]
    excess: tuple[float, float]


LEAST = 0.05  # of a measured excess: a resampled one that is smaller counts as this


def relative_gain(
    found: Mapping[Key, Distances],
    pairs: Sequence[tuple[str, int]],
    networks: tuple[str, str],
    floor: Distances,
    base: str = "ddpm",
) -> Gain:
    """The geometric mean over (method, calls) of [E_2(base) / E_2(method)] / [E_1(base) / E_1(method)].

    E is the distance above that of real images, `floor`. A comparison takes part when the lower end of the
    95 % interval of all its four E is above 0: a factor of something that is within noise of nothing is not
    measured. In resamples E is at least `LEAST` of what was measured, so that its logarithm exists. found: of
    all sets, whose resamples belong together, since they start from the same noise image by image; those of
    `floor` are its own. pairs: (method, calls) to average over; networks: the first and the second.

    Raises InputError without pairs.
    """
    if not pairs:
        raise InputError("No accelerated method was compared with the base at equal calls: name some.")
    floors, left_out, used, logs, measured = np.append(floor.draws, floor.value), {}, [], [], []
    for method, calls in pairs:
        excess = {
            (network, how): np.append(found[network, how, calls].draws, found[network, how, calls].value)
            - floors
            for network in networks
            for how in (base, method)
        }
        near = [key for key, one in excess.items() if np.quantile(one[:-1], 0.025) <= 0]
        if near:
            left_out[method, calls] = ", ".join(f"{network} with {how}" for network, how in near)
            continue
        used.append((method, calls))
        measured += [float(one[-1]) for one in excess.values()]
        kept = {key: np.log(np.maximum(one, LEAST * one[-1])) for key, one in excess.items()}
        first, second = (kept[n, base] - kept[n, method] for n in networks)
        logs.append(second - first)
    if not logs:
        return Gain(math.nan, math.nan, math.nan, used, left_out, (math.nan, math.nan))
    mean = np.exp(np.mean(logs, axis=0))
    return Gain(*_measure(mean), used, left_out, (min(measured), max(measured)))


def _measure(values: np.ndarray) -> Measure:
    """The last value with the quantiles of those before it, which may be infinite."""
    low, high = np.quantile(values[:-1], (0.025, 0.975), method="nearest")
    return float(values[-1]), float(low), float(high)


class Multiplied(NamedTuple):
    """Whether two gains in time at one quality multiply; each number with its 95 % interval.

    level: the quality. by_network: time of the first network over the second's, both with the plain method.
    by_method: the first network's time with the plain method over that with its best. together: the first
    with the plain method over the second with its best. times: together / (by_network by_method), 1 where
    gains multiply. faster: the first network's time at its own best plain quality over the second's for
    that, with any method, 0 where it never gets there. reached: the share of resamples where it does.
    best: the (method, calls) with which it does, None if it does not.
    """

    level: Measure
    by_network: Measure
    by_method: Measure
    together: Measure
    times: Measure
    faster: Measure
    reached: float
    best: tuple[str, int] | None


def multiplied(
    found: Mapping[Key, Distances],
    seconds: Mapping[Key, Sequence[float]],
    networks: tuple[str, str],
    plain: str = "ddim",
    seed: int = 0,
) -> Multiplied:
    """Compare times at one quality, with everything that is chosen chosen anew in every resample.

    The quality is the worse of the two networks' best with the plain method, so that both reach it; the time
    is that of the fastest set that is as good or better. In a resample of images and of timing rounds both
    are found again: choosing the best of noisy numbers is part of what is uncertain.

    found: distances of all sets, whose resamples belong together. seconds: of each set those that a sample
    takes, one a round, the rounds of all being the same.

    Raises InputError if the plain method was not tried with both networks.
    """
    if any((m, plain) not in {key[:2] for key in found} for m in networks):
        raise InputError(f"{plain} was not tried with both {' and '.join(networks)}.")
    draws = len(next(iter(found.values())).draws)
    rounds = np.array(list(seconds.values()))
    picks = np.random.default_rng(seed).integers(rounds.shape[1], size=(draws, rounds.shape[1]))
    median = {
        key: np.append(np.median(np.asarray(each)[picks], axis=1), np.median(each))
        for key, each in seconds.items()
    }
    sets: dict[str, list[tuple[str, int]]] = {m: [key[1:] for key in found if key[0] == m] for m in networks}
    distance = {key: np.append(one.draws, one.value) for key, one in found.items()}

    def times(network: str, level: np.ndarray, only: str | None = None) -> np.ndarray:
        """(sets, draws) seconds a sample, infinite where a set is not as good as `level`."""
        return np.array([
            np.where(distance[network, method, k] <= level, median[network, method, k], np.inf)
            for method, k in sets[network] if only in (None, method)
        ])  # fmt: skip

    first, second = networks
    lowest = {
        m: np.min([distance[m, method, k] for method, k in sets[m] if method == plain], axis=0)
        for m in networks
    }
    level = np.maximum(lowest[first], lowest[second])
    start = times(first, level, plain).min(0)
    by_network, by_method = start / times(second, level, plain).min(0), start / times(first, level).min(0)
    together = start / times(second, level).min(0)
    aim = times(second, lowest[first])
    faster = times(first, lowest[first], plain).min(0) / aim.min(0)
    at = int(aim[:, -1].argmin())
    return Multiplied(
        *map(_measure, (level, by_network, by_method, together, together / (by_network * by_method), faster)),
        reached=float(np.isfinite(aim.min(0)[:-1]).mean()),
        best=sets[second][at] if np.isfinite(aim[at, -1]) else None,
    )
