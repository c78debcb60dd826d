"""Ways to take fewer steps that know nothing of the network (claim C25; `cunet.orthogonality` judges them).

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
from .diffusion import Diffusion
from .errors import InputError, one_of
from .kernel_distance import Distances
from .recipe import generator
from .samplers import SAMPLERS, evenly_spaced_timesteps


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

    network: of `cunet.models`, on any device. method: a key of METHODS. Image i depends on (seed, i) alone.

    Returns images on the CPU. Raises InputError for an unknown method, or calls that it cannot do with.
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
    timesteps = evenly_spaced_timesteps(top, calls)
    shape, parts = (network.channels, network.image_size, network.image_size), []
    device = sampling.device_of(network)
    with sampling.evaluating(network):
        for first in range(0, n, batch_size):
            noise = sampling.NoiseStreams(seed, range(first, min(first + batch_size, n)), shape, device)
            x = noise()
            if how.early:
                coarse = prepared.coarse(noise().cpu()).to(device)
                x = diffusion.add_noise(coarse, x, prepared.early)
            args = (network, x, diffusion, timesteps)
            walk = (
                _analytic_walk(*args, noise, prepared.gamma)
                if how.analytic
                else sampling.walk(*args, how.sampler, noise)
            )
            *_, last = walk
            parts.append(last.x.clamp(-1, 1).cpu())
    return torch.cat(parts)


def sweep(
    network: nn.Module,
    diffusion: Diffusion,
    tried: Mapping[str, Sequence[int]],
    prepared: Prepared,
    distance: Callable[[Tensor], Distances],
    n: int,
    seed: int = 0,
) -> dict[tuple[str, int], Distances]:
    """How far n images are from real ones, by (method, calls); all sets start from the same noise.

    tried: method -> the numbers of calls. distance: of a set of images. The others as `draw` takes them. The
    network is on the first GPU, where there is one, for the time of the call.
    """
    with sampling.placed(sampling.best_device(), network):
        return {
            (method, calls): distance(draw(network, n, diffusion, method, calls, prepared, seed))
            for method, numbers in tried.items()
            for calls in numbers
        }


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
