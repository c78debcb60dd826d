"""Which image of a set is nearest to a given one: are samples copies, and do two splits share images?"""

from typing import NamedTuple

import torch
from torch import Tensor

from cunet.datasets import Slices
from cunet.errors import InputError


def nearest(
    images: Tensor | Slices, reference: Tensor, chunk: int = 500, rows: int = 4000
) -> tuple[Tensor, Tensor]:
    """Nearest neighbour of each image in a reference set, by pixels.

    Args:
        images, reference: uint8 (N, C, H, W) and (M, C, H, W), as in `ImageDataset.images`.
        chunk, rows: so many images are compared with so many of the reference at once; no more of them are
            held as floats.

    Returns:
        root mean square difference in grey levels of 0 ... 255, float32 (N,), and index of the neighbour
        (N,).
    """
    some = images[:1]
    if some.shape[1:] != reference.shape[1:] or some.dtype != torch.uint8 or not len(reference):
        raise InputError(
            f"Neighbours of {len(images)} images of shape {tuple(some.shape[1:])}, {some.dtype}, in "
            f"{tuple(reference.shape)} {reference.dtype} cannot be found; expected uint8 images of one shape."
        )
    squares = [part.flatten(1).float().square().sum(1) for part in reference.split(rows)]
    found = [_nearest(images[first : first + chunk], reference, squares) for first in _starts(images, chunk)]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _starts(images: Tensor | Slices, chunk: int) -> range:
    """Where the parts of images begin; there is one of none, too."""
    return range(0, max(len(images), 1), chunk)


def _nearest(images: Tensor, reference: Tensor, squares: list[Tensor]) -> tuple[Tensor, Tensor]:
    """`nearest` of a few images. squares: of the reference's, in the parts in which it is gone through."""
    flat = images.flatten(1).float()
    least, first = torch.full((len(images),), torch.inf), 0
    index = torch.zeros(len(images), dtype=torch.int64)
    for square in squares:
        rows = reference[first : first + len(square)].flatten(1).float()
        value, where = (square - 2 * flat @ rows.T).min(1)
        index = torch.where(value < least, first + where, index)
        least, first = torch.minimum(value, least), first + len(square)
    return (flat - reference[index].flatten(1).float()).square().mean(1).sqrt(), index


class Duplicates(NamedTuple):
    """How near one set's images come to another's, in grey levels (root mean square): share of them nearer
    than `threshold`, the least distance, and the median one."""

    share: float
    least: float
    median: float
    threshold: float


def near_duplicates(test: Tensor, train: Tensor, threshold: float = 8.0) -> Duplicates:
    """Near-duplicates of the images `test` among the images `train`, both as in `nearest`.

    Raises InputError as `nearest`, or if `test` is empty.
    """
    if not len(test):
        raise InputError("Near-duplicates were asked for of no images: give one or more.")
    distances, _ = nearest(test, train)
    share = float((distances < threshold).float().mean())
    return Duplicates(share, float(distances.min()), float(distances.median()), threshold)
