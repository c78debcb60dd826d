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


def validation_batches(dataset: "ImageDataset") -> int:
    """How many batches a validation on `dataset` has."""
    return -(-min(VALIDATION_IMAGES, len(dataset)) // VALIDATION_BATCH)


def validation_batch(dataset: "ImageDataset", number: int) -> tuple[Tensor, Tensor, Tensor]:
    """One batch of a validation on `dataset`, the same for whatever is validated; number: from 0.

    Returns the images' numbers (B,) int64, the images and their noise, (B, C, H, W) float32.
    """
    first = number * VALIDATION_BATCH
    index = torch.arange(first, min(first + VALIDATION_BATCH, VALIDATION_IMAGES, len(dataset)))
    images = dataset.batch(index)
    return index, images, torch.randn(images.shape, generator=generator(0, "validation", number))


@torch.no_grad()
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
        rank, world: this process computes every `world`-th batch, and leaves 0 for the others.
        stop: called before each batch; True gives up.

    Returns:
        (N, 2) float64 on the CPU: loss and diffusion step.
    """
    device = next(model.parameters()).device
    t = validation_steps(dataset, len(diffusion.alphas_cumprod))
    losses = torch.zeros(len(t), dtype=torch.float64)
    for number in range(rank, validation_batches(dataset), world):
        if stop is not None and stop():
            break
        index, images, noise = validation_batch(dataset, number)
        given = [images, t[index], noise]
        if getattr(model, "classes", 0):
            given.append(dataset.labels[index])
        losses[index] = diffusion.loss(model, *(x.to(device) for x in given)).double().cpu()
    return torch.stack([losses, t.double()], dim=1)


def validation_summary(losses: Tensor, timesteps: int) -> tuple[float, list[float | None]]:
    """The mean loss, and the mean in each quarter of 0..T-1 (the first has least noise; None: no image)."""
    quarter = (losses[:, 1] * 4 / timesteps).long()
    parts = [losses[quarter == q, 0] for q in range(4)]
    return losses[:, 0].mean().item(), [p.mean().item() if len(p) else None for p in parts]
