"""Can the noise level be read back from a network? (Section 3 and figure 4 of the paper: the time embedding
lets the network tell it.)

A network is told a diffusion step. Shown one image and told step after step, it takes out more and more
noise. Which of these steps was right? The one that is consistent with itself: told the truth, the noise e
that the network finds has the mean square that it has in all images at that step,

    log mean(e_t^2) = log E[mean(e_t^2)],

with the expectation taken over training images that do have the noise of step t. Told less noise than there
is, the network finds too much, and the other way round; between steps that were tried, the difference is
interpolated over the logarithm of the noise. (It is Morozov's discrepancy
principle: a residual as large as the noise.) Whoever reads does not know the level, so the image comes at
full contrast, y = x_0 + s n, and is scaled for each step as that step expects, sqrt(abar_t) y.

Part of this is arithmetic: e_t is computed from the network's answer with the weights of step t, whatever
the network was told. So the control is the same network with the embedding held still (`ablations.Held`).
What the reading loses by that is what the embedding gives. A network that is blind to the step loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from .denoising import level_for, noise_std
from .diffusion import Diffusion
from .errors import InputError
from .recipe import generator
from .sampling import evaluating

LOWEST, HIGHEST = 0.05, 8.0  # deviations of the noise at full contrast, between which levels are read


def ladder(diffusion: Diffusion, rungs: int) -> list[int]:
    """Diffusion steps whose noise grows by equal factors from LOWEST to HIGHEST, without repetition.

    Raises InputError for fewer than three.
    """
    if rungs < 3:
        raise InputError(f"rungs={rungs}: a level is read on a ladder of 3 steps or more.")
    found = torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), rungs, dtype=torch.float64)
    return sorted({level_for(diffusion, float(deviation)) - 1 for deviation in found})


@torch.no_grad()
def noise_found(network: nn.Module, diffusion: Diffusion, full: Tensor, told: Sequence[int]) -> Tensor:
    """Logarithm of the mean square of the noise that a network finds: float64 (N, told).

    full: noisy images at full contrast, (N, C, H, W). told: the steps that it is told, one after the other,
    and by whose weights its answer is read.

    Raises InputError for no steps.
    """
    if not len(told):
        raise InputError("told is empty: give one diffusion step or more; `ladder` has some.")
    columns = []
    with evaluating(network):
        for t in told:
            x = full * float(diffusion.alphas_cumprod[t].sqrt())
            answer = network(x, torch.full((len(x),), t))
            found = diffusion.to_epsilon(answer, x, t)
            columns.append(found.double().square().flatten(1).mean(1).log())
    return torch.stack(columns, 1)


def at_full_contrast(diffusion: Diffusion, images: Tensor, t: int, seed: int = 0) -> Tensor:
    """x_0 + s n, s the deviation of the noise of step t; n depends on the seed and t alone."""
    noise = torch.randn(images.shape, generator=generator(seed, "reading", t))
    return images + noise_std(diffusion, t + 1) * noise


def read(
    network: nn.Module,
    diffusion: Diffusion,
    known: Tensor,
    images: Tensor,
    true: Sequence[int],
    told: Sequence[int],
    seed: int = 0,
) -> pd.DataFrame:
    """Read the noise level of images whose level is known, by the rule in the module's text.

    known: training images that the expectation is taken over. images: those to be read. true: their steps.
    told: the ladder of steps to choose from.

    A row an image and true step: true (the step), noise and read (true and read deviation of the noise at
    full contrast), octaves (binary logarithm of read over true).

    Raises InputError for no images, known images, or true or told steps.
    """
    counts = dict(known=len(known), images=len(images), true=len(true), told=len(told))
    if lacking := [name for name, count in counts.items() if not count]:
        raise InputError(f"{lacking[0]} is empty: a noise level is read of one image and step or more.")
    expected = [
        noise_found(network, diffusion, at_full_contrast(diffusion, known, t, seed + 1), [t])[:, 0]
        for t in told
    ]
    expected = torch.stack([column.exp().mean().log() for column in expected])
    full = torch.cat([at_full_contrast(diffusion, images, t, seed) for t in true])
    gap = noise_found(network, diffusion, full, told) - expected
    noise = torch.tensor([noise_std(diffusion, t + 1) for t in told], dtype=torch.float64)
    rows = pd.DataFrame({"true": [t for t in true for _ in images]})
    rows["noise"] = [noise_std(diffusion, t + 1) for t in rows.true]
    rows["read"] = crossing(gap, noise.log2()).exp2().tolist()
    rows["octaves"] = [math.log2(r / n) for r, n in zip(rows.read, rows.noise, strict=True)]
    return rows


def crossing(gap: Tensor, at: Tensor) -> Tensor:
    """Where each row of gap, (N, K), falls through 0, between points `at` (K,): float64 (N,).

    By linear interpolation; of several crossings the one next to the smallest gap; without one, that point.
    """
    before, after = gap[:, :-1], gap[:, 1:]
    falls = (before >= 0) & (after < 0)
    places = torch.arange(len(at) - 1) + 0.5
    far = (places - gap.abs().argmin(1)[:, None].double()).abs()
    nearest = torch.where(falls, far, torch.inf).argmin(1, keepdim=True)
    left, right = (side.gather(1, nearest)[:, 0] for side in (before, after))
    i = nearest[:, 0]
    inside = at[i] + (at[i + 1] - at[i]) * left / (left - right)
    return torch.where(falls.any(1), inside, at[gap.abs().argmin(1)])


def error(frame: pd.DataFrame) -> float:
    """Root mean square of the reading's error, in octaves (factors of two) of the noise."""
    return float((frame.octaves**2).mean() ** 0.5)
