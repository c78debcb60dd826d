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

Networks go by the names of `cunet.contenders`: those of `cunet.models`, two foreign U-Nets for orientation,
and any of ours with changes, as in `cunet@steps=4,solver=rk4`.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import cost, models, sampling
from .contenders import network
from .diffusion import Diffusion
from .errors import InputError
from .provenance import environment

TASKS = ("forward", "step", "training", "memory")
BASES, OPTIONS = ("eager", "compiled"), ("channels_last", "bf16")
COLUMNS = ["task", "mode", "batch", "model", "value", "unit", "ratio", "low", "high", "flop_per_s"]
DDIM_STEPS = 50  # of the chain whose single steps are timed


@dataclass(frozen=True)
class Settings:
    """What to measure.

    models: the first is what ratios refer to. size: of `cunet.models`. channels: of the images. batches: for
    forward and step. training_batch: for training and memory. tasks: of TASKS. modes: "eager" or "compiled",
    with "+channels_last" or "+bf16" (autocast) behind if wished. compiled_training: time training compiled,
    too (minutes a network to compile). repeats, warmup: rounds.

    Raises InputError for an unknown task, mode or size, an empty list or a number below its least.
    """

    models: tuple[str, ...] = (
        *("unet", "cunet", "cunet@gradient=checkpoint", "cunet-released"),
        *("diffusers-unet2d", "lucidrains-unet"),
    )
    size: str = "paper"
    channels: int = 3
    batches: tuple[int, ...] = (1, 8)
    training_batch: int = 16
    tasks: tuple[str, ...] = TASKS
    modes: tuple[str, ...] = BASES
    compiled_training: bool = False
    repeats: int = 10
    warmup: int = 2

    def __post_init__(self):
        for task in self.tasks:
            if task not in TASKS:
                raise InputError(f"Unknown task {task!r} to measure: expected some of {', '.join(TASKS)}.")
        for text in self.modes:
            mode(text)
        numbers = (*self.batches, self.training_batch, self.repeats - 1, self.warmup + 1, self.channels)
        if not (self.models and self.tasks and self.modes and self.batches) or min(numbers) < 1:
            raise InputError(
                f"{self}: every list needs an entry, batches and channels are 1 or more, repeats 2 or more."
            )
        models.image_size(self.size)


class Mode(NamedTuple):
    """How a network is run."""

    compiled: bool
    channels_last: bool
    bf16: bool


def mode(text: str) -> Mode:
    """ "compiled+channels_last" -> Mode. Raises InputError for what is not known."""
    base, *options = text.split("+")
    if base not in BASES or not set(options) <= set(OPTIONS):
        raise InputError(
            f"Unknown mode {text!r}: expected {' or '.join(BASES)}, followed by any of "
            f"{', '.join('+' + option for option in OPTIONS)}, as in 'compiled+channels_last'."
        )
    return Mode(base == "compiled", "channels_last" in options, "bf16" in options)


# ------------------------------------------------------------------------------------------------------ tasks


def forward_task(call: Callable, images: Tensor, model: nn.Module) -> Callable[[], None]:
    """One call of the network."""
    t = torch.full((len(images),), 500)

    def run() -> None:
        with torch.no_grad():
            call(images, t)

    return run


def step_task(call: Callable, images: Tensor, model: nn.Module) -> Callable[[], None]:
    """One step of DDIM, the next of an endless row of chains, exactly as `sampling.sample` does it."""
    diffusion = Diffusion()
    timesteps = range(diffusion.timesteps - 1, -1, -diffusion.timesteps // DDIM_STEPS)  # 999, 979 ... 19

    def endless() -> Iterator[sampling.Step]:
        for _ in itertools.count():
            yield from sampling.walk(call, images, diffusion, timesteps, "ddim")

    steps = endless()
    return lambda: next(steps)


def training_task(call: Callable, images: Tensor, model: nn.Module) -> Callable[[], None]:
    """Forward, backward and Adam's update on a batch in memory, each image at its own diffusion step."""
    diffusion, optimizer = Diffusion(), torch.optim.Adam(model.train().parameters())
    t = torch.linspace(0, diffusion.timesteps - 1, len(images)).long()
    noise = torch.randn_like(images)

    def run() -> None:
        optimizer.zero_grad()
        diffusion.loss(call, images, t, noise).mean().backward()
        optimizer.step()

    return run


RUNNERS = {"forward": forward_task, "step": step_task, "training": training_task}


def callable_in(model: nn.Module, how: Mode) -> Callable[[Tensor, Tensor], Tensor]:
    """The network as a function of (sample, timestep), run the way `how` says."""
    call = torch.compile(model, dynamic=False) if how.compiled else model
    if not how.bf16:
        return call

    def half(sample: Tensor, timestep: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call(sample, timestep)

    return half


# ---------------------------------------------------------------------------------------------------- measure


class Bench:
    """One measurement under way: `run` does everything, the methods are its parts."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.side = models.image_size(settings.size)
        self.rows: list[dict] = []
        self.skipped: dict[str, str] = {}
        self.macs: dict[str, int] = {}
        self.specs = list(dict.fromkeys(settings.models))

    def build(self, spec: str) -> nn.Module:
        return network(spec, self.settings.size, self.settings.channels)

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
        for spec in self.specs:
            if task != "training" and _only_gradient(spec):
                continue
            model = self.build(spec).eval()
            if how.channels_last:
                model = model.to(memory_format=torch.channels_last)
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
            timings = cost.time_interleaved(functions, self.settings.repeats, self.settings.warmup)
            self.add(task, text, batch, "s", timings.medians, timings)
        if how.compiled and task == "forward":
            self.add("compile", text, batch, "s", first_call)

    def memory(self) -> None:
        batch = self.settings.training_batch
        peaks = {
            spec: cost.training_memory(lambda spec=spec: self.build(spec), self.side, batch)
            for spec in self.specs
        }
        self.add("memory", "eager", batch, "bytes", peaks)

    def operators(self) -> pd.DataFrame:
        """Where a call's time goes, eager, at the largest batch: `cost.operator_table` of every network."""
        images, tables = self.images(max(self.settings.batches), mode("eager")), []
        for spec in self.specs:
            if not _only_gradient(spec):
                model = self.build(spec).eval()
                table = cost.operator_table(forward_task(model, images, model))
                tables.append(table.assign(model=spec, batch=len(images)))
        columns = ["model", "batch", "operator", "calls", "seconds", "share"]
        return pd.concat(tables, ignore_index=True)[columns]

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
            modes = [m for m in chosen.modes if chosen.compiled_training or not mode(m).compiled]
            cells += [("training", text, chosen.training_batch) for text in modes]
        return cells


def _only_gradient(spec: str) -> bool:
    """Whether a spec differs from the plain network in its backward pass alone."""
    changes = spec.partition("@")[2].split(",")
    return all(change.startswith("gradient=") for change in changes)


def run(settings: Settings, out: str | Path, progress: bool = False) -> pd.DataFrame:
    """Measure, and write bench.csv, bench_operators.csv, bench.json, bench.png and bench.pdf into `out`.

    Returns what bench.csv holds, one row a network and cell: task, mode, batch, model, value, unit, ratio to
    the first network with `low` and `high`, flop_per_s reached (forward and step), of_best (that, over the
    best 3x3 convolution). MACs are of one image. bench.json has the same rows with environment, settings,
    roofline (measured before and after, the better counts) and what was skipped and why.
    """
    from . import bench_report  # draws; needed only here

    bench = Bench(settings)
    bench.count()
    before = cost.roofline()
    for cell in tqdm(bench.cells(), "cells", disable=not progress, file=sys.stderr):
        bench.time(*cell)
    if "memory" in settings.tasks:
        bench.memory()
    operators = bench.operators()
    best = cost.Roofline(*map(max, before, cost.roofline()))
    frame = pd.DataFrame(bench.rows).reindex(columns=COLUMNS)
    frame["of_best"] = frame["flop_per_s"] / best.convolution
    record = dict(
        environment=environment(),
        settings=asdict(settings),
        roofline=best._asdict(),
        skipped=bench.skipped,
        rows=json.loads(frame.to_json(orient="records")),
    )
    bench_report.write(Path(out), frame, operators, record)
    return frame
