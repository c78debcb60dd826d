"""The batches of a training: which images, diffusion steps, noise, flips and labels a step has.

Nothing here has a memory: step k's batch is a function of (seed, k), so that a training that goes on repeats
and skips no image and no number. The whole batch is drawn by every device, on the CPU, and each computes the
stretch that its number gives it, so that the batches do not depend on how many devices there are.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cunet.errors import InputError
from cunet.recipe import TrainConfig, generator, stream

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from cunet.datasets import ImageDataset


class BatchOrder:
    """Which images step k sees: stretches of an endless list of random permutations, one an epoch.

    Every image comes once an epoch, whether or not the batch size divides the number of images.

    Args:
        images: how many images the data set has.
        batch_size: images a step.
        seed: of the permutations.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self._epochs: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Indices of step `step` (from 0): int64, (batch_size,)."""
        parts, start, end = [], step * self.batch_size, (step + 1) * self.batch_size
        while start < end:
            epoch, offset = divmod(start, self.images)
            parts.append(self._epoch(epoch)[offset : offset + end - start])
            start += len(parts[-1])
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            order = torch.randperm(self.images, generator=generator(self.seed, "epoch", epoch))
            self._epochs = {epoch: order}
        return self._epochs[epoch]


class Batches:
    """What is random about step k of a training, as a function of (seed, k).

    Args:
        data: the images, with their labels if the network knows classes.
        config: gives seed, batch_size, accumulate, timesteps, flip, label_dropout, channels_last.
        classes: how many classes the network knows; 0: it is told none.

    Raises:
        InputError: the data set does not have such classes.
    """

    def __init__(self, data: "ImageDataset", config: TrainConfig, classes: int = 0) -> None:
        _check_labels(data, classes)
        self.data, self.config, self.classes = data, config, classes
        self.order = BatchOrder(len(data), config.batch_size, config.seed)
        self._ahead: tuple[int, tuple[Tensor, ...]] = (-1, ())

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """The batch of step `step` (from 0), for all devices together, on the CPU.

        Returns:
            Images x_0, (B, C, H, W) float32 in [-1, 1]; diffusion steps t, (B,) int64; noise as the images;
            for a network with classes its labels, (B,) int64, where `classes` stands for a hidden one.
        """
        if self._ahead[0] == step:
            return self._ahead[1]
        draw = generator(self.config.seed, "step", step)
        numbers = self.order(step)
        images = self.data.batch(numbers)
        t = torch.randint(0, self.config.timesteps, (len(images),), generator=draw)
        noise = torch.randn(images.shape, generator=draw)
        if self.config.flip:
            mirrored = torch.rand(len(images), generator=draw) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if not self.classes:
            return images, t, noise
        hidden = torch.rand(len(images), generator=draw) < self.config.label_dropout
        return images, t, noise, self.data.labels[numbers].masked_fill(hidden, self.classes)

    def draw_ahead(self, step: int) -> None:
        """Draw the batch of a step now, while a GPU is busy, for the call that will ask for it."""
        self._ahead = (step, self(step))

    def share(self, batch: tuple[Tensor, ...], part: int, fabric: "Fabric") -> tuple[Tensor, ...]:
        """What the device of `fabric` computes of a batch in its accumulation `part` (from 0), put there."""
        size = self.config.batch_size // (fabric.world_size * self.config.accumulate)
        start = (fabric.global_rank * self.config.accumulate + part) * size
        images, t, noise, *labels = (x[start : start + size].to(fabric.device) for x in batch)
        if self.config.channels_last:
            images, noise = (x.contiguous(memory_format=torch.channels_last) for x in (images, noise))
        return images, t, noise, *labels

    def seed_network(self, network: nn.Module, step: int, fabric: "Fabric") -> None:
        """Make what the network itself draws a function of seed and step, and of the device: each has images
        of its own to drop numbers of, but a random depth is the whole batch's."""
        seed = self.config.seed
        number = stream(seed, "network", step, fabric.global_rank)
        torch.default_generator.manual_seed(number)  # torch.manual_seed costs 2 ms where there is no GPU
        if fabric.device.type == "cuda":
            torch.cuda.manual_seed(number)
        if hasattr(network, "depth_seed"):
            network.depth_seed = stream(seed, "network", step, 0)


def _check_labels(data: "ImageDataset", classes: int) -> None:
    """Refuse to tell a network of classes that the data set does not have."""
    if not classes:
        return
    labels = data.labels
    if labels is None or labels.ndim != 1:
        raise InputError(
            f"The data set {data.name} has no class for each image, so a network with classes={classes} "
            "cannot be trained on it. Take mnist or avatars, or a network without classes."
        )
    if int(labels.max()) >= classes:
        raise InputError(
            f"The data set {data.name} has {int(labels.max()) + 1} classes, and the network {classes}: give "
            f"the network classes={int(labels.max()) + 1}."
        )
