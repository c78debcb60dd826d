"""Figures of notebook 03: clouds over exact densities, paths, lines in panels; one colour for one process.

Like everything in `cunet.figures`, each function returns a matplotlib Figure in the common style and saves
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from torch import Tensor

from .palette import OTHERS, PAGE, style
from .sde import GaussianMixture

EDGE = 3.3  # half the side of a picture of the plane, in units of x
CELLS = 66  # pixels a side
INK = LinearSegmentedColormap.from_list("ink", ["#ffffff", "#fdd9a8", "#f1605d", "#721f81", "#1b0c41"])
FAMILIES = {  # the first whose key is in a line's name gives its colour
    "DDPM": "#CC79A7",
    "reverse SDE": "#D55E00",
    "Heun": "#0072B2",
    "flow, Euler": "#56B4E9",
    "flow": "#0072B2",
    "Langevin alone,": "#009E73",
    "Langevin alone": "#7FC8A9",
    "printed": "#555555",
}


def colour(name: str, place: int = 0) -> str:
    """The colour of a process by its name; of another name by its place among the lines."""
    return next((c for key, c in FAMILIES.items() if key in name), OTHERS[place % len(OTHERS)])


def densities(
    rows: Mapping[str, Sequence[Tensor | None]],
    exact: Sequence[GaussianMixture],
    columns: Sequence[str],
    numbers: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """A row a process, a column a time: each cloud as a picture, under contours of the exact density.

    rows: label -> clouds (B, 2), None for the exact density itself. exact: the density of each column.
    columns: a heading each. numbers: label -> a number for the corner of each picture.
    """
    with style():
        cell = min(1.45, (PAGE - 0.9) / len(columns))
        figure = Figure(figsize=(cell * len(columns) + 0.9, cell * len(rows) + 0.25))
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for line, (label, clouds) in zip(grid, rows.items(), strict=True):
            for i, (axes, cloud, density) in enumerate(zip(line, clouds, exact, strict=True)):
                picture(axes, cloud, density)
                if numbers and label in numbers:
                    axes.text(0.96, 0.04, f"{numbers[label][i]:.3f}", transform=axes.transAxes, ha="right",
                              fontsize=7)  # fmt: skip
            line[0].set_ylabel(label)
        for axes, text in zip(grid[0], columns, strict=True):
            axes.set_title(text, loc="center", weight="normal")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    return figure


def picture(axes, cloud: Tensor | None, density: GaussianMixture) -> None:
    """Draw a cloud (B, 2), or the density itself if None, under the density's contours at 10 and 50 %."""
    line = torch.linspace(-EDGE, EDGE, 2 * CELLS + 1, dtype=density.means.dtype)
    height = density.log_prob(torch.cartesian_prod(line, line)).exp().view(len(line), -1).T.numpy()
    shown = height
    if cloud is not None:
        x, y = cloud.T.numpy()
        shown = np.histogram2d(x, y, bins=CELLS, range=[[-EDGE, EDGE]] * 2)[0].T
        shown = shown / len(cloud) * (CELLS / (2 * EDGE)) ** 2
    axes.imshow(shown, origin="lower", extent=[-EDGE, EDGE] * 2, cmap=INK, vmin=0, vmax=1.15 * height.max())
    levels = [0.1 * height.max(), 0.5 * height.max()]
    axes.contour(line.numpy(), line.numpy(), height, levels=levels, colors="#2b7a9b", linewidths=0.6)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.7", linewidth=0.6)


def paths(lines: Mapping[str, Tensor], density: Tensor, times: Sequence[float], height: Tensor) -> Figure:
    """One panel a process: paths of one coordinate against time, over its exact density at every time (grey).

    lines: name -> (times, points), the first point's path drawn bold. density: (heights, times). Time runs to
    the right, from times[0].
    """
    density, height = density.numpy(), height.numpy()
    with style():
        figure = Figure(figsize=(PAGE, 2.8))
        panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
        for i, (axes, (name, path)) in enumerate(zip(panels, lines.items(), strict=True)):
            axes.pcolormesh(
                times,
                height,
                density,
                cmap="Greys",
                vmax=1.6 * density.max(),
                shading="auto",
                rasterized=True,
            )
            axes.plot(times, path[:, 1:].numpy(), color=colour(name, i), lw=0.7, alpha=0.65)
            axes.plot(times, path[:, 0].numpy(), color=colour(name, i), lw=1.8)
            axes.set(title=name, xlim=(times[0], times[-1]), xlabel="t (time runs to the right)")
            axes.set_ylim(height[0], height[-1])
            axes.grid(False)
        panels[0].set_ylabel("$x_1$")
    return figure


@dataclass
class Panel:
    """Lines of one panel, name -> (x, y); a line of one point is drawn as a mark."""

    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    xlabel: str
    ylabel: str
    title: str = ""
    logx: bool = False  # every x of the first line is then labelled
    logy: bool = True
    falling: bool = False  # x falls to the right, as time does on the way back
    floor: float | None = None  # y below which a cloud of independent points tells nothing
    legend: str = "best"  # matplotlib's place for it, or "below" the panel


def panels(*wanted: Panel, height: float = 2.9) -> Figure:
    """Panels side by side, each with its legend."""
    with style():
        figure = Figure(figsize=(PAGE if len(wanted) > 1 else 0.62 * PAGE, height))
        for axes, panel in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
            _panel(axes, panel)
    return figure


def _panel(axes, panel: Panel) -> None:
    for i, (name, (x, y)) in enumerate(panel.lines.items()):
        line = dict(ls="", ms=7) if len(x) == 1 else dict(ms=3.5)
        axes.plot(x, y, marker="osD^v"[i % 5], color=colour(name, i), label=name, **line)
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
    if panel.logx:
        axes.set_xscale("log")
        ticks = next(iter(panel.lines.values()))[0]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    if panel.logy:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.floor:
        low, high = axes.get_ylim()
        low = min(low, panel.floor / 1.5)
        axes.axhspan(low, panel.floor, color="0.9", lw=0, zorder=0)
        note = "floor of independent points"
        axes.text(0.5, 0.015, note, transform=axes.transAxes, fontsize=6.5, color="0.4", ha="center")
        axes.set_ylim(low, high)
    if panel.falling:
        axes.invert_xaxis()
    if panel.legend == "below":
        axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    else:
        axes.legend(fontsize=6.5, loc=panel.legend)
