"""What a job of the chain has to compute, counted from its parameters before it runs.

Work is counted in images that pass through a network, by kind:

    train     an image of a training step, forward and backward       on the GPU if there is one
    sample    an image of a network call in sampling or validation    on the GPU if there is one
    call      an image of a network call that a notebook makes itself on the processor
    made      an image through AlexNet where it was sampled           as `sample`
    feature   an image through AlexNet that a notebook has in memory  on the processor
    score     a pair of images for SSIM, PSNR and LPIPS               on the processor
    distance  a Frechet distance between given statistics             on the processor
    kernel    a pair of images under the kernel of a kernel distance  on the processor
    pixel     a pixel of an image beside another's, in the search for copies, on the processor
    unit      what else a notebook does, in a measure of its own parameters (`OWN_WORK`)

`count` gives a job's work (that of notebook 07 is in `cunet.synthesis_work`); `macs` what an image costs in a
network. Small change is left out: timings of single calls, plots, tables. What these counts miss, `cunet
estimate` finds in no way, so they are checked against measured runs (`cunet.calibration`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from cunet import checkpoints, datasets, models, paper
from cunet.checkpoint_names import Trained, besides, further, guided
from cunet.errors import InputError
from cunet.sources import SOURCES
from cunet.trajectories import VARIANTS
from cunet.validation import VALIDATION_IMAGES

IMAGES = {name: (of.train, of.test, of.channels) for name, of in SOURCES.items() if of.train}
"""Training images, test images and channels of the data sets of which this is known before they are read."""
WIDTH = 256  # features of an image
FEATURES = 4 * WIDTH  # bytes of them
DISTANCE_IMAGES = 300  # behind the distance that `cunet.calibration` measures
READERS = ("07_synthesis", "08_denoising", "10_ablations", "11_beyond")  # of a data set's kept features
STOPS = 8  # moments of a walk at which it takes distances
BACKWARD = 3  # calls that an image costs forward and backward
FLOW = 70  # evaluations along the probability flow of notebook 11, each two calls and their gradient

Network = tuple[str, str, int]
"""A network: its model, a name of `cunet.models.MODELS` or `cunet.denoisers.NETWORKS`; size; channels."""


class Item(NamedTuple):
    """A kind of work, and the network that does it; None where it is none."""

    kind: str
    network: Network | None = None


Work = Counter
"""Item -> number of images, pairs, distances or units."""


def images(dataset: str) -> tuple[int, int, int]:
    """Training images, test images and channels of a data set, as published; of a folder, as they lie there.

    Raises InputError for an unknown data set, and for a folder without images.
    """
    return IMAGES.get(dataset) or (*datasets.find(dataset), SOURCES[dataset.partition(":")[0]].channels)


class Untold(nn.Module):
    """A network that is told no diffusion step, called like those that are: (images, timestep)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.channels = network, network.channels

    def forward(self, images: Tensor, timestep: int | Tensor) -> Tensor:
        return self.network(images)


def build(network: Network) -> nn.Module:
    """An untrained network, called as network(images, timestep)."""
    from cunet import denoisers

    name, size, channels = network
    if name in denoisers.NETWORKS:
        return Untold(denoisers.build(name, size, channels))
    return models.build(name, size, channels)


@functools.cache
def macs(network: Network) -> int:
    """Multiply-accumulates of one image in one call of a network."""
    from cunet import cost

    return cost.macs(build(network), models.image_size(network[1]))


@functools.cache
def depth_shares(network: Network, depths: tuple[float, ...]) -> tuple[float, ...]:
    """Multiply-accumulates of a call at each depth over those at depth 1; of depths rounded alike once.

    Raises InputError for a network without ODE blocks.
    """
    from cunet import adaptive

    own, *found = adaptive.work(build(network), (1.0, *depths))
    return tuple(dict.fromkeys(each / own for each in found))


def distance_share(images: int) -> float:
    """What a distance of that many images takes, over one of `DISTANCE_IMAGES`.

    By the operations of `cunet.frechet.distance_to`: the features times the root of the real covariance; the
    smaller of the two products of the result with itself; its eigenvalues, 4/3 of the cube of its side (Golub
    and Van Loan, Matrix Computations, section 8.3).
    """

    def operations(n: int) -> float:
        side = min(n, WIDTH)
        return 2 * n * WIDTH**2 + 2 * n * side * WIDTH + 4 / 3 * side**3

    return operations(images) / operations(DISTANCE_IMAGES)


def distances(number: int, images: int) -> int:
    """So many distances, of so many images each, in those of `DISTANCE_IMAGES`; the part of one counts."""
    return math.ceil(number * distance_share(images))


def kernel_pairs(real: int, sets: int, images: int, resamples: int) -> int:
    """Pairs of images whose kernel the distances of sets of so many images to so many real ones take
    (`cunet.kernel_distance`): those of the real images among themselves once, and of each set with them and
    with itself. A resample weighs a pair of the latter, a product, where the kernel takes `WIDTH`."""
    return real**2 + sets * images * real + math.ceil(sets * images**2 * (1 + (resamples + 1) / WIDTH))


def count(notebook: str, given: dict[str, Any]) -> Work:
    """The work of one job: a notebook's name, and all its parameters; what it `read`s included.

    Raises InputError for parameters that the notebook could not work with.
    """
    try:
        work = _COUNTS[notebook](given) if notebook in _COUNTS else Work()
    except (KeyError, IndexError) as error:
        raise InputError(
            f"What {notebook} would take cannot be counted from its parameters: {error.args[0]!r} is unknown "
            "or missing. Give it names that it knows, and two networks where it compares two."
        ) from error
    if found := read(notebook, given):
        work[Item("feature")] += sum(found.values())
    if notebook in OWN_WORK and (units := OWN_WORK[notebook](given)):
        work[Item("unit")] += units
    return work


def _training(of: dict[str, Any]) -> Work:
    """Notebook 05: the training with its validations, if made here; a last one, and a sheet of samples.

    `images` is what it sees. How much that is in `max_seconds` depends on the machine: see `estimate.needs`.
    """
    _, test, channels = images(of["dataset"])
    network, checked = (of["model"], of["size"], channels), min(VALIDATION_IMAGES, test)
    work = Work({Item("call", network): checked + of["samples"] * of["sampling_steps"]})
    if of["checkpoints"] == "train":
        every = of["validate_every"] or of["images"]
        work[Item("train", network)] += of["images"]
        work[Item("sample", network)] += checked * math.ceil(of["images"] / every)
    return work


def _sampling(of: dict[str, Any]) -> Work:
    """Notebook 06: who was told which step, one walk, and the samplers side by side."""
    channels, work = images(of["datasets"][0])[2], Work()
    for model in of["models"]:
        work[Item("sample", (model, of["size"], channels))] += of["error_images"] * len(of["told_steps"]) ** 2
    last = Item("sample", (of["models"][-1], of["size"], channels))
    work[last] += 2 * of["steps"] + 3 * of["shown"] * sum(of["few_steps"])
    return work


def read(notebook: str, of: dict[str, Any]) -> dict[tuple, int]:
    """Images of data sets whose features a notebook reads: computed once, by the first that asks, and kept.

    Returns which they are (data set, size, split, first, number) and how many.
    """
    if notebook not in READERS:
        return {}
    from cunet import synthesis_work

    found, told = [], _shipped(of, besides(of))
    for dataset in dict.fromkeys([*of["datasets"], *(dataset for dataset, _ in told)]):
        train, test, _ = images(dataset)
        limit = min(of["reference_images"], train)
        counts = {of["samples"]} if notebook == "10_ablations" else None  # sets that have a floor
        counts = synthesis_work.set_sizes(of, dataset) if notebook == "07_synthesis" else counts
        if counts == set():
            continue  # there is no network of it
        found.append((dataset, of["size"], "train", 0, limit))
        if counts:
            found.append((dataset, of["size"], "test", 0, test))
            for count in sorted(counts):
                more = min(count - test, train - limit)
                found += [(dataset, of["size"], "train", limit, more)] if more > 0 else []
    return {one: one[-1] for one in found}


def _synthesis(of: dict[str, Any]) -> Work:
    """Notebook 07: see `cunet.synthesis_work.count`."""
    from cunet import synthesis_work

    return synthesis_work.count(of)


def _denoising(of: dict[str, Any]) -> Work:
    """Notebook 08: the walks of the tables with their scores, the other protocols and strides, the curves,
    and on the first data set whole runs for their time."""
    from cunet.denoising_tables import strides

    work, pair, size = Work(), [of["models"][0], of["models"][-1]], of["size"]
    table, protocol = (strides(of[key], of).items() for key in ("levels", "protocol_levels"))

    def walks(levels: list[int], stride: int) -> int:
        return sum(math.ceil(level / stride) for level in levels)

    def looks(levels: list[int], stride: int, every: int = 1) -> int:  # the noisy image is one, too
        return sum(1 + math.ceil(math.ceil(level / stride) / every) for level in levels)

    protocols = len({variant.stochastic for variant in VARIANTS.values()})  # one walk is looked at twice
    calls = of["images"] * sum(walks(some, k) for k, some in table)
    calls += of["images"] * sum(walks(some, k) for k, some in protocol) * protocols
    calls += of["stride_images"] * sum(walks(of["stride_levels"], k) for k in of["strides"])
    scores = of["images"] * sum(looks(some, k, of["every"]) for k, some in table)
    scores += of["images"] * sum(looks(some, k, of["every"]) for k, some in protocol) * len(VARIANTS)
    scores += of["stride_images"] * sum(looks(of["stride_levels"], k) for k in of["strides"])
    curve = 2 * math.ceil(of["tradeoff_level"] / of["tradeoff_stride"]) + len(of["levels"])
    calls += of["tradeoff_images"] * curve + of["mean_images"] * len(of["mean_levels"])
    sets = 1 + len(pair) * 2 * STOPS  # the originals, and what two walks of each network show on the way
    for dataset in of["datasets"]:
        train, _, channels = images(dataset)
        for model in pair:
            work[Item("sample", (model, size, channels))] += calls
            work[Item("score")] += scores
        work[Item("feature")] += sets * of["tradeoff_images"]
        work[Item("distance")] += distances(sets, of["tradeoff_images"])
        real = min(of["reference_images"], train)
        work[Item("kernel")] += kernel_pairs(real, sets, of["tradeoff_images"], of["tradeoff_resamples"])
    timed = 3 * sum(of["cost_images"])  # once to warm up, and twice
    last = Item("sample", (pair[-1], size, images(of["datasets"][0])[2]))
    work[last] += timed * walks(of["stride_levels"], of["stride"])
    work[Item("score")] += timed * looks(of["stride_levels"], of["stride"])
    return work


def _denoisers(of: dict[str, Any]) -> Work:
    """Notebook 09: walks of the two networks with their scores, and the trainings of the others, if made
    here; the rest is small or BM3D's (`OWN_WORK`)."""
    work, levels = Work(), of["levels"]
    calls = of["images"] * sum(math.ceil(level / of["stride"]) for level in levels)
    for dataset in of["datasets"]:
        for model in (of["models"][0], of["models"][-1]):
            first = of["images"] * len(levels)
            work[Item("sample", (model, of["size"], images(dataset)[2]))] += calls + first
            work[Item("score")] += calls + first
    return work + _rivals(of) if of["checkpoints"] == "train" else work


def _rivals(of: dict[str, Any]) -> Work:
    """Notebook 09's trainings: of each method a blind network, and one a level, which sees as many images as
    those of table 4's levels would share; each validated twice, as it was trained and rounded."""
    from cunet import denoiser_training, denoisers

    work, share = Work(), len({row.noise for row in paper.TABLE_4})
    validations = 2 * len(denoiser_training.VALIDATION_LEVELS) * (1 + len(of["levels"]))
    for dataset in of["datasets"]:
        _, test, channels = images(dataset)
        for method, seen in zip(denoisers.NETWORKS, of["training_images"], strict=False):
            network = (method, of["size"], channels)
            work[Item("train", network)] += seen + len(of["levels"]) * (seen // share)
            work[Item("sample", network)] += validations * min(denoiser_training.VALIDATION_IMAGES, test)
    return work


def _ablations(of: dict[str, Any]) -> Work:
    """Notebook 10: each network that is there measured, two of them disturbed, and levels read back."""
    from cunet import synthesis

    work, size, full = Work(), of["size"], of["models"][0]
    further, more = {*of["remedies"], *of["earlier"]}, {*of["remedy_steps"]} - {of["steps"]}
    walks = sum(math.ceil(level / of["stride"]) for level in of["levels"])
    strengths = sum(len(of[kind]) for kind in ("factors", "input_noise", "impulses", "weight_noise"))
    tried = (1 + strengths) * of["trainings"]
    disturbed = of["disturbed_samples"] * of["disturbed_steps"] + of["images"] * walks
    one_call = of["images"] * len(of["levels"])
    held = len(of["held_steps"]) * of["loss_images"]
    read = 2 * of["rungs"] * (of["known_images"] + of["read_images"] * len(of["true_steps"])) + held
    for dataset in of["datasets"]:
        channels = images(dataset)[2]
        networks = [(model, seed) for model in (*of["models"], of["discrete"]) for seed in of["seeds"]]
        if of["checkpoints"] == "released":
            every = dict.fromkeys([*of["models"], *of["remedies"], *of["earlier"], of["discrete"]])
            found, _ = checkpoints.there(
                checkpoints.ASSETS, size, [dataset], every, of["seeds"], ("", *synthesis.VARIANTS)
            )
            networks = [(synthesis.name(one), one.seed) for one in found]
            if dataset != of["datasets"][0] and not {m for m, _ in networks} - {full, of["discrete"]}:
                continue  # nothing is held against the two there
        work[Item("distance")] += distances(synthesis.FLOORS, of["samples"])
        for model in [m for m, _ in networks] + [m for m, _ in networks if m == full]:  # again, told one step
            network = (synthesis.standard(model), size, channels)
            measured = of["samples"] * of["steps"] + of["images"] * walks + of["loss_images"]
            work[Item("sample", network)] += measured
            work[Item("call", network)] += held if model == full else 0
            work[Item("feature")] += of["samples"]
            work[Item("distance")] += distances(of["resamples"] + 1, of["samples"])
            work[Item("score")] += of["images"] * (walks + len(of["levels"]))
        beside = {m for m, _ in networks if synthesis.standard(m) == full != m or m in further}
        walked = [m for m, _ in networks if m in {*beside, full, of["discrete"]}] if beside else []
        for model in walked:  # at further numbers of steps
            work[Item("sample", (synthesis.standard(model), size, channels))] += of["samples"] * sum(more)
            work[Item("feature")] += of["samples"] * len(more)
            work[Item("distance")] += len(more) * distances(of["resamples"] + 1, of["samples"])
        for model in (of["discrete"], full):
            work[Item("sample", (model, size, channels))] += tried * disturbed
            work[Item("call", (model, size, channels))] += tried * one_call + read
            work[Item("feature")] += tried * of["disturbed_samples"]
            number = tried * (of["disturbed_resamples"] + 1)
            work[Item("distance")] += distances(number, of["disturbed_samples"])
            work[Item("score")] += tried * 2 * of["images"] * len(of["levels"])
    return work


def _beyond(of: dict[str, Any]) -> Work:
    """Notebook 11: every acceleration of both networks; of the first data set likelihood, depth, reuse and
    the solver; and images of a class."""
    work, pair = Work(), of["models"][:2]
    sets = [of["heun_calls"] if method == "heun" else of["calls"] for method in of["methods"]]
    sets.append(of["plain_calls"])
    for number, dataset in enumerate(of["datasets"]):
        _, test, channels = images(dataset)
        networks = [Item("call", (model, of["size"], channels)) for model in pair]
        for network in networks:
            timed = of["timing_rounds"] + 1  # a sample a round of the timing, and one before
            work[network] += timed * sum(map(sum, sets)) + 20 * of["power_images"]
            work[network._replace(kind="sample")] += of["samples"] * sum(map(sum, sets))
            work[Item("feature")] += of["samples"] * sum(map(len, sets))
        work[Item("feature")] += min(of["reference_images"], test, 2000)  # of the floor
        if number:
            continue
        even = depth_shares(networks[1].network, tuple(of["depths"]))
        between = ((a + b) / 2 for a, b in itertools.pairwise(even))
        by_need = sorted({*even, *between})[1:]  # budgets; with the least of all every call is a least one
        ways = 1 + len(of["reuse"])
        chains = {networks[0]: (ways, ways)}  # and how many calls at depth 1 a step of all of them takes
        chains[networks[1]] = (ways + len(even) + len(by_need), ways + sum(even) + sum(by_need))
        for network, (ways, calls) in chains.items():
            work[network] += 2 * 2 * 3 * FLOW * of["likelihood_images"]
            drawn = math.ceil(of["samples"] * of["depth_calls"] * calls)
            work[network._replace(kind="sample")] += drawn
            work[Item("feature")] += of["samples"] * ways
        work[networks[1]] += math.ceil(of["depth_images"] * of["depth_calls"] * sum(even))
        solved = of["ode_images"] * len(of["ode_levels"]) * sum(of["ode_depths"])
        drawn = of["ode_samples"] * of["depth_calls"] * sum(of["ode_sample_depths"])
        for _, model in [(dataset, pair[1]), *_shipped(of, further(of))]:
            work[Item("call", (model, of["size"], channels))] += solved
            work[Item("sample", (model, of["size"], channels))] += drawn
            work[Item("feature")] += of["ode_samples"] * len(of["ode_sample_depths"])
    return work + _told(of)


def _shipped(of: dict[str, Any], pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of (data set, network) that a notebook asks for those that ship; all in a run that trains."""
    if of["checkpoints"] != "released":
        return pairs
    names = {pair: Trained(*pair, of["seeds"][0]).stem(of["size"]) for pair in pairs}
    return [pair for pair in pairs if (checkpoints.ASSETS / f"{names[pair]}.safetensors").is_file()]


def _told(of: dict[str, Any]) -> Work:
    """Images of a class, of networks that know classes: two calls a step, one at 0 and 1; and test images of
    data sets that are not among `datasets`, which they are held against."""
    work, pairs = Work(), _shipped(of, guided(of))
    for dataset, model in pairs:
        calls = sum(1 if scale in (0.0, 1.0) else 2 for scale in of["scales"]) * of["guided_steps"]
        network = (model, of["size"], images(dataset)[2])
        work[Item("sample", network)] += of["guided_images"] * calls
        work[Item("feature")] += of["guided_images"] * len(of["scales"])
    for dataset in {dataset for dataset, _ in pairs} - set(of["datasets"]):
        work[Item("feature")] += min(of["reference_images"], images(dataset)[1], 2000)
    return work


_COUNTS: dict[str, Callable[[dict[str, Any]], Work]] = {
    "05_training": _training,
    "06_sampling": _sampling,
    "07_synthesis": _synthesis,
    "08_denoising": _denoising,
    "09_denoisers": _denoisers,
    "10_ablations": _ablations,
    "11_beyond": _beyond,
}

OWN_WORK: dict[str, Callable[[dict[str, Any]], float]] = {
    "01_ode_block": lambda of: of["toy_iterations"] * of["toy_seeds"],
    "02_adjoint": lambda of: of["batch"] * of["rounds"] * sum(of["network_steps"]),
    "03_sde": lambda of: of["points"] * (sum(of["counts"]) + sum(of["exact_counts"]) + of["steps"]),
    "04_networks": lambda of: of["memory_batch"] + of["timing_rounds"] * sum(of["timing_batches"]),
    "09_denoisers": lambda of: (  # planes for BM3D, twice each, and an image a round of timing
        (2 * of["images"] * len(of["levels"]) + of["timing_rounds"] + 1)
        * sum(images(dataset)[2] for dataset in of["datasets"])
    ),
}
"""What a notebook's own work grows with, where that is not its network work."""

FIXED = frozenset({"05_training"})
"""Notebooks whose own work is always the same: a page of curves and samples, however long it trained."""
