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

And what getting a batch takes of a training step, in which it is included, at size laptop on MNIST: whether
the reading of data limits a training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cost, datasets, models
from .batches import Batches
from .bench_tasks import forward_task, training_task
from .blocks import Acceleration, ODEBlock, ode_blocks
from .continuous import ContinuousUNet
from .recipe import TrainConfig
from .running import Running

PLAIN = "cunet"
COLUMNS = ["variant", "same_function", "batch", "ratio", "low", "high", "parameters", "MACs"]
LOADED = ("unet", PLAIN)  # whose training steps are held against their batches


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


def bottleneck(network: ContinuousUNet) -> nn.Module:
    """Another network, whose f is narrower inside."""
    return models.build(f"{PLAIN}@hidden=0.5", network.size, network.channels)


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


def channels_first(network: ContinuousUNet) -> nn.Module:
    """The network with its weights, and its feature maps from the first block on, in the default layout."""
    network.blocks_down[0].register_forward_pre_hook(
        lambda _, given: (given[0].contiguous(), given[1].contiguous(), given[2])
    )
    return network.to(memory_format=torch.contiguous_format)


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
    "bottleneck": Variant(bottleneck, False),
    "separable convolutions": Variant(separable, False),
    "bare solver": Variant(bare_solver, True),
    "channels first": Variant(channels_first, True),
    "bf16": Variant(bf16, False),
}


def run(size: str, channels: int, batches: Sequence[int], repeats: int, warmup: int) -> pd.DataFrame:
    """Measure all variants, interleaved, and the share of the batches in training steps; COLUMNS.

    A row a variant and batch, the plain network first: ratio of its call's time to the plain one's, with the
    ends of the interval; parameters and MACs of an image. And a row for each of LOADED, whose ratio is a
    batch's share of a training step that includes it. Arguments: as in `cunet.bench.Settings`.
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
    return pd.DataFrame([*rows, *data_loading(repeats, warmup)]).reindex(columns=COLUMNS)


def data_loading(repeats: int, warmup: int) -> list[dict]:
    """For each of LOADED the time to get a batch over that of a training step with it; size laptop, MNIST."""
    rows, config = [], TrainConfig(dataset="mnist", size="laptop")
    getting = Batches(datasets.load("mnist", "train", models.image_size("laptop")), config)
    for name in LOADED:
        model, step = models.build(name, "laptop", 1), iter(range(10**9))
        train = training_task(model, getting(0)[0], model)

        def get(step=step) -> None:
            getting(next(step))

        def whole(get=get, train=train) -> None:
            get()
            train()

        found = cost.time_interleaved({"step": whole, "batch": get}, max(2, repeats // 2), min(1, warmup))
        row = dict(variant=f"data of a training step, {name}", same_function="-", batch=config.batch_size)
        rows.append(
            row
            | dict(ratio=found.ratios["batch"])
            | dict(zip(("low", "high"), found.spread["batch"], strict=True))
        )
    return rows
