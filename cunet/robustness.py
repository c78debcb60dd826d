"""How robust is a network to what it was not trained for: a wrong noise level, noisy weights, noisy input?

The paper says that a continuous U-Net is more robust to noise than a discrete one (abstract, section 2) and
gives no experiment. Here a trained network is disturbed in four ways, each with a strength of its own:

    level      it is told a noise level that is wrong by this factor; image and contrast are right
    input      every image that it is shown carries further Gaussian noise of this standard deviation
    impulses   of every image that it is shown, this share of the pixels is set to black or white
    weights    every weight is off by Gaussian noise, this share of the root mean square of its tensor

and set to three tasks: to recover an image in one call, to denoise step by step, to sample. What counts is by
what factor its error grows, against its own undisturbed error: how good a network is and how robust it is are
two questions. Both networks get the same images, noise and disturbances, so comparisons are paired.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from .ablations import Draws, draw
from .denoising import denoise, noise_stds
from .denoising_tables import SIGNIFICANT, holm
from .diffusion import Diffusion
from .errors import InputError, one_of
from .frechet import Statistics, distance_to, features, refuse_alike
from .recipe import generator
from .sampling import best_device, evaluating, placed, predict, sample

KINDS = ("level", "input", "impulses", "weights")
TASKS = ("one call", "denoising", "sampling")
MARGIN = 1.05  # two growths of an error that differ by less are alike, whatever the test says


class Disturbed(nn.Module):
    """A network that sees, or is told, something else than what is the case.

    Called as network(x, t), like the one inside, and gives the answer by which the image that the network
    recovers from what it is shown would be told from x. Draws are functions of the seed and of how many calls
    were made before, so that two networks that are called alike meet the same disturbances.
    """

    def __init__(self, network: nn.Module, diffusion: Diffusion, kind: str, strength: float, seed: int = 0):
        super().__init__()
        self.network, self.diffusion, self.kind, self.strength = network, diffusion, kind, strength
        self.channels, self.image_size = network.channels, network.image_size
        self.seed, self.calls = seed, 0
        if kind == "level":
            self.wrong = wrong_steps(diffusion, strength)

    def forward(self, x: Tensor, timestep: int | Tensor) -> Tensor:
        t = torch.as_tensor(timestep, device=x.device).expand(len(x))
        shown, told = getattr(self, f"_{self.kind}")(x, t)
        self.calls += 1
        x0 = self.diffusion.to_x0(self.network(shown, told), shown, told)
        return self.diffusion.to_output(x0, x, t)

    def _level(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        told = self.wrong.to(t.device)[t]
        signal = self.diffusion.alphas_cumprod.sqrt().to(x.device)
        return x * (signal[told] / signal[t]).to(x.dtype)[:, None, None, None], told

    def _input(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(x.shape, generator=generator(self.seed, "input", self.calls))
        return x + self.strength * noise.to(x), t

    def _impulses(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(len(x), 1, *x.shape[2:], generator=generator(self.seed, "impulses", self.calls))
        drawn = drawn.to(x.device)
        x = torch.where(drawn < self.strength / 2, torch.full_like(x, -1), x)
        return torch.where(drawn > 1 - self.strength / 2, torch.full_like(x, 1), x), t


def wrong_steps(diffusion: Diffusion, factor: float) -> Tensor:
    """For each step t the one whose noise, at full contrast, is nearest to `factor` times that of t; (T,).

    The noise of step t has the deviation sqrt(1/abar_t - 1); beyond the last step's, it is the last step.
    """
    log_noise = noise_stds(diffusion).log()
    wanted = log_noise + math.log(factor)
    right = torch.searchsorted(log_noise, wanted).clamp(1, diffusion.timesteps - 1)
    nearer_left = wanted - log_noise[right - 1] < log_noise[right] - wanted
    return torch.where(nearer_left, right - 1, right)


def with_noisy_weights(network: nn.Module, strength: float, seed: int = 0) -> nn.Module:
    """A copy of a network, every learned tensor w replaced by w + strength * rms(w) * N(0, I)."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator(seed, "weights", name))
                weight += strength * weight.square().mean().sqrt() * noise.to(weight)
    return other


def disturb(network: nn.Module, diffusion: Diffusion, kind: str, strength: float, seed: int = 0) -> nn.Module:
    """The network, disturbed; see the module's text.

    kind: one of KINDS. strength: a factor above 0 for `level`, at most 1 for `impulses`, else 0 or more.
    Raises InputError for another kind or strength.
    """
    one_of("kind of disturbance", kind, KINDS)
    least = 1e-6 if kind == "level" else 0.0
    if not least <= strength <= (1.0 if kind == "impulses" else 1e6):
        raise InputError(
            f"strength={strength!r} of the disturbance {kind!r}: expected a factor above 0 for 'level', a "
            "share of 0 ... 1 for 'impulses', and 0 or more otherwise."
        )
    if kind == "weights":
        return with_noisy_weights(network, strength, seed).eval()
    return Disturbed(network, diffusion, kind, strength, seed).eval()


@torch.no_grad()
def one_call_errors(
    model: Callable, diffusion: Diffusion, images: Tensor, levels: Sequence[int], seed: int = 0
) -> Tensor:
    """Mean squared error of the image recovered in one call: float64 (N, levels).

    images: (N, C, H, W) in [-1, 1]. levels: noise steps; the noise depends on the seed and the level alone.
    """
    columns = []
    with evaluating(model):
        for level in levels:
            noise = torch.randn(images.shape, generator=generator(seed, "one call", level))
            x0 = predict(model, diffusion, diffusion.add_noise(images, noise, level - 1), level - 1)
            columns.append((x0 - images).double().square().flatten(1).mean(1))
    return torch.stack(columns, 1)


def geometric(rows: Tensor) -> Tensor:
    """The mean over rows, then the geometric mean over columns: no level outweighs the others."""
    return rows.double().mean(0).log().mean().exp()


def tried(
    model: nn.Module,
    diffusion: Diffusion,
    images: Tensor,
    real: Statistics,
    levels: Sequence[int],
    stride: int,
    samples: int,
    steps: int,
    resamples: int,
    seed: int = 0,
    tasks: Sequence[str] = TASKS,
) -> dict[str, Draws]:
    """What one network, disturbed or not, does in each task: its error, and that of resampled images.

    images: (N, C, H, W), recovered in one call and denoised from each level (a call every `stride` steps;
    LPIPS at the end). real: statistics of the data that samples (DDIM, `steps`) are compared with (FD). For
    walks and samples the model is on the first GPU, where there is one.
    """
    found = {}
    if "one call" in tasks:
        rows = one_call_errors(model, diffusion, images, levels, seed)
        found["one call"] = draw(rows, geometric, resamples, seed)
    if "denoising" in tasks:
        every = diffusion.timesteps  # no walk makes more calls, so that its end alone is scored
        with placed(best_device(), model):
            walks = denoise(model, images, diffusion, levels, ["mean"], ["lpips"], stride, every, seed=seed)
        rows = torch.stack([walks["mean", level].scores["lpips"][:, -1] for level in levels], 1)
        found["denoising"] = draw(rows, geometric, resamples, seed)
    if "sampling" in tasks:
        with placed(best_device(), model):
            drawn = features(sample(model, samples, diffusion, "ddim", steps, seed))
        refuse_alike(drawn)
        found["sampling"] = draw(drawn, distance_to(real), resamples, seed)
    return found


def growth(undisturbed: Draws, disturbed: Draws) -> Draws:
    """Logarithm of the factor by which the error grows, with its resamples.

    These are linearised at the measured errors d and u, disturbed and not: the resamples d* and u* give
    (d* - mean d*) / d - (u* - mean u*) / u. Resampled Frechet distances are too large, since repeats narrow a
    set, and a logarithm of their ratio spreads too little by that.
    """
    value, (d, u) = math.log(disturbed.value / undisturbed.value), (disturbed, undisturbed)
    apart = (d.resamples - d.resamples.mean()) / d.value - (u.resamples - u.resamples.mean()) / u.value
    return Draws(value, value + apart, d.rows)


def compared(growths: Mapping[tuple, tuple[Draws, Draws]]) -> pd.DataFrame:
    """In which settings does the error of which network grow less?

    growths: (task, kind, strength) -> logarithmic growth of the first network and of the second, on the same
    images. Columns: task, kind, strength, first, second (factors), ratio (second over first) with its 95 %
    interval low and high, n (images or samples), p, p_holm (adjusted over all settings), and ahead: "first"
    or "second", whose error grows less, or "" where p_holm is above 0.05 or the two factors differ by less
    than MARGIN.

    p and the interval are Student's, with the n images of the task behind them: the estimate has the standard
    error sqrt(n / (n - 1)) times the deviation of its resamples (a bootstrap of n rows is too narrow by that
    factor), and n - 1 degrees of freedom, or one less than there are resamples, if these are fewer.

    Raises InputError where it is not said how many images are behind a growth, and for fewer than two images
    or resamples.
    """
    rows = []
    for (task, kind, strength), (first, second) in growths.items():
        estimate = second.value - first.value
        n, drawn = min(first.rows, second.rows), second.resamples - first.resamples
        if min(n, len(drawn)) < 2:
            raise InputError(
                f"{task}, {kind} {strength:g}: a test takes 2 images or more and as many resamples, and there"
                f" are {n} and {len(drawn)}."
            )
        freedom = min(n, len(drawn)) - 1
        error = float(drawn.std()) * math.sqrt(n / (n - 1))
        reach = float(student.ppf(0.975, freedom)) * error
        low, high = estimate - reach, estimate + reach
        distance = math.inf if not error and estimate else abs(estimate) / (error or 1.0)
        row = {"task": task, "kind": kind, "strength": strength}
        row |= {"first": math.exp(first.value), "second": math.exp(second.value)}
        row |= {"ratio": math.exp(estimate), "low": math.exp(low), "high": math.exp(high)}
        rows.append(row | {"n": n, "p": 2 * float(student.sf(distance, freedom))})
    frame = pd.DataFrame(rows)
    frame["p_holm"] = holm(frame.p)
    decided = (frame.p_holm <= SIGNIFICANT) & (np.maximum(frame.ratio, 1 / frame.ratio) >= MARGIN)
    frame["ahead"] = np.where(~decided, "", np.where(frame.ratio < 1, "second", "first"))
    return frame


def weigh(frame: pd.DataFrame) -> dict[str, int]:
    """The arguments of the rule of C22. frame: of `compared`, the second network being the continuous one."""
    ahead = frame.ahead
    counted = {"confirmed": ahead == "second", "contradicted": ahead == "first"}
    return {name: int(found.sum()) for name, found in counted.items()} | {"settings": len(frame)}


def reason(value: Mapping[str, int], continuous: float, discrete: float) -> str:
    """In words, whether the stretch of the two networks goes with their robustness; whatever came out.

    value: of `weigh`. continuous, discrete: each network's largest norm of the Jacobian, noisy image to
    recovered image.
    """
    lead = value["confirmed"] - value["contradicted"]
    text = (
        "the paper argues from a bound on the flow. From noisy to recovered image, the largest norm of the"
        f" Jacobian found is {continuous:.2f} for the cU-Net and {discrete:.2f} for the U-Net"
    )
    if continuous == discrete or not lead:
        return f"{text}; neither network is ahead in both, so that this explains nothing"
    agrees = "also" if (continuous < discrete) == (lead > 0) else "not"
    return f"{text}: the network that stretches less is {agrees} the one whose error grows less more often"
