"""Trainings in processes of their own: the command, what they say, and many devices against one."""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from types import SimpleNamespace

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


# A training that says at its end what each rank held and wrote, and whose first is told to stop at a step.
WATCHED = """
import hashlib, json, os, signal
from pathlib import Path

from cunet import storage, training, training_job

Training, rank, wrote = training.Training, os.environ.get("RANK", "0"), []
write, step, finish = storage.write, Training.train_step, Training.finish

def noted(path, tensors, card):
    wrote.append(path.name)
    write(path, tensors, card)

def stopped(self):
    if rank == "0" and os.environ.get("STOP_AT") == str(self.step):
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self)

def told(self):
    digest = [hashlib.sha256(), hashlib.sha256()]
    for which, network in zip(digest, (self.ema, self.network)):
        for tensor in network.state_dict().values():
            which.update(tensor.detach().numpy().tobytes())
    finish(self)
    seen = {"average": digest[0].hexdigest(), "weights": digest[1].hexdigest(), "wrote": sorted(set(wrote))}
    (self.path.parent / f"rank-{rank}.json").write_text(json.dumps(seen))

storage.write, Training.train_step, Training.finish = noted, stopped, told
if __name__ == "__main__":
    raise SystemExit(training_job.main())
"""


def test_two_devices_in_two_parts_stop_and_go_on_to_the_same_bytes_and_the_first_alone_writes(
    tmp_path, monkeypatch
):
    """Two ranks with `accumulate`, stopped by a signal to the first and started again: the checkpoint is, to
    the byte, that of two that were not stopped, and its curve that of one process without parts. Each rank
    has the same average."""
    (tmp_path / "watched_training.py").write_text(WATCHED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    few = {**SMALL, "images": 240, "validate_every": 120}
    devices.run(configure(few), tmp_path / "one", lambda line: None)
    monkeypatch.setattr(devices, "training_job", SimpleNamespace(__name__="watched_training"))
    parts, folder = configure({**few, "devices": 2, "accumulate": 2}), tmp_path / "stopped"
    devices.run(parts, tmp_path / "whole", lambda line: None)
    with monkeypatch.context() as patch:
        patch.setenv("STOP_AT", "9")  # not one of those at which it saves by itself
        with pytest.raises(InputError, match=f"{NAME} ended"):
            devices.run(parts, folder, lambda line: None)
    state = json.loads((folder / f"{NAME}.state.json").read_text())
    assert state["step"] == 10 and not list(folder.glob("rank-*")), "no rank had come to its end"
    devices.run(parts, folder, lambda line: None)
    weights = [(tmp_path / name / f"{NAME}.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    for name in ("whole", "stopped"):
        first, second = (json.loads((tmp_path / name / f"rank-{n}.json").read_text()) for n in (0, 1))
        assert first["average"] == second["average"] != first["weights"] == second["weights"]
        assert first["wrote"] == [f"{NAME}.safetensors", f"{NAME}.state.safetensors"] and not second["wrote"]
    assert final(tmp_path / "whole")["loss_curve"] == final(folder)["loss_curve"]
    assert final(tmp_path / "whole")["validation"] == final(folder)["validation"]
    curves_agree(final(tmp_path / "one"), final(folder))
    assert final(folder)["recipe"]["accumulate"] == final(folder)["devices"] == 2


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
