"""`cunet bench`: networks against each other on this machine, as ratios to the first of them.

What is measured, for each mode (eager, compiled, ...) and batch:

forward    one call of the network.
step       one denoising step of DDIM: the call and the sampler's update of the image.
training   forward, backward and Adam's update on a batch in memory.
memory     peak of two such training steps, everything built on the way included (`cost.training_memory`).
compile    seconds until a compiled network has answered for the first time; once, hence without a spread.

All networks of a cell run in one process, interleaved, so that another load on the machine meets all alike;
ratios are of medians, with a 95 % bootstrap interval over the rounds. Beside them stands what the network
reaches in floating-point operations a second, as a share of the machine's best 3x3 convolution.

And four studies with files of their own, which can be run alone, too:

operators   where a call's time goes, in every mode that is not compiled (`cost.operator_table`).
growth      how time and memory grow with image side, batch, width and solver steps (`cunet.bench_growth`).
variants    what was tried to make the continuous U-Net faster (`cunet.bench_variants`).
throughput  images a second of a training at size laptop, its data included (`cunet.bench_throughput`).

Networks go by the names of `cunet.contenders`: those of `cunet.models`, with changes if wished, as in
`cunet@steps=4,solver=rk4`; the continuous U-Net as it was before it was made faster, in the tasks that
compare before and after; and two foreign U-Nets for orientation.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import bench_growth, bench_throughput, bench_variants, cost, models
from .bench_tasks import RUNNERS, Mode, callable_in, forward_task, mode
from .contenders import BEFORE, measured_in, network
from .errors import InputError, one_of
from .provenance import environment

MEASURED = ("forward", "step", "training", "memory")  # what bench.csv has
TASKS = (*MEASURED, "operators", "growth", "variants", "throughput")
COLUMNS = ["task", "mode", "batch", "model", "value", "unit", "ratio", "low", "high", "flop_per_s"]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    models: the first is what ratios refer to. size: of `cunet.models`. channels: of the images. batches: for
    forward and step. training_batch: for training and memory. tasks: of TASKS. modes: "eager" or "compiled",
    with "+channels_last" or "+bf16" (autocast) behind if wished; training is timed in those that are not
    compiled. repeats, warmup: rounds; training, whose rounds are long, takes half as many. grid: of the task
    growth. The task throughput has a size and a batch of its own, see `cunet.bench_throughput`.

    Raises InputError for an unknown task, mode or size, an empty list or a number below its least.
    """

    models: tuple[str, ...] = (
        *("unet", "cunet", "cunet@gradient=checkpoint", BEFORE, "cunet-released"),
        *("diffusers-unet2d", "lucidrains-unet"),
    )
    size: str = "paper"
    channels: int = 3
    batches: tuple[int, ...] = (1, 8)
    training_batch: int = 16
    tasks: tuple[str, ...] = TASKS
    modes: tuple[str, ...] = ("eager", "eager+channels_last", "compiled", "compiled+channels_last")
    repeats: int = 10
    warmup: int = 2
    grid: bench_growth.Grid = field(default_factory=bench_growth.Grid)

    def __post_init__(self):
        for task in self.tasks:
            one_of("task", task, TASKS)
        for text in self.modes:
            mode(text)
        numbers = (*self.batches, self.training_batch, self.repeats - 1, self.warmup + 1, self.channels)
        if not (self.models and self.tasks and self.modes and self.batches) or min(numbers) < 1:
            raise InputError(
                f"{self}: every list needs an entry, batches and channels are 1 or more, repeats 2 or more."
            )
        models.image_size(self.size)


class Outcome(NamedTuple):
    """What `run` measured, as it is in the files: a table a part, None for a part not asked for; seconds."""

    measured: pd.DataFrame | None
    operators: pd.DataFrame | None
    growth: pd.DataFrame | None
    seconds: dict[str, float]
    variants: pd.DataFrame | None = None
    throughput: pd.DataFrame | None = None


class Bench:
    """One measurement under way: `run` does everything, the methods are its parts."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.side = models.image_size(settings.size)
        self.rows: list[dict] = []
        self.skipped: dict[str, str] = {}
        self.macs: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.specs = list(dict.fromkeys(settings.models))

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Add the seconds spent within to those of a part of the measurement."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def build(self, spec: str) -> nn.Module:
        return network(spec, self.settings.size, self.settings.channels)

    def of(self, task: str) -> list[str]:
        """The networks that a task is about."""
        return [spec for spec in self.specs if measured_in(spec, task)]

    def check(self) -> None:
        """Raise InputError for a task that is about none of the networks."""
        about = set(TASKS) - {"variants"}  # which has networks of its own
        if idle := [task for task in self.settings.tasks if task in about and not self.of(task)]:
            missing = "".join(f" {spec} is left out: {why}." for spec, why in self.skipped.items())
            raise InputError(
                f"Nothing of {', '.join(self.settings.models)} is measured in {', '.join(idle)}: name a "
                f"network that is, or other tasks.{missing}"
            )

    def images(self, batch: int, how: Mode) -> Tensor:
        x = torch.randn(batch, self.settings.channels, self.side, self.side)
        return x.to(memory_format=torch.channels_last) if how.channels_last else x

    def count(self) -> None:
        """Parameters and MACs of every network; those whose package is missing are left out from here on."""
        numbers = {}
        for spec in list(self.specs):
            try:
                model = self.build(spec)
            except ImportError as error:
                self.specs.remove(spec)
                self.skipped[spec] = str(error)
                continue
            self.macs[spec] = cost.macs(model, self.side)
            numbers[spec] = cost.parameters(model).total
        self.add("parameters", "-", 0, "parameters", numbers)
        self.add("MACs", "-", 1, "MAC", self.macs)

    def time(self, task: str, text: str, batch: int) -> None:
        """One cell: all networks, interleaved, in one task, mode and batch."""
        how, functions, first_call = mode(text), {}, {}
        torch._dynamo.reset()
        for spec in self.of(task):
            model = self.build(spec).eval()
            function = RUNNERS[task](callable_in(model, how), self.images(batch, how), model)
            start = time.perf_counter()
            try:
                function()
            except Exception as error:  # no compiler, or an operation without support: no common type
                if not (how.compiled or how.bf16):
                    raise
                self.skipped[f"{spec}, {task}, {text}"] = str(error).strip().split("\n")[0]
                continue
            first_call[spec], functions[spec] = time.perf_counter() - start, function
        if functions:
            repeats, warmup = self.settings.repeats, self.settings.warmup
            if task == "training":
                repeats, warmup = max(2, repeats // 2), min(1, warmup)
            timings = cost.time_interleaved(functions, repeats, warmup)
            self.add(task, text, batch, "s", timings.medians, timings)
        if how.compiled and task == "forward":
            self.add("compile", text, batch, "s", first_call)

    def memory(self) -> None:
        batch = self.settings.training_batch
        peaks = {
            spec: cost.training_memory(lambda spec=spec: self.build(spec), self.side, batch)
            for spec in self.of("memory")
        }
        self.add("memory", "eager", batch, "bytes", peaks)

    def operators(self) -> pd.DataFrame:
        """Where a call's time goes at the largest batch: `cost.operator_table` of every network and mode."""
        batch, tables = max(self.settings.batches), []
        modes = [text for text in self.settings.modes if not mode(text).compiled] or ["eager"]
        for text, spec in itertools.product(modes, self.of("operators")):
            model, images = self.build(spec).eval(), self.images(batch, mode(text))
            table = cost.operator_table(forward_task(callable_in(model, mode(text)), images, model))
            tables.append(table.assign(model=spec, mode=text, batch=batch))
        columns = ["model", "mode", "batch", "operator", "calls", "seconds", "share"]
        return pd.concat(tables, ignore_index=True)[columns]

    def growth_points(self) -> list[bench_growth.Point]:
        """`bench_growth.possible` of those networks whose width can be changed: ours."""
        specs, settings = self.of("growth"), self.settings
        found, skipped = bench_growth.possible(specs, settings.size, settings.channels, settings.grid)
        self.skipped |= skipped
        return found

    def add(self, task, text, batch, unit, values: dict, timings: cost.Timings | None = None) -> None:
        """Rows of one cell. Without the network that ratios refer to there are values, but no ratios."""
        reference = values.get(self.settings.models[0])
        for spec, value in values.items():
            row = dict(task=task, mode=text, batch=batch, model=spec, value=value, unit=unit)
            if reference:
                row["ratio"] = value / reference
                if timings:
                    row["low"], row["high"] = timings.spread[spec]
            if task in ("forward", "step"):
                row["flop_per_s"] = cost.FLOP_A_MAC * self.macs[spec] * batch / value
            self.rows.append(row)

    def measure(self, progress: bool) -> cost.Roofline:
        """Everything of MEASURED that the settings ask for, into `rows`; returns the machine's best."""
        with self.clock("roofline"):
            before = cost.roofline()
        for task, text, batch in tqdm(self.cells(), "cells", disable=not progress, file=sys.stderr):
            with self.clock(f"{task}, {text}"):
                self.time(task, text, batch)
        if "memory" in self.settings.tasks:
            with self.clock("memory"):
                self.memory()
        with self.clock("roofline"):
            return cost.Roofline(*map(max, before, cost.roofline()))

    def record(self, **more) -> dict:
        """What has to be known of a measurement, beside its numbers."""
        settings, seconds = asdict(self.settings), {k: round(s, 1) for k, s in self.seconds.items()}
        return dict(
            environment=environment(), settings=settings, seconds=seconds, skipped=self.skipped, **more
        )

    def cells(self) -> list[tuple[str, str, int]]:
        """(task, mode, batch) of every cell to time."""
        chosen = self.settings
        cells = [
            (task, text, batch)
            for text in chosen.modes
            for task in ("forward", "step")
            for batch in chosen.batches
            if task in chosen.tasks
        ]
        if "training" in chosen.tasks:
            modes = [text for text in chosen.modes if not mode(text).compiled]
            cells += [("training", text, chosen.training_batch) for text in modes]
        return cells


def run(settings: Settings, out: str | Path, progress: bool = False) -> Outcome:
    """Measure, and write what was asked for into `out`, each part as CSV and JSON, figures as PNG and PDF.

    bench            one row a network and cell: task, mode, batch, model, value, unit, ratio to the first
                     network with `low` and `high`, flop_per_s reached (forward and step), of_best (that, over
                     the best 3x3 convolution). MACs are of one image. With figures bench and bench_roofline.
    bench_operators  one row a network, mode and operator: calls, seconds, share.
    bench_growth     one row a network, point and quantity; its figure; bench_growth_exponents.csv.
    bench_variants   one row a variant and batch: ratio with `low` and `high`, parameters, MACs.
    bench_throughput one row a network: images a second, ratio of a step's time, share of getting a batch.

    Every JSON has environment, settings, seconds that each part took, and what was skipped and why;
    bench.json the roofline, too (measured before and after, the better counts). A part that was not asked
    for leaves its files as they are.

    Raises InputError for a network that cannot be built, or a task that is about none of the networks.
    """
    from . import bench_report  # draws; needed only here

    bench, out = Bench(settings), Path(out)
    with bench.clock("counts"):
        bench.count()
        bench.check()
        points = bench.growth_points() if "growth" in settings.tasks else []  # refused before hours of timing
    wanted = [task for task in MEASURED if task in settings.tasks]
    measured = operators = growth = variants = throughput = None
    if wanted:
        best = bench.measure(progress)
        measured = pd.DataFrame(bench.rows).reindex(columns=COLUMNS)
        measured["of_best"] = measured["flop_per_s"] / best.convolution
        drawn = {"bench": bench_report.figure(measured)}
        if "step" in settings.tasks:
            drawn["bench_roofline"] = bench_report.roofline_figure(measured, best)
        bench_report.write(out, "bench", measured, bench.record(roofline=best._asdict()), drawn)
    if "operators" in settings.tasks:
        with bench.clock("operators"):
            operators = bench.operators()
        bench_report.write(out, "bench_operators", operators, bench.record(), {})
    if "growth" in settings.tasks:
        with bench.clock("growth"):
            growth = bench_growth.run(points, settings.grid.repeats)
        exponents = bench_growth.exponents(growth)
        record = bench.record(exponents=exponents.to_dict("records"))
        drawn = {"bench_growth": bench_report.growth_figure(growth)}
        bench_report.write(out, "bench_growth", growth, record, drawn)
        exponents.to_csv(out / "bench_growth_exponents.csv", index=False)
    if "variants" in settings.tasks:
        with bench.clock("variants"):
            variants = bench_variants.run(
                *(settings.size, settings.channels, settings.batches, settings.repeats, settings.warmup)
            )
        bench_report.write(out, "bench_variants", variants, bench.record(), {})
    if "throughput" in settings.tasks:
        with bench.clock("throughput"):
            throughput = bench_throughput.run(bench.of("throughput"), settings.repeats, settings.warmup)
        recipe = bench_throughput.RECIPE.model_dump()
        bench_report.write(out, "bench_throughput", throughput, bench.record(recipe=recipe), {})
    return Outcome(measured, operators, growth, bench.seconds, variants, throughput)
