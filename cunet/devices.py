"""A training in processes of its own: one, or one a device, which torchrun starts and watches.

    one device                 python -m cunet.training_job
    several, one machine       torchrun --standalone --nproc-per-node D -m cunet.training_job
    several machines           srun, which starts a torchrun on each machine of this Slurm job

A job of Snakemake's is a step of the Slurm job already, which holds all processors of its machine. A further
step would wait for that one to end, so it asks to share them (`--overlap`): one task a machine, with as many
processors as the job has there (`--cpus-per-task`), bound to none of them.

The processes form a group for Fabric's DDP (NCCL between GPUs, gloo between CPUs). Each draws the numbers of
the whole batch and computes its own share by index, so that the sequence of batches, and the loss curve up to
rounding, are those of one process (`cunet.batches`). If one of them dies, torchrun ends the others: they wait
for the dead one and cannot go on. Nothing is started again by itself: the same command goes on from the last
saved state, and may do so with another number of devices.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cunet import folders, processes, training_job
from cunet.errors import InputError, Interrupted, TrainingInterrupted, interruptible, said
from cunet.recipe import TrainConfig

SHUTDOWN = 20
"""Seconds that a process has to end, with its step done and its state saved, before it is killed."""

PORTS = (20_000, 10_000)
"""First port, and how many, of which a job on several machines takes one, by its number."""


def run(config: TrainConfig, out: Path, say: Callable[[str], object] = print) -> Path:
    """Train as `config` says, or what is missing of it, in processes of its own; returns the checkpoint.

    Args:
        config: the settings; its `devices` and `num_nodes` say how many processes.
        out: folder for the checkpoint and its state, and for the settings, `<name>.recipe.json`.
        say: called with each line that the processes print.

    Raises:
        InputError: what the training itself refused, in its words; or how it ended.
        TrainingInterrupted: SIGINT or SIGTERM came; the processes have saved their state and ended.
    """
    settings = out / f"{config.name}.recipe.json"
    folders.write_atomically(settings, config.model_dump_json(indent=1))
    process = subprocess.Popen(
        command(config, settings, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **_threads(config)},
    )
    lines = []
    try:
        with interruptible():
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    say(lines[-1])
            except BaseException:  # the training saves its state, and does not go on unseen
                process.terminate()
                process.stdout.read()  # a full pipe would keep it from ending
                process.wait()
                raise
    except Interrupted as error:
        raise TrainingInterrupted(config.name, _kept(config, out)) from error
    if status := process.wait():
        told = said(lines)
        if config.devices * config.num_nodes > 1:  # torchrun stops the others, which say so: that is no cause
            told = [text for text in told if TrainingInterrupted.SAYS not in text]
        why = f": {told[0]}" if told else f" with status {status}: {lines[-1:]}"
        raise InputError(f"The training {config.name} ended{why}")
    return out / f"{config.name}.safetensors"


def _kept(config: TrainConfig, out: Path) -> str:
    """What is left of a training that was stopped, and how to go on."""
    state = out / f"{config.name}.state.safetensors"
    saved = f"and its state is saved in {state}" if state.is_file() else "before it had a state to save"
    return f"with all its processes, {saved}. Start it again with the same settings and folder."


def command(config: TrainConfig, settings: Path, out: Path) -> list[str]:
    """The command that trains what the file `settings`, which holds `config`, says.

    Raises:
        InputError: several machines are asked for, but this is no Slurm job of as many.
    """
    python = [sys.executable, "-m"]
    train = [training_job.__name__, "--config", str(settings), "--out", str(out)]
    if config.devices * config.num_nodes == 1:
        return [*python, *train]
    torchrun = ["torch.distributed.run", f"--nproc-per-node={config.devices}"]
    torchrun += ["--max-restarts=0", f"--shutdown-timeout={SHUTDOWN}"]
    if config.num_nodes == 1:
        return [*python, *torchrun, "--standalone", "-m", *train]
    nodes, job = int(os.environ.get("SLURM_JOB_NUM_NODES", 0)), os.environ.get("SLURM_JOB_ID", "")
    if nodes != config.num_nodes or not job.isdigit():
        this = f"is a job of {nodes}" if nodes else "is none"
        raise InputError(
            f"num_nodes={config.num_nodes} needs a Slurm job of as many machines, but this {this}. Set "
            "`nodes` of the rule in the Slurm profile, take num_nodes=1, or start torchrun on each machine, "
            f"with `-m {' '.join(train)}` at its end."
        )
    first, count = PORTS
    meeting = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-id={job}"]
    meeting += [f"--rdzv-endpoint={socket.gethostname()}:{first + int(job) % count}"]
    srun = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    srun += [f"--cpus-per-task={cores}"] if (cores := _cores_a_machine()) else []
    srun += ["--cpu-bind=none", "--kill-on-bad-exit=1"]
    return [*srun, *python, *torchrun, *meeting, "-m", *train]


def _cores_a_machine() -> int:
    """Processors that this Slurm job has on each of its machines, the fewest; 0 if Slurm does not say."""
    text = re.sub(r"\(x\d+\)", "", os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))  # "16(x2),8"
    return min((int(count) for count in text.split(",") if count.isdigit()), default=0)


def _threads(config: TrainConfig) -> dict[str, str]:
    """The machine's cores divided among the processes on it, where nobody has said how many threads."""
    if config.devices == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, processes.cores() // config.devices))}
