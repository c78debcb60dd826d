"""The paper's profile, each rule of it, on a made-up CelebA and LSUN at tiny counts; sweeps of many jobs.

The networks of the paper's size take minutes an image on a processor. So the rules run with networks of the
size `smoke`, with all else as the profile has it; and training and sampling, which the others build on, at
the paper's own size too.
"""

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, call, celeba_lists
from PIL import Image

from cunet import chain, profiles, provenance, reproduce, runs

pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * 3600)]

PAPER = ROOT / "papermill_runs" / "profiles" / "paper.yaml"
SWEEPS = ROOT / "papermill_runs" / "measured" / "sweeps.md"  # written where SWEEP_JOBS is set
TRAIN, TEST = 40, 24
TINY = {  # over the smoke profile's lines, which stand for the paper's counts
    "02_adjoint": dict(block_steps=[4, 8]),  # memory is flat from the fourth step on
    "05_training": dict(images=4, batch_size=4, accumulate=2, validate_every=4, samples=2, sampling_steps=2),
    "06_sampling": dict(error_images=2, steps=2, few_steps=[2], shown=2),
    "07_synthesis": dict(
        samples=8,
        step_counts=[1, 2],
        best_samples=8,
        other_samples=8,
        other_step_counts=[1, 2],
        further_step_counts=[1, 2],
        reference_images=TRAIN,
        resamples=3,
    ),  # fmt: skip
    "08_denoising": dict(
        images=2,
        tradeoff_images=4,
        reference_images=TRAIN,
        stride_images=1,
        mean_images=2,
    ),
    "09_denoisers": dict(images=2, training_images=[8, 8], batch_size=4),
    "10_ablations": dict(
        samples=4,
        disturbed_samples=2,
        true_steps=[500],
        reference_images=TRAIN,
    ),
    "11_beyond": dict(
        methods=["ddpm", "ddim"],
        samples=4,
        power_images=1,
        likelihood_images=2,
        tolerance=1e3,  # one step; a larger one makes dopri5 begin with 1e-6 and grow
        reference_images=TRAIN,
    ),
}
NAMES = ("datasets", "models", "remedies", "further", "guided_datasets", "guided_models")  # as the paper's
# torchvision compares the MD5 of CelebA's lists with the published ones: every process takes ours for good
BELIEVE = """
import importlib.abc, importlib.util, sys
from pathlib import Path

class Believe(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torchvision.datasets.celeba":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def patched(module):
            run(module)
            module.check_integrity = lambda path, md5=None: Path(path).exists()
        spec.loader.exec_module = patched
        return spec

sys.meta_path.insert(0, Believe())
"""


MEASURED = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
done = subprocess.run([sys.executable, "-m", "cunet", *sys.argv[1:]], stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
found = [done.returncode, done.stderr.count("would run"), time.perf_counter() - begin, cpu]
print(json.dumps([*found, used.ru_maxrss / 1024]))
"""


def photograph(path: Path, number: int, size: tuple[int, int]) -> bytes:
    """A picture of blurred blobs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path.read_bytes()


def write_celeba(root: Path) -> None:
    """CelebA's own layout; photographs of the split `valid` are there, and used by nobody."""
    base, count = root / "celeba", TRAIN + TEST + 1
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        photograph(base / "img_align_celeba" / name, number, (178, 218))
    split = [0] * TRAIN + [1] + [2] * TEST
    celeba_lists(base, names, split)


def write_lsun(root: Path) -> None:
    """LSUN's LMDB files of churches."""
    import lmdb

    for part, count in (("train", TRAIN), ("val", TEST)):
        environment = lmdb.open(str(root / f"church_outdoor_{part}_lmdb"), map_size=2**24)
        with environment.begin(write=True) as transaction:
            for number in range(count):
                picture = photograph(root / "one.webp", 1000 * count + number, (96, 80))
                transaction.put(f"{number:040d}".encode(), picture)
        environment.close()


def believing(folder: Path) -> str:
    """A PYTHONPATH with which every process takes made-up lists of CelebA for the published ones."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BELIEVE)
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """What the chain reads, with the data sets of the paper made up."""
    data, root = tmp_path / "data", tmp_path / "repository"
    write_celeba(data)
    write_lsun(data)
    monkeypatch.setenv("PYTHONPATH", believing(tmp_path / "believe"))
    monkeypatch.setenv("CUNET_DATA", str(data))
    monkeypatch.setenv("CUNET_ROOT", str(root))
    ignore = shutil.ignore_patterns("*.ipynb", ".*", "__pycache__")
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=ignore)
    shutil.copy(ROOT / "Snakefile", root)
    (root / "papermill_runs" / "profiles").mkdir(parents=True)
    return root


def small_paper(**lines) -> dict:
    """The paper's profile with tiny counts, its samples in two shards; and `lines` in place of its own."""
    paper, smoke = (
        yaml.safe_load((ROOT / f"papermill_runs/profiles/{name}.yaml").read_text())
        for name in ("paper", "smoke")
    )
    for stem, own in paper["notebooks"].items():
        counts = {**(smoke["notebooks"].get(stem) or {}), **TINY.get(stem, {})}
        counts = {key: value for key, value in counts.items() if key not in NAMES}
        paper["notebooks"][stem] = {**(own or {}), **counts}
    return {**paper, "shards": 2, **lines}


def made(root: Path, content: dict) -> tuple[dict, dict]:
    """Make the run of a profile; returns its results and, of them, those of trainings, all as planned."""
    (root / "papermill_runs" / "profiles" / "paper.yaml").write_text(yaml.safe_dump(content))
    done = call("reproduce", "--profile", "paper", timeout=4 * 3600)
    assert done.returncode == 0, done.stderr
    run_dir = root / "papermill_runs" / "paper"
    results, plan = runs.results(run_dir), chain.load(run_dir)
    assert set(results) == {job.name for job in plan.jobs} and (run_dir / "report" / "index.html").is_file()
    assert len(plan.receipts) == 2 and all((run_dir / receipt).is_file() for receipt in plan.receipts)
    trained = {name: result for name, result in results.items() if name.startswith("05")}
    for result in trained.values():
        assert result["values"]["steps"] == 1 and result["values"]["images_seen"] == 4
        card = json.loads((root / result["values"]["checkpoint"]).with_suffix(".json").read_text())
        recipe = card["recipe"]
        assert (recipe["precision"], recipe["accumulate"], recipe["size"]) == ("16-mixed", 2, content["size"])
    return results, trained


@pytest.mark.first
def test_every_rule_of_the_papers_profile_runs_on_made_up_data(repository):
    content = small_paper(size="smoke")
    _, trained = made(repository, content)
    of = {(result["parameters"]["dataset"], result["parameters"]["model"]) for result in trained.values()}
    whole = chain.plan(profiles.Profile(**yaml.safe_load(PAPER.read_text()), name="paper"), repository)
    assert of == {(job.parameters["dataset"], job.parameters["model"]) for job in whole.of("05_training")}


@pytest.mark.first
def test_training_and_sampling_run_at_the_papers_own_size(repository):
    content = small_paper(datasets=["celeba"])
    stems = ("05_training", "07_synthesis")
    content["notebooks"] = {stem: content["notebooks"][stem] for stem in stems}
    results, trained = made(repository, content)
    assert {result["parameters"]["model"] for result in trained.values()} == {"unet", "cunet"}
    assert {result["parameters"]["size"] for result in results.values()} == {"paper"}


def sweep(root: Path, count: int) -> Path:
    """A repository whose profile `sweep` trains the smallest U-Net with `count` seeds, and no more."""
    (root / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "05_training.py", root / "notebooks")
    shutil.copy(ROOT / "Snakefile", root)
    (root / "papermill_runs" / "profiles").mkdir(parents=True)
    lines = dict(images=64, warmup=1, validate_every=64, samples=2, sampling_steps=2)
    content = dict(checkpoints="train", size="smoke", models=["unet"], seeds=list(range(count)))
    content |= dict(jobs=len(os.sched_getaffinity(0)), notebooks={"05_training": lines})
    (root / "papermill_runs" / "profiles" / "sweep.yaml").write_text(yaml.safe_dump(content))
    return root / "papermill_runs" / "sweep"


def by_hand(jobs: list[chain.Job], at_once: int, out: Path) -> float:
    """Seconds a job of jobs started without the chain, `at_once` of them at any time, a thread each."""

    def run(job: chain.Job) -> None:
        parameters = out / f"{job.name}.yaml"
        parameters.write_text(yaml.safe_dump(job.parameters))
        done = call("notebook", "notebooks/05_training.py", "--out", str(out), "-f", str(parameters))
        assert done.returncode == 0, done.stderr

    out.mkdir()
    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, jobs))
    return (time.perf_counter() - begin) / len(jobs)


class DryRun(NamedTuple):
    """What listing the jobs of a sweep took: s, s of the processor, and MB at most."""

    jobs: int
    seconds: float
    cpu: float
    megabytes: float


def dry_run(root: Path, count: int, monkeypatch) -> DryRun:
    """A dry run of a sweep of `count` jobs, which lists them and the report."""
    sweep(root, count)
    monkeypatch.setenv("CUNET_ROOT", str(root))
    arguments = ("reproduce", "--profile", "sweep", "--dry-run")
    said = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True).stdout
    status, jobs, *took = json.loads(said.splitlines()[-1])
    assert status == 0 and jobs == count + 1
    return DryRun(count, *took)


class Added(NamedTuple):
    """What a sweep took, s in all, and as many jobs by hand, s a job, before it and after it."""

    jobs: int
    at_once: int
    whole: float
    before: float
    after: float

    @property
    def over(self) -> float:
        """Seconds that the chain adds."""
        return self.whole - self.jobs * (self.before + self.after) / 2


def page(added: Added, dry: list[DryRun], machine: str, day: str) -> str:
    """The file of what sweeps take, as Markdown."""
    command = f"SWEEP_JOBS={added.jobs} .venv/bin/python -m pytest tests/test_paper_profile.py -m long"
    row = {
        "jobs": added.jobs,
        "in all, s": f"{added.whole:.0f}",
        "by hand, s a job": f"{added.before:.2f} before, {added.after:.2f} after",
        "the chain adds, s": f"{added.over:.0f}",
        "s a job": f"{added.over / added.jobs:.2f}",
        "of all": f"{added.over / added.whole:.1%}",
    }
    columns = ["jobs", "dry run, s", "of the processor, s", "MB at most"]
    graphs = pd.DataFrame(dry).set_axis(columns, axis=1).astype({"jobs": str}).round(1)
    parts = [
        f"Written by `{command} -k chain_adds` on {day}, not by hand. {machine}; trainings of size `smoke`, "
        f"{added.at_once} at once, a thread each.",
        pd.DataFrame([row]).to_markdown(index=False, disable_numparse=True),
        "What building the graph takes, from a dry run:",
        graphs.to_markdown(index=False),
    ]
    return "\n\n".join(parts) + "\n"


def test_what_the_chain_adds_to_the_jobs_of_a_sweep_is_told(tmp_path, monkeypatch, measured):
    """Overhead: the time of the chain, less that of as many jobs by hand, so many at once.

    By hand a few run before the chain and a few after it, for a machine whose speed changes.
    6 jobs, since a hundred take twenty minutes; another number is that of the variable SWEEP_JOBS, and what
    was measured is then kept in the file that papermill_runs/README.md names, with dry runs of 100 and 1,000.
    """
    count, at_once = int(os.environ.get("SWEEP_JOBS", 6)), len(os.sched_getaffinity(0))
    run_dir = sweep(tmp_path / "repository", count)
    monkeypatch.setenv("CUNET_ROOT", str(tmp_path / "repository"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the chain gives each of its jobs
    jobs = chain.plan(profiles.load("sweep"), run_dir).jobs[: max(count // 25, 1) * at_once]
    alone = [by_hand(jobs, at_once, tmp_path / "before")]
    begin = time.perf_counter()
    done = call("reproduce", "--profile", "sweep", timeout=4 * 3600)
    whole = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    assert len((run_dir / "sweep.csv").read_text().splitlines()) == count + 1
    alone.append(by_hand(jobs, at_once, tmp_path / "after"))
    added = Added(count, at_once, whole, *alone)
    measured(
        f"{count} jobs, {at_once} at once: {whole:.0f} s; by hand {alone[0]:.1f} s a job before, "
        f"{alone[1]:.1f} s after; the chain adds {added.over:.0f} s, {added.over / count:.2f} s a job, "
        f"{added.over / whole:.1%} of all"
    )
    if "SWEEP_JOBS" in os.environ:
        dry = [dry_run(tmp_path / f"dry {count}", count, monkeypatch) for count in (100, 1000)]
        machine = provenance.environment()["processor"]
        SWEEPS.write_text(page(added, dry, machine, f"{datetime.date.today()}"), encoding="utf-8")


@pytest.mark.parametrize("count", [100, 1000])
def test_a_dry_run_of_many_jobs_lists_them_all(tmp_path, monkeypatch, count, measured):
    """Tells time and memory of building the graph."""
    _, seconds, cpu, megabytes = dry_run(tmp_path / "repository", count, monkeypatch)
    measured(
        f"{count} jobs: dry run {seconds:.1f} s, {cpu:.1f} s of the processor, {megabytes:.0f} MB at most"
    )


def test_the_papers_profile_is_estimated_within_reason(measured):
    """The networks of the paper's size are built and counted; more steps, more hours."""
    from cunet import estimate

    text = estimate.report(chain.plan(profiles.load("paper"), reproduce.folder("none")), 1)
    measured("; ".join(text.splitlines()[:2]))
    found = estimate.on_cluster(chain.plan(profiles.load("paper"), reproduce.folder("none")))
    half = profiles.load("paper", ["05_training.images=64000000"])
    less = estimate.on_cluster(chain.plan(half, reproduce.folder("none")))
    trained = [sum(n.gpu for n in needs if n.rule == "notebook_05_training") for needs in (found, less)]
    assert trained[0] == pytest.approx(2 * trained[1], rel=0.01)
    assert all(need.memory > 500 for need in found)
