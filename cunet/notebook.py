"""The runner: one notebook, validated parameters, papermill, all or nothing.

`execute` promises that a result in a run's folder is whole. It validates the parameters before a kernel
starts, executes the notebook into a staging folder, and moves what came out into place only when every cell
has succeeded and the notebook has written its result file; the result file moves last. One job has one writer
at a time. What a killed runner left behind (its staging folder, a kernel still computing) is cleared by the
next one.

Whether a notebook succeeded is judged by papermill's exception and by the result file, never by the
notebook's metadata: after `kill -9` of a kernel they say that every cell completed.
"""

import ast
import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cunet import folders, gpus, processes, runs
from cunet.errors import InputError, NotebookError, interruptible
from cunet.imports import IRI_GRAMMAR, hidden
from cunet.parameters import declaration, nearest, validate

BANNER = (
    "> **Smoke profile.** The networks are tiny and nearly untrained, the samples few. "
    "This page shows that the code runs; **its numbers mean nothing**."
)


def execute(
    notebook: str | Path,
    out: str | Path,
    parameters: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Path:
    """Execute one notebook as one job of a run.

    Arguments:
        notebook: a notebook in jupytext's percent format (.py).
        out: the run's folder, see `cunet.folders.resolve`.
        parameters: new values for names of the parameters cell, of the types that they have there.
        progress: show a progress bar (one step a cell).

    Returns:
        Path of the job's result file.

    Raises:
        InputError: no such notebook, an unknown or mistyped parameter, or the job is being made by somebody
            else.
        NotebookError: the notebook failed; logs/<job>.ipynb keeps it with its traceback. The run is as it was
            before.
    """
    path = find(notebook)
    out = folders.resolve(out)
    declared = declaration(path)
    if "run_dir" in (parameters or {}):
        raise InputError("run_dir is no parameter to set: the run's folder is --out (or `out`).")
    given = validate(declared, {**(parameters or {}), "run_dir": folders.shown(out)}, path)
    if given.get("size", declared.get("size")) == runs.SMOKE:
        given["profile"] = runs.SMOKE  # whatever it is called: page, result and scorecard shall say it
    job = folders.check_name(given.get("job", declared["job"]), "job")
    with processes.locked(out / ".locks" / f"{job}.lock", f"Job {job!r}", wait=5.0):
        sweep(out, job)
        content = read(path)
        with gpus.taken(f"notebook_{path.stem}"), staged(out, job) as stage:
            if given.get("profile", declared["profile"]) == runs.SMOKE:
                content.cells.insert(0, _markdown(BANNER))
            try:
                _run(content, stage, job, given, progress)
                _check(stage, out, job)
            except NotebookError as error:
                kept = keep(stage, out, job)
                where = f" The notebook with its traceback is {folders.shown(kept)}." if kept else ""
                raise NotebookError(f"{error}{where}") from None
            return place(stage, out, job)


def find(notebook: str | Path) -> Path:
    """The notebook's absolute path; InputError naming the nearest one if there is none."""
    path = Path(notebook)
    for candidate in (path, folders.root() / path):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.resolve()
    there = sorted((folders.root() / "notebooks").glob("[0-9][0-9]_*.py"))
    near = nearest(path.stem, [p.stem for p in there])
    raise InputError(
        f"There is no notebook {str(notebook)!r}{near}. Notebooks are the .py files of "
        f"{folders.root() / 'notebooks'}: {', '.join(p.stem for p in there) or 'none yet'}."
    )


def read(path: Path):
    """The notebook as nbformat's NotebookNode, for our own kernel."""
    with hidden(IRI_GRAMMAR):
        import jupytext  # 1 s

    try:
        content = jupytext.read(path, fmt="py:percent")
    except (ValueError, UnicodeDecodeError, SyntaxError) as error:
        raise InputError(
            f"The notebook {path} cannot be read as jupytext's percent format: {error}"
        ) from None
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content.metadata.pop("jupytext", None)
    return content


def code_hash(content) -> str:
    """SHA-256 of what a notebook computes: its code, without comments, layout and given parameters."""
    digest = hashlib.sha256()
    for cell in content.cells:
        if cell.cell_type == "code" and not injected(cell):
            lines = cell.source.splitlines()
            magic = [line.strip() for line in lines if line.startswith(("%", "!"))]
            try:
                text = ast.unparse(ast.parse("\n".join(x for x in lines if not x.startswith(("%", "!")))))
            except SyntaxError:  # such as a cell in another language
                magic, text = [], cell.source
            digest.update("\n".join([*magic, text, "\0"]).encode())
    return digest.hexdigest()


def injected(cell) -> bool:
    """Whether a cell is the one in which papermill puts the parameters that a job was given."""
    return "injected-parameters" in cell.metadata.get("tags", ())


@contextlib.contextmanager
def staged(out: Path, job: str) -> Iterator[Path]:
    """A temporary folder in the run's folder (so on the same file system), removed at the end."""
    parent = out / ".staging"
    parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f"{job}~", dir=parent))
    try:
        folders.write_atomically(stage / "owner.json", json.dumps(processes.identity()))
        (stage / "work").mkdir()
        yield stage
    finally:
        processes.end_marked(runs.STAGING, str(stage))
        shutil.rmtree(stage, ignore_errors=True)


def sweep(out: Path, job: str) -> None:
    """Clear what dead runners of this job left: their kernels first, then their staging folders."""
    for stage in (out / ".staging").glob(f"{job}~*"):
        try:
            owner = json.loads((stage / "owner.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            owner = {}
        # we hold the job's lock: a living owner can only be another host's, on a shared disk
        if not owner or not processes.alive(owner):
            processes.end_marked(runs.STAGING, str(stage))
            shutil.rmtree(stage, ignore_errors=True)


def _run(content, stage: Path, job: str, parameters: dict[str, Any], progress: bool) -> None:
    """Execute into the staging folder; in a thread, so that this one sees signals and the guard's death."""
    variables = {
        runs.STAGING: str(stage),
        runs.JOB: job,
        runs.SOURCE: code_hash(content),
        runs.PYTHON: sys.executable,
        folders.ROOT: str(folders.root()),
        "IPYTHONDIR": str(stage / "ipython"),  # nobody's start-up files
        "JUPYTER_PREFER_ENV_PATH": "1",  # our python3 kernel before a user's
        "TQDM_MININTERVAL": "10",  # a notebook keeps every update of a bar as a line
    }
    failure: list[BaseException] = []
    with (
        tempfile.TemporaryDirectory(prefix="cunet-") as sockets,  # a socket's path has 107 characters at most
        processes.environment(**variables, JUPYTER_RUNTIME_DIR=sockets),
        interruptible(),
    ):
        thread = threading.Thread(
            target=_papermill, args=(content, stage, job, parameters, progress, failure), daemon=True
        )
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.5)
                if not processes.guarded():
                    raise NotebookError("The chain that started this job has been killed.")
        finally:
            if thread.is_alive():  # interrupted: papermill ends when its kernel does
                processes.end_marked(runs.STAGING, str(stage), patience=2.0)  # with the join, within 5 s
                thread.join(2.0)
    if failure:
        raise NotebookError(_explain(failure[0])) from failure[0]


def _papermill(content, stage: Path, job: str, parameters: dict, progress: bool, failure: list) -> None:
    """papermill's part; an exception is handed over in `failure`."""
    import papermill  # 1 s
    from traitlets.config import Config

    # its own reading of the parameters cell stumbles over an = in a value; ours has checked them already
    logging.getLogger("papermill").setLevel(logging.ERROR)
    output = str(stage / "executed" / f"{job}.ipynb").replace("{", "{{").replace("}", "}}")
    (stage / "executed").mkdir()
    try:
        papermill.execute_notebook(
            content,
            output,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=progress,
            cwd=stage / "work",
            config=Config({"KernelManager": {"transport": "ipc"}}),  # no port that others could reach
        )
    except BaseException as error:
        failure.append(error)


def _explain(error: BaseException) -> str:
    """What went wrong in the notebook, as one paragraph."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    where = f" in cell {error.exec_count}" if getattr(error, "exec_count", None) else ""
    if name == "InputError":
        return value
    if name == "DeadKernelError":
        return "The notebook's kernel died: it was killed, or the machine ran out of memory."
    return f"The notebook failed{where}: {name}: {' '.join(str(value).split())}."


def _check(stage: Path, out: Path, job: str) -> None:
    """Raise NotebookError unless the job wrote its result, and nothing that belongs to another job."""
    if not (stage / "results" / f"{job}.json").is_file():
        raise NotebookError(
            f"The notebook ended without its result file results/{job}.json: it has to call run.save_result."
        )
    try:
        mine = runs.result_file(stage / "results" / f"{job}.json")["outputs"]
    except InputError as error:
        raise NotebookError(str(error)) from None
    others = {}
    for path in sorted((out / "results").glob("*.json")):
        with contextlib.suppress(InputError):  # a damaged one is refused where it is read
            if path.stem != job:
                others[path.stem] = runs.result_file(path)["outputs"]
    for kind in ("figures", "tables"):
        for other, outputs in others.items():
            if both := mine[kind].keys() & outputs[kind].keys():
                raise NotebookError(
                    f"Jobs {job!r} and {other!r} both save {kind}/{sorted(both)[0]}: "
                    "give one of them another name."
                )


def keep(stage: Path, out: Path, job: str) -> Path | None:
    """Keep a failed notebook, with its traceback, as logs/<job>.ipynb; None if that is not whole."""
    kept, executed = out / "logs" / f"{job}.ipynb", stage / "executed" / f"{job}.ipynb"
    try:
        json.loads(executed.read_text(encoding="utf-8"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(executed, kept)
    except (OSError, ValueError):
        return None
    return kept


def place(stage: Path, out: Path, job: str) -> Path:
    """Move a job's outputs from the staging folder into the run's; the result last. Returns its path."""
    result = out / "results" / f"{job}.json"
    with contextlib.suppress(InputError):
        old = runs.result_file(result)["outputs"] if result.is_file() else {"figures": {}, "tables": {}}
        new = runs.result_file(stage / "results" / f"{job}.json")["outputs"]
        for kind in ("figures", "tables"):  # what this job made before and makes no longer
            for name in old[kind].keys() - new[kind].keys():
                for stale in (out / kind).glob(f"{folders.check_name(name, 'file')}.*"):
                    stale.unlink(missing_ok=True)
    result.unlink(missing_ok=True)
    for path in sorted(stage.glob(f"{runs.SCORECARD}.*")):
        os.replace(path, out / path.name)
    for folder in ("figures", "tables", "executed", "results"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((stage / folder).glob("*")):
            os.replace(path, out / folder / path.name)
    waited_for = [path for folder in ("params", "results") for path in (out / folder).glob("*")]
    folders.not_older([*(out / "executed").glob(f"{job}.ipynb"), result], folders.newest(waited_for))
    (out / "logs" / f"{job}.ipynb").unlink(missing_ok=True)
    return result


def _markdown(text: str):
    """A Markdown cell."""
    import nbformat

    return nbformat.v4.new_markdown_cell(text)
