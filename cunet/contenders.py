"""Networks by name for comparisons: ours, as they are and as the first of them was, and two from elsewhere.

cunet, cunet@steps=4       any name of `cunet.models`, with changes if wished
cunet-first                the continuous U-Net as it was first released here, before it was made faster:
                           other widths, two evaluations in every block, torch's default memory layout
diffusers-unet2d           diffusers' UNet2DModel, about the baseline's size
lucidrains-unet            the package that the paper's baseline came from, if it is installed
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from . import models
from .continuous import ContinuousUNet
from .model_names import split

WIDTH = {"paper": 64, "laptop": 16, "smoke": 8}  # of the two foreign U-Nets at full resolution
FOREIGN = ("diffusers-unet2d", "lucidrains-unet")
BEFORE = "cunet-first"
FIRST = {
    "paper": "cunet@widths=(24,48,88,152),steps=2",
    "laptop": "cunet@widths=(8,20,40,56),steps=2",
    "smoke": "cunet@widths=(4,4,8,8),steps=2",
}
"""Size -> BEFORE as a name of `cunet.models`, which gives it its shape, but today's memory layout."""


class Foreign(nn.Module):
    """Another package's U-Net under our interface: forward(sample, timestep) -> tensor like sample."""

    def __init__(self, network: nn.Module, channels: int):
        super().__init__()
        self.network, self.channels, self.evaluations = network, channels, 0

    def forward(self, sample: Tensor, timestep: int | Tensor, *ignored) -> Tensor:
        out = self.network(sample, torch.as_tensor(timestep).expand(sample.shape[0]))
        return out if isinstance(out, Tensor) else out.sample


def network(spec: str, size: str, channels: int) -> nn.Module:
    """An untrained network by name, with changes: `cunet@steps=4,solver=rk4`.

    Raises InputError for an unknown name or a change that is not `key=value`, ImportError if a foreign
    network's package is not installed.
    """
    name, _ = split(spec)
    if spec == BEFORE:
        return channels_first(models.build(FIRST[size], size, channels))
    if name == "diffusers-unet2d":
        return Foreign(_diffusers_unet(WIDTH[size], channels, models.image_size(size)), channels)
    if name == "lucidrains-unet":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of its calls to torch.cuda.amp
            from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet
        width = WIDTH[size]
        return Foreign(Unet(width, channels=channels, attn_dim_head=width // 2), channels)
    return models.build(spec, size, channels)


def only_gradient(spec: str) -> bool:
    """Whether a spec differs from the plain network in its backward pass alone."""
    _, changes = split(spec)
    return bool(changes) and all(change.startswith("gradient=") for change in changes)


def measured_in(spec: str, task: str) -> bool:
    """Whether a network has anything to say in a task of `cunet.bench`.

    The network of before only where before and after are compared; one that differs in the gradient alone
    not where nothing is trained; another package's not where our widths are varied, or our training runs.
    """
    if spec == BEFORE:
        return task in ("training", "memory", "operators", "throughput")
    if spec in FOREIGN:
        return task not in ("growth", "throughput")
    return not only_gradient(spec) or task in ("training", "memory", "growth", "throughput")


def channels_first(network: ContinuousUNet) -> ContinuousUNet:
    """The network with its weights, and its feature maps from the first block on, in torch's default layout.

    Feature maps lie as the weights do: a caller who lays the weights out with the channels last, as
    `cunet.running.Running` does, gets both so. The network's own change of layout at its entry is undone
    there, which costs two copies of the first feature maps.
    """
    weight = network.blocks_down[0].acceleration.conv1.weight

    def lay_out(_, given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
        x, v, embedding = given
        return (x.contiguous(), v.contiguous(), embedding) if weight.is_contiguous() else None

    network.blocks_down[0].register_forward_pre_hook(lay_out)
    return network.to(memory_format=torch.contiguous_format)


def _diffusers_unet(width: int, channels: int, image_size: int) -> nn.Module:
    """diffusers' UNet2DModel with two blocks a level, attention at the lowest, and about the baseline's size.

    Its way up has a block more a level than the baseline's, so its last width is smaller: 36.4 M parameters.
    """
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(width, 2 * width, 4 * width, 11 * width // 2),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_num_groups=width // 2,
        attention_head_dim=width // 2,
    )
