"""What notebook 07 does: which trainings it compares, which samples each makes, what it measures of them.

Sampling is the dearest thing in the chain: images x steps x time a call. So not every training makes as many
sets as every other:

    leading trainings   the first training seed of each network: all numbers of steps; the other samplers, and
                        further draws of the noise, at some of them; at its best steps, more images
    further trainings   other training seeds, and variants: some numbers of steps
    other data sets     all but the first: as many images and numbers of steps as are said for them

A Frechet distance grows as a set shrinks. Distances are therefore compared between sets of one size only, or
above the distance of as many real images (`Yardstick.floor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from . import checkpoints, datasets, drawn, frechet, metrics, subsets
from .checkpoints import Trained
from .errors import InputError
from .shards import Samples

NOISE = 1000  # images of noise that are held at once
FLOORS = 32  # sets of real images behind a mean floor
VARIANTS = ("walltime",)  # trainings beside the standard one that take part where they are there


def name(which: Trained) -> str:
    """The network as tables and figures call it: `cunet`, `cunet-walltime`."""
    return f"{which.model}-{which.variant}" if which.variant else which.model


def standard(model: str) -> str:
    """The network of a training that `name` gave a name: what is left of that without the variant."""
    for variant in VARIANTS:
        model = model.removesuffix(f"-{variant}")
    return model


def trainings(given: Mapping[str, Any], folder: Path) -> tuple[dict[Trained, Path], list[str]]:
    """The checkpoints in `folder` that notebook 07 compares.

    given: its parameters `datasets`, `models`, `seeds`, `size`. A data set takes part when the network that
    the others are compared with is there: the first of `models`, with the first of `seeds`.

    Returns the paths, data set by data set, and the names of what was asked for and does not take part.
    Raises InputError when nothing is left.
    """
    lists = [given[key] for key in ("size", "datasets", "models", "seeds")]
    found, missing = checkpoints.there(folder, *lists)
    extra, _ = checkpoints.there(folder, *lists[:3], given["seeds"][:1], VARIANTS)
    first = {d: Trained(d, given["models"][0], given["seeds"][0]) for d in given["datasets"]}
    kept = {w: p for w, p in {**found, **extra}.items() if first[w.dataset] in found}
    missing += [p.stem for w, p in {**found, **extra}.items() if w not in kept]
    if not kept:
        names = [checkpoints.stem(w.dataset, w.model, given["size"], w.seed) for w in first.values()]
        raise InputError(
            f"In {folder} there is no {' and no '.join(names)}, which the others are compared with. "
            "Choose other datasets, models, seeds or another size, or train them with checkpoints=train."
        )
    order = {d: i for i, d in enumerate(given["datasets"])}
    return dict(sorted(kept.items(), key=lambda item: order[item[0].dataset])), missing


def leads(which: Trained, given: Mapping[str, Any]) -> bool:
    """Whether a training is the one by which its network is judged: the first seed, no variant."""
    return which.seed == given["seeds"][0] and not which.variant


class Draw(NamedTuple):
    """A set of samples and the training that makes it."""

    trained: Trained
    samples: Samples


def draws(given: Mapping[str, Any], found: Mapping[Trained, Path]) -> list[Draw]:
    """The sets of samples that do not depend on what others show, as this module's docstring has them.

    given: the parameters of notebook 07; found: what `trainings` gave.

    Raises InputError for a list that needs an element and has none.
    """
    needed = {"samplers": "", "step_counts": ""}
    if given["draws"] > 1:
        needed["further_step_counts"] = ", at which further draws are made, or draws=1"
    for key, why in needed.items():
        if not given[key]:
            raise InputError(f"{key} is empty: give at least one{why}.")
    first, main, made = next(iter(found)).dataset, given["samplers"][0], []
    for which, path in found.items():
        like_first = which.dataset == first
        count = given["samples" if like_first else "other_samples"]
        steps = given["step_counts" if like_first else "other_step_counts"]
        if not leads(which, given):
            steps = [n for n in given["further_step_counts"] if n in steps]
        asked = [(main, n, given["seed"], count) for n in steps]
        if leads(which, given):
            few = (given["sampler_step_counts"], given["sampler_samples"])
            asked += [(s, n, given["seed"], few[1]) for s in given["samplers"][1:] for n in few[0]]
            at = given["further_step_counts"][:1]
            asked += [(main, n, given["seed"] + more, count) for n in at for more in range(1, given["draws"])]
        made += [Draw(which, Samples(path, *one)) for one in asked]
    return made


def at_best(draw: Draw, steps: int, given: Mapping[str, Any]) -> Draw:
    """The set of `best_samples` images, or as many as there are, that a training makes at its best steps."""
    count = max(draw.samples.count, given["best_samples"])
    return Draw(draw.trained, replace(draw.samples, steps=steps, count=count))


def calls(sets: list[Draw]) -> pd.DataFrame:
    """Images x steps that sets take: a row a data set and network, a column a sampler, for a look ahead."""
    rows = [
        (d.trained.dataset, name(d.trained), d.samples.sampler, d.samples.count * d.samples.steps)
        for d in sets
    ]
    frame = pd.DataFrame(rows, columns=["dataset", "model", "sampler", "calls"])
    return frame.pivot_table("calls", ["dataset", "model"], "sampler", "sum", fill_value=0, sort=False)


def refuse_too_few(given: Mapping[str, Any], dataset: str, train: int, test: int) -> None:
    """Raise InputError where a data set has too few images for the floor of as many as are to be sampled.

    train, test: its images. Of the training images those after the first `reference_images` count.
    """
    count = "samples" if dataset == given["datasets"][0] else "other_samples"
    largest = max((count, "best_samples", "sampler_samples"), key=lambda key: given[key])
    there = test + max(0, train - given["reference_images"])
    if given[largest] > there:
        raise InputError(
            f"{largest}={given[largest]} of {dataset}: {_no_floor(given[largest], there)} Lower "
            f"{largest} or reference_images."
        )


def _no_floor(count: int, there: int) -> str:
    return (
        f"a distance of {count} samples is read above that of as many real images which it is not to, and "
        f"there are {there} of these, so nothing could be judged."
    )


class Measured(NamedTuple):
    """What a table says of a set, and the distances of resamples of it, float64 (resamples,), centred on its
    own: of two sets of as many images from the same noise they are pairs."""

    row: dict[str, float]
    drawn: Tensor


class Yardstick:
    """What the samples of one data set are held against: its images, and their features.

    Args:
        dataset, side: of the images.
        limit: training images that the distances are to.
        seed: of the subsets of KID, of the bootstrap, and of `ceiling`.

    `near_duplicates` is what the card of a drawn data set says of copies (`cunet.neighbours.Duplicates`).
    """

    def __init__(self, dataset: str, side: int, limit: int, seed: int = 0):
        self.train, self.test = (datasets.load(dataset, split, side) for split in datasets.SPLITS)
        self.limit = min(limit, len(self.train))
        self.seed, self.near_duplicates = seed, None
        if dataset in drawn.RECIPES:
            self.near_duplicates = drawn.card(dataset, datasets.data_root() / "drawn").get("near_duplicates")
        self.features = frechet.dataset_features(self.train, limit)
        self.distance = frechet.distance_to(frechet.dataset_statistics(self.train, limit))

    @cached_property
    def _test_features(self) -> Tensor:
        return frechet.dataset_features(self.test)

    def _others(self, count: int) -> Tensor:
        """Features of `count` training images after those that the distances are to."""
        chosen = self.train.images[self.limit : self.limit + count]
        return frechet.dataset_features(datasets.ImageDataset(self.train.name, "train", chosen))

    def floor(self, count: int) -> float:
        """The distance of `count` real images that it is not to: no network's fault.

        They are test images from everywhere (`cunet.subsets`). Where these are too few (LSUN Church has 300),
        training images after the first `limit`, too. A distance of fewer images is larger, and samples would
        seem as good as real images.

        Raises InputError if there are not as many.
        """
        real = self._real(count)
        return self.distance(real[subsets.evenly(len(real), count)])

    def mean_floor(self, count: int) -> float:
        """The mean of `FLOORS` such distances, of sets that are drawn at random; InputError as `floor`.

        That of a single set depends on which images are in it. This falls out of a difference of two
        distances above it, and not of a ratio.
        """
        real, generator = self._real(count), torch.Generator().manual_seed(self.seed)
        chosen = (torch.randperm(len(real), generator=generator)[:count] for _ in range(FLOORS))
        return sum(self.distance(real[rows]) for rows in chosen) / FLOORS

    def _real(self, count: int) -> Tensor:
        """Features of real images that the distances are not to: `count`, or all test images if more."""
        lacking = count - len(self.test)
        if lacking <= 0:
            return self._test_features
        there = len(self.test) + len(self.train) - self.limit
        if count > there:
            raise InputError(
                f"{self.train.name}: {_no_floor(count, there)} Take fewer samples or lower reference_images."
            )
        return torch.cat([self._test_features, self._others(lacking)])

    def ceiling(self, count: int) -> float:
        """The distance of `count` images of pure noise."""
        shape, generator = self.train.images.shape[1:], torch.Generator().manual_seed(self.seed)
        parts = [min(NOISE, count - first) for first in range(0, count, NOISE)]
        noise = (torch.randn((part, *shape), generator=generator).clamp(-1, 1) for part in parts)
        return self.distance(torch.cat([frechet.features(part) for part in noise]))

    def measure(self, features: Tensor, resamples: int) -> Measured:
        """Of samples, given by their features (n, 256): `fd` with the ends of its 95 % bootstrap interval
        (centred), `above`, the distance above `floor`, `kid`, `precision` and `recall`; and the resamples.

        Raises InputError for samples that are all the same, or more than `floor` takes.
        """
        frechet.refuse_alike(features)
        fd, drawn = metrics.resampled(features, self.distance, resamples, seed=self.seed)
        drawn += fd - drawn.mean()
        low, high = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        kid, _ = metrics.kid(self.features, features, seed=self.seed)
        precision, recall = metrics.precision_recall(self.features[: len(features)], features)
        found = dict(fd=fd, fd_low=low, fd_high=high, above=fd - self.floor(len(features)))
        return Measured(found | dict(kid=kid, precision=precision, recall=recall), drawn)


def row(draw: Draw) -> dict[str, Any]:
    """What a table says of a set beside its measures: `seed` is the training's, `noise` that of the noise."""
    of = draw.samples
    return {
        **dict(dataset=draw.trained.dataset, model=name(draw.trained), seed=draw.trained.seed),
        **dict(sampler=of.sampler, steps=of.steps, noise=of.seed, n=of.count),
    }
