"""Figures of notebooks 08 and 09: images on their way, scores against steps, distortion against perception.

Like everything in `cunet.figures`, each function returns a matplotlib Figure in the common style and saves
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from .denoising_tables import band
from .figures import to_display
from .palette import MARKERS, OTHERS, PAGE, colour, label, legend_below, readable, style
from .trajectories import METRICS, Denoised, Trajectory

RIVALS = {"bm3d": ("#000000", "D"), "autoencoder": ("#CC79A7", "v"), "dncnn": ("#009E73", "^")}
WALKS = {"clean": "clean: no fresh noise", "ancestral-clean": "ancestral-clean: fresh noise"}
UNITS = {"ssim": "SSIM (higher is better)", "lpips": "LPIPS (lower is better)", "psnr": "PSNR, dB"}


class Strip(NamedTuple):
    """A row of `along_the_steps`: a network, its frames (F, C, H, W), the steps, a number below each, and
    which of them is the best one."""

    model: str
    frames: Tensor
    steps: Sequence[int]
    numbers: Sequence[float]
    best: int


def strip(model: str, trajectory: Trajectory, image: int, metric: str) -> Strip:
    """One image's frames with their scores; the best is the best of the frames, not of the steps between."""
    at = [trajectory.steps.tolist().index(step) for step in trajectory.frame_steps.tolist()]
    numbers = trajectory.scores[metric][image, at].tolist()
    best = numbers.index(METRICS[metric](numbers))
    return Strip(model, trajectory.frames[image], trajectory.frame_steps.tolist(), numbers, best)


def along_the_steps(original: Tensor, rows: Sequence[Strip], metric: str) -> Figure:
    """Figures 7 to 9: an image on its way, a row a network; below each frame its score, the best one framed.

    original: (C, H, W), shown at the left of every row.
    """
    with style():
        wide = len(rows[0].frames) + 1
        cell = min(0.85, (PAGE - 1.3) / wide)
        figure = Figure(figsize=(cell * wide + 1.3, (cell + 0.24) * len(rows) + 0.3))
        for line, row in zip(figure.subplots(len(rows), wide, squeeze=False), rows, strict=True):
            for axes, image in zip(line, [original, *row.frames], strict=True):
                axes.imshow(to_display(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=(), yticks=())
                axes.spines[:].set_visible(False)
            line[0].set_ylabel(label(row.model), rotation=0, ha="right", va="center")
            for axes, number in zip(line[1:], row.numbers, strict=True):
                axes.set_xlabel(f"{number:.3f}", fontsize=6.5, labelpad=2)
            line[1 + row.best].spines[:].set(visible=True, color=colour(row.model), linewidth=2.2)
            if row is rows[0]:
                for axes, text in zip(line, ["original", *(f"step {s}" for s in row.steps)], strict=True):
                    axes.set_title(text, loc="center", weight="normal", fontsize=7)
        figure.supxlabel(f"{metric.upper()} below each; framed: the best of the row", fontsize=7)
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    return figure


def against_steps(runs: Mapping[str, Denoised], variant: str, metric: str, image: int | None = 0) -> Figure:
    """Figures 10 and 11: a score against the noise steps removed, a column a noise level.

    Above, thick: the mean over images, with a mark where it is best; thin: one image, as in the paper (none
    if None). LPIPS, of which the best values are small, is on a logarithm. Below, for two networks: the
    second's score minus the first's, image by image, mean and 95 % interval; where the band leaves 0, they
    differ.
    """
    levels = sorted(level for v, level in next(iter(runs.values())).trajectories if v == variant)
    columns = min(4, len(levels))
    lines = -(-len(levels) // columns)
    with style():
        figure = Figure(figsize=(PAGE, 2.75 * lines + 0.5))
        grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=(1.7, 1) * lines)
        for axes in grid.flat:
            axes.set_axis_off()
        for i, level in enumerate(levels):
            line, column = divmod(i, columns)
            top, below = grid[2 * line : 2 * line + 2, column]
            for axes in (top, below):
                axes.set_axis_on()
            for model, run in runs.items():
                _against_steps(top, model, run[variant, level], metric, image)
            top.set_title(f"{level} steps")
            if metric == "lpips":
                top.set_yscale("log")
                readable(top.yaxis)
            _paired(below, [run[variant, level] for run in runs.values()], metric, list(runs)[-1])
            below.sharex(top)
            top.tick_params(labelbottom=False)
        for i, axes in enumerate(grid[:, 0]):
            axes.set_ylabel("difference" if i % 2 else metric.upper())
        figure.supxlabel("noise steps removed, of those in the titles", fontsize=8.5)
        first = grid.flat[0]
        if image is not None:
            first.plot([], [], color="0.4", lw=0.7, ls="-.", label="one image")
        first.plot([], [], "o", color="0.4", mfc="none", label="best of the mean")
        handles, names = first.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=7)
    return figure


def _against_steps(axes, model: str, trajectory: Trajectory, metric: str, image: int | None) -> None:
    steps, mean, hue = trajectory.steps, trajectory.mean(metric), colour(model)
    axes.plot(steps, mean, color=hue, lw=1.6, label=f"{label(model)}, mean")
    if image is not None:
        one = trajectory.scores[metric][image]
        axes.plot(steps, one, color=hue, lw=0.7, ls="-.", alpha=0.8)
    peak = mean.argmax() if METRICS[metric] is max else mean.argmin()
    large = dict(ms=8, mfc="none", mew=1.3) if model == "unet" else dict(ms=4.5)
    axes.plot(steps[peak], mean[peak], MARKERS.get(model, "o"), color=hue, ls="", **large)


def _paired(axes, pair: Sequence[Trajectory], metric: str, model: str) -> None:
    """The second trajectory's score minus the first's, image by image: its mean with a 95 % interval."""
    if len(pair) != 2:
        axes.set_axis_off()
        return
    first, second = (trajectory.scores[metric].double() for trajectory in pair)
    low, high = band(second - first)
    axes.fill_between(pair[0].steps, low, high, color=colour(model), alpha=0.3, lw=0)
    axes.plot(pair[0].steps, (second - first).mean(0), color=colour(model), lw=1.2)
    axes.axhline(0, color="0.3", lw=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def differences(frames: Mapping[str, pd.DataFrame], ylabel: str = "second minus first") -> Figure:
    """By how much two networks' best values differ at each noise level, a mark a variant, a panel a metric.

    frames: variant -> what `denoising_tables.comparison` gives. Above 0 the second network's is larger.
    """
    metrics = list(dict.fromkeys(next(iter(frames.values())).metric))
    with style():
        figure = Figure(figsize=(PAGE, 2.9))
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            for i, (variant, frame) in enumerate(frames.items()):
                rows = frame[(frame.metric == metric) & (frame.quantity == "value")]
                at = [n + (i - (len(frames) - 1) / 2) * 0.12 for n in range(len(rows))]
                reach = [rows.difference - rows.difference_low, rows.difference_high - rows.difference]
                axes.errorbar(at, rows.difference, reach, fmt="osD^v"[i % 5], color=OTHERS[i % len(OTHERS)],
                              ms=3.5, lw=0.9, label=variant)  # fmt: skip
            axes.axhline(0, color="0.4", lw=0.8)
            axes.set_xticks(range(len(rows)), rows.noise)
            axes.set(xlabel="steps of noise", title=UNITS[metric])
        figure.axes[0].set_ylabel(ylabel)
        legend_below(figure, axes)
    return figure


def plane(frame: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """LPIPS against SSIM, a panel a noise level, a mark a method with 95 % intervals: right and low is good.

    Filled: one network a level, or a diffusion network; open: blind, or BM3D.

    frame: of `denoiser_tables.averages`.    names: method -> what the legend says, in its order.
    """
    levels = sorted(frame.noise.unique())
    with style():
        figure = Figure(figsize=(PAGE, 2.75))
        for axes, level in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels, strict=True):
            for method, name in names.items():
                rows = frame[(frame.noise == level) & (frame.method == method)].set_index("metric")
                if rows.empty:
                    continue
                x, y = (rows.loc[metric] for metric in ("ssim", "lpips"))
                reach = [[[row["mean"] - row.low], [row.high - row["mean"]]] for row in (x, y)]
                family, _, level_alone = method.partition("-")
                hue, mark = RIVALS.get(family) or (colour(method), MARKERS.get(method, "o"))
                axes.errorbar(
                    x["mean"], y["mean"], reach[1], reach[0], fmt=mark, color=hue, ms=5.5, lw=0.8, label=name,
                    mfc="white" if family in RIVALS and not level_alone else hue,
                )  # fmt: skip
            axes.set(xlabel="SSIM", title=f"{level} steps of noise")
            axes.set_yscale("log")
            readable(axes.yaxis)
        figure.axes[0].set_ylabel("LPIPS (lower is better)")
        shown = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
        figure.legend(shown.values(), shown, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def tradeoff(frame: pd.DataFrame, floor: float, xlabel: str = "distortion: mean squared error") -> Figure:
    """Perception against distortion: a panel a walk, a line a network, from its first prediction (ring) to
    its last (star).

    frame: columns model, variant, step, distortion, perception, in the order of the steps; with
    perception_low and perception_high, intervals. floor: the perception number of the originals themselves,
    drawn dashed.
    """
    walks = list(dict.fromkeys(frame.variant))
    with style():
        figure = Figure(figsize=(PAGE, 3.3))
        panels = figure.subplots(1, len(walks), sharex=True, sharey=True, squeeze=False)[0]
        for axes, variant in zip(panels, walks, strict=True):
            for model, line in frame[frame.variant == variant].groupby("model", sort=False):
                hue = colour(model)
                axes.plot(
                    line.distortion, line.perception, color=hue, marker=MARKERS.get(model, "o"),
                    label=label(model),
                )  # fmt: skip
                if "perception_low" in line:
                    reach = [line.perception - line.perception_low, line.perception_high - line.perception]
                    reach = [side.clip(lower=0) for side in reach]
                    axes.errorbar(
                        line.distortion, line.perception, reach, fmt="none", ecolor=hue, elinewidth=0.7,
                        capsize=1.5, alpha=0.6,
                    )  # fmt: skip
                first, last = line.iloc[0], line.iloc[-1]
                axes.plot(first.distortion, first.perception, "o", ms=11, mfc="none", mec=hue)
                axes.plot(last.distortion, last.perception, "*", ms=12, mfc=hue, mec="white")
            axes.axhline(floor, color="0.4", ls="--", lw=0.9, label="the originals, as many")
            axes.set(xlabel=xlabel, title=WALKS.get(variant, variant))
        axes.plot([], [], "o", ms=9, mfc="none", mec="0.4", label="first prediction")
        axes.plot([], [], "*", ms=9, color="0.4", label="last")
        panels[0].set_ylabel("KID-AlexNet, thousandths (lower is better)")
        legend_below(figure, axes)
    return figure


def toy(budgets: Sequence[float], best: Mapping[str, Sequence[float]]) -> Figure:
    """P(D) of equation 17 where it is known, beside what a coin between posterior mean and draw gives.

    budgets: distortions, in units of the least.    best: data set -> the least total variation at each.
    """
    with style():
        figure = Figure(figsize=(PAGE * 0.75, 3.0))
        axes = figure.subplots()
        for (name, line), hue, mark in zip(best.items(), OTHERS, "os^Dv*P", strict=False):
            axes.plot(budgets, line, color=hue, marker=mark, ms=3, label=f"least possible, {name}")
        axes.fill_between(budgets, 0, np.min(list(best.values()), axis=0), color="0.92", lw=0)
        axes.plot([1, 2], [1, 0], color="0.5", ls="--", lw=1, label="a coin: mean or draw")
        axes.plot([1, 2], [1, 0], "o", color="0.5", ms=5)
        axes.annotate("posterior mean", (1, 1), (8, 0), textcoords="offset points", va="center", fontsize=7)
        axes.annotate("posterior draw", (2, 0), (2, 8), textcoords="offset points", fontsize=7)
        axes.text(1.02, 0.04, "no denoiser gets here", fontsize=7, color="0.35")
        axes.set(xlabel="distortion D, in units of the least", ylabel="total variation from the data",
                 xlim=(0.97, max(2.3, max(budgets))), ylim=(-0.02, 1.05))  # fmt: skip
        axes.legend(fontsize=7)
    return figure


def cost_line(
    calls: Sequence[float], seconds: Sequence[float], images: Sequence[int], slope: float
) -> Figure:
    """Time of whole runs against images x network calls, a mark a number of images, and a line through 0.

    seconds: a number a run.    slope: of the line, seconds a call and image.
    """
    with style():
        figure = Figure(figsize=(PAGE * 0.62, 2.9))
        axes = figure.subplots()
        end = 1.05 * max(calls)
        axes.plot(
            [0, end], [0, slope * end], color="0.5", lw=1, label=f"{1e3 * slope:.1f} ms a call and image"
        )
        for number, hue, mark in zip(sorted(set(images)), OTHERS, "os^Dv*P", strict=False):
            found = [(c, t) for c, t, n in zip(calls, seconds, images, strict=True) if n == number]
            axes.plot(
                *zip(*found, strict=True), mark, color=hue, mfc="white", ls="", label=f"{number} images"
            )
        axes.set(xlabel="images x network calls", ylabel="seconds, scores included", xlim=(0, end))
        axes.set_ylim(0, 1.08 * max(max(seconds), slope * end))
        axes.legend(fontsize=7)
    return figure
