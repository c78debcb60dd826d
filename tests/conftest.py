"""What several test files share: a small repository with two tiny notebooks, and the command line."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = Path(__file__).resolve().parent / "tiny"


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository with the chain and two tiny notebooks; a space and a letter beyond ASCII in its path."""
    root = tmp_path / "my repo é"
    shutil.copytree(TINY, root / "notebooks")
    shutil.copy(ROOT / "Snakefile", root)
    profiles = root / "papermill_runs" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "tiny.yaml").write_text("notebooks:\n  01_first: {count: 2}\n  12_last:\n")
    monkeypatch.setenv("CUNET_ROOT", str(root))
    return root


def start(*arguments: str, **options) -> subprocess.Popen:
    """Start `cunet ...` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "cunet", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **{**pipes, **options})


def call(*arguments: str, timeout: float = 280, **options) -> subprocess.CompletedProcess:
    """Run `cunet ...` to its end."""
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def wait_for(condition, what: str, seconds: float = 200):
    """Wait until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds} s")
