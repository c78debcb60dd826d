"""Which image of a set is nearest to a given one: are samples copies, and do two splits share images?"""

from typing import NamedTuple

import torch
from torch import Tensor

from cunet.errors import InputError


def nearest(images: Tensor, reference: Tensor, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """Nearest neighbour of each image in a reference set, by pixels.

    Args:
        images, reference: uint8 (N, C, H, W) and (M, C, H, W), as in `ImageDataset.images`.
        chunk: images compared at once.

    Returns:
        root mean square difference in grey levels of 0 ... 255, float32 (N,), and index of the neighbour
        (N,).
    """
    if images.shape[1:] != reference.shape[1:] or images.dtype != torch.uint8 or not len(reference):
        raise InputError(
            f"Neighbours of {tuple(images.shape)} {images.dtype} in {tuple(reference.shape)} "
            f"{reference.dtype} cannot be found; expected uint8 images of one shape."
        )
    flat = reference.flatten(1).float()
    squares = flat.square().sum(1)
    found = [(squares - 2 * part.flatten(1).float() @ flat.T).argmin(1) for part in images.split(chunk)]
    index = torch.cat(found)
    difference = images.float() - reference[index].float()
    return difference.square().flatten(1).mean(1).sqrt(), index


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
