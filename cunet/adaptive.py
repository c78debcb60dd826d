"""Work where it is needed: the ODE's steps for each diffusion step, and deep blocks used twice.

Two ways to save inside a network call, neither of which changes the sampler or the weights.

**Depth by need.** A continuous U-Net can solve its blocks with any number of solver steps; depth is the
multiple of each block's own. How much the loss of v at diffusion step t depends on it is measured (`losses`).
A step of DDIM from angle phi to phi' (cos phi = sqrt(abar_t)) moves the image by sin(phi - phi') v and a
component along x, so an error e of v moves the next image by sin(phi - phi') e. `allocate` minimises the sum
over the chain of

    sin^2(phi_i - phi_{i-1}) loss(t_i, d_i)    with    work(d_1) + ... + work(d_K) <= budget,

work(d) being the multiply-accumulates of a call at depth d (`work`), exactly, by dynamic programming, and
`Adaptive` is the network that solves at depth d_i at t_i. (Evaluations of f would not do as a measure: one on
a fine feature map costs many times one on a coarse map.)

**Deep blocks used twice** (Ma et al. 2024, DeepCache). Features far down the U change slowly from step to
step. `Reusing` computes the blocks on small feature maps at every second call only (or every k-th), and in
between hands out what they gave the last time. It works on any network, the U-Net too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import blocks, cost, unet
from .datasets import ImageDataset
from .depth import solved_with
from .diffusion import Diffusion
from .errors import InputError
from .kernel_distance import Distances
from .recipe import generator
from .sampling import best_device, evaluating, placed, sample

UNITS = (blocks.ODEBlock, blocks.Attention, unet.ResidualBlock, unet.LinearAttention, unet.Attention)
"""What is computed or taken over as a whole."""


@torch.no_grad()
def losses(
    network: nn.Module,
    diffusion: Diffusion,
    data: ImageDataset,
    timesteps: Sequence[int],
    depths: Sequence[float],
    images: int = 32,
    solver: str | None = None,
) -> Tensor:
    """Square error of v at each diffusion step, at each depth: (K, N, images) float64.

    An error is the mean over an image's pixels. Every depth sees the same images, drawn from `data` by the
    diffusion step alone, with the same noise.
    """
    found = torch.empty(len(timesteps), len(depths), images, dtype=torch.float64)
    with evaluating(network):
        for i, t in enumerate(timesteps):
            draw = generator(0, "depth", t)
            x0 = data.batch(torch.randint(len(data), (images,), generator=draw))
            noise = torch.randn(x0.shape, generator=draw)
            x, step = diffusion.add_noise(x0, noise, t), torch.full((images,), t)
            for j, depth in enumerate(depths):
                with solved_with(network, None, solver, depth):
                    answer = network(x, step)
                # x_0 errs by sin(phi) times what v errs by
                scale = 1 - diffusion.alphas_cumprod[t]
                error = (diffusion.to_x0(answer, x, t) - x0).double().square().flatten(1).mean(1)
                found[i, j] = error / scale
    return found


def weights(diffusion: Diffusion, timesteps: Sequence[int]) -> Tensor:
    """sin^2(phi_i - phi_{i-1}) for a falling chain, the last step going to the clean image: (K,) float64."""
    angles = torch.acos(diffusion.alphas_cumprod[list(timesteps)].sqrt())
    return (angles - torch.cat((angles[1:], torch.zeros(1, dtype=torch.float64)))).sin().square()


def work(network: nn.Module, depths: Sequence[float]) -> list[int]:
    """Multiply-accumulates of a call for one image, at each depth."""
    found = []
    for depth in depths:
        with solved_with(network, depth=depth):
            found.append(cost.macs(network, network.image_size))
    return found


def allocate(costs: Tensor, work: Sequence[int], budget: int) -> list[int]:
    """The column for each row that makes the sum of `costs` least, their work adding up to `budget` at most.

    costs: (K, N), finite. work: of each column, whole numbers above 0. Exact, by dynamic programming over the
    sums of work that occur; of two ways, one that takes no less work and costs no less is dropped. Returns K
    column numbers. Raises InputError if even the least work exceeds the budget.
    """
    least = len(costs) * min(work)
    if budget < least:
        raise InputError(f"budget={budget}: {len(costs)} calls with {min(work)} each take {least}.")
    ways = {0: (0.0, ())}  # work so far -> the least cost, and the columns chosen
    for row in costs.tolist():
        further: dict[int, tuple[float, tuple[int, ...]]] = {}
        for spent, (total, chosen) in ways.items():
            for j, (c, w) in enumerate(zip(row, work, strict=True)):
                candidate = (total + c, (*chosen, j))
                if spent + w <= budget and candidate < further.get(spent + w, (math.inf,)):
                    further[spent + w] = candidate
        ways, lowest = {}, math.inf
        for spent in sorted(further):
            if further[spent][0] < lowest:
                ways[spent], lowest = further[spent], further[spent][0]
    return list(min(ways.values())[1])


def merged(chosen: Mapping[int, Sequence[float]]) -> list[tuple[list[int], tuple[float, ...]]]:
    """Budgets for which the same depths were chosen, together: (budgets, depths), in the order given."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for budget, depths in chosen.items():
        groups.setdefault(tuple(depths), []).append(budget)
    return [(budgets, depths) for depths, budgets in groups.items()]


def measured(
    network: nn.Module,
    diffusion: Diffusion,
    distance: Callable[[Tensor], Distances],
    n: int,
    steps: int,
    seed: int = 0,
) -> Distances:
    """How far n images of `steps` DDIM steps are from real ones; with one seed all start from the same noise.

    distance: of a set of images. The network is on the first GPU, where there is one, for the time of the
    call; it may be `Adaptive` or `Reusing`.
    """
    with placed(best_device(), network):
        return distance(sample(network, n, diffusion, "ddim", steps, seed))


def sampled(
    network: nn.Module,
    diffusion: Diffusion,
    depths: Sequence[float],
    distance: Callable[[Tensor], Distances],
    n: int,
    steps: int,
    seed: int = 0,
) -> dict[float, Distances]:
    """What `measured` gives, with the blocks solved at each depth; the other arguments are as there."""
    found = {}
    for depth in depths:
        with solved_with(network, depth=depth):
            found[depth] = measured(network, diffusion, distance, n, steps, seed)
    return found


class Adaptive(nn.Module):
    """A network that is solved at depth[t] at diffusion step t; called as the network is.

    network: with ODE blocks. depth: diffusion step -> depth; all images of a call share a step.
    """

    def __init__(self, network: nn.Module, depth: Mapping[int, float]):
        super().__init__()
        self.network, self.depth = network, dict(depth)
        self.channels, self.image_size = network.channels, network.image_size

    def forward(self, sample: Tensor, timestep: Tensor, *ignored) -> Tensor:
        t = int(timestep.flatten()[0])
        if t not in self.depth:
            raise InputError(f"No depth was chosen for t = {t}: choose for every step of the chain.")
        with solved_with(self.network, depth=self.depth[t]):
            return self.network(sample, timestep)


class Reusing(nn.Module):
    """A network that computes its deep blocks at every `every`-th call of a chain, and reuses them between.

    network: of `cunet.models`. largest: side of the largest feature maps that are reused, by default half
    that of the image. every: 1 reuses nothing. A chain begins where t is not below that of the last call,
    where the images have another shape, after an error in a call, and after `reset`: call that before a
    chain that may begin below where an interrupted one ended.

    `deep` names the blocks. Raises InputError for every < 1, or a network without blocks that small.
    """

    def __init__(self, network: nn.Module, every: int = 2, largest: int | None = None):
        if every < 1:
            raise InputError(f"every={every}: deep blocks are computed at every 1st, 2nd, ... call.")
        super().__init__()
        self.network, self.every = network, every
        self.channels, self.image_size = network.channels, network.image_size
        self.deep = deep_blocks(network, largest or network.image_size // 2)
        self.reset()

    def reset(self) -> None:
        """Forget what was kept: the next call begins a chain."""
        self._kept: dict[str, object] = {}
        self._calls, self._last, self._shape = 0, -1, None

    def forward(self, sample: Tensor, timestep: Tensor, *ignored) -> Tensor:
        t = int(timestep.flatten()[0])
        if t >= self._last or sample.shape != self._shape:
            self.reset()
        fresh = self._calls % self.every == 0
        self._calls, self._last, self._shape = self._calls + 1, t, sample.shape
        try:
            with contextlib.ExitStack() as stack:
                for name in self.deep:
                    stack.enter_context(self._caching(name, fresh))
                return self.network(sample, timestep)
        except BaseException:  # an interruption, too, leaves some blocks' features old
            self.reset()
            raise

    @contextlib.contextmanager
    def _caching(self, name: str, fresh: bool) -> Iterator[None]:
        """Within, the block keeps what it gives, or gives what was kept."""
        block = self.network.get_submodule(name)

        def keep(*arguments):
            self._kept[name] = type(block).forward(block, *arguments)
            return self._kept[name]

        block.forward = keep if fresh else lambda *arguments: self._kept[name]
        try:
            yield
        finally:
            del block.forward


def deep_blocks(network: nn.Module, largest: int) -> list[str]:
    """Names of the blocks whose feature maps have a side of `largest` at most, found by running it once."""
    found = []

    def look(name):
        def hook(module, arguments, output):
            first = output[0] if isinstance(output, tuple) else output
            if first.shape[-1] <= largest:
                found.append(name)

        return hook

    hooks = [
        module.register_forward_hook(look(name))
        for name, module in network.named_modules()
        if isinstance(module, UNITS)
    ]
    try:
        side = network.image_size
        with torch.no_grad(), evaluating(network):
            network(torch.zeros(1, network.channels, side, side), torch.zeros(1, dtype=torch.int64))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError(
            f"{type(network).__name__} has no blocks on feature maps of side {largest} or less to reuse."
        )
    return found
