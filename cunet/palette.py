"""How every figure looks: one style sheet, one colour, marker and name for one network everywhere.

Colours are Okabe and Ito's, which people with colour-blindness can tell apart; networks differ in marker too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

PAGE = 7.2  # inches: the width of a page, and of every full figure
COLOURS = {
    "unet": "#0072B2",
    "cunet": "#D55E00",
    "cunet@gradient=checkpoint": "#882255",
    "cunet-walltime": "#E69F00",
    "cunet-released": "#009E73",
    "cunet-released-5attn": "#009E73",
    "cunet-noattn": "#CC79A7",
    "cunet-released-noattn": "#CC79A7",
    "cunet-nores": "#56B4E9",
    "cunet-released-nores": "#56B4E9",
    "cunet-plain": "#8A8A8A",
    "cunet-released-plain": "#8A8A8A",
    "cunet-firstorder": "#7A5195",
    "cunet-zerovelocity": "#B8860B",
    "cunet-randomdepth": "#117733",
    "cunet@widths=(16,28,56,96)": "#332288",
    "cunet@steps=(1,2,4,4)": "#44AA99",
    "cunet@time_width=256": "#999933",
    "cunet-first": "#661100",
}
NAMES = {
    "unet": "U-Net",
    "cunet": "cU-Net as described",
    "cunet@gradient=checkpoint": "cU-Net, checkpointed",
    "cunet-walltime": "cU-Net, the U-Net's training time",
    "cunet-released": "cU-Net as released",
    "cunet-released-5attn": "released, five attentions",
    "cunet-released-noattn": "released, no attention",
    "cunet-released-nores": "released, no residuals",
    "cunet-released-plain": "released, neither of the two",
    "cunet-noattn": "cU-Net, no attention",
    "cunet-nores": "cU-Net, no residuals",
    "cunet-plain": "cU-Net, neither of the two",
    "cunet-firstorder": "cU-Net, first order",
    "cunet-zerovelocity": "cU-Net, initial velocity 0",
    "cunet-randomdepth": "cU-Net, random depth",
    "cunet@widths=(16,28,56,96)": "cU-Net, wider where coarse",
    "cunet@steps=(1,2,4,4)": "cU-Net, more evaluations",
    "cunet@time_width=256": "cU-Net, wider time embedding",
    "cunet-first": "cU-Net, first version",
}
MARKERS = {
    "unet": "o",
    "cunet": "s",
    "cunet@gradient=checkpoint": "P",
    "cunet-walltime": "D",
    "cunet-released": "^",
    "cunet-randomdepth": "v",
    "cunet-first": "d",
}
OTHERS = ("#000000", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#0072B2", "#D55E00")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: seaborn asks for Arial where there is one
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=OTHERS),
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.hashsalt": "cunet",
}


@contextmanager
def style() -> Iterator[None]:
    """`with style():` gives matplotlib the settings of every figure here."""
    with sns.axes_style("ticks"), mpl.rc_context(STYLE):
        yield


def colour(model: str) -> str:
    """The colour of a network; a network without one of its own gets a neutral grey."""
    return COLOURS.get(model, "#555555")


def label(model: str) -> str:
    """The network's name as figures print it."""
    return NAMES.get(model, model)


def readable(axis, factor: float = math.inf) -> None:
    """Ticks at 1, 2 and 5 of every decade of a logarithmic axis, as plain numbers; at more of them where the
    axis spans less than a `factor` of 8."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if factor >= 8 else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, axes) -> None:
    """One legend for all panels, below them, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=7)


def save(figure: Figure, folder: Path, stem: str) -> None:
    """stem.png and stem.pdf in a folder, outside of a run (in one, `cunet.runs.Run.save_figure` does it)."""
    for ending in ("png", "pdf"):
        figure.savefig(folder / f"{stem}.{ending}")
