"""The parts of the continuous U-Net: time embedding, initial velocity, acceleration, ODE block, attention.

Section 3.1 and figure 2 of the paper. An ODE block solves equation 4,

    x'' = f(x, x', t, s),    x(0) = x_0,   x'(0) = v_0,    s from 0 to 1,

for feature maps x and v of shape (B, C, H, W). t is the diffusion step, s the block's own time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdiffeq import odeint

from .errors import InputError
from .ode import ADAPTIVE, EVALUATIONS, FIXED_STEP, check_choice, solve


def groups_for(channels: int) -> int:
    """The number of groups for a group normalisation: about 8 channels a group, at most 8 groups."""
    return next(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels // g >= 4 or g == 1))


class TimeEmbedding(nn.Module):
    """Sinusoids of the diffusion step, then a two-layer perceptron (Ho et al. 2020, appendix B).

    t, shape (B,), any integer or float dtype -> (B, width) float32. Frequencies fall geometrically from 1
    to 1/10000.
    """

    def __init__(self, frequencies: int, width: int):
        super().__init__()
        half = frequencies // 2
        self.register_buffer(
            "omega", torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1)), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angle = t.to(self.omega.dtype)[:, None] * self.omega
        return self.mlp(torch.cat((angle.sin(), angle.cos()), dim=1))


class InitialVelocity(nn.Module):
    """v_0 = g(x_0), the block that sets the initial velocity (equation 4, section 3.1).

    Instance norm, convolution, activation, instance norm, convolution. Only the velocity is normalised: the
    position keeps brightness and noise level. (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.InstanceNorm2d(channels, affine=True)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(self.norm1(x)))
        return self.conv2(self.norm2(x))


class Acceleration(nn.Module):
    """f(x, v, t, s): the network that gives the second derivative (figure 2, right).

        h = conv3x3([x, v])
        h = group_norm(h) * (1 + scale(t, s)) + shift(t, s)
        f = conv3x3(silu(h)) + W [x, v]

    scale and shift come from the embedding of t, plus a learned direction times s: the diffusion step enters
    at every evaluation. The last term is the residual connection, a learned linear force: were W = [-k, -c]
    for numbers k and c, a damped spring. residual=False leaves it out.

    channels: of x, and of v. hidden: of h. order=1 is for the ablation without second order: the network then
    gives the derivative of the stacked state, (B, 2 channels, H, W).
    """

    def __init__(self, channels: int, hidden: int, time_width: int, residual: bool = True, order: int = 2):
        super().__init__()
        out = channels if order == 2 else 2 * channels
        self.order = order
        self.groups = groups_for(hidden)
        self.conv1 = nn.Conv2d(2 * channels, hidden, 3, padding=1)
        self.scale_shift = nn.Linear(time_width, 2 * hidden)
        self.scale_shift_s = nn.Parameter(torch.zeros(2 * hidden))
        self.conv2 = nn.Conv2d(hidden, out, 3, padding=1)
        self.residual = nn.Conv2d(2 * channels, out, 1, bias=False) if residual else None
        with torch.no_grad():  # start close to uniform motion, x(1) = x(0) + v(0)
            self.conv2.weight.mul_(0.1)
            if residual:
                self.residual.weight.mul_(0.1)

    def modulation(self, embedding: Tensor) -> Tensor:
        """The part of scale and shift that t decides, once for all evaluations: (B, T) -> (B, 2 hidden)."""
        return self.scale_shift(embedding)

    def forward(self, s: float | Tensor, x: Tensor, v: Tensor, modulation: Tensor) -> Tensor:
        """x, v: (B, channels, H, W); s: 0 ... 1; modulation: of `modulation`. Returns the acceleration."""
        state = torch.cat((x, v), dim=1)
        scale, shift = (modulation + s * self.scale_shift_s)[:, :, None, None].chunk(2, dim=1)
        h = F.group_norm(self.conv1(state), self.groups)
        force = self.conv2(F.silu(torch.addcmul(shift, h, 1 + scale)))
        return force if self.residual is None else force + self.residual(state)


class ODEBlock(nn.Module):
    """Carries (x, v) from s = 0 to s = 1 along x'' = f(x, x', t, s) (equation 4; figure 2, left).

    steps, solver, gradient: see `cunet.ode.solve`; `solve_with` changes them. With an acceleration of order 1
    (an ablation) the stacked state follows d[x, v]/ds = f instead, by torchdiffeq's fixed-step solver of that
    name.
    """

    def __init__(self, acceleration: Acceleration, steps: int, solver: str, gradient: str = "direct"):
        super().__init__()
        self.acceleration = acceleration
        self.solve_with(solver, steps, gradient)

    def solve_with(self, solver: str, steps: int, gradient: str | None = None) -> None:
        """From now on the equation is solved so; gradient: None leaves it as it is.

        Raises InputError as `cunet.ode.check_choice`, and of a first-order block for a solver without fixed
        steps or another gradient than "direct"; the block is then as before.
        """
        gradient = self.gradient if gradient is None else gradient
        check_choice(solver, steps, gradient)
        if self.acceleration.order == 1 and gradient != "direct":
            raise InputError(f"gradient={gradient!r}: a first-order block knows only 'direct'.")
        if self.acceleration.order == 1 and solver not in FIXED_STEP:
            raise InputError(
                f"solver={solver!r}: a first-order block has no velocity to use, and takes fixed steps: "
                f"choose one of {', '.join(FIXED_STEP)}."
            )
        self.solver, self.steps, self.gradient = solver, steps, gradient
        if solver in ADAPTIVE and not hasattr(self, "made"):  # until a call tells, what no force takes
            still = torch.zeros(1)
            self.made = solve(lambda s, x, v: x, still, still, solver=solver).evaluations

    @property
    def evaluations(self) -> int:
        """How often one call evaluates f. Of an adaptive solver, how often the last call did."""
        return self.made if self.solver in ADAPTIVE else EVALUATIONS[self.solver] * self.steps

    def forward(self, x: Tensor, v: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """x, v: (B, C, H, W); embedding of t: (B, time width). Returns x and v at s = 1."""
        modulation = self.acceleration.modulation(embedding)

        def force(s, x, v):
            return self.acceleration(s, x, v, modulation)

        if self.acceleration.order == 1:
            times = torch.linspace(0, 1, self.steps + 1, device=x.device)
            state = torch.cat((x, v), dim=1)
            return odeint(lambda s, z: force(s, *z.chunk(2, 1)), state, times, method=self.solver)[-1].chunk(
                2, 1
            )
        x, v, evaluations = solve(force, x, v, steps=self.steps, solver=self.solver, gradient=self.gradient)
        if self.solver in ADAPTIVE and evaluations != self.made:
            self.made = evaluations
        return x, v


def ode_blocks(network: nn.Module) -> list[ODEBlock]:
    """The ODE blocks of a network, itself included if it is one; those of `cunet.released` are others."""
    return [module for module in network.modules() if isinstance(module, ODEBlock)]


class Attention(nn.Module):
    """Multi-head self-attention over pixels (Ho et al. 2020), added to its input.

    (B, C, H, W) -> (B, C, H, W); cost grows with (H W)^2, so it stands where the side is 8 or less.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        if channels % heads:
            raise InputError(
                f"Attention over {channels} channels with {heads} heads: choose a divisor of {channels}."
            )
        self.heads = heads
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, height * width).unbind(1)
        attended = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        return x + self.out(attended.reshape(b, c, height, width))
