"""The baseline: the U-Net of Ho et al. (2020), in the form the paper compares with.

Residual blocks with the diffusion step as scale and shift, linear attention (Katharopoulos et al. 2020;
Shen et al. 2021) at every level but the lowest, where attention is full. The same network as
`Unet(dim=64, dim_mults=(1, 2, 4, 8))` of lucidrains' denoising-diffusion-pytorch 1.8.8: 35,710,339
parameters for RGB, and the same outputs under the same weights (tests/test_unet.py). Written anew, so that it
needs no einops, keeps to views where it can, in either memory format, and compiles to a single
graph:

    pixel-unshuffle and 1x1 convolution      ->  the 2x2 convolution with stride 2 that they amount to
    x * (1 + scale) + shift                  ->  one pass over memory (addcmul)
    einsum over heads                        ->  matrix products on views
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError, whole_numbers
from .inputs import ClassEmbedding, check

HEADS, HEAD_WIDTH = 4, 32  # of every attention in the paper's network
GROUPS = 8  # of every group norm


class Sinusoids(nn.Module):
    """t -> [sin(omega_k t), cos(omega_k t)], omega_k from 1 down to 1/10000 (Ho et al., appendix B).

    (B,) integers -> (B, width) float32.
    """

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        omega = torch.exp(torch.arange(half) * (-math.log(10_000) / (half - 1)))
        self.register_buffer("omega", omega, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.omega
        return torch.cat((angle.sin(), angle.cos()), dim=1)


class RMSNorm(nn.Module):
    """x / rms(x) over the channels of each pixel, times a learned gain a channel. Keeps the shape."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.gain * x.shape[1] ** 0.5)


class ResidualBlock(nn.Module):
    """Two rounds of convolution 3x3, group norm and SiLU, added to the input; t scales and shifts the first.

    x (B, in_width, H, W), embedding (B, time_width) -> (B, out_width, H, W).
    """

    def __init__(self, in_width: int, out_width: int, time_width: int):
        super().__init__()
        self.scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * out_width))
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out_width)
        self.bypass = nn.Identity() if in_width == out_width else nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm1(self.conv1(x)), 1 + scale))
        return F.silu(self.norm2(self.conv2(h))) + self.bypass(x)


class LinearAttention(nn.Module):
    """Attention whose cost is linear in the number of pixels N: (V softmax(K)^T) softmax(Q), no N x N matrix.

    (B, C, H, W) -> (B, C, H, W). The residual sum is the caller's.
    """

    def __init__(self, width: int, head_width: int = HEAD_WIDTH):
        super().__init__()
        inner = HEADS * head_width
        self.norm = RMSNorm(width)
        self.qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        self.out = nn.Sequential(nn.Conv2d(inner, width, 1), RMSNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _split_heads(self.qkv(self.norm(x)))
        q = q.softmax(dim=2) * q.shape[2] ** -0.5  # over the features of a pixel
        k = k.softmax(dim=3)  # over the pixels
        attended = (v @ k.mT) @ q
        return self.out(attended.reshape(x.shape[0], -1, *x.shape[2:]))


class Attention(nn.Module):
    """Scaled dot-product attention over all pixels (Vaswani et al. 2017); the residual sum is the caller's.

    (B, C, H, W) -> (B, C, H, W); cost grows with (H W)^2.
    """

    def __init__(self, width: int, head_width: int = HEAD_WIDTH):
        super().__init__()
        inner = HEADS * head_width
        self.norm = RMSNorm(width)
        self.qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _split_heads(self.qkv(self.norm(x)))
        attended = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        return self.out(attended.reshape(x.shape[0], -1, *x.shape[2:]))


def _split_heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3 heads d, H, W) -> three of (B, heads, d, H W), views in either memory format."""
    b, c, height, width = qkv.shape
    return qkv.reshape(b, 3, HEADS, c // (3 * HEADS), height * width).unbind(1)


class Level(nn.Module):
    """What stands at one resolution: two residual blocks, attention, and the way to the next resolution."""

    def __init__(self, in_width: int, width: int, time_width: int, attention: nn.Module, onward: nn.Module):
        super().__init__()
        self.block1 = ResidualBlock(in_width, width, time_width)
        self.block2 = ResidualBlock(in_width, width, time_width)
        self.attention = attention
        self.onward = onward


class UNet(nn.Module):
    """The U-Net of Ho et al. (2020) as the paper's baseline has it.

    dim: width at full resolution, a multiple of 8. dim_mults: width of each level as a multiple of dim; full
    attention at the last. channels: of the image, in and out. head_width: of each of the four attention
    heads; 32 in the paper's network, which is half of dim, and half of dim keeps its shape at other widths.
    classes: how many classes of images it is told of (see `cunet.guidance`); 0: none, as in the paper.

    Raises InputError for a width that group norm cannot divide, no level, or a multiple or head width
    below 1.
    """

    evaluations = 0  # of an ODE function: there is none

    def __init__(
        self,
        dim: int = 64,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        head_width: int = HEAD_WIDTH,
        classes: int = 0,
    ):
        super().__init__()
        if dim < GROUPS or dim % GROUPS:
            raise InputError(f"UNet(dim={dim}): the width must be a multiple of {GROUPS}; the paper's is 64.")
        if not dim_mults:
            raise InputError(f"dim_mults={dim_mults!r}: give a multiple of dim for one level or more.")
        multiples = {f"dim_mults[{i}]": (m, 1) for i, m in enumerate(dim_mults)}
        whole_numbers(head_width=(head_width, 1), **multiples)
        self.channels = channels
        widths = [dim, *(dim * m for m in dim_mults)]
        steps = list(zip(widths, widths[1:], strict=False))
        last, time_width = len(steps) - 1, 4 * dim
        self.downsample_factor = 2**last

        self.first = nn.Conv2d(channels, dim, 7, padding=3)
        self.time = nn.Sequential(
            Sinusoids(dim), nn.Linear(dim, time_width), nn.GELU(), nn.Linear(time_width, time_width)
        )
        self.classes = classes
        self.labels = ClassEmbedding(classes, time_width) if classes else None

        def attention(i: int, width: int) -> nn.Module:
            return (Attention if i == last else LinearAttention)(width, head_width)

        self.downs = nn.ModuleList(
            Level(
                a, a, time_width, attention(i, a), _down(a, b) if i < last else nn.Conv2d(a, b, 3, padding=1)
            )
            for i, (a, b) in enumerate(steps)
        )
        self.ups = nn.ModuleList(
            Level(
                a + b, b, time_width, attention(i, b), _up(b, a) if i > 0 else nn.Conv2d(b, a, 3, padding=1)
            )
            for i, (a, b) in reversed(list(enumerate(steps)))
        )
        self.middle1 = ResidualBlock(widths[-1], widths[-1], time_width)
        self.middle_attention = Attention(widths[-1], head_width)
        self.middle2 = ResidualBlock(widths[-1], widths[-1], time_width)
        self.last_block = ResidualBlock(2 * dim, dim, time_width)
        self.last = nn.Conv2d(dim, channels, 1)

    def forward(
        self, sample: Tensor, timestep: int | Tensor, class_labels: Tensor | None = None, *ignored
    ) -> Tensor:
        """Noisy images and their diffusion step -> the prediction (noise, image or v, as trained).

        sample: float32, (B, channels, H, W), sides divisible by `downsample_factor` (8). timestep: 0 ... 999,
        one number or integers (B,). class_labels: integers (B,), None for no class; only a network with
        classes looks at them. Further arguments are ignored. Returns a tensor like sample.

        Raises InputError if they do not fit.
        """
        factor, weight = self.downsample_factor, self.first.weight
        embedding = self.time(check(sample, timestep, self.channels, factor, weight))
        if self.labels is not None:
            embedding = self.labels(embedding, class_labels)
        x = first = self.first(sample)
        skips = []
        for level in self.downs:
            x = level.block1(x, embedding)
            skips.append(x)
            x = level.block2(x, embedding)
            x = level.attention(x) + x
            skips.append(x)
            x = level.onward(x)
        x = self.middle1(x, embedding)
        x = self.middle_attention(x) + x
        x = self.middle2(x, embedding)
        for level in self.ups:
            x = level.block1(torch.cat((x, skips.pop()), dim=1), embedding)
            x = level.block2(torch.cat((x, skips.pop()), dim=1), embedding)
            x = level.attention(x) + x
            x = level.onward(x)
        return self.last(self.last_block(torch.cat((x, first), dim=1), embedding))


def _down(in_width: int, out_width: int) -> nn.Module:
    return nn.Conv2d(in_width, out_width, 2, stride=2)


def _up(in_width: int, out_width: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(in_width, out_width, 3, padding=1))
