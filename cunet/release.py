"""Weights that ship: a finished training goes among them, in the fewest bits that cost nothing.

    python -m cunet.release papermill_runs/trained/checkpoints/mnist-cunet-laptop-s1.safetensors

A quarter of the bits is a quarter of what a reader has to download. What rounding costs is measured, the
validation loss with the weights as trained and as stored; that of the stored ones stands on the card beside
the training's own (`validation_loss_stored`, `validation_loss`). 8 bits are tried, then 16
(`cunet.precision`); where both cost more than `FREE`, 32 are kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import nn

from . import checkpoints, datasets, folders, precision
from .diffusion import Diffusion
from .errors import InputError, command
from .validation import validation_losses

FREE = 1e-3  # of the validation loss: up to this share, fewer bits cost nothing


def release(path: str | Path, out: str | Path = checkpoints.ASSETS) -> Path:
    """Store a checkpoint in `out`, under its name; one of that name there is replaced.

    Args:
        path: of the `.safetensors` file of a diffusion network that `cunet train` finished.
        out: a folder; by default that of the weights that ship.

    Returns:
        The path of the stored file, its card beside it.

    Raises:
        InputError: the file is no such checkpoint, or its data cannot be read.
    """
    path = Path(path)
    network, card = checkpoints.load(path)
    if "validation_loss" not in card:
        raise InputError(
            f"{path} has no validation loss on its card: expected a diffusion network that `cunet train` "
            "finished. Denoisers store themselves in 16 bits; copy them and their cards as they are."
        )
    test = datasets.load(card["dataset"], "test", image_size=network.image_size)

    def loss(of: nn.Module) -> float:
        return validation_losses(of, test, Diffusion(**card["diffusion"]))[:, 0].mean().item()

    before = card["validation_loss"]  # of the training, also where its weights were rounded before
    for dtype in reversed(precision.DTYPES):  # the fewest bits first; 32 cost nothing by definition
        card["validation_loss_stored"] = loss(precision.rounded(network, dtype))
        if dtype == precision.DTYPES[0] or card["validation_loss_stored"] <= (1 + FREE) * before:
            return checkpoints.save(Path(out) / path.name, network, card, dtype=dtype)


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.release CHECKPOINT ...`."""
    parser = argparse.ArgumentParser(
        prog="python -m cunet.release", description="Put finished trainings among the weights that ship."
    )
    parser.add_argument("checkpoints", nargs="+", help="paths of .safetensors files, their cards beside them")
    for path in parser.parse_args(arguments).checkpoints:
        stored = release(path)
        card = checkpoints.verify(stored)
        print(
            f"{folders.shown(stored)}: {card['dtype']}; validation loss {card['validation_loss']:.6f}, "
            f"as stored {card['validation_loss_stored']:.6f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
