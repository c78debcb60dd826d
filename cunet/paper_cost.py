"""What the paper's profile takes by the estimate, written into papermill_runs/README.md between two marks.

    python -m cunet.paper_cost      # when costs were measured anew, or the profile has changed

No number there is typed. Memory is left out: `cunet estimate` learns it from a training step of each network.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from cunet import calibration, chain, estimate, folders, profiles, results_page
from cunet.errors import command

PAGE = Path("papermill_runs") / "README.md"
BEGIN = "<!-- cost: written by `python -m cunet.paper_cost`, not by hand -->"
END = "<!-- end of the cost -->"
WAYS: dict[str, tuple[list[str], dict[str, int]]] = {
    "one GPU, 8 cores": ([], dict(jobs=1, gpus=1, cores=8)),
    "one machine, eight GPUs, 64 cores": (
        ["gpus=8", "jobs=8", "shards=8", "05_training.devices=8"],
        dict(jobs=8, gpus=8, cores=64),
    ),
    "Slurm, 16 GPUs and 128 cores at a time": (["shards=32"], dict(jobs=16, gpus=16, cores=128)),
}
"""Machines, each with its settings over the profile and what `cunet estimate` is told of it."""


def block() -> str:
    """The page's table, Markdown without the marks, and what it rests on."""
    costs, rows = calibration.load(), []
    for name, (settings, of) in WAYS.items():
        plan = chain.plan(profiles.load("paper", settings), folders.root() / "papermill_runs" / "paper")
        found = estimate.needs(plan, costs, of["gpus"], estimate.threads_of(of["jobs"], of["cores"]))
        hours = estimate.laid_out(found, of["jobs"], of["gpus"]).seconds / 3600
        disk = sum(need.disk for need in found) + estimate.data_disk(plan)
        row = {"you have": name, "jobs": f"{len(found)}", "the run takes": estimate.said_time(hours)}
        row |= {"GPU-hours": f"{sum(need.gpu for need in found) / 3600:.0f}"}
        row |= {"of the processor, hours": f"{sum(need.cpu for need in found) / 3600:.0f}"}
        rows.append(row | {"disk, GB": f"{disk / 1024:.0f}"})
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return f"{table}\n\n{estimate.basis(costs)} Costs of the processor: {costs.machine}."


def replaced(text: str) -> str:
    """The page's text with the table as it is now; InputError if it lacks the marks."""
    return results_page.replaced(text, block(), BEGIN, END, str(PAGE))


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.paper_cost`; exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m cunet.paper_cost", description="Write the table.")
    parser.parse_args(arguments)
    page = folders.root() / PAGE
    folders.write_atomically(page, replaced(page.read_text(encoding="utf-8")))
    print(f"Written: {folders.shown(page)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
