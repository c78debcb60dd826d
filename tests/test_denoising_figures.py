"""What the figures of notebook 08 must show; how they look is judged by eye."""

import pandas as pd
import pytest
import torch

from cunet import denoising_figures as pictures
from cunet import denoising_tables, palette
from cunet.trajectories import Denoised, Trajectory


def run(peak: float, n=4):
    steps = torch.tensor([0, 10, 20, 40])
    curve = 0.9 - (steps - peak).abs() / 100
    scores = curve + 0.01 * torch.arange(n)[:, None]
    frames = torch.linspace(-1, 1, n * 3 * 8 * 8).view(n, 3, 1, 8, 8)
    kept = Trajectory(
        40, "mean", steps, {"ssim": scores, "lpips": 1 - scores}, torch.tensor([0, 20, 40]), frames
    )
    return Denoised({("mean", 40): kept}, 0.01)


RUNS = {"unet": run(40.0), "cunet": run(20.0)}


def test_the_best_of_the_frames_is_framed_and_every_score_printed():
    strips = [pictures.strip(m, r["mean", 40], 1, "lpips") for m, r in RUNS.items()]
    assert [strip.best for strip in strips] == [2, 1] and strips[0].steps == [0, 20, 40]
    figure = pictures.along_the_steps(torch.zeros(1, 8, 8), strips, "lpips")
    grid = [figure.axes[:4], figure.axes[4:]]
    assert [axes.get_title(loc="center") for axes in grid[0]] == ["original", "step 0", "step 20", "step 40"]
    framed = [[i for i, axes in enumerate(row) if axes.spines["left"].get_visible()] for row in grid]
    assert framed == [[3], [2]]
    assert grid[1][2].get_xlabel() == f"{float(RUNS['cunet']['mean', 40].scores['lpips'][1, 2]):.3f}"


def test_curves_show_the_mean_one_image_and_the_peak():
    figure = pictures.against_steps(RUNS, "mean", "ssim")
    axes = figure.axes[0]
    mean, one, peak = axes.lines[:3]
    assert mean.get_ydata() == pytest.approx(RUNS["unet"]["mean", 40].mean("ssim"))
    assert one.get_ydata() == pytest.approx(RUNS["unet"]["mean", 40].scores["ssim"][0])
    assert float(peak.get_xdata()[0]) == 40 and float(axes.lines[5].get_xdata()[0]) == 20
    assert axes.lines[3].get_color() == palette.colour("cunet")
    lowest = pictures.against_steps(RUNS, "mean", "lpips", None).axes[0].lines[1]
    assert float(lowest.get_xdata()[0]) == 40, "a low LPIPS is the good end"


def test_below_the_curves_stands_the_difference_image_by_image():
    below = pictures.against_steps(RUNS, "mean", "ssim").axes[1]
    unet, cunet = (run["mean", 40].scores["ssim"].double() for run in RUNS.values())
    assert below.lines[0].get_ydata() == pytest.approx((cunet - unet).mean(0))
    assert set(below.lines[1].get_ydata()) == {0}


def test_differences_stand_at_their_levels_with_zero_drawn():
    frame = denoising_tables.comparison(RUNS, "mean", dict.fromkeys(RUNS, 0.01))
    figure = pictures.differences({"mean": frame, "clean": frame})
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(pictures.UNITS.values())[:2]
    marks = figure.axes[0].containers[0].lines[0]
    assert marks.get_ydata() == pytest.approx(denoising_tables.part(frame, "ssim", "value").difference)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["40"]


def test_a_tradeoff_has_a_panel_a_walk_and_rings_the_first_prediction():
    frame = pd.DataFrame(
        [
            dict(model=m, variant=v, step=s, distortion=d, perception=p)
            for m in RUNS
            for v in ("clean", "ancestral-clean")
            for s, d, p in ((40, 0.1, 9.0), (80, 0.2, 5.0))
        ]
    )
    figure = pictures.tradeoff(frame, floor=3.0)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(pictures.WALKS.values())
    rings = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert len(rings) == 2 and all(line.get_xydata().tolist() == [[0.1, 9.0]] for line in rings)
    assert any(set(line.get_ydata()) == {3.0} for line in figure.axes[0].lines)


def test_the_toys_curve_stands_below_the_coins_line():
    axes = pictures.toy([1.0, 1.5, 2.0], {"ten": [1.0, 0.2, 0.0]}).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([1.0, 0.2, 0.0])
    assert axes.lines[1].get_xydata().tolist() == [[1, 1], [2, 0]]


def test_cost_is_drawn_from_zero_with_a_mark_a_run():
    axes = pictures.cost_line([10, 20, 20], [1.0, 2.1, 1.9], [1, 2, 2], 0.1).axes[0]
    line, one, two = axes.lines
    assert line.get_xydata()[0].tolist() == [0, 0] and line.get_xydata()[1].tolist() == pytest.approx(
        [21, 2.1]
    )
    assert (len(one.get_xdata()), len(two.get_xdata())) == (1, 2)
