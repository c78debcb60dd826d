"""Two networks compared image by image along their denoising runs: tables 2 and 3, and what the rules take.

Both networks get the same images with the same noise, so every comparison is paired. A mean has a bootstrap
interval over images; a difference has a sign-flip permutation test (Fisher 1935): were the networks alike,
each image's difference could as well have the other sign. Of the tests for one table column, one a noise
level, the p-values are adjusted by Holm (1979). In all tables "first" is the network that the other one,
"second", is compared with, and a difference is second minus first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import linregress, norm, permutation_test
from scipy.stats import t as student
from torch import Tensor

from . import metrics, paper
from .errors import InputError
from .trajectories import METRICS, Denoised
from .wording import interval

SCORES = ("ssim", "lpips")  # the columns of tables 2 and 3
SIGNIFICANT = 0.05  # the largest adjusted p that decides a level
HIGH = 400  # noise steps from which on the noise is called high
ELBOW = 0.1  # the share of the gain whose loss makes an elbow


def band(values: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bootstrap intervals of the means of many columns: what `metrics.bootstrap_interval` gives for each.

    values: (N, K), a row an image. Returns the lower and the upper ends, float64 (K,).
    """
    values, generator = torch.as_tensor(values).double(), torch.Generator().manual_seed(seed)
    n = len(values)
    counts = torch.stack(
        [torch.randint(n, (n,), generator=generator).bincount(minlength=n) for _ in range(resamples)]
    )
    below = metrics.tail(n, level)
    ends = torch.tensor([below, 1 - below], dtype=torch.float64)
    low, high = (counts.double() @ values / n).quantile(ends, dim=0)
    return low, high


def sign_flip(difference: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0, over images: exact up to 13 images, else 9999 draws."""
    found = permutation_test(
        (torch.as_tensor(difference).double().numpy(),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number (Holm 1979), in the order given."""
    p = np.asarray(p, dtype=float)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return adjusted


def strides(levels: Sequence[int], given: Mapping[str, Any]) -> dict[int, list[int]]:
    """At which stride which of some levels are walked: those of `fine_levels` at `fine_stride`, since at few
    steps of noise a peak has few places, the others at `stride`.

    given: the parameters of notebook 08. Returns stride -> levels.
    """
    found: dict[int, list[int]] = {}
    for level in levels:
        stride = given["fine_stride"] if level in given["fine_levels"] else given["stride"]
        found.setdefault(stride, []).append(level)
    return found


def strides_in_words(levels: Sequence[int], given: Mapping[str, Any]) -> str:
    """As in "stride 10, at 50 and 100 steps 5"."""
    (first, _), *others = sorted(strides(levels, given).items(), key=lambda one: one[0] != given["stride"])
    parts = [f"at {' and '.join(map(str, some))} steps {stride}" for stride, some in others]
    return ", ".join([f"stride {first}", *parts])


def together(parts: Sequence[Denoised]) -> Denoised:
    """Runs of the same images from different levels as one; a call takes their mean, by calls."""
    calls = [sum(len(one.steps) - 1 for one in part.trajectories.values()) for part in parts]
    seconds = sum(n * part.seconds_per_call for n, part in zip(calls, parts, strict=True)) / sum(calls)
    return Denoised({key: one for part in parts for key, one in part.trajectories.items()}, seconds)


def comparison(
    runs: Mapping[str, Denoised], variant: str, seconds: Mapping[str, float], seed: int = 0
) -> pd.DataFrame:
    """Every number of tables 2 and 3: a row a noise level, metric and quantity.

    runs: two networks by name, on the same images.    variant: of `trajectories.VARIANTS`.
    seconds: time of one diffusion step of one image, by network.

    Columns: noise, metric (ssim, lpips), quantity (value: the best score; step: noise steps removed where it
    was reached; seconds: time to there at one network call a noise step), first, first_low, first_high,
    second, second_low, second_high, difference, difference_low, difference_high, p, p_holm, ahead: "first"
    or "second" where p_holm is at most 0.05, else "".
    """
    if len(runs) != 2:
        raise InputError(f"A paired comparison is of two networks, not of {len(runs)}: {', '.join(runs)}.")
    levels = sorted(level for v, level in next(iter(runs.values())).trajectories if v == variant)
    rows = []
    for metric in SCORES:
        for quantity in ("value", "step", "seconds"):
            rising = quantity == "value" and METRICS[metric] is max
            lines = [
                _line([_quantity(runs[m], m, variant, level, metric, quantity, seconds) for m in runs], seed)
                for level in levels
            ]
            for level, line, p in zip(levels, lines, holm([line["p"] for line in lines]), strict=True):
                ahead = "second" if (line["difference"] > 0) == rising else "first"
                decided = {"p_holm": p, "ahead": ahead if p <= SIGNIFICANT else ""}
                rows.append({"noise": level, "metric": metric, "quantity": quantity} | line | decided)
    return pd.DataFrame(rows)


def _quantity(run: Denoised, name: str, variant: str, level: int, metric: str, quantity: str, seconds):
    best, step = run[variant, level].best(metric)
    return {"value": best, "step": step, "seconds": step * seconds[name]}[quantity].double()


def _line(pair: Sequence[Tensor], seed: int) -> dict[str, float]:
    first, second = pair
    columns = torch.stack([first, second, second - first], 1)
    low, high = band(columns, seed=seed)
    line = {}
    for i, name in enumerate(("first", "second", "difference")):
        line |= {
            name: float(columns[:, i].mean()),
            f"{name}_low": float(low[i]),
            f"{name}_high": float(high[i]),
        }
    return line | {"p": sign_flip(second - first, seed)}


def part(frame: pd.DataFrame, metric: str, quantity: str) -> pd.DataFrame:
    """The rows of one metric and quantity, indexed by noise level."""
    return frame[(frame.metric == metric) & (frame.quantity == quantity)].set_index("noise")


def table_2(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as the paper lays it out, first / second, with intervals, the adjusted p, and the paper's."""
    printed = {(row.noise, row.model): row for row in paper.TABLE_2}
    columns = {}
    for metric in SCORES:
        rows = part(frame, metric, "value")
        columns[f"best {metric.upper()}"] = [_both(row, ".3f") for _, row in rows.iterrows()]
        columns[f"p ({metric.upper()})"] = rows.p_holm.round(4).to_numpy()
        columns[f"paper: {metric.upper()}"] = [_printed(printed, noise, metric) for noise in rows.index]
    return pd.DataFrame(columns, index=part(frame, "ssim", "value").index.rename("noise steps"))


def table_3(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 3 likewise: the step of the best value, and the seconds to it."""
    printed = {(row.noise, row.model): row for row in paper.TABLE_3}
    columns = {}
    for metric in SCORES:
        for quantity, style in (("step", ".0f"), ("seconds", ".2f")):
            rows, head = part(frame, metric, quantity), f"{metric.upper()} {quantity}"
            columns[head] = [_both(row, style) for _, row in rows.iterrows()]
            columns[f"p ({head})"] = rows.p_holm.round(4).to_numpy()
            columns[f"paper: {head}"] = [
                _printed(printed, noise, f"{metric}_{quantity}") for noise in rows.index
            ]
    return pd.DataFrame(columns, index=part(frame, "ssim", "step").index.rename("noise steps"))


def _both(row: pd.Series, style: str) -> str:
    return " / ".join(interval(row[n], row[f"{n}_low"], row[f"{n}_high"], style) for n in ("first", "second"))


def _printed(rows: Mapping, noise: int, column: str) -> str:
    pair = [rows.get((noise, model)) for model in ("unet", "cunet")]
    return " / ".join(f"{getattr(row, column)}" for row in pair) if all(pair) else ""


def weigh(frame: pd.DataFrame, metric: str) -> dict[str, int]:
    """At how many levels of table 2 the paired test finds the paper's better network, and the other one.

    frame: of `comparison`, first the U-Net. Returns the arguments of the rules of C09 and C10.
    """
    ahead = part(frame, metric, "value").ahead
    printed = {(row.noise, row.model): getattr(row, metric) for row in paper.TABLE_2}
    levels = [noise for noise in ahead.index if (noise, "unet") in printed]
    good = METRICS[metric]
    favoured = {
        n: "first" if good(printed[n, "unet"], printed[n, "cunet"]) == printed[n, "unet"] else "second"
        for n in levels
    }
    confirmed = sum(ahead[n] == favoured[n] for n in levels)
    contradicted = sum(ahead[n] not in ("", favoured[n]) for n in levels)
    return {"confirmed": int(confirmed), "contradicted": int(contradicted), "levels": len(levels)}


def earlier(frame: pd.DataFrame) -> dict[str, float]:
    """Shares of the levels at which the second network peaks earlier, and later; is there sooner, and later:
    what the rule of C11 takes.

    For the time a level counts as sooner when the second network is ahead both to the best SSIM and to the
    best LPIPS, and as later when it is behind to one of them.
    """
    shares = {}
    for side, ending in (("second", ""), ("first", "_later")):
        step, time = (
            {metric: part(frame, metric, quantity).ahead == side for metric in SCORES}
            for quantity in ("step", "seconds")
        )
        shares |= {f"{metric}{ending}": float(step[metric].mean()) for metric in SCORES}
        times = time["ssim"] & time["lpips"] if side == "second" else time["ssim"] | time["lpips"]
        shares[f"seconds{ending}"] = float(times.mean())
    return shares


def elbows(runs: Mapping[str, Denoised], variant: str, metric: str = "lpips") -> pd.DataFrame:
    """`Trajectory.elbow` of each network (columns) at each noise level (rows)."""
    levels = sorted(level for v, level in next(iter(runs.values())).trajectories if v == variant)
    found = {name: [run[variant, level].elbow(metric) for level in levels] for name, run in runs.items()}
    return pd.DataFrame(found, index=pd.Index(levels, name="noise steps"))


def elbow_intervals(
    runs: Mapping[str, Denoised], variant: str, metric: str = "lpips", seed: int = 0
) -> pd.DataFrame:
    """`elbows` with 95 % bootstrap intervals over images: a row a network and noise level, columns model,
    noise, lost, low, high."""
    rows = []
    for name, column in elbows(runs, variant, metric).items():
        for level, lost in column.items():
            walk = runs[name][variant, level]
            scores, (best, _) = walk.scores[metric].double(), walk.best(metric)
            lost_gained = ((scores[:, i] - best).abs() for i in (-1, 0))
            low, high = ratio_band(*lost_gained, seed=seed)
            rows.append(dict(model=name, noise=level, lost=lost, low=low, high=high))
    return pd.DataFrame(rows)


def has_elbow(intervals: pd.DataFrame) -> dict[str, float]:
    """What the rule of C13 takes, from `elbow_intervals` of two networks, the first the U-Net."""
    shares = {}
    for name, (_, rows) in zip(("unet", "cunet"), intervals.groupby("model", sort=False), strict=True):
        shares[name] = float((rows.low > ELBOW).mean())
        shares[f"{name}_none"] = float((rows.high <= ELBOW).mean())
    return shares


def heights(
    distortion: Sequence[float], perception: Sequence[float], drawn: Sequence[Tensor]
) -> tuple[float, float, float]:
    """The largest height of a curve above the chord between its points of least and greatest distortion, as a
    share of the curve's height, with its 95 % interval: the largest of the inner points' lower ends, and of
    their upper ends, which hold for all of them at once (normal, Bonferroni).

    drawn: resamples of each point's perception, of the same images at all points.
    """
    distortion, perception = (np.asarray(x, float) for x in (distortion, perception))
    order = np.argsort(distortion, kind="stable")
    at = distortion[order]

    def above_chord(curve: np.ndarray) -> np.ndarray:
        """At the inner points; (points, ...) -> (points - 2, ...)."""
        share = ((at - at[0]) / (at[-1] - at[0])).reshape(-1, *[1] * (curve.ndim - 1))
        return (curve - (1 - share) * curve[0] - share * curve[-1])[1:-1] / np.ptp(perception)

    found = above_chord(perception[order])
    noise = above_chord(torch.stack(list(drawn)).numpy()[order]).std(1, ddof=1)
    reach = norm.ppf(1 - 0.025 / len(found)) * noise
    return float(found.max()), float((found - reach).max()), float((found + reach).max())


def sides(spans: Sequence[Sequence[float]]) -> str:
    """In words, on which side of their chords curves lie, from their `heights`."""
    rises, below = sum(low > 0 for _, low, _ in spans), sum(high <= 0 for *_, high in spans)
    left = len(spans) - rises - below
    return f"{rises} of {len(spans)} rise above their chord, {below} lie below it, {left} are undecided"


def growth(work: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """By which power of the work the time grows: the slope of a line through the logarithms, with its 95 %
    interval by Student's t."""
    found = linregress(np.log(np.asarray(work, float)), np.log(np.asarray(seconds, float)))
    reach = student.ppf(0.975, len(work) - 2) * found.stderr
    return tuple(float(found.slope + x) for x in (0, -reach, reach))


def ratio_band(
    above: Tensor, below: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval over images of a ratio of two means, 0 where the upper one is 0.

    above, below: (N,), none negative, a row an image.
    """
    n, generator = len(above), torch.Generator().manual_seed(seed)
    rows = torch.randint(n, (resamples, n), generator=generator)
    top, bottom = (torch.as_tensor(x).double()[rows].mean(1) for x in (above, below))
    ratios = torch.where(top > 0, top / bottom, 0.0)
    tails = metrics.tail(n, level)
    return (
        float(ratios.quantile(tails, interpolation="lower")),
        float(ratios.quantile(1 - tails, interpolation="higher")),
    )


def above(
    runs: Mapping[str, Denoised], variant: str, metric: str = "ssim", seed: int = 0
) -> dict[str, float]:
    """Shares of the steps at high noise where the first network's mean is above the second's, and below.

    A step counts where the 95 % interval of the paired difference leaves out 0. Noise levels from 400 on, or
    the highest there is. The rule of C14.
    """
    first, second = runs.values()
    levels = [level for v, level in first.trajectories if v == variant]
    signs = []
    for level in [level for level in levels if level >= HIGH] or [max(levels)]:
        scores = (run[variant, level].scores[metric][:, 1:].double() for run in (first, second))
        low, high = band(-torch.stack(list(scores)).diff(dim=0)[0], seed=seed)
        signs.append((low > 0).int() - (high < 0).int())
    signs = torch.cat(signs)
    return {"above": float((signs > 0).float().mean()), "below": float((signs < 0).float().mean())}


def claim_values(runs: Mapping[str, Denoised], variant: str, frame: pd.DataFrame, seed: int = 0) -> dict:
    """What the rules of C09, C10, C11, C13 and C14 take. runs: two networks, the first the U-Net."""
    return {
        "C09": weigh(frame, "ssim"),
        "C10": weigh(frame, "lpips"),
        "C11": earlier(frame),
        "C13": has_elbow(elbow_intervals(runs, variant, seed=seed)),
        "C14": above(runs, variant, seed=seed),
    }
