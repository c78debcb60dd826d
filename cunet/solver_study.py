"""Which solver, and how many evaluations? Train with each, evaluate with each: `cunet solvers`.

A network of ODE blocks can be asked to solve them otherwise than it was trained to. So quality is a matrix: a
row a solver trained with, a column a solver evaluated with. On its diagonal stands what the extra evaluations
buy; below it, what it costs to lower them at sampling time only; and were the blocks converged, each row
would be one number.

    validation loss   in every cell (`cunet.validation`)
    FD-AlexNet        on the diagonal and where the same solver makes fewer evaluations: samples take longer

All trainings see the same images in the same order from the same first weights. Everything is kept in one
folder as it comes, `checkpoints/` and solvers.csv, and the same call goes on where an earlier one stopped.
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from . import checkpoints, cost, datasets, folders, models, palette, studies, training
from .diffusion import Diffusion
from .errors import InputError
from .recipe import TrainConfig
from .solver_choices import CHOICES, OWN, Choice, choice
from .solver_figures import figure, matrix
from .validation import validation_losses

KEYS = ["trained", "evaluated", *studies.KEYS]
VALUES = ["evaluations", "macs", "loss", "fd"]
COLUMNS = [*KEYS, *VALUES]
KEPT = Path("papermill_runs") / "reference_solvers"  # the committed study: `cunet solvers --out` this folder


@dataclass(frozen=True)
class Settings(studies.Settings):
    """What to train and to evaluate, beside what every study has.

    choices: solver:evaluations or own, trained with and evaluated with. batch_size: images a step.

    Raises InputError as `studies.Settings`, and for a choice that is not known or comes twice.
    """

    choices: tuple[str, ...] = CHOICES
    batch_size: int = 64

    def __post_init__(self):
        super().__post_init__()
        for text in self.choices:
            choice(text)
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise InputError(f"choices={self.choices}: give one or more, each once.")

    def recipe(self, trained: Choice) -> TrainConfig:
        """The training with this solver."""
        return self.training(trained.model, batch_size=self.batch_size)


class Study:
    """The study under way: `run` does everything."""

    def __init__(self, settings: Settings, out: Path):
        self.settings, self.out = settings, out
        self.table = studies.Table(out / "solvers.csv", KEYS, VALUES)
        self.side = models.image_size(settings.size)
        self.test = datasets.load(settings.dataset, "test", image_size=self.side)
        self.distance = studies.Distance(settings)

    def train(self, trained: Choice) -> Path:
        return training.train(self.settings.recipe(trained), self.out / "checkpoints")

    def evaluate(self, path: Path, trained: Choice, evaluated: Choice) -> None:
        """Measure one cell and write it down, if an earlier call has not."""
        key = self.settings.key(trained.text, evaluated.text)
        if key in self.table:
            return
        network, card = checkpoints.load(path)
        network = evaluated.applied(network).eval()
        diffusion = Diffusion(**card["diffusion"])
        loss = validation_losses(network, self.test, diffusion)[:, 0].mean().item()
        lowered = evaluated.solver == trained.solver and evaluated.evaluations <= trained.evaluations
        distance = self.distance(network, diffusion) if lowered else math.nan
        with torch.no_grad():
            network(torch.zeros(1, network.channels, self.side, self.side), 0)
        self.table.add(key, network.evaluations, cost.macs(network, self.side), loss, distance)

    def frame(self) -> pd.DataFrame:
        """The rows of these settings, trained by trained."""
        pairs = itertools.product(self.settings.choices, repeat=2)
        return self.table.frame(self.settings.key(*pair) for pair in pairs)


def run(settings: Settings, out: str | Path, progress: bool = False) -> pd.DataFrame:
    """Train and evaluate all that is missing in `out`; solvers.csv, and solvers.png and .pdf at the end.

    Returns the table of these settings, a row a cell, with the columns KEYS and evaluations, of all blocks in
    a call; macs, of a call; loss, the validation loss; fd, FD-AlexNet of the samples, NaN where none were
    drawn. The file keeps rows of other settings, too.

    Raises InputError for settings that cannot be, a folder whose trainings had others, or one that another
    process works in.
    """
    out = Path(out)
    with studies.locked(out, "solvers"):
        return _run(Study(settings, out), settings, progress)


def _run(study: Study, settings: Settings, progress: bool) -> pd.DataFrame:
    """`run`, for the holder of the folder's lock."""
    choices = [choice(text) for text in settings.choices]
    with tqdm(total=len(choices) ** 2, desc="cells", disable=not progress, file=sys.stderr) as bar:
        for trained in sorted(choices, key=lambda c: c.evaluations):
            path = study.train(trained)
            for evaluated in choices:
                study.evaluate(path, trained, evaluated)
                bar.update()
    frame = study.frame()
    palette.save(figure(frame, settings.choices), study.out, "solvers")
    return frame


def kept(dataset: str, size: str, folder: Path | None = None) -> pd.DataFrame:
    """The committed study's rows of a data set and a size, a row a cell: those of the longest trainings.

    folder: of `run`; the committed one if None. Returns a table like that of `run`, of the choices that were
    evaluated with one another; no rows if there are none.

    Raises InputError for a file that is none of `run`.
    """
    path = (folder or folders.resolve(KEPT)) / "solvers.csv"
    frame = studies.longest(studies.read(path, COLUMNS), dataset, size, _whole)
    order = {text: i for i, text in enumerate(CHOICES)}
    return frame.sort_values(["trained", "evaluated"], key=lambda names: names.map(order), ignore_index=True)


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of choices that all were evaluated with each other: the finished part of a study."""
    done = matrix(rows, list(dict.fromkeys(rows["trained"]))).notna().all(axis=1)
    names = done.index[done]
    return rows[rows["trained"].isin(names) & rows["evaluated"].isin(names)]


def findings(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What a study says, each as a question and its answer with numbers: for the scorecard."""
    losses = matrix(frame, list(dict.fromkeys(frame["trained"])))
    own = pd.Series(losses.to_numpy().diagonal(), losses.index)
    calls = frame[frame["trained"] == frame["evaluated"]].set_index("trained")["evaluations"]
    found = []

    def words(text: str) -> str:
        return "the released steps" if text == OWN else text.replace(":", " ")

    def told(text: str) -> str:
        return f"{own[text]:.4f} with {words(text)} ({calls[text]:.0f} evaluations a call)"

    best = own.idxmin()
    beside = [name for name in dict.fromkeys((OWN, best, own.idxmax())) if name in own.index]
    found.append(("validation loss, trained and evaluated with one solver", "; ".join(map(told, beside))))
    few = {}
    for text in own.index:
        fewer = [t for t in own.index if choice(t).solver == choice(text).solver and calls[t] < calls[text]]
        few |= {(text, t): losses.loc[text, t] / own[t] for t in fewer}
    if few:
        (most, fewest), worst = max(few.items(), key=lambda item: item[1])
        answer = f"{min(few.values()):.2f} to {worst:.2f} times (most: {words(most)} at {words(fewest)})"
        question = "loss with evaluations lowered at sampling time only, over that of training with so few"
        found.append((question, answer))
    if OWN in own.index and len(own) > 1:
        more = losses.loc[OWN].drop(OWN) / own[OWN]
        answer = f"{more.min():.2f} to {more.max():.2f} times (least: {words(more.idxmin())})"
        found.append(("loss of the network as it is with another solver, over that with its own", answer))
    return found
