"""How many images a second a training takes in, and whether the reading of data limits it.

Measured is `cunet.training` itself, as the released networks were trained (`RECIPE`: size laptop, MNIST): a
step draws its batch, diffusion steps and noise, goes forward and back, clips the gradient, and updates
weights and average. Validation and saving are left out, as in the cards of the networks. The network of
before (`cunet.contenders`) is in the memory layout that its training had, which is today's.

The share of the data is the time to draw one more batch over that of a step, which has drawn its own: where
it is small, no reading ahead would make a training faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from . import cost, training
from .batches import Batches
from .contenders import BEFORE, FIRST
from .launch import Signals, start_fabric
from .recipe import TrainConfig

RECIPE = TrainConfig()
COLUMNS = ["model", "batch", "images_per_second", "ratio", "low", "high", "data", "data_low", "data_high"]
_DRAWN = "a batch alone"  # among the names of networks


def run(models: Sequence[str], repeats: int, warmup: int, recipe: TrainConfig = RECIPE) -> pd.DataFrame:
    """Train the networks by a recipe for some steps, interleaved; a row a network, columns COLUMNS.

    models: names of `cunet.models`, or BEFORE; the first is what ratios refer to. repeats, warmup: rounds, of
    one step of each network. recipe: of every training; its model is not used.

    ratio: a step's time over that of the first network, with the ends of its 95 % interval; data: the time of
    getting a batch over that of a step, likewise.
    """
    with torch.random.fork_rng(devices=[]):  # a training seeds torch's own generator
        trainings = {name: _training(name, recipe) for name in models}
        batches, step = Batches(next(iter(trainings.values())).data, recipe), itertools.count()
        functions = {name: of.train_step for name, of in trainings.items()}
        functions[_DRAWN] = lambda: batches(next(step))
        found = cost.time_interleaved(functions, repeats, warmup)
    rows = []
    for name in models:
        drawn = cost.compare({of: found.samples[of] for of in (name, _DRAWN)})
        row = dict(model=name, batch=recipe.batch_size, ratio=found.ratios[name])
        row["images_per_second"] = recipe.batch_size / found.medians[name]
        row["data"] = drawn.ratios[_DRAWN]
        row |= dict(zip(("low", "high"), found.spread[name], strict=True))
        row |= dict(zip(("data_low", "data_high"), drawn.spread[_DRAWN], strict=True))
        rows.append(row)
    return pd.DataFrame(rows)[COLUMNS]


def _training(name: str, recipe: TrainConfig) -> training.Training:
    """A training of a network, not begun; it writes nothing as long as nobody saves it."""
    config = recipe.model_copy(update={"model": FIRST[recipe.size] if name == BEFORE else name})
    return training.Training(config, Path(f"{config.name}.safetensors"), start_fabric(config), Signals())
