"""Figures of notebook 11: they show all that they are given, and the frontier is one."""

import numpy as np
import pandas as pd

from cunet import beyond_figures
from cunet.accelerations import METHODS


def frame() -> pd.DataFrame:
    rows = [
        dict(
            model=m,
            method=x,
            calls=k,
            seconds=0.01 * k * s,
            fd=100 / k * s,
            fd_low=90 / k * s,
            fd_high=120 / k,
        )
        for m, s in (("unet", 1.0), ("cunet", 0.5))
        for x in METHODS
        for k in (5, 20)
    ]
    return pd.DataFrame(rows).assign(fd_high=lambda f: f.fd * 1.2)


def test_the_frontier_leaves_out_what_another_beats_in_both():
    points = pd.DataFrame(dict(seconds=[1.0, 2.0, 3.0, 2.5], fd=[9.0, 5.0, 7.0, 5.0]))
    best = beyond_figures.frontier(points)
    assert list(best.seconds) == [1.0, 2.0] and list(best.fd) == [9.0, 5.0]


def test_distances_have_a_panel_a_network_and_a_line_a_method():
    figure = beyond_figures.distance_against_calls(frame(), floor=3.0)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["U-Net", "cU-Net as described"]
    assert all(len(axes.containers) == len(METHODS) for axes in figure.axes)


def test_quality_against_time_names_every_method_once():
    (axes,) = beyond_figures.pareto(frame(), floor=3.0).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(names) == sorted(
        ["U-Net", "cU-Net as described", "as many real images", *(m.label for m in METHODS.values())]
    )


def test_the_others_show_what_they_are_given():
    bits = [dict(model=m, dequantisation=h, image=i, bits=2.0 + i) for m in ("unet", "cunet")
            for h in ("uniform", "gaussian") for i in range(3)]  # fmt: skip
    assert len(beyond_figures.likelihoods(pd.DataFrame(bits)).axes) == 2
    inner = {"cunet": {n: (1 / n, 0.9 / n, 1.1 / n) for n in (2, 4, 8)}}
    (axes,) = beyond_figures.inner_convergence(inner).axes
    assert list(axes.get_lines()[0].get_xdata()) == [2, 4, 8]
    left, right = beyond_figures.depth_by_need([9, 5], np.ones((2, 3)), [1, 2, 4], {"2 a call": [1, 4]}).axes
    assert len(left.get_lines()) == 3 and list(right.get_lines()[0].get_ydata()) == [1, 4]
    work = pd.DataFrame([dict(model=m, way=w, macs=2e9, fd=3.0, fd_low=2.0, fd_high=4.0)
                         for m, w in (("cunet", "even depth"), ("unet", "every call"))])  # fmt: skip
    figure = beyond_figures.saved_work(work)
    assert [len(axes.containers) for axes in figure.axes] == [1, 1]
