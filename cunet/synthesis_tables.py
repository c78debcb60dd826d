"""The tables of notebook 07: who is ahead at its best steps, at equal steps, in equal time, in training.

A *curve* is a frame with a row a set of samples and the columns of `cunet.synthesis.row` and
`Yardstick.measure`. "The first" is the network that the others are compared with, the U-Net. Distances of two
networks are compared for one data set, sampler, number of steps and images, and training seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor

from . import bench_tasks, cost, models, palette, paper
from .errors import InputError
from .sources import label, place

MOST = 64  # images of a training step that is timed: the paper's batch of 256 takes 12 GB and minutes here
FLAT = 1.05  # within 5 % of the lowest distance


KEYS = ("dataset", "model", "seed", "sampler", "steps", "noise", "n")  # what tells the rows of a curve apart
MOST_RATIO = 10.0  # of two distances above the floor: larger ones, and those over nothing, count as this
OPEN_RATIO = 1000.0  # of two numbers of steps, where it has no upper end: a diffusion has no more steps


class Best(NamedTuple):
    """The paper's rule, and one that noise on a flat curve does not decide: the number of steps with the
    lowest distance, and the smallest number of steps with a distance within 5 % of it."""

    steps: int
    flat: int
    fd: float


def best(lines: pd.DataFrame) -> Best:
    """Of one network's rows of a curve. Raises InputError without a row that has a distance."""
    if not lines.fd.notna().any():
        raise InputError(
            f"None of {len(lines)} rows has a distance, so no number of steps is best: give one."
        )
    lowest = lines.loc[lines.fd.idxmin()]
    return Best(int(lowest.steps), int(lines.steps[lines.fd <= FLAT * lowest.fd].min()), float(lowest.fd))


def key(row: Any) -> tuple:
    """Of a curve's row (a dictionary, a Series, or of `itertuples`): its values of `KEYS`."""
    return tuple(getattr(row, k) if hasattr(row, "_fields") else row[k] for k in KEYS)


class Chosen(NamedTuple):
    """`Best`'s two numbers of steps in every resample of the samples, int64 (resamples,), and what was tried.

    A number at the edge of what was tried says only that the best is there or beyond.
    """

    lowest: Tensor
    flat: Tensor
    tried: tuple[int, ...]

    def edge(self, steps: int) -> str:
        """Whether a number of steps is the fewest or the most that was tried; "-" if it is neither."""
        return {self.tried[0]: "fewest tried", self.tried[-1]: "most tried"}.get(steps, "-")

    def beyond(self, rule: str) -> tuple[Tensor, Tensor]:
        """Whether a resample's number may be smaller than any that was tried, and whether larger, bool each.

        It may be smaller where it is the fewest tried, and larger where the lowest distance is at the most
        tried: by the rule "flat", too, since what lies within 5 % of a distance that is lower still is not
        known.
        """
        return getattr(self, rule) == min(self.tried), self.lowest == max(self.tried)

    def spread(self) -> dict[str, Any]:
        """The ends of the 95 % intervals, for a table, and which edges that of the lowest distance has."""
        (low, high), (flat_low, flat_high) = ends(self.lowest), ends(self.flat)
        edges = [edge for edge in dict.fromkeys(map(self.edge, (low, high))) if edge != "-"]
        found = dict(steps_low=low, steps_high=high, flat_low=flat_low, flat_high=flat_high)
        return found | dict(edge=", ".join(edges) or "-")


def chosen_steps(lines: pd.DataFrame, drawn: Mapping[tuple, Tensor]) -> Chosen:
    """How sure is a choice of steps? `best` once more for every resample, the same images at all steps.

    lines: one network's rows of a curve, with as many images each. drawn: `Measured.drawn` by `key`.
    """
    lines = lines.sort_values("steps")
    steps = torch.tensor(lines.steps.to_numpy())
    fd = torch.stack([drawn[key(row)] for row in lines.itertuples()])
    lowest = fd.min(0)
    flat = torch.where(fd <= FLAT * lowest.values, steps[:, None], steps.max()).min(0).values
    return Chosen(steps[lowest.indices], flat, tuple(steps.tolist()))


def ends(values: Tensor) -> tuple[float, float]:
    """The ends of a 95 % interval, each of them one of the values."""
    values = values.double()
    return tuple(
        float(values.quantile(q, interpolation=side)) for q, side in ((0.025, "lower"), (0.975, "higher"))
    )


def ratio_of_steps(ours: Chosen, others: Chosen, rule: str = "lowest") -> tuple[float, float]:
    """The 95 % interval of a ratio of two numbers of steps, resample by resample.

    It is open below, 0, where the first may be smaller or the second larger (`Chosen.beyond`), and above,
    `OPEN_RATIO`, where the first may be larger or the second smaller.
    """
    (fewer, more), (others_fewer, others_more) = ours.beyond(rule), others.beyond(rule)
    ratio = getattr(ours, rule).double() / getattr(others, rule).double()
    lower = torch.where(fewer | others_more, 0.0, ratio)
    upper = torch.where(more | others_fewer, OPEN_RATIO, ratio)
    return ends(lower)[0], ends(upper)[1]


def ratio_above(mine: Tensor, theirs: Tensor) -> Tensor:
    """Distances above the floor over others: 0 where the first is not above it, at most `MOST_RATIO`."""
    ratio = torch.where(theirs > 0, mine / theirs, MOST_RATIO)
    return torch.where(mine <= 0, 0.0, ratio).clamp(max=MOST_RATIO)


def over_pairs(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of ratios, one a training seed, with its 95 % interval by Student's t of their
    logarithms; NaN where a ratio is not above 0, or there is one alone."""
    logs = np.log(np.where(np.asarray(ratios, float) > 0, ratios, np.nan))
    mean, n = logs.mean(), len(logs)
    reach = student.ppf(0.975, n - 1) * logs.std(ddof=1) / n**0.5 if n > 1 else math.nan
    return tuple(float(np.exp(x)) for x in (mean, mean - reach, mean + reach))


def main_lines(curve: pd.DataFrame, given: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a curve with the first sampler and the first noise."""
    return curve[(curve.sampler == given["samplers"][0]) & (curve.noise == given["seed"])]


def table_1(chosen: pd.DataFrame, seconds: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """Table 1: ours and, beside it, the paper's row of the same place.

    chosen: rows of a curve, one a data set and network. seconds: of a step, by data set and network.
    `paper_dataset` says what the paper's three numbers are of: where it is not `dataset`, ours is a stand-in,
    and the two are not to be compared.
    """
    printed = {(row.dataset, row.model): row for row in paper.TABLE_1}
    rows = []
    for line in chosen.itertuples():
        theirs = printed.get((place(line.dataset), line.model))
        ours = {key: getattr(line, key) for key in ("dataset", "model", "fd", "fd_low", "fd_high", "steps")}
        ours["seconds_per_sample"] = seconds[line.dataset, line.model] * line.steps
        ours |= {f"paper_{key}": getattr(theirs, key, None) for key in ("fid", "steps", "seconds")}
        ours["paper_dataset"] = place(line.dataset) if theirs else None
        rows.append(ours | {key: getattr(line, key) for key in ("n", "above", "kid", "precision", "recall")})
    return pd.DataFrame(rows)


def as_printed(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 in the paper's layout: a row a network, the paper's and ours, three columns a data set."""
    cells = []
    for line in table.itertuples():
        original, network = place(line.dataset), palette.label(line.model)
        where = label(original) + (f" / {label(line.dataset)}" if original != line.dataset else "")
        theirs = [line.paper_fid, line.paper_steps, line.paper_seconds]
        ours = [f"{line.fd:.2f}", f"{line.steps:.0f}", f"{line.seconds_per_sample:.3g}"]
        rows = {f"{network}, paper: FID": [f"{x:g}" if pd.notna(x) else "-" for x in theirs]}
        rows[f"{network}, here: FD-AlexNet"] = ours
        for row, three in rows.items():
            cells += [
                (row, f"{where}: {h}", c) for h, c in zip(("distance", "steps", "s"), three, strict=True)
            ]
    frame = pd.DataFrame(cells, columns=["network", "column", "cell"])
    wide = frame.pivot(index="network", columns="column", values="cell").fillna("-")
    return wide.loc[list(dict.fromkeys(frame.network)), list(dict.fromkeys(frame.column))]


def against_first(
    curve: pd.DataFrame, model: str, given: Mapping[str, Any], drawn: Mapping[tuple, Tensor]
) -> pd.DataFrame:
    """A network beside the first at equal steps: a row a data set, training seed and number of steps.

    Columns `fd`, `above` (the floor), and the first's `fd_first`, `above_first`; `share`, above over
    above_first: below one is better; `share_low` and `share_high`, the ends of its 95 % interval over samples
    (the floor is taken as known). A variant's seed is that of the first it is held against.

    drawn: `Measured.drawn` by `key`.
    """
    lines, keys = main_lines(curve, given), ["dataset", "seed", "steps", "n"]
    values = ["fd", "fd_low", "fd_high", "above", "drawn"]
    floors = lines.fd - lines.above
    lines = lines.assign(
        drawn=[drawn[key(row)] - x for row, x in zip(lines.itertuples(), floors, strict=True)]
    )
    first = lines[lines.model == given["models"][0]][[*keys, *values]]
    pairs = lines[lines.model == model][[*keys, *values]].merge(first, on=keys, suffixes=("", "_first"))
    spans = [ends(ratio_above(a, b)) for a, b in zip(pairs.drawn, pairs.drawn_first, strict=True)]
    low, high = zip(*spans, strict=True) if spans else ((), ())
    pairs = pairs.assign(share=pairs.above / pairs.above_first, share_low=low, share_high=high)
    return pairs.drop(columns=["drawn", "drawn_first"])


def equal_time(
    curve: pd.DataFrame, seconds: Mapping[tuple[str, str], float], given: Mapping[str, Any]
) -> pd.DataFrame:
    """For the time that the first takes for each number of steps, each network's lowest distance in it."""
    lines = main_lines(curve, given)
    lines = lines[lines.seed == given["seeds"][0]]
    lines = lines.assign(seconds=[seconds[r.dataset, r.model] * r.steps for r in lines.itertuples()])
    rows = []
    for dataset, part in lines.groupby("dataset", sort=False):
        for line in part[part.model == given["models"][0]].itertuples():
            within = part[part.seconds <= line.seconds * 1.001].groupby("model", sort=False).fd.min()
            rows.append({"dataset": dataset, "steps": line.steps, "seconds": line.seconds, **within})
    return pd.DataFrame(rows)


def over_draws(curve: pd.DataFrame, given: Mapping[str, Any]) -> pd.DataFrame:
    """What another draw of the noise changes: the distance's standard deviation over draws, and beside it
    what a bootstrap estimates it to be from one draw."""
    lines = curve[(curve.sampler == given["samplers"][0]) & (curve.seed == given["seeds"][0])]
    groups = lines.groupby(["dataset", "model", "steps"], sort=False)
    frame = groups.agg(draws=("fd", "size"), mean=("fd", "mean"), deviation=("fd", "std"))
    frame["bootstrap"] = groups.apply(lambda g: (g.fd_high - g.fd_low).mean() / 3.92, include_groups=False)
    return frame[frame.draws > 1]


def over_seeds(curve: pd.DataFrame, given: Mapping[str, Any]) -> pd.DataFrame:
    """The distance of several trainings at equal steps: mean, standard deviation and number of seeds."""
    lines = main_lines(curve, given)
    frame = lines.groupby(["dataset", "model", "steps"], sort=False).fd.agg(["mean", "std", "size"])
    return frame[frame["size"] > 1].rename(columns={"std": "deviation", "size": "seeds"})


def images_to(card: Mapping[str, Any], level: float) -> float:
    """Images seen when the validation loss first is `level`, interpolated in the logarithm of the loss.

    Raises InputError for a card without a validation.
    """
    if not card["validation"]:
        raise InputError("The card has no validation loss, so when it came down to one cannot be said.")
    seen, loss = np.array(card["validation"], dtype=float).reshape(-1, 2).T
    lowest = np.minimum.accumulate(loss)  # a rising np.interp needs
    return float(np.interp(-np.log(level), -np.log(lowest), seen))


def committed(card: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's card names a commit with nothing changed since: code that a history can have
    (`cunet.provenance.code_version`)."""
    version = card.get("code_version", "")
    return bool(version) and not version.startswith(("files-", "uncommitted")) and "+" not in version


def training_seconds(
    cards: Mapping[tuple[str, str, int], Mapping], rounds: int, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Seconds that an image takes in training on this machine, by data set and network.

    How long trainings took depends on the day, the threads and what ran beside them. This is the median of
    optimiser steps, with the card's memory format and batch, or `MOST` images if that has more, of all
    networks of a data set in turn.

    cards: as in `convergence`. rounds: how many, 2 or more. seed: of their order.
    """
    found = {}
    for dataset in dict.fromkeys(key[0] for key in cards):
        of = {key[1]: card for key, card in reversed(cards.items()) if key[0] == dataset}
        tasks, counts = {}, {name: min(card["batch_size"], MOST) for name, card in of.items()}
        for name, card in of.items():
            network = models.build(card["model"], size=card["size"], channels=card["channels"])
            images = torch.randn(counts[name], card["channels"], *2 * [card["image_size"]])
            if card["recipe"]["channels_last"]:
                network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
            tasks[name] = bench_tasks.training_task(network, images, network)
        times = cost.time_interleaved(tasks, repeats=max(2, rounds), warmup=1, seed=seed)
        found |= {(dataset, name): times.medians[name] / count for name, count in counts.items()}
    return found


def convergence(
    cards: Mapping[tuple[str, str, int], Mapping], first: str, seconds: Mapping[tuple[str, str], float]
) -> pd.DataFrame:
    """What a network needs to come down to a loss that it and the first both reach: the higher of their two
    last ones.

    cards: of checkpoints, by data set, network and training seed; those without the first beside them are
    left out. seconds: `training_seconds`. `images` and `time` are shares of what the first needs.
    """
    rows = []
    for (dataset, model, seed), card in cards.items():
        other = cards.get((dataset, first, seed))
        if other is None:
            continue
        level = max(other["validation"][-1][1], card["validation"][-1][1])
        images = images_to(card, level) / images_to(other, level)
        time = images * seconds[dataset, model] / seconds[dataset, first]
        rows.append(dict(dataset=dataset, model=model, seed=seed, to_loss=level, images=images, time=time))
    return pd.DataFrame(rows)
