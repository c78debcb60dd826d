"""What the samples of notebook 11 are held against: real images of their data set, and how far those are.

The distance is `cunet.kernel_distance.distances` to training images. Its floor is that of test images, taken
from everywhere in the test set: what real images have. All sets that one yardstick measures are resampled
alike, so that the draws of two sets that start from the same noise belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from . import datasets, frechet, subsets
from .datasets import ImageDataset
from .guidance import LinearProbe
from .kernel_distance import Distances, RealImages, distances

HELD_OUT = 2000  # test images behind the floor, at most


@dataclass(frozen=True)
class Yardstick:
    """train: the training images, all. test: the test images behind the floor, and `held_out` their features.
    real: features of training images, the first. floor: the distance of the test images. resamples, seed: of
    the bootstrap of all that is measured."""

    train: ImageDataset
    test: ImageDataset
    held_out: Tensor
    real: RealImages
    floor: Distances
    resamples: int
    seed: int

    @classmethod
    def of(cls, dataset: str, side: int, images: int, resamples: int, seed: int) -> Yardstick:
        """dataset: a name. side: of its images in pixels. images: training images to compare with, at most;
        test images are as many, at most `HELD_OUT`."""
        train, test = (datasets.load(dataset, split, side) for split in datasets.SPLITS)
        real = RealImages.of(frechet.dataset_features(train, min(images, len(train))))
        some = subsets.part(test, min(images, HELD_OUT))
        held_out = frechet.features(some)
        floor = distances(real, held_out, resamples, seed + 1)  # not paired with samples: draws of its own
        return cls(train, some, held_out, real, floor, resamples, seed)

    def distance(self, images: Tensor) -> Distances:
        """Of generated images, (N, C, H, W) in [-1, 1]."""
        return self.of_features(frechet.features(images))

    def of_features(self, features: Tensor) -> Distances:
        """Of generated images, by their features (N, D)."""
        return distances(self.real, features, self.resamples, self.seed)

    def probe(self) -> LinearProbe:
        """A classifier that has seen the training images compared with, and no others."""
        return LinearProbe(self.real.features, self.train.labels[: len(self.real.features)])


def table(found: Mapping[tuple, Distances], names: Sequence[str]) -> pd.DataFrame:
    """A row a set of samples: the parts of its key under `names`, then `Distances.columns` of it."""
    rows = [dict(zip(names, key, strict=True)) | one.columns() for key, one in found.items()]
    return pd.DataFrame(rows, columns=[*names, "kid", "kid_low", "kid_high"])
