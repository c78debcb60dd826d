"""Locks that die with their owner, and processes that outlive theirs.

A chain of notebooks is a tree of processes: `cunet reproduce`, Snakemake, one `cunet notebook` a job, and its
kernel. Any of them may be killed at any time. Two rules keep the results whole:

* whoever writes holds a lock that the operating system drops when the process ends (`flock`), so a lock is
  never stale;
* whoever starts something marks it with an environment variable, so that what an earlier, killed owner left
  running can be found and ended before anybody else starts to write (`end_marked`).
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from cunet.errors import InputError


def identity(pid: int | None = None) -> dict:
    """What tells a process from a later one of the same number: host, pid and time of start."""
    process = psutil.Process(pid)
    return {"host": socket.gethostname(), "pid": process.pid, "started": round(process.create_time(), 2)}


def alive(who: dict) -> bool:
    """Whether the process that `identity` described still runs; one of another host is taken to run."""
    if who.get("host") != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(who["pid"]))
        same = abs(process.create_time() - float(who["started"])) < 0.1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


@contextlib.contextmanager
def locked(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on a file for the time of a `with` block.

    Arguments:
        path: the lock file; it stays there, and says who holds the lock or held it last.
        what: what is locked, for the message, for example "run 'laptop'".
        wait: seconds to wait for a holder that is about to end.

    Raises:
        InputError: another living process holds the lock; the message says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = open(path, "a+", encoding="utf-8")
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise InputError(_refusal(path, what)) from None
                time.sleep(0.1)
        stream.truncate(0)
        stream.write(json.dumps(identity()))
        stream.flush()
        yield
    finally:
        stream.close()


def _refusal(path: Path, what: str) -> str:
    """The message for somebody who comes second."""
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        holder = f"process {who['pid']} on {who['host']}, started {time.ctime(who['started'])}"
    except (OSError, ValueError, KeyError, TypeError):
        holder = "another process"
    return f"{what} is being made by {holder}. Wait until it has ended, or use another run (--run NAME)."


def marked(name: str, value: str) -> list[psutil.Process]:
    """The processes of this machine, except this one, whose environment has `name` set to `value`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
    return found


def end(processes: list[psutil.Process], patience: float = 3.0) -> int:
    """End processes: SIGTERM, and SIGKILL for those that are still there after `patience` seconds.

    Returns:
        How many there were.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=patience)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=patience)
    return len(processes)


def end_marked(name: str, value: str, patience: float = 3.0) -> int:
    """End every process marked with `name=value`, and what they start meanwhile; returns the count."""
    count = quiet = 0
    while quiet < 2:  # a process that is just being started shows its environment a moment later
        found = marked(name, value)
        count += end(found, patience)
        quiet = 0 if found else quiet + 1
        time.sleep(0 if found else 0.05)
    return count


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables, for this process and those it starts, for the time of a `with` block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Interrupted(Exception):
    """SIGINT or SIGTERM came. `signum` is its number."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at the first SIGINT or SIGTERM; ignore later ones."""

    def handler(signum, frame):
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(signum)

    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, handler)
    except ValueError:  # not in the main thread: whoever owns it handles signals
        yield
        return
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
