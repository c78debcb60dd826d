"""Figures of notebook 10: what ingredients contribute, how errors grow under disturbance, how blocks stretch,
how well a noise level is read back. Each function returns a matplotlib Figure in the common style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .ablations import SEEDS
from .palette import MARKERS, PAGE, colour, label, style

MEASURES = {"fd": "FD-AlexNet", "lpips": "LPIPS, denoised", "loss": "validation loss"}
SHORT = {
    "level": "noise level told ×",
    "input": "further noise",
    "impulses": "impulses",
    "weights": "noise of weights",
}
# ticks of an axis of factors: a short one, and any other
CLOSE = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2)
FACTORS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10, 20, 50, 100, 1000, 10_000, 100_000)
ERRORS = {
    "one call": "one call\n(squared error)",
    "denoising": "denoising\n(LPIPS)",
    "sampling": "sampling\n(FD-AlexNet)",
}


def contributions(frame: pd.DataFrame, than: str = "the full network") -> Figure:
    """How much worse each network is than another one, in per cent of it, with intervals; a panel a measure.

    frame: a row a network and measure, with columns model, measure (a key of MEASURES), percent, low, high,
    over (`ablations.SEEDS` or `IMAGES`). Filled: the interval is over training seeds; open: over images.
    than: what the other one is called.
    """
    models = list(dict.fromkeys(frame.model))
    with style():
        figure = Figure(figsize=(PAGE, 0.36 * len(models) + 1.2))
        panels = figure.subplots(1, len(MEASURES), sharey=True)
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            rows = frame[frame.measure == measure]
            if rows[["low", "high"]].abs().max(axis=None) > 150:
                axes.set_xscale("symlog", linthresh=100)
                axes.xaxis.set_major_locator(FixedLocator((-1000, -100, 0, 100, 1000, 10_000)))
                axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.tick_params(axis="x", labelsize=7)
            for row in rows.itertuples():
                at, hue = models.index(row.model), colour(row.model)
                filled = hue if row.over == SEEDS else "white"
                reach = ([max(row.percent - row.low, 0)], [max(row.high - row.percent, 0)])
                axes.errorbar([row.percent], [at], xerr=reach, marker=MARKERS.get(row.model, "o"), color=hue,
                              mfc=filled, ms=5, lw=1.6, capsize=3)  # fmt: skip
                axes.annotate(f"{row.percent:+.0f} %", (row.percent, at), (0, 7), ha="center", fontsize=6.5,
                              color=hue, textcoords="offset points",
                              bbox=dict(facecolor="white", edgecolor="none", pad=0.6))  # fmt: skip
            axes.axvline(0, color="0.4", lw=0.8)
            axes.margins(x=0.2)
            axes.set(title=title, ylim=(len(models) - 0.5, -0.5))
        panels[0].set_yticks(range(len(models)), [label(model) for model in models])
        figure.supxlabel(
            f"% worse than {than} (filled: over training seeds, pooled; open: over images alone)",
            fontsize=7.5,
        )
    return figure


def _thousands(value: float, _) -> str:
    """1000 as 1k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def growths(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """By what factor the second network's error grows, over the first's: a panel a task, a line a setting.

    frame: of `robustness.compared`, for one data set. names: the two networks. Bars: 95 %. Filled and in
    a network's colour: the paired test decides for it. On the right, in grey, the two factors themselves.
    """
    tasks = list(dict.fromkeys(frame.task))
    settings = list(dict.fromkeys(zip(frame.kind, frame.strength, strict=True)))
    with style():
        figure = Figure(figsize=(PAGE, 0.24 * len(settings) + 1.5))
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for row in frame[frame.task == task].itertuples():
                at = settings.index((row.kind, row.strength))
                ahead = {"first": names[0], "second": names[1]}.get(row.ahead)
                hue = colour(ahead) if ahead else "0.5"
                reach = ([row.ratio - row.low], [row.high - row.ratio])
                axes.errorbar([row.ratio], [at], xerr=reach, color=hue, mfc=hue if ahead else "white", lw=1.2,
                              marker=MARKERS.get(ahead, "o"), ms=5, capsize=2)  # fmt: skip
                axes.annotate(f"{row.first:.2g} / {row.second:.2g}", (1, at), (-2, 0), ha="right",
                              va="center", xycoords=("axes fraction", "data"), textcoords="offset points",
                              fontsize=6, color="0.45")  # fmt: skip
            axes.axvline(1, color="0.4", lw=0.8, zorder=0)
            axes.set(xscale="log", title=ERRORS[task].replace("\n", " "), ylim=(len(settings) - 0.4, -0.6))
            mine = frame[frame.task == task]
            low, high = min(mine.low.min(), 0.9), max(mine.high.max(), 1.1)
            axes.set_xlim(low / 1.05, high * (high / low) ** 0.45)  # room for the factors
            axes.tick_params(axis="x", labelsize=7)
            _factors(axes.xaxis)
        panels[0].set_yticks(range(len(settings)), [f"{SHORT[kind]} {x:g}" for kind, x in settings])
        figure.supxlabel(
            f"growth of the error, {label(names[1])} over {label(names[0])} (grey: growth of"
            f" {label(names[0])} / of {label(names[1])})",
            fontsize=7.5,
        )
        handles = [
            Line2D(
                [],
                [],
                ls="",
                marker=MARKERS.get(name, "o"),
                color=colour(name),
                label=f"{label(name)} is more robust",
            )
            for name in names
        ]
        handles.append(Line2D([], [], ls="", marker="o", mfc="white", color="0.5", label="undecided"))
        figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=7)
    return figure


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
