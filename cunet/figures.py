"""Figures that several notebooks draw, each function a matplotlib Figure, in the style of `cunet.palette`.

No function touches pyplot's state, shows a window or saves a file: `runs.Run.save_figure` does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor, nn

from . import diagram
from .errors import InputError
from .palette import COLOURS, MARKERS, PAGE, colour, label, legend_below, readable, style


def to_display(image: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W) or (H, W, 3) in [0, 1], clipped."""
    shown = ((image.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    return shown[:, :, 0] if shown.shape[2] == 1 else shown


def image_rows(rows: Mapping | Sequence[tuple], columns: Sequence[str] = (), title: str = "") -> Figure:
    """Rows of images with a label each, and a heading a column.

    rows: label -> images, or pairs (label, images); images are (N, C, H, W) or N of (C, H, W), in [-1, 1].
    columns: N headings, or none.

    Raises InputError for no rows, or rows without an image.
    """
    rows = list(rows.items() if isinstance(rows, Mapping) else rows)
    wide = max((len(images) for _, images in rows), default=0)
    if not wide:
        raise InputError(f"{len(rows)} rows without an image cannot be drawn: give a row with one or more.")
    with style():
        cell = min(0.8, (PAGE - 1.1) / wide)
        figure = Figure(figsize=(cell * wide + 1.1, cell * len(rows) + (0.5 if title or columns else 0.1)))
        grid = figure.subplots(len(rows), wide, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, (name, images) in zip(grid, rows, strict=True):
            line[0].text(-0.12, 0.5, name, ha="right", va="center", transform=line[0].transAxes)
            for axes, image in zip(line, images, strict=False):
                axes.imshow(to_display(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for axes, text in zip(grid[0], columns, strict=False):
            axes.set_title(text, loc="center", weight="normal", fontsize=7)
        if title:
            figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9)
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    return figure


def image_grid(images: Tensor, columns: int = 8, title: str = "") -> Figure:
    """(N, C, H, W) in [-1, 1] as one sheet, `columns` wide, rows filled from the left; as `sheet_rows`."""
    return sample_sheets({title: images}, columns)


def sample_sheets(sheets: Mapping[str, Tensor], columns: int = 8) -> Figure:
    """Sheets of samples side by side, one a network. Label -> (N, C, H, W)."""
    return sheet_rows({"": sheets}, columns)


def sheet_rows(rows: Mapping[str, Mapping[str, Tensor]], columns: int = 8) -> Figure:
    """Rows of sheets of samples, a row a data set, a sheet a network (figure 3 of the paper).

    rows: the row's label -> the sheet's label -> (N, C, H, W), as many sheets in each row.

    Raises InputError for no rows, a row without sheets, a sheet without images, or fewer than one column.
    """
    if columns < 1:
        raise InputError(f"columns={columns!r}: a sheet is one image wide, or more.")
    empty = [label or "the sheet" for label, sheets in rows.items() if not _some_images(sheets)]
    if empty or not rows:
        raise InputError(
            f"There are no images to draw in {', '.join(empty) or 'a sheet of no rows'}: give one or more."
        )
    with style():
        wide = max(len(sheets) for sheets in rows.values())
        down = [-(-max(len(s) for s in sheets.values()) // columns) for sheets in rows.values()]
        width = PAGE / max(2, wide)
        figure = Figure(figsize=(width * wide, sum(width * n / columns + 0.3 for n in down)))
        grid = figure.subplots(len(rows), wide, squeeze=False, height_ratios=down)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, (label, sheets) in zip(grid, rows.items(), strict=True):
            for axes, (title, images) in zip(line, sheets.items(), strict=False):
                axes.imshow(_tiled(images, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(title)
            line[0].text(-0.02, 0.5, label, rotation=90, ha="right", va="center", transform=line[0].transAxes)
    return figure


def _some_images(sheets: Mapping[str, Tensor]) -> bool:
    return bool(sheets) and all(len(images) for images in sheets.values())


def _tiled(images: Tensor, columns: int, gap: int = 1) -> np.ndarray:
    tiles = [to_display(image) for image in images]
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles[0].shape[2:]))
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


# ----------------------------------------------------------------------------------------------------- curves


def fd_against_steps(
    frame: pd.DataFrame,
    floor: float | Mapping[str, float] | None = None,
    metric: str = "FD-AlexNet",
    x: str = "steps",
    others: pd.DataFrame | None = None,
) -> Figure:
    """Distance against the number of sampling steps, a panel a sampler, a line a network, with intervals.

    frame: columns model, sampler, fd, fd_low, fd_high, and x; with `n`, images a set, which the titles then
    say. floor: the distance of as many real images, drawn dashed; one for all samplers, or by sampler. x:
    "steps", or "seconds" for the time a sample. others: further trainings of the networks, a thin line for
    each value of its column `seed`. A ring marks each network's lowest distance. Networks stand a little
    apart, so that their intervals can be told apart.

    Raises InputError for a frame without rows.
    """
    if not len(frame):
        raise InputError("There are no distances to draw: give a row or more.")
    samplers = list(dict.fromkeys(frame["sampler"]))
    models = list(dict.fromkeys(frame["model"]))
    floors = floor if isinstance(floor, Mapping) else dict.fromkeys(samplers, floor)
    apart = {m: 1.05 ** (i - (len(models) - 1) / 2) if x == "steps" else 1.0 for i, m in enumerate(models)}
    with style():
        figure = Figure(figsize=(PAGE if len(samplers) > 1 else 0.7 * PAGE, 3.3))
        wide = [max(1.6, frame[frame["sampler"] == sampler][x].nunique()) for sampler in samplers]
        panels = figure.subplots(1, len(samplers), sharey=True, squeeze=False, width_ratios=wide)[0]
        for axes, sampler in zip(panels, samplers, strict=True):
            here = frame[frame["sampler"] == sampler]
            for model, line in here.groupby("model", sort=False):
                _distances(axes, model, line.sort_values(x), x, apart[model])
            more = others[others["sampler"] == sampler] if others is not None else here[:0].assign(seed=0)
            for (model, _), line in more.sort_values(x).groupby(["model", "seed"], sort=False):
                thin = dict(color=colour(model), lw=0.7, ms=3, alpha=0.8)
                axes.plot(line[x], line.fd, marker=MARKERS.get(model, "o"), mfc="white", **thin)
            if floors[sampler] is not None:
                axes.axhline(floors[sampler], color="0.4", ls="--", lw=0.9, label="as many real images")
            xlabel = {"steps": "sampling steps", "seconds": "seconds a sample"}[x]
            title = f"{sampler}\n{here['n'].max():,} images a set" if "n" in here else sampler
            axes.set(xscale="log", yscale="log", xlabel=xlabel, title=title)
            if x == "steps":
                steps = sorted(here[x].unique())
                axes.set_xlim(steps[0] / 1.3, steps[-1] * 1.3)
                axes.set_xticks(steps, [str(s) for s in steps])
                axes.minorticks_off()
            else:
                readable(axes.xaxis)
        readable(panels[0].yaxis, frame.fd_high.max() / frame.fd_low.min())
        panels[0].set_ylabel(f"{metric} (lower is better)")
        legend_below(figure, panels[0])
    return figure


def _distances(axes, model: str, line: pd.DataFrame, x: str, apart: float) -> None:
    """One network's distances with their intervals, and a ring around the lowest."""
    hue, at = colour(model), line[x] * (apart if apart != 1.0 else 1)
    axes.plot(at, line.fd, color=hue, marker=MARKERS.get(model, "o"), label=label(model))
    reach = [(line.fd - line.fd_low).clip(lower=0), (line.fd_high - line.fd).clip(lower=0)]
    axes.errorbar(at, line.fd, reach, fmt="none", ecolor=hue, elinewidth=1.0, capsize=2.5)
    best = line.fd.idxmin()
    axes.plot(at[best], line.fd[best], "o", ms=10, mfc="none", mec=hue)


def loss_curves(
    cards: Mapping[str, Mapping] | Sequence[tuple[str, Mapping]],
    zoom: bool = False,
    seconds: Mapping[str, float] | None = None,
) -> Figure:
    """Training (thin) and validation loss (thick) against images seen, and against wall time.

    cards: model -> checkpoint card, or pairs of the two where a network was trained several times; loss_curve
    and validation hold [images, loss] pairs; time is taken as proportional to images. zoom: the validation
    losses fill the panels, and the steep start of the training losses is cut off. seconds: an image takes in
    training, by model; by default what it took, on average, in the training itself.
    """
    pairs, named = list(cards.items() if isinstance(cards, Mapping) else cards), set()
    with style():
        figure = Figure(figsize=(PAGE, 3.1))
        panels = figure.subplots(1, 2, sharey=True)
        for model, card in pairs:
            text = None if model in named else f"{label(model)}, validation"
            named.add(model)
            took = seconds[model] if seconds else card["wall_time_s"] / max(card["images_seen"], 1)
            for axes, factor in zip(panels, (1e-3, took / 60), strict=True):
                _losses(axes, model, card, factor, text)
        panels[0].set(yscale="log", xlabel="thousands of images seen", ylabel="loss", title="at equal images")
        readable(panels[0].yaxis)
        checked = [loss for _, card in pairs for _, loss in card["validation"]]
        if zoom and len(checked) > len(pairs):  # one validation each is no curve
            low, high = min(checked), max(checked)
            margin = (high / low) ** 0.08
            panels[0].set_ylim(low / margin, high * margin)
            panels[0].yaxis.set_major_locator(MaxNLocator(6))
            panels[0].yaxis.set_minor_locator(NullLocator())
        panels[1].set(xlabel="minutes of training", title="at equal time")
        panels[1].plot([], [], color="0.5", lw=0.7, label="training")
        legend_below(figure, panels[1])
    return figure


def _losses(axes, model: str, card: Mapping, factor: float, text: str | None) -> None:
    """One training's two curves; open marks for all but the first network, so that none hides another."""
    mark = dict(marker=MARKERS.get(model, "o"), mfc=colour(model) if model == "unet" else "white", ms=4.5)
    for curve, looks in (("loss_curve", dict(lw=0.7, alpha=0.4)), ("validation", dict(lw=1.5, **mark))):
        points = np.array(card[curve], dtype=float).reshape(-1, 2)
        name = text if curve == "validation" else None
        axes.plot(points[:, 0] * factor, points[:, 1], color=colour(model), label=name, **looks)


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
    marker: str = "",
) -> Figure:
    """Several lines over one x. A line named as a network has its colour; the others follow the palette."""
    with style():
        figure = Figure(figsize=(PAGE * 0.62, 2.9))
        axes = figure.subplots()
        for name, y in lines.items():
            own = {"color": colour(name)} if name in COLOURS else {}
            axes.plot(x, y, label=label(name), marker=marker or None, **own)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axes.set_xscale("log" if logx else "linear")
        axes.set_yscale("log" if logy else "linear")
        beside = dict(loc="upper left", bbox_to_anchor=(1, 1)) if len(lines) > 4 else {}
        axes.legend(fontsize=7, **beside)
    return figure


# ------------------------------------------------------------------------------------------- beside the paper


def bars_beside_paper(
    frame: pd.DataFrame,
    panels: Sequence[tuple[str, str | None, str]],
    claimed: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Horizontal bars of what we measured, a black diamond for what the paper prints (figure 6, table 5).

    frame: a row a network, with columns model (colour) and label; its first row is what the others are
    compared with, as the percents beside the bars say. panels: (column of ours, column of the paper's or
    None, axis label); a missing number leaves its mark out. claimed: for a column of ours, a share of the
    first row that the paper claims, drawn as a line, and its name.
    """
    with style():
        figure = Figure(figsize=(PAGE, 0.36 * len(frame) + 1.1))
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        rows = np.arange(len(frame))
        for axes, (ours, theirs, title) in zip(grid, panels, strict=True):
            values = frame[ours].astype(float)
            axes.barh(rows, values, color=[colour(m) for m in frame["model"]], height=0.62)
            printed = frame[theirs].astype(float) if theirs else pd.Series(np.nan, index=frame.index)
            axes.plot(printed, rows, "D", color="black", mec="white", ms=5, label="printed", ls="")
            reach = np.fmax(values, printed.fillna(0))
            for y, (value, x) in enumerate(zip(values, reach, strict=True)):
                share = f" ({value / values.iloc[0]:.0%})" if y and values.iloc[0] else ""
                axes.annotate(
                    f"{value:.3g}{share}", (x, y), (6, 0), textcoords="offset points", va="center",
                    fontsize=7, zorder=5, bbox=dict(fc="white", ec="none", pad=0.8),
                )  # fmt: skip
            axes.set(xlabel=title, xlim=(0, (1.12 + 0.13 * len(panels)) * reach.max()))
            axes.grid(axis="y", visible=False)
            if claimed and ours in claimed:
                share, name = claimed[ours]
                axes.axvline(share * values.iloc[0], color="0.3", ls="--", lw=0.9, label=name)
        grid[0].set_yticks(rows, [text.replace(" (", "\n(") for text in frame["label"]])
        grid[0].invert_yaxis()
        legend_below(figure, grid[0])
    return figure


def architecture(model: nn.Module, image_size: int, channels: int = 3, title: str = "") -> Figure:
    """The network as a U, found by running it once (see `cunet.diagram`) (figures 1 and 2 of the paper).

    In the boxes: channels of the output ("2×" is position and velocity); below: parameters. A skip is drawn
    where one stage reads another's output over the heads of those between.
    """
    found = diagram.trace(model, image_size, channels)
    with style():
        figure = Figure(figsize=(PAGE, 3.6))
        axes = figure.subplots()
        diagram.draw(axes, found)
        text = f"{title or type(model).__name__}: {diagram.short(found.parameters)} parameters"
        if found.uncalled:
            text += f", {diagram.short(found.uncalled)} of them in no layer"
        axes.set_title(text)
    return figure
