"""Validation: the loss on fixed images, at fixed diffusion steps, with fixed noise."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cunet.recipe import generator

if TYPE_CHECKING:
    from cunet.datasets import ImageDataset
    from cunet.diffusion import Diffusion

VALIDATION_IMAGES = 2000
"""How many test images (the first ones) a validation uses."""

VALIDATION_BATCH = 100
"""Images a forward pass in validation; fixed, so that the value does not depend on the training's batches."""


def validation_steps(dataset: "ImageDataset", timesteps: int) -> Tensor:
    """The diffusion step of each image of a validation: evenly over 0 ... T - 1, in a random, fixed order.

    dataset: the first `VALIDATION_IMAGES` of it count.    timesteps: T. Returns (N,) int64.
    """
    n = min(VALIDATION_IMAGES, len(dataset))
    t = ((torch.arange(n) + 0.5) * timesteps / n).long()
    return t[torch.randperm(n, generator=generator(0, "validation"))]


@torch.no_grad()
def over_validation(
    dataset: "ImageDataset",
    t: Tensor,
    loss: Callable[..., Tensor],
    rank: int = 0,
    world: int = 1,
    stop: Callable[[], bool] | None = None,
) -> Tensor:
    """A loss of each image of a validation on `dataset`, in batches with a fixed noise.

    Args:
        dataset: its first N images count.
        t: (N,) int64, the diffusion step of each.
        loss: called with the images' numbers (B,), the images (B, C, H, W) float32 and noise like them, on
            the CPU; returns (B,) on any device.
        rank, world: this process computes every `world`-th batch, and leaves 0 for the others.
        stop: called before each batch; True gives up.

    Returns:
        (N, 2) float64 on the CPU: loss and diffusion step.
    """
    losses = torch.zeros(len(t), dtype=torch.float64)
    for number, index in list(enumerate(torch.arange(len(t)).split(VALIDATION_BATCH)))[rank::world]:
        if stop is not None and stop():
            break
        images = dataset.batch(index)
        noise = torch.randn(images.shape, generator=generator(0, "validation", number))
        losses[index] = loss(index, images, noise).double().cpu()
    return torch.stack([losses, t.double()], dim=1)


def told(model: nn.Module, dataset: "ImageDataset", index: Tensor, *given: Tensor) -> list[Tensor]:
    """What is `given` of a data set's images, and their labels for a network with classes, on its device."""
    labels = [dataset.labels[index]] if getattr(model, "classes", 0) else []
    return [x.to(next(model.parameters()).device) for x in (*given, *labels)]


def validation_losses(
    model: nn.Module,
    dataset: "ImageDataset",
    diffusion: "Diffusion",
    rank: int = 0,
    world: int = 1,
    stop: Callable[[], bool] | None = None,
) -> Tensor:
    """The loss of each of the first 2,000 images at one fixed diffusion step and fixed noise.

    The steps cover 0..T-1 evenly, in an order independent of the images. Steps and noise are the same for
    every network, seed and moment, so that values can be compared.

    Args:
        model: a network in evaluation mode; one with classes is told them.
        dataset: a `cunet.datasets.ImageDataset`, usually of the split `test`.
        diffusion: a `cunet.diffusion.Diffusion` with T diffusion steps.
        rank, world, stop: of `over_validation`.

    Returns:
        (N, 2) float64 on the CPU: loss and diffusion step.
    """
    t = validation_steps(dataset, len(diffusion.alphas_cumprod))

    def loss(index: Tensor, images: Tensor, noise: Tensor) -> Tensor:
        return diffusion.loss(model, *told(model, dataset, index, images, t[index], noise))

    return over_validation(dataset, t, loss, rank, world, stop)


def validation_summary(losses: Tensor, timesteps: int) -> tuple[float, list[float | None]]:
    """The mean loss, and the mean in each quarter of 0..T-1 (the first has least noise; None: no image)."""
    quarter = (losses[:, 1] * 4 / timesteps).long()
    parts = [losses[quarter == q, 0] for q in range(4)]
    return losses[:, 0].mean().item(), [p.mean().item() if len(p) else None for p in parts]
