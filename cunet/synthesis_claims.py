"""What notebook 07 hands to the scorecard: C06 to C08 and C23, and C05, which rests on times.

A claim has a row for each data set and network that is compared with the first, the U-Net, judged by the
leading training of each; and one more over training seeds, where several were trained. A variant of a network
(`cunet-walltime`) is judged at the numbers of steps that were tried for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from . import sources, wording
from .palette import label
from .synthesis_tables import (
    OPEN_RATIO,
    Chosen,
    against_first,
    ends,
    key,
    over_pairs,
    ratio_above,
    ratio_of_steps,
)
from .wording import interval

WHY = {
    "C05": "table 1 multiplies what a step costs by how many steps each network takes at its best;"
    " what a step costs follows from the widths that we chose",
    "C06": "another distance, smaller networks, shorter training; the network of the released code is not"
    " told the step, and this one is; a less varied set has a smaller bias, which the floor does not take"
    " away: see KID",
    "C07": "where the curve is flat, its lowest point is an accident of the samples; hence the second rule",
    "C08": "the paper reports no distance at equal steps; of the floor, see C06",
    "C23": "the paper shows no curve; the learning rate falls to zero at the end of each training",
}
NO_FLOOR = "not measured: there are fewer real images to read the floor from than samples"
AT_THE_FLOOR = "a distance is not above that of real images, so that its ratio over seeds has no logarithm"
STAND_IN = "; a stand-in's distances say nothing of the paper's data set"
TOLERANCE = 1.1  # times the first's distance above the floor still counts as no worse (as rule C08 has it)


def judged(pairs: pd.DataFrame) -> dict[str, int]:
    """The arguments of the rule of C08. pairs: with the interval of each share."""
    as_good, worse = pairs.share_high <= TOLERANCE, pairs.share_low > TOLERANCE
    return dict(as_good=int(as_good.sum()), worse=int(worse.sum()), tried=len(pairs))


def at_best(
    model: str, chosen: pd.DataFrame, steps: Mapping[str, Chosen], first: str, drawn: Mapping[tuple, Tensor]
) -> Iterator[dict[str, Any]]:
    """C06 and C07 of one data set: each network at its own best steps.

    chosen: rows of a curve, indexed by network; steps: how each network's were chosen. Without a floor (NaN),
    C06 is not measured.
    """
    c, u = chosen.loc[model], chosen.loc[first]
    floor = u.fd - u.above
    text = (
        f"{label(model)}: {interval(c.fd, c.fd_low, c.fd_high)} at {c.steps:.0f} steps against"
        f" {interval(u.fd, u.fd_low, u.fd_high)} at {u.steps:.0f}; above the floor of"
        f" {floor:.2f}, {c.above:.2f} against {u.above:.2f}"
    )
    if pd.notna([c.above, u.above]).all():
        mine, theirs = (drawn[key({**row, "model": m})] - floor for m, row in ((model, c), (first, u)))
        low, high = ends(ratio_above(mine, theirs))
        text += f", the ratio of the two in {low:.2f} to {high:.2f}"
        yield dict(id="C06", measured=text, value=dict(low=low, high=high), n=int(c.n))
    else:
        yield _unmeasured("C06", model) | dict(n=int(c.n))
    ours, others = steps[model], steps[first]
    value, words = {}, []
    for rule, what in (("lowest", "for the lowest"), ("flat", "to come within 5 % of it")):
        pair = getattr(ours, rule), getattr(others, rule)
        spans = [wording.ends([f"{end:.0f}" for end in ends(one)]) for one in pair]
        span = ratio_of_steps(ours, others, rule)
        value |= dict(zip((f"{rule}_low", f"{rule}_high"), span, strict=True))
        words.append(f"{spans[0]} steps against {spans[1]} {what}")
    text = f"{label(model)}, in 95 % of resamples: {', '.join(words)}; tried: {list(ours.tried)}"
    yield dict(id="C07", measured=text, value=value)


def at_equal_steps(model: str, pairs: pd.DataFrame) -> dict[str, Any]:
    """C08 of one data set, a row a number of steps; without a floor somewhere (NaN), not measured."""
    number = dict(n=int(pairs.n.max()))
    if pairs[["share", "share_low", "share_high"]].isna().any(axis=None):
        return _unmeasured("C08", model) | number
    value = judged(pairs)
    text = (
        f"{label(model)}: {pairs.share.min():.2f} to {pairs.share.max():.2f} of the U-Net's distance above"
        f" the floor at {sorted(set(pairs.steps.tolist()))} steps; as good at {value['as_good']} of"
        f" {value['tried']}, worse at {value['worse']}"
    )
    return dict(id="C08", measured=text, value=value) | number


def _unmeasured(claim: str, model: str) -> dict[str, Any]:
    return dict(id=claim, measured=f"{label(model)}: {NO_FLOOR}", value=None)


def over_seeds(model: str, pairs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """C06 and C08 of one data set over training seeds; C06 with each network at the best of the steps that
    all were tried at. A seed's two trainings are a pair; the intervals of their ratios are Student's."""
    first = pairs[["seed", "steps", "fd_first", "above_first"]].set_axis(
        ["seed", "steps", "fd", "above"], axis=1
    )
    ours, others = (frame.loc[frame.groupby("seed").fd.idxmin()] for frame in (pairs, first))
    if pairs[["above", "above_first"]].isna().any(axis=None):
        yield _unmeasured("C06", model)
    elif min(ours.above.min(), others.above.min()) <= 0:
        yield dict(id="C06", measured=f"{label(model)}: {AT_THE_FLOOR}", value=None)
    else:
        middle, low, high = over_pairs((ours.above.to_numpy() / others.above.to_numpy()).tolist())
        text = (
            f"{label(model)}, {len(ours)} training seeds: {spread(ours.fd)} against {spread(others.fd)};"
            f" above the floor, {spread(ours.above)} against {spread(others.above)}, ratio"
            f" {interval(middle, low, high)}"
        )
        yield dict(id="C06", measured=text, value=dict(low=low, high=high))
    if (pairs.share <= 0).any():
        yield dict(id="C08", measured=f"{label(model)}: {AT_THE_FLOOR}", value=None, n=int(pairs.n.max()))
        return
    rows = [(n, *over_pairs(part.share.tolist())) for n, part in pairs.groupby("steps", sort=False)]
    many = pd.DataFrame(rows, columns=["steps", "share", "share_low", "share_high"])
    yield at_equal_steps(model, many.assign(n=int(pairs.n.max())))


def learning(model: str, rows: pd.DataFrame) -> dict[str, Any]:
    """C23 of one data set: means over the training seeds in `rows` of `convergence`."""
    text = (
        f"{label(model)} needs {spread(rows.images)} of the U-Net's images and {spread(rows.time)} of its"
        f" time to a loss of {spread(rows.to_loss, 4)}"
    )
    return dict(
        id="C23", measured=text, value=dict(images=float(rows.images.mean()), time=float(rows.time.mean()))
    )


def faster(model: str, ratio: Sequence[float], steps: tuple[float, float, float]) -> Iterator[dict[str, Any]]:
    """C05 of one data set.

    ratio: time of a step over the first's, with the ends of its interval. steps: its best number of steps
    over the first's, as in table 1, likewise over samples; the two are taken at their ends together.
    """
    for (factor, least, most), what in (((1.0, 1.0, 1.0), "a step"), (steps, "a sample at its best steps")):
        middle, low, high = factor * ratio[0], least * ratio[1], most * ratio[2]
        known = least > 0 and most < OPEN_RATIO
        taken = interval(middle, low, high) if known else f"{middle:.2f}"
        text = f"{label(model)}: {what} takes {taken} of the U-Net's time"
        text += "" if known else ", open: a best one may lie beyond the steps that were tried"
        yield dict(id="C05", measured=text, value=dict(saved=1 - middle, low=1 - high, high=1 - low))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """A mean, and where there are several values their range: "0.98 [0.91, 1.02]"."""
    mean, style = sum(values) / len(values), f".{digits}f"
    return f"{mean:{style}}" if len(values) < 2 else interval(mean, min(values), max(values), style)


def claims(
    given: Mapping[str, Any],
    curve: pd.DataFrame,
    chosen: pd.DataFrame,
    drawn: Mapping[tuple, Tensor],
    steps: Mapping[tuple[str, str], Chosen],
    ratios: Mapping[tuple[str, str], Sequence[float]],
    converged: pd.DataFrame,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows for the scorecard: those that repeat to the byte, and those that rest on times.

    given: the notebook's parameters. curve: every set (`cunet.synthesis_tables`). chosen: the sets at each
    leading training's best steps. drawn: every set's resampled distances, by `key`. steps: `chosen_steps` by
    data set and network. ratios: time of a step over the first's, with its interval. converged:
    `convergence`.
    """
    first, made, timed = given["models"][0], [], []
    joint = dict(spread="95 % joint bootstrap over samples of both networks, one training seed")
    for dataset in dict.fromkeys(curve.dataset):
        table = chosen[chosen.dataset == dataset].set_index("model")
        of = {m: one for (d, m), one in steps.items() if d == dataset}
        where = dict(dataset=sources.label(dataset), size=given["size"])
        for model in dict.fromkeys(curve[curve.dataset == dataset].model):
            if model == first:
                continue
            pairs = against_first(curve[curve.dataset == dataset], model, given, drawn)
            leading, rows = pairs[pairs.seed == given["seeds"][0]], []
            if model in table.index:
                rows += [row | joint for row in at_best(model, table, of, first, drawn)]
            if len(leading):
                rows.append(at_equal_steps(model, leading) | joint)
            if pairs.seed.nunique() > 1:
                common = pairs[pairs.steps.isin(given["further_step_counts"])]
                many = dict(spread=f"95 % over {pairs.seed.nunique()} training seeds, Student's t")
                rows += [row | many for row in over_seeds(model, common)]
            made += [where | dict(n=int(pairs.n.max())) | row for row in rows]
            learned = converged[(converged.dataset == dataset) & (converged.model == model)]
            if len(learned):
                many = (
                    "one training each" if len(learned) < 2 else f"range over {len(learned)} training seeds"
                )
                timed.append(where | learning(model, learned) | dict(n=len(learned), spread=many))
            if (dataset, model) in ratios and model in table.index:
                span = ratio_of_steps(of[model], of[first])
                best = (table.loc[model, "steps"] / table.loc[first, "steps"], *span)
                over = "95 % bootstrap over rounds, and over samples for the number of steps"
                rounds = dict(n=given["timing_rounds"], spread=over)
                timed += [where | row | rounds for row in faster(model, ratios[dataset, model], best)]
    for row in (*made, *timed):
        row["why"] = WHY[row["id"]] + (STAND_IN if "stand-in" in row["dataset"] else "")
    return made, timed
