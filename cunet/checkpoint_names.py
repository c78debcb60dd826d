"""What checkpoints are called: `<dataset>-<model>-<size>-s<seed>[-variant]`.

The chain tells its jobs by these names before anything heavy is imported, so they are here, apart from what
reads and writes the files (`cunet.checkpoints`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


def stem(dataset: str, model: str, size: str, seed: int | str = 0, variant: str = "") -> str:
    """The name, without suffix, of a checkpoint.

    Args:
        dataset, model, size: as in `cunet.datasets.DATASETS`, `cunet.models.MODELS`, `cunet.models.SIZES`.
        seed: the training seed, 0 or more; or a pattern for it, where the name is to be one of files.
        variant: what sets the training apart from the standard one, such as `time` (same wall time).
    """
    return f"{dataset}-{model}-{size}-s{seed}" + (f"-{variant}" if variant else "")


class Trained(NamedTuple):
    """A training by what its checkpoint's name says of it, but for the size."""

    dataset: str
    model: str
    seed: int = 0
    variant: str = ""

    def stem(self, size: str) -> str:
        """The name, without suffix, of its checkpoint, of networks of a size."""
        return stem(self.dataset, self.model, size, self.seed, self.variant)


def told(dataset: str, models: Iterable[str]) -> list[str]:
    """Names of the networks that are told the classes of a data set, such as `cunet@classes=10`; none where
    an image has no single class."""
    from cunet.sources import classes  # numpy comes with it, which most who ask for names do not need

    count = classes(dataset)
    return [f"{model}{',' if '@' in model else '@'}classes={count}" for model in models] if count else []


def guided(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(data set, network) of what a notebook draws by class: `guided_models`, each told the classes of each
    of `guided_datasets` that has some. What is no list of texts names none: types are judged elsewhere."""
    datasets, models = (_texts(parameters.get(key)) for key in ("guided_datasets", "guided_models"))
    return [(dataset, model) for dataset in datasets for model in told(dataset, models)]


def further(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(data set, network) of what a notebook solves in finer steps besides its `models`: those of `further`,
    of the first of its `datasets`. As in `guided`, what is no list of texts names none."""
    datasets, models = (_texts(parameters.get(key)) for key in ("datasets", "further"))
    return [(dataset, model) for dataset in datasets[:1] for model in models]


def besides(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(data set, network) of all that a notebook asks for besides its `models`."""
    return further(parameters) + guided(parameters)


def _texts(found: Any) -> list[str]:
    """The texts of a list; none of what is no list."""
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
