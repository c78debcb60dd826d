"""One command for a whole run: check, prepare, let Snakemake run what is missing, say where the results are.

Killed at any moment, the same command goes on where it stopped: the run's lock dies with its owner, processes
that an earlier, killed command left behind are ended first, and Snakemake repeats jobs that were cut off.
"""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cunet import chain, dependencies, engines, folders, processes, profiles
from cunet.errors import ChainError, InputError, interruptible, said
from cunet.parameters import parameters_file

RUN = "CUNET_RUN"  # marks every process of a run
NO_SPACE = 2**20  # bytes that are free: with fewer than these a disk counts as full


def reproduce(
    profile: str = "laptop",
    run: str | None = None,
    jobs: int | None = None,
    settings: list[str] | None = None,
    dry_run: bool = False,
    on: str | None = None,
    extra: list[str] | None = None,
    ignore_memory: bool = False,
) -> Path:
    """Make a run, or what is missing or out of date in it.

    Arguments:
        profile: name of a profile of papermill_runs/profiles/, or the path of a .yaml file.
        run: name of the run's folder in papermill_runs/; the profile's name if None.
        jobs: notebooks at once, over the profile's number.
        settings: `key=value` over the profile's lines, see `cunet.profiles.load`.
        dry_run: only say what would run; the run stays as it is. Data that are not there are named, and the
            jobs listed all the same.
        on: another machine's engine, a folder of papermill_runs/executors/ or the path of one; this machine
            if None.
        extra: further arguments for Snakemake, for example `["--forcerun", "notebook_07_synthesis"]`.
        ignore_memory: start a job though it is estimated to hold more memory than this machine has.

    Returns:
        Path of the report.

    Raises:
        InputError: bad input, another process is making the same run, its folder is another profile's, or
            this machine has too little memory for a job.
        ChainError: a job failed; the message says which, why, and where its notebook is.
    """
    chosen = profiles.load(profile, settings)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}: the number of notebooks at once is 1 or more.")
    run_dir = folder(run or chosen.name)
    plan = chain.plan(chosen, run_dir)
    executor = None if on is None else engines.find(on)
    _refuse_other(plan)
    absent = chain.check(plan, data=not dry_run)
    shared = engines.shared_gpus(plan) if executor is None else None  # on a cluster, the queue hands them out
    for text in absent:
        print(f"Not there yet: {text}", file=sys.stderr)
    if executor is None:
        _check_memory(plan, jobs or chosen.jobs, refuse=not (dry_run or ignore_memory))
    if missing := chain.left_out(chosen):
        print(f"Not released, so left out: {', '.join(missing)}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        if run_dir.is_dir() or not dry_run:
            stack.enter_context(processes.locked(run_dir / ".locks" / "run.lock", f"Run {run_dir.name!r}"))
        if dry_run:  # on a copy of what Snakemake looks at: the run stays as it is
            run_dir.parent.mkdir(parents=True, exist_ok=True)
            copy = stack.enter_context(tempfile.TemporaryDirectory(prefix=".dry-run-", dir=run_dir.parent))
            plan = chain.snapshot(plan, Path(copy))
        else:
            processes.end_marked(RUN, str(run_dir))
            _refuse_other(plan)  # again, now that nobody else can write
        chain.prepare(plan)
        changed = dependencies.record(plan)
        if shared:
            print(shared, file=sys.stderr)
            stack.enter_context(processes.environment(**shared.variables()))
        command = engines.command(plan, jobs or chosen.jobs, dry_run, extra or [], executor, shared)
        _snakemake(command, plan, changed, dry_run, 60.0 if executor else 0.0)
    return run_dir / "report" / "index.html"


def _refuse_other(plan: chain.Plan) -> None:
    """Raise InputError if the run's folder holds the run of another profile: its results would be lost."""
    path = plan.run_dir / "profile.yaml"
    if not path.is_file():
        return
    there = parameters_file(path)
    for key in ("name", "size"):
        old, new = there.get(key), getattr(plan.profile, key)
        if old not in (None, new):
            raise InputError(
                f"{folders.shown(plan.run_dir)} is a run of a profile with {key} {old!r}, not {new!r}. Make "
                "this one in another folder (--run NAME, or RUN=NAME of make), or remove that one first."
            )


def _check_memory(plan: chain.Plan, jobs: int, refuse: bool) -> None:
    """Say if this machine has too little memory for the jobs that a run lacks, `jobs` at once; with `refuse`,
    InputError if one of them alone is too large. Nothing is said where no costs were measured."""
    lacking = [job for job in plan.jobs if not (plan.run_dir / "results" / f"{job.name}.json").is_file()]
    if not lacking or not (folders.root() / "papermill_runs" / "calibration.yaml").is_file():
        return
    from cunet import estimate  # it imports torch

    try:
        found = estimate.memory(plan, jobs, processes.memory() / 2**20)
    except InputError as error:  # no reason not to run
        found = estimate.Memory(f"it could not be estimated: {error}", False)
    if found.refused and refuse:
        raise InputError(found.said)
    if found.said:
        print(f"Memory: {found.said}", file=sys.stderr)


def folder(name: str) -> Path:
    """The folder of a run; InputError if the name is no file's name, or that of a folder of git's."""
    folders.check_name(name, "run")
    if name in ("profiles", "executors", "measured") or name.partition("_")[0] == "reference":
        held = f"the {name} are" if name in ("profiles", "executors") else "what is committed is"
        raise InputError(f"A run cannot be named {name!r}: {held} in that folder. Use another name.")
    return folders.resolve(Path("papermill_runs") / name)


def _snakemake(
    command: list[str],
    plan: chain.Plan,
    changed: dict[str, list[str]],
    dry_run: bool,
    patience: float = 0.0,
) -> None:
    """Run Snakemake, showing its jobs; end everything it started when interrupted.

    changed: the sources of each job that are not what they were.
    patience: seconds that it has, when interrupted, to take back what it has given to other machines.
    """
    marks = {RUN: str(plan.run_dir), processes.GUARD: json.dumps(processes.identity())}
    if path := import_path():
        marks["PYTHONPATH"] = path
    log = plan.run_dir / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        interruptible(),
        open(log, "a", encoding="utf-8") as stream,
        _Board(plan, changed, dry_run) as board,
    ):
        stream.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')}  {' '.join(command)}\n")
        with processes.environment(**marks):
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is ours to hand on
            )
        reader = threading.Thread(target=_follow, args=(child.stdout, stream, board), daemon=True)
        reader.start()
        try:
            status = child.wait()  # not the end of its output: a job that outlives it holds that open
        finally:
            if patience and child.poll() is None:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(patience)
            processes.end_marked(RUN, str(plan.run_dir), patience=2.0)
            reader.join(5.0)
    if status:
        raise ChainError(_why(plan, board, log))


def import_path() -> str:
    """PYTHONPATH for the jobs: they run in other folders, where a checkout that was copied or moved is not
    the one that was installed; `$PYTHONPATH` as it is where this library is no checkout."""
    own = chain.PACKAGE.parent
    paths = [str(own) if (own / "pyproject.toml").is_file() else "", os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def _follow(output: IO[str], log: IO[str], board: "_Board") -> None:
    """Write Snakemake's output to the log, and show what it says about jobs."""
    for line in output:
        with contextlib.suppress(OSError):  # a full disk: whoever closes the log says so
            log.write(line)
            log.flush()
        board.line(line)


def _why(plan: chain.Plan, board: "_Board", log: Path) -> str:
    """Why a chain failed, as one paragraph."""
    if shutil.disk_usage(plan.run_dir).free < NO_SPACE:  # then the logs may be without what happened
        there = f"No space left on the disk of {folders.shown(plan.run_dir)}"
        failed = f": {', '.join(board.failed)} failed" if board.failed else ""
        return f"{there}{failed}. Make room, and give the same command again: what succeeded is kept."
    if not board.failed:
        tail = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-12:]
        return f"Snakemake failed before a job did; {folders.shown(log)} ends with:\n" + "\n".join(tail)
    reasons = []
    for name in board.failed:
        path = plan.run_dir / "logs" / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        told = said(lines)
        reasons.append(f"{name}: {told[-1] if told else f'see {folders.shown(path)}'}")
    return f"{' '.join(reasons)} What succeeded is kept; the same command goes on from there."


class _Rate(ProgressColumn):
    """Jobs a minute, from the second that is done on."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{60 * speed:.1f} jobs a minute" if speed else "")


class _Board:
    """Shows the jobs of a chain: a bar with rate and time left on a terminal, else a line a job."""

    def __init__(self, plan: chain.Plan, changed: dict[str, list[str]], dry_run: bool):
        self.changed = changed
        self.names = (
            {job.name for job in plan.jobs} | {Path(name).stem for name in plan.receipts} | {"report"}
        )
        self.dry_run = dry_run
        self.running: dict[str, tuple[str, float]] = {}  # Snakemake's job id -> name, start
        self.failed: list[str] = []
        self._name, self._failing = "", False
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Rate(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=math.inf,  # of all jobs: in rich's half a minute few end
            transient=True,
            disable=dry_run or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("looking for what to do", total=None)

    def __enter__(self) -> "_Board":
        self.progress.start()
        return self

    def __exit__(self, *error) -> None:
        self.progress.stop()

    def line(self, line: str) -> None:
        """Take in one line of Snakemake's log."""
        if match := re.match(r"(?:local)?rule (\w+):|Error in rule (\w+)", line):
            self._name, self._failing = match[1] or match[2], bool(match[2])
        elif match := re.match(r"    output: (?:results|samples)/(.+?)\.(?:json|txt)", line):
            self._name = match[1]
            if self._failing and self._name not in self.failed:
                self._fail()
        elif match := re.match(r"    jobid: (\d+)", line):
            self._start(match[1])
        elif match := re.match(r"    reason: (.*)", line):
            if self.dry_run and self._name in self.names:
                changed = ", ".join(self.changed.get(self._name, ()))
                self._say(f"would run {self._name}: {match[1]}{changed and f' (changed: {changed})'}")
        elif match := re.match(r"Finished jobid: (\d+)", line):
            self._finish(match[1])
        elif match := re.match(r"(\d+) of (\d+) steps", line):
            self.progress.update(self.task, completed=int(match[1]), total=int(match[2]) - 1)
        elif match := re.match(r"total\s+(\d+)", line):
            self.progress.update(self.task, completed=0, total=int(match[1]) - 1)  # `all` is none of ours
        elif line.startswith("Nothing to be done"):
            self._say("Nothing to do: everything is there and up to date.")

    def _start(self, jobid: str) -> None:
        if self._failing or self.dry_run or self._name not in self.names:
            return
        self.running[jobid] = (self._name, time.monotonic())
        self._describe()
        if self.progress.disable:
            self._say(f"{self._name} ...")

    def _finish(self, jobid: str) -> None:
        if jobid in self.running:
            name, since = self.running.pop(jobid)
            self._say(f"[green]done[/] {name} in {time.monotonic() - since:.0f} s")
        self._describe()

    def _fail(self) -> None:
        self.failed.append(self._name)
        self._say(f"[red]failed[/] {self._name}")

    def _describe(self) -> None:
        names = ", ".join(name for name, _ in self.running.values())
        self.progress.update(self.task, description=names or "waiting")

    def _say(self, text: str) -> None:
        self.console.print(text)
