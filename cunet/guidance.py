"""Images of a class, by classifier-free guidance (Ho and Salimans 2022).

A network that knows classes is one network for both questions: what is in this picture, given that it is of
class c, and given nothing. In training a share of the labels is replaced by "no class". In sampling the two
answers are taken apart,

    answer = u + w (c - u),        u: without the class, c: with it, w: the guidance scale.

w = 0 ignores the class, w = 1 samples the learned p(x | c), and w > 1 goes further in the direction that the
class points to: truer to the class, less varied. (What their equation 6 calls w is 1 less.) Given x_t,
noise, clean image and v are linear in each other with weights that add up, so any of them may be guided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from . import sampling
from .errors import InputError
from .frechet import features
from .kernel_distance import Distances
from .metrics import Interval

ENDS = ("", "_low", "_high", "_all_low", "_all_high")
COLUMNS = ("scale", *(name + end for name in ("right", "kid", "apart") for end in ENDS))
"""What `sweep` says of a scale."""


class Guided(nn.Module):
    """A network with classes, as a network without: the guided answer for fixed labels.

    network: one of `cunet.models.build` with classes. labels: (B,) integers, the class of each image of the
    batches that it will be given. scale: w, any finite number; at 0 and 1 one call of the network is enough,
    else both questions are put in one call of 2 B images.

    Raises InputError for a network that knows no classes, or a scale that is not finite.
    """

    def __init__(self, network: nn.Module, labels: Tensor | Sequence[int], scale: float):
        super().__init__()
        if not getattr(network, "classes", 0):
            raise InputError(
                f"The network {getattr(network, 'name', type(network).__name__)!r} knows no classes: train "
                "one that does, such as --model cunet@classes=10."
            )
        if not abs(scale) < float("inf"):
            raise InputError(f"scale={scale!r}: expected a number; 0 ignores the class, 1 is unguided.")
        self.network, self.scale = network, float(scale)
        self.channels, self.image_size = network.channels, network.image_size
        self.register_buffer("labels", torch.as_tensor(labels), persistent=False)

    def forward(self, sample: Tensor, timestep: int | Tensor, *ignored) -> Tensor:
        """sample (B, C, H, W), one a label; timestep as the network takes it. Returns like sample."""
        labels = self.labels.to(sample.device)
        if len(labels) != len(sample):
            raise InputError(f"{len(sample)} images for {len(labels)} labels: give as many.")
        if self.scale in (0.0, 1.0):
            return self.network(sample, timestep, labels if self.scale else None)
        none = torch.full_like(labels, self.network.classes)
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        both = self.network(torch.cat((sample, sample)), torch.cat((t, t)), torch.cat((labels, none)))
        with_class, without = both.chunk(2)
        return torch.lerp(without, with_class, self.scale)


@torch.no_grad()
def sample(
    network: nn.Module, labels: Tensor, scale: float, diffusion, batch_size: int = 64, **settings
) -> Tensor:
    """An image a label, from pure noise.

    labels: (N,) integers, the class of each image. scale: see `Guided`. batch_size, settings: see
    `cunet.sampling.sample`; image i starts from the same noise whatever labels and scale are.

    Returns (N, C, H, W) float32 on the CPU, in [-1, 1]. Raises InputError as `Guided` and that function do.
    """
    labels, first = torch.as_tensor(labels), settings.pop("first", 0)
    if not len(labels) or batch_size < 1:
        raise InputError(
            f"{len(labels)} labels in batches of {batch_size}: give the class of each image that is wanted, "
            "and one image at once or more."
        )
    parts = [
        sampling.sample(
            Guided(network, part, scale), len(part), diffusion, batch_size=batch_size,
            first=first + begin * batch_size, **settings,
        )
        for begin, part in enumerate(labels.split(batch_size))
    ]  # fmt: skip
    return torch.cat(parts)


def share(right: Tensor, among: int = 1) -> Interval:
    """The share of True, with the ends of its 95 % interval (Clopper and Pearson 1934).

    right: bool (N,), one an image. among: how many such intervals shall hold at once (Bonferroni): those of
    all that one was chosen from, when the same images say which.

    Raises InputError for no image or another kind.
    """
    if right.dtype != torch.bool or right.ndim != 1 or not len(right):
        raise InputError(
            f"A share of {right.dtype} of shape {tuple(right.shape)}: give one bool an image, (N,), N >= 1."
        )
    found = binomtest(int(right.sum()), len(right))
    return Interval(found.statistic, *found.proportion_ci(1 - 0.05 / among, "exact"))


def sweep(
    network: nn.Module,
    diffusion,
    scales: Sequence[float],
    probe: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor], Distances],
    images: int,
    steps: int,
    seed: int = 0,
) -> tuple[list[dict], list[Tensor]]:
    """Images of all classes in turn, by DDIM in `steps` steps, at each scale from the same noise.

    network: one with classes. probe: features (N, D) -> the class of each. distance: features -> how far the
    set is from real images. The network is on the first GPU, where there is one, while it draws.

    Returns a row a scale, with `COLUMNS`, and its images. right is the share that is of the class asked for,
    kid the distance, and apart what it is more than at the scale nearest 1, of pairs. _low and _high end the
    95 % interval of each, _all_low and _all_high the one that holds for all scales at once.
    """
    judged, far, made = [], [], []
    labels = torch.arange(images) % network.classes
    for scale in scales:
        with sampling.placed(sampling.best_device(), network):
            made.append(sample(network, labels, scale, diffusion, steps=steps, seed=seed))
        found = features(made[-1])
        judged.append(probe(found) == labels)
        far.append(distance(found))
    plain = far[min(range(len(scales)), key=lambda i: abs(scales[i] - 1))]
    rows = []
    for scale, right, one in zip(scales, judged, far, strict=True):
        measured = [(share(right), share(right, len(scales))[1:])]
        measured += [((x.value, *x.ends()), x.ends(len(scales))) for x in (one, one - plain)]
        numbers = [number for alone, together in measured for number in (*alone, *together)]
        rows.append(dict(zip(COLUMNS, (scale, *numbers), strict=True)))
    return rows, made


def training(card: Mapping[str, Any]) -> str:
    """How a network came to know its classes, in words, from its checkpoint's card."""
    start = card["recipe"].get("start")
    begun = f"from the weights of {start}" if start else "from random weights"
    return f"{card['dataset']}, {card['model']}: trained on {card['images_seen']:,} images, {begun}"


class LinearProbe:
    """A linear classifier on fixed features: which class is a picture of?

    Ridge regression of one-hot labels on standardised features, in closed form; the class with the largest
    value wins. With features that were learned elsewhere (`cunet.alexnet`), it judges pictures independently
    of the networks that made them.

    features: (N, D) float, finite. labels: (N,) integers on the same device, 0 ... classes - 1; the largest
    says how many classes there are. penalty: added to the mean square of each standardised feature.

    Raises InputError for features or labels of another kind, or fewer than two classes.
    """

    def __init__(self, features: Tensor, labels: Tensor, penalty: float = 1e-3):
        self._check(features, labels)
        classes, x = int(labels.max()) + 1, features.double()
        self.mean, self.std = x.mean(0), x.std(0).clamp(min=1e-6)
        x = (x - self.mean) / self.std
        wanted = torch.nn.functional.one_hot(labels.long(), classes).double()
        self.bias = wanted.mean(0)
        gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
        self.weight = torch.linalg.solve(gram, x.T @ (wanted - self.bias) / len(x))

    @staticmethod
    def _check(features: Tensor, labels: Tensor) -> None:
        if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32):
            given = getattr(labels, "dtype", type(labels).__name__)
            raise InputError(f"The labels are {given}: give a tensor of integers, the class of each picture.")
        if features.ndim != 2 or not features.is_floating_point() or labels.shape != features.shape[:1]:
            raise InputError(
                f"Features of shape {tuple(features.shape)} and dtype {features.dtype} with labels of shape "
                f"{tuple(labels.shape)}: give floats (N, D) and a class for each row, (N,)."
            )
        if labels.device != features.device:
            raise InputError(
                f"The labels are on {labels.device} and the features on {features.device}: move the labels."
            )
        known = labels.unique().tolist()
        if len(known) < 2 or known[0] < 0:
            raise InputError(
                f"The labels are of the classes {known}: a classifier needs two or more, counted from 0."
            )
        if not features.isfinite().all():
            raise InputError("The features hold NaN or infinite values: see what they were computed from.")

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) -> the class of each, (N,) int64. Raises InputError for another D."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise InputError(
                f"Features of shape {tuple(features.shape)}: this classifier learned from {len(self.mean)} "
                f"numbers a picture, so give (N, {len(self.mean)})."
            )
        return (((features.double() - self.mean) / self.std) @ self.weight + self.bias).argmax(1)
