"""What notebook 07 has to compute: its sets of samples, their features and distances (see `cunet.work`).

Which sets a job makes follows from its parameters and from the networks that were released
(`cunet.synthesis`). Shards make what can be said beforehand (`shared`); the sets at each network's best
number of steps are the notebook's own.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from cunet import checkpoints, kernel_distance, models, synthesis
from cunet.checkpoint_names import Trained
from cunet.samplers import SAMPLERS
from cunet.shards import BLOCK
from cunet.synthesis import Draw
from cunet.synthesis_tables import MOST
from cunet.work import BACKWARD, FEATURES, Item, Work, distances, images

KERNELS = 3 * kernel_distance.SUBSETS  # of a KID: within each set, and between them


def _sets(of: dict[str, Any]) -> tuple[list[Draw], list[tuple[Draw, Draw]]]:
    """Notebook 07's sets of samples, and those at the best steps, each with the set that it goes on from.

    At which number of steps a network is best is not known before: the most, where a distance falls with
    every step, as those of the committed run do.
    """
    if of["checkpoints"] == "released":
        found, _ = synthesis.trainings(of, checkpoints.ASSETS)
    else:
        asked = (Trained(*which) for which in product(of["datasets"], of["models"], of["seeds"]))
        found = {which: Path(which.stem(of["size"])) for which in asked}
    draws, best = list(dict.fromkeys(synthesis.draws(of, found))), []
    for which in (which for which in found if synthesis.leads(which, of)):
        lines = [
            one
            for one in draws
            if one.trained == which
            and one.samples.sampler == of["samplers"][0]
            and one.samples.seed == of["seed"]
        ]
        most = max(lines, key=lambda draw: draw.samples.steps)
        best.append((synthesis.at_best(most, most.samples.steps, of), most))
    return draws, best


def _there(best: Draw, before: Draw) -> int:
    """How many images of a set at the best steps the set that it goes on from has: its blocks, if whole."""
    whole = before.samples.count == best.samples.count
    return before.samples.count if whole else before.samples.count // BLOCK * BLOCK


def _made(of: dict[str, Any], draw: Draw, count: int) -> Work:
    """`count` images of a set, made and passed through AlexNet."""
    which, samples = draw
    network = (which.model, of["size"], images(which.dataset)[2])
    calls = count * SAMPLERS[samples.sampler].calls(samples.steps)
    return Work({Item("sample", network): calls, Item("made"): count})


def shared(of: dict[str, Any]) -> Work:
    """What of notebook 07's work shards do, if there are any: its sets, without those at the best steps."""
    return sum((_made(of, draw, draw.samples.count) for draw in _sets(of)[0]), Work())


def kept(of: dict[str, Any]) -> tuple[int, int]:
    """Bytes that notebook 07's sets keep, features and pixels: those of `shared`, and what is left."""

    def size(draw: Draw, there: int) -> int:
        pixels = images(draw.trained.dataset)[2] * models.image_size(of["size"]) ** 2
        return (draw.samples.count - there) * (FEATURES + pixels)

    draws, best = _sets(of)
    return sum(size(one, 0) for one in draws), sum(size(one, _there(one, before)) for one, before in best)


def set_sizes(of: dict[str, Any], dataset: str) -> set[int]:
    """The sizes of notebook 07's sets of a data set, of which it takes floor and ceiling."""
    found = {draw.samples.count for draw in _sets(of)[0] if draw.trained.dataset == dataset}
    return {*found, of["best_samples"]} if found else set()


def count(of: dict[str, Any]) -> Work:
    """Every training's sets of samples, their features, their intervals, timed steps, and the search for
    copies among those at the best steps, and among as many test images."""
    draws, best = _sets(of)
    work = shared(of)
    steps = 1 + max(2, of["timing_rounds"] // 3)  # the first warms up
    for dataset, model in dict.fromkeys((one.trained.dataset, one.trained.model) for one in draws):
        work[Item("call", (model, of["size"], images(dataset)[2]))] += steps * MOST * BACKWARD
    for one, before in best:
        work += _made(of, one, one.samples.count - _there(one, before))
    for one in [*draws, *(one for one, _ in best)]:
        work[Item("distance")] += distances(of["resamples"] + 1, one.samples.count)
        work[Item("kernel")] += KERNELS * min(kernel_distance.SUBSET, one.samples.count) ** 2
    for dataset in dict.fromkeys(draw.trained.dataset for draw in draws):
        counts = set_sizes(of, dataset)
        work[Item("feature")] += sum(counts)  # of pure noise
        work[Item("distance")] += sum(distances(2, n) for n in counts)
        train, test, channels = images(dataset)
        searched = [one.samples.count for one, _ in best if one.trained.dataset == dataset]
        searched.append(min(max(searched), test))
        work[Item("pixel")] += sum(searched) * train * channels * models.image_size(of["size"]) ** 2
    return work
