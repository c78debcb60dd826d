"""The README's picture: quality against time for every network, over samples of the continuous one.

It is made from files of the committed run, which keeps neither samples nor features: the curves from two
tables of notebook 07, the sheets of samples cut out of its figure 3.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from . import slim, sources
from .errors import InputError
from .palette import MARKERS, PAGE, colour, label, legend_below, readable, style
from .wording import ends

CURVES, BEST, SHEETS = "ext_fd_against_steps", "tab01_synthesis", "fig03_samples"  # of notebook 07
SHOWN = "cunet"  # the network whose samples are shown
LIMIT = 200_000  # bytes
WHITE = 253  # of 255: a pixel whose channels all reach this belongs to no sheet
QUALITY = (
    "**Quality against time.** FD-AlexNet (a Fréchet distance as the FID is, between features of AlexNet in "
    "place of Inception; lower is better) against the seconds that a sample takes, a panel a data set, a "
    "point a number of sampling steps, with 95 % intervals: which line is lower at equal time?"
)


def there(run_dir: Path) -> bool:
    """Whether a run has what the picture is made from: the curves, at least."""
    return (run_dir / "tables" / f"{CURVES}.csv").is_file()


def draw(run_dir: Path) -> bytes:
    """The picture of a run as a PNG of at most `LIMIT` bytes, without sheets if there are none.

    Raises InputError for tables that are damaged, or not there.
    """
    lines, stream = curves(run_dir), io.BytesIO()
    figure(lines, sheets(run_dir, lines)).savefig(
        stream, format="png", dpi=150, metadata={"Software": None}, bbox_inches="tight"
    )
    return smaller(stream.getvalue())


def markdown(run_dir: Path, address: str) -> str:
    """The picture at an address, and its caption, which names what is there: panels, and sheets below them.

    Empty where there is no curve. Raises InputError as `draw` does.
    """
    lines = curves(run_dir) if there(run_dir) else pd.DataFrame()
    if not len(lines):
        return ""
    title, caption, shown = "Quality against time", QUALITY + counts(run_dir, lines), sheets(run_dir, lines)
    if shown:
        title += ", and samples"
        caption += f" Below, the first samples of the {label(SHOWN)} at its best steps, none selected"
        some = len(shown) < lines.dataset.nunique()
        caption += f": {', '.join(map(sources.label, shown))}." if some else "."
    return f"![{title}]({address})\n\n{caption}"


def counts(run_dir: Path, lines: pd.DataFrame) -> str:
    """How many images a point has, and how many a best one of table 1, as a sentence; empty where they are
    the same, or a table of an earlier version does not say. lines: of `curves`."""
    best = _read(run_dir, BEST)
    if "n" not in lines or "n" not in best:
        return ""
    points, table = ([f"{n:,}" for n in sorted(set(frame.n.astype(int)))] for frame in (lines, best))
    return f" A point has {ends(points)} images, table 1 {ends(table)}." if points != table else ""


def sheets(run_dir: Path, lines: pd.DataFrame) -> dict[str, np.ndarray]:
    """Of the network `SHOWN`, the sheets of samples in a run's figure 3, by data set, (H, W, 3) each; empty
    without the figure, and where it is not laid out as expected. lines: of `curves`.
    """
    path = run_dir / "figures" / f"{SHEETS}.png"
    if not path.is_file():
        return {}
    rows = lines.groupby("dataset", sort=False)["model"].agg(lambda models: list(dict.fromkeys(models)))
    found = zip(rows.items(), cut(path.read_bytes(), [len(models) for models in rows]), strict=False)
    return {d: sheet[models.index(SHOWN)] for (d, models), sheet in found if SHOWN in models}


def curves(run_dir: Path) -> pd.DataFrame:
    """Distance against time: columns dataset, model, seconds, fd, fd_low, fd_high, floor, and n, the images
    of a set, if the table has them; a row a set.

    Only the trainings, the sampler and the noise that come first, as in table 1, and networks that table 1
    has. A step takes what a sample of table 1 takes over its steps.
    """
    try:
        every, best = (_read(run_dir, name) for name in (CURVES, BEST))
        step = (best.seconds_per_sample / best.steps).set_axis(
            pd.MultiIndex.from_frame(best[["dataset", "model"]])
        )
        parts = []
        for key in step.index:
            rows = every[(every.dataset == key[0]) & (every.model == key[1])]
            first = ["seed", "sampler", "noise"]
            rows = rows[(rows[first] == rows[first].iloc[0]).all(axis=1)].sort_values("steps")
            parts.append(rows.assign(seconds=rows.steps * step[key], floor=rows.fd - rows.above))
        columns = ["dataset", "model", "seconds", "fd", "fd_low", "fd_high", "floor"]
        return pd.concat(parts)[columns + ["n"] * ("n" in every)]
    except (OSError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise InputError(
            f"The tables of {run_dir.name} give no curves: {error!r}. Run notebook 07 again."
        ) from None


def _read(run_dir: Path, table: str) -> pd.DataFrame:
    return pd.read_csv(run_dir / "tables" / f"{table}.csv")


def cut(png: bytes, expected: list[int]) -> list[list[np.ndarray]]:
    """The sheets of a figure of `cunet.figures.sheet_rows`, row by row, from left to right, (H, W, 3) each.

    A sheet is a large area without white lines wider than the gaps between its images. expected: sheets in
    each row; if others are found, none are returned.
    """
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    marked, _ = ndimage.label(ndimage.binary_closing((pixels < WHITE).any(axis=2), np.ones((5, 5))))
    tall, wide = 0.3 * pixels.shape[0] / max(len(expected), 1), 0.5 * pixels.shape[1] / max([1, *expected])
    boxes = [box for box in ndimage.find_objects(marked)
             if box[0].stop - box[0].start > tall and box[1].stop - box[1].start > wide]  # fmt: skip
    rows: list[list] = []
    for box in sorted(boxes, key=lambda box: box[0].start):
        if not rows or box[0].start >= rows[-1][0][0].stop:
            rows.append([])
        rows[-1].append(box)
    if [len(row) for row in rows] != expected:
        return []
    return [[pixels[box] for box in sorted(row, key=lambda box: box[1].start)] for row in rows]


def figure(lines: pd.DataFrame, sheets: dict[str, np.ndarray]) -> Figure:
    """Panels of curves side by side, a data set each, its sheet of samples below."""
    names = list(dict.fromkeys(lines["dataset"]))
    shape = max((sheet.shape[0] / sheet.shape[1] for sheet in sheets.values()), default=0.0)
    with style():
        below = shape * PAGE / len(names)
        drawn = Figure(figsize=(PAGE, 2.5 + below + 0.5 * bool(sheets)))
        grid = drawn.subplots(
            1 + bool(sheets), len(names), squeeze=False, height_ratios=[2.5, below][: 1 + bool(sheets)]
        )
        for axes, name in zip(grid[0], names, strict=True):
            _curves(axes, lines[lines["dataset"] == name])
            axes.set_title(sources.label(name).replace(" (", "\n("), fontsize=8)
        grid[0, 0].set_ylabel("FD-AlexNet (lower is better)")
        for axes, name in zip(grid[1] if sheets else (), names, strict=False):
            axes.set_axis_off()
            if name in sheets:
                axes.imshow(sheets[name])
        if sheets:
            grid[1, 0].set_title(f"samples of the {label(SHOWN)}", fontsize=8)
        legend_below(drawn, grid[0, 0])
    return drawn


def _curves(axes, lines: pd.DataFrame) -> None:
    """Each network's distances against seconds, with intervals, and the distance of real images."""
    for model, line in lines.groupby("model", sort=False):
        reach = [(line.fd - line.fd_low).clip(lower=0), (line.fd_high - line.fd).clip(lower=0)]
        looks = dict(color=colour(model), marker=MARKERS.get(model, "o"), elinewidth=0.8, capsize=2)
        axes.errorbar(line.seconds, line.fd, reach, label=label(model), **looks)
    axes.axhline(lines.floor.mean(), color="0.4", ls="--", lw=0.9, label="as many real images")
    axes.set(xscale="log", yscale="log", xlabel="seconds a sample")
    readable(axes.xaxis)
    readable(axes.yaxis)


def smaller(png: bytes) -> bytes:
    """The PNG in at most `LIMIT` bytes: as it is, then with a palette, then with fewer pixels."""
    small, scale = slim.smaller(png), 1.0
    while len(small) > LIMIT:
        small, scale = slim.smaller(png, slim.COLOURS, scale), scale * 0.8
    return small
