"""What studies of many trainings (`cunet.solver_study`, `cunet.recipe_study`) share: settings and rows.

A study has a folder: `checkpoints/`, a table in CSV with a row a measurement, and a figure. A row is known by
its key, which says what was measured and with which settings. So the same call goes on where an earlier one
stopped, and a table may hold rows of several settings. One process at a time works in a folder (`locked`):
the rows of two at once would replace each other's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from . import datasets, folders, models, processes, sampling
from .diffusion import Diffusion
from .errors import InputError
from .frechet import FrechetAlexNet, Statistics, dataset_features, features
from .recipe import TrainConfig, configure

KEYS = ["images", "dataset", "size", "seed", "samples", "sampling_steps"]  # the last part of every key
REAL = 10_000  # training images behind a distance, at most


@dataclass(frozen=True)
class Settings:
    """What all trainings and distances of a study have in common.

    images: that each training sees. dataset, size: as everywhere. seed: of weights, batches and samples.
    samples: images behind a distance, 0 for none. sampling_steps: of DDIM. All other settings are
    the defaults of `cunet.recipe`.

    Raises InputError for an unknown size, or samples that are too few.
    """

    images: int = 50_000
    dataset: str = "mnist"
    size: str = "laptop"
    seed: int = 0
    samples: int = 500
    sampling_steps: int = 20

    def __post_init__(self):
        if self.samples < 0 or self.samples == 1:
            raise InputError(f"samples={self.samples}: a distance takes two images or more; 0 leaves it out.")
        models.image_size(self.size)

    def training(self, model: str, **others: Any) -> TrainConfig:
        """The training of a network, validated at its end only; others: more settings of `cunet.recipe`."""
        common = {key: getattr(self, key) for key in ("dataset", "size", "seed", "images")}
        return configure({**common, "model": model, "validate_every": 0, **others})

    def key(self, *of: str) -> tuple:
        """The key of the row that is about `of`: that, and these settings in the order of KEYS."""
        return (*of, *(getattr(self, name) for name in KEYS))


class Table:
    """Rows by key in a CSV file, which is written anew, atomically, with each row.

    file: where; rows of earlier calls are read, of whatever settings.    keys, values: names of the columns.
    """

    def __init__(self, file: Path, keys: list[str], values: list[str]):
        self.file, self.columns = file, [*keys, *values]
        self.rows: dict[tuple, tuple] = {}
        frame = read(file, self.columns)
        self.rows = {row[: len(keys)]: row for row in frame.itertuples(index=False, name=None)}

    def __contains__(self, key: tuple) -> bool:
        return key in self.rows

    def add(self, key: tuple, *values: float) -> None:
        """Keep a row."""
        self.rows[key] = (*key, *values)
        every = pd.DataFrame(list(self.rows.values()), columns=self.columns)
        folders.write_atomically(self.file, every.to_csv(index=False))

    def frame(self, keys: Iterable[tuple]) -> pd.DataFrame:
        """The rows of these keys, in their order."""
        return pd.DataFrame([self.rows[key] for key in keys], columns=self.columns)


def locked(out: Path, name: str) -> contextlib.AbstractContextManager:
    """The lock of the study `name` in the folder `out`. Raises InputError if another process holds it."""
    return processes.locked(out / "checkpoints" / f".{name}.lock", f"The study in {out}")


class Distance:
    """FD-AlexNet of a network's DDIM samples to the training images, whose statistics are found once.

    settings: number, steps and seed of the samples, data set and size.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.reference: Statistics | None = None

    def __call__(self, network: nn.Module, diffusion: Diffusion) -> float:
        """The distance; NaN if no samples are asked for."""
        chosen = self.settings
        if not chosen.samples:
            return math.nan
        if self.reference is None:
            train = datasets.load(chosen.dataset, "train", image_size=models.image_size(chosen.size))
            found = dataset_features(train, min(REAL, len(train)))
            self.reference = FrechetAlexNet(found).statistics()
        images = sampling.sample(
            network, chosen.samples, diffusion, "ddim", chosen.sampling_steps, chosen.seed, batch_size=125
        )
        return FrechetAlexNet(self.reference).update(features(images), real=False).compute().value


def read(path: Path, columns: list[str]) -> pd.DataFrame:
    """All rows of a study's table; none if the file is not there.

    columns: that it has to have.

    Raises InputError for a file that no study with these columns wrote.
    """
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    try:
        return pd.read_csv(path)[columns]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folders.shown(path)} is no table of this study: {error}. Move it away, and measure again."
        ) from None


def longest(
    frame: pd.DataFrame, dataset: str, size: str, whole: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """The rows of one study of a data set and a size: that of the longest trainings.

    frame: of `read`.    whole: leaves the part of a study's rows that can be compared.

    A study that compares comes before one that does not, then the longer trainings, then the more rows.
    """
    frame = frame[(frame["dataset"] == dataset) & (frame["size"] == size)]
    of_settings = frame.groupby([key for key in KEYS if key not in ("dataset", "size")])
    return max((whole(rows) for _, rows in of_settings), key=_effort, default=frame)


def _effort(rows: pd.DataFrame) -> tuple[bool, int, int]:
    return (len(rows) > 1, int(rows["images"].max()), len(rows)) if len(rows) else (False, 0, 0)
