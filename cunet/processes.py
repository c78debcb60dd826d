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
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from cunet.errors import InputError

SETTLE = 5.0  # seconds in which a process that is being started or is ending shows which of the two it is
GUARD = "CUNET_GUARD"  # set by the chain for its jobs: the `identity` of its process
KERNEL_THREAD = 0x00200000  # PF_KTHREAD of Linux


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process and those it starts may use: the machine's, or less where a control
    group of Linux says so (a container's, a job's of a queue).

    root: where /proc and /sys are.
    """
    limits = [psutil.virtual_memory().total]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":  # version 2, one tree; in version 1 each controller has its own
                tree, file = root / "sys/fs/cgroup", "memory.max"
            elif "memory" in controllers.split(","):
                tree, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            else:
                continue
            inner = Path(group.lstrip("/"))
            for folder in (inner, *inner.parents):  # a limit holds for all groups within
                with contextlib.suppress(OSError, ValueError):  # no such file; "max", no limit
                    limits.append(int((tree / folder / file).read_text()))
    return min(limits)


def identity(pid: int | None = None) -> dict:
    """What tells a process from a later one of the same number: host, pid and when it started.

    `started` is in seconds since 1970, for people. `ticks` counts from the start of the machine (None where
    there is no /proc): setting the clock moves the first and not the second.
    """
    process = psutil.Process(pid)
    started = round(process.create_time(), 2)
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": started,
        "ticks": _ticks(process.pid),
    }


def alive(who: dict) -> bool:
    """Whether the process that `identity` described still runs; one of another host is taken to run."""
    if who.get("host") != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(who["pid"]))
        ticks = _ticks(process.pid)
        if ticks is None or who.get("ticks") is None:
            same = abs(process.create_time() - float(who["started"])) < 0.1
        else:
            same = ticks == who["ticks"]
        return same and running(process)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def guarded() -> bool:
    """Whether the chain that started this process, if any, is alive: a job must not go on without."""
    text = os.environ.get(GUARD)
    return not text or alive(json.loads(text))


def running(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie does not: it has ended, and only its parent has not asked how."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _stat(pid: int) -> list[str]:
    """/proc/<pid>/stat from its third field on, so that field n of proc(5) has index n - 3."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _ticks(pid: int) -> int | None:
    """Clock ticks from the start of the machine to that of a process; None where there is no /proc."""
    try:
        return int(_stat(pid)[22 - 3])
    except (OSError, IndexError, ValueError):
        return None


@contextlib.contextmanager
def locked(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on a file for the time of a `with` block.

    Arguments:
        path: the lock file; it stays there, and says who holds the lock or held it last.
        what: what is locked, for the message, for example "run 'laptop'".
        wait: seconds to wait for a holder that is about to end.

    Raises:
        InputError: another living process holds the lock; the message says which. Or the file system has
            no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = open(path, "a+", encoding="utf-8")
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):  # held; EACCES where fcntl stands in for flock
                if time.monotonic() >= deadline:
                    raise InputError(_refusal(path, what)) from None
                time.sleep(0.1)
            except OSError as error:  # for instance a network file system without a lock service
                raise InputError(
                    f"{path} cannot be locked: {error.strerror}. Without locks two commands could write the "
                    "same files; use a folder on a file system that has them."
                ) from None
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
    return f"{what} is being made by {holder}. Wait until it has ended, or use another folder."


def marked(name: str, value: str) -> list[psutil.Process]:
    """The processes of this machine, except this one, whose environment has `name` set to `value`.

    In the middle of an exec, and while its memory is being freed, a process shows no environment: it is
    looked at again until it shows one or has ended, for `SETTLE` seconds at most.
    """
    found, deadline = [], time.monotonic() + SETTLE
    unknown = [process for process in psutil.process_iter() if process.pid != os.getpid()]
    while unknown:
        unsettled = []
        for process in unknown:
            with contextlib.suppress(psutil.Error, OSError):
                shown = process.environ()
                if shown.get(name) == value:
                    found.append(process)
                elif not shown and _between(process.pid):
                    unsettled.append(process)
        unknown = unsettled if time.monotonic() < deadline else []
        if unknown:
            time.sleep(0.01)
    return found


def _between(pid: int) -> bool:
    """Whether a process of this user that shows no environment is in an exec or at its end (see proc(5)):
    it has none yet or none any more, in contrast to one of length 0, a zombie, or a thread of the system."""
    try:
        fields = _stat(pid)
        state, flags, env_end = fields[3 - 3], int(fields[9 - 3]), int(fields[51 - 3])
        mine = os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except (OSError, IndexError, ValueError):
        return False
    return mine and state not in "ZX" and not flags & KERNEL_THREAD and env_end == 0


def end(processes: list[psutil.Process], patience: float = 3.0) -> int:
    """End processes: SIGTERM, and SIGKILL for those that are still there after `patience` seconds.

    Returns:
        How many there were.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    stubborn = _outlasting(processes, patience)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _outlasting(stubborn, patience)
    psutil.wait_procs(processes, timeout=0)  # our own children leave no zombies
    return len(processes)


def _outlasting(processes: list[psutil.Process], patience: float) -> list[psutil.Process]:
    """Those that still run after `patience` seconds. Orphans need not be reaped: init may take its time."""
    deadline = time.monotonic() + patience
    while (left := [process for process in processes if running(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def end_marked(name: str, value: str, patience: float = 3.0, limit: float = 60.0) -> int:
    """End every process marked with `name=value`, and what they start meanwhile; returns the count.

    Raises:
        InputError: after `limit` seconds there are still some; the message has the number of one.
    """
    count = quiet = 0
    deadline = time.monotonic() + limit
    while quiet < 2:  # a process that is just being started shows its environment a moment later
        found = marked(name, value)
        count += end(found, patience)
        quiet = 0 if found else quiet + 1
        if found and time.monotonic() > deadline:
            raise InputError(
                f"Process {found[0].pid}, which works for {value!r}, does not end, not even when it is "
                "killed: it hangs in the system, perhaps on a disk that does not answer. Wait until it has "
                "ended, or restart the machine."
            )
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
