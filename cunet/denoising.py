"""Denoising by the reverse process (section 4.2 of the paper): how near an image comes back, step by step.

The protocol. A test image x_0 is noised by L steps of the forward process at once, to x_t with t = L - 1 (t
counts from 0). The reverse process then walks down, t = L - 1, ..., 1, 0: L network calls. After each, the
image is compared with x_0 by SSIM and PSNR (distortion) and LPIPS (perception). Steps are counted as noise
removed: 0 is the noisy image, L the end. An image's best step is the one where its score peaks; table 3
averages these.

The paper leaves open what walks and what is looked at. The variants:

    mean              each step to the posterior mean, no noise added; the image itself is scored
                      (the authors' code: the choice for the tables)
    ancestral         equation 2 with its noise; the image itself is scored
    clean             the walk of `mean`; the network's prediction of x_0 is scored instead
    ancestral-clean   the walk of `ancestral`, likewise

Before the last step the image itself is still x_t: its contrast is sqrt(abar_t) of the original's and noise
is in it, and both count against it. Scores are of images cut to [-1, 1].

Cost: one network call for each image, level and step, so images x sum of levels; `stride` leaves steps out.
Images of different levels share a batch whenever they stand at the same t.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from . import metrics as measures
from . import storage
from .diffusion import Diffusion
from .errors import InputError, one_of
from .provenance import denoising_code
from .sampling import (
    NoiseStreams,
    ancestral_step,
    device_of,
    evaluating,
    predict,
    progress_bar,
    whole_numbers,
    wide_dtype,
)
from .trajectories import METRICS, VARIANTS, Denoised, Plan, Trajectory

LEVELS = (50, 100, 150, 200, 250, 400, 600, 800)  # tables 2 and 3


def noise_stds(diffusion: Diffusion) -> Tensor:
    """The standard deviations s of the noise after 1 ... T steps, once the image is back at full contrast.

    x_t / sqrt(abar_t) = x_0 + s e with s = sqrt(1/abar_t - 1) and t = level - 1, for pixels in [-1, 1].
    Returns float64 (T,), rising.
    """
    return diffusion.snr(torch.arange(diffusion.timesteps)) ** -0.5


def noise_std(diffusion: Diffusion, level: int) -> float:
    """That of `level` steps, 1 ... T."""
    return float(noise_stds(diffusion)[level - 1])


def level_for(diffusion: Diffusion, std: float) -> int:
    """The level, 1 ... T, whose `noise_std` is nearest to `std` by ratio.

    Raises InputError for a standard deviation of 0 or less, or beyond twice the largest there is.
    """
    known = noise_stds(diffusion)
    if not 0 < std < 2 * float(known[-1]):
        raise InputError(
            f"noise level {std!r}: expected a standard deviation above 0 and below "
            f"{2 * float(known[-1]):.3g}, for pixels in [-1, 1] (divide by 127.5 if yours are 0 ... 255)."
        )
    return int((known.log() - torch.tensor(std, dtype=known.dtype).log()).abs().argmin()) + 1


@torch.no_grad()
def denoise(
    model: Callable,
    images: Tensor,
    diffusion: Diffusion,
    levels: Sequence[int] = LEVELS,
    variants: Sequence[str] = ("mean",),
    metrics: Sequence[str] = tuple(METRICS),
    stride: int = 1,
    every: int = 1,
    frames: Sequence[float] = (),
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    resume: Path | None = None,
) -> Denoised:
    """Noise images to each level, denoise them, and score every image on the way.

    model: network(x, t), as in `cunet.sampling.sample`.    images: (N, C, H, W) float in [-1, 1].
    levels: noise steps, each 1 ... T.    variants: of VARIANTS.    metrics: of METRICS.
    stride: diffusion steps a network call; 1 leaves none out.    every: network calls a score.
    frames: fractions 0 (noisy) ... 1 (end) of the way at which images are kept, at the nearest scored step.
    seed: image i at level L has its noise from (seed, i, L) alone, the same for every network.
    batch_size: images a network call.    progress: show a bar.
    resume: a folder. Every batch_size images are put there when done, and taken from there by a later call
    with the same arguments and network, and the same code of the library where it matters.

    Returns Denoised. Raises InputError for arguments outside these ranges.
    """
    _check(images, diffusion, levels, variants, metrics, frames)
    whole_numbers(stride=(stride, 1), every=(every, 1), seed=(seed, 0), batch_size=(batch_size, 1))
    plan = Plan(tuple(sorted(set(levels), reverse=True)), stride, every, tuple(frames))
    walks = {s: [v for v in VARIANTS if v in variants and VARIANTS[v].stochastic is s] for s in (False, True)}
    walks = {stochastic: names for stochastic, names in walks.items() if names}
    settings = (plan.levels, sorted(variants), sorted(metrics), stride, every, plan.frames, seed, batch_size)
    total, done, key = len(images) * plan.calls * len(walks), [], ""
    with evaluating(model), progress_bar(total, f"denoising {len(images)} images", progress) as bar:
        if resume:
            key = _fingerprint(model, images.float(), diffusion, settings)
        for begin in range(0, len(images), batch_size):
            file = Path(resume) / f"{key}-{begin:06d}.safetensors" if resume else None
            group = images[begin : begin + batch_size].float()
            if file and (stored := storage.kept(file)) is not None:
                done.append(stored)
                bar.update(len(group) * plan.calls * len(walks))
                continue
            parts = {}
            for stochastic, names in walks.items():
                walk = _Walk(
                    model, group, begin, diffusion, plan, stochastic, names, metrics, seed, batch_size
                )
                parts |= walk.run(bar)
            done.append(parts)
            if file:
                storage.keep(file, parts)
    return _joined(done, plan, variants, metrics)


class _Walk:
    """One group of images, from every level down, by one of the two walks."""

    def __init__(self, model, images, begin, diffusion, plan, stochastic, names, metrics, seed, batch_size):
        self.model, self.clean, self.diffusion, self.plan = model, images, diffusion, plan
        self.stochastic, self.names, self.metrics, self.batch_size = stochastic, names, metrics, batch_size
        self.device = device_of(model)
        numbers = [(begin + i) * (diffusion.timesteps + 1) for i in range(len(images))]
        self.noise = {
            level: NoiseStreams(seed, [n + level for n in numbers], images.shape[1:], self.device)
            for level in plan.levels
        }
        self.scores = {(v, level, m): [] for v in names for level in plan.levels for m in metrics}
        self.frames = {(v, level): {} for v in names for level in plan.levels}
        self.seconds = 0.0

    def run(self, bar) -> dict[str, Tensor]:
        """All steps. Returns what `_joined` puts together, and what is kept for resuming, under `_name`s."""
        clean = self.clean.to(self.device)
        x = {
            level: self.diffusion.add_noise(clean, self.noise[level](), level - 1)
            for level in self.plan.levels
        }
        for variant in self.names:
            self._record(variant, {level: (0, x[level]) for level in self.plan.levels})
        for t in self.plan.timesteps:
            levels, previous = self.plan.active(t), self.plan.previous(t)
            began = perf_counter()
            new, x0 = self._step(torch.cat([x[level] for level in levels]), levels, t, previous)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += perf_counter() - began
            new, x0 = new.split(len(clean)), x0.split(len(clean))
            x |= dict(zip(levels, new, strict=True))
            for variant in self.names:
                shown = x0 if VARIANTS[variant].clean else new
                at = {lv: (lv - 1 - previous, y) for lv, y in zip(levels, shown, strict=True)}
                self._record(variant, {lv: (s, y) for lv, (s, y) in at.items() if s in self.plan.steps[lv]})
            bar.update(len(clean) * len(levels))
        scores = {_name(*key): torch.stack(values, 1) for key, values in self.scores.items()}
        frames = {_name(*key): self._framed(key) for key in self.frames}
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        return scores | frames | {_name(self.stochastic): seconds}

    def _step(self, x: Tensor, levels: list[int], t: int, previous: int) -> tuple[Tensor, Tensor]:
        parts = x.split(self.batch_size)
        x0 = torch.cat([predict(self.model, self.diffusion, part, t) for part in parts])
        epsilon = self.diffusion.noise_between(x0.to(wide_dtype(x)), x.to(wide_dtype(x)), t)
        fresh = self.stochastic and previous >= 0
        noise = torch.cat([self.noise[level]() for level in levels]) if fresh else None
        return ancestral_step(self.diffusion, epsilon, x, t, noise, previous), x0

    def _record(self, variant: str, at: dict[int, tuple[int, Tensor]]) -> None:
        """Score images of several levels in one go. at: level -> (noise steps removed, images)."""
        if not at:
            return
        x = torch.cat([images.clamp(-1, 1) for _, images in at.values()]).cpu()
        truth = self.clean.repeat(len(at), 1, 1, 1)
        for metric in self.metrics:
            score = getattr(measures, metric)
            pairs = zip(truth.split(self.batch_size), x.split(self.batch_size), strict=True)
            values = torch.cat([score(a, b) for a, b in pairs]).float()
            for level, part in zip(at, values.split(len(self.clean)), strict=True):
                self.scores[variant, level, metric].append(part)
        for (level, (step, _)), part in zip(at.items(), x.split(len(self.clean)), strict=True):
            if step in self.plan.frame_steps[level]:
                self.frames[variant, level][step] = part

    def _framed(self, key: tuple[str, int]) -> Tensor:
        kept = [self.frames[key][step] for step in self.plan.frame_steps[key[1]]]
        n, *shape = self.clean.shape
        return torch.stack(kept, 1) if kept else torch.empty(n, 0, *shape)


def _name(*key) -> str:
    """What a tensor of a group of images is kept as, by variant, level and metric; by walk, its seconds."""
    return "/".join(map(str, key))


def _joined(done: list[dict[str, Tensor]], plan: Plan, variants, metrics) -> Denoised:
    def joined(*key):
        return torch.cat([part[_name(*key)] for part in done])

    trajectories = {
        (v, level): Trajectory(
            level,
            v,
            torch.tensor(plan.steps[level]),
            {m: joined(v, level, m) for m in metrics},
            torch.tensor(plan.frame_steps[level], dtype=torch.int64),
            joined(v, level),
        )
        for v in variants
        for level in plan.levels
    }
    walks = {VARIANTS[v].stochastic for v in variants}
    calls = len(next(iter(trajectories.values())).frames) * plan.calls * len(walks)
    seconds = sum(float(part[_name(walk)]) for part in done for walk in walks)
    return Denoised(trajectories, seconds / calls)


def _fingerprint(model: Callable, images: Tensor, diffusion: Diffusion, settings: tuple) -> str:
    """What a kept result stands for: network, images, settings and the code, as 16 hexadecimal digits.

    Of the network: its weights, and what it sees in one image, which depends on its solver and wiring too.
    """
    about = (denoising_code(), diffusion.settings(), settings, tuple(images.shape))
    digest = hashlib.sha256(repr(about).encode())
    answer = predict(model, diffusion, images[:1].to(device_of(model)), diffusion.timesteps // 2, clip=False)
    weights = model.state_dict().values() if isinstance(model, nn.Module) else ()
    for tensor in (images, answer, *weights):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check(images, diffusion, levels, variants, metrics, frames) -> None:
    if images.ndim != 4 or not len(images) or not images.is_floating_point() or not images.abs().max() <= 1:
        raise InputError(
            f"Images of shape {tuple(images.shape)} and dtype {images.dtype} cannot be denoised: expected "
            "float (N, C, H, W), N >= 1, in [-1, 1]."
        )
    for name in variants:
        one_of("variant", name, VARIANTS)
    for name in metrics:
        one_of("metric", name, METRICS)
    if not levels or not variants:
        raise InputError("Nothing to do: give at least one noise level and one variant.")
    for level in levels:
        whole_numbers(level=(level, 1))
        if level > diffusion.timesteps:
            raise InputError(
                f"level={level}: the diffusion has {diffusion.timesteps} steps, so 1 ... that many."
            )
    if not all(0 <= f <= 1 for f in frames):
        raise InputError(
            f"frames={tuple(frames)}: expected fractions of the way, 0 (noisy) ... 1 (denoised)."
        )
