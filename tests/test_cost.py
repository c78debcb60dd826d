"""Costs agree with what can be counted by hand, and timings with what is known to take longer."""

import itertools

import pytest
import torch
from torch import nn

from cunet import cost
from cunet.errors import InputError
from cunet.unet import Attention, LinearAttention

MIB = 2**20


class Wrapped(nn.Module):
    """A layer in the clothes of a network: channels, and forward(sample, timestep)."""

    def __init__(self, layer: nn.Module, channels: int, calls: int = 1):
        super().__init__()
        self.layer, self.channels, self.calls = layer, channels, calls

    def forward(self, sample, timestep):
        for _ in range(self.calls):
            out = self.layer(sample)
        return out


def test_parameters_tell_frozen_from_trainable_and_count_shared_ones_once():
    layer = nn.Linear(3, 5)
    layer.bias.requires_grad_(False)
    layer.register_buffer("table", torch.zeros(100))
    assert cost.parameters(nn.Sequential(layer, layer)) == (20, 15)


def test_macs_of_a_convolution_are_those_counted_by_hand():
    model = Wrapped(nn.Conv2d(3, 7, 3, padding=1), 3)
    assert cost.macs(model, image_size=8) == 8 * 8 * 7 * 3 * 9
    assert cost.macs(model, image_size=8, batch=5) == 5 * cost.macs(model, image_size=8)
    strided = Wrapped(nn.Conv2d(4, 8, 2, stride=2, groups=2), 4)
    assert cost.macs(strided, image_size=8) == 4 * 4 * 8 * 2 * 4


def test_macs_of_a_linear_layer_are_those_counted_by_hand():
    model = Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 9)), 2)
    assert cost.macs(model, image_size=4, batch=3) == 3 * 32 * 9


def test_every_evaluation_counts():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    assert cost.macs(Wrapped(layer, 4, calls=4), 8) == 4 * cost.macs(Wrapped(layer, 4), 8)


def test_macs_of_attention_include_its_matrix_products():
    pixels, inner, width = 64, 4 * 32, 16  # four heads of 32
    projections = pixels * (width * 3 * inner + inner * width)
    full = cost.macs(Wrapped(Attention(width, 32), width), image_size=8)
    assert full == projections + 2 * pixels * pixels * inner
    linear = cost.macs(Wrapped(LinearAttention(width, 32), width), image_size=8)
    assert linear == projections + 2 * pixels * inner * 32


def test_counting_leaves_the_model_in_the_mode_it_was_in():
    model = Wrapped(nn.Conv2d(1, 1, 1), 1)
    cost.macs(model.train(), 4)
    assert model.training
    cost.macs(model.eval(), 4)
    assert not model.training


def test_peak_memory_of_a_chain_is_its_two_neighbours():
    def chain():
        x = torch.zeros(MIB)  # 4 MiB
        for _ in range(5):
            x = x + 1

    assert cost.peak_memory(chain) == pytest.approx(8 * MIB, rel=0.01)


def test_peak_memory_of_a_chain_under_autograd_is_all_it_keeps():
    def chain():
        x = torch.ones(MIB, requires_grad=True)
        for _ in range(5):
            x = x.exp()  # exp keeps its result
        return x

    assert cost.peak_memory(chain) == pytest.approx(6 * 4 * MIB, rel=0.01)


def test_peak_memory_sees_temporaries_inside_an_operator_and_not_what_was_there():
    before = torch.randn(MIB // 4)
    assert cost.peak_memory(lambda: before.mul_(2)) < 1024
    # sorting makes values (float32) and indices (int64): 1 + 2 MiB at least
    assert cost.peak_memory(lambda: before.sort()) >= 3 * MIB


def test_training_memory_holds_four_copies_of_the_weights():
    def build():
        return Wrapped(nn.Sequential(nn.Conv2d(1, 1, 1), Big()), 1)

    class Big(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(MIB))

        def forward(self, x):
            return x + self.weight.sum()

    measured = cost.training_memory(build, image_size=4, batch=1)
    # weights, gradients, two moments; and Adam's temporaries, at most two more at a time
    assert 4 * 4 * MIB <= measured <= 6.1 * 4 * MIB


class Clock:
    """Time that passes only when a function says so: no test here depends on how busy the machine is."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(cost.time, "perf_counter", lambda: self.now)

    def task(self, *seconds):
        """A function that takes the given times, turn by turn."""
        turns = itertools.cycle(seconds)

        def run():
            self.now += next(turns)

        return run


def test_ratios_are_of_medians_and_the_spread_covers_them(monkeypatch):
    clock = Clock(monkeypatch)
    functions = {"short": clock.task(4, 5, 4, 90, 4), "long": clock.task(12, 12, 11, 14, 12)}
    timings = cost.time_interleaved(functions, repeats=5, warmup=0)
    assert timings.medians == {"short": 4, "long": 12}
    assert timings.ratios == {"short": 1.0, "long": 3.0}
    low, high = timings.spread["long"]
    assert 12 / 90 <= low < 3.0 <= high <= 14 / 4
    assert timings.spread["short"] == (1.0, 1.0)


def test_warmup_is_not_measured(monkeypatch):
    clock = Clock(monkeypatch)
    timings = cost.time_interleaved({"compiles first": clock.task(60, 60, 1, 1, 1)}, repeats=3, warmup=2)
    assert timings.samples == {"compiles first": [1, 1, 1]}


def test_functions_take_turns_in_changing_order():
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    cost.time_interleaved(functions, repeats=4, warmup=2)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 6 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


def test_spread_is_of_the_ratio_so_a_load_that_meets_both_cancels():
    load = [1.0, 3.0, 1.2, 5.0, 1.1, 2.0]
    timings = cost.compare({"a": load, "b": [2 * seconds for seconds in load]})
    assert timings.spread["b"] == pytest.approx((2.0, 2.0)) and timings.ratios["b"] == pytest.approx(2.0)


@pytest.mark.parametrize("functions, repeats", [({}, 5), ({"a": print}, 1)])
def test_timing_without_functions_or_rounds_is_refused(functions, repeats):
    with pytest.raises(InputError, match="at least one function and two rounds"):
        cost.time_interleaved(functions, repeats=repeats)


def test_operator_table_puts_the_heavy_operator_first_and_shares_add_up():
    a = torch.randn(1000, 1000)  # a thousand times the work of the other operator, whatever interrupts it
    table = cost.operator_table(lambda: (a @ a)[:1].relu())
    assert table["operator"][0] == "aten::mm"
    assert table["share"].sum() == pytest.approx(1.0)
    assert table["seconds"].is_monotonic_decreasing


def test_roofline_is_the_work_done_over_the_shortest_time(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(ticks))  # every run takes one second
    best = cost.roofline(sides=(16, 32), maps=((2, 8, 6), (1, 8, 6)), repeats=2)
    assert best == (2 * 32**3, 2 * (2 * 6 * 6 * 8 * 8 * 9))
