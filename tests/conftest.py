"""What several test files share: one surrounding for every test, a small repository with two tiny notebooks,
and the command line.

Every test begins with the same random numbers, on one thread, and without the variables of a run or a user
around it: what it sees does not depend on the tests before it, on the worker that it is given to, or on the
number of cores. Time-outs are there to end what hangs; they are long, since a machine can be busy.
"""

import contextlib
import itertools
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from cunet import datasets, processes

ROOT = Path(__file__).resolve().parents[1]
TINY = Path(__file__).resolve().parent / "tiny"
PARTS = {  # of a chain, beside the command itself: the word of its command line that tells which it is
    "snakemake": "cunet.snakemake_main",
    "notebook": "notebook",
    "kernel": "ipykernel_launcher",
    "training": "cunet.training_job",
}

STOPS = 5.0  # seconds in which a command stops at SIGINT or SIGTERM; README.md has the exceptions

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
for _name in [name for name in os.environ if name.startswith("CUNET_")]:
    del os.environ[_name]


def seed() -> None:
    """Set every random number to come; not torch.manual_seed, which queues calls for a GPU at each call."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def seeded_module() -> None:
    seed()


@pytest.fixture(autouse=True)
def seeded(seeded_module) -> None:
    seed()


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


def copied(root: Path) -> Path:
    """What the chain reads of this repository, at `root`; for `$CUNET_ROOT`."""
    leave = shutil.ignore_patterns("*.ipynb", ".*")
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=leave)
    shutil.copytree(ROOT / "papermill_runs" / "profiles", root / "papermill_runs" / "profiles")
    shutil.copy(ROOT / "Snakefile", root)
    return root


def start(*arguments: str, **options) -> subprocess.Popen:
    """Start `cunet ...` as a process of its own."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "cunet", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **{**pipes, **options})


def call(*arguments: str, timeout: float = 1000, **options) -> subprocess.CompletedProcess:
    """Run `cunet ...` to its end."""
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def parts(found: list[psutil.Process]) -> dict[str, list[psutil.Process]]:
    """The living ones among the processes of a chain, by which of `PARTS` they are."""
    sorted_out = {}
    for process in found:
        for part in [part for part, word in PARTS.items() if word in words(process)]:
            sorted_out.setdefault(part, []).append(process)
    return sorted_out


def words(process: psutil.Process) -> list[str]:
    """The command line of a process; what has ended has none."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def hit(victim: psutil.Process, number: int = signal.SIGKILL) -> bool:
    """Send a signal; returns whether there was a living process to get it. It is stopped first, so that it
    cannot end by itself between the look and the signal."""
    with contextlib.suppress(psutil.Error):
        victim.suspend()
        living = processes.running(victim)
        victim.send_signal(number)
        if number != signal.SIGKILL:
            victim.resume()
        return living
    return False


def wait_for(condition, what: str, seconds: float = 600):
    """Wait until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def stopped(begin, number: int) -> tuple[int, str, float]:
    """Start a command with `begin`, send it a signal: its status, what it said, the seconds that it took.

    The promise is of `STOPS` seconds, and a machine that stalls does not break it: of three times the best.
    """
    found = []
    while len(found) < 3 and (not found or found[-1][2] > STOPS):
        process = begin()
        sent = time.monotonic()
        assert hit(psutil.Process(process.pid), number)
        _, said = process.communicate(timeout=600)
        found.append((process.returncode, said, time.monotonic() - sent))
        assert "Traceback" not in said, said
    return min(found, key=lambda one: one[2])


class Bomb:
    """Pickled, it makes the folder `$BOMB` when it is unpickled: whether data became code shows there."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.fixture
def bomb(tmp_path, monkeypatch) -> Path:
    """The folder that is there once a pickle from `damaged` was opened."""
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    return tmp_path / "exploded"


def mutate(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """A bit flipped, the end cut off, bytes appended, nothing left, two bytes overwritten, a pickle (the test
    has the fixture `bomb`), or `other`, the content of another file of the same kind."""
    kind, at = draw.randrange(7), draw.randrange(len(data))
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data + draw.randbytes(draw.randrange(1, 9))
    if kind == 3:
        return data[:at] + draw.randbytes(2) + data[at + 2 :]
    return (b"", pickle.dumps(Bomb()), other)[kind - 4]


class Faults:
    """Counts what a test injects and what is survived; both targets print the sums of all tests.

    `one` is for what is checked at once. Where whether a fault was survived shows only at the end, as of a
    killed chain, each fault is counted with `hit` and all of them with `survived`, after the last assertion.
    """

    def __init__(self):
        self.counts = [0, 0]

    def hit(self) -> None:
        """Something broke: a living process was hit, a file was changed."""
        self.counts[0] += 1

    def survived(self) -> None:
        """Everything promised of what was injected so far was found to hold."""
        self.counts[1] = self.counts[0]

    @contextlib.contextmanager
    def one(self):
        self.hit()
        yield
        self.counts[1] += 1


def celeba_lists(base: Path, names: list[str], split: list[int]) -> None:
    """CelebA's own lists: of each photograph its part of the data set (0, 1, 2) and what it shows."""
    count = len(names)
    lists = {
        "list_eval_partition.txt": [f"{name} {part}" for name, part in zip(names, split, strict=True)],
        "identity_CelebA.txt": [f"{name} 7" for name in names],
        "list_attr_celeba.txt": [str(count), "Bald Smiling", *(f"{name} -1  1" for name in names)],
        "list_bbox_celeba.txt": [
            str(count),
            "image_id x_1 y_1 width height",
            *(f"{n} 1 2 3 4" for n in names),
        ],
        "list_landmarks_align_celeba.txt": [str(count), "lefteye_x lefteye_y", *(f"{n} 1 2" for n in names)],
    }
    for file, lines in lists.items():
        (base / file).write_text("\n".join(lines) + "\n")


@pytest.fixture
def faults(record_property):
    counted = Faults()
    record_property("faults", counted.counts)
    return counted


@pytest.fixture
def measured(record_property):
    """A function of a text: what a test measured, told at the end of all."""
    return lambda text: record_property("measured", text)


@contextlib.contextmanager
def first_images(count: int, data: Path):
    """For a `with` block, data sets have their first images alone; what is computed of them is in `data`."""
    real = datasets.load

    def few(*arguments, **keywords):
        found = real(*arguments, **keywords)
        return datasets.ImageDataset(found.name, found.split, found.images[:count])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", few)
        patch.setenv("CUNET_DATA", str(data))
        yield


def free_port() -> int:
    """A port of the loopback that nobody has: below those that the system hands out, beginning at a number of
    this process, so that neither another worker nor a passing connection takes it before it is used."""
    for offset in range(10_000):
        port = 20_000 + (os.getpid() * 37 + offset) % 10_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port between 20000 and 30000 is free")


@pytest.hookimpl(trylast=True)  # when those that shall not run are out
def pytest_collection_modifyitems(items: list) -> None:
    """Tests of many minutes are the first that each worker does, in turn: none shall begin one when others
    have nothing left to do. Those of one file go to one worker, which makes what they share once.
    (`worksteal` of pytest-xdist hands out the list in equal shares.)"""
    workers, left = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)), len(items)
    longest = [item for item in items if item.get_closest_marker("first")]
    files = list(dict.fromkeys(item.path for item in longest))
    others = iter([item for item in items if not item.get_closest_marker("first")])
    ordered = []
    for worker in range(workers):
        mine = [item for item in longest if item.path in files[worker::workers]]
        share = left // (workers - worker)
        left -= share
        ordered += [*mine, *itertools.islice(others, max(0, share - len(mine)))]
    items[:] = [*ordered, *others]


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests measured, and the faults of all workers together; both are said with `record_property`."""
    reports = [r for group in ("passed", "failed") for r in terminalreporter.stats.get(group, [])]
    said = [pair for r in reports if r.when == "call" for pair in r.user_properties]
    for text in [text for key, text in said if key == "measured"]:
        terminalreporter.write_line(f"measured: {text}")
    counts = [count for key, count in said if key == "faults"]
    if counts:
        injected, survived = (sum(count[i] for count in counts) for i in (0, 1))
        terminalreporter.write_line(
            f"faults: {injected} injected, {survived} survived, {injected - survived} lost"
        )
