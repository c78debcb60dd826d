"""What checkpoints are called: `<dataset>-<model>-<size>-s<seed>[-variant]`.

The chain tells its jobs by these names before anything heavy is imported, so they are here, apart from what
reads and writes the files (`cunet.checkpoints`).
"""

from typing import NamedTuple


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
