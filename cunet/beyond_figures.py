"""Figures of notebook 11: quality against time, likelihood, depth, reuse. Each function returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from . import figures
from .accelerations import METHODS

MARKS = dict(zip(METHODS, ("o", "P", "s", "^", "v", "D", "X", "<", ">"), strict=True))
LINES = dict(zip(METHODS, ("-", "--", "-", "-", "--", "-.", ":", ":", ":"), strict=True))


def distance_against_calls(frame: pd.DataFrame, floor: float) -> Figure:
    """FD-AlexNet against network calls: a panel a network, a line a method.

    frame: columns model, method, calls, fd, fd_low, fd_high. floor: of real images, dashed.
    """
    models = list(dict.fromkeys(frame["model"]))
    with figures.style():
        figure = Figure(figsize=(figures.PAGE, 3.2))
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            for number, (method, line) in enumerate(
                frame[frame.model == model].groupby("method", sort=False)
            ):
                line = line.sort_values("calls")
                shift = 1.02 ** (
                    number - 4
                )  # so that intervals at one number of calls do not hide each other
                spread = (line.fd - line.fd_low, line.fd_high - line.fd)
                axes.errorbar(
                    line.calls * shift, line.fd, spread, marker=MARKS[method], ls=LINES[method], lw=1,
                    elinewidth=0.6, label=METHODS[method].label,
                )  # fmt: skip
            axes.axhline(floor, color="0.4", ls="--", lw=0.9)
            axes.set(xscale="log", yscale="log", xlabel="network calls", title=figures.label(model))
            calls = sorted(frame["calls"].unique())
            axes.set_xticks(calls, [str(n) for n in calls])
            axes.xaxis.set_minor_locator(NullLocator())
        figures.readable(panels[0].yaxis)
        panels[0].set_ylabel("FD-AlexNet (lower is better)")
        panels[-1].legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def pareto(frame: pd.DataFrame, floor: float) -> Figure:
    """FD-AlexNet against seconds a sample: colour says the network, marker the method, line the best so far.

    frame: columns model, method, seconds, fd, fd_low, fd_high.
    """
    with figures.style():
        figure = Figure(figsize=(figures.PAGE, 3.6))
        axes = figure.subplots()
        for model, points in frame.groupby("model", sort=False):
            hue = figures.colour(model)
            for method, some in points.groupby("method", sort=False):
                spread = (some.fd - some.fd_low, some.fd_high - some.fd)
                axes.errorbar(
                    some.seconds,
                    some.fd,
                    spread,
                    marker=MARKS[method],
                    ls="",
                    color=hue,
                    elinewidth=0.6,
                    ms=5,
                )
            best = frontier(points)
            axes.step(best.seconds, best.fd, where="post", color=hue, lw=1.4, alpha=0.6)
            axes.plot([], [], color=hue, label=figures.label(model))
        for method in dict.fromkeys(frame["method"]):
            axes.plot([], [], marker=MARKS[method], ls="", color="0.3", label=METHODS[method].label)
        axes.axhline(floor, color="0.4", ls="--", lw=0.9, label="as many real images")
        axes.set(xscale="log", yscale="log", xlabel="seconds a sample on this CPU", ylabel="FD-AlexNet")
        figures.readable(axes.xaxis)
        figures.readable(axes.yaxis)
        axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The points that no other is both faster and better than, fastest first (columns seconds and fd)."""
    ordered = points.sort_values(["seconds", "fd"])
    return ordered[ordered.fd < ordered.fd.cummin().shift(fill_value=np.inf)]


def likelihoods(frame: pd.DataFrame) -> Figure:
    """Bits per dimension of single images, a panel a dequantisation: a dot an image, a bar the interval.

    frame: columns model, dequantisation, image, bits.
    """
    kinds, models = (list(dict.fromkeys(frame[key])) for key in ("dequantisation", "model"))
    with figures.style():
        figure = Figure(figsize=(figures.PAGE, 2.6))
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            wide = frame[frame.dequantisation == kind].pivot(index="image", columns="model", values="bits")
            axes.plot(range(len(models)), wide[models].T, color="0.8", lw=0.7)
            for at, model in enumerate(models):
                values = wide[model]
                axes.plot([at] * len(values), values, "o", ms=3, alpha=0.5, color=figures.colour(model))
                error = 1.96 * values.std() / len(values) ** 0.5
                axes.errorbar(
                    at + 0.12, values.mean(), error, marker="D", color=figures.colour(model), capsize=3
                )
            axes.set_xticks(range(len(models)), [figures.label(m) for m in models])
            axes.set(title=f"{kind} noise", xlim=(-0.5, len(models) - 0.5))
        panels[0].set_ylabel("bits per dimension\n(fewer: more probable)")
    return figure


def inner_convergence(errors: Mapping[str, Mapping[float, tuple[float, float, float]]]) -> Figure:
    """Error against depth, a line a network: (value, low, high) by multiple of the steps trained with."""
    with figures.style():
        figure = Figure(figsize=(0.62 * figures.PAGE, 2.9))
        axes = figure.subplots()
        for name, found in errors.items():
            depths = sorted(found)
            value, low, high = np.array([found[n] for n in depths]).T
            colour = {"color": figures.colour(name)} if name in figures.COLOURS else {}
            (line,) = axes.plot(depths, value, marker="s", label=figures.label(name), **colour)
            axes.fill_between(depths, low, high, alpha=0.18, lw=0, color=line.get_color())
        axes.axvline(1, color="0.4", ls=":", lw=1)
        axes.annotate("trained with", (1, 1), (3, -8), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=7, color="0.4")  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="solver steps over those trained with",
                 ylabel="squared error of v")  # fmt: skip
        axes.set_xticks(depths, [f"{n:g}" for n in depths])
        axes.xaxis.set_minor_locator(NullLocator())
        figures.readable(axes.yaxis)
        axes.legend(fontsize=7)
    return figure


def depth_by_need(
    timesteps: Sequence[int],
    costs: np.ndarray,
    depths: Sequence[float],
    chosen: Mapping[str, Sequence[float]],
) -> Figure:
    """Left: what each depth costs at each diffusion step, over the best; right: the depths that were chosen.

    costs: (K, N), of K timesteps and N depths. chosen: label -> K depths.
    """
    with figures.style():
        figure = Figure(figsize=(figures.PAGE, 2.8))
        left, right = figure.subplots(1, 2)
        for column, depth in zip(np.asarray(costs).T, depths, strict=True):
            left.plot(timesteps, column, marker="o", ms=3, label=f"depth {depth:g}")
        left.set(xlabel="diffusion step t", ylabel="weighted error", yscale="log", title="what a step costs")
        figures.readable(left.yaxis)
        left.legend(fontsize=7)
        for name, depth in chosen.items():
            right.step(timesteps, depth, where="mid", marker="o", ms=3, label=name)
        right.set(xlabel="diffusion step t", ylabel="depth", title="what is chosen", yticks=depths)
        right.legend(fontsize=7)
    return figure


def saved_work(frame: pd.DataFrame) -> Figure:
    """Distance against work, a panel a network, a marker a way to save; bars are 95 % intervals.

    frame: columns model, way, macs (of a sample), fd, fd_low, fd_high.
    """
    models, ways = (list(dict.fromkeys(frame[key])) for key in ("model", "way"))
    with figures.style():
        figure = Figure(figsize=(figures.PAGE, 2.9))
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            for number, way in enumerate(ways):
                some = frame[(frame.model == model) & (frame.way == way)].sort_values("macs")
                if len(some):
                    spread = (some.fd - some.fd_low, some.fd_high - some.fd)
                    axes.errorbar(some.macs / 1e9, some.fd, spread, marker="osD^v"[number % 5], ms=5, lw=1,
                                  elinewidth=0.6, color=figures.OTHERS[number], label=way)  # fmt: skip
            axes.set(xlabel="G multiply-accumulates a sample", title=figures.label(model))
        panels[0].set_ylabel("FD-AlexNet (lower is better)")
        handles = {h.get_label(): h for axes in panels for h in axes.get_legend_handles_labels()[0]}
        panels[-1].legend(handles.values(), handles, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
