"""A run's folder: where one notebook leaves its figures, its tables and its result.

```
papermill_runs/<run>/
    figures/fig04_<slug>.png, .pdf      tables/tab02_<slug>.csv, .md
    results/<job>.json                  executed/<job>.ipynb
    checkpoints/  params/  logs/        (training, the chain, failures)
```

A *job* is one execution of one notebook (`05_training-mnist-cunet-s0` is one of several of notebook 05). Its
result file is written last, so that a result means that the job is complete. Numbers that differ from one
execution to the next because they are times stand under `timings` and nowhere else. `outputs.sha256` has the
hashes of figures and tables, which may show times. Without these two (`untimed`), executions of the same code
with the same seed on the same machine give the same bytes. `sha256` is of all the rest, timings too: a result
that was edited or damaged is refused, and by it a figure or a table (`check_outputs`).

By hand, a notebook writes straight into its run's folder. Under the runner (`cunet.notebook`) it writes into
a staging folder, and the runner moves everything into place when the notebook has succeeded.
"""

import ast
import datetime
import hashlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cunet import folders
from cunet.errors import InputError
from cunet.provenance import environment, sha256
from cunet.wording import BEYOND, cell, paper_place

STAGING = "CUNET_STAGING"  # set by the runner: the folder that outputs go to until the notebook has succeeded
JOB = "CUNET_JOB"  # set by the runner: the job that the staging folder belongs to
SOURCE = "CUNET_SOURCE"  # set by the runner: the hash of the notebook's code, see `cunet.notebook.code_hash`
PYTHON = "CUNET_PYTHON"  # set by the runner: the interpreter that the kernel has to be
SMOKE = "smoke"  # size of networks that show that code runs, and profile of every number made with them
FIGURE_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
SCORECARD = "scorecard"  # the one table that stands in the run's folder itself
KEYS = set("job notebook profile parameters values claims timings environment inputs outputs sha256".split())
_PLAIN = (bool, int, float, str, type(None), list, tuple, dict)


class Run:
    """One job's part of a run's folder.

    Arguments:
        run_dir: the run's folder, see `cunet.folders.resolve`.
        job: name of this job and of its result file, for example `06_sampling`.
        profile: name of the profile whose numbers the notebook was given, for example `laptop`.
        parameters: what the parameters cell holds; recorded in the result. `run_dir` is left out: a run's
            folder may be moved, or made twice and compared.

    Raises:
        InputError: the folder leaves the repository, or the name cannot be a file's, or the notebook runs in
            another Python than the one that started it.
    """

    def __init__(
        self,
        run_dir: str | Path,
        job: str,
        profile: str = "laptop",
        parameters: Mapping[str, Any] | None = None,
    ):
        check_interpreter()
        self.run_dir = folders.resolve(run_dir)
        self.job = folders.check_name(job, "job")
        self.profile = profile
        self.parameters = {k: v for k, v in (parameters or {}).items() if k != "run_dir"}
        self.target = staging(job) or self.run_dir
        self._figures: dict[str, str] = {}
        self._tables: dict[str, str] = {}
        self._started = time.perf_counter()

    @classmethod
    def open(cls, namespace: Mapping[str, Any]) -> "Run":
        """`Run.open(globals())`: the run of the notebook that calls it.

        Reads `run_dir`, `job` and `profile`; records every name that the parameters cell assigns.
        """
        missing = [name for name in ("run_dir", "job", "profile") if name not in namespace]
        if missing:
            raise InputError(
                f"The notebook has no {missing[0]!r}. Run its parameters cell first: it assigns run_dir, "
                "job and profile."
            )
        parameters = {name: namespace[name] for name in _parameter_names(namespace)}
        return cls(namespace["run_dir"], namespace["job"], namespace["profile"], parameters)

    def __repr__(self) -> str:
        return f"Run({folders.shown(self.run_dir)!r}, job={self.job!r}, profile={self.profile!r})"

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's own checkpoints; not staged: a training resumes from it."""
        return self._folder(self.run_dir / "checkpoints")

    def save_figure(self, figure, name: str, caption: str = "") -> None:
        """Save a Matplotlib figure as figures/<name>.png (150 dots an inch) and .pdf, without a date inside,
        and show it in the notebook, with its caption below.

        The figure's layout is found once, here, and kept.

        Arguments:
            figure: a matplotlib Figure.
            name: `figNN_slug` for the paper's figure NN, `ext_slug` for one beyond the paper.
            caption: one sentence, Markdown; the report has it, too.
        """
        folder = self._folder(self.target / "figures")
        folders.check_name(name, "figure")
        for kind, metadata in FIGURE_METADATA.items():
            figure.savefig(folder / f"{name}.{kind}", dpi=150, metadata=metadata, bbox_inches="tight")
            figure.set_layout_engine("none")  # finding again where everything stands takes a second
        self._figures[name] = caption
        from IPython import get_ipython  # here, since most who read runs have no notebook
        from IPython.display import Markdown, display

        if get_ipython() is not None:
            number = "" if (where := paper_place(name)) == BEYOND else f"**{where}.** "
            display(figure, Markdown(number + caption))

    def save_table(self, table, name: str, caption: str = "") -> Path:
        """Save a pandas DataFrame as tables/<name>.csv (full precision) and .md (four digits, for reading).

        Arguments:
            table: a DataFrame; an unnamed index is left out, a named one becomes the first column.
            name: `tabNN_slug` for the paper's table NN, `ext_slug` for one beyond the paper; `scorecard`
                for the scorecard, which stands in the run's folder itself.
            caption: one sentence for the report.

        Returns:
            Path of the CSV.
        """
        folder = self._folder(self.target / "tables" if name != SCORECARD else self.target)
        folders.check_name(name, "table")
        if any(label is not None for label in table.index.names):
            table = table.reset_index()
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        cells = table.map(lambda value: cell(value) if isinstance(value, str) else value)
        text = cells.to_markdown(
            index=False, floatfmt=".4g", missingval="", disable_numparse=_text_columns(table)
        )
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        self._tables[name] = caption
        return folder / f"{name}.csv"

    def save_result(
        self,
        values: Mapping[str, Any],
        claims: Iterable[Mapping[str, Any]] = (),
        timings: Mapping[str, Any] | None = None,
        inputs: Iterable[str | Path] = (),
    ) -> dict:
        """Write results/<job>.json: the last thing a notebook does before it prints its conclusion.

        Arguments:
            values: what was measured; numbers, strings, lists, dictionaries, NumPy and torch scalars and
                arrays. A number that is not finite is written as null.
            claims: rows for the scorecard, each with at least `id` (of `cunet.claims.CLAIMS`) and `measured`.
            timings: everything that is a time or was computed from one. Added are `wall_time_s`, since the
                run was opened, and of the whole process, with those it waited for, `cpu_s`, the processor's
                seconds, and `peak_mb`, the most memory that one of them held.
            inputs: files that were read, recorded with their SHA-256 (a job's result: `untimed`).

        Returns:
            The result as it would be read back.
        """
        claims = [dict(claim) for claim in claims]
        for claim in claims:
            if not {"id", "measured"} <= claim.keys():
                raise InputError(
                    f"The claim {claim!r} of job {self.job!r} lacks 'id' or 'measured': a row for "
                    "the scorecard is dict(id='C16', measured=..., spread=..., n=..., dataset=..., size=..., "
                    "value=...)."
                )
        result = {
            "job": self.job,
            "notebook": self.job.split("-")[0],
            "profile": self.profile,
            "parameters": self.parameters,
            "values": dict(values),
            "claims": claims,
            "timings": {
                **(timings or {}),
                "wall_time_s": round(time.perf_counter() - self._started, 3),
                **_used(),
            },
            "environment": environment(),
            "inputs": dict(self._input(path) for path in inputs),
            "outputs": {
                "figures": self._figures,
                "tables": self._tables,
                "sha256": hashes(self.target, self._figures, self._tables),
            },
        }
        if staging(self.job):
            result["source"] = os.environ.get(SOURCE, "")
        result = plain(result)
        result["sha256"] = seal(result)
        path = self._folder(self.target / "results") / f"{self.job}.json"
        text = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        folders.write_atomically(path, text)
        return result_file(path)

    def result(self, job: str) -> dict:
        """The result of another job of this run (or, once saved, of this one)."""
        return result(self.run_dir, job)

    def _input(self, path: str | Path) -> tuple[str, str]:
        """Name and SHA-256 of a file that was read; a name within the run's folder is relative to it."""
        full = Path(os.path.normpath(Path(path).absolute()))
        inside = self.run_dir in full.parents
        name = full.relative_to(self.run_dir).as_posix() if inside else folders.shown(full)
        if full.parent != self.run_dir / "results":
            return name, sha256(full)
        return name, seal(untimed(result_file(full)))

    @staticmethod
    def _folder(path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        return path


def staging(job: str) -> Path | None:
    """The runner's staging folder if this process executes `job` under the runner, else None."""
    folder = os.environ.get(STAGING)
    return Path(folder) if folder and os.environ.get(JOB) == job else None


def check_interpreter() -> None:
    """Raise InputError if the runner started this kernel, yet another Python answered."""
    expected = os.environ.get(PYTHON)
    if expected and os.path.normpath(sys.executable) != os.path.normpath(expected):
        raise InputError(
            f"The notebook's kernel is {sys.executable}, but it was started from {expected}: another kernel "
            "named 'python3' comes first. Remove it with `jupyter kernelspec remove python3`, or set "
            "JUPYTER_PREFER_ENV_PATH=1."
        )


def result(run_dir: str | Path, job: str) -> dict:
    """Read the result of a job.

    Arguments:
        run_dir: the run's folder, see `cunet.folders.resolve`.
        job: the job's name, for example `05_training-mnist-cunet-s0`.

    Returns:
        Dictionary with the keys job, notebook, profile, parameters, values, claims, timings, environment,
        inputs, outputs and sha256.

    Raises:
        InputError: there is no such result (the message lists those there are), or the file is damaged.
    """
    folders.check_name(job, "job")
    staged = staging(job)
    if staged and (staged / "results" / f"{job}.json").is_file():
        return result_file(staged / "results" / f"{job}.json")
    path = folders.resolve(run_dir) / "results" / f"{job}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise InputError(
            f"There is no result {folders.shown(path)}: job {job!r} has not succeeded in this run yet "
            f"(results there: {there}). Run it first: cunet notebook notebooks/{job.split('-')[0]}.py "
            f"--out {folders.shown(path.parent.parent)}"
        )
    return result_file(path)


def results(run_dir: str | Path) -> dict[str, dict]:
    """All results of a run by job name, in alphabetical order."""
    found = (folders.resolve(run_dir) / "results").glob("*.json")
    return {path.stem: result_file(path) for path in sorted(found)}


def result_file(path: str | Path) -> dict:
    """Read one result file; InputError naming it if it is not a complete result."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        complete = isinstance(content, dict) and KEYS <= content.keys()
        problem = "" if complete else "it is not the result of a job"
        if complete and content["sha256"] != seal(content):
            problem = "it does not have the SHA-256 that it carries, so it was edited or damaged"
    except (ValueError, OSError, RecursionError) as error:
        content, problem = None, str(error)
    if not problem and content["job"] != Path(path).stem:
        problem = f"it is the result of {content['job']!r}"
    if problem:
        raise InputError(
            f"The result file {path} cannot be used: {problem}. Delete it and make its job again."
        )
    return content


def hashes(folder: Path, figures: Iterable[str], tables: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files of figures and tables that are there, by their paths within a run's folder."""
    names = [f"figures/{name}.{kind}" for name in figures for kind in FIGURE_METADATA]
    names += [f"{'' if n == SCORECARD else 'tables/'}{n}.{kind}" for n in tables for kind in ("csv", "md")]
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def check_outputs(run_dir: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError, naming the file, if a figure or a table is not what its job made.

    results: of the jobs. Those of earlier code have no hashes, and what is not there is not looked at.
    """
    for job, content in results.items():
        for name, expected in content["outputs"].get("sha256", {}).items():
            path = run_dir / name
            if path.is_file() and sha256(path) != expected:
                raise InputError(
                    f"{folders.shown(path)} does not have the SHA-256 that its job recorded, so it was "
                    f"edited or damaged. Delete results/{job}.json beside it and make the job again."
                )


def untimed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A result without times and without the hashes of what may show them: what it has in common with that
    of another execution of its job."""
    outputs = {key: value for key, value in content["outputs"].items() if key != "sha256"}
    return {**content, "timings": None, "outputs": outputs}


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a result, whatever `sha256` it carries."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def seals(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The first digits of the SHA-256 of results, sorted; times are under it, so no two runs share one."""
    return sorted(result["sha256"][:12] for result in found)


def plain(value: Any) -> Any:
    """The same in what JSON has: NumPy, torch, paths, dates, tuples; a non-finite number is None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return plain(value.tolist())
    if isinstance(value, (Path, datetime.date)):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise InputError(
        f"A result cannot hold {value!r} of type {type(value).__name__}: use numbers, strings, lists, "
        "dictionaries or arrays."
    )


def _used() -> dict[str, float]:
    """What this process and those that it has waited for have used, for `Run.save_result`."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there
    return {
        "cpu_s": round(sum(one.ru_utime + one.ru_stime for one in used), 3),
        "peak_mb": round(max(one.ru_maxrss for one in used) / unit, 1),
    }


def _parameter_names(namespace: Mapping[str, Any]) -> list[str]:
    """Names assigned by the parameters cells executed so far: those that assign run_dir."""
    names: dict[str, None] = {}
    for source in namespace.get("In") or []:
        try:
            body = ast.parse(source).body
        except (SyntaxError, TypeError):
            continue
        targets = [t for s in body if isinstance(s, ast.Assign) for t in s.targets]
        targets += [s.target for s in body if isinstance(s, ast.AnnAssign)]
        assigned = [target.id for target in targets if isinstance(target, ast.Name)]
        if "run_dir" in assigned:
            names |= dict.fromkeys(assigned)
    if not names:  # not under IPython: a script, whose plain globals are its parameters
        names = dict.fromkeys(name for name in namespace if not name.startswith("_"))
    return [name for name in names if isinstance(namespace.get(name), _PLAIN) and name in namespace]


def _text_columns(table) -> list[int]:
    """Columns whose cells must stay as they are: '1e5' as text is not a number."""
    kinds = [str(kind).lower() for kind in table.dtypes]
    return [i for i, kind in enumerate(kinds) if not kind.startswith(("int", "uint", "float"))]
