"""A training as a process of its own, or as one of those that torchrun starts (`cunet.devices`).

    python -m cunet.training_job --config recipe.json --out folder

What other code has trained there is moved to aside/ and trained again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cunet.errors import InputError, command
from cunet.recipe import configure
from cunet.training import train


def settings(path: Path) -> Any:
    """The values of a JSON file of settings; InputError if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"The settings {path} cannot be read as JSON: {error}.") from error


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.training_job --config recipe.json --out folder`.

    Returns the exit status: 0 done, 2 bad input or divergence, 130 interrupted (can go on).
    """
    parser = argparse.ArgumentParser(
        prog="python -m cunet.training_job", description="Train a network, or go on."
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="JSON file with the settings (TrainConfig)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the state")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    config = configure(settings(given.config))
    path = train(config, given.out, progress=not given.quiet, renew=True)
    print(f"checkpoint: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
