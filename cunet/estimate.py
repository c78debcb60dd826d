"""What a run will take, before anything of it starts: hours, GPU-hours, memory, disk, by `FORMULA`.

The amounts follow from the job's parameters (`cunet.work`), the seconds were measured (`cunet.calibration`),
and a step's cost is scaled from the size at which it was measured by multiply-accumulates. A training image
costs a GPU three calls: one forward, two backward. Jobs are then laid out as the chain runs them, so many at
once, each after those it needs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from cunet import chain, models, processes, resume, runs, shards, synthesis_work, work
from cunet.calibration import Costs, load
from cunet.chain import Job, Plan
from cunet.parameters import declaration
from cunet.work import Item, Network, Work

FORMULA = """\
    seconds of a job = start + (own + sum of amount x seconds x MACs / MACs measured) / threads^scaling
    seconds on GPUs  = (3 MACs of a trained image + MACs of a called one) / (MAC/s of a GPU) / devices
    time of the run  = until the last job ends, each started after those it needs, as soon as there is room:
                       so many jobs at once, and of them no more on GPUs than there are"""
ON_GPU = ("train", "sample", "made")  # kinds of work that a GPU takes over
STATE = resume.COPIES * 4  # bytes a parameter on disk while it is trained
HANDS = 400  # MB of papermill and of Snakemake's own processes in a cluster's job, which counts them all
TRAINED = 5 * 4  # and in memory: weights, gradient, Adam's two moments, the average
PAGES = 2.0  # MB that a job leaves of notebook, figures and pages
SAFETY = 2.0  # how many times what is estimated a cluster is asked for
LEAST = 30  # minutes that it is asked for on top: a busy machine, a cold disk


@dataclass(frozen=True)
class Need:
    """What one job takes. seconds: from start to end; cpu, gpu: seconds of one thread and of one GPU;
    memory, gpu_memory, disk: MB, the memory at most."""

    name: str
    rule: str
    seconds: float
    cpu: float
    gpu: float
    memory: float
    gpu_memory: float
    disk: float
    devices: int
    nodes: int
    after: tuple[str, ...]


def needs(plan: Plan, costs: Costs, gpus: int, threads: int, features: bool = True) -> list[Need]:
    """What each job of a plan takes, the shards of samples included.

    gpus: GPUs of a machine; 0: the processor does everything. threads: of a job. Features of data sets that
    several jobs read are counted with the first, which keeps them for the others; without `features` no job
    computes any, since an earlier run has. A training by `max_seconds` sees as many images as this machine
    reaches in them.
    """
    found, seen = [], set()
    declared = {stem: declaration(chain.source(stem)) for stem in plan.profile.notebooks}
    for job in plan.jobs:
        given = _reached({**declared[job.notebook], **job.parameters}, costs, gpus, threads)
        amount, after, kept = work.count(job.notebook, given), job.needs, 0.0
        read = work.read(job.notebook, given)
        there = sum(n for which, n in read.items() if which in seen or not features)
        amount = amount - Work({Item("feature"): there})
        seen |= read.keys()
        if job.notebook == chain.SHARDED:
            drawn, kept = synthesis_work.kept(given)
            if shards_of := len(plan.receipts):
                share = synthesis_work.shared(given)
                part = Work({item: n / shards_of for item, n in share.items()})
                for name in plan.receipts:
                    stem = name.rpartition("/")[2].removesuffix(".txt")
                    mine = (costs, gpus, threads, job.needs, drawn / shards_of)
                    found.append(_need(stem, "samples", job, given, part, *mine))
                amount = amount - share
                after = (*job.needs, *(need.name for need in found if need.rule == "samples"))
            else:
                kept += drawn
        rule = f"notebook_{job.notebook}"
        found.append(_need(job.name, rule, job, given, amount, costs, gpus, threads, after, kept))
    return found


def _reached(given: dict[str, Any], costs: Costs, gpus: int, threads: int) -> dict[str, Any]:
    """The parameters of a job, with the `images` that a training by `max_seconds` reaches here."""
    if not given.get("max_seconds"):
        return given
    item = Item("train", (given["model"], given["size"], work.images(given["dataset"])[2]))
    if gpus:
        devices = min(given["devices"], gpus) * given["num_nodes"]
        rate = costs.gpu["macs_a_second"] * devices / (work.BACKWARD * work.macs(item.network))
    else:
        rate = threads**costs.scaling / costs.seconds(item, 1)
    return given | {"images": max(1, round(given["max_seconds"] * rate))}


def _need(
    name: str,
    rule: str,
    job: Job,
    given: dict[str, Any],
    amount: Work,
    costs: Costs,
    gpus: int,
    threads: int,
    after: tuple[str, ...],
    kept: float,
) -> Need:
    """What a job takes for an amount of work; kept: bytes of samples on the disk."""
    on_gpu = Work({item: n for item, n in amount.items() if gpus and item.kind in ON_GPU})
    on_cpu = Work({item: n for item, n in amount.items() if item not in on_gpu})
    macs = sum(
        n * (work.BACKWARD if item.kind == "train" else 1) * work.macs(item.network)
        for item, n in on_gpu.items()
        if item.network
    )
    gpu = macs / costs.gpu["macs_a_second"]
    devices = min(given.get("devices", 1), gpus) if gpu else 0
    cpu = costs.network_seconds(on_cpu)
    cpu += costs.own_seconds(job.notebook, on_cpu) if rule != "samples" else 0.0
    memory, gpu_memory = modelled_memory(given, amount, costs.start_mb, bool(gpu))
    if rule != "samples":
        memory += costs.memory.get(job.notebook, 0.0)
    return Need(
        name,
        rule,
        costs.start + cpu / threads**costs.scaling + gpu / max(1, devices * given.get("num_nodes", 1)),
        costs.start + cpu,
        gpu,
        memory,
        gpu_memory,
        PAGES
        + (kept + sum(STATE * parameters(item.network) for item in amount if item.kind == "train")) / 2**20,
        devices,
        given.get("num_nodes", 1),
        after,
    )


def modelled_memory(
    given: dict[str, Any], amount: Work, kernel: float, gpu: bool = False
) -> tuple[float, float]:
    """MB that a job holds at most: on a machine, its processes with the data; on a device, its networks.

    What a notebook holds besides is measured: `Costs.memory`. kernel: MB of a process that computes nothing.
    """
    names = [given["dataset"]] if "dataset" in given else given.get("datasets", [])
    side = models.image_size(given["size"]) if names and "size" in given else 0
    pixels = max((sum(work.images(d)[:2]) * work.images(d)[2] for d in names), default=0) * side**2
    held = 0.0
    for item in amount:
        if item.network is None:
            continue
        share, weights, kept = shards.BATCH, 4, 1 / 8  # without a gradient few activations live at once
        if item.kind == "train":
            parts = math.prod(given.get(key, 1) for key in ("devices", "num_nodes", "accumulate"))
            share, weights, kept = given["batch_size"] / parts, TRAINED, 1
        held = max(held, weights * parameters(item.network) + share * kept * activations(item.network))
    data, held = pixels / 2**20, held / 2**20
    own = data + (0.0 if gpu else held)
    trains = any(item.kind == "train" for item in amount)
    if trains and "devices" in given:  # a process a device, each with the data; and the kernel
        own = kernel + given["devices"] * (kernel + own)
    else:  # notebook 09 trains in its kernel
        own += kernel
    return HANDS + own, held if gpu else 0.0


@functools.cache
def activations(network: Network) -> float:
    """Bytes that a training step keeps of one image, measured on two: MACs tell less of it than a look."""
    from cunet import cost

    whole = cost.training_memory(lambda: work.build(network), models.image_size(network[1]), 2)
    return max(0.0, whole - 16 * parameters(network)) / 2


@functools.cache
def parameters(network: Network) -> int:
    """How many parameters a network has."""
    from cunet import cost

    return cost.parameters(work.build(network)).total


def data_disk(plan: Plan) -> float:
    """MB of the data sets that a run decodes or draws once, with their features."""
    side, total, read = models.image_size(plan.profile.size), 0, {}
    for job in plan.jobs:
        read |= work.read(job.notebook, {**declaration(chain.source(job.notebook)), **job.parameters})
    for dataset in dict.fromkeys([*plan.profile.datasets, *(which[0] for which in read)]):
        train, test, channels = work.images(dataset)
        total += (train + test) * channels * side**2 * (dataset != "mnist")
    return (total + sum(read.values()) * work.FEATURES) / 2**20


class Layout(NamedTuple):
    """How jobs lie in time: seconds from the first one's start to the last one's end, and the most MB that
    those at once hold together, each counted with the most that it ever holds."""

    seconds: float
    memory: float


def laid_out(found: list[Need], jobs: int, gpus: int = 0) -> Layout:
    """Jobs in time; who can start first does.

    At most `jobs` run at once, and those that do have at most `gpus` GPUs together; 0: GPUs set no limit.
    """
    names, ended, clock = {need.name for need in found}, set(), 0.0
    left, running, memory = list(found), [], 0.0
    while left or running:
        for need in list(left):
            busy = sum(other.devices for _, other in running)
            room = len(running) < jobs and (not gpus or busy + need.devices <= gpus)
            if room and names.intersection(need.after) <= ended:
                running.append((clock + need.seconds, need))
                left.remove(need)
        memory = max(memory, sum(need.memory for _, need in running))
        running.sort(key=lambda pair: pair[0])
        clock, done = running.pop(0)
        ended.add(done.name)
    return Layout(clock, memory)


def table(found: list[Need]) -> pd.DataFrame:
    """A row a rule: its jobs, hours of one thread and of one GPU in all, the longest job, and most memory."""
    frame = pd.DataFrame([vars(need) for need in found])
    grouped = frame.groupby("rule", sort=False)
    return pd.DataFrame(
        {
            "jobs": grouped.size(),
            "GPUs a job": grouped.devices.max(),
            "CPU-hours": grouped.cpu.sum() / 3600,
            "GPU-hours": grouped.gpu.sum() / 3600,
            "longest job, h": grouped.seconds.max() / 3600,
            "memory, GB": grouped.memory.max() / 1024,
            "of a GPU, GB": grouped.gpu_memory.max() / 1024,
            "disk, GB": grouped.disk.sum() / 1024,
        }
    )


def resources(found: list[Need]) -> dict[str, dict[str, int | str]]:
    """For a cluster: rule -> mem_mb, runtime (minutes) and GPUs of its largest job, with room to spare.

    On several machines GPUs are asked for by machine (`gres`), since Slurm hands out a total as it likes, and
    a task a machine where there are none, or it would take one machine for one task.
    """
    asked: dict[str, dict[str, int]] = {}
    for need in found:
        mine = {"mem_mb": int(need.memory * SAFETY), "runtime": int(need.seconds / 60 * SAFETY) + LEAST}
        mine |= {"gpu": need.devices} if need.devices else {}
        mine |= {"nodes": need.nodes} if need.nodes > 1 else {}
        old = asked.setdefault(need.rule, mine)
        asked[need.rule] = {key: max(value, old.get(key, 0)) for key, value in {**old, **mine}.items()}
    return {rule: _on_machines(mine) for rule, mine in asked.items()}


def _on_machines(asked: dict[str, int]) -> dict[str, int | str]:
    """What a rule asks for, said as Slurm understands it where it is for several machines."""
    if asked.get("nodes", 1) == 1:
        return asked
    rest = {key: value for key, value in asked.items() if key != "gpu"}
    return rest | ({"gres": f"gpu:{asked['gpu']}"} if "gpu" in asked else {"tasks": asked["nodes"]})


def report(plan: Plan, jobs: int, gpus: int | None = None, cores: int | None = None) -> str:
    """The estimate of a plan as text: a table a rule, totals, the formula, and what was measured where.

    jobs: at once. gpus, cores: of the machine; by default the profile's, and this machine's.
    """
    costs, threads, there = load(), threads_of(jobs, cores), gpus_of(plan, gpus)
    found = needs(plan, costs, there, threads)
    total, disk = table(found), sum(need.disk for need in found) + data_disk(plan)
    whole = laid_out(found, jobs, there)
    lines = [
        f"Profile {plan.profile.name}: {len(found)} jobs, {jobs} at once on {there or 'no'} "
        f"GPU{'' if there == 1 else 's'}, {threads} thread{'' if threads == 1 else 's'} each: "
        f"{said_time(whole.seconds / 3600)}",
        f"GPU-hours {total['GPU-hours'].sum():.3g}, CPU-hours {total['CPU-hours'].sum():.3g}, "
        f"peak memory {max(need.memory for need in found) / 1024:.2g} GB a job, {whole.memory / 1024:.2g} GB "
        f"of all at once and {max(need.gpu_memory for need in found) / 1024:.2g} GB of a GPU, disk "
        f"{disk / 1024:.2g} GB ({data_disk(plan) / 1024:.2g} GB of it decoded data)",
        *([basis(costs)] if total["GPU-hours"].sum() else []),
        "",
        total.to_markdown(floatfmt=".3g"),
        "",
        "How it is computed:",
        FORMULA,
        f"Measured: {costs.machine}.",
    ]
    unknown = {
        need.rule.removeprefix("notebook_") for need in found if need.rule != "samples"
    } - costs.notebooks.keys()
    if unknown:
        lines.append(f"Not measured, counted as an average notebook: {', '.join(sorted(unknown))}.")
    return "\n".join(lines)


def basis(costs: Costs) -> str:
    """What all that is said of GPUs rests on."""
    rate, known = costs.gpu["macs_a_second"], costs.gpu["known_from"]
    text = (
        f"What is said of GPUs rests on {rate:.3g} MAC/s of each, {known}. Several are taken to share a "
        "training without loss, which nobody measured."
    )
    if known.startswith("measured"):
        return text
    return (
        f"{text} Hours scale as 1 over it; `python -m cunet.calibration` measures it on a machine with a GPU."
    )


def threads_of(jobs: int, cores: int | None = None) -> int:
    """Threads of a job: the cores of a machine, by default of this one, divided among the jobs at once."""
    return max(1, (cores or processes.cores()) // jobs)


class Memory(NamedTuple):
    """What a machine's memory means for a run: a paragraph if it is too small, and whether to refuse it."""

    said: str
    refused: bool


def memory(plan: Plan, jobs: int, there: float) -> Memory:
    """Whether the jobs that a run lacks find room in a machine's memory; `said` is empty if they do.

    jobs: at once. there: MB that the machine has.

    A job that is too large alone is refused, since it would be killed in its middle. At smoke size it is
    only told: what notebooks hold besides was measured on larger networks. So is what fits with fewer jobs.
    """
    gpus = gpus_of(plan, None)
    found = [
        need
        for need in needs(plan, load(), gpus, threads_of(jobs))
        if need.rule == "samples" or not (plan.run_dir / "results" / f"{need.name}.json").is_file()
    ]
    largest = max(found, key=lambda need: need.memory, default=None)
    if largest is None or laid_out(found, jobs, gpus).memory <= there:
        return Memory("", False)
    gb = f"this machine has {there / 1024:.1f} GB (a container or a queue may leave less than there is)"
    if largest.memory > there:
        return Memory(
            f"{largest.name} is estimated to hold {largest.memory / 1024:.1f} GB at its peak, and {gb}: "
            "it would be killed. Take a machine with more, or a smaller profile; `cunet estimate` says what "
            "each job holds. If you know better, --ignore-memory starts the run all the same.",
            plan.profile.size != runs.SMOKE,
        )
    fit = max((n for n in range(1, jobs) if laid_out(found, n, gpus).memory <= there), default=1)
    return Memory(
        f"{jobs} jobs at once are estimated to hold {laid_out(found, jobs, gpus).memory / 1024:.1f} GB at "
        f"most, and {gb}. With --jobs {fit} they fit.",
        False,
    )


def gpus_of(plan: Plan, gpus: int | None) -> int:
    """GPUs of this machine: as said, or as the profile says, or one for networks of size paper."""
    if gpus is None:
        return plan.profile.gpus or (1 if plan.profile.size == "paper" else 0)
    return gpus


def gpus_asked(plan: Plan) -> dict[str, int]:
    """Rule -> GPUs that its largest job computes on, its `devices` or one; without rules that need none."""
    asked, declared = {}, {stem: declaration(chain.source(stem)) for stem in plan.profile.notebooks}
    for job in plan.jobs:
        given, rule = {**declared[job.notebook], **job.parameters}, f"notebook_{job.notebook}"
        found = work.count(job.notebook, given)
        if any(amount and item.kind in ON_GPU and item.network for item, amount in found.items()):
            asked[rule] = max(asked.get(rule, 0), given.get("devices", 1))
    return asked | ({"samples": 1} if plan.receipts else {})


def on_cluster(plan: Plan) -> list[Need]:
    """What the jobs take where each has its own machine: one thread counted, as many GPUs as it asks for."""
    return needs(plan, load(), 1024 if plan.profile.size == "paper" else 0, 1)


def said_time(hours: float) -> str:
    """Hours as people say them."""
    if hours < 1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
