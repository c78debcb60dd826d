"""By how much can a block, or a network, enlarge a small change of its input? Its Jacobian's largest singular
value, image by image.

A Lipschitz constant is the supremum of |J(x)| over all x, J the Jacobian. That cannot be had for a deep
network; what can be had is |J(x)| at the x that occur: feature maps inside a trained network, noisy images.
The largest singular value is found by power iteration, u <- J^T J u / |J^T J u|, with products of J by
forward-mode and of J^T by reverse-mode differentiation; J itself is never written down. As images in a batch
do not meet, all are iterated at once. |J u| never exceeds the largest singular value and rises towards it, so
that what is given is a lower bound, of |J(x)| and of the Lipschitz constant. Beside it stands what happens to
a change in a random direction, as noise is.

The paper argues that an ODE block is bounded where a convolutional one is not (section 2). The flow of
z' = f(z) over a unit of time has |J| <= exp(L), L the Lipschitz constant of f, which is a bound, and no small
one: measured values can go either way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from .blocks import ODEBlock
from .diffusion import Diffusion
from .errors import InputError
from .recipe import generator
from .released import Block
from .unet import ResidualBlock

KINDS = {ODEBlock: "ODE block", Block: "ODE block", ResidualBlock: "ResNet block"}


class Norms(NamedTuple):
    """|J u| / |u| for each image, (B,): largest, for the worst direction u; random, for a random one."""

    largest: Tensor
    random: Tensor


@sdpa_kernel(SDPBackend.MATH)  # the fast attention has no forward-mode derivative
def jacobian_norms(
    function: Callable[[Tensor], Tensor], x: Tensor, iterations: int = 15, seed: int = 0
) -> Norms:
    """Largest singular value of the Jacobian at each x, and the gain in one random direction.

    function: (B, ...) -> (B, ...), image by image. x: (B, ...), float. iterations: 1 or more.
    Raises InputError for no iteration, and for a function whose values are not finite.
    """
    if iterations < 1:
        raise InputError(f"iterations={iterations}: power iteration takes 1 or more.")
    value, pull = vjp(function, x)
    if not value.isfinite().all():
        raise InputError("A function whose values are not finite has no Jacobian: the input is out of range.")

    def length(z: Tensor) -> Tensor:
        return z.flatten(1).norm(dim=1).view(-1, *(1,) * (z.ndim - 1))

    u = torch.randn(x.shape, generator=generator(seed, "jacobian"), dtype=torch.float64).to(x)
    u = u / length(u)
    with warnings.catch_warnings():  # torch's first forward derivative in a process warns of torch's own code
        warnings.simplefilter("ignore", FutureWarning)
        _, pushed = jvp(function, (x,), (u,))
    random = length(pushed).flatten()
    for _ in range(iterations):
        (u,) = pull(pushed.detach())  # what led to it is not needed, and would be held to the end
        u = u.detach()
        u = u / length(u).clamp(min=torch.finfo(u.dtype).tiny)
        _, pushed = jvp(function, (x,), (u,))
    return Norms(length(pushed).flatten().detach(), random.detach())


class Seen(NamedTuple):
    """A block as it stands in a network: its name, what it is, and what it was called with."""

    name: str
    module: nn.Module
    arguments: tuple
    named: dict


def record(network: nn.Module, images: Tensor, timestep: int) -> list[Seen]:
    """The blocks of KINDS, in the order of their calls, with what they get when the network sees `images`."""
    seen: list[Seen] = []

    def keep(name):
        return lambda module, args, kwargs: seen.append(Seen(name, module, args, kwargs))

    blocks = [(name, module) for name, module in network.named_modules() if isinstance(module, tuple(KINDS))]
    if not blocks:
        raise InputError(f"{type(network).__name__} has no block that is known here: nothing to measure.")
    handles = [m.register_forward_pre_hook(keep(name), with_kwargs=True) for name, m in blocks]
    try:
        with torch.no_grad():
            network(images, timestep)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def of_maps(seen: Seen) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A block as a function of its feature maps alone, all in one row an image, and the row that it got.

    Feature maps are its arguments with four dimensions: position and velocity of an ODE block, both. The
    embedding of the diffusion step is held.
    """
    places = [i for i, a in enumerate(seen.arguments) if isinstance(a, Tensor) and a.ndim == 4]
    maps = [seen.arguments[i].detach() for i in places]
    sizes = [m[0].numel() for m in maps]

    def function(row: Tensor) -> Tensor:
        arguments = list(seen.arguments)
        for i, part, like in zip(places, row.split(sizes, dim=1), maps, strict=True):
            arguments[i] = part.reshape(like.shape)
        out = seen.module(*arguments, **seen.named)
        return torch.cat([o.flatten(1) for o in (out if isinstance(out, tuple) else (out,))], dim=1)

    return function, torch.cat([m.flatten(1) for m in maps], dim=1)


def block_norms(
    network: nn.Module, images: Tensor, timestep: int, iterations: int = 15, seed: int = 0
) -> pd.DataFrame:
    """A row a block and image: block (its name), kind, depth (0: first call, 1: last), image, and Norms."""
    rows, seen = [], record(network, images, timestep)
    for i, one in enumerate(seen):
        found = jacobian_norms(*of_maps(one), iterations, seed)
        kind = next(word for known, word in KINDS.items() if isinstance(one.module, known))
        for image, pair in enumerate(zip(found.largest.tolist(), found.random.tolist(), strict=True)):
            where = {"block": one.name, "kind": kind, "depth": i / max(1, len(seen) - 1), "image": image}
            rows.append(where | dict(zip(Norms._fields, pair, strict=True)))
    return pd.DataFrame(rows)


def network_norms(
    network: nn.Module,
    diffusion: Diffusion,
    noisy: Tensor,
    timestep: int,
    iterations: int = 15,
    seed: int = 0,
) -> Norms:
    """Of the map from the noisy image at a diffusion step to the clean one that the network sees in it."""
    t = torch.full((len(noisy),), timestep)
    return jacobian_norms(lambda x: diffusion.to_x0(network(x, t), x, t), noisy, iterations, seed)
