"""One shard of the samples that notebook 07 measures, as a job of the chain.

    python -m cunet.shard_job RUN --shard 0 --of 8

A profile with `shards: 8` has eight such jobs between the trainings and notebook 07, which then finds all its
blocks made. On a machine with several GPUs each takes one that is free, if the profile hands them out
(`gpus`), else shard k takes GPU k, counted round; on a cluster each is a job of its own.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cunet import chain, checkpoints, folders, gpus, synthesis
from cunet.diffusion import Diffusion
from cunet.errors import command
from cunet.parameters import declaration
from cunet.shards import Samples, make


def wanted(parameters: dict[str, Any], run_dir: Path) -> list[Samples]:
    """The sets that notebook 07 makes with these parameters, but for those at each network's best steps."""
    folder = run_dir / "checkpoints" if parameters["checkpoints"] == "train" else checkpoints.ASSETS
    found, _ = synthesis.trainings(parameters, folder)
    return [draw.samples for draw in synthesis.draws(parameters, found)]


def run(run_dir: Path, shard: int, of: int, say: Callable[[str], object] = print) -> Path:
    """Make a shard of every set of a run that the chain has prepared; returns its receipt."""
    plan = chain.load(run_dir)
    (job,) = plan.of(chain.SHARDED)
    given = {**declaration(chain.source(chain.SHARDED)), **job.parameters}
    done = []
    for which in wanted(given, run_dir):
        network, card = checkpoints.load(which.checkpoint)
        make(which, run_dir, network, Diffusion(**card["diffusion"]), shard, of)
        done.append(which.folder(run_dir).name)
        say(f"shard {shard} of {of}: {done[-1]}")
    path = run_dir / chain.receipt(shard, of)
    folders.write_atomically(path, "".join(f"{name}\n" for name in done))
    waited_for = [*(run_dir / "params").glob("*"), *(run_dir / "results").glob("*.json")]
    folders.not_older([path], folders.newest(waited_for))
    return path


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.shard_job RUN --shard K --of N`; exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m cunet.shard_job", description="Make a shard of samples.")
    parser.add_argument("run", type=Path, help="the folder of a run that the chain has prepared")
    parser.add_argument("--shard", type=int, required=True, help="number of the shard, from 0")
    parser.add_argument("--of", type=int, required=True, help="how many shards there are")
    given = parser.parse_args(arguments)
    with gpus.taken("samples"):
        path = run(Path(os.path.abspath(given.run)), given.shard, given.of)
    print(f"Receipt: {folders.shown(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
