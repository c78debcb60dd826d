"""What notebook 10 hands to the scorecard: C15 and C22, a row a data set; C24, a row a network of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .ablations import FIGURES, IMAGES, INGREDIENTS
from .palette import label
from .robustness import reason, weigh
from .wording import interval

VISIBLE = 10  # per cent of the full network's distance above real images, from which on an eye sees it (C15)
WHY_C15 = (
    "the paper shows samples and counts nothing. The settings differ in what is left out: a block of the"
    " network as described adds its change to its input whatever f is, and the residual in question is one"
    " inside f"
)
WHY_C24 = (
    "the reading rests on how large the found noise is; part of that is arithmetic with the answer, which"
    " needs no embedding, and the control has it too; the control was not trained without the step, which"
    " overstates what it loses"
)


def left_out(contributions: pd.DataFrame) -> dict[str, Any]:
    """C15 of one data set, from its rows of `cunet.ablations.contributions`; not measured unless all three
    networks of figures 12 to 14 are trained, and some network with several seeds: an interval over images
    alone is narrower, and says nothing of another training."""
    lines = contributions[(contributions.measure == "fd") & contributions.model.isin(FIGURES)]
    text = "; ".join(
        f"without {row['without']} {change(row)}, trained {times(row['seeds'])}"
        for row in lines.to_dict("records")
    )
    text = f"FD-AlexNet above real images {text}" if text else "nothing"
    absent = [INGREDIENTS[model] for model in FIGURES if model not in set(lines.model)]
    value = None
    if absent:
        text += f"; not trained: without {', without '.join(absent)}"
    elif (lines.over == IMAGES).any():
        text += "; intervals over samples alone: no network has a second training seed"
    elif lines.percent.isna().any():
        text += "; the full network is as near as real images, so that there are no per cent of its distance"
    else:
        worse = lines.sign > 0
        visible = worse & (lines.percent >= VISIBLE)
        value = dict(visible=int(visible.sum()), worse=int(worse.sum()), better=int((lines.sign < 0).sum()))
    spread = f"95 % over {' or '.join(sorted(set(lines.over)))}" if len(lines) else "-"
    for row in lines[lines.over != IMAGES].head(1).itertuples():
        spread += f", relative deviation of FD pooled over {row.pooled}: {row.freedom} degrees of freedom"
    return dict(id="C15", measured=text, value=value, spread=spread, why=WHY_C15)


def change(row: Mapping[str, Any], digits: int = 0) -> str:
    """In words, a row of `cunet.ablations.contributions` with its interval: in per cent, with `digits` after
    the point, or, where there are none (None in a result), the difference itself."""
    if row["percent"] is None or math.isnan(row["percent"]):
        return interval(*(row["contribution" + end] for end in ("", "_low", "_high")), "+.2f")
    return interval(row["percent"], row["low"], row["high"], f"+.{digits}f", " %")


def outcome(row: Mapping[str, Any], worse: str = "worse", better: str = "better") -> str:
    """In words, what the interval of such a row says; one over images alone is about these trainings."""
    alone = row["over"] == IMAGES and row["sign"] != 0
    return {1: worse, -1: better, 0: "undecided"}[row["sign"]] + " for these trainings" * alone


def times(count: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def more_robust(
    compared: pd.DataFrame, norms: pd.DataFrame, blocks: pd.DataFrame, pair: tuple[str, str]
) -> dict[str, Any]:
    """C22 of one data set.

    compared: its rows of `cunet.robustness.compared`. norms: rows with `model` and `largest`, norms of whole
    networks' Jacobians. blocks: likewise, of single blocks. pair: the discrete and the continuous network.
    """
    value = weigh(compared)
    text = (
        f"the error of the cU-Net grows less in {value['confirmed']} of {value['settings']} settings, the"
        f" U-Net's in {value['contradicted']}; growth over the U-Net's {compared.ratio.min():.2f} to"
        f" {compared.ratio.max():.2f}, median {compared.ratio.median():.2f}"
    )
    largest, block = (frame.groupby("model").largest for frame in (norms, blocks))
    largest, middle, most = largest.max(), block.median(), block.max()
    return dict(
        id="C22",
        measured=text,
        value=value,
        spread="Student's t over pairs of images or samples, errors by bootstrap, each network trained"
        f" {times(compared.trainings.iloc[0])}",
        why=reason(value, largest[pair[1]], largest[pair[0]])
        + "; single blocks, median and largest: "
        + ", ".join(f"{label(m)} {middle[m]:.2f} and {most[m]:.2f}" for m in reversed(pair)),
    )


def read_back(errors: pd.DataFrame, sensitivity: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """C24 of one data set, a row a network.

    errors: octaves by which the level read back is wrong, indexed by network, with columns told, held, and
    `held over told`. sensitivity: relative change of each network's answer with the step it is told.
    """
    for model, row in errors.iterrows():
        text = (
            f"{label(model)}: the noise level is read back to {row.told:.2f} octaves, with the embedding held"
            f" still to {row.held:.2f}"
        )
        value = dict(sensitivity=sensitivity[model], benefit=float(row["held over told"]))
        yield dict(id="C24", measured=text, value=value, why=WHY_C24)


def claims(
    given: Mapping[str, Any],
    contributions: pd.DataFrame,
    robust: pd.DataFrame,
    norms: pd.DataFrame,
    blocks: pd.DataFrame,
    errors: pd.DataFrame,
    sensitivity: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """All rows for the scorecard, data set by data set.

    given: the notebook's parameters. contributions, robust, norms, blocks: as above, with a column `dataset`.
    errors, sensitivity: by data set and network.
    """
    rows, pair = [], (given["discrete"], given["models"][0])

    def of(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
        return frame[frame.dataset == dataset]

    for dataset in dict.fromkeys(robust.dataset):
        read = {model: value for (where, model), value in sensitivity.items() if where == dataset}
        found = [
            left_out(of(contributions, dataset)) | dict(n=given["samples"]),
            more_robust(*(of(frame, dataset) for frame in (robust, norms, blocks)), pair)
            | dict(n=f"{given['images']} images, {given['disturbed_samples']} samples"),
        ]
        number = given["read_images"] * len(given["true_steps"])
        found += [row | dict(n=number) for row in read_back(errors.loc[dataset], read)]
        rows += [row | dict(dataset=dataset, size=given["size"]) for row in found]
    return rows
