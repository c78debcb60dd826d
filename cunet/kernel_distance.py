"""How far generated images are from real ones by a kernel: KID (Binkowski et al., 2018) on AlexNet features.

Unlike a Frechet distance it is unbiased at every number of images. `kid` is torchmetrics', over random
subsets of both sets; `distances` takes whole sets, with a bootstrap in which sets that start from the same
noise are paired.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .datasets import ImageDataset
from .errors import InputError
from .frechet import Given, two_sets

THOUSAND = 1000  # distances are given in thousandths
SUBSETS, SUBSET = 50, 1000  # of `kid`, unless it is told others: how many, and images of each
CHUNK = 2000  # rows of a kernel matrix that are held at once


def kid(
    real: Tensor | ImageDataset,
    generated: Tensor | ImageDataset,
    subsets: int = SUBSETS,
    size: int = SUBSET,
    seed: int = 0,
) -> tuple[float, float]:
    """Kernel distance over AlexNet features: mean and standard deviation over random subsets; unbiased in n.

    Args:
        real, generated: images, data sets or features (N, D).
        subsets: number of subsets.
        size: images a subset; lowered to the smaller set.
        seed: of the choice of subsets.

    Raises:
        InputError: fewer than two images in a set or a subset, all alike, or no subset.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    sets = two_sets(real, generated)
    size = min(size, *(len(each) for each in sets))
    if size < 2 or subsets < 1:
        raise InputError(
            f"KID was asked for {subsets} subsets of {size} images, of {len(sets[0])} real and "
            f"{len(sets[1])} generated ones; it takes one or more, of two or more."
        )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps the features, which are small here
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=Given(sets[0].shape[1]), subsets=subsets, subset_size=size)
        metric.update(sets[0], real=True)
        metric.update(sets[1], real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


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


class Distances(NamedTuple):
    """A distance, the same of resampled images, (R,), and how many images it is of."""

    value: float
    draws: np.ndarray
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval."""
        return self.ends()

    def ends(self, among: int = 1) -> tuple[float, float]:
        """The same; of one among so many that shall hold at once (Bonferroni). The percentiles are expanded
        (`metrics.tail`): plain ones are too narrow where images are few."""
        from .metrics import tail  # which has `kid` from here

        below = tail(self.n, 1 - 0.05 / among)
        low, high = np.quantile(self.draws, (below, 1 - below))
        return float(low), float(high)

    def __sub__(self, other: Distances) -> Distances:
        """The difference to another set of as many resamples: of pairs, where both start from the same noise
        image by image and are resampled with one seed."""
        return Distances(self.value - other.value, self.draws - other.draws, min(self.n, other.n))

    def columns(self, base: Distances | None = None) -> dict[str, float]:
        """As columns of a table: kid, kid_low and kid_high, and those of the difference to `base`, where one
        is given: apart, apart_low and apart_high."""
        named = {"kid": self} | ({} if base is None else {"apart": self - base})
        return {
            name + end: number
            for name, one in named.items()
            for end, number in zip(("", "_low", "_high"), (one.value, *one.interval), strict=True)
        }


def distances(real: RealImages, features: Tensor, resamples: int = 500, seed: int = 0) -> Distances:
    """1000 times KID-AlexNet of a set, (N, D) features, to real images, with a bootstrap over the set.

    The same number as `kid` of whole sets: unbiased at every N, so that real images have 0 in
    expectation however few they are, and a value may be below 0. (A Frechet distance of N images is too
    large by what N and the set's own spread decide: sets of 80 came out nearer than as many real images.)

    A resample weighs image i by how often it was drawn, w_i; pairs of an image with itself stay out, so that
    repeats do not make it look alike: sum_ij w_i w_j k_ij / sum_ij w_i w_j over i != j. A resample in which
    one image fills every place has no pair, and is drawn again. Near real images, where the statistic is
    degenerate, such intervals are too wide, which is the safe side. With one `seed`, the i-th images of all
    sets of a size have one weight, and differences of sets that start from the same noise are those of pairs.

    Raises InputError for fewer than two images.
    """
    rows, count = features.to(real.features.dtype), len(features)
    if count < 2:
        raise InputError(f"A distance of {count} images was asked for: give two or more.")
    to_real = torch.cat([_kernel(some, real.features).double().mean(1) for some in rows.split(CHUNK)])
    choose = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=choose)
    while (alone := (drawn == drawn[:, :1]).all(1)).any():
        drawn[alone] = torch.randint(count, (int(alone.sum()), count), generator=choose)
    weights = torch.cat((torch.ones(1, count), _counted(drawn, count))).double()
    inside = torch.zeros(len(weights), dtype=torch.float64)
    for first in range(0, count, CHUNK):
        pairs = _kernel(rows[first : first + CHUNK], rows).double()
        pairs.diagonal(first).zero_()
        inside += ((weights[:, first : first + CHUNK] @ pairs) * weights).sum(1)
    inside /= count**2 - weights.square().sum(1)
    found = THOUSAND * (inside + real.within - 2 * (weights @ to_real) / count)
    return Distances(float(found[0]), found[1:].numpy(), count)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a . b / D + 1)^3, the kernel of KID (Binkowski et al., 2018)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _kernel_diagonal(rows: Tensor) -> Tensor:
    return (rows.square().sum(1) / rows.shape[1] + 1) ** 3


def _counted(drawn: Tensor, count: int) -> Tensor:
    """How often each of 0 ... count - 1 is in each row."""
    return torch.zeros(len(drawn), count).scatter_add_(1, drawn, torch.ones(drawn.shape))
