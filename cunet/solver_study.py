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
from torch import nn
from tqdm import tqdm

from . import checkpoints, cost, datasets, folders, models, processes, sampling, training
from .diffusion import Diffusion
from .errors import InputError
from .frechet import FrechetAlexNet, Statistics, dataset_features, features
from .recipe import TrainConfig, configure
from .solver_choices import CHOICES, OWN, Choice, choice
from .solver_figures import figure, matrix
from .validation import validation_losses

KEYS = ["trained", "evaluated", "images", "dataset", "size", "seed", "samples", "sampling_steps"]
COLUMNS = [*KEYS, "evaluations", "macs", "loss", "fd"]
KEPT = Path("papermill_runs") / "reference_solvers"  # the committed study: `cunet solvers --out` this folder


@dataclass(frozen=True)
class Settings:
    """What to train and to evaluate.

    choices: solver:evaluations or own, trained with and evaluated with. images: that each training sees.
    dataset, size: as everywhere. seed: of weights, batches and samples. samples: images behind a distance, 0
    for none. sampling_steps: of DDIM. batch_size: of `cunet.recipe`, whose defaults are all other settings.

    Raises InputError for a choice that is not known or comes twice, or samples that are too few.
    """

    choices: tuple[str, ...] = CHOICES
    images: int = 50_000
    dataset: str = "mnist"
    size: str = "laptop"
    seed: int = 0
    samples: int = 500
    sampling_steps: int = 20
    batch_size: int = 64

    def __post_init__(self):
        for text in self.choices:
            choice(text)
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise InputError(f"choices={self.choices}: give one or more, each once.")
        if self.samples < 0 or self.samples == 1:
            raise InputError(f"samples={self.samples}: a distance takes two images or more; 0 leaves it out.")
        models.image_size(self.size)

    def recipe(self, trained: Choice) -> TrainConfig:
        """The training with this solver."""
        return configure(
            dict(
                model=trained.model,
                dataset=self.dataset,
                size=self.size,
                seed=self.seed,
                images=self.images,
                batch_size=self.batch_size,
                validate_every=0,
            )
        )

    def key(self, trained: str, evaluated: str) -> tuple:
        """What a row of the table is about, in the order of KEYS."""
        return (trained, evaluated, *(getattr(self, name) for name in KEYS[2:]))


class Study:
    """The study under way: `run` does everything."""

    def __init__(self, settings: Settings, out: Path):
        self.settings, self.out = settings, out
        self.rows = self.known()
        self.side = models.image_size(settings.size)
        self.test = datasets.load(settings.dataset, "test", image_size=self.side)
        self.reference: Statistics | None = None

    @property
    def file(self) -> Path:
        return self.out / "solvers.csv"

    def known(self) -> dict[tuple, tuple]:
        """Rows of earlier calls, of whatever settings, by key."""
        if not self.file.is_file():
            return {}
        frame = pd.read_csv(self.file).reindex(columns=COLUMNS)
        return {row[: len(KEYS)]: row for row in frame.itertuples(index=False, name=None)}

    def train(self, trained: Choice) -> Path:
        return training.train(self.settings.recipe(trained), self.out / "checkpoints")

    def evaluate(self, path: Path, trained: Choice, evaluated: Choice) -> None:
        """Measure one cell and write it down, if an earlier call has not."""
        key = self.settings.key(trained.text, evaluated.text)
        if key in self.rows:
            return
        network, card = checkpoints.load(path)
        network = evaluated.applied(network).eval()
        diffusion = Diffusion(**card["diffusion"])
        loss = validation_losses(network, self.test, diffusion)[:, 0].mean().item()
        lowered = evaluated.solver == trained.solver and evaluated.evaluations <= trained.evaluations
        distance = self.distance(network, diffusion) if lowered and self.settings.samples else math.nan
        with torch.no_grad():
            network(torch.zeros(1, network.channels, self.side, self.side), 0)
        self.rows[key] = (*key, network.evaluations, cost.macs(network, self.side), loss, distance)
        every = pd.DataFrame(list(self.rows.values()), columns=COLUMNS)
        folders.write_atomically(self.file, every.to_csv(index=False))

    def distance(self, network: nn.Module, diffusion: Diffusion) -> float:
        """FD-AlexNet of samples to the training images."""
        chosen = self.settings
        if self.reference is None:
            train = datasets.load(chosen.dataset, "train", image_size=self.side)
            found = dataset_features(train, min(10_000, len(train)))
            self.reference = FrechetAlexNet(found).statistics()
        images = sampling.sample(
            network, chosen.samples, diffusion, "ddim", chosen.sampling_steps, chosen.seed, batch_size=125
        )
        return FrechetAlexNet(self.reference).update(features(images), real=False).compute().value

    def frame(self) -> pd.DataFrame:
        """The rows of these settings, trained by trained."""
        pairs = itertools.product(self.settings.choices, repeat=2)
        return pd.DataFrame([self.rows[self.settings.key(*pair)] for pair in pairs], columns=COLUMNS)


def run(settings: Settings, out: str | Path, progress: bool = False) -> pd.DataFrame:
    """Train and evaluate all that is missing in `out`; solvers.csv, and solvers.png and .pdf at the end.

    Returns the table of these settings, a row a cell, with the columns KEYS and evaluations, of all blocks in
    a call; macs, of a call; loss, the validation loss; fd, FD-AlexNet of the samples, NaN where none were
    drawn. The file keeps rows of other settings, too.

    Raises InputError for settings that cannot be, a folder whose trainings had others, or one that another
    process works in.
    """
    out = Path(out)
    with processes.locked(out / "checkpoints" / ".solvers.lock", f"The study in {out}"):
        return _run(Study(settings, out), settings, progress)


def _run(study: Study, settings: Settings, progress: bool) -> pd.DataFrame:
    """`run`, for the holder of the folder's lock: the rows of two at once would replace each other's."""
    choices = [choice(text) for text in settings.choices]
    with tqdm(total=len(choices) ** 2, desc="cells", disable=not progress, file=sys.stderr) as bar:
        for trained in sorted(choices, key=lambda c: c.evaluations):
            path = study.train(trained)
            for evaluated in choices:
                study.evaluate(path, trained, evaluated)
                bar.update()
    frame = study.frame()
    drawn = figure(frame, settings.choices)
    for ending in ("png", "pdf"):
        drawn.savefig(study.out / f"solvers.{ending}")
    return frame


def kept(dataset: str, size: str, folder: Path | None = None) -> pd.DataFrame:
    """The committed study's rows of a data set and a size, a row a cell: those of the longest trainings.

    folder: of `run`; the committed one if None. Returns a table like that of `run`, of the choices that were
    evaluated with one another; no rows if there are none.

    Raises InputError for a file that is none of `run`.
    """
    path = (folder or folders.resolve(KEPT)) / "solvers.csv"
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    try:
        frame = pd.read_csv(path)[COLUMNS]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folders.shown(path)} is none of `cunet solvers`: {error}. Run it again."
        ) from None
    frame = frame[(frame["dataset"] == dataset) & (frame["size"] == size)]
    of_settings = frame.groupby(["images", "seed", "samples", "sampling_steps"])
    frame = max((_whole(rows) for _, rows in of_settings), key=_effort, default=frame)
    order = {text: i for i, text in enumerate(CHOICES)}
    return frame.sort_values(["trained", "evaluated"], key=lambda names: names.map(order), ignore_index=True)


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of choices that all were evaluated with each other: the finished part of a study."""
    done = matrix(rows, list(dict.fromkeys(rows["trained"]))).notna().all(axis=1)
    names = done.index[done]
    return rows[rows["trained"].isin(names) & rows["evaluated"].isin(names)]


def _effort(rows: pd.DataFrame) -> tuple[bool, int, int]:
    """How much a study is worth: one that compares before one that does not, longer trainings, more cells."""
    return (len(rows) > 1, int(rows["images"].max()), len(rows)) if len(rows) else (False, 0, 0)


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
