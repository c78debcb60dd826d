"""What notebook 07 hands to the scorecard: C06 to C08 and C23, and C05, which rests on times.

A claim has a row for each data set and network that is compared with the first, the U-Net, judged by the
leading training of each; and one more over training seeds, where several were trained. A variant of a network
(`cunet-walltime`) is judged at the numbers of steps that were tried for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from . import sources
from .palette import label
from .synthesis_tables import Best, against_first, best
from .wording import interval

WHY = {
    "C05": "table 1 multiplies what a step costs by how many steps each network takes at its best",
    "C06": "another distance, smaller networks, shorter training; the paper's network was not told the step",
    "C07": "where the curve is flat, its lowest point is an accident of the samples; hence the second rule",
    "C08": "the paper reports no distance at equal steps",
    "C23": "the paper shows no curve; the learning rate falls to zero at the end of each training",
}
NO_FLOOR = "not measured: there are fewer real images to read the floor from than samples"
STAND_IN = "; a stand-in's distances say nothing of the paper's data set"
TOLERANCE = 1.1  # times the first's distance above the floor still counts as no worse (as rule C06 has it)


def no_worse(pairs: pd.DataFrame) -> pd.Series:
    """Whether each distance above the floor is within `TOLERANCE` of the first's, or not above the floor."""
    return pairs.above <= (TOLERANCE * pairs.above_first).clip(lower=0)


def at_best(
    model: str, chosen: pd.DataFrame, found: Mapping[str, Best], first: str
) -> Iterator[dict[str, Any]]:
    """C06 and C07 of one data set: each network at its own best steps.

    chosen: rows of a curve, indexed by network; found: `best` of each network's curve. Without a floor (NaN),
    C06 is not measured.
    """
    c, u = chosen.loc[model], chosen.loc[first]
    text = (
        f"{label(model)}: {interval(c.fd, c.fd_low, c.fd_high)} at {c.steps:.0f} steps against"
        f" {interval(u.fd, u.fd_low, u.fd_high)} at {u.steps:.0f}; above the floor of"
        f" {u.fd - u.above:.2f}, {c.above:.2f} against {u.above:.2f}"
    )
    overlap = bool(c.fd_low <= u.fd_high and u.fd_low <= c.fd_high)
    value = dict(cunet=float(c.above), unet=float(u.above), overlap=overlap)
    row = dict(id="C06", measured=text, value=value)
    yield (row if pd.notna([c.above, u.above]).all() else _unmeasured("C06", model)) | dict(n=int(c.n))
    mine, theirs = found[model], found[first]
    steps = dict(cunet=mine.steps, unet=theirs.steps, cunet_flat=mine.flat, unet_flat=theirs.flat)
    text = "{cunet} steps against {unet} for the lowest, {cunet_flat} against {unet_flat} to come within 5 %"
    yield dict(id="C07", measured=f"{label(model)}: {text.format(**steps)}", value=steps)


def at_equal_steps(model: str, pairs: pd.DataFrame) -> dict[str, Any]:
    """C08 of one data set and any number of training seeds; without a floor somewhere (NaN), not measured."""
    if pairs[["above", "above_first"]].isna().any(axis=None):
        return _unmeasured("C08", model) | dict(n=int(pairs.n.max()))
    text = (
        f"{label(model)}: {pairs.share.min():.2f} to {pairs.share.max():.2f} of the U-Net's distance above"
        f" the floor at {sorted(set(pairs.steps.tolist()))} steps"
    )
    return dict(
        id="C08", measured=text, value=dict(share=float(no_worse(pairs).mean())), n=int(pairs.n.max())
    )


def _unmeasured(claim: str, model: str) -> dict[str, Any]:
    return dict(id=claim, measured=f"{label(model)}: {NO_FLOOR}", value=None)


def over_seeds(model: str, pairs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """C06 and C07 of one data set over training seeds, each network at the best of the steps that all were
    tried at; intervals overlap when the seeds' ranges do."""
    mine = [best(part) for _, part in pairs.groupby("seed")]
    columns = {f"{key}_first": key for key in ("fd", "above")}
    first = pairs[["seed", "steps", *columns]].rename(columns=columns)
    theirs = [best(part) for _, part in first.groupby("seed")]
    ours, others = (frame.loc[frame.groupby("seed").fd.idxmin()] for frame in (pairs, first))
    text = (
        f"{label(model)}, {len(mine)} training seeds: {spread(ours.fd)} against {spread(others.fd)}; above"
        f" the floor, {spread(ours.above)} against {spread(others.above)}"
    )
    overlap = bool(ours.fd.min() <= others.fd.max() and others.fd.min() <= ours.fd.max())
    value = dict(cunet=float(ours.above.mean()), unet=float(others.above.mean()), overlap=overlap)
    row = dict(id="C06", measured=text, value=value)
    yield row if pd.notna(list(value.values())).all() else _unmeasured("C06", model)
    if pairs.steps.nunique() > 2:
        means = {
            f"{who}{rule}": sum(getattr(one, what) for one in found) / len(found)
            for who, found in (("cunet", mine), ("unet", theirs))
            for rule, what in (("", "steps"), ("_flat", "flat"))
        }
        text = "{cunet:.3g} steps against {unet:.3g} for the lowest, {cunet_flat:.3g} against {unet_flat:.3g}"
        text = f"{label(model)}, {len(mine)} training seeds, means: {text.format(**means)} to come within 5 %"
        yield dict(id="C07", measured=text, value=means)


def learning(model: str, rows: pd.DataFrame) -> dict[str, Any]:
    """C23 of one data set: means over the training seeds in `rows` of `convergence`."""
    text = (
        f"{label(model)} needs {spread(rows.images)} of the U-Net's images and {spread(rows.time)} of its"
        f" time to a loss of {spread(rows.to_loss, 4)}"
    )
    return dict(
        id="C23", measured=text, value=dict(images=float(rows.images.mean()), time=float(rows.time.mean()))
    )


def faster(model: str, ratio: Sequence[float], steps: float) -> Iterator[dict[str, Any]]:
    """C05 of one data set.

    ratio: time of a step over the first's, with the ends of its interval. steps: its best number of steps
    over the first's, as in table 1.
    """
    for factor, what in ((1.0, "a step"), (steps, "a sample at its best steps")):
        middle, low, high = (factor * end for end in ratio)
        text = f"{label(model)}: {what} takes {interval(middle, low, high)} of the U-Net's time"
        yield dict(id="C05", measured=text, value=dict(saved=1 - middle, low=1 - high))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """A mean, and where there are several values their range: "0.98 [0.91, 1.02]"."""
    mean, style = sum(values) / len(values), f".{digits}f"
    return f"{mean:{style}}" if len(values) < 2 else interval(mean, min(values), max(values), style)


def claims(
    given: Mapping[str, Any],
    curve: pd.DataFrame,
    chosen: pd.DataFrame,
    found: Mapping[tuple[str, str], Best],
    ratios: Mapping[tuple[str, str], Sequence[float]],
    converged: pd.DataFrame,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows for the scorecard: those that repeat to the byte, and those that rest on times.

    given: the notebook's parameters. curve: every set (`cunet.synthesis_tables`). chosen: the sets at each
    leading training's best steps. found: `best` by data set and network. ratios: time of a step over the
    first's, with its interval. converged: `convergence`.
    """
    first, made, timed = given["models"][0], [], []
    bootstrap = "95 % bootstrap over samples, one training seed"
    for dataset in dict.fromkeys(curve.dataset):
        table = chosen[chosen.dataset == dataset].set_index("model")
        of = {m: best for (d, m), best in found.items() if d == dataset}
        where = dict(dataset=sources.label(dataset), size=given["size"])
        for model in dict.fromkeys(curve[curve.dataset == dataset].model):
            if model == first:
                continue
            pairs = against_first(curve[curve.dataset == dataset], model, given)
            leading, rows = pairs[pairs.seed == given["seeds"][0]], []
            if model in table.index:
                rows += [row | dict(spread=bootstrap) for row in at_best(model, table, of, first)]
            if len(leading):
                rows.append(at_equal_steps(model, leading) | dict(spread=bootstrap))
            if pairs.seed.nunique() > 1:
                common = pairs[pairs.steps.isin(given["further_step_counts"])]
                many = dict(spread=f"range over {pairs.seed.nunique()} training seeds")
                rows += [row | many for row in (*over_seeds(model, common), at_equal_steps(model, common))]
            made += [where | dict(n=int(pairs.n.max())) | row for row in rows]
            learned = converged[(converged.dataset == dataset) & (converged.model == model)]
            if len(learned):
                many = (
                    "one training each" if len(learned) < 2 else f"range over {len(learned)} training seeds"
                )
                timed.append(where | learning(model, learned) | dict(n=len(learned), spread=many))
            if (dataset, model) in ratios and model in table.index:
                steps = table.loc[model, "steps"] / table.loc[first, "steps"]
                rounds = dict(n=given["timing_rounds"], spread="95 % bootstrap over rounds")
                timed += [where | row | rounds for row in faster(model, ratios[dataset, model], steps)]
    for row in (*made, *timed):
        row["why"] = WHY[row["id"]] + (STAND_IN if "stand-in" in row["dataset"] else "")
    return made, timed
