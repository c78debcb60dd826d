"""Figures of notebooks 01 and 02: what they are given is what they draw."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cunet import ode, ode_figures

H = np.array([0.4, 0.2, 0.1])


def texts(figure: Figure) -> str:
    """Everything written in the panels and in legends."""
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()] + figure.legends
    found = [text for axes in figure.axes for text in axes.texts]
    return " ".join(t.get_text() for t in found + [t for legend in legends for t in legend.texts])


def test_every_solver_and_gradient_has_a_look_of_its_own():
    for names in (ode.SOLVERS, ode.GRADIENTS):
        looks = [(ode_figures.look(name)["color"], ode_figures.look(name)["marker"]) for name in names]
        assert len(set(looks)) == len(names)


def test_order_lines_print_the_slope_of_each_line():
    frame = pd.concat(
        pd.DataFrame(dict(solver=solver, h=H, error=3 * H**k)) for solver, k in (("euler", 1), ("rk4", 4))
    )
    figure = ode_figures.order_lines({"a": frame, "b": frame}, ("error",))
    assert len(figure.axes) == 2
    assert "1.00" in texts(figure) and "4.00" in texts(figure) and "euler" in texts(figure)


def test_exponents_are_written_as_they_are():
    frame = pd.DataFrame({"euler": [1.02], "rk4": [3.97]}, index=["kepler"])
    figure = ode_figures.exponents({"global": frame, "local": frame + 1})
    assert texts(figure).split() == ["1.02", "3.97", "2.02", "4.97"]


def test_labels_are_moved_apart_and_keep_their_order():
    placed = ode_figures._apart([1.0, 0.0, 1.01, 5.0], least=0.5)
    assert np.argsort(placed).tolist() == [1, 0, 2, 3] and placed[1] == 0 and placed[3] == 5
    assert np.diff(sorted(placed)).min() > 0.49


def test_crossing_draws_a_path_a_column_in_each_panel():
    s = np.linspace(0, 1, 5)
    paths = np.outer(1 - 2 * s, [-1, -0.5, 0.5, 1])
    figure = ode_figures.crossing(s, paths, paths, paths)
    solid = [sum(len(line.get_xdata()) == 5 for line in axes.lines) for axes in figure.axes]
    assert solid == [4, 4, 4]


def test_energy_block_convergence_flow_and_costs_draw_a_line_a_name():
    drift = pd.DataFrame(dict(solver=["leapfrog"] * 3 + ["rk4"] * 3, orbit=[1, 2, 3] * 2, drift=1e-3))
    assert "leapfrog" in texts(ode_figures.energy(drift, {"rk4": np.zeros((4, 2))}, np.zeros((4, 2))))
    shares = pd.DataFrame(
        dict(
            network="cunet",
            block=["a", "b"] * 2,
            solver="rk4",
            evaluations=[4, 4, 8, 8],
            share=[0.1, 0.2, 0.01, 0.02],
        )
    )
    figure = ode_figures.block_convergence(shares, {"cunet": "cunet"})
    (median,) = [line for line in figure.axes[0].lines if line.get_label() == "rk4"]
    assert median.get_ydata() == pytest.approx([0.15, 0.015])
    flow = np.zeros((6, 2, 2))
    assert ode_figures.transported(flow, flow, [0, 5], np.ones((4, 4)), (-1, 1, -1, 1), (0, 0)).axes
    costs = pd.DataFrame(
        dict(subject="one block", gradient="direct", steps=[1, 2], error=1e-7, memory=1e6, seconds=0.1)
    )
    assert len(ode_figures.gradient_costs(costs).axes) == 3
