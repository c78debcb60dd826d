"""Networks by name for comparisons: ours, and two from other packages.

cunet, cunet@steps=4       any name of `cunet.models`, with changes if wished
diffusers-unet2d           diffusers' UNet2DModel, about the baseline's size
lucidrains-unet            the package that the paper's baseline came from, if it is installed
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from . import models
from .model_names import split

WIDTH = {"paper": 64, "laptop": 16, "smoke": 8}  # of the two foreign U-Nets at full resolution


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


def foreign(spec: str) -> bool:
    """Whether a spec names another package's network."""
    return spec in ("diffusers-unet2d", "lucidrains-unet")


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
