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
    assert all(len(axes.containers) == 2 and len(axes.texts) == 2 for axes in figure.axes)


def test_growths_have_a_line_a_setting_and_fill_where_a_network_is_ahead():
    row = dict(task="one call", kind="level", first=1.2, second=1.1, ratio=0.92, low=0.9, high=0.95)
    other = row | {"strength": 1.4, "ahead": "", "task": "one call"}
    frame = pd.DataFrame([row | {"strength": 0.7, "ahead": "second"}, other])
    (axes,) = ablation_figures.growths(frame, ("unet", "cunet")).axes
    points = [one.lines[0] for one in axes.containers]
    assert [line.get_markerfacecolor() for line in points] == ["#D55E00", "white"]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "noise level told × 0.7",
        "noise level told × 1.4",
    ]
    assert [text.get_text() for text in axes.texts] == ["1.2 / 1.1"] * 2


def test_stretch_and_readings_have_a_line_a_network():
    blocks = pd.DataFrame(dict(depth=[0.0, 0.0, 1.0], largest=[2.0, 3.0, 1.0], random=[1.0, 1.1, 0.9]))
    figure = ablation_figures.stretch({"unet": blocks, "cunet": blocks})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    read = pd.DataFrame(dict(noise=[0.1, 1.0], octaves=[0.3, -0.2], model="unet", embedding="told"))
    figure = ablation_figures.readings(
        pd.concat([read, read.assign(embedding="held"), read.assign(model="cunet")])
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["U-Net", "cU-Net as described"]
