"""What work costs on a machine, as measured: the file papermill_runs/calibration.yaml, and how it is made.

    python -m cunet.calibration smoke laptop    # from two finished runs, and a minute of measuring here

Network work costs seconds an image and thread, measured at one size and scaled to another by multiply-
accumulates. What a notebook does besides (its start is apart) costs a + b x units seconds, where units are
`cunet.work.OWN_WORK`, or the seconds of its network work where it has none there, or none at all for those of
`cunet.work.FIXED`; a and b, not below 0, come by least squares from what its jobs used of the processor in
finished runs, after its network work has been taken off. The processor's seconds count, so that what else the
machine does lengthens them little.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cunet import folders, runs, work
from cunet.errors import InputError, command
from cunet.parameters import load_yaml
from cunet.provenance import environment
from cunet.work import Item, Work

BATCH = 64  # images a call when a network is measured
KERNEL_IMAGES = 8000  # behind the kernel that is measured: its matrix is no longer within reach of caches


@dataclass(frozen=True)
class Costs:
    """Measured costs. Seconds are of one thread, networks' seconds of one image.

    A network that was not measured is scaled from the one whose variant it is (cunet-nores from cunet), a
    stranger from the U-Net.

    machine: which processor, and when. start: s of a job that computes nothing. kernel: of its kernel alone.
    start_mb: MB that it holds. memory: name of a notebook -> MB that its jobs held at most in finished runs,
    over what their networks and data explain (`estimate.modelled_memory`). scaling: n threads are n^scaling
    times as fast as one. networks: model -> size -> {"train": s, "call": s, "macs": of one image}. other:
    kind -> s. notebooks: name -> (a, b), s and s a unit. gpu: MAC/s that a GPU reaches, how that is known.
    fitted: results that `notebooks` came from (`cunet.runs.seals`), which say nothing when held against it.
    """

    machine: str
    start: float
    kernel: float
    start_mb: float
    memory: dict[str, float]
    scaling: float
    networks: dict[str, dict[str, dict[str, float]]]
    other: dict[str, float]
    notebooks: dict[str, list[float]]
    gpu: dict[str, Any]
    fitted: list[str] = field(default_factory=list)

    def seconds(self, item: Item, amount: float) -> float:
        """Seconds of one thread that an amount of work takes."""
        if item.network is None:
            return amount * self.other["feature" if item.kind == "made" else item.kind]
        kind = "train" if item.kind == "train" else "call"
        model, size, _ = item.network
        base = model.partition("@")[0]
        measured = (name for name in (base, base.partition("-")[0], "unet") if name in self.networks)
        known = self.networks[next(measured)]
        nearest = known.get(size) or known["laptop"]
        return amount * nearest[kind] * work.macs(item.network) / nearest["macs"]

    def network_seconds(self, found: Work) -> float:
        """Seconds of one thread of all work that is counted, but for units."""
        return sum(self.seconds(item, n) for item, n in found.items() if item.kind != "unit")

    def own_seconds(self, notebook: str, found: Work) -> float:
        """Seconds of what a notebook does besides."""
        a, b = self.notebooks.get(notebook) or self.notebooks["default"]
        return a + b * self.units(notebook, found)

    def units(self, notebook: str, found: Work) -> float:
        """What a notebook's own work grows with: its units; without any, the seconds of its network work; 0
        where it does not grow."""
        if notebook in work.FIXED:
            return 0.0
        return found[Item("unit")] if notebook in work.OWN_WORK else self.network_seconds(found)


def path() -> Path:
    """The file of the costs."""
    return folders.root() / "papermill_runs" / "calibration.yaml"


def load() -> Costs:
    """The committed costs.

    Raises:
        InputError: the file is missing or is not one of costs.
    """
    try:
        return Costs(**load_yaml(path().read_text(encoding="utf-8"), str(path())))
    except (OSError, TypeError) as error:
        raise InputError(
            f"The costs in {folders.shown(path())} cannot be read ({error}). Make them again: "
            "`python -m cunet.calibration smoke laptop`, after these two runs."
        ) from None


def save(costs: Costs) -> None:
    """Write the file of the costs."""
    text = "# Made by `python -m cunet.calibration`; what the lines mean is said there. Not to be edited.\n"
    folders.write_atomically(path(), text + yaml.safe_dump(runs.plain(asdict(costs)), sort_keys=False))


def notebooks_from(costs: Costs, results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Name of a notebook -> (a, b), from the results of its jobs.

    The features of data sets are taken as kept from before, as they are once any run has computed them.
    """
    import numpy as np
    from scipy.optimize import nnls

    rows: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        given = result["parameters"]
        if given.get("max_seconds"):  # what it saw in them, on the machine that it ran on
            given = given | {"images": result["values"]["images_seen"]}
        which = result["notebook"], given
        found = work.count(*which) - Work({Item("feature"): sum(work.read(*which).values())})
        left = result["timings"]["cpu_s"] - costs.network_seconds(found) - costs.kernel
        units = costs.units(result["notebook"], found)
        rows.setdefault(result["notebook"], []).append((units, max(left, 0.0)))
    solved = {}
    for name, pairs in sorted(rows.items()):
        units, seconds = np.array(pairs).T
        a = b = float(np.mean(seconds))
        if np.ptp(units) > 0:  # weighted so that the shorter run counts as much as the longer
            weight = 1 / np.maximum(seconds, 1.0)
            (a, b), _ = nnls(np.stack([weight, weight * units], axis=1), weight * seconds)
        solved[name] = [round(float(a), 3), float(f"{b:.4g}") if np.ptp(units) > 0 else 0.0]
    solved["default"] = [round(float(np.mean([a for a, _ in solved.values()])), 3), 0.0]
    return solved


def memory_from(kernel: float, results: list[dict[str, Any]]) -> dict[str, float]:
    """`memory` of `Costs`, from the results of finished jobs; `kernel` is its `start_mb`."""
    from cunet import estimate

    found: dict[str, float] = {}
    for result in results:
        name, given = result["notebook"], result["parameters"]
        explained, _ = estimate.modelled_memory(given, work.count(name, given), kernel)
        over = result["timings"]["peak_mb"] - (explained - estimate.HANDS)
        found[name] = max(found.get(name, 0.0), over)
    return {name: round(over, 1) for name, over in sorted(found.items())}


def measure(names: tuple[str, ...] = ("unet", "cunet"), sizes: tuple[str, ...] = ("smoke", "laptop")):
    """`networks` and `other` of `Costs`, on this machine.

    Times are the processor's, on one thread.
    """
    import torch
    import torch.nn.functional as F

    from cunet import cost, frechet, kernel_distance, metrics, models, neighbours

    def seconds(task: Callable[[], object]) -> float:
        return cost.fastest(task, 3, time.process_time)

    torch.set_num_threads(1)
    networks: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        for size in sizes:
            network = models.build(name, size, 1).train()
            side = models.image_size(size)
            x = torch.randn(BATCH, 1, side, side)

            def call(network=network, x=x) -> None:
                with torch.no_grad():
                    network(x, 500)

            def step(network=network, x=x) -> None:
                F.mse_loss(network(x, 500), x).backward()

            networks.setdefault(name, {})[size] = {
                "train": seconds(step) / BATCH,
                "call": seconds(call) / BATCH,
                "macs": work.macs((name, size, 1)),
            }
    a, b = (torch.rand(32, 1, 32, 32) * 2 - 1 for _ in range(2))
    known = frechet.FrechetAlexNet(torch.randn(1000, work.WIDTH)).statistics()
    distance, some = frechet.distance_to(known), torch.randn(work.DISTANCE_IMAGES, work.WIDTH)
    many = torch.randn(KERNEL_IMAGES, work.WIDTH)
    copies, kept = (torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8) for n in (500, 4000))
    scores = (metrics.ssim, metrics.psnr, metrics.lpips)
    other = {
        "feature": seconds(lambda: frechet.features(a)) / len(a),
        "score": seconds(lambda: [score(a, b) for score in scores]) / len(a),
        "distance": seconds(lambda: distance(some)),
        "kernel": seconds(lambda: kernel_distance.RealImages.of(many)) / len(many) ** 2,
        "pixel": seconds(lambda: neighbours.nearest(copies, kept)) / (len(copies) * kept.numel()),
    }
    return networks, other


def scaling(results: list[dict[str, Any]], kernel: float) -> float:
    """How jobs gain from threads: the exponent, 0 ... 1, of finished jobs of several threads; 1 without any.

    A job's comes from the processor's seconds, without those of its kernel's start, over those on the clock,
    which begins after it; longer jobs count as much more.
    """
    import numpy as np

    found = [
        (r["timings"]["wall_time_s"], r["timings"]["cpu_s"] - kernel, r["environment"]["threads"])
        for r in results
        if r["environment"]["threads"] > 1 and r["timings"]["cpu_s"] > kernel
    ]
    if not found:
        return 1.0
    took, used, threads = np.array(found).T
    exponent = np.average(np.log(used / took) / np.log(threads), weights=took)
    return float(np.clip(exponent, 0.0, 1.0))


def gpu_rate() -> dict[str, Any]:
    """MAC/s of a GPU in training steps of the paper's U-Net in mixed precision; assumed if there is none."""
    import torch
    import torch.nn.functional as F

    from cunet import models

    if not torch.cuda.is_available():
        return {
            "macs_a_second": 2.0e13,
            "known_from": "assumed, not measured: there was no GPU to measure on",
        }
    network, x = models.build("unet", "paper", 3).cuda(), torch.randn(BATCH, 3, 64, 64, device="cuda")
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            F.mse_loss(network(x, 500), x).backward()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    rate = work.BACKWARD * work.macs(("unet", "paper", 3)) * BATCH / min(seconds)
    return {"macs_a_second": rate, "known_from": f"measured on {torch.cuda.get_device_name()}"}


def start() -> dict[str, float]:
    """`start`, `kernel` and `start_mb` of `Costs`, of a job in processes of its own that computes nothing."""
    import resource

    body = """# %% tags=["parameters"]
run_dir = "x"  # x
job = "00_nothing"  # x
profile = "x"  # x
seed = 0  # x

# %%
from cunet import checkpoints, metrics, folders, runs
run = runs.Run.open(globals())

# %%
result = run.save_result({})
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "00_nothing.py"
        notebook.write_text(body, encoding="utf-8")
        command = [sys.executable, "-m", "cunet", "notebook", str(notebook), "--out", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        timings = runs.result(folder, "00_nothing")["timings"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"start": seconds, "kernel": timings["cpu_s"], "start_mb": timings["peak_mb"]}


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.calibration RUN ...`: measure, read the runs' times, and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m cunet.calibration", description="Measure costs, and keep them."
    )
    parser.add_argument("runs", nargs="+", help="finished runs, by name or folder")
    given = parser.parse_args(arguments)
    results = [result for name in given.runs for result in runs.results(folders.find(name)).values()]
    if not results:
        raise InputError(f"There are no results in {', '.join(given.runs)}: run `cunet reproduce` first.")
    networks, other = measure()
    machine = f"{environment()['processor']}, {datetime.date.today()}"
    started = start()
    gained = scaling(results, started["kernel"])
    held = memory_from(started["start_mb"], results)
    costs = Costs(machine, **started, memory=held, scaling=gained, networks=networks, other=other,
                  notebooks={}, gpu=gpu_rate(), fitted=runs.seals(results))  # fmt: skip
    costs = Costs(**{**asdict(costs), "notebooks": notebooks_from(costs, results)})
    save(costs)
    print(f"Costs: {folders.shown(path())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
