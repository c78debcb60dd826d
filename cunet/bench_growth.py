"""How cost grows: time and memory of the networks against image side, batch, width and solver steps.

One quantity is varied at a time, from the size's own images in batches of one. Measured at every point are

time              seconds of a call, the median of rounds in which all points of a panel take turns.
call memory       bytes that a call without gradients holds at its peak, the weights aside.
training memory   bytes of a training step at its peak, all included (`cost.training_memory`).
MACs              of a call, every evaluation counted.

On two logarithms a power law is a line, and its slope the exponent: 1 is proportional, 2 for the side is
proportional to the number of pixels. Two slopes are given, over all points and over the last two, since fixed
costs bend the lines at their lower end. A network without a solver is measured at every number of steps all
the same: its slope is 0 but for noise.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from . import cost, models
from .blocks import ode_blocks
from .contenders import only_gradient
from .errors import InputError

VARIED = {
    "side": "image side, pixels",
    "batch": "images in a batch",
    "width": "width over that of the size",
    "steps": "solver steps a block",
}
QUANTITIES = {
    "time": ("s", "one call, s"),
    "call memory": ("bytes", "memory of a call, bytes"),
    "training memory": ("bytes", "memory of training, bytes"),
    "MACs": ("MAC", "MACs a call"),
}
COLUMNS = ["varied", "at", "model", "quantity", "value", "unit"]


@dataclass(frozen=True)
class Grid:
    """Where to measure: pixels a side, images a batch, factors of the width, solver steps a block; rounds.

    Raises InputError for fewer than two points of a kind, or a point or number of rounds that is too small.
    """

    side: tuple[int, ...] = (32, 64, 128, 256)
    batch: tuple[int, ...] = (1, 2, 4, 8, 16)
    width: tuple[float, ...] = (0.25, 0.5, 1, 2)
    steps: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 5

    def __post_init__(self):
        lists = [getattr(self, varied) for varied in VARIED]
        if any(len(set(points)) < 2 or min(points) <= 0 for points in lists) or self.repeats < 2:
            raise InputError(
                f"{self}: an exponent takes two or more points of each kind, above 0, and two rounds."
            )


class Point(NamedTuple):
    """One network at one point: `build` makes it, untrained; side and batch are of its images."""

    varied: str
    at: float
    model: str
    build: Callable[[], nn.Module]
    side: int
    batch: int

    @property
    def name(self) -> str:
        """What it is called where it is skipped: "unet, width 0.25"."""
        return f"{self.model}, {self.varied} {self.at:g}"


def points(specs: Sequence[str], size: str, channels: int, grid: Grid) -> Iterator[Point]:
    """All that is to be measured, panel by panel. specs: names of `cunet.models`, with changes if wished."""
    side = models.image_size(size)
    for varied, spec in itertools.product(VARIED, specs):
        solved = ode_blocks(models.build(spec, size, channels))
        for at in getattr(grid, varied):
            changes = models.scaled(spec, size, at) if varied == "width" else {}
            if varied == "steps" and solved:
                changes = {"steps": at}

            def build(spec=spec, changes=changes) -> nn.Module:
                return models.build(spec, size, channels, **changes)

            sides, batch = (at if varied == "side" else side), (at if varied == "batch" else 1)
            yield Point(varied, at, spec, build, sides, batch)


def possible(
    specs: Sequence[str], size: str, channels: int, grid: Grid
) -> tuple[list[Point], dict[str, str]]:
    """The `points` whose networks can be built, after trying each, and why the others cannot.

    The least widths of a small size can be too narrow for attention's heads or the groups of a norm. A point
    that is left alone on its line has no exponent, and is not taken either. Returns the points, and
    "network, width 0.25" -> the reason.
    """
    found, skipped = [], {}
    for point in points(specs, size, channels, grid):
        try:
            point.build()
            found.append(point)
        except InputError as error:
            skipped[point.name] = str(error)
    count = Counter((point.varied, point.model) for point in found)
    lonely = [point for point in found if count[point.varied, point.model] == 1]
    skipped |= {point.name: "No other point of its line can be built." for point in lonely}
    return [point for point in found if point not in lonely], skipped


def measure(panel: Iterable[Point], repeats: int) -> pd.DataFrame:
    """The quantities at every point of one panel, with the columns COLUMNS."""
    calls, rows = {}, []
    for point in panel:
        training = cost.training_memory(point.build, point.side, point.batch)
        rows.append((point, "training memory", training))
        if only_gradient(point.model):
            continue
        model = point.build().eval()
        images = torch.randn(point.batch, model.channels, point.side, point.side)

        def call(model=model, images=images) -> None:
            with torch.no_grad():
                model(images, 500)

        call()  # once, so that no table is filled for the first time under the eyes of the profiler
        rows.append((point, "call memory", cost.peak_memory(call)))
        rows.append((point, "MACs", cost.macs(model, point.side, point.batch)))
        calls[point] = call
    rows += [(p, "time", s) for p, s in cost.time_interleaved(calls, repeats, warmup=1).medians.items()]
    return pd.DataFrame(
        [(p.varied, p.at, p.model, quantity, value, QUANTITIES[quantity][0]) for p, quantity, value in rows],
        columns=COLUMNS,
    )


def run(chosen: Iterable[Point], repeats: int) -> pd.DataFrame:
    """Measure the points, panel by panel: one row a point and quantity, columns COLUMNS."""
    panels = itertools.groupby(chosen, key=lambda point: point.varied)
    return pd.concat([measure(panel, repeats) for _, panel in panels], ignore_index=True)


def exponents(frame: pd.DataFrame) -> pd.DataFrame:
    """The slope of every line on two logarithms.

    Columns: varied, quantity, model, exponent (least squares over all points), last (between the last two).
    """
    rows = []
    for key, line in frame.groupby(["varied", "quantity", "model"], sort=False):
        line = line.sort_values("at")
        x, y = np.log(line["at"].to_numpy(float)), np.log(line["value"].to_numpy(float))
        rows.append((*key, np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])))
    return pd.DataFrame(rows, columns=["varied", "quantity", "model", "exponent", "last"])
