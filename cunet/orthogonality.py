"""Whether gains add: the second network's over the first, and that of a sampler in fewer steps (claim C25).

The paper calls its gain "orthogonal" to other accelerations. `relative_gain` asks whether they improve both
networks' distance to real images alike, `multiplied` whether two gains in time at one quality multiply. Both
work on resamples that belong together, see `cunet.kernel_distance.distances`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .cost import compare
from .errors import InputError
from .kernel_distance import Distances
from .metrics import tail
from .wording import ends, interval

Key = tuple[str, str, int]  # network, method, calls
Measure = tuple[float, float, float]  # a value with the ends of its 95 % interval


class Gain(NamedTuple):
    """How much accelerations help the second network, over what they help the first: 1, as much.

    ratio, low, high: with its 95 % interval; NaN where no comparison was possible. used: the comparisons,
    (method, calls). left_out: why others are not among them. excess: how far above real images the sets
    compared are, the nearest and the farthest; NaN likewise. own: how much they help the first, likewise.
    """

    ratio: float
    low: float
    high: float
    used: list[tuple[str, int]]
    left_out: dict[tuple[str, int], str]
    excess: tuple[float, float]
    own: Measure


LEAST = 0.05  # of a measured excess: a resampled one that is smaller counts as this


def relative_gain(
    found: Mapping[Key, Distances],
    pairs: Sequence[tuple[str, int]],
    networks: tuple[str, str],
    floor: Distances,
    base: str = "ddpm",
) -> Gain:
    """The geometric mean over (method, calls) of [E_2(base) / E_2(method)] / [E_1(base) / E_1(method)].

    E is the distance above that of real images, `floor`. A comparison takes part when the lower end of the
    95 % interval of all its four E is above 0: a factor of something that is within noise of nothing is not
    measured. In resamples E is at least `LEAST` of what was measured, so that its logarithm exists. found: of
    all sets, whose resamples belong together, since they start from the same noise image by image; those of
    `floor` are its own. pairs: (method, calls) to average over; networks: the first and the second.

    Raises InputError without pairs.
    """
    if not pairs:
        raise InputError("No accelerated method was compared with the base at equal calls: name some.")
    left_out, used, logs, owns, measured = {}, [], [], [], []
    fewest = min(one.n for one in (*found.values(), floor))
    for method, calls in pairs:
        excess = {
            (network, how): found[network, how, calls] - floor
            for network in networks
            for how in (base, method)
        }
        near = [key for key, one in excess.items() if one.interval[0] <= 0]
        if near:
            left_out[method, calls] = ", ".join(f"{network} with {how}" for network, how in near)
            continue
        used.append((method, calls))
        measured += [one.value for one in excess.values()]
        kept = {
            key: np.log(np.maximum(np.append(one.draws, one.value), LEAST * one.value))
            for key, one in excess.items()
        }
        first, second = (kept[n, base] - kept[n, method] for n in networks)
        logs.append(second - first)
        owns.append(first)
    if not logs:
        return Gain(*[math.nan] * 3, used, left_out, (math.nan,) * 2, (math.nan,) * 3)
    both, own = (_measure(np.exp(np.mean(each, axis=0)), fewest) for each in (logs, owns))
    return Gain(*both, used, left_out, (min(measured), max(measured)), own)


def _measure(values: np.ndarray, n: int) -> Measure:
    """The last value with the quantiles of those before it, which may be infinite; of resamples of n images
    (`metrics.tail`)."""
    low, high = np.quantile(values[:-1], (tail(n), 1 - tail(n)), method="nearest")
    return float(values[-1]), float(low), float(high)


def time_ratios(samples: Mapping[Key, Sequence[float]], networks: Sequence[str]) -> list[dict[str, Any]]:
    """A row a method and network: its time over the first network's with the same method, all its numbers of
    calls together. Columns model, method, ratio, and low and high, the 95 % interval over rounds.

    samples: seconds of each set, one a round.
    """
    rows = []
    for method in dict.fromkeys(key[1] for key in samples):
        of = {m: [taken for key, taken in samples.items() if key[:2] == (m, method)] for m in networks}
        both = compare({m: [sum(turn) for turn in zip(*taken, strict=True)] for m, taken in of.items()})
        for m in networks:
            low, high = both.spread[m]
            rows.append(dict(model=m, method=method, ratio=both.ratios[m], low=low, high=high))
    return rows


class Multiplied(NamedTuple):
    """Whether two gains in time at one quality multiply; each number with its 95 % interval.

    level: the quality. by_network: time of the first network over the second's, both with the plain method.
    by_method: the first network's time with the plain method over that with its best. together: the first
    with the plain method over the second with its best. times: together / (by_network by_method), 1 where
    gains multiply. faster: the first network's time at its own best plain quality over the second's for
    that, with any method, 0 where it never gets there. reached: the share of resamples where it does.
    best: the (method, calls) with which it does, None if it does not. alone: as `faster`, of the first
    network itself with any method; alone_best: with which. These two are one-sided: the first network's own
    plain sets reach that quality by construction. each_best: the first's time at `level` over the second's,
    both with whatever serves them best; both reach `level` with the plain method, so it favours neither.
    """

    level: Measure
    by_network: Measure
    by_method: Measure
    together: Measure
    times: Measure
    faster: Measure
    reached: float
    best: tuple[str, int] | None
    alone: Measure
    alone_best: tuple[str, int]
    each_best: Measure


def multiplied(
    found: Mapping[Key, Distances],
    seconds: Mapping[Key, Sequence[float]],
    networks: tuple[str, str],
    plain: str = "ddim",
    seed: int = 0,
) -> Multiplied:
    """Compare times at one quality, with everything that is chosen chosen anew in every resample.

    The quality is the worse of the two networks' best with the plain method, so that both reach it; the time
    is that of the fastest set that is as good or better. In a resample of images and of timing rounds both
    are found again: choosing the best of noisy numbers is part of what is uncertain.

    found: distances of all sets, whose resamples belong together. seconds: of each set those that a sample
    takes, one a round, the rounds of all being the same.

    Raises InputError if the plain method was not tried with both networks.
    """
    if any((m, plain) not in {key[:2] for key in found} for m in networks):
        raise InputError(f"{plain} was not tried with both {' and '.join(networks)}.")
    draws = len(next(iter(found.values())).draws)
    rounds = np.array(list(seconds.values()))
    picks = np.random.default_rng(seed).integers(rounds.shape[1], size=(draws, rounds.shape[1]))
    median = {
        key: np.append(np.median(np.asarray(each)[picks], axis=1), np.median(each))
        for key, each in seconds.items()
    }
    sets: dict[str, list[tuple[str, int]]] = {m: [key[1:] for key in found if key[0] == m] for m in networks}
    distance = {key: np.append(one.draws, one.value) for key, one in found.items()}

    def times(network: str, level: np.ndarray, only: str | None = None) -> np.ndarray:
        """(sets, draws) seconds a sample, infinite where a set is not as good as `level`."""
        return np.array([
            np.where(distance[network, method, k] <= level, median[network, method, k], np.inf)
            for method, k in sets[network] if only in (None, method)
        ])  # fmt: skip

    first, second = networks
    lowest = {
        m: np.min([distance[m, method, k] for method, k in sets[m] if method == plain], axis=0)
        for m in networks
    }
    level = np.maximum(lowest[first], lowest[second])
    start = times(first, level, plain).min(0)
    by_network, by_method = start / times(second, level, plain).min(0), start / times(first, level).min(0)
    together = start / times(second, level).min(0)
    aim = times(second, lowest[first])
    slow = times(first, lowest[first], plain).min(0)
    itself = times(first, lowest[first])
    at, own = int(aim[:, -1].argmin()), int(itself[:, -1].argmin())
    product = together / (by_network * by_method)
    measure = partial(_measure, n=min(one.n for one in found.values()))
    return Multiplied(
        *map(measure, (level, by_network, by_method, together, product, slow / aim.min(0))),
        reached=float(np.isfinite(aim.min(0)[:-1]).mean()),
        best=sets[second][at] if np.isfinite(aim[at, -1]) else None,
        alone=measure(slow / itself.min(0)),
        alone_best=sets[first][own],
        each_best=measure(together / by_method),
    )


def said(measure: Sequence[float], digits: int = 2) -> str:
    """A value with its interval in words, as in 1.20 [1.00, 1.50]."""
    return interval(*measure, f".{digits}f")


def span(gain: Gain) -> str:
    """Between what a gain is measured, and what is cut off in resamples."""
    low, high = gain.excess
    return (
        f"gains are between settings from {low:.1f} to {high:.1f} thousandths above the floor of real images;"
        f" in resamples that excess is cut off below {100 * LEAST:g} % of its measured value"
    )


def claim(time: Measure, method: str, goal: Multiplied, gain: Gain | None) -> dict[str, Any]:
    """The scorecard's row for C25 on one data set.

    time: a sample's time of the cU-Net over the U-Net's, with the method for which its interval ends highest.
    goal: of `multiplied`. gain: of `relative_gain`; None where no method was tried at equal calls. Without a
    comparison that is measured the row has no value, and so no verdict.
    """
    measured = gain is not None and bool(gain.used)
    text = (
        f"a sample of cU-Net takes at most {said(time)} of the U-Net's time with the same method ({method});"
        f" gains in time at one quality {said(goal.by_network, 1)} x {said(goal.by_method, 1)}, together"
        f" {said(goal.times)} times the product; "
    )
    if measured:
        calls = ends([str(k) for k in sorted({k for _, k in gain.used})])
        text += f"methods gain {said(gain.own)} for the U-Net at {calls} calls, and {said(gain[:3])} of that"
        text += f" for cU-Net, over {len(gain.used)} comparisons"
        text += f" ({len(gain.left_out)} more are within noise of real images)" if gain.left_out else ""
        text += f"; {span(gain)}"
    else:
        text += "what methods gain in quality is not measured:"
        text += " in every comparison a set is within noise of real images"
    return dict(
        id="C25",
        measured=text,
        value=dict(
            time=float(time[2]), time_low=float(time[1]), gain=gain.low, gain_high=gain.high, own=gain.own[1]
        )
        if measured
        else None,
        spread="95 % over rounds, and over samples; one training seed",
        why="the paper argues, and its text tries no other acceleration (the authors' code samples with"
        " DDIM); here each is given the same calls. Where methods gain nothing for the U-Net, an equal factor"
        " is no evidence that gains add",
    )


def speedup(goal: Multiplied, plain: str) -> dict[str, Any]:
    """A row beyond the paper: how much sooner the cU-Net has the U-Net's best quality, what of this the U-Net
    has by another sampler alone, and what the network adds at a quality that both reach. plain: how the
    method is called with which the U-Net has its best quality."""
    how = "never good enough in the whole sample"
    if goal.best:
        how = f"with {goal.best[0]}, {goal.best[1]} calls"
    value, low, high = goal.faster
    method, calls = goal.alone_best
    return dict(
        id="ext_speedup",
        claim=f"cU-Net with its best method over the U-Net with {plain}, at the best quality of the latter",
        measured=f"{value:.1f} times as fast ({how}); the U-Net itself with its own best method"
        f" {said(goal.alone, 1)} times (with {method}, {calls} calls); at the quality that both reach with"
        f" {plain}, the cU-Net over the U-Net, each with its best, {said(goal.each_best, 1)} times",
        spread=f"[{low:.1f}, {high:.1f}], 95 % over samples and rounds (0: not reached; reached in"
        f" {100 * goal.reached:.0f} % of resamples); one training seed",
    )
