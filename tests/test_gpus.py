"""GPUs handed out to jobs at once on one machine: none of it needs a GPU, only names of some."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import call

from cunet import chain, engines, gpus, processes, profiles, reproduce
from cunet.errors import ChainError, InputError

TAKE = """
import os, subprocess, sys
from cunet import gpus
with gpus.taken(sys.argv[1]) as names:
    child = subprocess.Popen(["sleep", "600"])
    print(os.environ["CUDA_VISIBLE_DEVICES"], child.pid, flush=True)
    sys.stdin.read()
    child.kill()
"""
TRAINING = """# %% tags=["parameters"]
run_dir = "x"  # x
job = "05_training"  # x
profile = "x"  # x
dataset = "mnist"  # x
model = "unet"  # x
size = "smoke"  # x
checkpoints = "train"  # x
seed = 0  # x
devices = 1  # x
num_nodes = 1  # x
images = 8  # x
validate_every = 8  # x
samples = 1  # x
sampling_steps = 1  # x
folder = ""  # where all jobs leave word

# %%
import os
import time
from pathlib import Path
from cunet import runs
run = runs.Run.open(globals())

# %%
mine = os.environ["CUDA_VISIBLE_DEVICES"]
Path(folder, f"{seed}").write_text(mine)
deadline = time.monotonic() + 900
while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:  # until the other one is here
    time.sleep(0.1)
run.save_result({"gpus": mine, "jobs": len(os.listdir(folder))})
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Locks of the test's own, here and in what it starts; and no GPUs named by who runs it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv(gpus.VISIBLE, raising=False)


@contextlib.contextmanager
def job(rule: str, shared: gpus.Shared):
    """A process that takes what a job of `rule` needs, until it is told to end."""
    with processes.environment(**shared.variables()):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", TAKE, rule], **pipes)
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def seen(process: subprocess.Popen) -> tuple[set[str], int]:
    """The GPUs that a job sees, and the process that it has started."""
    names, child = process.stdout.readline().rsplit(" ", 1)
    return set(filter(None, names.split(","))), int(child)


def test_jobs_at_once_see_gpus_of_their_own_and_those_of_the_processor_none():
    shared = gpus.share(4, {"a": 1, "b": 2})
    with (
        job("a", shared) as one,
        job("b", shared) as two,
        job("a", shared) as three,
        job("c", shared) as none,
    ):
        found = [seen(process)[0] for process in (one, two, three)]
        assert [len(names) for names in found] == [1, 2, 1] and set().union(*found) == set("0123")
        assert seen(none)[0] == set()


def test_a_job_waits_until_there_are_as_many_as_it_needs_and_takes_none_before():
    shared = gpus.share(2, {"a": 1, "b": 2})
    with job("a", shared) as first:
        assert len(seen(first)[0]) == 1
        with job("b", shared) as second:
            time.sleep(2 * gpus.PAUSE)
            with job("a", shared) as third:
                assert len(seen(third)[0]) == 1, "the waiting one holds nothing"
            first.stdin.close()
            assert seen(second)[0] == {"0", "1"}


def test_a_killed_jobs_gpu_is_free_again_and_what_it_left_running_is_ended():
    shared = gpus.share(1, {"a": 1})
    with job("a", shared) as first:
        names, child = seen(first)
        left = processes.identity(child)
        first.send_signal(signal.SIGKILL)
        first.wait(60)
        assert processes.alive(left), "a kernel that outlives its job"
        with job("a", shared) as second:
            assert seen(second)[0] == names == {"0"}
            assert not processes.alive(left)


def test_only_gpus_that_the_user_names_are_handed_out(monkeypatch):
    for said, names in (("3,5,7", ["3", "5"]), (" GPU-ab , MIG-1/2", ["GPU-ab", "MIG-1/2"])):
        monkeypatch.setenv(gpus.VISIBLE, said)
        shared = gpus.share(2, {"a": 2})
        assert shared.names == names
        with job("a", shared) as process:
            assert seen(process)[0] == set(names)
    for said, count in (("3", 1), ("", 0), ("4,4", 1), ("2,-1,3", 1)):
        monkeypatch.setenv(gpus.VISIBLE, said)
        with pytest.raises(InputError, match=f"gpus=2, but CUDA_VISIBLE_DEVICES={said} names {count}"):
            gpus.share(2, {})


def test_without_shared_gpus_nothing_is_set(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "6")
    with gpus.taken("a") as names:
        assert names is None and gpus.HOLDER not in gpus.os.environ and gpus.os.environ[gpus.VISIBLE] == "6"


def test_a_machine_with_fewer_is_refused():
    assert gpus.share(8, {}, there=8).names == list("01234567")
    with processes.environment(**{gpus.VISIBLE: "MIG-a,MIG-b"}):  # of which CUDA shows a process one
        assert gpus.share(2, {}, there=1).names == ["MIG-a", "MIG-b"]
    with pytest.raises(InputError, match="gpus=8, but this machine has 2: set gpus=2"):
        gpus.share(8, {}, there=2)


def test_a_folder_of_locks_that_is_not_this_users_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"cunet-gpus-{gpus.os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no folder of yours"):
        gpus.folder()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / f"cunet-gpus-{gpus.os.getuid()}").touch()
    with pytest.raises(InputError, match="is no folder of yours"):
        gpus.folder()


def test_a_job_whose_chain_was_killed_waits_no_longer(tmp_path, monkeypatch):
    shared = gpus.share(1, {"a": 1})
    gone = subprocess.Popen(["true"])
    who = processes.identity(gone.pid)
    gone.wait()
    with job("a", shared) as process:
        process.stdout.readline()
        for name, value in (shared.variables() | {processes.GUARD: json.dumps(who)}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ChainError, match="has been killed"), gpus.taken("a"):
            pass


def test_more_gpus_than_there_are_to_share_are_refused_before_anything_starts():
    settings = ["gpus=4", "checkpoints=train", "05_training.devices=8", "05_training.batch_size=64"]
    with pytest.raises(InputError, match="05_training asks for 8 GPUs, but gpus=4 .* Set gpus=8.* or lower"):
        reproduce.reproduce("smoke", "none", settings=settings)
    assert not reproduce.folder("none").exists()


def test_snakemake_counts_them_here_and_on_a_cluster_the_queue_does():
    settings = ["gpus=8", "shards=8", "checkpoints=train", "05_training.devices=8"]
    settings += ["05_training.batch_size=64"]
    plan = chain.plan(profiles.load("smoke", settings), reproduce.folder("none"))
    shared = engines.shared_gpus(plan)
    words = engines.command(plan, 8, True, ["--set-resources", "samples:gpu=2"], None, shared)
    assert words[words.index("--resources") + 1] == "gpu=8"
    assert {"notebook_05_training:gpu=8", "samples:gpu=1", "notebook_07_synthesis:gpu=1"} <= set(words)
    assert words.count("--set-resources") == 1 and words[-1] == "samples:gpu=2", "the user's go over ours"
    assert not any(word.startswith("notebook_03_sde:") for word in words)
    assert "--resources" not in engines.command(plan, 8, True, [], engines.find("slurm"))
    without = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    assert engines.shared_gpus(without) is None
    assert not any("gpu" in word for word in engines.command(without, 8, True, []))


def test_jobs_of_a_chain_run_at_once_on_gpus_of_their_own(repository, tmp_path, monkeypatch):
    """Two jobs that wait for one another, on two of the three GPUs that the user has named."""
    (repository / "notebooks" / "05_training.py").write_text(TRAINING)
    (tmp_path / "word").mkdir()
    lines = {"name": "tiny", "jobs": 3, "gpus": 2, "size": "smoke", "checkpoints": "train", "seeds": [0, 1]}
    lines |= {"models": ["unet"], "notebooks": {"05_training": {"folder": str(tmp_path / "word")}}}
    (profiles.folder() / "tiny.yaml").write_text(json.dumps(lines))
    monkeypatch.setenv(gpus.VISIBLE, "7,3,5")
    said = call("reproduce", "--profile", "tiny", "--dry-run").stderr
    assert "GPUs 7,3, shared by the jobs at once: 1 for 05_training" in said
    done = call("reproduce", "--profile", "tiny")
    assert done.returncode == 0, done.stderr
    run_dir = repository / "papermill_runs" / "tiny"
    found = [json.loads(path.read_text())["values"] for path in (run_dir / "results").glob("*.json")]
    assert sorted(one["gpus"] for one in found) == ["3", "7"] and {one["jobs"] for one in found} == {2}
    log = (run_dir / "logs" / "snakemake.log").read_text()
    assert "gpu=1" in log and "--resources gpu=2" in log
    locks = list(tmp_path.glob("cunet-gpus-*/gpu-*.lock"))
    assert len(locks) == 2 and not any(path.read_text() for path in locks), "let go in order"
