"""How good images are: against a reference one by one, and a set against a set.

Image by image: SSIM and PSNR measure distortion, LPIPS (Zhang et al., 2018) measures perceptual distance. Set
against set: FD-AlexNet, FID, precision and recall, which live in `cunet.frechet`, KID, in
`cunet.kernel_distance`, and the features behind them, in `cunet.alexnet`; they are named here too. And what
their readers ask next: how uncertain is the number, and has the training set been copied. Images are float in
[-1, 1], (B, C, H, W), with 1 or 3 channels. What is out of that range is refused. Images in [0, 1] are within
it: no metric can tell them from bright ones, and their numbers would be wrong. Map them first, by 2 x - 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cunet.alexnet import AlexNetFeatures, colour, dataset_features, enlarge, features, lpips_network
from cunet.datasets import checked
from cunet.errors import InputError
from cunet.frechet import (
    Frechet,
    FrechetAlexNet,
    Statistics,
    fid,
    frechet_distance,
    precision_recall,
)
from cunet.kernel_distance import kid
from cunet.neighbours import near_duplicates, nearest

__all__ = [
    "AlexNetFeatures",
    "Frechet",
    "FrechetAlexNet",
    "Interval",
    "Statistics",
    "bootstrap_interval",
    "dataset_features",
    "features",
    "fid",
    "frechet_distance",
    "kid",
    "lpips",
    "near_duplicates",
    "nearest",
    "precision_recall",
    "psnr",
    "resampled",
    "ssim",
    "tail",
]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004) of each pair, 1 for equal images.

    Gaussian window of 11 pixels with sigma 1.5, over images mapped to [0, 1]; the mean over channels and over
    the positions where the whole window lies in the image, as Wang et al. and scikit-image take it.

    The windows are matrix products in float64: torchmetrics' convolution of that precision takes 50 times as
    long, longer than a network's call, and in float32 flat areas lose four digits to cancellation. (Its own
    mean also includes windows over mirrored edges; on small images it differs by up to 0.1.)

    Args:
        a: the originals, float in [-1, 1], (B, C, H, W), sides of 11 pixels or more.
        b: what is held against them, of the same shape.

    Returns:
        float32 (B,), at most 1.

    Raises:
        InputError: shapes that differ or are too small; values that are not finite or not in [-1, 1];
            several originals whose pixels all have one value. (A constant image is compared, as the bad
            answer of a network or as one original among others: that is what SSIM's small constants are for.)
    """
    a, b = _pair(a, b, smallest=11)
    rows, columns = (_windows(side) for side in a.shape[-2:])
    mean_a, mean_b, square_a, square_b, product = (
        rows @ image @ columns.T for image in (a, b, a * a, b * b, a * b)
    )
    spread = square_a - mean_a**2 + square_b - mean_b**2
    covariance, small = product - mean_a * mean_b, (0.01**2, 0.03**2)
    luminance = (2 * mean_a * mean_b + small[0]) / (mean_a**2 + mean_b**2 + small[0])
    structure = (2 * covariance + small[1]) / (spread + small[1])
    return (luminance * structure).mean(dim=(1, 2, 3)).float()


def _windows(side: int, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Gaussian weights of a window at each place where it fits in whole: float64 (side - size + 1, side)."""
    at = torch.arange(side, dtype=torch.float64)
    centres = at[size // 2 : side - size // 2, None]
    weights = torch.exp(-((at - centres) ** 2) / (2 * sigma**2)) * ((at - centres).abs() <= size // 2)
    return weights / weights.sum(1, keepdim=True)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair in decibel, 10 log10(1 / MSE) over images mapped to [0, 1].

    Arguments and errors are those of `ssim`, with no smallest side; equal images give inf.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio  # 4 s

    a, b = _pair(a, b, smallest=1)
    values = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values.reshape(-1).float()


@torch.no_grad()
def lpips(a: Tensor, b: Tensor, batch_size: int = 128) -> Tensor:
    """Learned perceptual distance (Zhang et al., 2018; AlexNet, version 0.1) of each pair, 0 for equal
    images.

    Images with a side below 64 are first enlarged bilinearly until the short side is 64, so that each of the
    five convolution stages sees more than one position. From 64 on the value is the `lpips` package's own.

    Args:
        a, b: as of `ssim`, but with sides of 16 pixels or more.
        batch_size: pairs that pass through the network at once.

    Returns:
        float32 (B,).

    Raises:
        InputError: as `ssim`.
    """
    _pair(a, b, smallest=16)
    network = lpips_network().to(a.device)
    pairs = zip(a.float().split(batch_size), b.float().split(batch_size), strict=True)
    return torch.cat([network(*(colour(enlarge(x)) for x in pair)).reshape(-1) for pair in pairs])


def _pair(a: Tensor, b: Tensor, smallest: int) -> tuple[Tensor, Tensor]:
    """Both checked and mapped to [0, 1] in float64."""
    a, b = checked(a), checked(b)
    if a.shape != b.shape or min(a.shape[-2:]) < smallest:
        raise InputError(
            f"Images of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; expected two "
            f"batches of one shape with sides of {smallest} pixels or more."
        )
    if len(a) > 1 and a.min() == a.max():
        raise InputError(
            f"Every pixel of {len(a)} originals is {float(a.min()):.4g}, so they show nothing that could be "
            "compared. Look at the images: they were cleared, not loaded, or clipped at an end of [-1, 1]."
        )
    return (a.double() + 1) / 2, (b.double() + 1) / 2


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    values: Tensor,
    statistic: Callable[[Tensor], float | Tensor] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    centred: bool = False,
) -> Interval:
    """Bootstrap confidence interval (Efron, 1979) of a statistic of N independent values or feature vectors.

    Percentiles of the resamples; of means, those of `tail`, since a mean's are too narrow for small N.

    Args:
        values: (N, ...), one row an image.
        statistic: a number from resampled rows (N, ...); their mean by default.
        resamples: number of resamples; for a Frechet distance, at some 70 ms each, 100 give the ends of an
            interval to a quarter of its deviation, and 400, for where a verdict hangs on them, to an eighth.
        level: coverage.
        seed: of the resampling.
        centred: shift the resamples' mean onto the estimate. For Frechet distances: a resample repeats
            images, so that its covariance is poorer, and its distance larger, than that of N different ones.

    Raises:
        InputError: fewer than two rows, rows that are not finite, or no resample.
    """
    estimate, draws = resampled(values, statistic, resamples, seed)
    if centred:
        draws += estimate - draws.mean()
    below = tail(len(values), level) if statistic is None else (1 - level) / 2
    low, high = draws.quantile(torch.tensor([below, 1 - below]).double())
    return Interval(estimate, float(low), float(high))


def tail(n: int, level: float = 0.95) -> float:
    """The share of resampled means of n values to leave out at either end of an interval.

    (1 - level) / 2 is too much where n is small: a resample's variance is (n - 1) / n of that of the data,
    and the normal distribution is narrower than Student's. So Phi(-sqrt(n / (n - 1)) t), t Student's quantile
    with n - 1 degrees of freedom ("expanded percentile interval", Hesterberg, The American Statistician
    69:371, 2015). At n = 12 the plain one covers 91 % in place of 95.
    Raises InputError for fewer than two values.
    """
    from scipy.stats import norm, t

    if n < 2:
        raise InputError(f"No interval can be given for a mean of {n} values; give two or more.")
    return float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf((1 + level) / 2, n - 1)))


def resampled(
    values: Tensor,
    statistic: Callable[[Tensor], float | Tensor] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, Tensor]:
    """A statistic of N rows, and of `resamples` resamples of them, float64 (resamples,).

    Arguments and errors are those of `bootstrap_interval`. Two calls with as many rows, resamples and the
    same seed choose the same rows: the difference of their draws is that of pairs.
    """
    values = torch.as_tensor(values)
    if values.ndim < 1 or len(values) < 2 or not values.isfinite().all():
        raise InputError(
            f"No interval can be given for values of shape {tuple(values.shape)}; expected two or more "
            "rows of finite numbers (leave out infinite ones, such as the PSNR of equal images, and say "
            "how many)."
        )
    if resamples < 1:
        raise InputError(f"resamples={resamples!r}: a bootstrap takes 1 or more; 1000 are usual.")
    statistic = statistic or (lambda rows: rows.double().mean())
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.randint(len(values), (len(values),), generator=generator) for _ in range(resamples))
    draws = torch.tensor([float(statistic(values[rows])) for rows in chosen], dtype=torch.float64)
    return float(statistic(values)), draws
