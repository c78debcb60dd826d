"""What the jobs of the chain depend on.

A notebook's job depends on the notebook, the modules that it imports, directly or not, its parameters, the
results that it waits for, and the released checkpoints that it reads. Imports are read from the text of the
files, so that asking imports nothing.

Those of the files that are not the run's own are its *sources*. Snakemake goes by times, which a copy,
another machine or a clock sets as it likes. So it is not given the sources, but a list of them with the hash
of each, params/<job>.sources, written when a run is prepared and only if it is another one. A job is made
again if and only if the content of a source is not what it was when the job was last prepared: a file edited
while the job runs is a change, a touched one is none.
"""

import ast
import functools
import os
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from cunet import chain, folders
from cunet.chain import asked_for
from cunet.checkpoint_names import guided, stem
from cunet.parameters import declaration
from cunet.provenance import sha256

MEASURED = {
    "solver_study.kept(": Path("papermill_runs", "reference_solvers", "solvers.csv"),
    "recipe_study.kept(": Path("papermill_runs", "reference_recipes", "recipes.csv"),
    **{
        name: Path("papermill_runs", "reference_bench", name)
        for name in (
            *("bench_variants.csv", "bench_operators.csv", "bench_throughput.csv", "bench_growth.csv"),
            *("bench.csv", "bench.json"),
        )
    },
}
"""Words of a notebook's text -> the committed file that it reads: of `cunet solvers`, `recipes`, `bench`."""
RIVALS = ("autoencoder", "dncnn")  # cunet.denoisers.NETWORKS, whose import takes seconds


REPORT, SAMPLES = "report", "samples"  # beside the names of jobs, in those of lists of sources


def inputs(plan: chain.Plan, job: chain.Job) -> list[str]:
    """The files that a job waits for, relative to the run's folder, as Snakemake wants them: the list of its
    sources, its parameters, and the results of other jobs.
    """
    shards = plan.receipts if job.notebook == chain.SHARDED else []
    return [_list(job.name), f"params/{job.name}.yaml", *_results(job.needs), *shards]


def shard_inputs(plan: chain.Plan) -> list[str]:
    """The same for the shards of the samples."""
    (job,) = plan.of(chain.SHARDED)
    return [_list(SAMPLES), f"params/{job.name}.yaml", *_results(job.needs)]


def report_inputs(plan: chain.Plan) -> list[str]:
    """The same for the report."""
    return [_list(REPORT), *_results(job.name for job in plan.jobs)]


def _list(name: str) -> str:
    return f"params/{name}.sources"


def _results(names: Iterable[str]) -> list[str]:
    return [f"results/{name}.json" for name in names]


def record(plan: chain.Plan) -> dict[str, list[str]]:
    """Write the list of sources of every job, of the shards and of the report, each if it is another one.

    Returns, for each list that was there and is another one now, the files whose content changed, that came
    or that went, by their paths from the repository's folder.
    """
    known: dict[Path, str] = {}
    lists = {job.name: sources(plan, job) for job in plan.jobs} | {REPORT: report_sources()}
    lists |= {SAMPLES: shard_sources(plan)} if plan.receipts else {}
    changed, made = {}, folders.newest(chain.made(plan.run_dir))
    for name, files in lists.items():
        for path in set(files) - known.keys():
            known[path] = sha256(path)
        text = "".join(sorted(f"{known[path]}  {_from_root(path)}\n" for path in files))
        there = plan.run_dir / _list(name)
        if there.is_file() and (old := there.read_text(encoding="utf-8")) != text:
            lines = set(old.splitlines()) ^ set(text.splitlines())
            changed[name] = sorted({line.partition("  ")[2] for line in lines})
        folders.write_if_new(there, text, made)
    for path in (plan.run_dir / "params").glob("*.sources"):
        if path.stem not in lists:
            path.unlink()
    return changed


def _from_root(path: Path) -> str:
    """A path from the folder that holds the library, if it is the library's, else from the repository's."""
    own = chain.PACKAGE in path.parents
    return Path(os.path.relpath(path, chain.PACKAGE.parent if own else folders.root())).as_posix()


def sources(plan: chain.Plan, job: chain.Job) -> list[Path]:
    """The files outside the run's folder that a job's result depends on: the notebook, the modules that it
    imports, directly or not, the released checkpoints if it reads any, and what was measured and committed.
    """
    source = chain.source(job.notebook)
    return [source, *modules(source), *_committed(job), *_released(plan, job)]


def _committed(job: chain.Job) -> list[Path]:
    """The committed measurements that a notebook reads, of those that are there."""
    source = chain.source(job.notebook)
    known = source.stat()
    named = _words(source, tuple(MEASURED), known.st_mtime_ns, known.st_size)
    paths = [folders.root() / path for call, path in MEASURED.items() if call in named]
    return [path for path in paths if path.is_file()]


@functools.cache
def _words(path: Path, words: tuple[str, ...], *stamp: int) -> frozenset[str]:
    """Which of some words a notebook has, read once for all jobs: a thousand may be of notebook 05."""
    text = path.read_text(encoding="utf-8")
    return frozenset(word for word in words if word in text)


def _released(plan: chain.Plan, job: chain.Job) -> list[Path]:
    """The released checkpoints that a job may read, of those that are there."""
    there = chain.PACKAGE / "assets" / "checkpoints"
    return sorted({path for pattern in _checkpoints(plan, job) for path in there.glob(pattern)})


def _checkpoints(plan: chain.Plan, job: chain.Job) -> list[str]:
    """Patterns of the released checkpoints that a job may read: of the networks that its parameters name, if
    it takes them from the folder of the run otherwise; of those that it asks for by name, if it does."""
    of, text = job.parameters, "ASSETS"  # a training's parameters say all: of a thousand, no file is read
    if job.notebook.startswith(chain.TRAINING):
        of = {name: value for name, value in of.items() if name not in ("datasets", "models", "seeds")}
    else:
        path = chain.source(job.notebook)
        of, text = {**declaration(path), **of}, path.read_text(encoding="utf-8")
    size = of.get("size", plan.profile.size)
    if asked := re.findall(r"\breleased\(\s*([^,)]+)(?:,\s*([^,)]+))?", text):
        return [stem(*map(_literal, one), size, "*") for one in asked]
    if of.get("checkpoints", plan.profile.checkpoints) != "released" or not re.search(r"\bASSETS\b", text):
        return []
    rivals = RIVALS if re.search(r"\bdenoisers\.NETWORKS\b", text) else ()
    models = [*asked_for(of, "model"), *rivals]
    pairs = [*product(asked_for(of, "dataset"), models), *guided(of)]
    named = product(pairs, of.get("seeds") or [of["seed"]])
    return [f"{stem(dataset, model, size, seed)}[.-]*" for (dataset, model), seed in named]


def _literal(argument: str) -> str:
    """A text in quotes without them; a pattern for anything in place of any other expression."""
    found = re.fullmatch(r"""(["'])(.*)\1""", argument.strip())
    return found.group(2) if found else "*"


def shard_sources(plan: chain.Plan) -> list[Path]:
    """The same for the shards of the samples: their own module with those that it imports, notebook 07, whose
    parameters say what samples there are, and the released checkpoints if any are read."""
    (job,) = plan.of(chain.SHARDED)
    own = chain.PACKAGE / "shard_job.py"
    return [own, *modules(own), chain.source(job.notebook), *_released(plan, job)]


def report_sources() -> list[Path]:
    """The same for the report: its module with those that it imports, the templates and the style sheet of
    its pages."""
    own = chain.PACKAGE / "report.py"
    return [own, *modules(own), *sorted((chain.PACKAGE / "assets" / "pages").glob("*"))]


def modules(path: Path) -> list[Path]:
    """The files of this package that a Python file imports, directly or through one another."""
    found: dict[Path, None] = {}
    queue = [path]
    while queue:
        for name in imported(queue.pop()):
            file = chain.PACKAGE.joinpath(*name.split(".")[1:])
            file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
            if file.is_file() and file not in found:
                found[file] = None
                queue.append(file)
    return sorted(found)


def imported(path: Path) -> list[str]:
    """Dotted names of this package's modules that a file may import, anywhere in it."""
    known = path.stat()
    return _read_imports(path, known.st_mtime_ns, known.st_size)


@functools.cache
def _read_imports(path: Path, *stamp: int) -> list[str]:
    """`imported`, read once for all jobs while the file stays as it is: a thousand jobs ask for the same."""
    return list(_find_imports(path))


def _find_imports(path: Path) -> Iterator[str]:
    """`imported`, from the file."""
    text = "\n".join(
        "" if line.startswith(("%", "!")) else line for line in path.read_text("utf-8").splitlines()
    )
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "cunet")
        elif isinstance(node, ast.ImportFrom):  # from .x import y is cunet.x: the package is flat
            module = ".".join(part for part in ("cunet" if node.level else "", node.module) if part)
            if module.split(".")[0] == "cunet":
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
