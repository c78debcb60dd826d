"""One yardstick for networks trained to different targets, under different noise schedules.

Validation losses (`cunet.validation`) of two recipes cannot be compared: errors of epsilon, of x_0 and of v
are different things, and a schedule says at which levels of noise they are taken. So every network is asked
for the clean image, at the same levels: those of the released recipe's validation, of log signal-to-noise
ratio l_i for image i. At the step t of the network's own schedule with log SNR(t) nearest to l_i,

    L_i = (1 + SNR(t)) |clip(x_hat(x_t, t)) - x_0|^2 / pixels,    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e,

where x_hat is the clean image that the network's answer stands for and clip cuts it to [-1, 1], as samplers
do. Without clipping L_i is the squared error of v, whatever the network predicts: given x_t, an error d of
x_0 is one of d / sqrt(1 - abar_t) = d sqrt(1 + SNR) in v. For the released recipe it is then its validation
loss. Clipping takes from every network what a sampler would not see, and is what makes epsilon comparable
where there is almost no signal and x_hat divides by sqrt(abar_t).

The yardstick is the released recipe's own: same target, same levels. A recipe that trains for other levels
or weighs them otherwise can have better samples at a higher L, so `cunet.recipe_study` has a distance of
samples beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .diffusion import Diffusion
from .recipe import TrainConfig
from .validation import over_validation, told, validation_steps

if TYPE_CHECKING:
    from .datasets import ImageDataset


def nearest_steps(diffusion: Diffusion, reference: Diffusion, t: Tensor) -> Tensor:
    """The steps of `diffusion` whose log signal-to-noise ratio is nearest to that of `reference` at t.

    t: (N,) int64, steps of `reference`. Returns (N,) int64, steps of `diffusion`; the first or last where
    its schedule does not reach as far.
    """
    own = diffusion.snr(torch.arange(diffusion.timesteps)).log()
    return (reference.snr(t).log()[:, None] - own).abs().argmin(1)


def v_losses(model: nn.Module, dataset: ImageDataset, diffusion: Diffusion, clip: bool = True) -> Tensor:
    """L of this module's text for the images of `validation_losses`, with the same noise.

    model: a network in evaluation mode; one with classes is told them.    dataset: usually of the split
    `test`.    diffusion: what the network was trained with.    clip: cut clean images to [-1, 1].

    Returns (N, 2) float64 on the CPU: L, and the diffusion step of `diffusion`.
    """
    usual = TrainConfig()
    reference = Diffusion(usual.schedule, usual.timesteps)
    t = nearest_steps(diffusion, reference, validation_steps(dataset, reference.timesteps))

    def loss(index: Tensor, images: Tensor, noise: Tensor) -> Tensor:
        clean, at = images.double(), t[index]
        noisy = diffusion.add_noise(clean, noise.double(), at)
        answer = model(*told(model, dataset, index, noisy.float(), at))
        seen = diffusion.to_x0(answer.double().cpu(), noisy, at)
        seen = seen.clamp(-1, 1) if clip else seen
        return (1 + diffusion.snr(at)) * (seen - clean).square().flatten(1).mean(1)

    return over_validation(dataset, t, loss)
