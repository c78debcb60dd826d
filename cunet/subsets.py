"""Which images stand for a data set where not all can be used.

The first ones need not be like the others: the first half of MNIST's test images is by other writers than the
second, and farther from the training images. Every k-th one need not be, either: the avatars have their head
styles in turn, so that most k leave some out. So a data set is cut into equal stretches, and one image is
taken from each, at a place drawn once and for all: whoever asks for as many images gets the same ones, which
is what pairs networks image by image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .datasets import ImageDataset
from .errors import InputError
from .recipe import generator


def evenly(total: int, count: int) -> Tensor:
    """The numbers of `count` images of 0 ... total - 1, one from each of as many equal stretches.

    Returns int64 (count,), rising. Raises InputError for fewer than none, or more than there are.
    """
    if not 0 <= count <= total:
        raise InputError(f"{count} images were asked for, of a data set of {total}: give 0 ... {total}.")
    ends = torch.arange(count + 1) * total // max(count, 1)
    width = ends.diff()
    drawn = torch.rand(count, dtype=torch.float64, generator=generator(0, "evenly", total, count))
    return ends[:-1] + (drawn * width).long()


def images(dataset: ImageDataset, count: int) -> Tensor:
    """`count` images from everywhere (`evenly`): float32 (count, C, H, W) in [-1, 1]."""
    return dataset.batch(evenly(len(dataset), count))


def part(dataset: ImageDataset, most: int) -> ImageDataset:
    """The same images with their labels, as a data set; all of them where there are fewer than `most`."""
    chosen = evenly(len(dataset), min(most, len(dataset)))
    labels = None if dataset.labels is None else dataset.labels[chosen]
    return ImageDataset(dataset.name, dataset.split, dataset.images[chosen], labels, dataset.credit)
