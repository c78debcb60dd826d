"""How a trained network is run: as it is, compiled, with channels last, in half precision.

None of it changes what is computed but for rounding; what it gains is measured by `cunet bench`.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from .errors import one_of

PRECISIONS = ("32", "bf16")


class Running(nn.Module):
    """A network whose images are laid out with the channels last, or which runs under bfloat16 autocast.

    forward is the network's; the answer has the dtype of the images. channels, image_size: the network's, or
    None where it does not say, as one of another library may not.
    """

    def __init__(self, network: nn.Module, bf16: bool, channels_last: bool):
        super().__init__()
        self.network, self.bf16, self.channels_last = network, bf16, channels_last
        self.channels, self.image_size = (getattr(network, k, None) for k in ("channels", "image_size"))
        if channels_last:
            network.to(memory_format=torch.channels_last)

    def forward(self, sample: Tensor, timestep: int | Tensor, *more) -> Tensor:
        if self.channels_last:
            sample = sample.contiguous(memory_format=torch.channels_last)
        with torch.autocast(sample.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network(sample, timestep, *more).to(sample.dtype)


def prepared(
    network: nn.Module, batch: int, compiled: bool = False, precision: str = "32", channels_last: bool = False
) -> nn.Module:
    """A network of `cunet.models` that runs as is asked for, to be sampled from (`cunet.sampling.sample`).

    batch: images a call, with which the compiler is tried; where it fails, there is a warning, and the
    network runs without. precision: of PRECISIONS; "bf16" is autocast to bfloat16.

    Raises InputError for an unknown precision.
    """
    one_of("precision", precision, PRECISIONS)
    running = Running(network, precision == "bf16", channels_last).eval()
    if not compiled:
        return running
    weight = next(network.parameters())
    images = weight.new_zeros(batch, network.channels, network.image_size, network.image_size)
    steps = torch.zeros(batch, dtype=torch.int64, device=weight.device)
    return compiled_or_eager(running, (images, steps), backward=False)


def compiled_or_eager(model: nn.Module, batch: tuple[Tensor, ...], backward: bool = True) -> nn.Module:
    """torch.compile(model), tried on one batch; if it fails, at the first call too, a warning and the model.

    batch: images, steps, noise (which is not used), labels if any; without `backward`, images and steps do.
    backward: try the gradient, too.
    """
    kept = copy.deepcopy(model.state_dict())
    try:
        compiled = torch.compile(model)
        with torch.set_grad_enabled(backward):
            answer = compiled(batch[0], batch[1], *batch[3:])
        if backward:
            trained = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(answer.sum(), trained, allow_unused=True)
        return compiled
    except (
        Exception
    ) as error:  # what a missing compiler or an operation without support raises has no common type
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = "training" if backward else "the network"
        warnings.warn(f"torch.compile does not work here, {what} goes on without it: {reason}", stacklevel=2)
        return model
    finally:
        model.load_state_dict(kept)
