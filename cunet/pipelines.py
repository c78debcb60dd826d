"""The networks in diffusers' pipelines.

A pipeline such as `diffusers.DDPMPipeline` asks three things of its network: that it is a diffusers model,
that its configuration names the side and channels of an image, and that a call returns an object with the
field `sample`. `PipelineModel` gives these to any network of `cunet.models`, which is called as it is:

    network, card = checkpoints.load(checkpoints.released("mnist", "cunet", "laptop"))
    scheduler = DDIMScheduler(**Diffusion(**card["diffusion"]).scheduler_config())
    images = DDIMPipeline(PipelineModel.wrap(network), scheduler)(num_inference_steps=20).images

`save_pretrained` and `from_pretrained` are diffusers' own (safetensors).
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from . import models
from .continuous import ContinuousUNet


class PipelineModel(ModelMixin, ConfigMixin):
    """A network of `cunet.models` as a diffusers model.

    name, size, in_channels: as `cunet.models.build` takes them. sample_size: side of the images in pixels;
    None for the size's own.

    Raises InputError for an unknown name or size.
    """

    @register_to_config
    def __init__(
        self, name: str = "cunet", size: str = "paper", in_channels: int = 3, sample_size: int | None = None
    ):
        super().__init__()
        self.network = models.build(name, size, in_channels)
        if sample_size is None:
            self.register_to_config(sample_size=models.image_size(size))

    @classmethod
    def wrap(cls, network: nn.Module) -> PipelineModel:
        """The network itself, not a copy, as a diffusers model."""
        model = cls(network.name, network.size, network.channels)
        model.network = network
        return model

    @classmethod
    def from_pretrained(cls, *arguments, **options):
        """As diffusers has it, and in the memory layout of the network, which a file does not keep."""
        loaded = super().from_pretrained(*arguments, **options)
        network = (loaded[0] if isinstance(loaded, tuple) else loaded).network
        if isinstance(network, ContinuousUNet):
            network.to(memory_format=torch.channels_last)
        return loaded

    def forward(self, sample: Tensor, timestep: int | Tensor, return_dict: bool = True, **ignored):
        """The network's prediction, (B, C, H, W), in the field `sample`, or as a tuple."""
        prediction = self.network(sample, timestep)
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)
