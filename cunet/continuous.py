"""The continuous U-Net as the paper describes it (section 3, figures 1 and 2, equation 4).

Second order: every block integrates dx/ds = v, dv/ds = f(x, v, t, s) from s = 0 to 1. The position starts
from un-normalised features of the input, so that brightness and noise level reach the output; the velocity
starts from g. Nine ODE blocks stand in a U, four on the way down, one in the middle, four on the way up, each
starting from the position and velocity that the block before it ended with. All that lies between blocks is
linear, so an un-normalised path leads from the input to the output.

    input -> position x, velocity v = g(x)
             [ODE block] --------------------------- skip ---> join [ODE block] -> head -> output
                  down [ODE block] ----------------- skip ---> join [ODE block] up
                       down [ODE block] ------------ skip ---> join [ODE block] up
                            down [ODE, attention] -- skip ---> join [ODE block] up
                                       [ODE, attention]

Feature maps and weights lie in memory with the channels last, where narrow convolutions are faster on a CPU.
Images may lie either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Acceleration, Attention, InitialVelocity, ODEBlock, TimeEmbedding, ode_blocks
from .errors import InputError, whole_numbers
from .inputs import ClassEmbedding, check

FREQUENCIES = 64  # sinusoids of the diffusion step


class Down(nn.Module):
    """To half the side: a 2 x 2 convolution with stride 2 on [x, v], linear."""

    def __init__(self, here: int, below: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * here, 2 * below, 2, stride=2)

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(torch.cat((x, v), dim=1)).chunk(2, dim=1)


class Join(nn.Module):
    """The state from below, brought to the side of the skip, plus the skip: W_1 up([x, v]) + W_2 [x, v].

    The same as a 1x1 convolution of the concatenation, but W_1 acts before the upsampling (nearest), where
    there are four times fewer pixels.
    """

    def __init__(self, below: int, here: int):
        super().__init__()
        self.carry = nn.Conv2d(2 * below, 2 * here, 1)
        self.skip = nn.Conv2d(2 * here, 2 * here, 1, bias=False)

    def forward(self, x: Tensor, v: Tensor, skip_x: Tensor, skip_v: Tensor) -> tuple[Tensor, Tensor]:
        carried = self.carry(torch.cat((x, v), dim=1))
        if carried.shape[-1] != skip_x.shape[-1]:
            carried = F.interpolate(carried, scale_factor=2.0, mode="nearest")
        return (carried + self.skip(torch.cat((skip_x, skip_v), dim=1))).chunk(2, dim=1)


class Head(nn.Module):
    """The state to the prediction: W [x * (1 + scale(t)) + shift(t), v], a 1x1 convolution.

    Linear in the state and not normalised; scale and shift let the share of the input that goes into the
    prediction depend on the diffusion step.
    """

    def __init__(self, width: int, channels: int, time_width: int):
        super().__init__()
        self.scale_shift = nn.Linear(time_width, 2 * width)
        self.conv = nn.Conv2d(2 * width, channels, 1)

    def forward(self, x: Tensor, v: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        return self.conv(torch.cat((torch.addcmul(shift, x, 1 + scale), v), dim=1))


class ContinuousUNet(nn.Module):
    """The continuous U-Net and its ablations.

    widths: channels of the position (the velocity has as many) at each resolution, from full to coarsest.
    channels: of the image. time_width: of the time embedding. hidden: inner width of the acceleration
    network over that of the position. steps, solver, gradient: of the ODE blocks, see `cunet.ode.solve`;
    steps is one number, or one a resolution like widths (the middle block is of the coarsest).
    attention: over all pixels at the coarsest side, after the last block down and the middle block.
    residual: the linear force inside f. zero_velocity: start from v = 0 instead of g(x).
    order: 2, or 1 for the ablation in which one network drives [x, v] as a first-order state.
    classes: how many classes of images it is told of (see `cunet.guidance`); 0: none, as in the paper.

    Raises InputError for fewer than two widths, a width below 1, the inner one included, another number of
    steps than of widths, or an unknown order, solver or gradient.
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 80, 160),
        channels: int = 3,
        time_width: int = 256,
        hidden: float = 1.0,
        steps: int | Sequence[int] = (1, 1, 2, 2),
        solver: str = "leapfrog",
        gradient: str = "direct",
        attention: bool = True,
        residual: bool = True,
        zero_velocity: bool = False,
        order: int = 2,
        classes: int = 0,
    ):
        super().__init__()
        if len(widths) < 2:
            raise InputError(f"widths={tuple(widths)!r}: a U-shape needs at least two resolutions.")
        steps = (steps,) * len(widths) if isinstance(steps, int) else tuple(steps)
        if len(steps) != len(widths):
            raise InputError(
                f"steps={steps!r}: expected one number, or {len(widths)}, one for each of widths."
            )
        whole_numbers(time_width=(time_width, 1), **{f"widths[{i}]": (w, 1) for i, w in enumerate(widths)})
        if not 1 <= hidden * min(widths) < math.inf:
            raise InputError(
                f"hidden={hidden!r}: the acceleration network's width over the position's, {min(widths)} at "
                "the narrowest, must leave 1 channel or more; 1.0 is as wide."
            )
        if order not in (1, 2):
            raise InputError(f"order={order!r}: the blocks' equation is of order 2, or of order 1.")
        self.channels = channels
        self.downsample_factor = 2 ** (len(widths) - 1)

        def block(level: int) -> ODEBlock:
            width = widths[level]
            force = Acceleration(width, round(hidden * width), time_width, residual, order)
            return ODEBlock(force, steps[level], solver, gradient)

        coarsest = widths[-1]
        self.time = TimeEmbedding(FREQUENCIES, time_width)
        self.classes = classes
        self.labels = ClassEmbedding(classes, time_width) if classes else None
        self.position = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.velocity = None if zero_velocity else InitialVelocity(widths[0])
        self.blocks_down = nn.ModuleList(block(level) for level in range(len(widths)))
        self.downs = nn.ModuleList(Down(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.attention_down = Attention(coarsest) if attention else nn.Identity()
        self.middle = block(-1)
        self.attention_middle = Attention(coarsest) if attention else nn.Identity()
        below = [*widths[1:], coarsest]
        self.joins = nn.ModuleList(Join(b, w) for b, w in reversed(list(zip(below, widths, strict=True))))
        self.blocks_up = nn.ModuleList(block(level) for level in reversed(range(len(widths))))
        self.head = Head(widths[0], channels, time_width)
        self.to(memory_format=torch.channels_last)

    @property
    def evaluations(self) -> int:
        """Evaluations of f that the last call made, over all blocks."""
        return sum(block.evaluations for block in ode_blocks(self))

    def forward(
        self, sample: Tensor, timestep: int | Tensor, class_labels: Tensor | None = None, *ignored
    ) -> Tensor:
        """Noisy images and their diffusion step -> the prediction (noise, image or v, as trained).

        sample: float32, (B, channels, H, W), sides divisible by `downsample_factor` (8). timestep: 0 ... 999,
        one number or integers (B,). class_labels: integers (B,), None for no class; only a network with
        classes looks at them. Further arguments are ignored. Returns a tensor like sample.

        Raises InputError if they do not fit.
        """
        factor, weight = self.downsample_factor, self.position.weight
        embedding = self.time(check(sample, timestep, self.channels, factor, weight))
        if self.labels is not None:
            embedding = self.labels(embedding, class_labels)
        x = self.position(sample).contiguous(memory_format=torch.channels_last)
        v = torch.zeros_like(x) if self.velocity is None else self.velocity(x)
        skips = []
        for i, block in enumerate(self.blocks_down):
            if i:
                x, v = self.downs[i - 1](x, v)
            x, v = block(x, v, embedding)
            skips.append((x, v))
        x = self.attention_down(x)
        x, v = self.middle(x, v, embedding)
        x = self.attention_middle(x)
        for join, block in zip(self.joins, self.blocks_up, strict=True):
            x, v = block(*join(x, v, *skips.pop()), embedding)
        return self.head(x, v, embedding)
