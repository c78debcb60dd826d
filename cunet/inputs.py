"""What every network does with its inputs: image, diffusion step and, if it has classes, the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .errors import InputError

TIMESTEPS = 1000  # the diffusion steps all networks are made for: t = 0 ... 999


def check(
    sample: Tensor, timestep: int | Tensor, channels: int, factor: int, weight: Tensor | None = None
) -> Tensor:
    """The diffusion step of every image, after checking that the network can take both inputs.

    sample: images, float, (B, channels, H, W), H and W divisible by `factor`.
    timestep: t in 0 ... TIMESTEPS - 1: a number for all images, or an integer tensor, 0-d or (B,).
    weight: one of the network's; the images shall have its dtype, unless autocast makes them alike.
    Returns t, (B,) on the device of `sample`. The values of t are read only in eager mode: reading them in
    compiled code would break the graph.

    Raises InputError if a shape, the number of channels, the dtype, the side or the step does not fit.
    """
    if sample.ndim != 4 or sample.shape[1] != channels:
        raise InputError(
            f"The image batch has shape {tuple(sample.shape)}, but this network takes (B, {channels}, H, W): "
            f"give it {channels}-channel images, or build the network with channels=<yours>."
        )
    if not sample.is_floating_point():
        raise InputError(
            f"The images have dtype {sample.dtype}, but a network takes floats in [-1, 1]: convert them with "
            "cunet.datasets.from_uint8."
        )
    if weight is not None and sample.dtype != weight.dtype:
        if not torch.is_autocast_enabled(sample.device.type):
            raise InputError(
                f"The images have dtype {sample.dtype} and the network's weights {weight.dtype}: convert the "
                f"images with images.to({weight.dtype}), or the network with network.to({sample.dtype})."
            )
    if 0 in sample.shape:
        raise InputError(f"The image batch has shape {tuple(sample.shape)}: it holds no pixel.")
    if sample.shape[2] % factor or sample.shape[3] % factor:
        raise InputError(
            f"The images are {sample.shape[2]} x {sample.shape[3]} pixels, but both sides must be divisible "
            f"by {factor}: pad or resize them."
        )
    t = torch.as_tensor(timestep, device=sample.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, sample.shape[0])):
        raise InputError(
            f"The timestep has shape {tuple(t.shape)} for {sample.shape[0]} images: give one whole number, "
            "or one for each image."
        )
    if t.is_floating_point() or t.dtype == torch.bool:
        raise InputError(f"The timestep has dtype {t.dtype}: diffusion steps are integers (torch.int64).")
    if not torch.compiler.is_compiling() and t.numel() and not 0 <= int(t.min()) <= int(t.max()) < TIMESTEPS:
        raise InputError(
            f"The timestep reaches from {int(t.min())} to {int(t.max())}, outside 0 ... {TIMESTEPS - 1}: the "
            f"diffusion has {TIMESTEPS} steps, counted from 0."
        )
    return t.expand(sample.shape[0])


class ClassEmbedding(nn.Module):
    """A vector a class, and one for "no class", added to the embedding of the diffusion step.

    embedding + sqrt(width) w[label]

    classes: how many; labels are 0 ... classes - 1, and the label `classes` stands for none. The weights w
    start at zero: a network to which they are added gives the answers that it gave before. The factor, as in
    EDM (Karras et al. 2022), is for Adam, which moves a weight by about the learning rate a step however
    large its gradient is: without it the vectors stay short beside the step's embedding, and the network
    does not learn to tell the classes apart.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise InputError(f"classes={classes!r}: expected how many classes there are, 1 or more.")
        self.classes, self.gain = classes, math.sqrt(width)
        self.table = nn.Embedding(classes + 1, width)
        nn.init.zeros_(self.table.weight)

    def forward(self, embedding: Tensor, labels: Tensor | None) -> Tensor:
        """embedding (B, width) of the step; labels (B,) integers, None: no class. Returns like embedding.

        Raises InputError for labels that are no tensor, of another shape, kind or device, or out of range.
        """
        if labels is None:
            return embedding + self.gain * self.table.weight[self.classes]
        if not isinstance(labels, Tensor):
            raise InputError(
                f"The labels are a {type(labels).__name__}: give a tensor, one integer an image."
            )
        if labels.shape != embedding.shape[:1] or labels.dtype not in (torch.int64, torch.int32):
            raise InputError(
                f"The labels have shape {tuple(labels.shape)} and dtype {labels.dtype} for "
                f"{embedding.shape[0]} images: give each image one integer (torch.int64)."
            )
        if labels.device != embedding.device:
            raise InputError(
                f"The labels are on {labels.device}, but the network on {embedding.device}: move them with "
                f"labels.to({str(embedding.device)!r})."
            )
        if not torch.compiler.is_compiling() and len(labels):
            if not 0 <= int(labels.min()) <= int(labels.max()) <= self.classes:
                raise InputError(
                    f"The labels reach from {int(labels.min())} to {int(labels.max())}, but this network "
                    f"knows 0 ... {self.classes - 1}, and {self.classes} for no class."
                )
        return embedding + self.gain * self.table(labels)
