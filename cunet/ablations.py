"""What each ingredient of the continuous U-Net contributes (appendix C, figures 12 to 14 of the paper).

A network is trained as the full one was, with one ingredient left out, and held against it: the distance of
its samples from data, what it makes of noisy images, its loss. An ingredient's contribution is the ablated
network's number minus the full one's; all numbers here are better when lower, so that a positive contribution
is a gain. Two things blur it. Another draw of images: both networks get the same noise and the same images,
and a bootstrap over pairs shows the rest. Another training seed: the deviation of a number's logarithm
between seeds, pooled over all networks that were trained from several, gives an interval of the ratio by
Student's t. A data set whose networks have one seed each borrows the deviation of the others, which takes
for granted that seeds spread as far there, relative to the number itself. The second is the one that a claim
about an ingredient needs; it leaves the first one out, since all trainings get the same images.

A Frechet distance is given above that of as many real images, its floor. But what seeds spread by is taken
relative to the distance itself, floor included. Relative to what is above the floor, the spread of a network
near the data would be taken for next to nothing; in absolute terms, it could be neither borrowed by another
data set, whose distances have another scale, nor pooled with that of networks many times as far. In a
difference the floor cancels.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from . import checkpoints, folders, metrics, recipe, subsets, synthesis
from .datasets import ImageDataset
from .denoising import denoise
from .diffusion import Diffusion
from .errors import InputError
from .frechet import features, refuse_alike
from .sampling import best_device, placed, sample
from .validation import validation_losses

INGREDIENTS = {  # network -> what it lacks
    "cunet-noattn": "attention",
    "cunet-nores": "residual connections",
    "cunet-plain": "attention and residual connections",
    "cunet-firstorder": "second order",
    "cunet-zerovelocity": "learned initial velocity",
    "cunet-released": "several at once",
}
REMEDIES = {  # network -> what it is suspected that the full one lacks, and gets
    "cunet@widths=(16,28,56,96)": "capacity: more channels where images are coarse",
    "cunet@steps=(1,2,4,4)": "solver: more evaluations, with as many weights",
    "cunet@time_width=256": "time conditioning: a wider embedding",
    "cunet-walltime": "training: the U-Net's time in place of its images",
}
EARLIER = {  # network -> a form that the full one had before it was made faster, with other widths and steps
    "cunet@widths=(8,20,40,56),steps=2": "none: an earlier form, narrower and with more evaluations",
}
FIGURES = {"cunet-noattn": 12, "cunet-nores": 13, "cunet-plain": 14}  # of the paper, by network
SEEDS, IMAGES = "training seeds", "images"  # what an interval may be over
Key = tuple[str, str, int]  # data set, network, training seed


def find(
    folder: Path, datasets: Sequence[str], models: Sequence[str], size: str, seeds: Sequence[int]
) -> tuple[dict[Key, Path], list[Key]]:
    """The checkpoints that are in a folder, of all combinations that are asked for, with the variants of
    their trainings (`synthesis.VARIANTS`) as networks of their own; and the networks that are there with none
    of the seeds, each with the first of these."""
    there, _ = checkpoints.there(folder, size, datasets, models, seeds, ("", *synthesis.VARIANTS))
    paths = {(one.dataset, synthesis.name(one), one.seed): path for one, path in there.items()}
    known = {key[:2] for key in paths}
    return paths, [(d, m, seeds[0]) for d in datasets for m in models if (d, m) not in known]


def command(key: Key, size: str, like: Mapping, folder: Path) -> str:
    """The command that trains a network as another one was trained.

    like: the recipe of that one, as its card has it. folder: where the checkpoint goes.
    """
    usual = recipe.TrainConfig().model_dump()
    own = ("dataset", "model", "size", "seed", "images", "variant", "data_root", "devices", "num_nodes")
    changed = {k: v for k, v in like.items() if k in usual and k not in own and v != usual[k]}
    settings = "".join(
        f" --set {k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changed.items()
    )
    name = f"--dataset {key[0]} --model {shlex.quote(key[1])} --size {size} --seed {key[2]}"
    return f"cunet train {name} --images {like['images']}{settings} --out {folders.shown(folder)}"


def unequal(card: Mapping, full: Mapping) -> str:
    """In words, what else than network and seed sets two trainings apart; empty if nothing does.

    A setting that a card does not have, since it came later, had its default.
    """
    alike = {"model": full["recipe"]["model"], "seed": full["recipe"]["seed"]}
    return recipe.configure({**card["recipe"], **alike}).changes(full["recipe"])


class Held(nn.Module):
    """A network that is told one diffusion step whatever it is shown: its time embedding, withheld."""

    def __init__(self, network: nn.Module, step: int):
        super().__init__()
        self.network, self.step = network, step
        self.channels, self.image_size = network.channels, network.image_size

    def forward(self, x: Tensor, timestep: int | Tensor) -> Tensor:
        return self.network(x, torch.full((len(x),), self.step, device=x.device))


def least_harmful(
    network: nn.Module, diffusion: Diffusion, images: ImageDataset, candidates: Sequence[int]
) -> Held:
    """The network told that one of the candidate steps with which its loss on some images is lowest."""
    held = [Held(network, step).eval() for step in candidates]
    return min(held, key=lambda one: float(validation_losses(one, images, diffusion)[:, 0].mean()))


class Measured(NamedTuple):
    """What one trained network was seen to do, row by row, so that rows of two networks are pairs.

    features: (N, 256), AlexNet features of its samples. shown: (n, C, H, W), the first samples. lpips: (M,),
    the best LPIPS on the way of each denoised image, averaged over the noise levels. losses: (K,), of
    validation images.
    """

    features: Tensor
    shown: Tensor
    lpips: Tensor
    losses: Tensor


def sampled(
    network: nn.Module, diffusion: Diffusion, samples: int, steps: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """AlexNet features of samples (DDIM), (N, 256), and the samples, (N, C, H, W) in [-1, 1]: the same noise
    for every network and number of steps. The network is on the first GPU meanwhile, where there is one.

    Raises InputError for samples that are all the same.
    """
    with placed(best_device(), network):
        drawn = sample(network, samples, diffusion, "ddim", steps, seed, progress=True)
    found = features(drawn)
    refuse_alike(found)
    return found, drawn


def measure(
    network: nn.Module,
    diffusion: Diffusion,
    test: ImageDataset,
    samples: int,
    steps: int,
    levels: Sequence[int],
    images: int,
    stride: int,
    loss_images: int,
    shown: int = 32,
    seed: int = 0,
) -> Measured:
    """Sample (DDIM, `steps` steps), denoise (the walk of `cunet.denoising`), and validate one network.

    test: test images; `images` of them are denoised, from each of `levels` noise steps, with a network call
    every `stride` steps; the losses of `loss_images` are taken, both from everywhere (`cunet.subsets`). The
    same images and the same noise for every network, which is on the first GPU meanwhile, where there is one.
    """
    with placed(best_device(), network):
        of_samples, drawn = sampled(network, diffusion, samples, steps, seed)
        found = denoise(
            network, subsets.images(test, images), diffusion, levels, ["mean"], ["lpips"], stride, seed=seed
        )
        losses = validation_losses(network, subsets.part(test, loss_images), diffusion)[:, 0]
    best = torch.stack([found["mean", level].best("lpips")[0] for level in levels], 1)
    return Measured(of_samples, drawn[:shown], best.double().mean(1), losses)


class Spread(NamedTuple):
    """Standard deviation of a number's logarithm between training seeds, the degrees of freedom that it rests
    on (0: unknown), and in words what it is pooled over."""

    deviation: float
    freedom: int
    of: str = ""


UNKNOWN = Spread(math.nan, 0)


def seed_spread(values: Mapping[tuple[str, str], Sequence[float]], dataset: str) -> Spread:
    """The pooled relative deviation between seeds: of the logarithm of each network's number around its own
    mean, taken together over the networks of `dataset` with several seeds, or, where it has none, of all.

    values: (data set, network) -> its number with each seed, above 0; of a distance the whole, not what is
    above its floor.
    """
    several = {key: np.asarray(group, float) for key, group in values.items() if len(group) > 1}
    groups = {key: group for key, group in several.items() if key[0] == dataset} or several
    if not groups:
        return UNKNOWN
    groups = {key: np.log(group) for key, group in groups.items()}
    freedom = sum(len(group) - 1 for group in groups.values())
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups.values())
    of = ", ".join(f"{d} {m} ({len(group)})" for (d, m), group in groups.items())
    return Spread(math.sqrt(squares / freedom), freedom, of)


class Contribution(NamedTuple):
    """A difference of means over seeds, ablated minus full, with its 95 % interval, and what that is over."""

    estimate: float
    low: float
    high: float
    over: str

    @property
    def sign(self) -> int:
        """1: the interval lies above 0 (the ingredient helps); -1: below (it harms); 0: it holds 0."""
        return int(self.low > 0) - int(self.high < 0)


class Draws(NamedTuple):
    """A statistic of one trained network's rows, of resamples of them (`metrics.resampled`), and how many
    rows they are (0: not said)."""

    value: float
    resamples: Tensor
    rows: int = 0


def draw(rows: Tensor, statistic: Callable | None = None, resamples: int = 1000, seed: int = 0) -> Draws:
    """A statistic (by default the mean) with its resamples: the same rows for every network."""
    return Draws(*metrics.resampled(rows, statistic, resamples, seed), len(rows))


def contribution(
    full: Sequence[Draws],
    ablated: Sequence[Draws],
    spread: Spread,
    floor: float = 0.0,
    level: float = 0.95,
) -> Contribution:
    """How much worse it is without: mean over seeds of `ablated` minus that of `full`, with an interval.

    full, ablated: one entry a training seed, each less `floor`. spread: between seeds, of the numbers with
    their floor. With degrees of freedom in it, the logarithm of the ratio of the two means with their floor
    has the reach: deviation times sqrt(1/n + 1/m) times Student's t; without, the interval is a centred
    bootstrap over pairs of images, which another training does not enter.

    Raises InputError if one of the two has no seed.
    """
    if not full or not ablated:
        raise InputError("A contribution is between two networks that were trained with one seed at least.")
    (without, drawn_without, _), (whole, drawn_whole, _) = mean(ablated), mean(full)
    estimate, ends = without - whole, [(1 - level) / 2, (1 + level) / 2]
    if spread.freedom:
        several = math.sqrt(1 / len(full) + 1 / len(ablated))
        reach = math.exp(float(student.ppf(ends[1], spread.freedom)) * spread.deviation * several)
        without, whole = without + floor, whole + floor
        return Contribution(estimate, without / reach - whole, without * reach - whole, SEEDS)
    drawn = drawn_without - drawn_whole
    low, high = (drawn + estimate - drawn.mean()).quantile(torch.tensor(ends).double())
    return Contribution(estimate, float(low), float(high), IMAGES)


def mean(draws: Sequence[Draws]) -> Draws:
    """Over training seeds, of as many rows each."""
    together = torch.stack([d.resamples for d in draws]).mean(0)
    return Draws(float(np.mean([d.value for d in draws])), together, min(d.rows for d in draws))


def contributions(
    draws: Mapping[Key, Mapping[str, Draws]],
    full: str,
    others: Sequence[str],
    held: str,
    floors: Mapping[str, float],
) -> pd.DataFrame:
    """What each ingredient contributes: `contribution` of every data set, network and measure.

    draws: of every training, by measure; those of further networks enter the spread between seeds alone.
    full: the network that has all ingredients, or another that all are held against. others: those without
    one, in order; where one has no training in a data set, it is left out there, and a data set without the
    full network altogether. held: the one of them that is the full network told one step: its trainings are
    the same, so seeds do not part the two. floors: of each data set, what its numbers of the measure fd are
    above.

    Returns a row a data set, measure and network: the full network's mean, the contribution with its
    interval, the same in per cent of that mean, what the interval is over, with the degrees of freedom and
    the trainings that it is pooled over, how many seeds each has, the sign, and whether it is smaller than
    the full network's range over its seeds (None with one seed). `without`: what a network lacks or gets, in
    words (`INGREDIENTS`, `REMEDIES`, `EARLIER`), else its name. Of a number at or below 0 (a distance that is
    no larger than that of real images) there are no per cent.
    """
    trained: dict[str, dict[tuple[str, str], list[float]]] = {}
    for (dataset, model, _), found in draws.items():
        for measure, one in found.items() if model != held else ():
            number = one.value + (floors[dataset] if measure == "fd" else 0.0)
            trained.setdefault(measure, {}).setdefault((dataset, model), []).append(number)
    rows = []
    for dataset, measure in dict.fromkeys((key[0], m) for key, found in draws.items() for m in found):
        by = {
            model: [found[measure] for key, found in draws.items() if key[:2] == (dataset, model)]
            for model in (full, *others)
        }
        by = {model: found for model, found in by.items() if found}
        if full not in by:
            continue
        values = {model: [one.value for one in found] for model, found in by.items()}
        spread = seed_spread(trained[measure], dataset)
        base, several = mean(by[full]).value, len(values[full]) > 1
        lacks = INGREDIENTS | REMEDIES | EARLIER | {held: "time embedding"}
        for model in list(by)[1:]:
            of = spread if model != held else UNKNOWN
            found = contribution(by[full], by[model], of, floors[dataset] if measure == "fd" else 0.0)
            percent = {
                name: 100 * x / base if base > 0 else math.nan
                for name, x in zip(("percent", "low", "high"), found[:3], strict=True)
            }
            reach = max(values[full]) - min(values[full])
            rows.append(
                dict(dataset=dataset, model=model, without=lacks.get(model, model))
                | dict(measure=measure, full=base, contribution=found.estimate)
                | dict(contribution_low=found.low, contribution_high=found.high, **percent)
                | dict(over=found.over, pooled=of.of, freedom=of.freedom)
                | dict(seeds=len(by[model]), full_seeds=len(by[full]), sign=found.sign)
                | dict(small=abs(found.estimate) < reach if several else None)
            )
    return pd.DataFrame(rows)


def at_steps(
    draws: Mapping[int, Mapping[Key, Mapping[str, Draws]]],
    first: str,
    others: Sequence[str],
    floors: Mapping[str, float],
    time: Mapping[tuple[str, str], float] | None = None,
) -> pd.DataFrame:
    """`contributions` at several numbers of sampling steps: at equal ones or, given `time`, in equal time.

    draws: number of steps -> what `contributions` takes, of samples of as many steps. first: the network that
    the others are held against. time: (data set, network) -> what one call takes, over one of `first`: beside
    each number of steps of `first`, every other network takes the most, of those that were tried, that it has
    time for. (The most and not the best: the lowest of several noisy distances is too low.)

    Returns the rows of `contributions` with two columns more, `steps` of the first and `own_steps` of the
    other; one that has no time for the fewest steps is left out there.
    """
    frames = []
    for steps in sorted(draws):
        own = {}
        for dataset, model in dict.fromkeys(key[:2] for key in draws[steps]):
            call = 1.0 if time is None or model == first else time[dataset, model]
            fits = [n for n in draws if (n == steps if time is None else n * call <= steps)]
            own |= {(dataset, model): max(fits)} if fits else {}
        found = {key: draws[own[key[:2]]][key] for key in draws[steps] if key[:2] in own}
        frame = contributions(found, first, others, "", floors)
        if len(frame):
            taken = [own[key] for key in zip(frame.dataset, frame.model, strict=True)]
            frames.append(frame.assign(steps=steps, own_steps=taken))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
