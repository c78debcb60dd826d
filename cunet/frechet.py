"""How far a set of generated images is from a set of real ones.

The Frechet distance between Gaussians fitted to features of the two sets (Dowson and Landau, 1982),

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)),

and precision and recall (Kynkaanniemi et al., 2019). Over Inception features the first is FID (Heusel et al.,
2017); its weights have to be fetched. Over pooled AlexNet features, whose weights ship with the library, the
same computation is FD-AlexNet, and its values are not FID values. Images are float in [-1, 1], (N, C, H, W),
with 1 or 3 channels; their features are computed in `cunet.alexnet`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from cunet import storage
from cunet.alexnet import AlexNetFeatures, colour, dataset_features, features, kept_for
from cunet.datasets import ImageDataset, Slices, checked, to_uint8
from cunet.errors import InputError
from cunet.provenance import code

if TYPE_CHECKING:  # torchmetrics takes 4 s; imported where it is used
    from torchmetrics.image.fid import FrechetInceptionDistance

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The SHA-256 of torch-fidelity's Inception weights, whose first digits stand in the file's name. Projects
that have nothing to do with each other published it of their copies; the file itself was not hashed here."""

CHUNK = 2048  # images whose features are taken into sums at once
PAIRS = 2**23  # distances between images that precision and recall hold at once; 64 MB a part


def dataset_statistics(
    dataset: ImageDataset, limit: int | None = None, cache: Path | None = None
) -> Statistics:
    """Statistics of the first `limit` images of a data set, kept beside their `dataset_features`."""
    file, count = kept_for(dataset, limit, cache, f"statistics-{code(('frechet',))[:8]}")
    return _kept(file, count, lambda: FrechetAlexNet(dataset_features(dataset, limit, cache)).statistics())


def _kept(file: Path, count: int, make: Callable[[], Statistics]) -> Statistics:
    """The statistics of so many images in a file, made and put there if need be."""
    found = storage.kept(file)
    if found is None:
        made = make()
        found = torch.cat([made.total[None], made.outer])
        storage.keep(file, found)
    return Statistics(found[0], found[1:], count)


class Statistics(NamedTuple):
    """All that a Frechet distance needs of a set: sum (D,), sum of outer products (D, D), float64; count."""

    total: Tensor
    outer: Tensor
    count: int


ImageSet = Tensor | ImageDataset | Statistics
"""A set of images: the images (N, C, H, W), a data set, their features (N, D), or their statistics."""


@dataclass(frozen=True)
class Frechet:
    """A squared Frechet distance between two sets, or, where `value` is None, why there is none.

    Attributes:
        value: d^2 as in this module's docstring, which is the convention of FID.
        n_real, n_generated: sizes of the two sets.
        dimension: number of features.
        name: "FD-AlexNet" or "FID".
        note: empty, or what a reader has to know: the computation was skipped, or a set is too small.
    """

    value: float | None
    n_real: int
    n_generated: int
    dimension: int
    name: str = "FD-AlexNet"
    note: str = ""

    def __float__(self) -> float:
        if self.value is None:
            raise InputError(f"{self.name} has no value here: {self.note}")
        return self.value


class Given(nn.Module):
    """The feature extractor of features that are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetAlexNet:
    """FD-AlexNet by batches: `update(images, real=...)`, then `compute()`.

    torchmetrics' FrechetInceptionDistance over AlexNet features, its sums and its matrix square root in
    float64.

    Args:
        real: the real set, or its statistics, when it is known already.
        dimension: number of features; other than 256 only for features from elsewhere.
    """

    def __init__(self, real: ImageSet | None = None, dimension: int = AlexNetFeatures.num_features):
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.dimension = dimension
        self._metric = FrechetInceptionDistance(feature=Given(dimension))
        if real is not None:
            self.update(real, real=True)

    def update(self, images: ImageSet, real: bool) -> FrechetAlexNet:
        """Add images to the real or the generated set, and return this object."""
        if isinstance(images, Statistics):
            self._metric.update(images.total.new_empty(0, self.dimension), real=real)
            _merge(self._metric, images, real)
        else:
            self._metric.update(_as_features(images, self.dimension).double(), real=real)
        return self

    def statistics(self, real: bool = True) -> Statistics:
        """Sums over one of the sets: small, and all that a later computation needs of it."""
        return _statistics(self._metric, real)

    def compute(self) -> Frechet:
        """The distance between the two sets.

        Raises:
            InputError: fewer than two images in one of the sets, or all of them alike.
        """
        return _frechet(self._metric, self.dimension, "FD-AlexNet")


def _names(real: bool) -> list[str]:
    """torchmetrics' names for the sums over one of the sets."""
    kind = "real" if real else "fake"
    return [f"{kind}_features_{what}" for what in ("sum", "cov_sum", "num_samples")]


def _statistics(metric: FrechetInceptionDistance, real: bool) -> Statistics:
    """The sums that a torchmetrics metric has over one of the sets."""
    total, outer, count = (getattr(metric, name).clone() for name in _names(real))
    return Statistics(total, outer, int(count))


def _merge(metric: FrechetInceptionDistance, more: Statistics, real: bool) -> None:
    """Add sums over further images of one of the sets to a torchmetrics metric."""
    state = {name: torch.zeros_like(found) for name, found in metric.metric_state.items()}
    metric.merge_state(state | dict(zip(_names(real), map(torch.as_tensor, more), strict=True)))


def frechet_distance(real: ImageSet, generated: ImageSet) -> Frechet:
    """FD-AlexNet between two sets, each given as images, data set, features or statistics.

    Raises:
        InputError: fewer than two images, all alike, or values that are not finite or not in [-1, 1].
    """
    dimension = AlexNetFeatures.num_features
    if isinstance(real, Statistics):
        dimension = len(real.total)
    elif isinstance(real, Tensor) and real.ndim == 2:
        dimension = real.shape[1]
    return FrechetAlexNet(real, dimension).update(generated, real=False).compute()


def distance_to(real: Statistics) -> Callable[[Tensor], float]:
    """FD-AlexNet to one real set, as a function of features (n, D), for a bootstrap over many resamples.

    The trace of the root comes from the eigenvalues of a symmetric matrix, (C1^(1/2) C2 C1^(1/2))^(1/2), in
    place of those of C1 C2, which takes a quarter of the time; values agree with `frechet_distance`. Whether
    the features differ among themselves is left to `refuse_alike`: few of them, resampled, may all be one.
    Sums go over `CHUNK` images at a time: of their features only a copy and a mask are held.

    Raises InputError for a real set without any spread, and the function for fewer than two images.
    """
    _refuse_no_spread(real)
    mean = real.total / real.count
    covariance = (real.outer - real.count * torch.outer(mean, mean)) / (real.count - 1)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def distance(features: Tensor) -> float:
        features = _as_features(features, len(mean))
        count = len(features)
        if count < 2:
            raise InputError("FD-AlexNet was asked for one generated image; a covariance needs two.")
        centre = sum(part.double().sum(0) for part in features.split(CHUNK)) / count
        few = count < min(len(mean), CHUNK)  # the smaller of two products with the same eigenvalues above 0
        product, spread = 0.0, 0.0
        for part in features.split(CHUNK):  # few are one part
            centred = (part.double() - centre) / (count - 1) ** 0.5
            rows = centred @ root
            product = product + (rows @ rows.T if few else rows.T @ rows)
            spread = spread + centred.square().sum()
        shared = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        gap = (mean - centre).square().sum()
        return float(gap + covariance.trace() + spread - 2 * shared)

    return distance


def _as_features(images: Tensor | ImageDataset, dimension: int) -> Tensor:
    """Features (N, D): as given, or computed from images."""
    if not isinstance(images, Tensor) or images.ndim != 2:
        return features(images)
    if images.shape[1] != dimension or not len(images) or not images.isfinite().all():
        raise InputError(
            f"Features of shape {tuple(images.shape)} cannot be used; expected finite numbers, "
            f"({dimension}) for each of one or more images."
        )
    return images


def _frechet(metric: FrechetInceptionDistance, dimension: int, name: str) -> Frechet:
    """Result of a torchmetrics metric, with its sizes checked."""
    sets = [_statistics(metric, real) for real in (True, False)]
    real, generated = (one.count for one in sets)
    if min(real, generated) < 2:
        raise InputError(
            f"{name} was asked for {real} real and {generated} generated images; a covariance needs two of "
            "each."
        )
    for one in sets:
        _refuse_no_spread(one)
    smaller = min(real, generated)
    note = (
        f"{smaller} images for {dimension} features: the covariance is singular and the distance too large"
        if smaller <= dimension
        else ""
    )
    return Frechet(float(metric.compute()), real, generated, dimension, name, note)


def fid(
    real: Tensor | Slices | ImageDataset,
    generated: Tensor | Slices | ImageDataset,
    weights: str | Path | None = None,
    sha256: str = INCEPTION_SHA256,
    batch_size: int = 64,
    cache: Path | None = None,
) -> Frechet:
    """FID with Inception v3 (2048 features), through torchmetrics; skipped when no weights are given.

    Args:
        real, generated: images in [-1, 1] (N, C, H, W), or data sets; a batch of them is held at a time. Of a
            real data set the sums are kept in a file, and are not computed again with the same weights.
        weights: torch-fidelity's file weights-inception-2015-12-05-6726825d.pth, or None or "" to skip.
        sha256: the file's SHA-256, or its first digits.
        batch_size: images that pass through the network at once.
        cache: the folder for those sums; `features` under the data root by default.

    Raises:
        InputError: no such file, another hash (compared before the file is opened), unusable images, or a set
            of fewer than two images or of one and the same.
    """
    if not weights:
        note = "skipped: no Inception weights were given; FD-AlexNet stands in for it"
        return Frechet(None, len(real), len(generated), 2048, "FID", note)
    metric, digest = _inception(Path(weights), sha256)

    def update(images: Tensor | Slices | ImageDataset, is_real: bool) -> None:
        for start in range(0, max(len(images), 1), batch_size):
            chosen = slice(start, start + batch_size)
            batch = images.batch(chosen) if isinstance(images, ImageDataset) else images[chosen]
            metric.update(colour(to_uint8(checked(batch))), real=is_real)

    def made() -> Statistics:
        update(real, True)
        sums = _statistics(metric, True)
        metric.reset()
        return sums

    if isinstance(real, ImageDataset):
        name = f"inception-{digest[:16]}-{code(('frechet',))[:8]}"
        sums = _kept(*kept_for(real, None, cache, name), made)
        update(generated, False)
        _merge(metric, sums, True)
    else:
        update(real, True)
        update(generated, False)
    return _frechet(metric, 2048, "FID")


def _inception(weights: Path, sha256: str) -> tuple[FrechetInceptionDistance, str]:
    """The metric with the user's weights, and their SHA-256.

    torch-fidelity unpickles whatever the file holds, so the file is opened here first, in torch's mode that
    accepts tensors only, and torch-fidelity is given a copy of those tensors.
    """
    advice = (
        "fetch https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth, or leave the setting empty to skip FID."
    )
    if not weights.is_file():
        raise InputError(f"The Inception weights {weights} do not exist; {advice}")
    from torchmetrics.image.fid import FrechetInceptionDistance

    content = weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if len(sha256) < 8 or not digest.startswith(sha256.lower()):
        raise InputError(f"The Inception weights {weights} have the SHA-256 {digest}, not {sha256}; {advice}")
    try:
        tensors = torch.load(io.BytesIO(content), weights_only=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "inception.pth"
            torch.save(tensors, copy)
            metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(copy))
            return metric, digest
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{weights} is not a file of tensors for Inception v3; {advice}") from error


def precision_recall(
    real: Tensor | ImageDataset, generated: Tensor | ImageDataset, neighbours: int = 3
) -> tuple[float, float]:
    """Improved precision and recall over AlexNet features, each in [0, 1], by torch-fidelity.

    Precision is the share of generated images that lie within the ball to the k-th neighbour of some real
    image, recall the share of real images within such a ball of some generated one. Compare sets of one size
    only: both depend on it.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    real, generated = two_sets(real, generated)
    if min(len(real), len(generated)) <= neighbours:
        raise InputError(
            f"Precision and recall with {neighbours} neighbours were asked for {len(real)} real and "
            f"{len(generated)} generated images; expected more of each than neighbours."
        )
    at_once = max(1, min(2000, PAIRS // max(len(real), len(generated))))
    return calculate_precision_recall_part(generated, real, neighbours, batch_size=at_once)


def two_sets(real: Tensor | ImageDataset, generated: Tensor | ImageDataset) -> tuple[Tensor, Tensor]:
    """Features of both sets in float64."""
    dimension = AlexNetFeatures.num_features
    if isinstance(real, Tensor) and real.ndim == 2:
        dimension = real.shape[1]
    sets = _as_features(real, dimension).double(), _as_features(generated, dimension).double()
    for each in sets:
        refuse_alike(each)
    return sets


def refuse_alike(features: Tensor) -> None:
    """Raise InputError for features (N, D) of two or more images that are all the same."""
    if len(features) > 1 and bool((features == features[0]).all()):
        _refuse(len(features))


def _refuse_no_spread(of: Statistics) -> None:
    """Raise InputError for a set that has no variance beyond what rounding makes."""
    squares = of.outer.diagonal()
    spread = float((squares - of.total**2 / max(of.count, 1)).sum())
    if of.count > 1 and spread <= 1e-12 * float(squares.sum()):
        _refuse(of.count)


def _refuse(count: int) -> None:
    raise InputError(
        f"The {count} images of one of the two sets all have the same features: they are constant, or copies "
        "of one image, and no distance between sets means anything. Look at them: the sampler or the data "
        "went wrong."
    )
