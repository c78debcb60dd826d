"""What finished runs took, beside what the estimate says of them; and small records of it, which are kept.

    python -m cunet.measured laptop               # after a finished run: papermill_runs/measured/laptop.yaml
    python -m cunet.measured laptop --first       # the same, of a run that computed its data sets' features

A record holds the profile that a run was asked for, how many threads each of its jobs had, and what each took
on the clock and of the processor. Tests hold the estimate against the records, so they have to be of the
machine that the costs are of, with nothing else at work on it, and of runs that the costs were not fitted
from: of those the estimate knows the answer.
"""

import argparse
import datetime
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cunet import calibration, chain, estimate, folders, profiles, runs
from cunet.calibration import Costs
from cunet.chain import Plan
from cunet.errors import InputError, command
from cunet.parameters import load_yaml

FOLDER = Path("papermill_runs") / "measured"
HEAD = "# Made by `python -m cunet.measured`; what the lines mean is said there. Not to be edited.\n"


@dataclass(frozen=True)
class Record:
    """What a finished run took.

    machine: which processor. date: of the record. threads: of a job. first: whether the run computed the
    features of its data sets, which later ones find. profile: its lines. jobs: name of a job -> `cpu_s` and
    `wall_time_s`, s. seals: of its results, see `runs.seals`.
    """

    machine: str
    date: str
    threads: int
    first: bool
    profile: dict[str, Any]
    jobs: dict[str, dict[str, float]]
    seals: list[str]

    def plan(self) -> Plan:
        """The jobs of that run; InputError if a notebook has other parameters now."""
        return chain.plan(profiles.Profile.model_validate(self.profile), folders.root() / FOLDER)


def path(name: str) -> Path:
    """The file of the record of a profile's run."""
    return folders.root() / FOLDER / f"{name}.yaml"


def load(name: str) -> Record:
    """The committed record of a profile's run; InputError if there is none, or it is no record."""
    file = path(name)
    try:
        return Record(**load_yaml(file.read_text(encoding="utf-8"), str(file)))
    except (OSError, TypeError) as error:
        raise InputError(
            f"The record {folders.shown(file)} cannot be read ({error}). Make it again: "
            f"`python -m cunet.measured {name}`, after this run."
        ) from None


def record(run_dir: Path, first: bool = False) -> Record:
    """The record of a finished run.

    Raises:
        InputError: jobs are missing; some had other numbers of threads than others; or the costs were
            fitted from it.
    """
    plan, results = chain.load(run_dir), runs.results(run_dir)
    if missing := [job.name for job in plan.jobs if job.name not in results]:
        raise InputError(f"{folders.shown(run_dir)} is not finished: {missing[0]} has no result.")
    refuse_fitted(calibration.load(), seals := runs.seals(results.values()), folders.shown(run_dir))
    threads = {result["environment"]["threads"] for result in results.values()} - {1} or {1}  # some set 1
    if len(threads) > 1:
        raise InputError(f"Jobs of {folders.shown(run_dir)} had {sorted(threads)} threads: make a run anew.")
    took = {
        name: {key: result["timings"][key] for key in ("cpu_s", "wall_time_s")}
        for name, result in results.items()
    }
    machine = next(iter(results.values()))["environment"]["processor"]
    lines = plan.profile.model_dump()
    return Record(machine, f"{datetime.date.today()}", threads.pop(), first, lines, took, seals)


def refuse_fitted(costs: Costs, seals: Iterable[str], name: str) -> None:
    """Raise InputError if the costs were fitted from one of these results."""
    if known := sorted(set(costs.fitted) & set(seals)):
        raise InputError(
            f"The costs were fitted from {name} ({known[0]} and {len(known) - 1} more of its results), so it "
            "says nothing about the estimate. Make the run again, and take that one."
        )


def beside(
    plan: Plan,
    costs: Costs,
    took: Mapping[str, Mapping[str, float]],
    gpus: int,
    threads: int,
    features: bool = True,
) -> pd.DataFrame:
    """Estimate beside measurement, a row a notebook and one of `all`: of the jobs of a plan that were made.

    took: name of a job -> its `timings`. gpus, threads, features: as of `estimate.needs`. The columns are
    seconds of the processor and on the clock, estimated and measured, and the ratios of the two.

    Raises:
        InputError: no job of the plan was made.
    """
    rows = []
    for need in estimate.needs(plan, costs, gpus, threads, features):
        if need.name in took:
            used = took[need.name]
            outside = costs.start - costs.kernel  # what of a job its notebook does not see
            mine = (need.cpu, used.get("cpu_s", math.nan) + outside)
            clock = (need.seconds, used["wall_time_s"] + costs.start)
            rows.append((need.rule.removeprefix("notebook_"), *mine, *clock))
    if not rows:
        raise InputError(f"{folders.shown(plan.run_dir)} has no results of this profile to compare with.")
    columns = ["notebook", "CPU s, estimated", "measured", "seconds, estimated", "taken"]
    frame = pd.DataFrame(rows, columns=columns).groupby("notebook").sum()
    frame.loc["all"] = frame.sum()
    frame.insert(2, "ratio", frame["CPU s, estimated"] / frame["measured"])
    frame["ratio of both"] = frame["seconds, estimated"] / frame["taken"]
    return frame


def compared(plan: Plan, jobs: int, gpus: int | None = None) -> str:
    """`beside` of a finished run as text; jobs: that ran at once. InputError if it has no results."""
    took = {name: result["timings"] for name, result in runs.results(plan.run_dir).items()}
    there = estimate.gpus_of(plan, gpus)
    frame = beside(plan, calibration.load(), took, there, estimate.threads_of(jobs))
    return frame.to_markdown(floatfmt=".3g")


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.measured RUN [--first]`; exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m cunet.measured", description="Keep what a run took.")
    parser.add_argument("run", help="a finished run, by name or folder")
    parser.add_argument(
        "--first", action="store_true", help="it computed its data sets' features, which later ones find"
    )
    given = parser.parse_args(arguments)
    found = record(folders.find(given.run), given.first)
    file = path(found.profile["name"])
    folders.write_atomically(file, HEAD + yaml.safe_dump(runs.plain(asdict(found)), sort_keys=False))
    print(f"Record: {folders.shown(file)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
