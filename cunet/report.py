"""report/index.html: a run on one page, and its executed notebooks beside it, readable without a network.

Everything comes from the run's files: the scorecard, each figure and each table with its caption, what was
run with which parameters on what machine. All of it is escaped; no page runs a script or fetches anything.
"""

import argparse
import base64
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from cunet import folders, pages, rules, run_outputs, runs, scorecard, sweep, wording
from cunet.errors import InputError, command

KINDS = {  # of a verdict, for its colour
    rules.REPRODUCED: "good",
    rules.PARTLY: "fair",
    rules.NOT_REPRODUCED: "poor",
    rules.UNDECIDED: "none",
    rules.NOT_TESTABLE: "none",
}
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
    results = run_outputs.results(run_dir)
    if not results:
        raise InputError(f"{folders.shown(run_dir)} has no results to report: run `cunet reproduce` first.")
    sweep.save(run_dir, results)
    smoke = any(result["profile"] == runs.SMOKE for result in results.values())
    folder = run_dir / "report"
    shutil.rmtree(folder / "notebooks", ignore_errors=True)
    headings = {}
    for job, notebook in run_outputs.notebooks(run_dir, results):
        headings[job] = pages.title(notebook, job)
        folders.write_atomically(folder / _page(job), pages.page(notebook, job, smoke, results))
    titles = run_outputs.told_apart(headings)
    sections = [_section(run_dir, result, titles) for result in results.values()]
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
    folders.not_older([folder / "index.html"], folders.newest((run_dir / "results").glob("*.json")))
    return folder / "index.html"


def _page(job: str) -> str:
    """Where the page of a job's executed notebook lies, from the report's folder."""
    return f"notebooks/{job}.html"


def _section(run_dir: Path, result: dict, titles: dict[str, str]) -> dict[str, Any]:
    """What the page shows of one job. titles: of the jobs whose executed notebook is there."""
    job = result["job"]
    figures, tables = result["outputs"]["figures"], result["outputs"]["tables"]
    parameters = {key: pages.as_text(value) for key, value in result["parameters"].items() if key != "job"}
    return {
        "job": job,
        "title": titles.get(job, job),
        "page": _page(job) if job in titles else None,
        "parameters": parameters,
        "seconds": result["timings"].get("wall_time_s"),
        "figures": [_figure(run_dir, name, caption) for name, caption in figures.items()],
        "tables": [_table(run_dir, name, tables[name]) for name in tables if name != runs.SCORECARD],
    }


def _figure(run_dir: Path, name: str, caption: str) -> dict[str, Any]:
    """A figure, its picture inside the page."""
    data = base64.b64encode(run_outputs.picture(run_dir, name).read_bytes()).decode()
    picture = pages.picture(data, caption or name, 100 / 150)
    return {
        "name": name,
        "place": wording.paper_place(name),
        "caption": pages.markdown(caption),
        "picture": picture,
    }


def _table(run_dir: Path, name: str, caption: str) -> dict[str, Any]:
    """A table, its numbers to four digits."""
    header, rows = run_outputs.table(run_dir, name)
    rows = [[_short(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in rows if row[i]) for i in range(len(header))]
    return {
        "name": name,
        "place": wording.paper_place(name),
        "caption": pages.markdown(caption),
        "header": header,
        "rows": rows,
        "numeric": numeric,
    }


def _scorecard(run_dir: Path) -> dict[str, Any] | None:
    """The scorecard and how many claims have each verdict, if the run has one."""
    card = run_outputs.card(run_dir)
    if card.empty:
        return None
    overall = list(scorecard.overall(card))
    counts = {verdict: overall.count(verdict) for verdict in KINDS}
    others = len(overall) - sum(counts.values())
    rows = card.replace("-", "").to_dict("records")
    return {"rows": rows, "counts": counts, "others": others, "kinds": KINDS}


def _environment(results: dict[str, dict]) -> dict[str, str]:
    """What the results were made with; several values where jobs differ."""
    keys = {"code_version": "Code", "processor": "Processor", "threads": "Threads a job", "python": "Python"}
    packages: dict[str, str] = {}
    for result in results.values():
        packages |= result["environment"].get("packages", {})
    chosen = [f"{name} {packages[name]}" for name in MAIN_PACKAGES if name in packages]
    return {
        **{label: run_outputs.all_of(results, key) for key, label in keys.items()},
        "Packages": ", ".join(chosen) or "not recorded",
        "Time of all jobs": f"{run_outputs.seconds(results) / 60:.1f} min",
    }


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
