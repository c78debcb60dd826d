"""The samplers by name, and where on the way from noise to image each of them stops.

Spacing. t_i = round(T i / n) - 1, called "trailing" (Lin et al. 2024, table 2): the first call is at T - 1,
where the image truly is pure noise. "Leading" spacing would start 5 steps at t = 800, where the cosine and
the sigmoid schedule still hold signal, and pass pure noise off as such an image. The last call, at t_1,
jumps to the clean image. Heun's method takes its steps in sigma = sqrt(1/abar - 1), which reaches tens of
thousands at T - 1, so they are spaced in sigma and begin at 80 (`karras_timesteps`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .diffusion import Diffusion

LARGEST_SIGMA = 80.0  # where steps spaced in sigma begin (Karras et al. 2022, table 1)


def evenly_spaced_timesteps(level: int, steps: int) -> list[int]:
    """round(level i / n) - 1 for i = n ... 1, halves rounded up: diffusion steps from level - 1 down.

    steps: n, 1 ... level.
    """
    return [(2 * level * i + steps) // (2 * steps) - 1 for i in range(steps, 0, -1)]


def trailing_timesteps(diffusion: Diffusion, steps: int) -> list[int]:
    """`evenly_spaced_timesteps` from the last diffusion step, T - 1, down."""
    return evenly_spaced_timesteps(diffusion.timesteps, steps)


def karras_timesteps(diffusion: Diffusion, steps: int, rho: float = 7.0) -> list[int]:
    """The diffusion steps nearest to Karras et al. (2022), equation 5: sigma^(1/rho) evenly spaced.

    sigma falls from the largest one that is at most 80 to that of t = 0. Neighbours that would coincide are
    moved apart; more steps than lie below sigma = 80 start higher. Returns `steps` falling integers.
    """
    sigma = (1 / diffusion.alphas_cumprod.numpy() - 1) ** 0.5
    top = max(int((sigma <= LARGEST_SIGMA).sum()) - 1, steps - 1)
    wanted = np.linspace(sigma[0] ** (1 / rho), sigma[top] ** (1 / rho), steps) ** rho
    rising = np.abs(np.log(sigma)[None] - np.log(wanted)[:, None]).argmin(1)
    rising[-1] = top
    for i in range(1, steps):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    for i in range(steps - 1, -1, -1):
        rising[i] = min(rising[i], top - (steps - 1 - i))
    return rising[::-1].tolist()


SPACINGS = {"trailing": trailing_timesteps, "karras": karras_timesteps}


@dataclass(frozen=True)
class Sampler:
    """A row of SAMPLERS. `scheduler` is the name of a diffusers class, None for equation 2 itself."""

    scheduler: str | None
    what: str
    options: dict = field(default_factory=dict)
    stochastic: bool = False  # wants fresh noise at every step
    two_calls: bool = False  # of the network a step, but for the last step
    spacing: str = "trailing"

    def calls(self, steps: int) -> int:
        """How often a chain of so many steps asks the network."""
        return 2 * steps - 1 if self.two_calls else steps

    def build(self, alphas_cumprod: Tensor):
        """The scheduler for a chain of these noise levels, (n,) float64, rising in noise."""
        import diffusers

        betas = 1 - alphas_cumprod / torch.cat((torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]))
        scheduler = getattr(diffusers, self.scheduler)(
            num_train_timesteps=len(betas),
            trained_betas=betas.tolist(),
            prediction_type="sample",
            **self.options,
        )
        # its own are float32, which rounds the beta of a long step to 1 and the signal to none: log 0 follows
        scheduler.alphas_cumprod = alphas_cumprod
        scheduler.set_timesteps(len(betas))
        return scheduler


TRAILING = {"timestep_spacing": "trailing"}
SAMPLERS = {
    "ddpm": Sampler(None, "equation 2 (Ho et al. 2020)", stochastic=True),
    "ddim": Sampler("DDIMScheduler", "DDIM (Song et al. 2020)", {"clip_sample": False, **TRAILING}),
    "dpmsolver++": Sampler("DPMSolverMultistepScheduler", "DPM-Solver++ 2M (Lu et al. 2022)", TRAILING),
    "dpmsolver++sde": Sampler(
        "DPMSolverMultistepScheduler",
        "SDE-DPM-Solver++ 2M (Lu et al. 2022)",
        {"algorithm_type": "sde-dpmsolver++", **TRAILING},
        stochastic=True,
    ),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC of order 2 (Zhao et al. 2023)", TRAILING),
    "heun": Sampler(
        "HeunDiscreteScheduler",
        "Heun's method, two network calls a step (Karras et al. 2022)",
        {"timestep_spacing": "leading"},
        two_calls=True,
        spacing="karras",
    ),
}
