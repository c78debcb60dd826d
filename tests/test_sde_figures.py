"""What the figures of notebook 03 must show; how they look is judged by eye."""

import numpy as np
import pytest
import torch

from cunet import sde_figures
from cunet.sde import GaussianMixture

BELL = GaussianMixture(torch.ones(1), torch.zeros(1, 2), 0.25 * torch.eye(2)[None])


def test_a_cloud_is_drawn_as_the_density_that_it_was_drawn_from():
    cloud = BELL.sample(2**16, torch.Generator().manual_seed(0))
    figure = sde_figures.densities({"exact": [None], "cloud": [cloud]}, [BELL], ["t = 0"])
    exact, drawn = (axes.images[0].get_array() for axes in figure.axes)
    assert drawn.sum() * (2 * sde_figures.EDGE / sde_figures.CELLS) ** 2 == pytest.approx(1, abs=1e-3)
    middle = slice(30, 36)  # pixels next to the centre
    assert drawn[middle, middle].mean() == pytest.approx(exact.max(), rel=0.1)
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()


def test_rows_and_columns_carry_their_labels_and_numbers():
    figure = sde_figures.densities(
        {"exact": [None, None], "flow": [None, None]},
        [BELL, BELL],
        ["t = 1", "t = 0"],
        {"flow": [0.125, 0.5]},
    )
    assert [axes.get_title() for axes in figure.axes] == ["t = 1", "t = 0", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["exact", "", "flow", ""]
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["0.125", "0.500"]


def test_a_process_keeps_its_colour_wherever_it_stands_and_no_two_share_one():
    names = [
        "reverse SDE, Euler-Maruyama",
        "reverse SDE, DDPM (eq. 2)",
        "flow, Euler: slope -1.00",
        "flow, Heun",
    ]
    colours = [sde_figures.colour(name) for name in names]
    assert colours == [sde_figures.colour(name, 3) for name in names]
    assert len(set(colours)) == len(names)


def test_panels_label_every_measured_x_and_shade_the_floor():
    counts = [8, 16, 32]
    panel = sde_figures.Panel(
        {"flow": (counts, [0.5, 0.2, 0.1])}, "evaluations", "error", logx=True, floor=0.3
    )
    (axes,) = sde_figures.panels(panel).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16", "32"]
    shade = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert shade.y1 == pytest.approx(0.3) and axes.get_ylim()[0] < 0.1


def test_time_runs_to_the_right_from_one_to_zero():
    times, height = [1.0, 0.5, 0.0], torch.linspace(-1, 1, 5)
    figure = sde_figures.paths({"flow": torch.zeros(3, 4)}, torch.ones(5, 3), times, height)
    assert figure.axes[0].get_xlim() == (1.0, 0.0)
    assert len(figure.axes[0].lines) == 4
    falling = sde_figures.Panel({"flow": (times, np.ones(3))}, "t", "error", falling=True)
    left, right = sde_figures.panels(falling).axes[0].get_xlim()
    assert left > right
