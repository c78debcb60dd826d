"""The study of solvers (`cunet.solver_study`) as a matrix and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure

from . import models, ode_figures, palette
from .blocks import ode_blocks
from .solver_choices import CHOICES, OWN, choice


def matrix(frame: pd.DataFrame, choices: Sequence[str], quantity: str = "loss") -> pd.DataFrame:
    """Rows trained with, columns evaluated with, in the order of `choices`."""
    return frame.pivot(index="trained", columns="evaluated", values=quantity).reindex(
        index=list(choices), columns=list(choices)
    )


def figure(frame: pd.DataFrame, choices: Sequence[str] = CHOICES) -> Figure:
    """The matrix of losses, each over that of the row's own solver; loss and distance along the diagonal."""
    losses = matrix(frame, choices)
    own = frame[frame["trained"] == frame["evaluated"]].copy()
    with palette.style():
        drawn = Figure(figsize=(palette.PAGE, 3.9))
        left, right = drawn.subplots(1, 2, width_ratios=(1.6, 1))
        _heat(left, losses)
        panels = {"loss": (right, "-")}
        if own["fd"].notna().any():
            panels["fd"] = (right.twinx(), ":")
        own["a block"] = own["evaluations"] / own["size"].map(_blocks)
        for quantity, (axes, line) in panels.items():
            for solver in dict.fromkeys(choice(text).solver for text in choices):
                rows = own[own.trained.str.partition(":")[0] == solver].sort_values("a block")
                named = dict(label="the released steps", color="k", marker="*", ms=9)
                look = (named if solver == OWN else ode_figures.look(solver)) | {"ls": line}
                if quantity != "loss":
                    look["label"] = None
                axes.plot(rows["a block"], rows[quantity], **look)
        right.set(title="each with its own solver", xlabel="evaluations a block", xscale="log")
        right.set_ylabel("validation loss (lines)")
        ticks = sorted({choice(text).evaluations for text in choices if text != OWN})
        right.set_xticks(ticks, [str(n) for n in ticks])
        right.minorticks_off()
        right.legend(fontsize=7)
        if "fd" in panels:
            panels["fd"][0].set_ylabel("FD-AlexNet (dots)")
            panels["fd"][0].grid(visible=False)
            panels["fd"][0].spines["right"].set_visible(True)
    return drawn


def _heat(axes, losses: pd.DataFrame) -> None:
    """The matrix of losses; colour is the logarithm of the loss over that of the row's own solver."""
    own = pd.Series({name: losses.loc[name, name] for name in losses.index})
    shade = losses.div(own, axis=0).map(lambda r: math.log(r) if r > 0 else math.nan)
    axes.imshow(shade.to_numpy(), cmap="RdYlBu_r", vmin=-1.5, vmax=1.5, aspect="auto")
    for i, row in enumerate(losses.index):
        for j, column in enumerate(losses.columns):
            if losses.loc[row, column] == losses.loc[row, column]:  # not NaN
                text, dark = f"{losses.loc[row, column]:.3f}", abs(shade.loc[row, column]) > 1.1
                axes.text(j, i, text, ha="center", va="center", fontsize=5, color="w" if dark else "k")
    names = [name.replace("reversible_leapfrog", "reversible").replace(":", " ") for name in losses.index]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(title="validation loss", xlabel="evaluated with", ylabel="trained with")
    axes.grid(visible=False)


def _blocks(size: str) -> int:
    """How many ODE blocks the continuous U-Net of a size has."""
    with torch.device("meta"):  # without weights, and without drawing any
        return len(ode_blocks(models.build("cunet", size, 1)))
