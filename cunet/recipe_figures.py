"""The study of recipes (`cunet.recipe_study`) as a matrix, as a table and as a figure."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from . import palette
from .recipe_choices import RELEASED


def matrix(frame: pd.DataFrame, quantity: str = "loss") -> pd.DataFrame:
    """Rows variations, columns networks, each in the order of the frame; NaN where there is no row."""
    return frame.pivot(index="variation", columns="model", values=quantity).reindex(
        index=frame["variation"].unique(), columns=frame["model"].unique()
    )


def ratios(frame: pd.DataFrame, quantity: str = "loss") -> pd.DataFrame:
    """`matrix`, each number over that of the released recipe with the same network."""
    found = matrix(frame, quantity)
    return found / found.loc[RELEASED]


def words(variation: str) -> str:
    """A variation for people to read."""
    return "the released recipe" if variation == RELEASED else variation.replace(",", ", ")


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a variation; for each network the loss, its ratio to the released recipe's, and FD-AlexNet.

    frame: of `recipe_study.run` or `kept`, with the released recipe. A training that diverged has an infinite
    loss; a column of distances is left out where none was measured.
    """
    losses, over, distances = matrix(frame), ratios(frame), matrix(frame, "fd")
    columns = {"recipe": [words(text) for text in losses.index]}
    for model in losses.columns:
        name = palette.label(model)
        columns |= {f"loss, {name}": losses[model].to_numpy(), f"ratio, {name}": over[model].to_numpy()}
        if distances[model].notna().any():
            columns[f"FD-AlexNet, {name}"] = distances[model].to_numpy()
    return pd.DataFrame(columns)


def figure(frame: pd.DataFrame, spread: float = math.nan) -> Figure:
    """Loss and FD-AlexNet of each variation over the released recipe's; a line a variation, a mark a network.

    frame: as for `table`. spread: largest over smallest loss of trainings that differ in their seed alone;
    ratios within it are on grey ground. NaN: not known. Trainings that diverged are named at the right.
    """
    panels = {"loss": ratios(frame)}
    if frame["fd"].notna().any():
        panels["fd"] = ratios(frame, "fd")
    names = [words(text) for text in panels["loss"].index]
    with palette.style():
        drawn = Figure(figsize=(palette.PAGE, 0.26 * len(names) + 1.3))
        both = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (quantity, found) in zip(both, panels.items(), strict=True):
            _marks(axes, found)
            axes.set_xlabel("over that of the released recipe", fontsize=7.5)
            axes.set(title={"loss": "loss", "fd": "FD-AlexNet"}[quantity], ylim=(len(names) - 0.5, -0.5))
        if spread == spread:
            both[0].axvspan(1 / spread, spread, color="0.88", lw=0, zorder=0)
        both[0].set_yticks(range(len(names)), names, fontsize=7)
        palette.legend_below(drawn, both[0])
    return drawn


def _marks(axes, found: pd.DataFrame) -> None:
    """A line a row and a mark a column of ratios; an infinite one is a word at the right."""
    for i, model in enumerate(found.columns):
        away = 0.2 * (i - (len(found.columns) - 1) / 2)
        places = [at + away for at in range(len(found))]
        hue, there = palette.colour(model), found[model] < math.inf
        axes.plot(found[model].where(there), places, ls="", marker=palette.MARKERS.get(model, "o"),
                  color=hue, label=palette.label(model))  # fmt: skip
        for place, ratio in zip(places, found[model], strict=True):
            if ratio == math.inf:
                axes.annotate("diverged", (1, place), ha="right", va="center", fontsize=6, color=hue,
                              xycoords=("axes fraction", "data"))  # fmt: skip
    axes.axvline(1, color="0.4", lw=0.8, zorder=0)
    axes.set_xscale("log")
    axes.tick_params(axis="x", labelsize=7)
    low, high = axes.get_xlim()
    palette.readable(axes.xaxis, high / low)
    if high < 3 * low:  # so narrow that decades have no ticks in it
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
