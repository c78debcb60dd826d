"""Figures of notebooks 01 and 02: solvers, trajectories, gradients. The style is that of `cunet.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .figures import PAGE, style

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


def look(name: str) -> dict:
    """Colour and marker of a solver or of a way to the gradient."""
    return dict(color=COLOURS[name], marker=MARKERS[name], label=name.replace("_", " "))


def crossing(s, first, second, velocity, target: str = "x \u21a6 \u2212x") -> Figure:
    """Trajectories of a first- and a second-order equation that were to learn one map; right, phase space.

    s: (N,); first, second, velocity: (N, P), a column a trajectory.
    """
    with style():
        figure = Figure(figsize=(PAGE, 2.7))
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1))
        shades = _shades(first.shape[1])
        for path, colour in zip(range(first.shape[1]), shades, strict=True):
            for panel, x in ((axes[0], first), (axes[1], second)):
                panel.plot(s, x[:, path], color=colour, lw=1.2)
                panel.plot(s[0], x[0, path], "o", color=colour, ms=3.5)
                panel.plot(s[-1], -x[0, path], "_", color=colour, ms=9, mew=1.8, clip_on=False)
            axes[2].plot(second[:, path], velocity[:, path], color=colour, lw=1.2)
            axes[2].plot(second[0, path], velocity[0, path], "o", color=colour, ms=3.5)
        axes[0].set(title="first order: paths cannot cross", xlabel="s", ylabel="x")
        axes[1].set(title="second order: positions may", xlabel="s")
        axes[2].set(title="in phase space none cross", xlabel="x", ylabel="v = dx/ds")
        for panel in axes[:2]:
            panel.set(ylim=(-1.25, 1.25), xticks=(0, 0.5, 1))
        axes[0].text(1.0, 1.13, f"wanted: {target} (bars)", ha="right", fontsize=7, color="0.35")
    return figure


def _shades(n: int) -> list:
    import matplotlib as mpl

    return [
        mpl.colormaps["RdBu"](x)
        for x in np.concatenate([np.linspace(0.03, 0.25, n // 2), np.linspace(0.75, 0.97, n - n // 2)])
    ]


def order_lines(panels: Mapping[str, pd.DataFrame], ylabels: Sequence[str] = ("error",)) -> Figure:
    """Error against step size on two logarithms, a panel each; a method of order k is a line of slope k.

    panels: title -> frame with columns solver, h, error. The fitted slope stands at the end of each line.
    """
    with style():
        figure = Figure(figsize=(PAGE, 3.3))
        for axes, (title, frame) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            ends = []
            for solver, line in frame.groupby("solver", sort=False):
                line = line.sort_values("h")
                slope = np.polyfit(np.log(line.h), np.log(line.error), 1)[0]
                axes.loglog(line.h, line.error, **look(solver))
                ends.append((line.h.iloc[-1], line.error.iloc[-1], slope, COLOURS[solver]))
            for x, y, slope, colour in ends:
                axes.annotate(f"{slope:.2f}", (x, y), (5, 0), textcoords="offset points", va="center",
                              fontsize=7, color=colour)  # fmt: skip
            axes.set(title=title, xlabel="step size h")
            axes.set_xlim(right=frame.h.max() * 2.2)
        for axes, ylabel in zip(figure.axes, ylabels, strict=False):
            axes.set_ylabel(ylabel)
        figure.axes[-1].legend(fontsize=7, loc="lower right")
    return figure


def exponents(frame: pd.DataFrame, title: str = "") -> Figure:
    """A table as a picture: rows problems, columns solvers; the shade is the distance from a whole number."""
    with style():
        figure = Figure(figsize=(PAGE, 0.3 * len(frame) + 0.9))
        axes = figure.subplots()
        values = frame.to_numpy(dtype=float)
        axes.imshow(np.abs(values - np.round(values)), cmap="Oranges", vmin=0, vmax=0.5, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5)
        axes.set_xticks(range(frame.shape[1]), [str(c).replace("_", "\n") for c in frame.columns], fontsize=7)
        axes.set_yticks(range(frame.shape[0]), frame.index)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.set_title(title)
    return figure


def energy(frame: pd.DataFrame, orbits: Mapping[str, np.ndarray]) -> Figure:
    """Left: relative energy error against orbits, columns solver, orbit, drift. Right: the orbits drawn.

    orbits: solver -> (N, 2) positions of the last revolutions.
    """
    with style():
        figure = Figure(figsize=(PAGE, 3.0))
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        for solver, line in frame.groupby("solver", sort=False):
            left.loglog(line.orbit, line.drift, color=COLOURS[solver], label=solver.replace("_", " "), lw=1.1)
        left.set(xlabel="orbits", ylabel="|energy \u2212 energy at the start| / |energy|",
                 title="equal evaluations of the force an orbit")  # fmt: skip
        left.legend(fontsize=7, ncols=2)
        for solver, path in orbits.items():
            right.plot(path[:, 0], path[:, 1], color=COLOURS[solver], lw=0.8, label=solver.replace("_", " "))
        right.plot(0, 0, "o", color="0.2", ms=4)
        right.set(aspect="equal", title="the last orbits", xticks=(), yticks=())
        right.grid(False)
    return figure


def block_convergence(frame: pd.DataFrame, titles: Mapping[str, str], share: float = 0.01) -> Figure:
    """Error share against evaluations, a panel a network: the median block, and all blocks as a band.

    frame: columns network, block, solver, evaluations, share (`cunet.convergence.errors`).
    """
    with style():
        figure = Figure(figsize=(PAGE if len(titles) > 1 else PAGE * 0.66, 3.2))
        for axes, (name, title) in zip(
            figure.subplots(1, len(titles), sharey=True, squeeze=False)[0], titles.items(), strict=True
        ):
            for solver, lines in frame[frame.network == name].groupby("solver", sort=False):
                spread = lines.groupby("evaluations").share.agg(["min", "median", "max"])
                axes.loglog(spread.index, spread["median"], **look(solver))
                axes.fill_between(
                    spread.index, spread["min"], spread["max"], color=COLOURS[solver], alpha=0.1, lw=0
                )
            axes.axhline(share, color="0.4", lw=0.8, ls="--")
            axes.annotate("1 %", (1, share), (-2, 2), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", fontsize=7, color="0.4")  # fmt: skip
            ticks = sorted({n for n in frame.evaluations if math_is_power_of_two(n)})
            axes.set_xticks(ticks, [str(n) for n in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(title=title, xlabel="evaluations of f")
        figure.axes[0].set_ylabel("error, share of the way")
        figure.axes[-1].legend(fontsize=7, loc="lower left")
    return figure


def math_is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def transported(paths, adjoints, times: Sequence[int], density, extent, goal) -> Figure:
    """A flow in the plane from noise (dots) to data (squares), and the adjoint carried back along it (arrows).

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
                    line = line.dropna(subset=column)
                    axes.loglog(line.steps, line[column] * factor, **look(name))
                ticks = sorted(set(lines.steps))
                axes.set_xticks(ticks, [str(n) for n in ticks])
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.set(xlabel="solver steps", ylabel=label)
            row[0].axhline(1e-5, color="0.4", lw=0.8, ls="--")
            row[0].set_title(subject)
        figure.axes[0].legend(fontsize=7)
    return figure
