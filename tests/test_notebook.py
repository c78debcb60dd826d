"""The runner: parameters checked before a kernel starts, all or nothing, one writer a job."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from conftest import TINY, start, wait_for

from cunet import notebook, processes, runs
from cunet.errors import InputError, NotebookError

FIRST = TINY / "01_first.py"


def files(folder) -> dict[str, bytes]:
    """Name and content of what a reader of a run sees."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


def test_a_notebook_leaves_its_result_and_itself_and_nothing_else(tmp_path):
    result = notebook.execute(FIRST, tmp_path, {"count": 2, "rate": 1, "profile": "smoke"})
    assert result == tmp_path / "results" / "01_first.json"
    content = runs.result(tmp_path, "01_first")
    assert content["parameters"]["rate"] == 1.0 and len(content["values"]["draws"]) == 2
    assert content["profile"] == "smoke" and content["parameters"]["seed"] == 0
    assert set(files(tmp_path)) == {"results/01_first.json", "executed/01_first.ipynb"}
    assert not list((tmp_path / ".staging").iterdir())
    executed = nbformat.read(tmp_path / "executed" / "01_first.ipynb", 4)
    assert "numbers mean nothing" in executed.cells[0].source  # the profile is smoke
    text = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    kernel = int(text.split("kernel ")[1].split()[0])
    assert not psutil.pid_exists(kernel) or not processes.running(psutil.Process(kernel))


@pytest.mark.parametrize("size, says", [("smoke", True), ("laptop", False)])
def test_networks_of_the_size_smoke_make_a_smoke_page_whatever_the_profile(tmp_path, monkeypatch, size, says):
    path, seen = tmp_path / "01_first.py", []
    path.write_text(FIRST.read_text().replace("seed = 0", 'size = "laptop"  # of the network\nseed = 0'))
    monkeypatch.setattr(
        notebook, "_run", lambda content, stage, job, given, progress: seen.append((content, given))
    )
    with pytest.raises(NotebookError, match="without its result"):
        notebook.execute(path, tmp_path / "run", {"size": size, "profile": "mine"})
    ((content, given),) = seen
    assert ("numbers mean nothing" in content.cells[0].source) is says
    assert given["profile"] == ("smoke" if says else "mine")


@pytest.mark.parametrize(
    "action, message",
    [
        ("fail", "failed in cell 5: ValueError: the third cell failed"),
        ("die", "kernel died"),
        ("forget", "without its result file"),
    ],
)
def test_a_notebook_that_fails_changes_nothing_and_is_kept_with_its_traceback(tmp_path, action, message):
    runs.Run(tmp_path, "01_first").save_result({"from": "before"})
    before = files(tmp_path)
    with pytest.raises(NotebookError, match=message):
        notebook.execute(FIRST, tmp_path, {"action": action})
    after = files(tmp_path)
    kept = nbformat.reads(after.pop("logs/01_first.ipynb"), 4)
    assert after == before and not list((tmp_path / ".staging").iterdir())
    assert action != "fail" or "ValueError" in str([cell.get("outputs") for cell in kept.cells])


@pytest.mark.parametrize(
    "given, message",
    [
        ({"cuont": 3}, r"'cuont' is not a parameter of 01_first.py \(did you mean 'count'\?\)"),
        ({"count": "3"}, "'count' .* is '3', of type str, .* type int"),
        ({"count": True}, "of type bool"),
        ({"count": 2.5}, "of type float"),
        ({"names": [1]}, "list of str"),
        ({"names": "a"}, "list of str"),
        ({"seed": None}, "of type NoneType"),
        ({"job": "../x"}, "cannot be the name of a job"),
    ],
)
def test_wrong_parameters_are_refused_before_a_kernel_starts(tmp_path, monkeypatch, given, message):
    monkeypatch.setattr(notebook, "_run", lambda *arguments: pytest.fail("a kernel was started"))
    with pytest.raises(InputError, match=message):
        notebook.execute(FIRST, tmp_path / "out", given)
    assert not (tmp_path / "out").exists()


def test_an_unknown_notebook_is_refused(tmp_path, repository):
    with pytest.raises(InputError, match="did you mean '01_first'"):
        notebook.execute("notebooks/01_frist.py", tmp_path)


def test_a_job_that_is_being_made_is_refused_with_the_maker(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook.processes.time, "sleep", lambda seconds: None)
    ticks = iter(range(0, 1000, 3))
    monkeypatch.setattr(notebook.processes.time, "monotonic", lambda: next(ticks))
    with processes.locked(tmp_path / ".locks" / "01_first.lock", "Job '01_first'"):
        with pytest.raises(InputError, match=f"'01_first' is being made by process {os.getpid()} on"):
            notebook.execute(FIRST, tmp_path)


def test_what_a_killed_runner_left_is_ended_and_removed(tmp_path):
    stage = tmp_path / ".staging" / "01_first~abc"
    other = tmp_path / ".staging" / "02_other~abc"
    for folder in (stage, other):
        folder.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    owner = processes.identity(dead.pid)
    dead.wait()
    (stage / "owner.json").write_text(json.dumps(owner))
    orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, runs.STAGING: str(stage)})
    notebook.sweep(tmp_path, "01_first")
    assert orphan.poll() is not None
    assert not stage.exists() and other.exists()


def test_the_staging_folder_of_a_living_owner_stays(tmp_path):
    stage = tmp_path / ".staging" / "01_first~abc"
    stage.mkdir(parents=True)
    (stage / "owner.json").write_text(json.dumps(processes.identity()))
    notebook.sweep(tmp_path, "01_first")
    assert stage.exists()


def test_a_second_execution_removes_what_the_job_no_longer_makes(tmp_path):
    stages = [tmp_path / "a", tmp_path / "b"]
    for stage, names in zip(stages, [["ext_x", "ext_y"], ["ext_y"]], strict=True):
        run = runs.Run(stage, "01_first")
        for name in names:
            (stage / "figures").mkdir(parents=True, exist_ok=True)
            (stage / "figures" / f"{name}.png").write_bytes(b"png")
            run._figures[name] = ""
        run.save_result({})
        notebook.place(stage, tmp_path / "out", "01_first")
    assert set(files(tmp_path / "out")) == {"figures/ext_y.png", "results/01_first.json"}


def test_a_result_is_newer_than_what_it_waited_for_though_the_clock_was_set_back(tmp_path):
    """Snakemake would delete it as outdated."""
    runs.Run(tmp_path / "out", "01_first").save_result({})
    ahead = time.time() + 86_400
    os.utime(tmp_path / "out" / "results" / "01_first.json", (ahead, ahead))
    runs.Run(tmp_path / "stage", "02_other").save_result({})
    placed = notebook.place(tmp_path / "stage", tmp_path / "out", "02_other")
    assert placed.stat().st_mtime == pytest.approx(ahead, abs=1e-3)


def test_two_jobs_cannot_save_a_figure_under_one_name(tmp_path):
    for folder, job in [(tmp_path / "out", "01_first"), (tmp_path / "stage", "02_other")]:
        run = runs.Run(folder, job)
        run._figures["ext_x"] = ""
        run.save_result({})
    with pytest.raises(NotebookError, match="both save figures/ext_x"):
        notebook._check(tmp_path / "stage", tmp_path / "out", "02_other")


@pytest.mark.parametrize("already", [True, False], ids=["dead", "dies"])
def test_a_job_ends_with_the_chain_that_started_it(tmp_path, monkeypatch, already):
    """The chain is dead when the job starts, or dies when its kernel is there."""
    chain = subprocess.Popen(["sleep", "600"])
    monkeypatch.setenv(processes.GUARD, json.dumps(processes.identity(chain.pid)))
    if already:
        chain.kill()
        chain.wait()
    job = start("notebook", str(FIRST), "--out", str(tmp_path), "-p", "action=sleep")
    kernels = [] if already else wait_for(lambda: left(tmp_path), "a kernel")
    chain.kill()
    chain.wait()
    _, said = job.communicate(timeout=300)
    assert job.returncode == 1 and "The chain that started this job has been killed" in said, said
    assert not any(processes.running(kernel) for kernel in kernels) and not left(tmp_path)
    assert not list((tmp_path / ".staging").iterdir())
    assert set(files(tmp_path)) <= {"logs/01_first.ipynb"}, "the notebook as far as it came, and no result"


def left(folder) -> list[psutil.Process]:
    """The processes that work for a job of the run `folder`, whatever its staging folder is called."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(runs.STAGING, "").startswith(f"{folder}{os.sep}"):
                found.append(process)
    return [process for process in found if processes.running(process)]


def test_sigterm_stops_a_job_with_its_kernel_and_says_how_to_go_on(tmp_path):
    process = start("notebook", str(FIRST), "--out", str(tmp_path), "-p", "action=sleep")
    stage = wait_for(lambda: list((tmp_path / ".staging").glob("01_first~*")), "staging")[0]
    wait_for(lambda: processes.marked(runs.STAGING, str(stage)), "a kernel")
    process.terminate()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM and "The same command resumes" in said
    assert "Traceback" not in said
    assert not processes.marked(runs.STAGING, str(stage)) and not files(tmp_path)


def test_a_kernel_ends_with_its_killed_runner_and_the_same_command_succeeds(tmp_path):
    process = start("notebook", str(FIRST), "--out", str(tmp_path), "-p", "action=sleep")
    stage = wait_for(lambda: list((tmp_path / ".staging").glob("01_first~*")), "staging")[0]
    kernels = wait_for(lambda: processes.marked(runs.STAGING, str(stage)), "a kernel")
    process.kill()
    process.communicate()
    assert notebook.execute(FIRST, tmp_path).is_file()
    assert not any(processes.running(kernel) for kernel in kernels) and not stage.exists()
