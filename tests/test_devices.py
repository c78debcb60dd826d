"""Trainings in processes of their own: the command, what they say, and many devices against one."""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time

import psutil
import pytest
from conftest import hit, wait_for

from cunet import devices, processes, storage
from cunet.errors import InputError, TrainingInterrupted
from cunet.recipe import configure

SMALL = dict(model="unet", size="smoke", images=1152, batch_size=12, warmup=4, log_every=48)
SMALL |= dict(validate_every=480, checkpoint_every=4)
NAME = "mnist-unet-smoke-s0"
STOPPED = f"cunet: {TrainingInterrupted('x', 'at step 3.')}"


def command(tmp_path, **changes) -> list[str]:
    return devices.command(configure({**SMALL, **changes}), tmp_path / "s.json", tmp_path)


def test_one_device_is_a_plain_process_and_several_are_started_by_torchrun(tmp_path):
    assert "torch.distributed.run" not in command(tmp_path)
    several = command(tmp_path, devices=3)
    assert several[several.index("torch.distributed.run") + 1] == "--nproc-per-node=3"
    assert "--standalone" in several, "two trainings at once must not meet at one port"
    assert several[-4:] == command(tmp_path)[-4:]


def test_several_machines_are_those_of_a_slurm_job_and_nothing_else(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match="num_nodes=2 needs a Slurm job .* but this is none"):
        command(tmp_path, num_nodes=2)
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    with pytest.raises(InputError, match="this is a job of 3"):
        command(tmp_path, num_nodes=2)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    asked = command(tmp_path, num_nodes=2, devices=4)
    options = asked[1 : asked.index("-m") - 1]
    assert asked[0] == "srun" and {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} < set(options)
    assert "--overlap" in options, "or it waits for the step that it is started from"
    assert "--cpu-bind=none" in options and not any(word.startswith("--cpus-per-task") for word in options)
    for said, cores in (("16(x2)", 16), ("16,8", 8), ("36(x2),24", 24)):
        monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", said)
        assert f"--cpus-per-task={cores}" in command(tmp_path, num_nodes=2)
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-id=123456"} < set(asked)
    assert any(word.startswith("--rdzv-endpoint=") and word.endswith(":23456") for word in asked)


def test_what_a_training_refuses_is_said_in_its_words(tmp_path):
    said = []
    with pytest.raises(InputError, match=f"{NAME} ended: batch_size=12 cannot be shared by 1 devices in 5"):
        devices.run(configure({**SMALL, "accumulate": 5}), tmp_path, said.append)
    assert said and json.loads((tmp_path / f"{NAME}.recipe.json").read_text())["accumulate"] == 5


@pytest.mark.parametrize(
    "count, lines, why",
    [
        (2, ["starting", STOPPED, "cunet: The loss is nan."], ": The loss is nan."),
        (2, ["starting", STOPPED, "out of memory"], " with status 3: ['out of memory']"),
        (1, ["starting", STOPPED], ": Training x was stopped at step 3."),
        (1, ["starting", "killed"], " with status 3: ['killed']"),
        (1, [], " with status 3: []"),
    ],
)
def test_why_a_training_ended_is_what_a_process_refused_or_else_the_last_line(
    tmp_path, monkeypatch, count, lines, why
):
    code = f"import sys; print(*{lines}, sep=chr(10), end=''); sys.exit(3)"
    monkeypatch.setattr(devices, "command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(InputError) as refused:
        devices.run(configure({**SMALL, "devices": count}), tmp_path, lambda line: None)
    assert str(refused.value) == f"The training {NAME} ended{why}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_stops_the_training_which_saves_its_state(tmp_path, monkeypatch, number):
    """A stand-in for torchrun, which saves at SIGTERM and says more than a pipe holds."""
    state = tmp_path / f"{NAME}.state.safetensors"
    code = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        "    print('x' * 200_000, flush=True)\n"
        f"    pathlib.Path({str(state)!r}).touch()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(devices, "command", lambda *_: [sys.executable, "-c", code])
    before = signal.getsignal(number)
    with pytest.raises(
        TrainingInterrupted, match=f"{NAME} was stopped with all its processes, and its state"
    ):
        devices.run(configure({**SMALL, "devices": 2}), tmp_path, lambda line: os.kill(os.getpid(), number))
    assert state.is_file() and signal.getsignal(number) is before
    me = psutil.Process()
    assert not [child for child in me.children() if processes.running(child) and code in child.cmdline()]


def final(folder) -> dict:
    return storage.read(folder / f"{NAME}.safetensors")[1]


def curves_agree(one: dict, other: dict) -> None:
    for curve in ("loss_curve", "validation"):
        assert [seen for seen, _ in one[curve]] == [seen for seen, _ in other[curve]]
        for (_, loss), (_, again) in zip(one[curve], other[curve], strict=True):
            assert again == pytest.approx(loss, abs=1e-5)


def ranks(folder) -> list[psutil.Process]:
    """The processes that train into a folder, by their ranks, without torchrun's own."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(folder) in words and "torch.distributed.run" not in words:
            with contextlib.suppress(psutil.Error, KeyError):  # one that has just ended, or is about to
                found[int(process.environ()["RANK"])] = process
    return [found[rank] for rank in sorted(found)]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killing_one_of_three_stops_the_others_and_another_number_goes_on(
    tmp_path, monkeypatch, measured, faults
):
    """One process; three whose first is killed, three of which a drawn other one is, two that are stopped,
    one to the end: the same curve. Torchrun itself is only asked to stop: when it is killed, nobody watches
    the others, and they are ended by the chain that they belong to (tests/test_chain.py)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    devices.run(configure(SMALL), tmp_path / "one", lambda line: None)
    folder, failed = tmp_path / "many", []

    def training(count):
        try:
            devices.run(configure({**SMALL, "devices": count}), folder, lambda line: None)
        except InputError as error:
            failed.append(str(error))

    def step() -> int:
        path = folder / f"{NAME}.state.json"
        return json.loads(path.read_text())["step"] if path.is_file() else 0

    seconds, other = [], random.Random(0).choice((1, 2))
    for count, number, rank in (
        (3, signal.SIGKILL, 0),
        (3, signal.SIGKILL, other),
        (2, signal.SIGTERM, None),
    ):
        before = step()
        thread = threading.Thread(target=training, args=(count,))
        thread.start()
        wait_for(lambda before=before: step() > before, "a saved state")
        alive = ranks(folder)
        assert len(alive) == count
        assert hit(alive[0].parent() if rank is None else alive[rank], number)  # torchrun tells all of them
        faults.hit()
        since = time.monotonic()
        psutil.wait_procs(alive, timeout=60)
        seconds.append(time.monotonic() - since)
        to = "torchrun" if rank is None else f"rank {rank}"
        measured(f"{count} ranks, signal {number} to {to}: {seconds[-1]:.1f} s until all had ended")
        thread.join(60)
        assert not any(processes.running(process) for process in alive)
        assert not thread.is_alive() and not ranks(folder)
    assert max(seconds) < 30 and len(failed) == 3  # the promise is a time, so here a clock is right
    assert 0 < step() < 1152 // 12
    training(1)
    assert len(failed) == 3, failed
    curves_agree(final(tmp_path / "one"), final(folder))
    assert final(folder)["devices"] == 1
    faults.survived()


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.long)])
def test_two_and_three_devices_have_the_loss_curve_of_one(tmp_path, count):
    for folder, number in (("one", 1), ("many", count)):
        devices.run(configure({**SMALL, "devices": number}), tmp_path / folder, lambda line: None)
    curves_agree(final(tmp_path / "one"), final(tmp_path / "many"))
    assert final(tmp_path / "many")["devices"] == count


@pytest.mark.long
def test_two_machines_meet_and_have_the_loss_curve_of_one(tmp_path, monkeypatch):
    """Two torchruns, as srun would start one on each of two machines: here both are this one."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    lines = ["#!/bin/bash", "while [[ $1 == --* ]]; do shift; done", '"$@" & first=$!', '"$@"', "wait $first"]
    srun.write_text("\n".join(lines) + "\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setattr(devices.socket, "gethostname", lambda: "127.0.0.1")
    for folder, machines in (("one", 1), ("two", 2)):
        devices.run(configure({**SMALL, "num_nodes": machines}), tmp_path / folder, print)
    curves_agree(final(tmp_path / "one"), final(tmp_path / "two"))
    assert final(tmp_path / "two")["devices"] == 2
