"""Training a noise predictor on Lightning Fabric, so that it can be stopped anywhere and goes on exactly.

One step draws images x_0 from the data, diffusion steps t and noise, and descends on the mean over the batch of
`Diffusion.loss` (Ho et al. 2020, algorithm 1; the prediction target is a setting). Weights are averaged over the
steps with an exponential moving average (EMA), and the average is what is kept and validated.

Nothing random has a memory: the images, diffusion steps, noise and flips of step k are functions of (seed, k) only.
A training that was killed and started again therefore repeats no number and skips none, and ends with the
same bits on the same machine and number of threads. Every device draws the whole batch's numbers and
takes its share, so that the sequence of batches does not depend on the number of devices either.

    python -m cunet.training --config recipe.json --out folder
"""

import argparse
import contextlib
import copy
import fcntl
import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from tqdm.auto import tqdm

from cunet import checkpoints
from cunet.errors import InputError

VALIDATION_IMAGES = 2000
"""How many test images (the first ones) a validation uses."""

VALIDATION_BATCH = 100
"""Images a forward pass in validation; fixed, so that the value does not depend on the training's batch size."""

OPERATIONAL = {"compile", "channels_last", "checkpoint_every", "checkpoint_seconds", "devices", "num_nodes"}
OPERATIONAL |= {"accumulate", "data_root"}
"""Settings that may change when a training is resumed: they change where and how fast it runs, not what it is."""


class TrainingDiverged(InputError):
    """The loss or a gradient became NaN or infinite; the text gives the step, the last good state, what to try."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the step was finished and the state saved. The text says how to resume."""


class TrainConfig(BaseModel):
    """What to train and how. Every field is part of the checkpoint's card (`recipe`)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    dataset: str = Field("mnist", description="name in cunet.datasets.DATASETS; default mnist")
    model: str = Field("cunet", description="name in cunet.models.MODELS; default cunet")
    size: str = Field(
        "laptop", description="name in cunet.models.SIZES, gives the image's side; default laptop"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, batches and noise; default 0")
    variant: str = Field(
        "", pattern=r"^[a-z0-9_]*$", description="last part of the file's name; default none"
    )
    images: int = Field(200_000, ge=0, description="images to see in all, repeats counted; default 200000")
    max_seconds: float = Field(
        0.0,
        ge=0,
        description="s of training; above 0 it replaces `images` as the budget; default 0 (by images)",
    )
    batch_size: int = Field(64, ge=1, description="images an optimiser step, over all devices; default 64")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of Adam; default 0.001")
    warmup: int = Field(200, ge=0, description="steps of linear rise to the peak; default 200")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the first moment; default 0.9")
    beta2: float = Field(0.99, ge=0, lt=1, description="Adam's decay of the second moment; default 0.99")
    clip: float = Field(1.0, ge=0, description="largest 2-norm of the gradient, 0 for none; default 1")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="decay a step of the weights' average; default 0.999"
    )
    schedule: str = Field("cosine", description="noise schedule: linear, cosine, sigmoid; default cosine")
    timesteps: int = Field(1000, ge=1, description="diffusion steps T; default 1000")
    prediction_type: str = Field(
        "v_prediction", description="epsilon, sample or v_prediction; default v_prediction"
    )
    flip: bool = Field(False, description="mirror images left-right with probability 1/2; default no")
    validate_every: int = Field(20_000, ge=0, description="images between validations, 0 for the end only")
    log_every: int = Field(2_000, ge=1, description="images a point of the loss curve averages; default 2000")
    checkpoint_every: int = Field(
        0, ge=0, description="steps between saved states, 0 for by time only; default 0"
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="s between saved states; default 60")
    compile: bool = Field(False, description="torch.compile the network; default no")
    channels_last: bool = Field(False, description="NHWC memory format; default no")
    devices: int = Field(1, ge=1, description="processes a node; more than 1 needs torchrun; default 1")
    num_nodes: int = Field(1, ge=1, description="machines; default 1")
    accumulate: int = Field(1, ge=1, description="parts a device splits its share of a batch into; default 1")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="default 32-true")
    data_root: str = Field(
        "", description="folder of the data set, where it needs one; default the standard one"
    )

    @property
    def name(self) -> str:
        """Stem of the files that this training writes."""
        return checkpoints.stem(self.dataset, self.model, self.size, self.seed, self.variant)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step number `step` (from 0) when a share `progress` (0..1) of the budget is used.

        Linear warm-up times cosine decay to 0 (Loshchilov and Hutter 2017, without restarts).
        """
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def configure(values: dict[str, Any]) -> TrainConfig:
    """A :class:`TrainConfig` from plain values (a JSON file, a notebook's parameters).

    Raises:
        InputError: a name is unknown, a type is wrong or a value is out of range; the text names each.
    """
    try:
        return TrainConfig(**values)
    except (ValidationError, TypeError) as error:
        if not isinstance(error, ValidationError):
            raise InputError(f"The training's settings must be names and values; got {values!r}.") from error
        faults = [
            f"{'.'.join(map(str, fault['loc']))}={fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        ]
        known = ", ".join(TrainConfig.model_fields)
        raise InputError(
            f"The training's settings are wrong: {'; '.join(faults)}. Known are: {known}."
        ) from error


# --- randomness without memory ------------------------------------------------------------------------------------


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator whose state is a function of the seed and the stream's name, such as ("step", 17)."""
    text = "/".join(map(str, (seed, *stream))).encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number)


class BatchOrder:
    """Which images step k sees: consecutive stretches of an endless list of permutations, one an epoch.

    Every image comes once an epoch, whether or not the batch size divides the number of images.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            draw = generator(self.seed, "epoch", epoch)
            self._epochs[epoch] = torch.randperm(self.images, generator=draw)
        return self._epochs[epoch]

    def __call__(self, step: int) -> Tensor:
        """Indices of step `step` (from 0), int64 of shape (batch_size,)."""
        parts, start, end = [], step * self.batch_size, (step + 1) * self.batch_size
        while start < end:
            epoch, offset = divmod(start, self.images)
            part = self._epoch(epoch)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]


# --- EMA, validation ------------------------------------------------------------------------------------------------


def ema_weight(decay: float, step: int) -> float:
    """The decay used after step number `step` (from 0): min(decay, (1 + n) / (10 + n)) with n = step."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def ema_update(average: list[Tensor], current: list[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * current, in place, for all tensors in one call."""
    torch._foreach_lerp_(average, current, 1.0 - decay)


@torch.inference_mode()
def validation_losses(model, dataset, diffusion, rank: int = 0, world: int = 1, stop=None) -> Tensor:
    """Loss of each of the first 2,000 images of `dataset` at a fixed diffusion step and fixed noise.

    The diffusion steps cover 0..T-1 evenly, in an order that does not depend on the image; steps and noise
    are the same for every network, seed and moment, so that values can be compared.

    Args:
        model: a network in evaluation mode.
        rank, world: this process computes every `world`-th batch and leaves 0 for the others.
        stop: called between batches; training asks it whether to give up.

    Returns:
        (N, 2) float64 on the CPU: loss and diffusion step.
    """
    n = min(VALIDATION_IMAGES, len(dataset))
    draw = generator(0, "validation")
    t = ((torch.arange(n) + 0.5) * len(diffusion.alphas_cumprod) / n).long()
    t = t[torch.randperm(n, generator=draw)]
    device = next(model.parameters()).device
    out = torch.stack([torch.zeros(n, dtype=torch.float64), t.double()], dim=1)
    for number, start in enumerate(range(0, n, VALIDATION_BATCH)):
        part = slice(start, min(start + VALIDATION_BATCH, n))
        if number % world != rank:
            continue
        if stop is not None and stop():
            break
        images = dataset.batch(torch.arange(part.start, part.stop))
        noise = torch.randn(images.shape, generator=generator(0, "validation", number))
        loss = diffusion.loss(model, images.to(device), t[part].to(device), noise.to(device))
        out[part, 0] = loss.double().cpu()
    return out


def validation_summary(losses: Tensor, timesteps: int) -> dict[str, Any]:
    """Mean loss, and the mean in each quarter of the diffusion steps 0..T-1 (first: least noise)."""
    quarter = (losses[:, 1] * 4 / timesteps).long()
    means = [losses[quarter == q, 0].mean().item() if bool((quarter == q).any()) else None for q in range(4)]
    return {"loss": losses[:, 0].mean().item(), "quartiles": means}


# --- the loop -------------------------------------------------------------------------------------------------------


def train(config: TrainConfig, out: str | Path, progress: bool = True) -> Path:
    """Train as `config` says, or go on where an earlier call stopped; does nothing if it is already done.

    In `out` it writes `<name>.state.safetensors` and `.json` while it runs, and at the end
    `<name>.safetensors` and `.json` (the EMA weights and their card), when the state is deleted.

    Args:
        config: the settings.
        out: folder for the files; made if needed.
        progress: show a bar with images/s, time left and the loss.

    Returns:
        The path of the checkpoint.

    Raises:
        InputError: unknown names, a state or checkpoint of other settings, damaged files, a second process
            training the same output, a disk that is full or cannot be written.
        TrainingDiverged: the loss or gradient is not finite.
        TrainingInterrupted: SIGINT or SIGTERM; the state was saved.
    """
    path = Path(out) / f"{config.name}.safetensors"
    fabric = _fabric(config)
    with contextlib.ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(_lock(path))
        if checkpoints.exists(path):
            _refuse_other(config, checkpoints.verify(path).get("recipe", {}), path)
            checkpoints.remove(_state_path(path))
            return path
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stop = stack.enter_context(_Signals())
        run = _Training(config, path, fabric, stop)
        run.resume()
        with run.bar(progress):
            run.loop()
        run.finish()
    return path


class _Training:
    """The state of one training: network, average, optimiser, counters, curves."""

    def __init__(self, config: TrainConfig, path: Path, fabric: Fabric, stop: "_Signals") -> None:
        from cunet import datasets, diffusion, models

        self.config, self.path, self.fabric, self.stop = config, path, fabric, stop
        self.diffusion = diffusion.Diffusion(config.schedule, config.timesteps, config.prediction_type)
        side, root = models.image_size(config.size), config.data_root or None
        self.data = datasets.load(config.dataset, "train", image_size=side, root=root)
        self.test = datasets.load(config.dataset, "test", image_size=side, root=root)
        torch.manual_seed(config.seed)
        self.network = models.build(config.model, size=config.size, channels=self.data.channels)
        self.network = self.network.to(fabric.device).train()
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.average, self.current = list(self.ema.parameters()), list(self.network.parameters())
        self.order = BatchOrder(len(self.data), config.batch_size, config.seed)
        self.step, self.elapsed, self.saved = 0, 0.0, 0.0
        self.loss_curve: list[list[float]] = []
        self.validation: list[list[Any]] = []
        self.window = [0.0, 0]  # sum of losses, images, since the last point of the curve
        self.last_save, self.tqdm = (0, time.monotonic()), None
        self._set_up()

    def _set_up(self) -> None:
        config = self.config
        trained = [p for p in self.current if p.requires_grad]
        fused = config.precision != "16-mixed"  # Fabric cannot unscale for clipping with a fused optimiser
        self.adam = torch.optim.Adam(
            trained, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=fused or None
        )
        module = self.network
        if config.compile:
            module = compiled_or_eager(module, self.share(self.batch(0), 0))
        self.module, self.optimizer = self.fabric.setup(module, self.adam)

    # one step

    @property
    def images_seen(self) -> int:
        return self.step * self.config.batch_size

    @property
    def done(self) -> bool:
        return self.progress >= 1.0

    @property
    def progress(self) -> float:
        """The share of the budget that is used, 0..1: of the time if there is a time budget, or of the images."""
        if self.config.max_seconds > 0:
            return min(1.0, self.elapsed / self.config.max_seconds)
        return min(1.0, self.images_seen / self.config.images) if self.config.images else 1.0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, diffusion steps and noise of a step, for all devices together, on the CPU."""
        draw = generator(self.config.seed, "step", step)
        images = self.data.batch(self.order(step))
        t = torch.randint(0, self.config.timesteps, (len(images),), generator=draw)
        noise = torch.randn(images.shape, generator=draw)
        if self.config.flip:
            mirrored = torch.rand(len(images), generator=draw) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return images, t, noise

    def share(self, batch: tuple[Tensor, ...], part: int) -> tuple[Tensor, ...]:
        """What this device computes of a batch in its `part`-th accumulation."""
        size = self.config.batch_size // (self.fabric.world_size * self.config.accumulate)
        start = (self.fabric.global_rank * self.config.accumulate + part) * size
        images, t, noise = (x[start : start + size].to(self.fabric.device) for x in batch)
        if self.config.channels_last:
            images, noise = (x.contiguous(memory_format=torch.channels_last) for x in (images, noise))
        return images, t, noise

    def train_step(self) -> float:
        """One optimiser step; returns the mean loss over the whole batch."""
        config, parts = self.config, self.config.accumulate
        for group in self.adam.param_groups:
            group["lr"] = config.rate(self.step, self.progress)
        torch.manual_seed(
            generator(config.seed, "network", self.step, self.fabric.global_rank).initial_seed()
        )
        batch, total = self.batch(self.step), 0.0
        for part in range(parts):
            with self.fabric.no_backward_sync(self.module, enabled=part < parts - 1):
                loss = self.diffusion.loss(self.module, *self.share(batch, part)).mean() / parts
                self.fabric.backward(loss)
            total += loss.detach()
        if self.fabric.world_size > 1:
            total = self.fabric.all_reduce(total, reduce_op="mean")
        loss = float(total)
        if not math.isfinite(loss):
            self.diverged(f"the loss is {loss}")
        if config.clip:
            norm = self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=config.clip, error_if_nonfinite=False
            )
            if config.precision != "16-mixed" and not math.isfinite(norm):
                self.diverged(f"the gradient's norm is {float(norm)} (the loss is {loss:.4g})")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ema_update(self.average, self.current, ema_weight(config.ema_decay, self.step))
        for mean, now in zip(self.ema.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)
        self.step += 1
        return loss

    def diverged(self, why: str) -> None:
        state = _state_path(self.path)
        good = (
            f"the last good state is {state} (step {self.last_save[0]})"
            if state.exists()
            else "no state was saved"
        )
        raise TrainingDiverged(
            f"Training {self.config.name} stopped at step {self.step} ({self.images_seen} images): {why}; {good}. "
            f"Try a lower learning_rate (now {self.config.learning_rate:g}), a longer warmup (now {self.config.warmup} "
            f"steps), a smaller clip (now {self.config.clip:g}) or precision 32-true, in an empty folder."
        )

    # the loop

    def loop(self) -> None:
        while True:
            self.validate_if_due()
            if self.agree(self.stop.requested):
                self.interrupted()
            if self.done:
                break
            self.save_if_due()
            start = time.perf_counter()
            loss = self.train_step()
            self.elapsed = self.agree(self.elapsed + time.perf_counter() - start)
            self.log(loss)

    def agree(self, value):
        """Rank 0's value on every device."""
        return value if self.fabric.world_size == 1 else self.fabric.broadcast(value)

    def log(self, loss: float) -> None:
        before = self.images_seen - self.config.batch_size
        self.window[0] += loss * self.config.batch_size
        self.window[1] += self.config.batch_size
        if self.images_seen // self.config.log_every > before // self.config.log_every or self.done:
            self.loss_curve.append([self.images_seen, self.window[0] / self.window[1]])
            self.window = [0.0, 0]
        if self.tqdm is not None:
            timed = self.config.max_seconds > 0
            self.tqdm.update((self.elapsed if timed else self.images_seen) - self.tqdm.n)
            if self.step % 10 == 0:
                rate = {"images/s": f"{self.images_seen / self.elapsed:.1f}"} if timed else {}
                self.tqdm.set_postfix(loss=f"{loss:.4f}", **rate, refresh=False)

    def bar(self, show: bool):
        """The progress bar: by images, or by seconds where time is the budget."""
        if not (show and self.fabric.is_global_zero):
            return contextlib.nullcontext()
        timed = self.config.max_seconds > 0
        self.tqdm = tqdm(
            desc=self.config.name,
            total=self.config.max_seconds
            if timed
            else math.ceil(self.config.images / self.config.batch_size) * self.config.batch_size,
            initial=self.elapsed if timed else self.images_seen,
            unit="s" if timed else "images",
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            bar_format="{desc}: {percentage:3.0f}% [{elapsed}<{remaining}, {postfix}]" if timed else None,
        )
        return self.tqdm

    def validate_if_due(self) -> None:
        """Validate when a multiple of `validate_every` images was passed since the last time, and at the end."""
        last = self.validation[-1][0] if self.validation else 0
        every = self.config.validate_every
        passed = every > 0 and self.images_seen // every > last // every
        if not (self.step and (passed or self.done and last != self.images_seen)):
            return
        rank, world = self.fabric.global_rank, self.fabric.world_size
        losses = validation_losses(
            self.ema, self.test, self.diffusion, rank, world, lambda: self.stop.requested
        )
        if world > 1:
            losses[:, 0] = self.fabric.all_reduce(losses[:, 0], reduce_op="sum").cpu()
        if self.agree(self.stop.requested):
            return  # incomplete: it is due again on resume
        summary = validation_summary(losses, self.config.timesteps)
        self.validation.append([self.images_seen, summary["loss"], summary["quartiles"]])
        if self.tqdm is not None:
            self.tqdm.write(
                f"{self.config.name}: {self.images_seen} images, validation {summary['loss']:.5f}"
            )

    # saving and resuming

    def save_if_due(self) -> None:
        steps, seconds = self.step - self.last_save[0], time.monotonic() - self.last_save[1]
        every = self.config.checkpoint_every
        if self.agree(
            every > 0 and steps >= every or steps > 0 and seconds >= self.config.checkpoint_seconds
        ):
            self.save()

    def save(self) -> None:
        """Write the training state: weights, average, Adam's moments, counters and curves."""
        self.last_save = (self.step, time.monotonic())
        if not self.fabric.is_global_zero:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, moments in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        state = {
            "name": self.config.name,
            "config": self.config.model_dump(),
            "data": [self.data.sha256, self.test.sha256],
            "threads": torch.get_num_threads(),
            "step": self.step,
            "elapsed": self.elapsed,
            "loss_curve": self.loss_curve,
            "validation": self.validation,
            "window": self.window,
        }
        checkpoints.write(_state_path(self.path), tensors, state)

    def resume(self) -> None:
        """Go back to the saved state, if there is one."""
        path = _state_path(self.path)
        if not checkpoints.exists(path):
            return
        tensors, state = checkpoints.read(path)
        _refuse_other(self.config, state.get("config", {}), path)
        if state["data"] != [self.data.sha256, self.test.sha256]:
            raise InputError(
                f"The images of {self.config.dataset} are not those that {path} was trained on (their SHA-256 "
                "differs). Restore the data set, or delete the state to start again."
            )
        if state["threads"] != torch.get_num_threads():
            warnings.warn(
                f"{path} was trained on {state['threads']} threads and goes on with {torch.get_num_threads()}: "
                "the result can differ in the last bits from an undisturbed training.",
                stacklevel=3,
            )
        groups = {"network": {}, "ema": {}, "adam": {}}
        for key, value in tensors.items():
            group, _, name = key.partition(".")
            groups[group][name] = value
        checkpoints.fill(self.network, groups["network"], path)
        checkpoints.fill(self.ema, groups["ema"], path)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in groups["adam"].items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        self.adam.load_state_dict({"state": moments, "param_groups": self.adam.state_dict()["param_groups"]})
        for key in ("step", "elapsed", "loss_curve", "validation", "window"):
            setattr(self, key, state[key])
        self.last_save = (self.step, time.monotonic())

    def interrupted(self) -> None:
        self.save()
        raise TrainingInterrupted(
            f"Training {self.config.name} was stopped at step {self.step} ({self.images_seen} images) and its state "
            f"saved in {_state_path(self.path)}. Start it again with the same settings and folder to go on from there."
        )

    def finish(self) -> None:
        """Write the checkpoint and delete the state."""
        if self.fabric.is_global_zero:
            checkpoints.save(self.path, self.ema, self.card())
            checkpoints.remove(_state_path(self.path))
        self.fabric.barrier()

    def card(self) -> dict[str, Any]:
        """What the checkpoint says about itself (cunet.checkpoints fills in the network and the environment)."""
        config, last = self.config, self.validation[-1] if self.validation else [0, None, None]
        return {
            "dataset": config.dataset,
            "dataset_sha256": self.data.sha256,
            "seed": config.seed,
            "variant": config.variant,
            "diffusion": self.diffusion.settings(),
            "recipe": config.model_dump(),
            "images_seen": self.images_seen,
            "steps": self.step,
            "batch_size": config.batch_size,
            "loss_curve": self.loss_curve,
            "validation": [row[:2] for row in self.validation],
            "validation_quartiles": [[row[0], *row[2]] for row in self.validation],
            "validation_loss": last[1],
            "wall_time_s": self.elapsed,
            "images_per_second": self.images_seen / self.elapsed if self.elapsed else 0.0,
            "threads": torch.get_num_threads(),
            "devices": self.fabric.world_size,
        }


# --- around the loop ------------------------------------------------------------------------------------------------


def compiled_or_eager(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> nn.Module:
    """torch.compile(model), tried forward and backward on one batch; the model itself, with a warning, if it fails."""
    kept = copy.deepcopy(model.state_dict())
    try:
        compiled = torch.compile(model)
        out = compiled(batch[0], batch[1])
        torch.autograd.grad(out.sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        return compiled
    except (
        Exception
    ) as error:  # whatever a missing compiler, an old driver or an unsupported operation raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"torch.compile does not work here, training goes on without: {reason}", stacklevel=2)
        return model
    finally:
        model.load_state_dict(kept)


def _fabric(config: TrainConfig) -> Fabric:
    world = config.devices * config.num_nodes
    if config.batch_size % (world * config.accumulate):
        raise InputError(
            f"batch_size={config.batch_size} cannot be shared by {world} devices in {config.accumulate} parts each: "
            f"choose a multiple of {world * config.accumulate}."
        )
    if world > 1 and int(os.environ.get("WORLD_SIZE", 1)) != world:
        raise InputError(
            f"devices={config.devices} and num_nodes={config.num_nodes} need {world} processes, but "
            f"{os.environ.get('WORLD_SIZE', 1)} run. Start the training with `torchrun --nproc-per-node "
            f"{config.devices} -m cunet.training --config FILE --out FOLDER`, or set devices=1."
        )
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,
        strategy="ddp" if world > 1 else "auto",
    )
    fabric.launch()
    return fabric


def _state_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.state.safetensors")


def _refuse_other(config: TrainConfig, saved: dict[str, Any], path: Path) -> None:
    """Refuse to go on from files that were trained with other settings."""
    now = config.model_dump()
    fields = [key for key in now if key not in OPERATIONAL and now[key] != saved.get(key)]
    if fields:
        changes = "; ".join(f"{key} was {saved.get(key)!r} and is now {now[key]!r}" for key in fields)
        raise InputError(
            f"{path} was trained with other settings: {changes}. Go on with the old settings, train into another "
            "folder or under another `variant`, or delete the file (and its .json) to start again."
        )


@contextlib.contextmanager
def _lock(path: Path):
    """Hold the one lock of this output; the system releases it when the process dies, however it dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(f".{path.stem}.lock"), "a+")
    except OSError as error:
        raise InputError(
            f"The folder {path.parent} cannot be used: {error.strerror}. Choose one that can be written."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"Another process (number {file.read().strip() or 'unknown'}) is training {path.stem} in {path.parent}. "
                "Wait for it, stop it, or train into another folder."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class _Signals:
    """While it is entered, SIGINT and SIGTERM only set `requested`; a second SIGINT raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested, self._old = False, {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.training --config recipe.json --out folder`: the training as a process of its own.

    Returns:
        Exit status: 0 done, 2 bad input or divergence, 130 interrupted (resumable).
    """
    parser = argparse.ArgumentParser(
        prog="python -m cunet.training", description="Train one network, or go on."
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="JSON file with the settings (TrainConfig)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the state")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = parser.parse_args(arguments)
    try:
        try:
            values = json.loads(chosen.config.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"The settings {chosen.config} cannot be read as JSON: {error}.") from error
        path = train(configure(values), chosen.out, progress=not chosen.quiet)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingInterrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return 130
    print(f"checkpoint: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
