"""The chain on a real Slurm of one node: through sbatch, a job cancelled in the middle, the same again.

`make test-slurm` runs it, as root on Debian; it starts the daemons itself and stops them. With
`-k tiny` two notebooks that take no time stand for the smoke chain. The settings are those that ship
(papermill_runs/executors/slurm), and over them what one small node needs (executor/config.yaml).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from conftest import ROOT, TINY, start, wait_for  # noqa: E402

pytestmark = pytest.mark.timeout(3 * 3600)


@pytest.fixture(scope="module")
def cluster():
    """A node that waits for jobs; the daemons know nothing of the tests' environment."""
    missing = [name for name in ("sbatch", "slurmctld", "slurmd", "munged") if not shutil.which(name)]
    assert not missing, (
        f"{missing} are not here: as root, apt-get install slurm-wlm munge (make test-slurm does)"
    )
    folder = Path(tempfile.mkdtemp(prefix="cunet-slurm-"))
    folder.chmod(0o755)  # munge's socket is for all users, and it refuses a folder that they cannot enter
    plain = {"PATH": os.environ["PATH"], "HOME": "/root"}
    with open(folder / "up.log", "w") as log:  # a pipe would be held open by the daemons
        done = subprocess.run(["bash", HERE / "up.sh", folder], stdout=log, stderr=log, env=plain)
    try:
        assert done.returncode == 0, (folder / "up.log").read_text()
        yield folder
    finally:
        subprocess.run(["bash", HERE / "down.sh", folder], env=plain, check=True)
        shutil.rmtree(folder)


def repository(folder: Path, notebooks: Path, profiles: dict[str, str]) -> Path:
    """What the chain reads, in a folder of its own."""
    ignore = shutil.ignore_patterns("*.ipynb", ".*", "__pycache__")
    shutil.copytree(notebooks, folder / "notebooks", ignore=ignore)
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "papermill_runs" / "profiles").mkdir(parents=True)
    shutil.copy(ROOT / "papermill_runs" / "calibration.yaml", folder / "papermill_runs")
    for name, text in profiles.items():
        (folder / "papermill_runs" / "profiles" / f"{name}.yaml").write_text(text)
    return folder


def engine(folder: Path, **changes) -> str:
    """A folder with the settings that ship, those of this small node over them, and `changes` over both."""
    shipped, own = (
        yaml.safe_load((there / "config.yaml").read_text())
        for there in (ROOT / "papermill_runs" / "executors" / "slurm", HERE / "executor")
    )
    assert shipped["retries"] == 2 and "retries" not in own, "what ships is what is tried"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**shipped, **own, **changes}))
    return str(folder)


def queue() -> list[tuple[str, str]]:
    """Number and comment (Snakemake's rule and wildcards) of each running job."""
    lines = subprocess.run(
        ["squeue", "--noheader", "--states=RUNNING", "--format=%i|%k"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [tuple(line.split("|", 1)) for line in lines]


def asked(number: str) -> str:
    """What Slurm says of a job, its request for GPUs among it."""
    command = ["scontrol", "show", "job", number]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def in_its_middle(steps: Callable[[], dict[str, int]]) -> list[tuple[str, str]]:
    """Numbers and names of the running jobs that have begun their work; `steps` says how far each is."""
    begun, jobs = steps(), queue()
    return [(number, job) for number, comment in jobs for job in begun if comment.endswith(f"_{job}")]


def cancelled_and_resumed(
    root: Path, profile: str, steps: Callable[[], dict[str, int]], monkeypatch, on: str
) -> tuple[dict, dict]:
    """Start a chain on the cluster, cancel a job in its middle, and finish with the same command.

    steps: gives how far each job is that can be cancelled and has begun its work, by the job's name. on: the
    engine, which does not submit again what was cancelled. Returns the times of the results before and after
    the second command.
    """
    monkeypatch.setenv("CUNET_ROOT", str(root))
    command = ("reproduce", "--profile", profile, "--on", on)
    run_dir = root / "papermill_runs" / profile
    first = start(*command)
    try:
        jobs = wait_for(lambda: first.poll() is not None or in_its_middle(steps), "a job in its middle", 3600)
        assert jobs is not True, first.communicate()
        number, victim = jobs[0]
        subprocess.run(["scancel", number], check=True)
        _, said = first.communicate(timeout=3600)
    finally:
        first.kill()
    assert first.returncode == 1, said
    assert "What succeeded is kept; the same command goes on" in said
    before = times(run_dir)
    assert victim not in before and not (run_dir / "report" / "index.html").exists()
    second = start(*command, stdout=subprocess.DEVNULL)
    try:
        _, said = second.communicate(timeout=3600)
    finally:
        second.kill()
    assert second.returncode == 0, said
    assert (run_dir / "report" / "index.html").is_file()
    return before, times(run_dir)


def times(run_dir: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (run_dir / "results").glob("*.json")}


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A repository with two notebooks that take no time; the last sleeps when it runs for the first time."""
    profile = "notebooks:\n  01_first: {count: 2}\n  12_last: {action: sleep}\n"
    root = repository(tmp_path / "a é", TINY, {"tiny": profile})
    notebook, slept = root / "notebooks" / "12_last.py", str(root / "slept")
    once = f'if action == "sleep" and not os.path.exists({slept!r}):'
    once += f"\n    open({slept!r}, 'w').close()\n    time.sleep(600)\n"
    original, text = 'if action == "sleep":\n    time.sleep(600)\n', notebook.read_text()
    assert original in text
    notebook.write_text(text.replace(original, once))
    return root


def test_tiny_chain_cancelled_in_the_middle_goes_on(cluster, tiny, monkeypatch):
    sleeping = lambda: {"12_last": 1} if (tiny / "slept").exists() else {}  # noqa: E731
    on = engine(tiny.parent / "engine", retries=0)
    before, after = cancelled_and_resumed(tiny, "tiny", sleeping, monkeypatch, on)
    assert set(before) == {"01_first"} and set(after) == {"01_first", "12_last"}
    assert after["01_first"] == before["01_first"], "what had succeeded was not made again"


def test_tiny_chain_interrupted_takes_its_jobs_back(cluster, tiny, monkeypatch):
    monkeypatch.setenv("CUNET_ROOT", str(tiny))
    process = start("reproduce", "--profile", "tiny", "--on", engine(tiny.parent / "engine"))
    try:
        wait_for((tiny / "slept").is_file, "the sleeping job", 3600)
        process.terminate()
        _, said = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and "The same command resumes" in said
    wait_for(lambda: not queue(), "an empty queue", 120)


def trained(checkpoints: Path) -> dict[str, int]:
    """The step of each training that has saved one, by the name of its job."""
    found = {}
    for path in checkpoints.glob("*.state.json"):
        with contextlib.suppress(OSError):  # it is deleted when the checkpoint is there
            step = json.loads(path.read_text())["step"]
            job = "05_training-" + path.name.removesuffix(".state.json").replace("-smoke-", "-")
            found |= {job: step} if step > 0 else {}
    return found


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_smoke_chain_through_sbatch_retries_what_is_cancelled_in_the_middle(cluster, tmp_path, monkeypatch):
    """With the settings that ship, and a GPU asked for by each training. The job is one whose training has
    saved a step: trainings are long enough to be met in the middle, and save each of their steps. It is
    submitted again by the same command, goes on from there, and the chain ends as if nothing had been."""
    text = (ROOT / "papermill_runs" / "profiles" / "smoke.yaml").read_text()
    root = repository(tmp_path / "smoke", ROOT / "notebooks", {"smoke": text})
    profile, run_dir = root / "papermill_runs" / "profiles" / "smoke.yaml", root / "papermill_runs" / "smoke"
    replaced(profile, "05_training: {images: 1024,", "05_training: {images: 3072, checkpoint_every: 1,")
    own = "validate_every = 25_000  #"
    replaced(root / "notebooks" / "05_training.py", own, f"checkpoint_every = 0  # steps\n{own}")
    monkeypatch.setenv("CUNET_ROOT", str(root))
    command = ["reproduce", "--profile", "smoke", "--on", engine(tmp_path / "engine")]
    command += ["--", "--set-resources", "notebook_05_training:gpu=1"]

    def steps() -> dict[str, int]:
        return trained(run_dir / "checkpoints")

    chain = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        jobs = wait_for(lambda: chain.poll() is not None or in_its_middle(steps), "a job in its middle", 3600)
        assert jobs is not True, (run_dir / "logs" / "snakemake.log").read_text()[-5000:]
        number, victim = jobs[0]
        assert re.search(r"gpu[:=]1\b", asked(number)), asked(number)
        subprocess.run(["scancel", number], check=True)
        wait_for(lambda: number not in dict(queue()), "the end of the cancelled job", 300)
        reached = steps()[victim]
        assert reached > 0 and victim not in times(run_dir)
        again = wait_for(
            lambda: [n for n, comment in queue() if comment.endswith(f"_{victim}") and n != number],
            "the same job under another number",
            600,
        )
        assert re.search(r"gpu[:=]1\b", asked(again[0])), "a retried job asks for the same"
        seen = wait_for(
            lambda: (step := steps().get(victim, reached)) != reached and step or victim in times(run_dir),
            "work",
            3600,
        )
        chain.wait(timeout=3600)
    finally:
        chain.kill()
    said = (run_dir / "logs" / "snakemake.log").read_text()
    assert chain.returncode == 0, said[-5000:]
    assert seen is True or seen > reached, "it went on, and did not begin anew"
    assert said.count("Trying to restart job") == 1 and (run_dir / "report" / "index.html").is_file()
    made = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    results = [json.loads(path.read_text()) for path in (run_dir / "results").glob("*.json")]
    assert {result["notebook"] for result in results} == made
    before = times(run_dir)
    done = start(*command)
    _, said = done.communicate(timeout=3600)
    assert done.returncode == 0 and "Nothing to do" in said and times(run_dir) == before
