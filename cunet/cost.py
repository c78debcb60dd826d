"""What a network costs: parameters, multiply-accumulates, memory, time, and what the machine could do.

Table 5 and figure 6 of the paper compare networks by these. The conventions, since the paper's differ:

parameters   all, and the trainable ones apart: a frozen table is carried along but not learned.
MACs         multiply-accumulates of convolutions, linear layers and matrix products, attention's included;
             every evaluation that a solver makes is counted. The paper's "GFLOPS" are MACs, of convolutions
             alone. One MAC is two floating-point operations (FLOP).
memory       bytes that tensors hold at once, at the worst moment. The paper's "MB" are neither this nor
             what a process holds: they equal 16 bytes a parameter, the size of a training checkpoint.
time         medians of interleaved runs in one process, as ratios to the first: another load on the machine
             meets all alike.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler tells every start and stop otherwise

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.autograd.profiler import profile  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from .errors import InputError

FLOP_A_MAC = 2
CONFIDENCE = 0.95  # of the spread of a ratio of medians
RESAMPLES = 2000  # of the bootstrap that gives it


class Counts(NamedTuple):
    """Numbers of parameters: all, and those that learn."""

    total: int
    trainable: int


class Timings(NamedTuple):
    """What `time_interleaved` measured, each by name.

    medians: seconds. ratios: median over the median of the first name. spread: (low, high), the ratio's
    95 % bootstrap interval over rounds. samples: seconds, one a round.
    """

    medians: dict[str, float]
    ratios: dict[str, float]
    spread: dict[str, tuple[float, float]]
    samples: dict[str, list[float]]


class Roofline(NamedTuple):
    """The best this machine was seen to do, FLOP/s: a square matrix product, and a 3x3 convolution."""

    matmul: float
    convolution: float


def parameters(model: nn.Module) -> Counts:
    """Count a model's parameters; shared ones count once, buffers not at all."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Counts(sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns))


def macs(model: nn.Module, image_size: int, batch: int = 1) -> int:
    """Multiply-accumulates of one call on `batch` images of `image_size` x `image_size` pixels.

    Counted while the call runs, so a solver's every evaluation is in. Products of a convolution with the
    zeros of its padding count too, as everywhere; norms, activations and sums do not.
    """
    weight = next(model.parameters())
    images = torch.zeros(batch, model.channels, image_size, image_size, device=weight.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images, 0)
    finally:
        model.train(training)
    return counter.get_total_flops() // FLOP_A_MAC


def peak_memory(fn: Callable[[], object]) -> int:
    """Bytes of CPU tensors that `fn()` adds, at the moment when they are most.

    Every allocation and release that torch's CPU allocator makes while fn runs, temporaries inside operators
    included, summed in order. What exists before does not count: build the model inside `fn` to have weights,
    gradients and the optimizer's state in the figure. It repeats to the byte on one machine, unlike the
    process's resident memory, which is larger, even twice as large: the libraries' own workspaces come on
    top, and memory that the C library keeps after its release.
    """
    with profile(profile_memory=True) as profiler:
        fn()
    held = peak = 0
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def training_memory(build: Callable[[], nn.Module], image_size: int, batch: int) -> int:
    """Peak bytes of training: weights, gradients, Adam's moments, activations; no EMA copy, no data set.

    build: makes the model. Two steps on `batch` random images, since Adam's state exists from the second on.
    """

    def two_steps() -> None:
        model = build().train()
        optimizer = torch.optim.Adam(model.parameters())
        images = torch.randn(batch, model.channels, image_size, image_size)
        for _ in range(2):
            optimizer.zero_grad()
            F.mse_loss(model(images, 0), images).backward()
            optimizer.step()

    return peak_memory(two_steps)


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int = 10, warmup: int = 2, seed: int = 0
) -> Timings:
    """Time functions against each other: in each round every one runs once, in an order drawn anew.

    functions: the first is what the ratios refer to. repeats: rounds measured, 2 or more. warmup: rounds
    thrown away before. seed: of the orders. Where there is a GPU, a run ends when its work is done.

    Raises InputError without functions or with fewer than two rounds.
    """
    if not functions or repeats < 2:
        raise InputError(
            f"Timing {len(functions)} functions {repeats} times: a median with a spread takes at least one "
            "function and two rounds."
        )
    order, shuffle = list(functions), random.Random(seed).shuffle
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        shuffle(order)
        for name in order:
            _wait()
            start = time.perf_counter()
            functions[name]()
            _wait()
            if turn >= warmup:
                samples[name].append(time.perf_counter() - start)
    return compare(samples)


def _wait() -> None:
    """Until the GPU has done what was asked of it: its calls return before they are done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def compare(samples: Mapping[str, Sequence[float]]) -> Timings:
    """Medians, ratios to the first and their spread, of seconds measured in rounds: (name -> one a round).

    Raises InputError without a name, or with names that have no or not as many rounds.
    """
    counts = {name: len(seconds) for name, seconds in samples.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(
            f"Times of these numbers of rounds cannot be compared: {counts}; give as many of each."
        )
    medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
    first, *_ = samples
    rounds = len(samples[first])
    drawn = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    resampled = {name: np.median(np.asarray(seconds)[drawn], axis=1) for name, seconds in samples.items()}
    tail = (1 - CONFIDENCE) / 2
    spread = {
        name: tuple(np.quantile(resampled[name] / resampled[first], (tail, 1 - tail)).tolist())
        for name in samples
    }
    ratios = {name: median / medians[first] for name, median in medians.items()}
    return Timings(medians, ratios, spread, {name: list(seconds) for name, seconds in samples.items()})


def operator_table(fn: Callable[[], object], warmup: int = 1) -> pd.DataFrame:
    """Where the time of `fn()` goes: a row an operator, the longest first.

    Columns: operator (torch's name), calls, seconds (inside the operator itself, not in those it calls),
    share (of all). The profiler slows small operators down: read shares, not seconds.
    """
    for _ in range(warmup):
        fn()
    with profile() as profiler:
        fn()
    rows = [(e.key, e.count, e.self_cpu_time_total / 1e6) for e in profiler.key_averages()]
    table = pd.DataFrame(rows, columns=["operator", "calls", "seconds"])
    table["share"] = table["seconds"] / table["seconds"].sum()
    return table.sort_values("seconds", ascending=False, ignore_index=True)


def roofline(
    sides: Sequence[int] = (512, 1024, 2048),
    maps: Sequence[tuple[int, int, int]] = ((8, 64, 64), (8, 128, 32), (8, 256, 16)),
    repeats: int = 5,
) -> Roofline:
    """Measure the best float32 throughput of this machine, with torch's threads as they are set.

    sides: of the square matrices. maps: (batch, channels, side) of the feature maps convolved 3x3 from
    `channels` to `channels`, in both memory formats. The fastest of `repeats` runs of each counts.
    """
    matmul = convolution = 0.0
    with torch.no_grad():
        for n in sides:
            a, b = torch.randn(n, n), torch.randn(n, n)
            matmul = max(matmul, 2 * n**3 / fastest(lambda a=a, b=b: a @ b, repeats))
        for batch, width, side in maps:
            flop = 2 * batch * side**2 * 9 * width**2
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(batch, width, side, side).to(memory_format=memory_format)
                w = torch.randn(width, width, 3, 3).to(memory_format=memory_format)
                seconds = fastest(lambda x=x, w=w: F.conv2d(x, w, padding=1), repeats)
                convolution = max(convolution, flop / seconds)
    return Roofline(matmul, convolution)


def fastest(fn: Callable[[], object], repeats: int, clock: Callable[[], float] | None = None) -> float:
    """Seconds of the fastest of `repeats` runs, after one that is not timed.

    clock: gives seconds; None is `time.perf_counter`, wall time. Raises InputError for no run.
    """
    if repeats < 1:
        raise InputError(f"repeats={repeats!r}: the fastest of some runs takes 1 or more.")
    clock = clock or time.perf_counter
    fn()
    seconds = []
    for _ in range(repeats):
        start = clock()
        fn()
        seconds.append(clock() - start)
    return min(seconds)
