"""Figures of notebook 10: they show every row they are given."""

import pandas as pd

from cunet import ablation_figures


def test_contributions_have_a_panel_a_measure_and_a_line_a_network():
    row = dict(model="cunet-noattn", percent=5.0, low=-2.0, high=12.0, over="images")
    other = row | dict(model="cunet-nores", percent=300.0, high=400.0)
    frame = pd.DataFrame([r | {"measure": m} for r in (row, other) for m in ablation_figures.MEASURES])
    figure = ablation_figures.contributions(frame)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(ablation_figures.MEASURES.values())
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["cU-Net, no attention", "cU-Net, no residuals"]
    assert all(len(axes.lines) == 5 for axes in figure.axes)


def test_growths_mark_the_network_that_is_ahead():
    row = dict(task="one call", kind="level", first=1.2, second=1.1, ahead="second")
    frame = pd.DataFrame([row | {"strength": 0.7}, row | {"strength": 1.4, "ahead": ""}])
    (axes,) = ablation_figures.growths(frame, ("unet", "cunet")).axes
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_ydata().tolist() for line in rings] == [[], [1.1]]


def test_stretch_and_readings_have_a_line_a_network():
    blocks = pd.DataFrame(dict(depth=[0.0, 0.0, 1.0], largest=[2.0, 3.0, 1.0], random=[1.0, 1.1, 0.9]))
    figure = ablation_figures.stretch({"unet": blocks, "cunet": blocks})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    read = pd.DataFrame(dict(noise=[0.1, 1.0], octaves=[0.3, -0.2], model="unet", embedding="told"))
    figure = ablation_figures.readings(
        pd.concat([read, read.assign(embedding="held"), read.assign(model="cunet")])
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["U-Net", "cU-Net as described"]
