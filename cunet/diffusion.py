"""The forward process: noise schedules, the noisy image, what the network is to predict, and the loss.

Ho et al. (2020) add Gaussian noise in T small steps of variance beta_t. All steps up to t at once are

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e,    e ~ N(0, I),    abar_t = product of (1 - beta_i), i <= t,

with t counted from 0, so that t = 0 is the first, faintest noise and t = T - 1 the last. Any two of (x_0, e,
x_t) give the third, so a network may predict any of three things, called by diffusers' names:

    epsilon         e                                               (Ho et al. 2020; equation 2 of the paper)
    sample          x_0
    v_prediction    v = sqrt(abar_t) e - sqrt(1 - abar_t) x_0       (Salimans & Ho 2022; the authors' code)

Dividing by sqrt(abar_t) magnifies errors where the noise is nearly pure. v needs no division, which is why it
is the default beside the schedules that end at (almost) no signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import InputError, one_of

LARGEST_BETA = 0.999  # Nichol & Dhariwal (2021), section 3.2: a step of variance 1 would forget everything


def linear_betas(timesteps: int) -> Tensor:
    """beta_t from 1e-4 to 0.02 in equal steps (Ho et al. 2020), times 1000 / T so that every T ends alike.

    timesteps: T. Returns (T,) float64, at most LARGEST_BETA (reached only for T < 21).
    """
    scale = 1000 / timesteps
    return torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64).clamp(max=LARGEST_BETA)


def cosine_betas(timesteps: int) -> Tensor:
    """abar(u) = cos^2(pi/2 (u + 0.008) / 1.008), u = t / T (Nichol & Dhariwal 2021, equation 17).

    timesteps: T. Returns (T,) float64, at most LARGEST_BETA.
    """
    return _betas_from(lambda u: torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, timesteps)


def sigmoid_betas(timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Tensor:
    """abar(u) falls along a sigmoid from `start` to `end`, temperature `tau` (Jabri et al. 2022).

    timesteps: T. The defaults are those of the authors' code. Returns (T,) float64, at most LARGEST_BETA.
    """
    first, last = (torch.tensor(x / tau, dtype=torch.float64).sigmoid() for x in (start, end))
    return _betas_from(
        lambda u: (last - ((u * (end - start) + start) / tau).sigmoid()) / (last - first), timesteps
    )


def _betas_from(signal: Callable[[Tensor], Tensor], timesteps: int) -> Tensor:
    """beta_t = 1 - abar(t + 1) / abar(t) for a signal power abar on [0, 1], clipped to LARGEST_BETA."""
    abar = signal(torch.linspace(0, 1, timesteps + 1, dtype=torch.float64))
    return (1 - abar[1:] / abar[:-1]).clamp(0, LARGEST_BETA)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas, "sigmoid": sigmoid_betas}
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
LOSS_WEIGHTINGS = ("uniform", "min_snr")
LARGEST_SNR = 5.0  # gamma of Hang et al. (2023), whose choice it is


class Diffusion:
    """A noise schedule and what the network predicts under it.

    schedule: linear | cosine | sigmoid.    prediction_type: epsilon | sample | v_prediction.
    timesteps: T, 1 or more.

    `betas`, `alphas` (1 - betas) and `alphas_cumprod` (abar) are (T,) float64 on the CPU. The methods take
    images of any float dtype on any device; coefficients are computed in float64 and rounded once, to the
    images' dtype. Wherever a method takes `t`, it is a whole number for all images or an integer tensor, 0-d
    or (B,), of values 0 ... T - 1.

    Raises InputError for an unknown name or T < 1; the methods, for a step out of range or unequal shapes.
    """

    def __init__(
        self, schedule: str = "cosine", timesteps: int = 1000, prediction_type: str = "v_prediction"
    ):
        one_of("noise schedule", schedule, SCHEDULES)
        one_of("prediction type", prediction_type, PREDICTION_TYPES)
        if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
            raise InputError(
                f"timesteps={timesteps!r}: a diffusion has a whole number of steps, 1 or more (usually 1000)."
            )
        self.schedule, self.timesteps, self.prediction_type = schedule, timesteps, prediction_type
        self.betas = SCHEDULES[schedule](timesteps)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = self.alphas.cumprod(0)
        self._signal, self._noise = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        self._moved: dict = {}

    def __repr__(self) -> str:
        return f"Diffusion({', '.join(f'{k}={v!r}' for k, v in self.settings().items())})"

    def settings(self) -> dict:
        """What rebuilds this object: Diffusion(**d.settings()). Plain strings and numbers, for a card."""
        return {
            "schedule": self.schedule,
            "timesteps": self.timesteps,
            "prediction_type": self.prediction_type,
        }

    def scheduler_config(self) -> dict:
        """Keyword arguments that give a scheduler of diffusers the same process: DDIMScheduler(**config)."""
        return {
            "num_train_timesteps": self.timesteps,
            "trained_betas": self.betas.tolist(),
            "prediction_type": self.prediction_type,
        }

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Ho et al., equation 4).

        x0, noise: (B, ...) of the same shape, noise from N(0, I). Returns x_t like x0.
        """
        signal, std = self._coefficients(t, x0, noise)
        return signal * x0 + std * noise

    def target(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """What the network should answer for add_noise(x0, noise, t). Arguments as there; returns like x0."""
        signal, std = self._coefficients(t, x0, noise)
        if self.prediction_type == "epsilon":
            return noise
        return x0 if self.prediction_type == "sample" else signal * noise - std * x0

    def to_x0(self, out: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The clean image that the network's answer `out` to x_t stands for. All of the shape of x_t."""
        signal, std = self._coefficients(t, x_t, out)
        if self.prediction_type == "epsilon":
            return (x_t - std * out) / signal
        return out if self.prediction_type == "sample" else signal * x_t - std * out

    def to_epsilon(self, out: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The noise that the network's answer `out` to x_t stands for. All of the shape of x_t."""
        signal, std = self._coefficients(t, x_t, out)
        if self.prediction_type == "epsilon":
            return out
        return (x_t - signal * out) / std if self.prediction_type == "sample" else std * x_t + signal * out

    def to_output(self, x0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The inverse of `to_x0`: the answer by which a network says that x_t came from x0.

        x0, x_t: (B, ...) of the same shape. Returns like x_t. Turns a denoiser into a network, and an answer
        back after its clean image was clipped.
        """
        return self.target(x0, self.noise_between(x0, x_t, t), t)

    def noise_between(self, x0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The noise by which `add_noise` makes x_t of x0, whatever the network predicts. Returns like x_t."""
        signal, std = self._coefficients(t, x_t, x0)
        return (x_t - signal * x0) / std

    def snr(self, t: int | Tensor) -> Tensor:
        """Signal-to-noise ratio abar_t / (1 - abar_t) in power. Returns float64 of the shape of t."""
        t = self.as_timestep(t)
        abar = self.alphas_cumprod[t.to(self.alphas_cumprod.device)]
        return (abar / (1 - abar)).to(t.device)

    def loss(
        self, model: Callable, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of model(x_t, t) against `target` for each image (Ho et al., equation 14).

        x0, noise: (B, C, H, W); t: (B,) int64; labels: (B,) int64, handed to the model if there are any.
        Returns (B,) float32 (float64 for float64 images), the average over channels and pixels; equal weight
        for every t, see `loss_weights` for others. `model` may compute in half precision.
        """
        x_t = self.add_noise(x0, noise, t)
        out = model(x_t, t) if labels is None else model(x_t, t, labels)
        target = self.target(x0, noise, t)
        wide = torch.promote_types(target.dtype, torch.float32)
        return (out.to(wide) - target.to(wide)).square().flatten(1).mean(1)

    def loss_weights(self, weighting: str = "uniform") -> Tensor:
        """What `loss` at each step is multiplied with in training.

        weighting: `uniform`, 1 everywhere (Ho et al. 2020), or `min_snr` (Hang et al. 2023, section 3.4),
        which gives the clean image's error the weight min(SNR, gamma), gamma = 5. That of the network's
        answer is SNR times smaller for epsilon and SNR + 1 times for v, so that its loss gets the weight

            epsilon   min(SNR, gamma) / SNR      sample   min(SNR, gamma)      v   min(SNR, gamma) / (SNR + 1)

        Returns (T,) float64 on the CPU, above 0. Raises InputError for an unknown weighting.
        """
        one_of("loss weighting", weighting, LOSS_WEIGHTINGS)
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        if weighting == "uniform":
            return torch.ones_like(snr)
        scale = {"epsilon": snr, "sample": 1.0, "v_prediction": snr + 1}
        return snr.clamp(max=LARGEST_SNR) / scale[self.prediction_type]

    def _coefficients(self, t: int | Tensor, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) in the dtype and on the device of x, shaped to multiply it."""
        if x.shape != other.shape:
            raise InputError(
                f"Two image batches of shapes {tuple(x.shape)} and {tuple(other.shape)} were given where"
                " equal shapes are needed: broadcasting would mix images."
            )
        t = self.as_timestep(t)
        if t.ndim == 1 and t.shape[0] not in (1, x.shape[0]):
            raise InputError(
                f"{t.shape[0]} timesteps for {x.shape[0]} images: give one, or one for each image."
            )
        key = (x.device, x.dtype)
        if key not in self._moved:
            self._moved[key] = self._signal.to(*key), self._noise.to(*key)
        shape = t.shape + (1,) * (x.ndim - t.ndim)
        signal, std = self._moved[key]
        t = t.to(x.device)
        return signal[t].view(shape), std[t].view(shape)

    def as_timestep(self, t: int | Tensor) -> Tensor:
        """t as an integer tensor, 0-d or (B,), in range. Compiled code skips the check."""
        t = torch.as_tensor(t)
        if t.is_floating_point() or t.dtype == torch.bool or t.ndim > 1:
            raise InputError(
                f"The timestep has dtype {t.dtype} and shape {tuple(t.shape)}: give a whole number, or an "
                "integer tensor with one number for each image."
            )
        if (
            torch.compiler.is_compiling()
            or not t.numel()
            or 0 <= int(t.min()) <= int(t.max()) < self.timesteps
        ):
            return t
        raise InputError(
            f"The timestep reaches from {int(t.min())} to {int(t.max())}, outside 0 ... {self.timesteps - 1}:"
            f" this diffusion has {self.timesteps} steps, counted from 0."
        )
