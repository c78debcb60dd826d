"""Training a network on Lightning Fabric, so that it can be stopped anywhere and goes on exactly.

One step draws images x_0 from the data, diffusion steps t and noise, and descends on the mean over the batch
of `Diffusion.loss` (Ho et al. 2020, algorithm 1; the prediction target is a setting, and so is the weight of
each t, `Diffusion.loss_weights`). The weights of the network are averaged over the steps with an exponential
moving average (EMA); the average is what is validated, with all t weighted alike, and kept.

Everything random about step k is a function of (seed, k): see `cunet.batches`. A training that was killed and
started again therefore ends with the same bits, on the same machine and number of threads (`cunet.resume`).
"""

import contextlib
import copy
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cunet import checkpoints, resume, storage
from cunet.batches import Batches
from cunet.errors import TrainingDiverged, TrainingInterrupted
from cunet.launch import Signals, start_fabric
from cunet.provenance import training_code
from cunet.recipe import TrainConfig, configure
from cunet.running import compiled_or_eager
from cunet.training_progress import Progress
from cunet.validation import validation_losses, validation_summary

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["TrainConfig", "configure", "train"]


def train(config: TrainConfig, out: str | Path, progress: bool = True, renew: bool = False) -> Path:
    """Train as `config` says, or go on where an earlier call stopped; does nothing if that was at the end.

    While it runs, `out` has `<name>.state.safetensors` and `.json`; at the end `<name>.safetensors` and
    `.json` (the EMA weights and their card) instead. Validation and saving are not part of the training time.

    Args:
        config: the settings.
        out: folder for the files; made if needed.
        progress: show a bar with images/s, time left and the loss.
        renew: move what other code has trained to aside/ and train again; without it, that is refused.

    Returns:
        The path of the checkpoint.

    Raises:
        InputError: unknown names, a state or checkpoint of other settings or code, damaged files, another
            process training the same output, a disk that is full or cannot be written.
        TrainingDiverged: the loss or the gradient is not finite.
        TrainingInterrupted: SIGINT or SIGTERM; the step was finished and the state saved, or nothing was
            written yet, because the data were still being read.
    """
    path = Path(out) / f"{config.name}.safetensors"
    fabric = start_fabric(config)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(Signals())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        # before the lock, because it only reads: unknown names and missing data are refused, nothing written
        training = None if storage.exists(path) else _prepared(config, path, fabric, stop)
        if fabric.is_global_zero:
            stack.enter_context(resume.claimed(config, path, renew))
        fabric.barrier()
        if storage.exists(path):
            _finished(config, path, fabric)
        else:
            (training or _prepared(config, path, fabric, stop)).run(progress)
    return path


def _finished(config: TrainConfig, path: Path, fabric: "Fabric") -> None:
    """Check that the checkpoint that is there is this training's, and delete a state that was left beside it.

    Raises:
        InputError: it is damaged, or of other settings or code.
    """
    card = checkpoints.verify(path)
    resume.refuse_other(config, card.get("recipe", {}), path, card.get("code"))
    fabric.barrier()
    if fabric.is_global_zero:
        storage.remove(resume.state_path(path))


def _prepared(config: TrainConfig, path: Path, fabric: "Fabric", stop: Signals) -> "Training":
    """A training that has its data. Reading them can take minutes: a signal ends it at once."""
    stop.early = TrainingInterrupted(
        config.name,
        "while its data were read. Nothing was lost: start it again with the same settings and folder.",
    )
    try:
        return Training(config, path, fabric, stop)
    finally:
        stop.early = None


@torch.no_grad()
def ema_update(average: list[Tensor], current: list[Tensor], decay: float, step: int) -> None:
    """average <- d average + (1 - d) current, in place, with d = min(decay, (1 + step) / (10 + step)).

    `step` counts from 0. The warm-up of d keeps the first, random weights out of the average.
    """
    torch._foreach_lerp_(average, current, 1.0 - min(decay, (1 + step) / (10 + step)))


class Training:
    """One training: network, average, optimiser, counters and curves, and what moves them on."""

    def __init__(self, config: TrainConfig, path: Path, fabric: "Fabric", stop: Signals) -> None:
        from cunet import datasets, models  # here, so that reading settings does not import every network
        from cunet.diffusion import Diffusion

        self.config, self.path, self.fabric, self.stop = config, path, fabric, stop
        self.diffusion = Diffusion(config.schedule, config.timesteps, config.prediction_type)
        weights = self.diffusion.loss_weights(config.loss_weighting)
        self.loss_weights = weights.float().to(fabric.device)  # (T,)
        side, root = models.image_size(config.size), config.data_root or None
        self.data = datasets.load(config.dataset, "train", image_size=side, root=root)
        self.test = datasets.load(config.dataset, "test", image_size=side, root=root)
        torch.manual_seed(config.seed)
        network = models.build(config.model, size=config.size, channels=self.data.channels)
        self.batches = Batches(self.data, config, getattr(network, "classes", 0))
        self.started = ""  # SHA-256 of the weights that training starts from
        if config.start:
            self.started = checkpoints.start(network, config.start, self.diffusion.settings())
        layout = torch.channels_last if config.channels_last else torch.preserve_format
        self.network = network.to(fabric.device, memory_format=layout).train()
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.average, self.current = list(self.ema.parameters()), list(self.network.parameters())
        self.step, self.elapsed = 0, 0.0  # optimiser steps done; seconds spent in them
        self.progress = Progress(config)
        self.validation: list[list[Any]] = []  # images, loss, loss by quarter of t
        self.last_save = (0, time.monotonic())  # step and moment
        self.set_up()

    def set_up(self) -> None:
        """Make the optimiser, compile if asked to, and hand both to Fabric."""
        config = self.config
        self.names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        trained = [p for p in self.current if p.requires_grad]
        fused = config.precision != "16-mixed"  # Fabric cannot unscale, to clip, what a fused Adam unscales
        betas = (config.beta1, config.beta2)
        self.adam = torch.optim.Adam(trained, lr=config.learning_rate, betas=betas, fused=fused)
        module = self.network
        if config.compile:
            module = compiled_or_eager(module, self.batches.share(self.batches(0), 0, self.fabric))
        again = self.fabric.world_size > 1  # DDP is compiled as a whole
        self.module, self.optimizer = self.fabric.setup(module, self.adam, _reapply_compile=again)

    # --- one step

    @property
    def images_seen(self) -> int:
        """How many images the steps had, repeats counted."""
        return self.step * self.config.batch_size

    @property
    def used(self) -> float:
        """The share of the budget that is used, 0..1: of the time, or of the images if time has no limit."""
        if self.config.max_seconds > 0:
            return min(1.0, self.elapsed / self.config.max_seconds)
        return min(1.0, self.images_seen / self.config.images)

    def train_step(self) -> float:
        """One optimiser step; returns the mean loss, weighted as it is trained on, over the whole batch."""
        config, parts = self.config, self.config.accumulate
        self.batches.seed_network(self.network, self.step, self.fabric)
        batch = self.batches(self.step)
        total = torch.zeros((), device=self.fabric.device)
        for part in range(parts):
            with self.fabric.no_backward_sync(self.module, enabled=part < parts - 1):
                given = self.batches.share(batch, part, self.fabric)
                losses = self.diffusion.loss(self.module, *given)
                loss = (losses * self.loss_weights[given[1]]).mean() / parts  # times 1 is the same to the bit
                self.fabric.backward(loss)
            total += loss.detach()
        # `inf` as limit changes no gradient, but tells whether one is not finite
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=config.clip or math.inf, error_if_nonfinite=False
        )
        self.batches.draw_ahead(self.step + 1)  # a GPU is still busy here
        loss = float(self.fabric.all_reduce(total, reduce_op="mean"))
        if not math.isfinite(loss):
            self.diverged(f"the loss is {loss}")
        if config.precision != "16-mixed" and not math.isfinite(norm):  # there the scaler skips such steps
            self.diverged(f"the gradient's norm is {float(norm)} (the loss is {loss:.4g})")
        for group in self.adam.param_groups:
            group["lr"] = config.rate(self.step, self.used)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ema_update(self.average, self.current, config.ema_decay, self.step)
        for kept, now in zip(self.ema.buffers(), self.network.buffers(), strict=True):
            kept.copy_(now)
        self.step += 1
        return loss

    def diverged(self, why: str) -> None:
        """Raise TrainingDiverged, with the last good state and what to try; `why` is what is not finite."""
        state, config = resume.state_path(self.path), self.config
        good = f"the last good state is {state} (step {self.last_save[0]})"
        good = good if state.exists() else "no state was saved yet"
        raise TrainingDiverged(
            f"Training {config.name} stopped at step {self.step} ({self.images_seen} images): {why}; {good}. "
            f"Try a lower learning_rate (now {config.learning_rate:g}), a longer warmup (now {config.warmup} "
            f"steps), a smaller clip (now {config.clip:g}) or precision 32-true, in another "
            "folder or as another `variant`."
        )

    # --- the loop

    def run(self, show: bool) -> None:
        """Go on from the saved state, if there is one, to the checkpoint; with a bar if it is to be shown."""
        first = self.fabric.is_global_zero
        if storage.exists(resume.state_path(self.path)):
            resume.restore(self)
        elif first:
            resume.check_disk(self)
        with self.progress.bar(self.step, self.elapsed, show and first):
            self.loop()
        self.finish()

    def loop(self) -> None:
        """Step until the budget is used; validate, save and stop between steps."""
        while True:
            self.elapsed, stop, save = self.agree((self.elapsed, self.stop.requested, self.save_is_due()))
            if stop or not self.validate_if_due():
                self.interrupted()
            if self.used >= 1.0:
                return
            if save:
                self.save()
            start = time.perf_counter()
            loss = self.train_step()
            self.elapsed += time.perf_counter() - start
            self.progress.log(loss, self.step, self.elapsed, last=self.used >= 1.0)

    def agree(self, value: Any) -> Any:
        """The first device's value, on every device."""
        return value if self.fabric.world_size == 1 else self.fabric.broadcast(value)

    def validate_if_due(self) -> bool:
        """Validate after each `validate_every` images and at the end; False if a signal came in between."""
        last, every = self.validation[-1][0] if self.validation else 0, self.config.validate_every
        passed = every > 0 and self.images_seen // every > last // every
        if not passed and not (self.used >= 1.0 and last != self.images_seen):
            return True
        rank, world = self.fabric.global_rank, self.fabric.world_size
        losses = validation_losses(
            self.ema, self.test, self.diffusion, rank, world, lambda: self.stop.requested
        )
        mine = losses[:, 0]
        told = torch.tensor([float(self.stop.requested)], dtype=mine.dtype)  # any process may have left zeros
        # one new tensor: gloo adds a view's memory as it lies, t and all
        summed = self.fabric.all_reduce(torch.cat([mine, told]).to(self.fabric.device), reduce_op="sum").cpu()
        if summed[-1]:
            return False
        losses[:, 0] = summed[:-1]
        loss, quartiles = validation_summary(losses, self.config.timesteps)
        self.validation.append([self.images_seen, loss, quartiles])
        self.progress.tell(f"{self.images_seen} images, validation loss {loss:.5f}")
        return True

    # --- saving and going on

    def save_is_due(self) -> bool:
        """Whether there was a step since the last state, and steps or seconds enough by the settings."""
        steps, seconds = self.step - self.last_save[0], time.monotonic() - self.last_save[1]
        every = self.config.checkpoint_every
        return steps > 0 and (0 < every <= steps or seconds >= self.config.checkpoint_seconds)

    def save(self) -> None:
        """Write the training state."""
        self.last_save = (self.step, time.monotonic())
        if self.fabric.is_global_zero:
            resume.save(self)

    def interrupted(self) -> None:
        """Save the state and raise TrainingInterrupted."""
        self.save()
        raise TrainingInterrupted(
            self.config.name,
            f"at step {self.step} ({self.images_seen} images), and its state is saved in "
            f"{resume.state_path(self.path)}. Start it again with the same settings and folder: it goes on "
            "from there.",
        )

    def finish(self) -> None:
        """Write the checkpoint, then delete the state."""
        if self.fabric.is_global_zero:
            checkpoints.save(self.path, self.ema, self.card())
            storage.remove(resume.state_path(self.path))
        self.fabric.barrier()

    def card(self) -> dict[str, Any]:
        """What the checkpoint says of its training (cunet.checkpoints adds network and environment)."""
        config = self.config
        return {
            "dataset": config.dataset,
            "dataset_sha256": self.data.sha256,
            "seed": config.seed,
            "variant": config.variant,
            "diffusion": self.diffusion.settings(),
            "code": training_code(),
            "recipe": config.model_dump(),
            **({"start_sha256": self.started} if self.started else {}),
            "images_seen": self.images_seen,
            "steps": self.step,
            "batch_size": config.batch_size,
            "loss_curve": self.progress.loss_curve,
            "validation": [[images, loss] for images, loss, _ in self.validation],
            "validation_quartiles": [[images, *quarters] for images, _, quarters in self.validation],
            "validation_loss": self.validation[-1][1],
            "wall_time_s": self.elapsed,
            "images_per_second": self.images_seen / self.elapsed,
            "devices": self.fabric.world_size,
        }
