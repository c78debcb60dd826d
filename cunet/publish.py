"""`make reference`: a finished run as the one that is committed, and whether that is still current.

papermill_runs/reference/ holds what a reader wants of a run and git can carry: the executed notebooks, each
below `slim.LIMIT`, figures as PNG, tables, the scorecard and the result files, without what the machine
happened to use. It is written as a whole or not at all: a run that lacks a notebook of the profile
`reference`, or of the committed run that it would replace, is refused, and until the new one is in its place
the old one is there or comes back.

A result file carries, as `source`, a hash of the code that its notebook had when it ran. Where the code of
today is another one, the committed result is out of date and has to be computed again. Where only words
differ (Markdown, comments), `python -m cunet.publish --words` takes them over and leaves the outputs alone.
A run may have other parameters than its profile, where papermill_runs/README.md names them (`deviations`).
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from cunet import (
    chain,
    folders,
    notebook,
    pages,
    processes,
    profiles,
    results_page,
    run_outputs,
    runs,
    slim,
)
from cunet.errors import InputError, command
from cunet.parameters import declaration
from cunet.results_page import FOLDER

PROFILE = "reference"  # of papermill_runs/profiles/: the notebooks that the committed run has to hold
NOISE = ("cpu_s", "peak_mb")  # timings about the machine alone; `wall_time_s` stays, in whole seconds
REFRESH = "Refresh the committed run: make reference"
WORDS = "python -m cunet.publish --words"
README = Path("papermill_runs") / "README.md"
BUT_FOR = f"`profiles/{PROFILE}.yaml`, but for"  # in the paragraph of the README that names other parameters


def publish(run_dir: str | Path) -> Path:
    """Copy a finished run to papermill_runs/reference/, in place of the one there.

    Arguments:
        run_dir: the folder of a run that `cunet reproduce` made, see `cunet.folders.resolve`.

    Returns:
        Path of the committed run.

    Raises:
        InputError: the run is the committed one, unfinished, partial, of smoke size, made by hand or by other
            code than the notebooks of now, a notebook stays above `slim.LIMIT`, the README's results cannot
            be made of it, or another process is publishing; what was there stays.
    """
    run_dir, target = folders.resolve(run_dir), folders.resolve(FOLDER)
    with processes.locked(target.parent / ".locks" / "publish.lock", f"{FOLDER}"):
        _recover(target)
        return _replace(target, run_dir, _finished(run_dir, target))


def _recover(target: Path) -> None:
    """Put back the committed run that a killed publisher had moved away, and clear what it left."""
    for folder in target.parent.glob(".publish-*"):
        if (folder / "old").is_dir() and not target.exists():
            (folder / "old").rename(target)
        shutil.rmtree(folder, ignore_errors=True)


def _replace(target: Path, run_dir: Path, results: dict[str, dict]) -> Path:
    """Write the run beside the committed one, then exchange the two."""
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=target.parent) as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        for name in ("executed", "figures", "tables", "results"):
            (new / name).mkdir(parents=True)
        for path in (
            run_dir / name for name in ("profile.yaml", "sweep.csv", "scorecard.csv", "scorecard.md")
        ):
            if path.is_file():
                shutil.copy(path, new / path.name)
        for job, result in results.items():
            _copy(run_dir, new, job, result)
        results_page.block(new)
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        except BaseException:  # the folder of both is about to be deleted
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    return target


def _finished(run_dir: Path, target: Path) -> dict[str, dict]:
    """The results of a run that may be published; InputError if it may not."""
    name = folders.shown(run_dir)
    if run_dir == target:
        raise InputError(f"{name} is the committed run itself: name the run that is to take its place.")
    plan, results = chain.load(run_dir), run_outputs.results(run_dir)
    smoke = [job for job, r in results.items() if runs.SMOKE in (r["profile"], r["parameters"].get("size"))]
    if smoke or plan.profile.size == runs.SMOKE:
        raise InputError(
            f"{name} is a run of smoke size, whose numbers mean nothing. Publish one of another profile: "
            "make reference."
        )
    for job in plan.jobs:
        if job.name not in results or not (run_dir / "executed" / f"{job.name}.ipynb").is_file():
            raise InputError(
                f"{name} is unfinished: it lacks {job.name}. The command that started the run goes on."
            )
    if any(runs.SCORECARD in result["outputs"]["tables"] for result in results.values()):
        for kind in ("csv", "md"):
            _read(run_dir / f"{runs.SCORECARD}.{kind}")
    wanted = set(profiles.load(PROFILE).notebooks)
    if target.is_dir():  # a damaged result there is no reason not to replace it
        files = (target / "results").glob("*.json")
        wanted |= {stem for file in files if chain.source(stem := _stem(file)).is_file()}
    if lacking := sorted(wanted - {result["notebook"] for result in results.values()}):
        raise InputError(
            f"{name} is partial: of the profile {PROFILE} and the committed run it lacks "
            f"{', '.join(lacking)}. Publish a run of all notebooks: make reference."
        )
    wrong = [job for job, result in results.items() if result.get("source") != _code(result["notebook"])]
    if wrong:
        raise InputError(
            f"{name} was made by another {wrong[0]} than notebooks/{wrong[0].split('-')[0]}.py of now, or by "
            "hand. The command that started the run brings it up to date."
        )
    return results


def _stem(file: Path) -> str:
    """The notebook of a result file; empty if it cannot be read."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["notebook"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _code(stem: str) -> str:
    """The hash of a notebook's code as it is now; empty if there is no such notebook."""
    path = chain.source(stem)
    return notebook.code_hash(notebook.read(path)) if path.is_file() else ""


def _copy(run_dir: Path, new: Path, job: str, result: dict) -> None:
    """Copy what one job left."""
    content = slim.notebook_text(pages.read(run_dir / "executed" / f"{job}.ipynb"), f"executed/{job}.ipynb")
    content = content.replace(f"{folders.root()}/", "")  # where the repository was is nobody's business
    (new / "executed" / f"{job}.ipynb").write_text(content, encoding="utf-8")
    for name in result["outputs"]["figures"]:
        path = run_dir / "figures" / f"{folders.check_name(name, 'figure')}.png"
        (new / "figures" / path.name).write_bytes(slim.smaller(_read(path)))
    for name in set(result["outputs"]["tables"]) - {runs.SCORECARD}:
        for kind in ("csv", "md"):
            path = run_dir / "tables" / f"{folders.check_name(name, 'table')}.{kind}"
            (new / "tables" / path.name).write_bytes(_read(path))
    timings = {key: value for key, value in result["timings"].items() if key not in NOISE}
    timings["wall_time_s"] = round(timings.get("wall_time_s") or 0)
    outputs = result["outputs"]
    outputs = outputs | {"sha256": runs.hashes(new, outputs["figures"], outputs["tables"])}
    _write_result(new / "results" / f"{job}.json", result | {"timings": timings, "outputs": outputs})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise InputError(f"{folders.shown(path)} is missing. Make its job again.") from None


def _write_result(path: Path, result: dict) -> None:
    text = json.dumps(result | {"sha256": runs.seal(result)}, indent=1, sort_keys=True, ensure_ascii=False)
    folders.write_atomically(path, text + "\n")


def stale() -> list[str]:
    """What is out of date in the committed run, a sentence each, with what mends it."""
    target = folders.resolve(FOLDER)
    results = runs.results(target)
    plan = chain.plan(profiles.load(PROFILE), target)
    found = [f"{job.name} is not in it. {REFRESH}" for job in plan.jobs if job.name not in results]
    for job, result in results.items():
        path = chain.source(result["notebook"])
        if not path.is_file():
            found.append(f"{job} is of a notebook that is gone. {REFRESH}")
        elif result.get("source") != _code(result["notebook"]):
            found.append(f"The code of {folders.shown(path)} is newer than {job}. {REFRESH}")
        elif _words(notebook.read(path).cells) != _words(_own(pages.read(_executed(target, job)).cells)):
            found.append(f"The words of {folders.shown(path)} are newer than {job}. Take them over: {WORDS}")
    return found + _undeclared()


def _undeclared() -> list[str]:
    """Where the README of runs and the committed run's parameters disagree."""
    other, named = deviations(), _named()
    return [
        *(f"{other[n]}. {REFRESH}, or name `{n}` in {README}" for n in sorted(other.keys() - named)),
        *(
            f"{README} names `{n}`, which is as in the profile. Take it out"
            for n in sorted(named - other.keys())
        ),
    ]


def deviations() -> dict[str, str]:
    """The parameters that the committed run does not have from its profile as it is now: notebook and name,
    as in `07_synthesis.samples`, with what a job had and what the profile says."""
    target = folders.resolve(FOLDER)
    results, plan, found = runs.results(target), chain.plan(profiles.load(PROFILE), target), {}
    for job in (job for job in plan.jobs if job.name in results):
        had = results[job.name]["parameters"]
        now = {**declaration(chain.source(job.notebook)), **job.parameters}
        for name in sorted((had.keys() & now.keys()) - set(profiles.RESERVED)):
            if had[name] != now[name]:
                text = f"{job.name} ran with {name}={had[name]!r}, the profile {PROFILE} has {now[name]!r}"
                found.setdefault(f"{job.notebook}.{name}", text)
    return found


def _named() -> set[str]:
    """The deviations that the README of runs names, in the paragraph with `BUT_FOR`."""
    path = folders.root() / README
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = [part for part in text.split("\n\n") if BUT_FOR in " ".join(part.split())]
    return set(re.findall(r"`(\d\d_\w+\.\w+)`", "\n".join(parts)))


def reword() -> list[str]:
    """Give the committed notebooks the words of now where the code is the same; returns the jobs changed."""
    target, changed = folders.resolve(FOLDER), []
    for job, result in runs.results(target).items():
        path = chain.source(result["notebook"])
        if not path.is_file() or result.get("source") != _code(result["notebook"]):
            continue
        now, executed = notebook.read(path), pages.read(_executed(target, job))
        if _words(now.cells) == _words(_own(executed.cells)):
            continue
        ran = [cell for cell in _own(executed.cells) if cell.cell_type == "code"]
        given = [cell for cell in executed.cells if notebook.injected(cell)]
        cells = []
        for cell in now.cells:
            if cell.cell_type == "code":
                was = ran.pop(0)
                cell.outputs, cell.execution_count = was.outputs, was.execution_count
            cells.append(cell)
            if "parameters" in cell.metadata.get("tags", ()):
                cells += given
        executed.cells = cells
        folders.write_atomically(
            _executed(target, job), slim.notebook_text(executed, f"executed/{job}.ipynb")
        )
        changed.append(job)
    return changed


def _executed(target: Path, job: str) -> Path:
    return target / "executed" / f"{job}.ipynb"


def _own(cells: list) -> list:
    """The cells without the one in which papermill puts the parameters that a job was given."""
    return [cell for cell in cells if not notebook.injected(cell)]


def _words(cells: list) -> list[tuple[str, str]]:
    """What the cells say, code with its comments; a link to a notebook, whichever of its files it is to."""
    return [(cell.cell_type, pages.relinked(cell.source, "ipynb").strip()) for cell in cells]


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.publish RUN`, or `--words`, or `--check`."""
    parser = argparse.ArgumentParser(
        prog="python -m cunet.publish",
        description="Make a finished run the committed one, papermill_runs/reference/, and write the "
        "README's results from it.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run", nargs="?", help="a run's folder, or its name")
    what.add_argument("--words", action="store_true", help="take over words that changed since; no code did")
    what.add_argument("--check", action="store_true", help="say what is out of date")
    given = parser.parse_args(arguments)
    if given.check:
        found = stale() + ([] if results_page.current() else [results_page.OUTDATED])
        print("\n".join(found) or f"{FOLDER} is current.")
        named = _named()
        for name, text in deviations().items():
            if name in named:
                print(f"As {README} says: {text}.")
        return 1 if found else 0
    if given.words:
        print("New words in: " + (", ".join(reword()) or "none"))
    else:
        print(f"Committed run: {folders.shown(publish(folders.find(given.run)))}")
        print(f"Results written to {folders.shown(results_page.write())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
