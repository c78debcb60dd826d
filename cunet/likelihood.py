"""How probable a network finds an image: bits per dimension by the probability flow.

In the angle phi of the noise, cos phi = sqrt(abar_t), sin phi = sqrt(1 - abar_t), the probability flow
(equation 8 of the paper) is as simple as can be (Salimans & Ho 2022):

    dx/dphi = v(x, phi),    v = cos phi epsilon - sin phi x_0    as the network sees them,

from phi_0, the first noise, to phi_{T-1}, where x is N(0, I). Along it the logarithm of the density changes
by the divergence (Chen et al. 2018; Song et al. 2021, equation 39),

    log p_0(x) = log N(x(phi_{T-1}); 0, I) + integral of div v(x(phi), phi) dphi,

which Hutchinson's estimate e' (dv/dx) e takes from one backward pass, e random signs. A network knows whole
steps only; between two of them v is interpolated, so that dopri5 finds a continuous field.

A digital image is a set of levels k, not a point, and a density at a point says nothing until it is told how
wide a level is. Two answers, both lower bounds of log P(k), both in expectation over their noise:

    uniform     x = level k plus uniform noise as wide as a level, w = 1/127.5 in [-1, 1]. Change of
                variables: log P(k) >= E log p_0(x) + D log w                      (Theis et al. 2016).
    gaussian    x = cos phi_0 k + sin phi_0 e, the model's own first noise, so that the flow starts where it
                was trained: log P(k) >= E [log p_0(x) - log q(x | k) + log P(k | x)], with P(k | x) =
                q(x | k) over the sum of q(x | all 256 levels)        (Ho et al. 2019; Kingma et al. 2021).

The second is the tighter one where pixels are certain, such as the black border of a digit. Neither comes
down to 0 there: the first noise is nearly as wide as a level, and hides what is certain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint

from . import sampling
from .datasets import from_uint8
from .diffusion import Diffusion
from .errors import InputError, one_of
from .recipe import stream
from .sde import TRACES, GaussianMixture, standard_normal_log_prob, velocity_and_divergence

WIDTH = 1 / 127.5  # of a grey level, for images in [-1, 1]
DEQUANTISATIONS = ("uniform", "gaussian")


class LogLikelihood(NamedTuple):
    """log p_0 of each image in nats, (B,) float64, and how often the field was evaluated."""

    nats: Tensor
    evaluations: int


class Bits(NamedTuple):
    """Bits per dimension of each image, (B,) float64: an upper bound of the model's own."""

    bits: Tensor
    evaluations: int


def flow(network: Callable, diffusion: Diffusion) -> Callable[[Tensor, float], Tensor]:
    """(x, phi) -> v, interpolated linearly in phi between the two whole steps around it."""
    angles = torch.acos(diffusion.alphas_cumprod.sqrt())
    last = len(angles) - 1

    def at(x: Tensor, t: int) -> Tensor:
        answer = network(x, torch.full((len(x),), t, device=x.device)).to(x.dtype)
        if diffusion.prediction_type == "v_prediction":
            return answer
        signal, noise = float(angles[t].cos()), float(angles[t].sin())
        return signal * diffusion.to_epsilon(answer, x, t) - noise * diffusion.to_x0(answer, x, t)

    def velocity(x: Tensor, phi: float) -> Tensor:
        below = min(max(int(torch.searchsorted(angles, phi, right=True)) - 1, 0), max(last - 1, 0))
        share = (phi - float(angles[below])) / float(angles[min(below + 1, last)] - angles[below] or 1)
        share = min(max(share, 0.0), 1.0)
        parts = [(1 - share, below), (share, below + 1)]
        return sum(weight * at(x, t) for weight, t in parts if weight)

    return velocity


def log_likelihood(
    network: Callable,
    diffusion: Diffusion,
    x: Tensor,
    trace: str = "hutchinson",
    tolerance: float = 1e-3,
    seed: int = 0,
    first: int = 0,
) -> LogLikelihood:
    """log p_0(x), the density of x at the first noise level (see the module's head).

    network: network(x, t), any prediction type. x: (B, C, H, W) float, at noise level t = 0. trace: "exact",
    by as many backward passes as there are pixels, or "hutchinson". tolerance: of dopri5, relative and
    absolute. seed: of the random signs; those of image i depend on (seed, i) alone. first: number of the
    first image, so that a set can be measured in parts. The network is where x is.

    Raises InputError for an unknown trace, a tolerance that is not above 0, an answer that is not finite.
    """
    one_of("trace", trace, TRACES)
    if not tolerance > 0:
        raise InputError(f"tolerance={tolerance!r}: dopri5 needs a number above 0, as 1e-3.")
    field, calls = flow(network, diffusion), [0]
    noise = sampling.NoiseStreams(seed, range(first, first + len(x)), x.shape[1:], x.device)
    signs = noise().sign().to(x.dtype) if trace == "hutchinson" else None

    def slopes(phi: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        calls[0] += 1
        velocity, divergence = velocity_and_divergence(lambda y: field(y, float(phi)), state[0], signs)
        if not (velocity.isfinite().all() and divergence.isfinite().all()):
            raise InputError(
                f"At phi = {float(phi):.3f} the network's answer or its gradient is not finite: its weights "
                "are damaged, or were trained for another prediction type. Load or train them again."
            )
        return velocity, divergence

    ends = torch.acos(diffusion.alphas_cumprod[[0, -1]].sqrt()).to(x.device, x.dtype)
    start = (x.detach(), torch.zeros(len(x), dtype=x.dtype, device=x.device))
    with sampling.evaluating(network):
        end, gained = odeint(slopes, start, ends, method="dopri5", rtol=tolerance, atol=tolerance)
    nats = standard_normal_log_prob(end[-1].double()) + gained[-1].double()
    return LogLikelihood(nats, calls[0])


def bits_per_dimension(
    network: Callable,
    diffusion: Diffusion,
    images: Tensor,
    dequantisation: str = "gaussian",
    tolerance: float = 1e-3,
    seed: int = 0,
    batch_size: int = 32,
) -> Bits:
    """Bits per dimension of digital images: -log2 P(k) / D, from above.

    images: uint8 (N, C, H, W), taken to where the network is. dequantisation: of DEQUANTISATIONS; its noise,
    like the signs, depends on (seed, image) alone, whatever the batches are. The others as `log_likelihood`;
    the evaluations are the mean over batches, the bits are on the CPU.

    Raises InputError for another dtype, an unknown name, or a batch_size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size!r}: give the number of images at once, 1 or more.")
    one_of("dequantisation", dequantisation, DEQUANTISATIONS)
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"Images of {images.dtype} {tuple(images.shape)} are no levels: give uint8 (N, C, H, W)."
        )
    found, evaluations, device = [], [], sampling.device_of(network)
    for first in range(0, len(images), batch_size):
        levels = images[first : first + batch_size].to(device)
        numbers = range(first, first + len(levels))
        draw = sampling.NoiseStreams(stream(seed, "dequantisation"), numbers, levels.shape[1:], device)
        x, correction = _dequantised(from_uint8(levels), diffusion, dequantisation, draw())
        nats, calls = log_likelihood(network, diffusion, x, "hutchinson", tolerance, seed, first)
        found.append(-(nats + correction).cpu() / (math.log(2) * levels[0].numel()))
        evaluations.append(calls)
    return Bits(torch.cat(found), round(sum(evaluations) / len(evaluations)))


def _dequantised(k: Tensor, diffusion: Diffusion, how: str, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Points for levels k, (B, C, H, W) in [-1, 1], and what to add to their log density, (B,) in nats.

    noise: standard normal, like k; its distribution function makes it uniform.
    """
    if how == "uniform":
        x = k + WIDTH * (torch.special.ndtr(noise) - 0.5)
        return x, x.new_full((len(k),), k[0].numel() * math.log(WIDTH), dtype=torch.float64)
    x = diffusion.add_noise(k, noise, 0)
    return x, -_log_evidence(x.double(), diffusion)


def _log_evidence(x: Tensor, diffusion: Diffusion) -> Tensor:
    """log of the sum over levels k of q(x | k), summed over pixels: (B,). Minus it is log P(k|x) - log q."""
    signal, noise = (float(c.sqrt()) for c in (diffusion.alphas_cumprod[0], 1 - diffusion.alphas_cumprod[0]))
    total = torch.full_like(x, -math.inf)
    for level in range(256):
        z = (x - signal * (level * WIDTH - 1)) / noise
        total = torch.logaddexp(total, -0.5 * z.square())
    return (total - math.log(noise * math.sqrt(2 * math.pi))).flatten(1).sum(1)


def exact_network(data: GaussianMixture, diffusion: Diffusion) -> Callable[[Tensor, Tensor], Tensor]:
    """The perfect network for points of a Gaussian mixture, (B, 1, 1, D): v, epsilon or x_0 by formula."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        step = int(t[0])
        abar = diffusion.alphas_cumprod[step]
        score = data.noised(float(abar)).score(x.flatten(1)).view_as(x)
        epsilon = -float((1 - abar).sqrt()) * score
        x0 = (x - float((1 - abar).sqrt()) * epsilon) / float(abar.sqrt())
        return diffusion.to_output(x0, x, step)

    return network
