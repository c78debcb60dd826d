"""report/index.html: a run on one page, and its executed notebooks beside it, readable without a network.

Everything comes from the run's files: the scorecard, each figure and each table with its caption, what was
run with which parameters on what machine. All of it is escaped; no page runs a script or fetches anything.
"""

import argparse
import base64
import csv
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from cunet import folders, pages, runs, scorecard, sweep
from cunet.errors import InputError, command

VERDICTS = {"reproduced": "good", "partly": "fair", "not reproduced": "poor", "not testable here": "none"}
MAIN_PACKAGES = ("torch", "diffusers", "torchmetrics", "torchdiffeq", "numpy")


def build(run_dir: str | Path) -> Path:
    """Write a run's report.

    Arguments:
        run_dir: the run's folder, see `cunet.folders.resolve`.

    Returns:
        Path of report/index.html; the executed notebooks are pages in report/notebooks/.

    Raises:
        InputError: the run has no results, or a file of it is damaged.
    """
    run_dir = folders.resolve(run_dir)
    results = runs.results(run_dir)
    if not results:
        raise InputError(f"{folders.shown(run_dir)} has no results to report: run `cunet reproduce` first.")
    sweep.save(run_dir, results)
    smoke = any(result["profile"] == runs.SMOKE for result in results.values())
    folder = run_dir / "report"
    shutil.rmtree(folder / "notebooks", ignore_errors=True)
    sections = [_section(run_dir, result, smoke) for result in results.values()]
    titles = [section["title"] for section in sections]
    for section in sections:  # jobs of one notebook are told apart by what follows its name
        if titles.count(section["title"]) > 1:
            section["title"] += ": " + section["job"].partition("-")[2]
    text = (
        pages.templates()
        .get_template("report.html")
        .render(
            run=run_dir.name,
            profile=", ".join(sorted({result["profile"] for result in results.values()})),
            smoke=smoke,
            sections=sections,
            scorecard=_scorecard(run_dir),
            environment=_environment(results),
            style=pages.style(),
        )
    )
    folders.write_atomically(folder / "index.html", text)
    return folder / "index.html"


def _section(run_dir: Path, result: dict, smoke: bool) -> dict[str, Any]:
    """What the page shows of one job; writes the page of its executed notebook."""
    job = result["job"]
    executed = run_dir / "executed" / f"{job}.ipynb"
    heading, page = job, None
    if executed.is_file():
        notebook = pages.read(executed)
        heading, page = pages.title(notebook, job), f"notebooks/{job}.html"
        folders.write_atomically(run_dir / "report" / page, pages.page(notebook, job, smoke))
    figures, tables = result["outputs"]["figures"], result["outputs"]["tables"]
    parameters = {key: pages.as_text(value) for key, value in result["parameters"].items() if key != "job"}
    return {
        "job": job,
        "title": heading,
        "page": page,
        "parameters": parameters,
        "seconds": result["timings"].get("wall_time_s"),
        "figures": [_figure(run_dir, name, caption) for name, caption in figures.items()],
        "tables": [_table(run_dir, name, tables[name]) for name in tables if name != "scorecard"],
    }


def _figure(run_dir: Path, name: str, caption: str) -> dict[str, Any]:
    """A figure, its picture inside the page."""
    path = run_dir / "figures" / f"{folders.check_name(name, 'figure')}.png"
    try:
        picture = pages.picture(base64.b64encode(path.read_bytes()).decode(), caption or name, 100 / 150)
    except OSError:
        raise InputError(f"{folders.shown(path)} is missing. Make its job again.") from None
    return {"name": name, "place": place(name), "caption": pages.markdown(caption), "picture": picture}


def _table(run_dir: Path, name: str, caption: str) -> dict[str, Any]:
    """A table, its numbers to four digits."""
    header, rows = _read_csv(run_dir / "tables" / f"{folders.check_name(name, 'table')}.csv")
    rows = [[_short(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in rows if row[i]) for i in range(len(header))]
    return {
        "name": name,
        "place": place(name),
        "caption": pages.markdown(caption),
        "header": header,
        "rows": rows,
        "numeric": numeric,
    }


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            header, *rows = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{folders.shown(path)} cannot be read: {error}. Make its job again.") from None
    return header, [row + [""] * (len(header) - len(row)) for row in rows]


def _scorecard(run_dir: Path) -> dict[str, Any] | None:
    """The scorecard and how many claims have each verdict, if the run has one."""
    path = run_dir / "scorecard.csv"
    if not path.is_file():
        return None
    header, rows = _read_csv(path)
    if "verdict" not in header:
        raise InputError(f"{folders.shown(path)} has no column 'verdict'. Make the job of notebook 12 again.")
    rows = [
        {name: "" if cell == "-" else cell for name, cell in zip(header, row, strict=False)} for row in rows
    ]
    overall = list(scorecard.overall(pd.DataFrame(rows)[["id", "verdict"]])) if rows else []
    counts = {verdict: overall.count(verdict) for verdict in VERDICTS}
    others = len(overall) - sum(counts.values())
    return {"rows": rows, "counts": counts, "others": others, "kinds": VERDICTS}


def _environment(results: dict[str, dict]) -> dict[str, str]:
    """What the results were made with; several values where jobs differ."""

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(result["environment"].get(key, "")) for result in results.values()}))

    seconds = sum(result["timings"].get("wall_time_s") or 0 for result in results.values())
    keys = {"code_version": "Code", "processor": "Processor", "threads": "Threads a job", "python": "Python"}
    packages: dict[str, str] = {}
    for result in results.values():
        packages |= result["environment"].get("packages", {})
    chosen = [f"{name} {packages[name]}" for name in MAIN_PACKAGES if name in packages]
    return {
        **{label: all_of(key) for key, label in keys.items()},
        "Packages": ", ".join(chosen) or "not recorded",
        "Time of all jobs": f"{seconds / 60:.1f} min",
    }


def place(name: str) -> str:
    """Where something is in the paper, by its file's name: fig04_... is figure 4, ext_... is beyond."""
    found = re.match(r"(fig|tab)(\d+)([a-z]?)_", name)
    if not found:
        return "Beyond the paper"
    return f"{'Figure' if found[1] == 'fig' else 'Table'} {int(found[2])}{found[3]} of the paper"


def _is_number(cell: str) -> bool:
    """Whether a cell reads as a number."""
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", cell) is not None


def _short(cell: str) -> str:
    """A cell with four digits if it is a number with more; whole numbers stay as they are."""
    if _is_number(cell) and not re.fullmatch(r"[-+]?\d+", cell):
        return f"{float(cell):.4g}"
    return cell


@command
def main() -> int:
    """`python -m cunet.report RUN`: RUN is a folder, or the name of a run."""
    parser = argparse.ArgumentParser(prog="python -m cunet.report", description=__doc__)
    parser.add_argument("run", help="a run's folder, or its name")
    given = parser.parse_args()
    path = build(folders.find(given.run))
    print(f"Report: {folders.shown(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
