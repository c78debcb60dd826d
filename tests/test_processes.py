"""Locks that die with their owner; processes found and ended by their mark."""

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from conftest import wait_for

from cunet import processes
from cunet.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from cunet import processes
with processes.locked(Path(sys.argv[1]), "It"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_refused_while_its_holder_lives_and_free_the_moment_it_is_killed(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"It is being made by process {holder.pid} on"):
        with processes.locked(path, "It"):
            pass
    holder.kill()
    holder.wait()
    with processes.locked(path, "It"):
        pass


def test_a_file_system_without_locks_is_told_from_a_lock_that_is_held(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(processes.fcntl, "flock", no_locks)
    with (
        pytest.raises(InputError, match="cannot be locked: No locks available.*file system"),
        processes.locked(tmp_path / "lock", "It", wait=60),
    ):
        pass


def test_a_lock_can_be_waited_for(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {holder.pid}"])
    with processes.locked(path, "It", wait=30):
        assert holder.wait() == -signal.SIGKILL


def test_a_process_is_told_from_a_later_one_of_its_number():
    me = processes.identity()
    assert processes.alive(me)
    assert not processes.alive({**me, "ticks": me["ticks"] - 500})
    assert not processes.alive({**me, "pid": 2**22 + 1}) and not processes.alive({**me, "pid": "x"})
    assert processes.alive({**me, "host": "another", "pid": 2**22 + 1})  # cannot be known from here


def test_setting_the_clock_changes_nobodys_identity(monkeypatch):
    me = processes.identity()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: me["started"] + 3600)
    assert processes.alive(me)
    assert not processes.alive({**me, "ticks": None})  # where there is no /proc the clock has to do


def test_a_zombie_is_dead():
    child = subprocess.Popen(["sleep", "600"])
    who, process = processes.identity(child.pid), psutil.Process(child.pid)
    assert processes.alive(who) and processes.running(process)
    child.kill()
    wait_for(lambda: not processes.alive(who), "the death of the child")
    assert process.is_running() and not processes.running(
        process
    )  # psutil counts it as long as its entry is there
    assert processes.end([process]) == 1
    child.wait()


def test_a_process_in_the_middle_of_its_exec_does_not_escape(monkeypatch):
    """For a moment it shows no environment: here twice, as if the machine were busy."""
    child = subprocess.Popen(["sleep", "600"], env={**os.environ, "CUNET_TEST": "late"})
    wait_for(lambda: processes.marked("CUNET_TEST", "late"), "the exec")
    shown, looks = psutil.Process.environ, []

    def late(self):
        if self.pid != child.pid:
            return shown(self)
        looks.append(self.pid)
        return {} if len(looks) <= 2 else shown(self)

    monkeypatch.setattr(psutil.Process, "environ", late)
    monkeypatch.setattr(processes, "_between", lambda pid: pid == child.pid)
    assert [process.pid for process in processes.marked("CUNET_TEST", "late")] == [child.pid]
    assert len(looks) == 3
    child.kill()
    child.wait()


def test_only_what_is_between_two_states_is_looked_at_again():
    empty = subprocess.Popen(["sleep", "600"], env={}, stdout=subprocess.DEVNULL)
    dead = subprocess.Popen(["true"])
    wait_for(lambda: not processes.running(psutil.Process(dead.pid)), "the end of a child")
    wait_for(lambda: psutil.Process(empty.pid).name() == "sleep", "the exec")
    wait_for(lambda: not processes._between(empty.pid), "an environment of length 0")
    assert not any(processes._between(pid) for pid in (dead.pid, os.getpid(), 2, 2**22 + 1))
    empty.kill()
    empty.wait()
    dead.wait()


def test_who_cannot_be_ended_is_named(monkeypatch):
    child = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(processes, "marked", lambda name, value: [psutil.Process(child.pid)])
    monkeypatch.setattr(processes, "end", lambda found, patience: 0)
    with pytest.raises(InputError, match=f"Process {child.pid}, which works for 'x', does not end"):
        processes.end_marked("CUNET_TEST", "x", limit=0.0)
    child.kill()
    child.wait()


def test_marked_processes_are_ended_even_if_they_ignore_sigterm_and_others_are_not():
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"{ignore}; print(1, flush=True); time.sleep(600)"
    mark = {**os.environ, "CUNET_TEST": str(os.getpid())}
    one = subprocess.Popen([sys.executable, "-c", stubborn], env=mark, stdout=subprocess.PIPE)
    one.stdout.readline()
    two = subprocess.Popen(["sleep", "600"], env=mark)
    other = subprocess.Popen(["sleep", "600"])
    assert processes.end_marked("CUNET_TEST", str(os.getpid()), patience=0.3) == 2
    assert one.poll() is not None and two.poll() is not None and other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize(
    "groups, files, gib",
    [
        ("0::/", {}, 64),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "3221225472", "memory.max": "9663676416"}, 3),
        ("0::/of/the/host", {"memory.max": "4294967296"}, 4),
        ("3:cpu,cpuacct:/x\n2:memory:/x\n0::/", {"memory/x/memory.limit_in_bytes": "2147483648"}, 2),
        ("2:memory:/x", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 64),
        (None, {}, 64),
    ],
    ids=["none", "version 2, of a parent", "a container's", "version 1", "version 1, none", "no Linux"],
)
def test_memory_is_the_machines_or_what_a_control_group_leaves(tmp_path, monkeypatch, groups, files, gib):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * 2**30))
    (tmp_path / "proc" / "self").mkdir(parents=True)
    if groups is not None:
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert processes.memory(tmp_path) == gib * 2**30 and 0 < processes.memory()


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("CUNET_A", "old")
    with pytest.raises(ZeroDivisionError):
        with processes.environment(CUNET_A="new", CUNET_B="new"):
            assert os.environ["CUNET_A"] == os.environ["CUNET_B"] == "new"
            1 / 0  # noqa: B018
    assert os.environ["CUNET_A"] == "old" and "CUNET_B" not in os.environ
