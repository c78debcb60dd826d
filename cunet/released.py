"""The continuous U-Net as its authors released it: an oracle for counts, and a network to compare with.

Written from the facts of the authors' code (github.com/Sergio20f/cDDPM, July 2023): the layers, their order
and the parameter counts to the last digit. It is not improved here; `cunet.continuous` is the network that
the paper describes. Where the two part:

1. Not second order. The paper's equation 4 has dx/ds = v. Here one function f returns the derivative of the
   whole state z, so dz/ds = f(z): a first-order augmented ODE (Dupont et al. 2019). The second half of the
   channels is called velocity in the paper, and nothing makes it one.
2. Blind to the diffusion step. The functions f are built without their time networks: t = 3 and t = 900 give
   the same output to the last bit. A frozen table of sinusoids is carried along, counted and not read.
3. Blind to brightness and contrast. The input block starts with an instance norm
   without affine parameters, and the input goes nowhere else: a x + b, a > 0 and b for each channel, gives
   the output of x up to the norm's epsilon. With point 2, the only sign of the noise level is how rough the
   normalised image is.
4. No adjoint: gradients go back through the solver, so memory grows with the number of evaluations.
5. Softplus where the paper writes ReLU.
6. Table 5's 2.90 "GFLOPS" belong to attention=5, figure 6's 8.8 M parameters to attention=2. They are
   multiply-accumulates, and of convolutions alone: attention's matrix products, at 32 x 32, make it 3.43 G.

| attention | residual | parameters | name in `cunet.models` |
|-----------|----------|------------|------------------------|
| 2         | yes      | 8,811,875  | cunet-released         |
| 5         | yes      | 9,140,835  | cunet-released-5attn   |
| 0         | yes      | 8,548,707  | cunet-released-noattn  |
| 2         | no       | 6,138,083  | cunet-released-nores   |
| 0         | no       | 5,874,915  | cunet-released-plain   |

The two without residual have time networks, beside f and not inside. Their counts are exact; that they are
added to the state before each block is inferred. These two therefore do see t (point 2 is not theirs): as a
constant a channel, which f cannot see, for it normalises first, but which the integral carries past it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdiffeq import odeint

from .errors import InputError, whole_numbers
from .inputs import TIMESTEPS, check
from .unet import Attention

TIME_WIDTH = 256  # sinusoids in the frozen table
EVALUATIONS_A_BLOCK = 4  # of torchdiffeq's "rk4" (the 3/8 rule) in one step
# levels with attention after the ODE block; 4 is the bottom
ATTENTION_LEVELS = {0: (), 2: (3,), 5: (1, 3, 4)}


def instance_norm(x: Tensor) -> Tensor:
    """(x - mean) / std of each image and channel; a map of one pixel is its own mean, hence 0."""
    return F.instance_norm(x) if x.shape[2] * x.shape[3] > 1 else torch.zeros_like(x)


class Derivative(nn.Module):
    """f(z) of dz/ds = f(z): instance norm, convolution and softplus, twice; plus z itself with `residual`.

    (B, C, H, W) -> (B, C, H, W). Autonomous: neither s nor t enters. Without residual, the second
    convolution is 1x1.
    """

    def __init__(self, width: int, residual: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1) if residual else nn.Conv2d(width, width, 1)
        self.residual = residual

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        h = F.softplus(self.conv1(instance_norm(z)))
        h = F.softplus(self.conv2(instance_norm(h)))
        return z + h if self.residual else h


class Block(nn.Module):
    """z(0) -> z(1) of dz/ds = f(z), one rk4 step; then attention, with nothing around it, where there is one.

    z (B, C, H, W), sinusoids of t (B, 256) -> (B, C, H, W). head_width: of each of four heads; None is no
    attention.
    """

    def __init__(self, width: int, residual: bool, head_width: int | None):
        super().__init__()
        self.derivative = Derivative(width, residual)
        self.time = None
        if not residual:
            self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.attention = None if head_width is None else Attention(width, head_width)
        self.register_buffer("span", torch.tensor([0.0, 1.0]), persistent=False)

    def forward(self, z: Tensor, sinusoids: Tensor) -> Tensor:
        if self.time is not None:
            z = z + self.time(sinusoids)[:, :, None, None]
        z = odeint(self.derivative, z, self.span, method="rk4")[-1]
        return z if self.attention is None else self.attention(z)


class ReleasedCUNet(nn.Module):
    """The released network (see the module's text for the variants and for where it departs from the paper).

    nf: channels of the first convolution, 16 in the release; the state has 2 nf at full resolution and 32 nf
    at the bottom, and attention four heads of 2 nf.
    attention: 2, 5 or 0 attention layers. residual: the identity inside f. channels: of the image.

    `evaluations`: how often one call evaluates the functions f, 4 in each of nine blocks.
    Raises InputError for an unknown number of attention layers, or nf below 1.
    """

    def __init__(self, nf: int = 16, attention: int = 2, residual: bool = True, channels: int = 3):
        super().__init__()
        if attention not in ATTENTION_LEVELS:
            raise InputError(f"ReleasedCUNet(attention={attention!r}): the release has 2, 5 or 0 attentions.")
        whole_numbers(nf=(nf, 1))
        self.channels = channels
        widths = [2 * nf * 2**level for level in range(5)]
        pairs = list(zip(widths, widths[1:], strict=False))

        def block(level: int) -> Block:
            return Block(widths[level], residual, 2 * nf if level in ATTENTION_LEVELS[attention] else None)

        self.sinusoids = nn.Parameter(_sinusoids(TIMESTEPS, TIME_WIDTH), requires_grad=False)
        self.first = nn.Conv2d(channels, nf, 3, padding=1)
        self.second = nn.Conv2d(nf, widths[0], 1)
        self.down_blocks = nn.ModuleList(block(level) for level in range(4))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairs)
        self.bottom = block(4)
        self.ups = nn.ModuleList(nn.Conv2d(a + b, a, 1) for a, b in pairs)
        self.up_blocks = nn.ModuleList(block(level) for level in range(4))
        self.last = nn.Conv2d(widths[0], channels, 1)
        self.evaluations = EVALUATIONS_A_BLOCK * (2 * len(pairs) + 1)

    def forward(self, sample: Tensor, timestep: int | Tensor, *ignored) -> Tensor:
        """Noisy images and their diffusion step -> the prediction (v, as the authors trained it).

        sample: float32, (B, channels, H, W), sides divisible by 16. timestep: 0 ... 999, one number or
        integers (B,). Further arguments are ignored. Returns a tensor like sample.

        Raises InputError if they do not fit.
        """
        factor, weight = 2 ** len(self.downs), self.first.weight
        sinusoids = self.sinusoids[check(sample, timestep, self.channels, factor, weight)]
        z = F.softplus(self.first(instance_norm(sample)))
        z = F.softplus(self.second(instance_norm(z)))
        skips = []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            z = block(z, sinusoids)
            skips.append(z)
            z = F.interpolate(F.softplus(down(z)), scale_factor=0.5, mode="bilinear")
        z = self.bottom(z, sinusoids)
        for block, up in zip(reversed(self.up_blocks), reversed(self.ups), strict=True):
            z = F.interpolate(z, scale_factor=2.0, mode="bilinear")
            z = F.softplus(up(torch.cat((z, skips.pop()), dim=1)))
            z = block(z, sinusoids)
        return self.last(z)


def _sinusoids(timesteps: int, width: int) -> Tensor:
    """(timesteps, width): sines and cosines of t / 10000^(2 k / width) (Vaswani et al. 2017)."""
    omega = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = torch.arange(timesteps)[:, None] * omega
    return torch.cat((angle.sin(), angle.cos()), dim=1)
