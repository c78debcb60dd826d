"""Figures of notebook 11: quality against time, likelihood, depth, reuse. Each function returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from . import palette
from .accelerations import METHODS
from .kernel_distance import Distances

MARKS = dict(zip(METHODS, ("o", "P", "s", "^", "v", "D", "X", "<", ">"), strict=True))
FULL = "every call"  # the way of a network that saves nothing


def distance_against_calls(frame: pd.DataFrame, floor: Distances, base: str = "ddpm") -> Figure:
    """KID-AlexNet against network calls: a panel a method, a line a network, 95 % intervals.

    frame: columns model, method, calls, kid, kid_low, kid_high. floor: of real images, a band. base: the
    method that each network's is compared with, dotted in the panels of the others.
    """
    methods, models = (list(dict.fromkeys(frame[key])) for key in ("method", "model"))
    wide = min(3, len(methods))
    with palette.style():
        figure = Figure(figsize=(palette.PAGE, 1.9 * -(-len(methods) // wide) + 0.4))
        grid = figure.subplots(-(-len(methods) // wide), wide, sharey=True, squeeze=False)
        for axes in grid.flat[len(methods) :]:
            axes.set_visible(False)
        for axes, method in zip(grid.flat, methods, strict=False):
            axes.axhspan(*floor.interval, color="0.8", lw=0, label="real images")
            calls = sorted(frame.calls[frame.method == method].unique())
            for number, model in enumerate(models):
                line = frame[(frame.model == model) & (frame.method == method)].sort_values("calls")
                plain = frame[(frame.model == model) & (frame.method == base) & frame.calls.isin(calls)]
                if method != base and len(plain):
                    name = f"dotted: {METHODS[base].label}, the same network"
                    axes.plot(plain.calls, plain.kid, ":", color=palette.colour(model), lw=1, alpha=0.8)
                    axes.plot([], [], ":", color="0.4", lw=1, label=name)
                shift = 1.03 ** (2 * number - len(models) + 1)  # so that intervals do not hide each other
                _interval(axes, line.calls * shift, line, model, ls="-")
            axes.set(xscale="log", title=METHODS[method].label)
            axes.set_yscale("symlog", linthresh=LINEAR)
            axes.set_xticks(calls, [str(n) for n in calls], fontsize=7)
            axes.xaxis.set_minor_locator(NullLocator())
            _distance_ticks(axes, frame)
        figure.supxlabel("network calls", fontsize=8.5)
        figure.supylabel("KID-AlexNet / 0.001 (lower is better)", fontsize=8.5)
        _legend(figure, grid.flat)
    return figure


LINEAR = 100  # thousandths of KID below which axes of distances are linear: noise lives there


def _interval(axes, x, line: pd.DataFrame, model: str, **look) -> None:
    """A network's distances with their intervals, in its colour and marker."""
    look = dict(marker=palette.MARKERS.get(model, "o"), color=palette.colour(model), ms=4, lw=1.2) | look
    axes.errorbar(x, line.kid, _reach(line), elinewidth=0.9, capsize=2, label=palette.label(model), **look)


def _reach(rows: pd.DataFrame, of: str = "kid") -> tuple[pd.Series, pd.Series]:
    """How far the interval of the column `of` reaches below and above it."""
    value, low, high = (rows[of + end] for end in ("", "_low", "_high"))
    return (value - low).clip(lower=0), (high - value).clip(lower=0)


def _distance_ticks(axes, frame: pd.DataFrame, of: str = "kid") -> None:
    """Ticks of an axis that is linear around 0 and logarithmic beyond, far enough apart to be read."""
    low, high = min(0.0, frame[of + "_low"].min()), max(frame[of + "_high"].max(), 2 * LINEAR)
    every = (-500, -200, -100, -50, 0, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    ticks = [tick for tick in every if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, panels) -> None:
    """One legend above all panels, each name once."""
    named = {}
    for axes in panels:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(text, handle)
    figure.legend(named.values(), named, loc="outside upper center", ncols=5, fontsize=7)


def pareto(frame: pd.DataFrame, floor: Distances) -> Figure:
    """KID-AlexNet against seconds a sample: all settings pale; with intervals and a line those not beaten.

    frame: columns model, method, calls, seconds, kid, kid_low, kid_high. A marker is a method, a colour a
    network.
    """
    with palette.style():
        figure = Figure(figsize=(palette.PAGE, 3.7))
        axes = figure.subplots()
        axes.axhspan(*floor.interval, color="0.85", lw=0, label="real images")
        for model, points in frame.groupby("model", sort=False):
            hue = palette.colour(model)
            for method, some in points.groupby("method", sort=False):
                axes.plot(some.seconds, some.kid, MARKS[method], color=hue, ms=4, alpha=0.3, mew=0)
            best = frontier(points)
            axes.step(best.seconds, best.kid, where="post", color=hue, lw=1.4, label=palette.label(model))
            for row in best.itertuples():
                spread = ([max(row.kid - row.kid_low, 0)], [max(row.kid_high - row.kid, 0)])
                axes.errorbar([row.seconds], [row.kid], spread, marker=MARKS[row.method], color=hue, ms=6,
                              elinewidth=0.9, capsize=2)  # fmt: skip
        for method in dict.fromkeys(frame["method"]):
            axes.plot([], [], MARKS[method], color="0.3", label=METHODS[method].label)
        axes.set(xscale="log", xlabel="seconds a sample on this CPU", ylabel="KID-AlexNet / 0.001")
        axes.set_yscale("symlog", linthresh=LINEAR)
        _distance_ticks(axes, frame)
        palette.readable(axes.xaxis)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The points that no other is both faster and better than, fastest first (columns seconds and kid)."""
    ordered = points.sort_values(["seconds", "kid"])
    return ordered[ordered.kid < ordered.kid.cummin().shift(fill_value=np.inf)]


def likelihoods(frame: pd.DataFrame) -> Figure:
    """Bits per dimension of single images, a panel a dequantisation: a dot an image, a bar the interval.

    frame: columns model, dequantisation, image, bits.
    """
    kinds, models = (list(dict.fromkeys(frame[key])) for key in ("dequantisation", "model"))
    with palette.style():
        figure = Figure(figsize=(palette.PAGE, 2.6))
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            wide = frame[frame.dequantisation == kind].pivot(index="image", columns="model", values="bits")
            axes.plot(range(len(models)), wide[models].T, color="0.8", lw=0.7)
            for at, model in enumerate(models):
                values = wide[model]
                axes.plot([at] * len(values), values, "o", ms=3, alpha=0.5, color=palette.colour(model))
                error = 1.96 * values.std() / len(values) ** 0.5
                axes.errorbar(
                    at + 0.12, values.mean(), error, marker="D", color=palette.colour(model), capsize=3
                )
            axes.set_xticks(range(len(models)), [palette.label(m) for m in models])
            axes.set(title=f"{kind} noise", xlim=(-0.5, len(models) - 0.5))
        panels[0].set_ylabel("bits per dimension\n(fewer: more probable)")
    return figure


def inner_convergence(errors: Mapping[str, Mapping[float, tuple[float, float, float]]]) -> Figure:
    """Error against depth, a line a network: (value, low, high) by multiple of the steps trained with."""
    with palette.style():
        figure = Figure(figsize=(0.62 * palette.PAGE, 2.9))
        axes = figure.subplots()
        for name, found in errors.items():
            depths, hue = sorted(found), palette.colour(name)
            value, low, high = np.array([found[n] for n in depths]).T
            axes.plot(
                depths, value, marker=palette.MARKERS.get(name, "o"), color=hue, label=palette.label(name)
            )
            axes.fill_between(depths, low, high, alpha=0.18, lw=0, color=hue)
        every = sorted({n for found in errors.values() for n in found})
        axes.axvline(1, color="0.4", ls=":", lw=1, zorder=0, label="its own steps")
        axes.set(xscale="log", yscale="log", xlabel="solver steps over the network's own",
                 ylabel="squared error of v")  # fmt: skip
        axes.set_xticks(every, [f"{n:g}" for n in every])
        axes.xaxis.set_minor_locator(NullLocator())
        palette.readable(axes.yaxis)
        axes.legend(fontsize=7)
    return figure


def depth_by_need(
    timesteps: Sequence[int],
    errors: np.ndarray,
    depths: Sequence[float],
    chosen: Mapping[str, Sequence[float]],
) -> Figure:
    """Left: error at each depth over that at the depth nearest 1, by diffusion step; right: what is chosen.

    errors: (K, N, images), of K timesteps and N depths, paired by image; bands are 95 % of their mean ratio.
    chosen: budget (M multiply-accumulates a call, as text) -> K depths.
    """
    base = min(range(len(depths)), key=lambda j: abs(depths[j] - 1))
    hues = [palette.OTHERS[(j + 1) % len(palette.OTHERS)] for j in range(len(depths))]
    with palette.style():
        figure = Figure(figsize=(palette.PAGE, 2.9))
        left, right = figure.subplots(1, 2)
        values = np.asarray(errors)
        for j, depth in enumerate(depths):
            mean, middle = values.mean(-1), values[:, base].mean(-1)
            ratio = mean[:, j] / middle
            residual = (
                values[:, j] - ratio[:, None] * values[:, base]
            )  # of a ratio of means, by linearisation
            reach = 1.96 * residual.std(-1) / max(values.shape[-1] - 1, 1) ** 0.5 / middle
            left.plot(timesteps, ratio, marker="o", ms=3, color=hues[j], label=f"{depth:g}")
            left.fill_between(timesteps, ratio - reach, ratio + reach, color=hues[j], alpha=0.2, lw=0)
        left.set(xlabel="diffusion step t", ylabel=f"error of v, over that at depth {depths[base]:g}")
        left.set(title="what a depth costs", ylim=(0, None))
        picks = np.array([[depths.index(d) for d in row] for row in chosen.values()])
        right.pcolormesh(picks, cmap=ListedColormap(hues), vmin=-0.5, vmax=len(depths) - 0.5, ec="w", lw=0.5)
        every = max(1, len(timesteps) // 5)
        at = range(0, len(timesteps), every)
        right.set_xticks([i + 0.5 for i in at], [str(timesteps[i]) for i in at])
        right.set_yticks([i + 0.5 for i in range(len(chosen))], list(chosen))
        right.set(xlabel="diffusion step t, along the chain", title="what is chosen")
        right.set_ylabel("budget, M multiply-accumulates a call")
        right.grid(visible=False)
        handles, texts = left.get_legend_handles_labels()
        figure.legend(handles, texts, title="depth", loc="outside right upper", fontsize=7, title_fontsize=7)
    return figure


def saved_work(frame: pd.DataFrame, floor: Distances) -> Figure:
    """Distance against work, a column a network; bars are 95 % intervals, a star the full network.

    frame: columns model, way, macs (of a sample), and those of `Distances.columns` with the full network as
    base. Above the distances, below their differences to the full network's. A row shares both axes.
    """
    models = sorted(dict.fromkeys(frame["model"]), reverse=True)
    ways = [way for way in dict.fromkeys(frame["way"]) if way != FULL]
    looks = {way: dict(marker="osD^v<>"[n % 7], color=palette.OTHERS[n % 7]) for n, way in enumerate(ways)}
    look = dict(elinewidth=0.9, capsize=2)
    with palette.style():
        figure = Figure(figsize=(palette.PAGE, 4.9))
        grid = figure.subplots(2, len(models), sharey="row", sharex=True, squeeze=False)
        for (row, column), axes in np.ndenumerate(grid):
            model, of = models[column], ("kid", "apart")[row]
            if not row:
                axes.axhspan(*floor.interval, color="0.85", lw=0, label="real images")
            for number, way in enumerate(ways):
                some = frame[(frame.model == model) & (frame.way == way)].sort_values("macs")
                shift = 1.012 ** (number - len(ways) / 2)  # equal sets side by side
                line = dict(ls="-" if "depth" in way else "", lw=0.9, ms=5, label=way)
                if len(some):
                    x = some.macs / 1e9 * shift
                    axes.errorbar(x, some[of], _reach(some, of), **looks[way], **look, **line)
            whole = frame[(frame.model == model) & (frame.way == FULL)]
            star = dict(fmt="*", ms=11, mfc="none", color="k", label="the full network")
            axes.errorbar(whole.macs / 1e9, whole[of], None if row else _reach(whole, of), **star, **look)
            if row:
                axes.axhline(0, color="0.4", ls=":", lw=1, zorder=0)
            else:
                axes.set_title(palette.label(model))
            axes.set(xscale="log")
            axes.set_yscale("symlog", linthresh=LINEAR)
            palette.readable(axes.xaxis)
            _distance_ticks(axes, frame, of)
        grid[0, 0].set_ylabel("KID-AlexNet / 0.001\n(lower is better)")
        grid[1, 0].set_ylabel("less the full network's\n(above 0: worse)")
        figure.supxlabel("G multiply-accumulates a sample", fontsize=8.5)
        _legend(figure, grid.flat)
    return figure


def guidance(frame: pd.DataFrame, floor: Distances, real: float) -> Figure:
    """Left: share of images of the class asked for; right: distance; against the guidance scale.

    frame: columns model, scale, right, right_low, right_high, kid, kid_low, kid_high. floor: of real images,
    a band. real: the share that the classifier gets right of real images, 0 ... 1.
    """
    models = list(dict.fromkeys(frame["model"]))
    reach = max(frame.scale.max() - frame.scale.min(), 1)
    with palette.style():
        figure = Figure(figsize=(palette.PAGE, 2.9))
        left, right = figure.subplots(1, 2)
        left.axhline(100 * real, color="0.5", ls=":", lw=1, label="real images")
        right.axhspan(*floor.interval, color="0.85", lw=0)
        for number, model in enumerate(models):
            some = frame[frame.model == model].sort_values("scale")
            at = some.scale + 0.008 * reach * (2 * number - len(models) + 1)
            look = dict(marker=palette.MARKERS.get(model, "o"), color=palette.colour(model), ms=4, lw=1.2)
            look |= dict(elinewidth=0.9, capsize=2, label=palette.label(model))
            for axes, of, unit in ((left, "right", 100), (right, "kid", 1)):
                spread = [unit * end for end in _reach(some, of)]
                axes.errorbar(at, unit * some[of], spread, **look)
        left.set(xlabel="guidance scale w", ylabel="of the class asked for, %", ylim=(0, 105))
        right.set(xlabel="guidance scale w", ylabel="KID-AlexNet / 0.001 (lower is better)")
        right.set_yscale("symlog", linthresh=LINEAR)
        _distance_ticks(right, frame)
        _legend(figure, (left,))
    return figure
