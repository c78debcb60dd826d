"""Figures of notebooks 01 and 02: solvers, trajectories, gradients. The style is that of `cunet.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .palette import PAGE, legend_below, readable, style

COLOURS = {
    "euler": "#8A8A8A",
    "midpoint": "#E69F00",
    "leapfrog": "#D55E00",
    "naive leapfrog": "#8A8A8A",
    "reversible_leapfrog": "#CC79A7",
    "rk4": "#0072B2",
    "nystrom4": "#009E73",
    "dopri5": "#000000",
    "direct": "#000000",
    "checkpoint": "#E69F00",
    "adjoint": "#0072B2",
    "reversible": "#CC79A7",
}
MARKERS = {
    "euler": "x", "midpoint": "v", "leapfrog": "s", "naive leapfrog": "x", "reversible_leapfrog": "D",
    "rk4": "o", "nystrom4": "^", "dopri5": "*", "direct": "o", "checkpoint": "s", "adjoint": "^",
    "reversible": "D",
}  # fmt: skip


UNDERLAID = ("euler", "naive leapfrog", "rk4", "direct")  # drawn wider, so that a line over them leaves a rim


def look(name: str) -> dict:
    """Colour, marker, line of a solver or of a way to the gradient; lines that coincide stay visible."""
    line = dict(lw=2.6, ms=6, alpha=0.6, zorder=2) if name in UNDERLAID else dict(lw=1.3, ms=4, zorder=3)
    return dict(color=COLOURS[name], marker=MARKERS[name], label=name.replace("_", " "), **line)


def _apart(values: Sequence[float], least: float) -> list[float]:
    """Positions for labels near `values`: in their order, and no two closer than `least`."""
    order = np.argsort(values)
    placed = np.array(values, dtype=float)[order]
    for _ in range(200):  # push neighbours apart, half each
        gap = least - np.diff(placed)
        if (gap <= 1e-9).all():
            break
        push = np.clip(gap, 0, None) / 2
        placed[:-1] -= push
        placed[1:] += push
    result = np.empty_like(placed)
    result[order] = placed
    return result.tolist()


def _counts(axes, numbers) -> None:
    """Ticks of a logarithmic x axis at whole numbers, and nowhere else."""
    axes.set_xticks(list(numbers), [str(n) for n in numbers])
    axes.xaxis.set_minor_locator(NullLocator())


def crossing(s, first, second, velocity, target: str = "x \u21a6 \u2212x") -> Figure:
    """Trajectories of a first- and a second-order equation that were to learn one map; right, phase space.

    s: (N,); first, second, velocity: (N, P), a column a trajectory.
    """
    with style():
        figure = Figure(figsize=(PAGE, 2.9))
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        for path, colour in enumerate(_shades(first.shape[1])):
            for panel, x in ((axes[0], first), (axes[1], second)):
                panel.plot(s, x[:, path], color=colour, lw=1.4)
                panel.plot(s[0], x[0, path], "o", color=colour, ms=4)
                panel.plot(s[-1], -x[0, path], "_", color=colour, ms=11, mew=2.2, clip_on=False)
            axes[2].plot(second[:, path], velocity[:, path], color=colour, lw=1.4)
            axes[2].plot(second[0, path], velocity[0, path], "o", color=colour, ms=4)
            axes[2].plot(second[-1, path], velocity[-1, path], "_", color=colour, ms=9, mew=2.2)
        axes[0].set(title="first order", xlabel="s", ylabel="x")
        axes[1].set(title="second order", xlabel="s")
        axes[2].set(title="second order, phase space", xlabel="x", ylabel="v = dx/ds")
        for panel in axes[:2]:
            panel.set(ylim=(-1.25, 1.25), xlim=(-0.05, 1.08), xticks=(0, 0.5, 1))
        figure.supxlabel(f"dots: start; bars: where {target} would end (right: where it ended)", fontsize=7)
    return figure


def _shades(n: int) -> list:
    """n colours from dark red over pale to dark blue, without the palest."""
    halves = np.linspace(0.03, 0.25, n // 2), np.linspace(0.75, 0.97, n - n // 2)
    return [mpl.colormaps["RdBu"](x) for x in np.concatenate(halves)]


def order_lines(panels: Mapping[str, pd.DataFrame], ylabels: Sequence[str] = ("error",)) -> Figure:
    """Error against step size on two logarithms, a panel each; a method of order k is a line of slope k.

    panels: title -> frame with columns solver, h, error. At the end of each line stands its slope, fitted to
    the three smallest steps.
    """
    with style():
        figure = Figure(figsize=(PAGE, 3.3))
        for axes, (title, frame) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            ends = []
            for solver, line in frame.groupby("solver", sort=False):
                line = line.sort_values("h")
                slope = np.polyfit(np.log(line.h[:3]), np.log(line.error[:3]), 1)[0]
                axes.loglog(line.h, line.error, **look(solver))
                ends.append((line.h.iloc[-1], line.error.iloc[-1], slope, COLOURS[solver]))
            heights = 10 ** np.array(_apart([np.log10(y) for _, y, *_ in ends], least=0.045 * _decades(axes)))
            for (x, _, slope, colour), y in zip(ends, heights, strict=True):
                axes.annotate(f"{slope:.2f}", (x, y), (6, 0), textcoords="offset points",
                              va="center", fontsize=7, color=colour)  # fmt: skip
            axes.set(title=title, xlabel="step size h")
            axes.set_xlim(right=frame.h.max() * 2.2)
        for axes, ylabel in zip(figure.axes, ylabels, strict=False):
            axes.set_ylabel(ylabel)
        legend_below(figure, figure.axes[0])
    return figure


def _decades(axes) -> float:
    """How many decades the y axis spans."""
    low, high = axes.get_ylim()
    return np.log10(high / low)


def exponents(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Tables as pictures: rows problems, columns solvers; the shade is the distance from a whole number."""
    with style():
        rows = max(len(frame) for frame in frames.values())
        figure = Figure(figsize=(PAGE, 0.27 * rows + 1.0))
        panels = figure.subplots(1, len(frames), sharey=True, squeeze=False)[0]
        for axes, (title, frame) in zip(panels, frames.items(), strict=True):
            values = frame.to_numpy(dtype=float)
            axes.imshow(np.abs(values - np.round(values)), cmap="Oranges", vmin=0, vmax=0.5, aspect="auto")
            for (row, column), value in np.ndenumerate(values):
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7)
            names = [str(name).replace("_", " ") for name in frame.columns]
            axes.set_xticks(
                range(len(names)), names, fontsize=7, rotation=40, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(range(len(frame)), frame.index)
            axes.grid(False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(title)
    return figure


def energy(frame: pd.DataFrame, orbits: Mapping[str, np.ndarray], exact: np.ndarray) -> Figure:
    """Left: relative energy error against orbits (columns solver, orbit, drift). Right: each last orbit.

    orbits: solver -> (N, 2) positions; exact: (M, 2), the exact orbit. A dot marks where each path ends.
    """
    with style():
        figure = Figure(figsize=(PAGE, 3.0))
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for solver, line in frame.groupby("solver", sort=False):
            left.loglog(line.orbit, line.drift, color=COLOURS[solver], label=solver.replace("_", " "))
        left.set(xlabel="orbits", ylabel="relative error of the energy", title="energy, at equal cost")
        left.legend(fontsize=7)
        right.plot(*exact.T, color="0.75", lw=3, label="exact", zorder=1)
        for solver, path in orbits.items():
            right.plot(*path.T, color=COLOURS[solver], lw=0.9, zorder=2)
            right.plot(*path[-1], "o", color=COLOURS[solver], zorder=3)
        right.plot(*exact[-1], "o", color="0.75", ms=7, zorder=2)
        right.plot(0, 0, "*", color="0.2", ms=8)
        right.set(aspect="equal", title="the last orbit (grey: exact)", xticks=(), yticks=())
        right.spines[:].set_visible(False)
        right.grid(False)
    return figure


def block_convergence(frame: pd.DataFrame, titles: Mapping[str, str], share: float = 0.01) -> Figure:
    """Error share against evaluations, a panel a network: the median block, the middle half as a band.

    frame: columns network, block, solver, evaluations, share (`cunet.convergence.errors`).
    """
    with style():
        figure = Figure(figsize=(PAGE if len(titles) > 1 else PAGE * 0.66, 3.2))
        for axes, (name, title) in zip(
            figure.subplots(1, len(titles), sharey=True, squeeze=False)[0], titles.items(), strict=True
        ):
            for solver, lines in frame[frame.network == name].groupby("solver", sort=False):
                spread = lines.groupby("evaluations").share.quantile([0.25, 0.5, 0.75]).unstack()
                axes.loglog(spread.index, spread[0.5], **look(solver))
                axes.fill_between(
                    spread.index, spread[0.25], spread[0.75], color=COLOURS[solver], alpha=0.12, lw=0
                )
            axes.axhline(share, color="0.4", lw=0.8, ls="--")
            axes.annotate("1 %", (1, share), (-2, 2), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", fontsize=7, color="0.4")  # fmt: skip
            _counts(axes, sorted({n for n in frame.evaluations if n & (n - 1) == 0}))  # powers of two
            axes.set(title=title, xlabel="evaluations of f")
        figure.axes[0].set_ylabel("error, share of the way")
        figure.axes[-1].legend(fontsize=7, loc="lower left")
    return figure


def transported(paths, adjoints, times: Sequence[int], density, extent, goal) -> Figure:
    """A flow in the plane from noise (dots) to data (squares); arrows: the adjoint, carried back along it.

    paths, adjoints: (N, P, 2), states and gradients of P points at N times; times: at which an arrow stands.
    density: (H, W), drawn behind over `extent`. goal: (2,), what the loss measures the distance to.
    """
    with style():
        figure = Figure(figsize=(PAGE * 0.66, 4.2))
        axes = figure.subplots()
        axes.imshow(density, origin="lower", extent=extent, cmap="Greys", alpha=0.6, aspect="equal")
        for p in range(paths.shape[1]):
            axes.plot(*paths[:, p].T, color="#0072B2", lw=1.1)
            axes.plot(*paths[0, p], "o", color="#0072B2")
            axes.plot(*paths[-1, p], "s", color="#0072B2")
            arrows = adjoints[times, p]
            axes.quiver(*paths[times, p].T, *(arrows / 3).T, color="#D55E00", angles="xy", scale_units="xy",
                        scale=1, width=0.004, zorder=3)  # fmt: skip
        axes.plot(*goal, "*", color="black", ms=10)
        axes.annotate("goal", goal, (6, -9), textcoords="offset points", fontsize=7)
        axes.set(xlim=extent[:2], ylim=extent[2:], xticks=(), yticks=())
        axes.spines[:].set_visible(False)
        axes.grid(False)
    return figure


def gradient_costs(frame: pd.DataFrame) -> Figure:
    """Gradient error, peak memory and time against solver steps; a row of panels a subject.

    frame: columns subject, gradient, steps, error, memory (bytes), seconds.
    """
    subjects = list(dict.fromkeys(frame.subject))
    what = (
        ("error", "relative error of the gradient", 1.0),
        ("memory", "peak memory (MB)", 1e-6),
        ("seconds", "time (s)", 1.0),
    )
    with style():
        figure = Figure(figsize=(PAGE, 2.55 * len(subjects)))
        for row, subject in zip(figure.subplots(len(subjects), 3, squeeze=False), subjects, strict=True):
            lines = frame[frame.subject == subject]
            for axes, (column, label, factor) in zip(row, what, strict=True):
                for name, line in lines.groupby("gradient", sort=False):
                    axes.loglog(line.steps, line[column] * factor, **look(name))
                _counts(axes, sorted(set(lines.steps)))
                if column != "error":
                    readable(axes.yaxis)
                axes.set(xlabel="solver steps", ylabel=label)
            row[0].axhline(1e-5, color="0.4", lw=0.8, ls="--")
            row[0].set_title(subject)
        legend_below(figure, figure.axes[0])
    return figure
