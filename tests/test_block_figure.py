"""Figure 2: what is drawn is what a block and its acceleration network do."""

import pytest
import torch
from torch import nn

from cunet import block_figure, models
from cunet.blocks import Acceleration, ODEBlock


def block(solver="leapfrog", steps=2, **options):
    return ODEBlock(Acceleration(4, 6, 8, **options), steps, solver)


@pytest.mark.parametrize(
    ("solver", "steps", "times"),
    [("leapfrog", 2, [0.25, 0.75]), ("midpoint", 1, [0.0, 0.5]), ("nystrom4", 1, [0.0, 0.5, 0.5, 1.0])],
)
def test_the_times_are_those_at_which_the_solver_asks(solver, steps, times):
    one = block(solver, steps)
    assert block_figure.asked(one) == pytest.approx(times) and len(times) == one.evaluations
    assert not one.acceleration._forward_pre_hooks  # the block comes back as it was


def test_every_layer_is_drawn_once_with_its_parameters_and_every_argument_is_used():
    force = block().acceleration
    found = block_figure.operations(force)
    layers = {n: m for n, m in force.named_modules() if isinstance(m, nn.Conv2d)}
    assert {n: sum(p.numel() for p in m.parameters()) for n, m in layers.items()} == {
        n: one.parameters for n, one in found.items() if one.parameters
    }
    assert found["output"].needs == {"s", "x", "v", "modulation"} == set(list(found)[:4])
    assert found["conv1"].needs == {"x", "v"} and found["addcmul"].needs == found["output"].needs


def test_a_residual_connection_is_drawn_if_there_is_one():
    found = block_figure.operations(block().acceleration)
    (last,) = found["output"].reads
    assert set(found[last].reads) == {"conv2", "residual"} and found["residual"].reads == ["cat"]
    assert block_figure.operations(block(residual=False).acceleration)["output"].reads == ["conv2"]


@pytest.mark.parametrize("name", ["cunet", "cunet-nores", "cunet-firstorder"])
def test_the_figure_shows_solver_times_and_operations(name):
    one = models.build(name, "smoke", 1).middle
    figure = block_figure.figure(one)
    left, right = (" ".join(text.get_text() for text in axes.texts) for axes in figure.axes)
    assert one.solver in left and f"asked {one.evaluations} times" in left
    assert ("1 × 1 conv" in right) == (name != "cunet-nores") and "group norm" in right
    boxes = [p.get_bbox() for p in figure.axes[1].patches]
    assert not any(a.count_overlaps([b]) for i, a in enumerate(boxes) for b in boxes[:i]), "boxes overlap"
    assert torch.get_default_dtype() == torch.float32
