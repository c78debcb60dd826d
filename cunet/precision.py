"""Weights in fewer bits: how a network's state is stored, and how it comes back.

`float16` keeps three digits of each number. `int8` keeps, of each weight with two dimensions or more and at
least `SMALLEST` numbers, an integer in -127..127 a number and one scale an output channel (the first
dimension), so that the largest number of the channel becomes 127: symmetric quantisation by channel
(Krishnamoorthi, 2018, arXiv 1806.08342). The rest stays in 16 bits: biases, norms, and the small weights,
such as the first and the last convolution, which are few numbers and cost most of the loss when rounded.
What are no float32 numbers are stored as they are. Computation is in float32 whatever the file has.
"""

import copy

import torch
from torch import Tensor, nn

from cunet.errors import one_of

DTYPES = ("float32", "float16", "int8")
"""How weights may be stored, the most bits first; they are float32 again after `cunet.checkpoints.load`."""

SCALE = ":scale"  # what a stored weight's name is followed by where its scales are
SMALLEST = 4096  # numbers of a weight that is stored in 8 bits
LARGEST = 127  # int8 has -128, too; without it the range is symmetric


def packed(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """A network's state as it is stored: contiguous CPU tensors that share no memory.

    Args:
        state: names to tensors, as `Module.state_dict` gives it.
        dtype: one of `DTYPES`, for what is float32.

    Returns:
        The same names; for `int8` also `<name>:scale`, float32 (C,), C the first dimension of the tensor.

    Raises:
        InputError: an unknown dtype.
    """
    one_of("dtype", dtype, DTYPES)
    tensors = {}
    for name, value in state.items():
        value = value.detach().cpu()
        if value.dtype != torch.float32 or dtype == "float32":
            tensors[name] = value.contiguous().clone()
        elif dtype == "int8" and value.dim() > 1 and value.numel() >= SMALLEST:
            # NaN and infinity pass into the scale, where the writer of the file finds and refuses them
            scale = value.flatten(1).abs().amax(1) / LARGEST
            rows = value / scale.clamp_min(torch.finfo(torch.float32).tiny).view(
                -1, *(1,) * (value.dim() - 1)
            )
            tensors[name], tensors[name + SCALE] = rows.round().to(torch.int8).contiguous(), scale
        else:
            tensors[name] = value.half().contiguous()
    return tensors


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` made, as a state in float32; scales without a fitting weight are left as they are."""
    state, used = {}, set()
    for name, value in tensors.items():
        scale = tensors.get(name + SCALE)
        if scale is not None and value.dtype == torch.int8 and scale.shape == value.shape[:1]:
            state[name] = value.float() * scale.view(-1, *(1,) * (value.dim() - 1))
            used.add(name + SCALE)
        else:
            state[name] = value.float() if value.dtype == torch.float16 else value
    return {name: value for name, value in state.items() if name not in used}


def rounded(network: nn.Module, dtype: str) -> nn.Module:
    """A copy of a network as a reader has it after it was stored with `dtype`, one of `DTYPES`."""
    other = copy.deepcopy(network)  # what is stored is the state; tables that are computed are not
    other.load_state_dict(unpacked(packed(network.state_dict(), dtype)))
    return other
