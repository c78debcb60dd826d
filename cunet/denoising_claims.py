"""What notebook 08 hands to the scorecard: C09, C10, C13, C14 and C26, and C11, which rests on times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from . import denoising_tables as tables
from .palette import label
from .trajectories import Denoised
from .wording import interval

TIMED = "C11"  # the claim whose verdict another run need not repeat
WHY = {
    "C09": "the paper's networks are larger, its images others, and its cU-Net as released is not told the"
    " step",
    "C10": "as for C09; and LPIPS was made for photographs, and images below 64 pixels are enlarged for it",
    "C11": "where a peak lies may depend on what walks and what is looked at, too: section 5 of the notebook"
    " compares the variants",
    "C13": "the largest loss of either network at {levels} steps of noise, by variant of the protocol:"
    " {variants}",
    "C14": "the paper shows one image",
    "C26": "convexity is a theorem, which a computed P(D) can only check; the curves of the networks' own"
    " walks are bounds of it and no test ({curves}). How near a trained network comes to the posterior mean"
    " is a matter of its size and training",
}
PAIRED = "paired tests over images, Holm over the levels; one training seed"
SPREADS = {
    "C09": PAIRED,
    "C10": PAIRED,
    "C11": PAIRED,
    "C13": "95 % bootstrap over images, level by level; one training seed",
    "C14": "95 % bootstrap over images of the paired difference, step by step; one training seed",
    "C26": "95 % bootstrap over images of each share; one training seed",
}


class Evidence(NamedTuple):
    """What was measured on one data set, of two networks, the U-Net first.

    runs: walks of the tables, by network; others: the same under every variant of the protocol.
    compared: `tables.comparison` of `runs`; cautious: the same with the second network's call at the
    unfavourable end of its time.
    call: time of the second network's call over the first's, with its interval.
    mean: a row a noise level, `noise steps` and, by network, the distance of its first prediction from the
    posterior mean, as a share of the least error, with the ends of its interval in `<network> low` and
    `<network> high`; only rows where that mean is known well enough.
    violation: how far the toy's P(D) lies above its chords. curves: in words, of which side of their chords
    the networks' own curves lie.
    """

    runs: Mapping[str, Denoised]
    others: Mapping[str, Denoised]
    compared: pd.DataFrame
    cautious: pd.DataFrame
    call: Sequence[float]
    mean: pd.DataFrame
    violation: float
    curves: str


def claims(
    given: Mapping[str, Any], found: Mapping[str, Evidence], variants: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows for the scorecard: those that repeat to the byte, and those that rest on times.

    given: the notebook's parameters. found: by data set. variants: of the protocol, of `others`.
    """
    made, timed = [], []
    for dataset, of in found.items():
        where = dict(n=given["images"], dataset=dataset, size=given["size"])
        tried = {v: tables.elbows(of.others, v) for v in variants}
        lost = ", ".join(f"{v} {frame.max(axis=None):.2f}" for v, frame in tried.items())
        levels = list(next(iter(tried.values())).index)
        for row in of_dataset(of, given):
            why = WHY[row["id"]].format(variants=f"{dataset} {lost}", levels=levels, curves=of.curves)
            row |= where | dict(why=why, spread=SPREADS[row["id"]])
            (timed if row["id"] == TIMED else made).append(row)
    return made, timed


def of_dataset(of: Evidence, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a claim, without where and why."""
    variant, names = given["variant"], [label(name) for name in of.runs]
    values = tables.claim_values(of.runs, variant, of.compared, given["seed"])
    values[TIMED] = tables.earlier(of.cautious)
    words = {
        claim: _sides(tables.part(of.compared, score, "value"), names, f"better best {score.upper()}")
        for claim, score in (("C09", "ssim"), ("C10", "lpips"))
    }
    words["C11"] = (
        "{2} earlier in SSIM at {ssim:.0%} of the levels and later at {ssim_later:.0%}, in LPIPS at"
        " {lpips:.0%} and {lpips_later:.0%}, there sooner at {seconds:.0%} and later at {seconds_later:.0%},"
        " a call taking {0} of the time"
    ).format(interval(*of.call), *names, **values["C11"])
    lost, shares = tables.elbows(of.runs, variant), values["C13"]
    ranges = [
        f"{name} {lost[m].min():.2f} to {lost[m].max():.2f}, an elbow at {shares[key]:.0%} of them, none at"
        f" {shares[f'{key}_none']:.0%}"
        for m, name, key in zip(of.runs, names, ("unet", "cunet"), strict=True)
    ]
    words["C13"] = (
        f"share of the gain in LPIPS lost after the peak, over {len(lost)} levels: {'; '.join(ranges)}"
    )
    words["C14"] = (
        "mean SSIM of {} above {}'s at {above:.0%} of the steps at high noise, below at {below:.0%}"
    ).format(*names, **values["C14"])
    for claim, measured in words.items():
        protocol = f" ({variant}, {tables.strides_in_words(given['levels'], given)})"
        yield dict(id=claim, measured=measured + protocol, value=values[claim])
    yield _from_the_mean(of)


def _from_the_mean(of: Evidence) -> dict[str, Any]:
    """C26: not measured where no posterior mean is known well enough."""
    spans = [
        (
            f"{label(m)} at {row['noise steps']:.0f} steps",
            *(100 * row[f"{m}{end}"] for end in ("", " low", " high")),
        )
        for _, row in of.mean.iterrows()
        for m in of.runs
    ]
    at = ", ".join(f"{name} {interval(*numbers, '.1f', ' %')}" for name, *numbers in spans)
    text = (
        f"P(D) of ten images nowhere above its chords by more than {max(of.violation, 0):.0e}; first"
        f" predictions lie from the posterior mean, in shares of its error: {at or 'not known well enough'}"
    )
    value = None
    if spans:
        lows, highs = ([row[i] / 100 for row in spans] for i in (2, 3))
        value = dict(violation=of.violation, gap=max(highs), nearest=min(highs), low=min(lows))
    return dict(id="C26", measured=text, value=value)


def _sides(rows: pd.DataFrame, names: Sequence[str], better: str) -> str:
    """Where which network is ahead, in words."""
    at = {
        side: [int(n) for n in rows.index[rows.ahead == side]] or "no level"
        for side in ("first", "second", "")
    }
    return f"{better}: {names[0]} at {at['first']}, {names[1]} at {at['second']}, undecided at {at['']}"
