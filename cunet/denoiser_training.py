"""Training of the denoisers that are no diffusion networks: images plus noise in, clean images out.

    loss = mean over images of |network(x + s e) - x|^2 / (s^2 + 0.01)

The level, a number of diffusion steps, is drawn evenly from `lowest` ... `highest`, and s is its noise's
standard deviation (`cunet.denoisers`). From 1 to 800, the paper's highest, the network is *blind*: it has to
find the level out, as a practitioner would train it for use at any. With lowest = highest it is trained for
one level, as DnCNN first was; the paper's phrase that its own networks do without "specific noise-level
training" reads as if its rivals had this, but it does not say. The weight keeps faint noise, where errors
are small, from being drowned by strong noise.

Everything random about step k is a function of (seed, k) as in `cunet.batches`. Each minute the state is
saved, and at SIGINT or SIGTERM, once the step is done: the same command goes on from there, to the same bits
(`cunet.denoiser_state`). What other code has trained is moved to aside/ and trained again. The card has the
errors with the weights as trained and rounded to 16 bits, and they are stored in 16 where that costs less
than a hundredth.

    python -m cunet.denoiser_training --method dncnn --out folder
    python -m cunet.denoiser_training --method dncnn --lowest 50 --highest 50 --variant l50 --out folder
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoints, datasets, denoisers, precision, resume, storage
from .batches import BatchOrder
from .denoiser_state import State
from .denoising import noise_std, noise_stds
from .diffusion import Diffusion
from .errors import InputError, TrainingDiverged, TrainingInterrupted, command, one_of
from .launch import Signals
from .models import image_size
from .provenance import denoiser_code
from .recipe import TrainConfig, generator
from .sampling import best_device, progress_bar, whole_numbers

FLOOR = 0.01  # in the weight 1 / (s^2 + FLOOR): below s = 0.1 errors count alike
VALIDATION_LEVELS = (50, 150, 400)  # table 4
VALIDATION_IMAGES = 500
FREE = 0.01  # of the error: up to this share, storing the weights in 16 bits costs nothing


@dataclass(frozen=True)
class Recipe:
    """What to train and how; part of the checkpoint's card. Each field is an option of the command line."""

    method: str = "dncnn"  # a network of cunet.denoisers.NETWORKS
    dataset: str = "mnist"  # a name of cunet.datasets.DATASETS
    size: str = "laptop"  # a name of cunet.models.SIZES
    seed: int = 0  # of weights, batches and noise
    variant: str = ""  # last part of the file's name
    lowest: int = 1  # diffusion steps of noise, at least
    highest: int = 800  # diffusion steps of noise, at most
    images: int = 80_000  # to see, repeats counted; at laptop size DnCNN takes 8 CPU minutes, autoencoder 1
    batch_size: int = 64  # images an optimiser step
    learning_rate: float = 2e-3  # of Adam at its peak; linear rise, then a cosine to 0
    warmup: int = 100  # optimiser steps of the rise
    schedule: str = "cosine"  # noise schedule that turns a level into a standard deviation

    @property
    def name(self) -> str:
        """Stem of the checkpoint's files."""
        return checkpoints.stem(self.dataset, self.method, self.size, self.seed, self.variant)

    decay = "cosine"  # no field: that of every denoiser
    rate = TrainConfig.rate  # of learning_rate, warmup and decay, as every training here


def recipe_for(method: str, level: int | None = None, **settings) -> Recipe:
    """The recipe of a network for one level of noise, in diffusion steps; of a blind one if `level` is None.

    settings: other fields of Recipe.
    """
    span = {} if level is None else {"lowest": level, "highest": level}
    return Recipe(method, variant=denoisers.variant(level), **span, **settings)


def train(recipe: Recipe, out: str | Path, progress: bool = True) -> Path:
    """Train as the recipe says, or go on where an earlier call stopped; nothing is done twice.

    out: folder of the checkpoint, made if needed.    progress: show a bar.

    Returns the path of the checkpoint, its card beside it. Raises InputError for settings out of range, a
    checkpoint of other settings in its place, or another process at work on it; TrainingDiverged for a loss
    or gradient that is not finite; TrainingInterrupted at SIGINT or SIGTERM, what is saved stays.
    """
    diffusion, side = _checked(recipe)
    path = Path(out) / f"{recipe.name}.safetensors"
    with Signals() as stop, resume.lock(path), torch.random.fork_rng(devices=[]):
        stop.early = TrainingInterrupted(  # but in the steps, see `_fit`
            recipe.name,
            "before its first step or after its last. What was saved stays: start it again with the same "
            "settings and folder.",
        )
        state_path = resume.state_path(path)
        for old in (path, state_path):
            storage.clean(old)
            if storage.exists(old):
                card = storage.read(old)[1]
                _refuse_other(recipe, card.get("recipe", {}), old)
                if card.get("code") not in (None, denoiser_code()):
                    resume.move_aside(old, card)
        if storage.exists(path):
            storage.remove(state_path)
            return path
        data, test = (datasets.load(recipe.dataset, split, side) for split in ("train", "test"))
        torch.manual_seed(recipe.seed)
        network = denoisers.build(recipe.method, recipe.size, data.channels)
        state = _fit(network, recipe, data, diffusion, path, stop, progress)
        card = _card(recipe, data, diffusion, state.curve, state.elapsed())
        card["validation_mse"], card["validation_mse_float16"] = (
            validate(of.eval(), test, diffusion) for of in (network, precision.rounded(network, "float16"))
        )
        pairs = zip(card["validation_mse_float16"], card["validation_mse"], strict=True)
        free = all(half[1] <= (1 + FREE) * full[1] for half, full in pairs)
        checkpoints.save(path, network, card, dtype="float16" if free else "float32")
        storage.remove(state_path)
        return path


def _checked(recipe: Recipe) -> tuple[Diffusion, int]:
    """The diffusion whose noise a recipe asks for, and the side of its images.

    Raises:
        InputError: a setting is unknown or out of range.
    """
    whole = {key: (getattr(recipe, key), 1) for key in ("lowest", "highest", "images", "batch_size")}
    whole_numbers(**whole, seed=(recipe.seed, 0), warmup=(recipe.warmup, 0))
    diffusion = Diffusion(recipe.schedule, prediction_type="sample")
    if not recipe.lowest <= recipe.highest < diffusion.timesteps or not recipe.learning_rate > 0:
        raise InputError(
            f"Levels {recipe.lowest} ... {recipe.highest} at learning rate {recipe.learning_rate:g} cannot "
            f"be trained: expected 1 <= lowest <= highest < {diffusion.timesteps}, and a rate above 0."
        )
    one_of("denoising network", recipe.method, denoisers.NETWORKS)
    return diffusion, image_size(recipe.size)


def _fit(
    network: nn.Module, recipe: Recipe, data, diffusion: Diffusion, path: Path, stop: Signals, progress: bool
) -> State:
    """All steps that are missing; at their end, and at a signal, the state is saved. The state's loss curve
    is [images, mean loss since the last point] ..."""
    device = best_device()
    stds = noise_stds(diffusion).float()
    network.to(device, memory_format=torch.channels_last)  # a fifth faster on a CPU
    order = BatchOrder(len(data), recipe.batch_size, recipe.seed)
    adam = torch.optim.Adam(network.train().parameters(), fused=True)
    steps = -(-recipe.images // recipe.batch_size)
    about = {"recipe": asdict(recipe), "code": denoiser_code(), "dataset_sha256": data.sha256}
    state, early = State(path, network, adam, about), stop.early
    stop.early = None  # a step is finished, and the state saved
    with progress_bar(steps, recipe.name, progress) as bar:
        bar.update(state.step)
        for step in range(state.step, steps):
            draw = generator(recipe.seed, "step", step)
            x = data.batch(order(step))
            level = torch.randint(recipe.lowest, recipe.highest + 1, (len(x),), generator=draw)
            std = stds[level - 1].view(-1, 1, 1, 1)
            x, std, noise = (v.to(device) for v in (x, std, torch.randn(x.shape, generator=draw)))
            out = network(x + std * noise)
            loss = ((out - x).square() / (std.square() + FLOOR)).mean()
            adam.param_groups[0]["lr"] = recipe.rate(step, step / steps)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), 1.0))
            state.window.append(float(loss.detach()))
            if not math.isfinite(norm + state.window[-1]):  # before it reaches the weights
                raise _diverged(recipe, state, norm)
            adam.step()
            adam.zero_grad(set_to_none=True)
            if len(state.window) == 50 or step == steps - 1:
                mean = sum(state.window) / len(state.window)
                state.curve.append([(step + 1) * recipe.batch_size, mean])
                state.window = []
            state.step = step + 1
            bar.update()
            if stop.requested:
                break
            state.save_if_due()
    state.save()
    if stop.requested:
        raise TrainingInterrupted(
            recipe.name,
            f"at step {state.step} of {steps}, and its state is saved in {state.path}. Start it again with "
            "the same settings and folder: it goes on from there.",
        )
    stop.early = early
    return state


def _diverged(recipe: Recipe, state: State, norm: float) -> TrainingDiverged:
    """What to raise at a step whose loss, or gradient's norm, is not finite."""
    kept = f"the last good state is {state.path} (step {state.good})"
    return TrainingDiverged(
        f"Training {recipe.name} stopped at step {state.step} ({state.step * recipe.batch_size} images): the "
        f"loss is {state.window[-1]:.4g} and the gradient's norm {norm:.4g}; "
        f"{'no state was saved yet' if state.good is None else kept}. Try a lower --learning-rate (now "
        f"{recipe.learning_rate:g}) or a longer --warmup (now {recipe.warmup} steps), in another folder or "
        "as another --variant."
    )


@torch.no_grad()
def validate(network: nn.Module, dataset, diffusion: Diffusion) -> list[list[float]]:
    """[level, mean squared error of the network, of its noisy input] on the first test images, in [-1, 1]."""
    images = dataset.batch(slice(0, VALIDATION_IMAGES))
    rows = []
    for level in VALIDATION_LEVELS:
        noisy = denoisers.noisy_images(diffusion, images, level)
        clean = denoisers.Feedforward(network)(noisy, noise_std(diffusion, level))
        rows.append([level, *(_mse(x, images) for x in (clean, noisy.clamp(-1, 1)))])
    return rows


def _mse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


def _card(recipe: Recipe, data, diffusion: Diffusion, curve: list, seconds: float) -> dict[str, Any]:
    steps = -(-recipe.images // recipe.batch_size)
    return {
        "dataset": recipe.dataset,
        "dataset_sha256": data.sha256,
        "seed": recipe.seed,
        "variant": recipe.variant,
        "diffusion": diffusion.settings(),
        "code": denoiser_code(),
        "recipe": asdict(recipe),
        "images_seen": steps * recipe.batch_size,
        "steps": steps,
        "batch_size": recipe.batch_size,
        "loss_curve": curve,
        "wall_time_s": seconds,
    }


def _refuse_other(recipe: Recipe, saved: dict[str, Any], path: Path) -> None:
    """Raise InputError if the checkpoint at `path` was trained with other settings."""
    changed = [
        f"{k} was {saved.get(k)!r}, is now {v!r}" for k, v in asdict(recipe).items() if saved.get(k) != v
    ]
    if changed:
        raise InputError(
            f"{path} was trained with other settings: {'; '.join(changed)}. Train into another folder or as "
            "another `--variant`, or delete the file and its .json to start again."
        )


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.denoiser_training --method dncnn --out folder`; every setting of Recipe is an option.

    Returns the exit status: 0 done, 2 bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m cunet.denoiser_training", description=train.__doc__)
    for field in fields(Recipe):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = vars(parser.parse_args(arguments))
    out, quiet = chosen.pop("out"), chosen.pop("quiet")
    path = train(Recipe(**chosen), out, progress=not quiet)
    print(f"checkpoint: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
