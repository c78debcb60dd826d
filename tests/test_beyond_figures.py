"""Figures of notebook 11: they show all that they are given, and the frontier is one."""

import numpy as np
import pandas as pd
import pytest

from cunet import beyond_figures
from cunet.accelerations import METHODS
from cunet.kernel_distance import Distances

FLOOR = Distances(3.0, np.array([2.0, 3.0, 4.0]), 50)


def frame() -> pd.DataFrame:
    rows = [
        dict(
            model=m,
            method=x,
            calls=k,
            seconds=0.01 * k * s,
            kid=100 / k * s,
            kid_low=90 / k * s,
            kid_high=120 / k,
        )
        for m, s in (("unet", 1.0), ("cunet", 0.5))
        for x in METHODS
        for k in (5, 20)
    ]
    return pd.DataFrame(rows).assign(kid_high=lambda f: f.kid * 1.2)


def test_the_frontier_leaves_out_what_another_beats_in_both():
    points = pd.DataFrame(dict(seconds=[1.0, 2.0, 3.0, 2.5], kid=[9.0, 5.0, 7.0, 5.0]))
    best = beyond_figures.frontier(points)
    assert list(best.seconds) == [1.0, 2.0] and list(best.kid) == [9.0, 5.0]


def test_distances_have_a_panel_a_method_and_a_line_a_network():
    figure = beyond_figures.distance_against_calls(frame(), FLOOR)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [m.label for m in METHODS.values()]
    assert all(len(axes.containers) == 2 for axes in figure.axes)
    plain = [line for line in figure.axes[2].lines if line.get_ls() == ":" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in plain] == [[20.0, 5.0], [10.0, 2.5]]


def test_quality_against_time_names_every_method_once():
    (axes,) = beyond_figures.pareto(frame(), FLOOR).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(names) == sorted(
        ["U-Net", "cU-Net as described", "real images", *(m.label for m in METHODS.values())]
    )


def test_the_others_show_what_they_are_given():
    bits = [dict(model=m, dequantisation=h, image=i, bits=2.0 + i) for m in ("unet", "cunet")
            for h in ("uniform", "gaussian") for i in range(3)]  # fmt: skip
    assert len(beyond_figures.likelihoods(pd.DataFrame(bits)).axes) == 2
    inner = {"cunet": {n: (1 / n, 0.9 / n, 1.1 / n) for n in (2, 4, 8)}}
    (axes,) = beyond_figures.inner_convergence(inner).axes
    assert list(axes.get_lines()[0].get_xdata()) == [2, 4, 8]
    errors = np.random.default_rng(0).uniform(1, 2, (2, 3, 5))
    left, right = beyond_figures.depth_by_need([9, 5], errors, [0.5, 1, 4], {"58": [1, 4], "90": [4, 4]}).axes
    assert len(left.get_lines()) == 3 and list(left.get_lines()[1].get_ydata()) == [1, 1]
    assert right.collections[0].get_array().tolist() == [[1, 2], [2, 2]]


def test_saved_work_is_shown_beside_the_full_network_and_its_differences_below_with_their_own_intervals():
    far, whole = Distances(3.0, np.array([2.0, 3.0, 4.0]), 50), Distances(1.0, np.array([0.5, 1.0, 1.5]), 50)
    rows = [
        dict(model=m, way=w, macs=macs) | one.columns(whole)
        for m, w, macs, one in (
            ("cunet", "even depth", 2e9, far),
            ("cunet", beyond_figures.FULL, 4e9, whole),
            ("unet", "every 2 calls", 2e9, far),
            ("unet", beyond_figures.FULL, 4e9, whole),
        )
    ]
    figure = beyond_figures.saved_work(pd.DataFrame(rows), FLOOR)
    top, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title(loc="left") for axes in top] == ["U-Net", "cU-Net as described"]
    for axes, value, ends in ((top[0], 3.0, far.interval), (below[0], 2.0, (far - whole).interval)):
        way, star = axes.containers
        assert way.lines[0].get_ydata() == [value]
        (bar,) = way.lines[2][0].get_segments()
        assert bar[:, 1] == pytest.approx(ends)
        assert star.lines[0].get_marker() == "*" and star.lines[0].get_ydata() == [value - 2]


def test_guidance_is_shown_for_both_networks_beside_real_images():
    rows = [
        dict(
            model=m,
            scale=s,
            right=0.5,
            right_low=0.4,
            right_high=0.6,
            kid=300.0,
            kid_low=200.0,
            kid_high=400.0,
        )
        for m in ("unet", "cunet")
        for s in (0.0, 1.0, 4.0)
    ]
    left, right = beyond_figures.guidance(pd.DataFrame(rows), FLOOR, 0.9).axes
    assert len(left.containers) == len(right.containers) == 2
    assert left.lines[0].get_ydata()[0] == 90
