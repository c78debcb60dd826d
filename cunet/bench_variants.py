"""What was tried to make the continuous U-Net faster, and what each gains: ratios of a call's time.

Each variant is the plain network with one thing changed. Those that compute the same function could be had
for nothing, the others would have to be trained; a ratio that reaches 1 is a finding, too.

modulations once        scale and shift of each diffusion step, kept for all sampling runs that come by it
split convolution       W_x x + W_v v in place of W [x, v] inside f: no concatenation
bottleneck              f's inner width is half of the position's (`cunet@hidden=0.5`)
separable convolutions  each 3x3 convolution of f as a 3x3 a channel and a 1x1 over channels
bare solver             the steps of leapfrog written out: what `cunet.ode.solve` costs around them
channels first          weights and feature maps in torch's default layout
bf16                    autocast to bfloat16

And the levers that shape the network, some there to see how much they could move at most:

no attention            `cunet@attention=false`
one step, two steps     in every block (`cunet@steps=1`, `cunet@steps=2`); plain are one where pixels are many
                        and two where they are few
two steps, then one     the other placement (`cunet@steps=(2,2,1,1)`)
no normalisation        f without its group norm: what the cheapest norm would gain
pooled downsampling     the mean of 2 x 2 pixels and a 1x1 convolution, for a 2x2 convolution with stride 2
late 1x1 convolution    on the way up, after the upsampling, on four times the pixels; the same function
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cost, models
from .bench_tasks import forward_task
from .blocks import Acceleration, ODEBlock, ode_blocks
from .contenders import channels_first
from .continuous import ContinuousUNet, Join
from .running import Running

PLAIN = "cunet"
COLUMNS = ["variant", "same_function", "batch", "ratio", "low", "high", "parameters", "MACs"]


def modulations_once(network: ContinuousUNet) -> nn.Module:
    """What depends on the diffusion step alone, computed when the step is met first; one step a batch."""
    network.time.forward = _remembered(network.time.forward, lambda t: (len(t), int(t[0])))
    for block in ode_blocks(network):
        block.acceleration.modulation = _remembered(block.acceleration.modulation, id)
    network.head.scale_shift.forward = _remembered(network.head.scale_shift.forward, id)
    return network


def _remembered(function: Callable[[Tensor], Tensor], key: Callable[[Tensor], Hashable]) -> Callable:
    """The function with its answers kept; the argument is kept, too, so that its id stays its own."""
    known: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def remembered(x: Tensor) -> Tensor:
        if key(x) not in known:
            known[key(x)] = x, function(x)
        return known[key(x)][1]

    return remembered


def split_convolution(network: ContinuousUNet) -> nn.Module:
    """f without the concatenation of position and velocity."""
    for block in ode_blocks(network):
        block.acceleration.forward = _split(block.acceleration)
    return network


def _split(force: Acceleration) -> Callable:
    """`Acceleration.forward` with the convolutions of [x, v] in two."""
    channels = force.conv1.in_channels // 2
    first, residual = (
        [part.detach().contiguous(memory_format=torch.channels_last) for part in w.split(channels, dim=1)]
        for w in (force.conv1.weight, force.residual.weight)
    )

    def forward(s: float, x: Tensor, v: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = (modulation + s * force.scale_shift_s)[:, :, None, None].chunk(2, dim=1)
        h = F.conv2d(x, first[0], force.conv1.bias, padding=1) + F.conv2d(v, first[1], padding=1)
        h = F.group_norm(h, force.groups)
        a = force.conv2(F.silu(torch.addcmul(shift, h, 1 + scale)))
        return a + F.conv2d(x, residual[0]) + F.conv2d(v, residual[1])

    return forward


def named(change: str) -> Callable[[ContinuousUNet], nn.Module]:
    """Another network, with a change in its name, in the place of the plain one."""
    return lambda network: models.build(f"{PLAIN}@{change}", network.size, network.channels)


def separable(network: ContinuousUNet) -> nn.Module:
    """f with depthwise-separable convolutions (Howard et al. 2017), untrained."""
    for block in ode_blocks(network):
        force = block.acceleration
        force.conv1, force.conv2 = (_separable(conv) for conv in (force.conv1, force.conv2))
    return network.to(memory_format=torch.channels_last)


def _separable(conv: nn.Conv2d) -> nn.Module:
    width = conv.in_channels
    a_channel = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    return nn.Sequential(a_channel, nn.Conv2d(width, conv.out_channels, 1))


def bare_solver(network: ContinuousUNet) -> nn.Module:
    """The blocks' leapfrog without checks, counting and choice."""
    for block in ode_blocks(network):
        block.forward = _bare(block)
    return network


def _bare(block: ODEBlock) -> Callable:
    """`ODEBlock.forward` of leapfrog, see `cunet.ode.leapfrog`."""
    force, h = block.acceleration, 1 / block.steps

    def forward(x: Tensor, v: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        modulation, now = force.modulation(embedding), v
        for n in range(block.steps):
            x = torch.add(x, v, alpha=h / 2 if n == 0 else h)
            a = force((n + 0.5) * h, x, now, modulation)
            if n + 1 < block.steps:
                now = torch.add(v, a, alpha=1.5 * h)
            v = torch.add(v, a, alpha=h)
        return torch.add(x, v, alpha=h / 2), v

    return forward


def no_normalisation(network: ContinuousUNet) -> nn.Module:
    """f without its group normalisation, scale and shift kept."""
    for block in ode_blocks(network):
        block.acceleration.forward = _unnormalised(block.acceleration)
    return network


def _unnormalised(force: Acceleration) -> Callable:
    """`Acceleration.forward` without the norm."""

    def forward(s: float, x: Tensor, v: Tensor, modulation: Tensor) -> Tensor:
        state = torch.cat((x, v), dim=1)
        scale, shift = (modulation + s * force.scale_shift_s)[:, :, None, None].chunk(2, dim=1)
        a = force.conv2(F.silu(torch.addcmul(shift, force.conv1(state), 1 + scale)))
        return a + force.residual(state)

    return forward


def pooled_downsampling(network: ContinuousUNet) -> nn.Module:
    """Half the side by averaging, the channels by a 1x1 convolution: a quarter of the products."""
    for down in network.downs:
        down.conv = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(down.conv.in_channels, down.conv.out_channels, 1)
        )
    return network.to(memory_format=torch.channels_last)


def late_convolution(network: ContinuousUNet) -> nn.Module:
    """The joins' 1x1 convolution of what comes from below after the upsampling."""
    for join in network.joins:
        join.forward = _late(join)
    return network


def _late(join: Join) -> Callable:
    """`Join.forward` in the other order."""

    def forward(x: Tensor, v: Tensor, skip_x: Tensor, skip_v: Tensor) -> tuple[Tensor, Tensor]:
        below = torch.cat((x, v), dim=1)
        if below.shape[-1] != skip_x.shape[-1]:
            below = F.interpolate(below, scale_factor=2.0, mode="nearest")
        return (join.carry(below) + join.skip(torch.cat((skip_x, skip_v), dim=1))).chunk(2, dim=1)

    return forward


def bf16(network: ContinuousUNet) -> nn.Module:
    """The network under autocast."""
    return Running(network, bf16=True, channels_last=False)


class Variant(NamedTuple):
    """What makes a variant of a plain network that was just built, and whether it is the same function."""

    make: Callable[[ContinuousUNet], nn.Module]
    same: bool


VARIANTS = {
    "modulations once": Variant(modulations_once, True),
    "split convolution": Variant(split_convolution, True),
    "bottleneck": Variant(named("hidden=0.5"), False),
    "separable convolutions": Variant(separable, False),
    "bare solver": Variant(bare_solver, True),
    "channels first": Variant(channels_first, True),
    "bf16": Variant(bf16, False),
    "no attention": Variant(named("attention=false"), False),
    "one step": Variant(named("steps=1"), False),
    "two steps": Variant(named("steps=2"), False),
    "two steps, then one": Variant(named("steps=(2,2,1,1)"), False),
    "no normalisation": Variant(no_normalisation, False),
    "pooled downsampling": Variant(pooled_downsampling, False),
    "late 1x1 convolution": Variant(late_convolution, True),
}


def run(size: str, channels: int, batches: Sequence[int], repeats: int, warmup: int) -> pd.DataFrame:
    """Measure all variants, interleaved; columns COLUMNS.

    A row a variant and batch, the plain network first: ratio of its call's time to the plain one's, with the
    ends of the interval; parameters and MACs of an image. Arguments: as in `cunet.bench.Settings`.
    """
    networks = {PLAIN: models.build(PLAIN, size, channels).eval()}
    for name, variant in VARIANTS.items():
        networks[name] = variant.make(models.build(PLAIN, size, channels)).eval()
    side, rows = models.image_size(size), []
    same = {name: "yes" if variant.same else "no" for name, variant in VARIANTS.items()} | {PLAIN: "yes"}
    counts = {
        name: dict(parameters=cost.parameters(network).total, MACs=cost.macs(network, side))
        for name, network in networks.items()
    }
    for batch in batches:
        images = torch.randn(batch, channels, side, side)
        calls = {name: forward_task(network, images, network) for name, network in networks.items()}
        found = cost.time_interleaved(calls, repeats, warmup)
        for name, ratio in found.ratios.items():
            row = dict(variant=name, same_function=same[name], batch=batch, ratio=ratio)
            rows.append(row | dict(zip(("low", "high"), found.spread[name], strict=True)) | counts[name])
    return pd.DataFrame(rows)[COLUMNS]
