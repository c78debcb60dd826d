"""Figures of notebook 10: what ingredients contribute, how errors grow under disturbance, how blocks stretch,
how well a noise level is read back. Each function returns a matplotlib Figure in the common style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .figures import MARKERS, PAGE, colour, label, style

MEASURES = {"fd": "FD-AlexNet", "lpips": "LPIPS, denoised", "loss": "validation loss"}
DISTURBANCES = {
    "level": "noise level told,\nover the true one",
    "input": "further noise,\nstandard deviation",
    "impulses": "share of the pixels\nblack or white",
    "weights": "noise of the weights,\nrelative",
}
# ticks of an axis of factors: a short one, and any other
CLOSE = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2)
FACTORS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10, 20, 50, 100, 1000, 10_000, 100_000)
ERRORS = {
    "one call": "one call\n(squared error)",
    "denoising": "denoising\n(LPIPS)",
    "sampling": "sampling\n(FD-AlexNet)",
}


def contributions(frame: pd.DataFrame) -> Figure:
    """How much worse each network is than the full one, in per cent of it, with intervals; a panel a measure.

    frame: a row a network and measure, with columns model, measure (a key of MEASURES), percent, low, high,
    over ("training seeds" or "images"). Filled: the interval is over training seeds; open: over images alone.
    """
    models = list(dict.fromkeys(frame.model))
    with style():
        figure = Figure(figsize=(PAGE, 0.3 * len(models) + 1.1))
        panels = figure.subplots(1, len(MEASURES), sharey=True)
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            rows = frame[frame.measure == measure]
            if rows[["low", "high"]].abs().max(axis=None) > 150:
                axes.set_xscale("symlog", linthresh=10)
                axes.xaxis.set_major_locator(FixedLocator((-1000, -100, -10, 0, 10, 100, 1000, 10_000)))
                axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.tick_params(axis="x", labelsize=7)
            for row in rows.itertuples():
                at, hue = models.index(row.model), colour(row.model)
                axes.plot((row.low, row.high), (at, at), color=hue, lw=1.6)
                filled = hue if row.over == "training seeds" else "white"
                axes.plot(row.percent, at, MARKERS.get(row.model, "o"), mfc=filled, mec=hue, ms=5)
            axes.axvline(0, color="0.4", lw=0.8)
            axes.margins(x=0.12)
            axes.set(title=title, ylim=(len(models) - 0.5, -0.5))
        panels[0].set_yticks(range(len(models)), [label(model) for model in models])
        figure.supxlabel(
            "% worse than the full network (filled: interval over training seeds; open: over images alone)",
            fontsize=7.5,
        )
    return figure


def _thousands(value: float, _) -> str:
    """1000 as 1k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def growths(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """By what factor errors grow: a row of panels a task, a column a disturbance, a line a network.

    frame: of `robustness.compared`, for one data set. names: the two networks. A ring: the network in
    whose favour the paired test decides.
    """
    tasks, kinds = list(dict.fromkeys(frame.task)), list(dict.fromkeys(frame.kind))
    with style():
        figure = Figure(figsize=(PAGE, 1.35 * len(tasks) + 0.75))
        grid = figure.subplots(len(tasks), len(kinds), sharey="row", squeeze=False)
        for line, task in zip(grid, tasks, strict=True):
            for axes, kind in zip(line, kinds, strict=True):
                rows = frame[(frame.task == task) & (frame.kind == kind)].sort_values("strength")
                _growth(axes, rows, names)
            line[0].set_ylabel(ERRORS[task])
            _factors(line[0].yaxis)
        for axes, kind in zip(grid[-1], kinds, strict=True):
            axes.set_xlabel(DISTURBANCES[kind], fontsize=7)
        handles, texts = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=len(names), fontsize=7)
        figure.supylabel("error, over the undisturbed one", fontsize=8.5)
    return figure


def _growth(axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    at = np.arange(len(rows))
    for which, name in zip(("first", "second"), names, strict=True):
        axes.plot(at, rows[which], color=colour(name), marker=MARKERS.get(name, "o"), label=label(name))
        ahead = rows.ahead.to_numpy() == which
        axes.plot(at[ahead], rows[which][ahead], "o", ms=10, mfc="none", mec=colour(name))
    axes.axhline(1, color="0.4", lw=0.8)
    axes.set_xticks(at, [f"{strength:g}" for strength in rows.strength])
    axes.set(yscale="log", xlim=(-0.4, len(rows) - 0.6))
    axes.margins(y=0.25)


def _factors(axis) -> None:
    """Ticks of a logarithmic axis of factors around 1, as plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(FixedLocator(CLOSE if high < 2 * low else FACTORS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def stretch(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """By how much each block stretches a change of its feature maps, along the network.

    frames: network -> what `lipschitz.block_norms` gives. Left: in the worst direction, the mean over images
    with the range; right: in a random one.
    """
    with style():
        figure = Figure(figsize=(PAGE, 2.7))
        panels = figure.subplots(1, 2, sharey=True)
        for name, frame in frames.items():
            by = frame.groupby("depth")
            for axes, column in zip(panels, ("largest", "random"), strict=True):
                found = by[column].agg(["mean", "min", "max"])
                hue = colour(name)
                axes.plot(
                    found.index, found["mean"], color=hue, marker=MARKERS.get(name, "o"), label=label(name)
                )
                axes.fill_between(found.index, found["min"], found["max"], color=hue, alpha=0.18, lw=0)
        for axes, title in zip(panels, ("in the worst direction", "in a random direction"), strict=True):
            axes.axhline(1, color="0.4", lw=0.8)
            axes.set(yscale="log", xlabel="block, first (0) to last (1)", title=title)
            _factors(axes.yaxis)
        panels[0].set_ylabel("|J u| / |u| of a block")
        panels[1].legend(fontsize=7)
    return figure


def readings(frame: pd.DataFrame) -> Figure:
    """Error of the noise level that is read back, against the true one, a panel a network.

    frame: columns model, embedding ("told" or "held"), and those of `noise_reading.read`. Solid: the network
    is told each step; dashed: always the same.
    """
    models = list(dict.fromkeys(frame.model))
    dashed, words = {"told": "-", "held": "--"}, {"told": "each step", "held": "one step always"}
    with style():
        figure = Figure(figsize=(PAGE, 2.5))
        for axes, model in zip(
            figure.subplots(1, len(models), sharey=True, squeeze=False)[0], models, strict=True
        ):
            for embedding, dashes in dashed.items():
                rows = frame[(frame.model == model) & (frame.embedding == embedding)]
                found = rows.groupby("noise").octaves.agg(lambda gap: float((gap**2).mean() ** 0.5))
                axes.plot(found.index, found, dashes, color=colour(model), marker=MARKERS.get(model, "o"),
                          mfc=colour(model) if embedding == "told" else "white",
                          label=f"told {words[embedding]}")  # fmt: skip
            axes.set(xscale="log", title=label(model), xlabel="true noise (deviation)")
            _factors(axes.xaxis)
            axes.tick_params(axis="x", labelsize=7)
            axes.legend(fontsize=7)
        figure.axes[0].set(ylabel="error of the reading, octaves", ylim=(0, None))
    return figure
