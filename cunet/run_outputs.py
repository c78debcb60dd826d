"""What a run left, as pages about it need it: titles of its notebooks, pictures, tables, scorecard, machines.

The report (`cunet.report`), the site (`cunet.site`) and the README's results (`cunet.results_page`) read a
run's files through these functions, after `results`, which checks figures and tables. A file that is missing
or damaged is named, with what to do.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from cunet import folders, pages, runs, scorecard
from cunet.errors import InputError
from cunet.pages import nbformat  # imported there without what takes 2 s


def results(run_dir: Path) -> dict[str, dict]:
    """All results of a run by job name; InputError if one, or a figure or a table of it, is damaged."""
    found = runs.results(run_dir)
    runs.check_outputs(run_dir, found)
    return found


def notebooks(run_dir: Path, jobs: Iterable[str]) -> Iterator[tuple[str, nbformat.NotebookNode]]:
    """Each job that left an executed notebook, and the notebook; InputError if a file is damaged."""
    for job in jobs:
        path = run_dir / "executed" / f"{job}.ipynb"
        if path.is_file():
            yield job, pages.read(path)


def told_apart(titles: Mapping[str, str]) -> dict[str, str]:
    """A title a job; where several jobs ran one notebook, it ends with what follows the notebook's name."""
    times = Counter(titles.values())
    return {
        job: f"{title}: {job.partition('-')[2]}" if times[title] > 1 else title
        for job, title in titles.items()
    }


def picture(run_dir: Path, name: str) -> Path:
    """The PNG of a figure; InputError if `name` is none, or the file is missing."""
    return _there(run_dir / "figures" / f"{folders.check_name(name, 'figure')}.png")


def table(run_dir: Path, name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table, all text; InputError if `name` is none, or the file missing or damaged."""
    return _read_csv(_there(run_dir / "tables" / f"{folders.check_name(name, 'table')}.csv"))


def markdown_table(run_dir: Path, name: str) -> str:
    """A table as the run left it for reading, numbers to four digits; InputError as for `table`."""
    path = _there(run_dir / "tables" / f"{folders.check_name(name, 'table')}.md")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def card(run_dir: Path) -> pd.DataFrame:
    """The run's scorecard, see `cunet.scorecard.scorecard`; without rows where the run has none.

    Raises InputError if the file cannot be read or lacks a column.
    """
    path = run_dir / f"{runs.SCORECARD}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=scorecard.COLUMNS)
    header, rows = _read_csv(path)
    for column in scorecard.COLUMNS:
        if column not in header:
            raise InputError(
                f"{folders.shown(path)} has no column {column!r}. Make the job of notebook 12 again."
            )
    return pd.DataFrame(rows, columns=header)


def all_of(results: Mapping[str, dict], key: str) -> str:
    """What the results' environments say under `key`: one value, or several where jobs differ."""
    return ", ".join(sorted({str(result["environment"].get(key, "")) for result in results.values()}))


def seconds(results: Mapping[str, dict]) -> float:
    """The wall time of all jobs, one after another."""
    return sum(result["timings"].get("wall_time_s") or 0 for result in results.values())


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{folders.shown(path)} is missing. Make its job again.")
    return path


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file, each row as long as the header."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            header, *rows = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from None
    wide = len(header)
    return header, [(row + [""] * wide)[:wide] for row in rows]


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{folders.shown(path)} cannot be read: {error}. Make its job again.")
