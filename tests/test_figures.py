"""Figures show what they are given: marks where the numbers are, one colour a network, the true wiring."""

import io

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cunet import diagram, figures, models, palette


def pixels(figure):
    """The figure as an array: what a reader sees."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=60)
    data.seek(0)
    return matplotlib.image.imread(data)


def steps_frame():
    rows = [("unet", 5, 9.0), ("unet", 50, 2.0), ("unet", 100, 3.0), ("cunet", 5, 4.0), ("cunet", 50, 6.0)]
    frame = pd.DataFrame(rows, columns=["model", "steps", "fd"])
    return frame.assign(sampler="ddim", fd_low=frame.fd * 0.9, fd_high=frame.fd * 1.1)


CARD = dict(wall_time_s=120.0, images_seen=1000, loss_curve=[[0, 1.0], [1000, 0.1]], validation=[[1000, 0.2]])
BARS = pd.DataFrame(
    dict(model=["unet", "cunet"], label=["U-Net", "ours"], macs=[4.0, 1.0], printed=[5.0, float("nan")])
)
ALL = {
    "image_rows": lambda: figures.image_rows({"a": torch.zeros(3, 1, 8, 8)}, ["x", "y", "z"], "title"),
    "image_grid": lambda: figures.image_grid(torch.zeros(5, 3, 8, 8), columns=2),
    "sample_sheets": lambda: figures.sample_sheets(
        {"a": torch.zeros(4, 1, 8, 8), "b": torch.ones(4, 1, 8, 8)}
    ),
    "fd_against_steps": lambda: figures.fd_against_steps(steps_frame(), floor=1.0),
    "loss_curves": lambda: figures.loss_curves({"unet": CARD}),
    "curves": lambda: figures.curves([1, 2], {"unet": [1, 2], "x": [2, 1]}, "a", "b", logx=True, logy=True),
    "bars_beside_paper": lambda: figures.bars_beside_paper(BARS, [("macs", "printed", "G")]),
    "architecture": lambda: figures.architecture(models.build("cunet", "smoke", 1), 16, 1),
}


@pytest.mark.parametrize("name", ALL)
def test_a_figure_draws_without_a_display_and_leaves_the_style_alone(name):
    before = dict(matplotlib.rcParams)
    figure = ALL[name]()
    assert isinstance(figure, Figure)
    assert pixels(figure).std() > 0.01  # not blank
    assert dict(matplotlib.rcParams) == before


def test_a_sheet_puts_image_i_in_row_i_div_columns():
    images = torch.full((5, 1, 4, 4), -1.0)
    images[3] = 0.0
    sheet = figures._tiled(images, columns=2, gap=1)
    assert sheet.shape == (3 * 5 - 1, 2 * 5 - 1)
    assert np.allclose(sheet[5:9, 5:9], 0.5)
    assert np.allclose(sheet[:4, :4], 0.0)
    assert np.allclose(sheet[10:, 5:], 1.0)  # nothing there


def test_images_are_shown_from_black_at_minus_one_to_white_at_one_and_clipped():
    shown = figures.to_display(torch.tensor([[[-1.0, 0.0], [1.0, 7.0]]]))
    assert np.allclose(shown, [[0.0, 0.5], [1.0, 1.0]])
    assert figures.to_display(torch.zeros(3, 2, 2)).shape == (2, 2, 3)


def test_a_network_has_one_colour_in_every_figure():
    lines = figures.fd_against_steps(steps_frame()).axes[0].lines
    curve = figures.curves([1, 2], {"unet": [1, 2]}, "", "").axes[0].lines[0]
    bar = figures.bars_beside_paper(BARS, [("macs", None, "G")]).axes[0].patches[0]
    assert lines[0].get_color() == curve.get_color() == palette.COLOURS["unet"]
    assert matplotlib.colors.to_hex(bar.get_facecolor()).upper() == palette.COLOURS["unet"]
    main = [palette.COLOURS[m] for m in palette.NAMES if not m.startswith("cunet-released-")]
    assert len(set(main)) == len(main)


def test_the_ring_marks_each_networks_lowest_distance():
    rings = [a for a in figures.fd_against_steps(steps_frame()).axes[0].lines if a.get_markersize() == 10]
    marked = {(r.get_color() or r.get_markeredgecolor()): r.get_xydata()[0].tolist() for r in rings}
    (at, lowest), (further, smaller) = sorted(marked.values())
    assert (lowest, smaller) == (4.0, 2.0)
    assert at == pytest.approx(5, rel=0.03) and further == pytest.approx(50, rel=0.03), "a little apart"


def test_distances_can_stand_against_time():
    frame = steps_frame().assign(seconds=lambda f: f.steps / 10)
    axes = figures.fd_against_steps(frame, x="seconds").axes[0]
    assert axes.get_xlabel() == "seconds a sample"
    assert list(axes.lines[0].get_xdata()) == [0.5, 5.0, 10.0]


def test_time_in_loss_curves_is_wall_time_or_what_an_image_is_said_to_take():
    images, minutes = figures.loss_curves({"unet": CARD}).axes
    assert images.lines[0].get_xdata().max() == pytest.approx(1.0)  # thousands
    assert minutes.lines[0].get_xdata().max() == pytest.approx(2.0)
    _, minutes = figures.loss_curves({"unet": CARD}, seconds={"unet": 0.6}).axes
    assert minutes.lines[0].get_xdata().max() == pytest.approx(10.0)


def test_losses_can_be_shown_without_their_steep_start():
    card = CARD | dict(validation=[[500, 0.2], [1000, 0.15]])
    axes = figures.loss_curves({"unet": card}, zoom=True).axes[0]
    low, high = axes.get_ylim()
    assert 0.14 < low < 0.15 and 0.2 < high < 0.22
    nothing = figures.loss_curves({"unet": card | dict(validation=[])}, zoom=True).axes[0]
    assert nothing.get_ylim()[1] > 1, "no validation, no zoom"


def test_bars_stand_beside_the_papers_marks_and_a_missing_mark_is_left_out():
    axes = figures.bars_beside_paper(BARS, [("macs", "printed", "G")]).axes[0]
    assert [p.get_width() for p in axes.patches] == [4.0, 1.0]
    assert axes.lines[0].get_xdata()[0] == 5.0 and np.isnan(axes.lines[0].get_xdata()[1])
    assert [text.get_text() for text in axes.texts] == ["4", "1 (25%)"]
    claimed = figures.bars_beside_paper(BARS, [("macs", None, "G")], {"macs": (0.3, "claimed")}).axes[0]
    assert claimed.lines[1].get_xdata()[0] == pytest.approx(1.2), "a share of the first row"


# ------------------------------------------------------------ the network behind the U


@pytest.fixture(scope="module")
def traces():
    names = ("unet", "cunet", "cunet-noattn", "cunet-released", "cunet-released-nores")
    return {name: diagram.trace(models.build(name, "smoke", 1), 16, 1) for name in names}


def test_every_parameter_is_in_a_stage_or_named_as_uncalled(traces):
    for name, found in traces.items():
        total = sum(p.numel() for p in models.build(name, "smoke", 1).parameters())
        stages = sum(s.parameters for s in (*found.stages, *found.time_stages))
        assert stages + found.uncalled == found.parameters == total, name
    assert traces["cunet-released"].uncalled == 256_000  # the time table that nothing reads
    assert traces["unet"].uncalled == 0


def test_the_time_reaches_every_block_as_described_and_none_as_released(traces):
    assert all(s.reads_time for s in traces["cunet"].stages if s.kind == "ODEBlock")
    assert all(s.reads_time for s in traces["unet"].stages if s.kind == "ResidualBlock")
    assert not any(s.reads_time for s in traces["cunet-released"].stages)
    assert any(s.reads_time for s in traces["cunet-released-nores"].stages)


def test_skips_join_equal_resolutions_across_the_u(traces):
    for name in ("cunet", "cunet-released"):
        found = traces[name]
        assert len(found.skips()) == 4
    found = traces["cunet"]
    for a, b in found.skips():
        assert found.stages[a].side == found.stages[b].side
        assert found.stages[b].kind == "Join"


def test_evaluations_are_those_that_happen(traces):
    def times(name, kind):
        return [s.evaluations for s in traces[name].stages if s.kind == kind]

    assert times("cunet", "ODEBlock") == [1, 1, 2, 2, 2, 2, 2, 1, 1]  # down, middle, up
    assert set(times("cunet-released", "Block")) == {4}
    assert set(times("unet", "ResidualBlock")) == {1}


def test_what_an_ablation_leaves_out_is_not_drawn(traces):
    assert sum(s.attends for s in traces["cunet"].stages) == 2
    assert not any(s.attends for s in traces["cunet-noattn"].stages)
    assert not any(s.kind == "Identity" for s in traces["cunet-noattn"].stages)


def test_tracing_leaves_the_network_as_it_was():
    model = models.build("cunet-released", "smoke", 1).train()
    wanted = [p.requires_grad for p in model.parameters()]
    diagram.trace(model, 16, 1)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("number, text", [(8_811_875, "8.81 M"), (256_000, "256 k"), (448, "448"), (0, "0")])
def test_counts_are_written_short(number, text):
    assert diagram.short(number) == text
