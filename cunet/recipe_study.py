"""Would another recipe have trained better networks? One setting at a time: `cunet recipes`.

The released networks were all trained with one recipe, the defaults of `cunet.recipe.TrainConfig`: noise
schedule, target, weight of each step's loss, learning rate with its rise and fall, average of the weights.
Each variation of `cunet.recipe_choices` changes it, mostly in one setting, for each of several networks, from
the same first weights and on the same images in the same order. A recipe is fair to two networks if neither
would have gained by another one what the other would not.

    loss              mean of `recipe_loss.v_losses`, one yardstick for all targets and schedules
    FD-AlexNet        of DDIM samples, which do not know the yardstick
    validation loss   of the recipe's own target and schedule, as on the card: not to be compared

There is one training for each, so two ratios differ for certain only where they are further apart than
trainings that differ in their seed alone (`spread`). For that the released networks with several seeds are
measured, too; so are other seeds, if the study is made again with those. Everything is kept in one folder as
it comes, `checkpoints/` and recipes.csv, and the same call goes on where an earlier one stopped.
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from . import checkpoints, datasets, folders, models, palette, storage, studies, training
from .diffusion import Diffusion
from .errors import InputError, TrainingDiverged
from .recipe import TrainConfig
from .recipe_choices import RELEASED, VARIATIONS, canonical, changes
from .recipe_figures import figure, matrix, ratios, words
from .recipe_loss import v_losses

KEYS = ["variation", "model", *studies.KEYS]
VALUES = ["loss", "fd", "validation_loss"]
COLUMNS = [*KEYS, *VALUES]
KEPT = Path("papermill_runs") / "reference_recipes"  # the committed study: `cunet recipes --out` this folder
SHIPPED = "shipped"  # in place of a variation: a checkpoint that comes with the package, for the spread
SEEDS = range(10)  # of such checkpoints, that are looked for
NOTHING = float("inf"), math.nan, math.nan  # the values of a training that diverged


@dataclass(frozen=True)
class Settings(studies.Settings):
    """What to train, beside what every study has.

    variations: as `recipe_choices.changes` reads them; kept by their `canonical` texts, the released recipe,
    which all are compared with, always among them. models: names of networks.

    Raises InputError as `studies.Settings`, for a variation or a network that is none or comes twice.
    """

    variations: tuple[str, ...] = VARIATIONS
    models: tuple[str, ...] = ("unet", "cunet")

    def __post_init__(self):
        super().__post_init__()
        texts = tuple(map(canonical, self.variations))
        for name, given in (("variations", texts), ("models", self.models)):
            if not given or len(set(given)) < len(given):
                raise InputError(f"{name}={', '.join(given)}: give one or more, each once.")
        with torch.device("meta"):  # without weights, and without drawing any
            for name in self.models:
                models.build(name, self.size, 1)
        texts = texts if RELEASED in texts else (RELEASED, *texts)
        object.__setattr__(self, "variations", texts)

    def recipe(self, variation: str, model: str) -> TrainConfig:
        """The training of a network by a variation; the variation is part of the checkpoint's name."""
        changed: dict[str, Any] = changes(variation)
        name = "".join(letter if letter.isalnum() else "_" for letter in variation)
        return self.training(model, variant=name if changed else "", **changed)


class Study:
    """The study under way: `run` does everything."""

    def __init__(self, settings: Settings, out: Path):
        self.settings, self.folder = settings, out / "checkpoints"
        self.table = studies.Table(out / "recipes.csv", KEYS, VALUES)
        side = models.image_size(settings.size)
        self.test = datasets.load(settings.dataset, "test", image_size=side)
        self.distance = studies.Distance(settings)

    def train(self, variation: str, model: str) -> None:
        """Train a network by a variation, measure it and write it down, if an earlier call has not.

        A row whose checkpoint is gone, or never was, stays as it is. A checkpoint that is there has to be of
        these settings and this code.
        """
        key, config = self.settings.key(variation, model), self.settings.recipe(variation, model)
        if key in self.table and not storage.exists(self.folder / f"{config.name}.safetensors"):
            return
        try:
            path = training.train(config, self.folder)
        except TrainingDiverged as error:
            print(error, file=sys.stderr)
            if key not in self.table:
                self.table.add(key, *NOTHING)
            return
        self.measure(key, path)

    def shipped(self, model: str) -> None:
        """Measure the checkpoints of a network that come with the package, if there are several seeds."""
        chosen = self.settings
        found, _ = checkpoints.there(checkpoints.ASSETS, chosen.size, [chosen.dataset], [model], SEEDS)
        for which, path in found.items() if len(found) > 1 else ():
            images = storage.read(path)[1]["images_seen"]
            about = {"images": images, "seed": which.seed}
            rest = [about.get(name, getattr(chosen, name)) for name in studies.KEYS]
            self.measure((SHIPPED, model, *rest), path)

    def measure(self, key: tuple, path: Path) -> None:
        """Measure a checkpoint and write its row down, if an earlier call has not."""
        if key in self.table:
            return
        network, card = checkpoints.load(path)
        diffusion = Diffusion(**card["diffusion"])
        loss = v_losses(network, self.test, diffusion)[:, 0].mean().item()
        self.table.add(key, loss, self.distance(network, diffusion), card["validation_loss"])

    def frame(self) -> pd.DataFrame:
        """The rows of these settings, variation by variation."""
        pairs = itertools.product(self.settings.variations, self.settings.models)
        return self.table.frame(self.settings.key(*pair) for pair in pairs)


def run(settings: Settings, out: str | Path, progress: bool = False) -> pd.DataFrame:
    """Train and measure all that is missing in `out`; recipes.csv, and recipes.png and .pdf at the end.

    Returns the table of these settings, a row a variation and network, with the columns KEYS and loss, of
    `recipe_loss`, infinite for a training that diverged; fd, FD-AlexNet of the samples, NaN where none were
    drawn; validation_loss, of the card. The file keeps rows of other settings, too.

    Raises InputError for settings that cannot be, a folder whose trainings had others, or one that another
    process works in.
    """
    out = Path(out)
    with studies.locked(out, "recipes"):
        return _run(Study(settings, out), settings, out, progress)


def _run(study: Study, settings: Settings, out: Path, progress: bool) -> pd.DataFrame:
    """`run`, for the holder of the folder's lock."""
    pairs = list(itertools.product(settings.variations, settings.models))
    with tqdm(total=len(pairs), desc="trainings", disable=not progress, file=sys.stderr) as bar:
        for variation, model in pairs:
            study.train(variation, model)
            bar.update()
    for model in settings.models:
        study.shipped(model)
    frame = study.frame()
    palette.save(figure(frame, spread(frame, out).ratio), out, "recipes")
    return frame


def kept(dataset: str, size: str, folder: Path | None = None) -> pd.DataFrame:
    """The committed study's rows of a data set and a size: those of the longest trainings.

    folder: of `run`; the committed one if None. Returns a table like that of `run`, of the networks that were
    trained with the released recipe, variations in the order of VARIATIONS, others behind them; no rows if
    nothing was varied.

    Raises InputError for a file that is none of `run`.
    """
    frame = studies.longest(_read(folder), dataset, size, _compared)
    order = list(dict.fromkeys((*VARIATIONS, *frame["variation"])))
    place = {text: i for i, text in enumerate(order)}
    return frame.sort_values(
        "variation", key=lambda names: names.map(place), kind="stable", ignore_index=True
    )


def _read(folder: Path | None) -> pd.DataFrame:
    return studies.read((folder or folders.resolve(KEPT)) / "recipes.csv", COLUMNS)


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks that were trained with the released recipe; none if it is the only one."""
    names = rows[rows["variation"] == RELEASED]["model"]
    rows = rows[rows["model"].isin(names) & (rows["variation"] != SHIPPED)]
    return rows if rows["variation"].nunique() > 1 else rows[:0]


class Spread(NamedTuple):
    """How far apart trainings are that differ in their seed alone.

    ratio: largest loss over smallest, of the network where that is largest; NaN if not known. words: of which
    trainings.
    """

    ratio: float
    words: str


def spread(frame: pd.DataFrame, folder: Path | None = None) -> Spread:
    """What is known of the spread over seeds for a study's data set, size and networks.

    frame: of `run` or `kept`.    folder: of `run`; the committed one if None.

    Trainings of the study's own length come first, then the longest.
    """
    rows = _read(folder)
    rows = rows[rows["variation"].isin((RELEASED, SHIPPED)) & rows["model"].isin(frame["model"].unique())]
    rows = rows[rows["loss"] < math.inf]  # without trainings that diverged
    for name in ("dataset", "size"):
        rows = rows[rows[name].isin(frame[name].unique())]
    alike = [of for _, of in rows.groupby(["variation", "images", "samples", "sampling_steps"])]
    own = set(frame["images"])
    best = Spread(math.nan, "no network was trained with several seeds")
    for of in sorted(alike, key=lambda of: (of["images"].iloc[0] in own, of["images"].iloc[0])):
        several = of.groupby("model").filter(lambda one: one["seed"].nunique() > 1)
        if len(several):
            limits = several.groupby("model")["loss"].agg(["min", "max", "size"])
            over = limits["max"] / limits["min"]
            worst = over.idxmax()
            seen, count = several["images"].iloc[0], limits["size"][worst]
            text = f"{count} trainings of {palette.label(worst)} on {seen:,} images"
            best = Spread(float(over[worst]), text)
    return best


def findings(frame: pd.DataFrame, seeds: float = math.nan) -> list[tuple[str, str]]:
    """What a study says, each as a question and its answer with numbers.

    frame: of `run` or `kept`.    seeds: the ratio of `spread`; what gains less than that gains nothing. NaN,
    not known: what gains anything counts.
    """
    over = ratios(frame)
    floor = 1 / seeds if seeds == seeds else 1.0
    found = []
    for model in over.columns:
        others = over[model].drop(RELEASED).dropna()
        if len(others):
            best, worst = others.idxmin(), others.idxmax()
            answer = f"{others[best]:.3f} with {words(best)}, to {others[worst]:.3f} with {words(worst)}"
            found.append((f"{palette.label(model)}: loss over that of the released recipe", answer))
    better = over.index[(over < floor).all(axis=1)]
    listed = "; ".join(words(text) for text in better) or "none"
    found.append(("recipes that lower the loss of every network by more than seeds do", listed))
    ranks = matrix(frame).dropna().rank()
    for one, other in itertools.combinations(ranks.columns, 2):
        if len(ranks) > 2:
            answer = f"{ranks[one].corr(ranks[other]):.2f} over {len(ranks)} recipes"
            pair = f"{palette.label(one)} and {palette.label(other)}"
            found.append((f"rank correlation of the recipes' losses, {pair}", answer))
    return found
