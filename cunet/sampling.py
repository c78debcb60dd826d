"""The reverse process: from pure noise to an image, in as many network calls as one can afford.

Equation 2 of the paper, the step of Ho et al. (2020), is written out here (`ancestral_step`). The faster
samplers are diffusers' schedulers. All of them run on a shortened chain t_n > ... > t_1 of the T diffusion
steps. A chain of n steps is a diffusion of its own (Nichol & Dhariwal 2021, section 4), with the noise
levels of the long one and the effective betas

    beta~_i = 1 - abar(t_i) / abar(t_{i-1}),    abar(t_0) = 1,

so the formulas for T steps hold for n. Every scheduler is handed this chain and the clean image that the
network predicts, clipped to [-1, 1]; it never sees what kind of prediction the network was trained for.

Image i owns a random stream keyed by (seed, i): the same image comes out whatever n and batch size are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .diffusion import Diffusion
from .errors import InputError, one_of, whole_numbers
from .samplers import SAMPLERS, SPACINGS


class Step(NamedTuple):
    """One network call of a reverse process."""

    t: int  # the diffusion step at which the network was asked
    x: Tensor  # the image after the step, (B, C, H, W)
    x0: Tensor  # the clean image that the network predicted from the image before the step, (B, C, H, W)


def ancestral_step(
    diffusion: Diffusion,
    epsilon: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    noise: Tensor | None = None,
    previous: int | Tensor | None = None,
) -> Tensor:
    """One step of the reverse process, equation 2 with the coefficient of Ho et al. (2020, algorithm 2):

        x_{t-1} = (x_t - beta_t / sqrt(1 - abar_t) epsilon) / sqrt(alpha_t) + sigma_t z.

    The paper prints sqrt(beta_t) / sqrt(1 - alpha_t) in place of beta_t / sqrt(1 - abar_t). As alpha_t = 1 -
    beta_t, that is 1 for every t, and would subtract the whole noise in a single step: an erratum. sigma_t^2
    is the variance of q(x_{t-1} | x_t, x_0), beta_t (1 - abar_{t-1}) / (1 - abar_t), "fixed_small".

    epsilon: the predicted noise, (B, C, H, W), any float dtype.    x_t: the image at step t, of that shape.
    t: whole number or (B,) integers.    noise: z from N(0, I); without it the step gives the posterior mean.
    previous: the step to go to, -1 (the clean image) ... t - 1, by default t - 1. Where steps are left out,
    alpha_t is the effective one, abar_t / abar_previous.

    Returns the image at `previous`, like x_t. The sum is taken in float64: 1/sqrt(alpha_t) reaches thousands.
    Raises InputError for steps out of range.
    """
    t = diffusion.as_timestep(t).cpu()
    before = t - 1 if previous is None else torch.as_tensor(previous).cpu()
    if bool((before < -1).any()) or bool((before >= t).any()):
        raise InputError(f"Cannot step from t = {t.tolist()} to {before.tolist()}: give -1 ... t - 1.")
    wide, shape = wide_dtype(x_t), (-1,) + (1,) * (x_t.ndim - 1)
    abar = diffusion.alphas_cumprod[t]
    abar_before = torch.where(before < 0, 1.0, diffusion.alphas_cumprod[before.clamp(min=0)])
    alpha, sigma = abar / abar_before, posterior_std(abar, abar_before)
    scale, share, sigma = (
        c.to(x_t.device, wide).view(shape) for c in (alpha.rsqrt(), (1 - alpha) / (1 - abar).sqrt(), sigma)
    )
    mean = scale * (x_t.to(wide) - share * epsilon.to(wide))
    return (mean if noise is None else mean + sigma * noise.to(wide)).to(x_t.dtype)


def wide_dtype(x: Tensor) -> torch.dtype:
    """float64, where the device of x has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def posterior_std(abar: Tensor, abar_before: Tensor) -> Tensor:
    """sigma_t, the standard deviation of q(x_before | x_t, x_0) (Ho et al., equation 7)."""
    return ((1 - abar / abar_before) * (1 - abar_before) / (1 - abar)).sqrt()


def predict(model: Callable, diffusion: Diffusion, x: Tensor, t: int, clip: bool = True) -> Tensor:
    """The clean image that `model` sees in x, (B, C, H, W), at step t for all; cut to [-1, 1] if `clip`."""
    out = model(x, torch.full((x.shape[0],), t, device=x.device))
    if not torch.compiler.is_compiling() and not out.isfinite().all():
        raise InputError(
            f"At step t = {t} the network gave numbers that are not finite, so there are no images: its "
            "weights are damaged, or were trained for another prediction type. Load or train them again."
        )
    x0 = diffusion.to_x0(out.to(x.dtype), x, t)
    return x0.clamp(-1, 1) if clip else x0


@torch.no_grad()
def walk(
    model: Callable,
    x: Tensor,
    diffusion: Diffusion,
    timesteps: Sequence[int],
    sampler: str = "ddim",
    noise: Callable[[], Tensor] | None = None,
    clip: bool = True,
    eta: float = 0.0,
) -> Iterator[Step]:
    """Follow the reverse process down `timesteps`, yielding a `Step` after every network call.

    x: images at noise level timesteps[0], (B, C, H, W).
    timesteps: falling diffusion steps; after the last, the image is clean.
    noise: called without arguments for every fresh z like x. Only stochastic samplers ask for it; `ddpm`
    without noise follows the posterior means.    sampler, clip, eta: see `sample`.

    Between the two calls of a step of Heun's method, `x` is the trial image. Raises InputError for an unknown
    sampler, steps that do not fall, or noise that is missing.
    """
    one_of("sampler", sampler, SAMPLERS)
    stochastic = SAMPLERS[sampler].stochastic or eta > 0
    if stochastic and noise is None and sampler != "ddpm":
        raise InputError(f"The sampler {sampler!r} with eta={eta} needs noise: give it NoiseStreams.")
    if not len(timesteps):
        raise InputError("timesteps is empty: give one diffusion step or more, falling.")
    if any(a <= b for a, b in zip(timesteps, timesteps[1:], strict=False)):
        raise InputError(
            f"timesteps={list(timesteps)}: the reverse process goes down, every step below the last."
        )
    if SAMPLERS[sampler].scheduler is None:
        yield from _ancestral_walk(model, x, diffusion, timesteps, noise, clip)
        return
    extra = {"eta": eta} if sampler == "ddim" else {}
    rising = list(reversed(timesteps))
    scheduler = SAMPLERS[sampler].build(diffusion.alphas_cumprod[rising])
    state = x * scheduler.init_noise_sigma
    for i in scheduler.timesteps:
        t, x = rising[int(i)], scheduler.scale_model_input(state, i)
        x0 = predict(model, diffusion, x, t, clip)
        if stochastic:
            extra["variance_noise"] = noise()
        state = scheduler.step(x0, i, state, **extra).prev_sample
        yield Step(t, scheduler.scale_model_input(state, i), x0)


def _ancestral_walk(model, x, diffusion, timesteps, noise, clip) -> Iterator[Step]:
    for t, previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        x0 = predict(model, diffusion, x, t, clip)
        epsilon = diffusion.noise_between(x0.to(wide_dtype(x)), x.to(wide_dtype(x)), t)
        x = ancestral_step(diffusion, epsilon, x, t, noise() if noise and previous >= 0 else None, previous)
        yield Step(t, x, x0)


class NoiseStreams:
    """Standard normal noise, one independent stream an image: call it for the next (B, C, H, W) float32.

    Stream i is a Philox generator with the key (seed, i) (Salmon et al. 2011): streams differ by
    construction, for any two seeds and images. (torch.Generator on the CPU keeps 32 bits of its seed: among
    30,000 images two would coincide in one run out of ten.) Drawn on the CPU, so that a GPU makes the same
    images.
    """

    def __init__(self, seed: int, images: Sequence[int], shape: Sequence[int], device="cpu"):
        self.shape, self.device = tuple(shape), device
        self.streams = [np.random.Generator(np.random.Philox(key=[seed, i])) for i in images]

    def __call__(self) -> Tensor:
        drawn = [g.standard_normal(self.shape, dtype=np.float32) for g in self.streams]
        return torch.from_numpy(np.stack(drawn)).to(self.device)


@torch.no_grad()
def sample(
    model: Callable,
    n: int,
    diffusion: Diffusion,
    sampler: str = "ddim",
    steps: int = 50,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    shape: Sequence[int] | None = None,
    clip: bool = True,
    eta: float = 0.0,
    first: int = 0,
) -> Tensor:
    """n images from pure noise.

    model: network(x, t) as in cunet.models, or one that `cunet.running.prepared` has made faster; t comes as
    (B,) int64. A module is put in eval mode meanwhile.
    sampler: a key of SAMPLERS.
    steps: 1 ... T steps of the chain. `heun` asks the network 2 steps - 1 times, and wants 10 steps or more.
    seed: 0 or more.    first: number of the first image, so that a set can be made in parts.
    batch_size: images at once.    progress: show a bar with rate and time left.
    shape: (C, H, W), by default what the network was built for.
    clip: cut every predicted clean image to [-1, 1].
    eta: for `ddim`, the share of fresh noise: 0 none, 1 as much as `ddpm`.

    Returns (n, C, H, W) float32 on the CPU, in [-1, 1]. Image i depends on (seed, i) alone: its noise is
    the same to the bit, and so is all arithmetic here, whatever n, `first` and batch_size are. What remains
    is the network's own rounding, which may differ with the number of images in a batch; for equal batches,
    the same number of threads and the same machine, images are equal to the bit.

    Raises InputError for arguments outside these ranges and for a network whose answer is not finite.
    """
    _check(diffusion, sampler, steps, eta)
    whole_numbers(n=(n, 1), batch_size=(batch_size, 1), seed=(seed, 0), first=(first, 0))
    shape = _image_shape(model, shape)
    timesteps = SPACINGS[SAMPLERS[sampler].spacing](diffusion, steps)
    device = device_of(model)
    images = torch.empty(n, *shape)
    calls = SAMPLERS[sampler].calls(steps) * -(-n // batch_size)
    with evaluating(model), progress_bar(calls, f"{n} images, {sampler} {steps}", progress) as bar:
        for begin in range(0, n, batch_size):
            end = min(begin + batch_size, n)
            noise = NoiseStreams(seed, range(first + begin, first + end), shape, device)
            x = noise()
            for step in walk(model, x, diffusion, timesteps, sampler, noise, clip, eta):
                x = step.x
                bar.update()
            if not x.isfinite().all():
                raise InputError(
                    f"The sampler {sampler!r} left the range of its numbers, so there are no images. Take "
                    "more steps, or another sampler."
                )
            images[begin:end] = x.clamp(-1, 1)
    return images


def progress_bar(total: int, what: str, show: bool) -> tqdm:
    """A bar with rate and time left; a line every half minute where the output is not a terminal."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, desc=what, unit="step", disable=not show, mininterval=interval, maxinterval=2 * interval
    )


@contextmanager
def evaluating(model: Callable):
    """Within, a module is in eval mode; after, it and each of its parts as they were (a wrapper is made in
    training mode, whatever its network is in). Other callables are left alone."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    training = [part for part in parts if part.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def device_of(model: Callable) -> torch.device:
    """Where the module's parameters are; the CPU for a callable without any."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def best_device() -> torch.device:
    """The first GPU, or the CPU where there is none: where a notebook computes with its networks."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """How a result names a device: "cpu", or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@contextmanager
def placed(device: torch.device | str, *networks: nn.Module) -> Iterator[None]:
    """`with placed("cpu", network):` has networks on a device for the block, and then where they were."""
    before = [device_of(network) for network in networks]
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network, place in zip(networks, before, strict=True):
            network.to(place)


def _check(diffusion, sampler, steps, eta) -> None:
    one_of("sampler", sampler, SAMPLERS)
    whole_numbers(steps=(steps, 1))
    if steps > diffusion.timesteps:
        raise InputError(
            f"steps={steps}: the diffusion has {diffusion.timesteps} steps, so a sampler can take 1 ... "
            f"{diffusion.timesteps} of them."
        )
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise InputError(
            f"eta={eta!r} with the sampler {sampler!r}: eta is 0 ... 1, and 0 except for 'ddim'."
        )


def _image_shape(model: Callable, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None:
        if not hasattr(model, "channels") or not hasattr(model, "image_size"):
            raise InputError(
                "This network does not say its image size: give shape=(channels, height, width)."
            )
        shape = (model.channels, model.image_size, model.image_size)
    if len(shape) != 3 or any(side < 1 for side in shape):
        raise InputError(f"shape={tuple(shape)!r}: expected (channels, height, width), each 1 or more.")
    return tuple(shape)
