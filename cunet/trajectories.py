"""What a denoising run walks through and what it keeps: variants, the plan of steps, scores on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Variant(NamedTuple):
    """Which walk, and which image of it is scored."""

    stochastic: bool
    clean: bool


VARIANTS = {
    "mean": Variant(stochastic=False, clean=False),
    "ancestral": Variant(stochastic=True, clean=False),
    "clean": Variant(stochastic=False, clean=True),
    "ancestral-clean": Variant(stochastic=True, clean=True),
}
METRICS = {"ssim": max, "psnr": max, "lpips": min}  # name in cunet.metrics -> which end is good


@dataclass
class Trajectory:
    """What became of N images on the way down from one noise level.

    steps: (K,) int64, noise steps removed when a score was taken: 0 ... level.
    scores: metric -> (N, K) float32.
    frames: (N, F, C, H, W) float32 in [-1, 1], the images at `frame_steps`, (F,) int64.
    """

    level: int
    variant: str
    steps: Tensor
    scores: dict[str, Tensor]
    frame_steps: Tensor
    frames: Tensor

    def best(self, metric: str) -> tuple[Tensor, Tensor]:
        """Each image's best score, (N,) float32, and the first step where it had it, (N,) int64."""
        scores = self.scores[metric]
        index = scores.argmax(1) if METRICS[metric] is max else scores.argmin(1)
        return scores.gather(1, index[:, None])[:, 0], self.steps[index]

    def elbow(self, metric: str) -> float:
        """How much of what was gained up to the peak is lost again by the end, as a share of the gain.

        The means over images of both, divided; a peak is each image's own. 0: the best image is the last one;
        1: as bad as the noisy one again; inf: nothing had been gained.
        """
        scores, (best, _) = self.scores[metric].double(), self.best(metric)
        lost, gained = ((scores[:, i] - best).abs().mean() for i in (-1, 0))
        return float(lost / gained) if lost else 0.0

    def mean(self, metric: str) -> Tensor:
        """The average over images at each step, (K,) float32: the curves of figures 10 and 11."""
        return self.scores[metric].mean(0)


@dataclass
class Denoised:
    """All trajectories: denoised[variant, level].

    seconds_per_call: wall time of one network call and step for one image, without the scores. A timing.
    """

    trajectories: dict[tuple[str, int], Trajectory]
    seconds_per_call: float

    def __getitem__(self, key: tuple[str, int]) -> Trajectory:
        return self.trajectories[key]


class Plan:
    """Which diffusion steps the images of each level pass, and where they are looked at.

    With stride k the walk goes by t = ..., 2k - 1, k - 1 and then to the clean image: a chain with the
    effective betas of `cunet.samplers`. A level that is no multiple of k joins at the next of these.
    """

    def __init__(self, levels: Sequence[int], stride: int, every: int, frames: Sequence[float]):
        self.levels, self.stride, self.frames = levels, stride, frames
        self.chains = {level: self._chain(level) for level in levels}
        self.steps = {level: self._recorded(level, every) for level in levels}
        self.frame_steps = {level: [self._nearest(level, f) for f in frames] for level in levels}
        self.timesteps = sorted({t for chain in self.chains.values() for t in chain}, reverse=True)
        self.calls = sum(len(chain) for chain in self.chains.values())

    def _chain(self, level: int) -> list[int]:
        return [level - 1, *(t for t in range(level - 2, -1, -1) if (t + 1) % self.stride == 0)]

    def _recorded(self, level: int, every: int) -> list[int]:
        passed = [level - 1 - t for t in self.chains[level][1:]] + [level]
        return [0, *(s for i, s in enumerate(passed, 1) if i % every == 0 or s == level)]

    def _nearest(self, level: int, fraction: float) -> int:
        return min(self.steps[level], key=lambda step: abs(step - fraction * level))

    def previous(self, t: int) -> int:
        """The step after t, -1 for the clean image."""
        return (t // self.stride) * self.stride - 1

    def active(self, t: int) -> list[int]:
        """The levels whose images stand at t."""
        return [
            level for level in self.levels if level - 1 == t or (t < level - 1 and (t + 1) % self.stride == 0)
        ]
