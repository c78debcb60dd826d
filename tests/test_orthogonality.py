"""Whether gains add: exact where the answer is known, and silent about what is within noise."""

import inspect

import numpy as np
import pytest

from cunet import orthogonality, rules
from cunet.errors import InputError
from cunet.kernel_distance import Distances


def known(value, reach=0.0):
    return Distances(value, value + reach * np.linspace(-1, 1, 101), 1000)


def test_the_relative_gain_is_one_where_both_networks_gain_alike():
    found = {("a", "ddpm", 5): known(41.0), ("a", "ddim", 5): known(11.0)}
    found |= {("b", "ddpm", 5): known(21.0), ("b", "ddim", 5): known(6.0)}
    gain = orthogonality.relative_gain(found, [("ddim", 5)], ("a", "b"), known(1.0))
    assert gain[:3] == pytest.approx((1.0, 1.0, 1.0)) and gain.used == [("ddim", 5)] and not gain.left_out
    assert gain.excess == (5.0, 40.0), "above the floor"
    assert gain.own == pytest.approx((4.0, 4.0, 4.0)), "40 above the floor become 10"
    found["b", "ddim", 5] = known(11.0)  # half the gain
    assert orthogonality.relative_gain(found, [("ddim", 5)], ("a", "b"), known(1.0)).ratio == pytest.approx(
        0.5
    )
    with pytest.raises(InputError, match="name some"):
        orthogonality.relative_gain(found, [], ("a", "b"), known(1.0))


def test_what_is_within_noise_of_real_images_is_left_out_by_name():
    found = {(n, m, 5): known(11.0) for n in "ab" for m in ("ddpm", "ddim")}
    found |= {
        (n, m, 20): known(3.0, reach=4.0 * (n == "b" and m == "ddpm")) for n in "ab" for m in ("ddpm", "ddim")
    }
    gain = orthogonality.relative_gain(found, [("ddim", 5), ("ddim", 20)], ("a", "b"), known(1.0))
    assert gain.used == [("ddim", 5)] and gain.left_out == {("ddim", 20): "b with ddpm"}
    alone = orthogonality.relative_gain(found, [("ddim", 20)], ("a", "b"), known(1.0))
    assert not alone.used and np.isnan(alone[:3]).all() and np.isnan(alone.excess).all()


def test_gains_in_time_multiply_where_a_network_and_a_method_each_halve_the_time():
    found = {(n, m, k): known(60.0 / k if m == "ddim" else 120.0 / k) for n in "ab" for m in ("ddim", "fast")
             for k in (2, 4, 8)}  # fmt: skip
    found = {key: one if key[1] == "ddim" else known(30.0 / key[2]) for key, one in found.items()}
    seconds = {(n, m, k): [k * (2.0 if n == "a" else 1.0)] * 5 for n, m, k in found}
    got = orthogonality.multiplied(found, seconds, ("a", "b"))
    assert got.level[0] == 7.5 and got.by_network[0] == 2 and got.by_method[0] == 2
    assert got.together == (4.0, 4.0, 4.0) and got.times == (1.0, 1.0, 1.0)
    assert got.faster == (4.0, 4.0, 4.0) and got.reached == 1 and got.best == ("fast", 4)
    assert got.alone == (2.0, 2.0, 2.0) and got.alone_best == ("fast", 4)
    assert got.each_best == (2.0, 2.0, 2.0), "the network's share of the 4"
    with pytest.raises(InputError, match="ddpm was not tried"):
        orthogonality.multiplied(found, seconds, ("a", "b"), plain="ddpm")


def test_a_quality_that_is_not_reached_is_no_gain_and_choices_are_made_anew_in_every_resample():
    found = {("a", "ddim", k): known(10.0 / k) for k in (2, 4)}
    found |= {("b", "ddim", k): known(20.0 / k, reach=6.0) for k in (2, 4)}
    seconds = {(n, m, k): [k * s for s in (1.0, 1.1, 0.9)] for n, m, k in found}
    got = orthogonality.multiplied(found, seconds, ("a", "b"))
    assert got.faster[0] == 0 and got.best is None and 0 < got.reached < 1
    assert got.faster[1] == 0 < got.faster[2], "in some resamples it is reached"
    assert got.alone == (1, 1, 1)
    turned = orthogonality.multiplied(found, seconds, ("b", "a"))
    assert got.each_best == pytest.approx((0.5, 0.5, 1.0)), "a takes 2 calls for what b takes 4 for"
    assert turned.each_best[0] * got.each_best[0] == 1, "it favours neither network"


def test_the_claim_takes_the_unfavourable_ends_and_has_no_value_without_a_measured_comparison():
    one = (1.0, 0.5, 1.5)
    goal = orthogonality.Multiplied(
        one, one, one, one, one, (2.0, 0.0, 3.0), 0.9, ("ddim", 5), one, ("ddim", 8), one
    )
    gain = orthogonality.Gain(1.2, 1.1, 1.3, [("ddim", 5)], {("ddim", 20): "b with ddpm"}, (4.0, 9.0), one)
    row = orthogonality.claim((0.5, 0.4, 0.6), "unipc", goal, gain)
    assert row["value"] == {"time": 0.6, "time_low": 0.4, "gain": 1.1, "gain_high": 1.3, "own": 0.5}
    assert set(row["value"]) == set(inspect.signature(rules.RULES["C25"]).parameters), "all that it asks for"
    assert "1.00 [0.50, 1.50] for the U-Net at 5 calls, and 1.20 [1.10, 1.30] of that" in row["measured"]
    assert "0.50 [0.40, 0.60] of the U-Net's time with the same method (unipc)" in row["measured"]
    assert (
        "over 1 comparisons (1 more are within noise" in row["measured"] and "4.0 to 9.0" in row["measured"]
    )
    for nothing in (None, gain._replace(used=[])):
        row = orthogonality.claim((0.5, 0.4, 0.6), "unipc", goal, nothing)
        assert row["value"] is None and "not measured" in row["measured"]


def test_a_speedup_says_with_what_and_how_often_the_quality_is_reached():
    one = (1.0, 0.5, 1.5)
    own, share = (1.6, 1.0, 2.5), (1.25, 0.0, 1.9)
    goal = orthogonality.Multiplied(
        one, one, one, one, one, (2.0, 0.0, 3.0), 0.9, ("unipc", 5), own, ("dpmsolver++", 8), share
    )
    row = orthogonality.speedup(goal, "DDIM")
    text = "2.0 times as fast (with unipc, 5 calls); the U-Net itself with its own best method 1.6 [1.0, 2.5]"
    assert row["measured"].startswith(f"{text} times (with dpmsolver++, 8 calls); ")
    assert row["measured"].endswith(
        "with DDIM, the cU-Net over the U-Net, each with its best, 1.2 [0.0, 1.9] times"
    )
    assert row["claim"].endswith("over the U-Net with DDIM, at the best quality of the latter")
    assert row["spread"].startswith("[0.0, 3.0]") and "reached in 90 % of resamples" in row["spread"]
    assert "never good enough" in orthogonality.speedup(goal._replace(best=None), "DDIM")["measured"]


def test_a_methods_time_is_that_of_all_its_numbers_of_calls_over_the_first_networks():
    samples = {("a", "ddim", 2): [2.0, 2.0], ("a", "ddim", 5): [6.0, 6.0], ("a", "heun", 19): [4.0, 4.0]}
    samples |= {("b", *key[1:]): [x / 2 for x in taken] for key, taken in samples.items()}
    rows = orthogonality.time_ratios(samples, ("a", "b"))
    assert [(row["model"], row["method"]) for row in rows] == [
        *(("a", "ddim"), ("b", "ddim"), ("a", "heun"), ("b", "heun"))
    ]
    assert [row["ratio"] for row in rows] == [1, 0.5, 1, 0.5] and rows[1]["low"] == rows[1]["high"] == 0.5
