"""Names to networks: every denoiser of the project, at three sizes.

    paper    64 x 64, the sizes of table 5
    laptop   32 x 32, as deep and narrower; two CPU cores train one in minutes
    smoke    16 x 16, as small as the shapes allow: it shows that everything runs, and nothing else

Every network is called as `network(sample, timestep)` and returns a tensor like sample. A name may carry
changes, keywords of the network's class: `cunet@solver=rk4,steps=1`, `cunet@attention=false`,
`cunet@widths=(8,20,40,56)`. Such a name is good wherever a name is, in the settings of a training, too.

The laptop's networks are not the paper's made smaller. Its U-Net has a quarter of the width everywhere, its
cU-Net two thirds of it where pixels are many and a third where they are few. So the cU-Net's share of the
U-Net's multiply-accumulates is several times that at the paper's size (`cunet info` has both), and what it
saves in time at one size says nothing about the other.

Why the cU-Net evaluates f once a block at the two finer resolutions and twice at the coarser ones is a choice
and no result. Before the sizes were fixed, some shapes were tried at the laptop's size on MNIST, each trained
once, with one seed and far fewer images than the networks that ship: narrower blocks with two evaluations
everywhere; wider ones with one everywhere; still wider ones with two, on patches of 2 x 2 pixels; and the
shape below, with attention at 4 x 4 pixels alone and at 8 x 8 too. The shape below, with attention at 4 x 4,
had the lowest validation loss. But they differed in several things at once, no seed was repeated, and no file
of these short trainings was kept.

Of the first of these shapes, `cunet@widths=(8,20,40,56),steps=2`, a full training is in the history: commit
e7021f3 released it, with its card, after as many images, by the same recipe and from the same seed as the
network that took its place. By the two cards its validation loss was higher by two in a hundred. But they
differ in width and evaluations both, and one seed is no spread: nothing follows from them, either, on how
many evaluations are enough. What evaluations a block are worth, `cunet solvers` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from .continuous import ContinuousUNet
from .depth import solved_with
from .errors import InputError, one_of
from .model_names import keywords, split
from .released import ReleasedCUNet
from .unet import UNet

IMAGE_SIZE = {"paper": 64, "laptop": 32, "smoke": 16}  # pixels a side
SIZES = tuple(IMAGE_SIZE)

_UNET = {
    "paper": dict(dim=64, head_width=32),
    "laptop": dict(dim=16, head_width=8),
    "smoke": dict(dim=8, head_width=4),
}
# Evaluations of f a block, from full resolution to coarsest: see the head of this module for why.
_STEPS = (1, 1, 2, 2)
_CONTINUOUS = {
    "paper": dict(widths=(24, 48, 80, 160), steps=_STEPS, time_width=256),
    "laptop": dict(widths=(16, 28, 40, 56), steps=_STEPS, time_width=64),
    "smoke": dict(widths=(4, 4, 8, 8), steps=_STEPS, time_width=16),
}
_RELEASED = {"paper": dict(nf=16), "laptop": dict(nf=4), "smoke": dict(nf=2)}


class RandomDepth(ContinuousUNet):
    """A continuous U-Net whose training calls multiply all blocks' steps by a whole number drawn at random.

    A network trained with one number of steps may have learned an ODE, or a residual network that happens to
    be written as one: more steps then make it worse (notebook 11). Here only what does not depend on the
    number, the ODE, can lower the loss at every draw.

    depths: the least and the largest factor. A call draws one from torch's own generator, or, where
    `depth_seed` is set, from that number alone. `cunet.training` sets it by (seed, step): all devices and all
    parts of a batch take one depth, and a resumed training draws what an undisturbed one would have. Nothing
    is drawn in eval mode, where blocks take their own steps. The way back needs no draw, with any `gradient`;
    under torch.utils.checkpoint around the whole network the draw is repeated, as dropout is. Under
    torch.compile each factor has a graph of its own. The other keywords are those of `ContinuousUNet`.

    Raises InputError for a range that is empty or begins below 1.
    """

    def __init__(self, *arguments, depths: tuple[int, int] = (1, 3), **options):
        low, high = depths
        if not 1 <= low <= high:
            raise InputError(
                f"depths={depths!r}: give the least multiple of the steps, 1 or more, and the most."
            )
        super().__init__(*arguments, **options)
        self.depths = (low, high)
        self.depth_seed: int | None = None

    def forward(
        self, sample: Tensor, timestep: int | Tensor, class_labels: Tensor | None = None, *ignored
    ) -> Tensor:
        """As `ContinuousUNet.forward`."""
        if not self.training:
            return super().forward(sample, timestep, class_labels)
        with solved_with(self, depth=self._drawn()):
            return super().forward(sample, timestep, class_labels)

    def _drawn(self) -> int:
        compiling = torch.compiler.is_compiling()  # else nothing of the compiler is imported
        return (torch.compiler.disable(_draw) if compiling else _draw)(*self.depths, self.depth_seed)


def _draw(low: int, high: int, seed: int | None) -> int:
    """A whole number from low to high, by a seed or torch's own generator."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return int(torch.randint(low, high + 1, (), generator=generator))


_FAMILIES = {
    "unet": (UNet, _UNET, {}),
    "cunet": (ContinuousUNet, _CONTINUOUS, {}),
    "cunet-noattn": (ContinuousUNet, _CONTINUOUS, dict(attention=False)),
    "cunet-nores": (ContinuousUNet, _CONTINUOUS, dict(residual=False)),
    "cunet-plain": (ContinuousUNet, _CONTINUOUS, dict(attention=False, residual=False)),
    "cunet-firstorder": (ContinuousUNet, _CONTINUOUS, dict(order=1, solver="euler")),
    "cunet-zerovelocity": (ContinuousUNet, _CONTINUOUS, dict(zero_velocity=True)),
    "cunet-randomdepth": (RandomDepth, _CONTINUOUS, {}),
    "cunet-released": (ReleasedCUNet, _RELEASED, dict(attention=2)),
    "cunet-released-5attn": (ReleasedCUNet, _RELEASED, dict(attention=5)),
    "cunet-released-noattn": (ReleasedCUNet, _RELEASED, dict(attention=0)),
    "cunet-released-nores": (ReleasedCUNet, _RELEASED, dict(attention=2, residual=False)),
    "cunet-released-plain": (ReleasedCUNet, _RELEASED, dict(attention=0, residual=False)),
}
MODELS = tuple(_FAMILIES)


def image_size(size: str) -> int:
    """The side in pixels of the images that a size is made for."""
    one_of("size", size, SIZES)
    return IMAGE_SIZE[size]


def build(name: str, size: str = "paper", channels: int = 3, **changes) -> nn.Module:
    """An untrained network by its name.

    name: one of MODELS, with changes behind an @ if wished. size: one of SIZES. channels: 1 (grey) or 3
    (RGB), of input and output. changes: keywords of the network's class that replace those of the size and of
    the name, such as solver="rk4" or steps=4.

    Returns a module with forward(sample, timestep): sample (B, channels, H, W) float32 in [-1, 1], sides
    divisible by 8; timestep an int, or integers 0-d or (B,), in 0 ... 999; the result is a tensor like
    sample. It has the attributes name, size, channels, image_size and evaluations (function evaluations a
    call makes; 0 for the U-Net), and may stand as the model of `GaussianDiffusion` of lucidrains'
    denoising-diffusion-pytorch (1.8.8).

    Raises InputError for an unknown name or size, a change in the name that the class does not know or whose
    value is of another type or out of range, or a number of channels below 1.
    """
    family, _ = split(name)
    one_of("model", family, MODELS)
    one_of("size", size, SIZES)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise InputError(f"channels={channels!r}: expected 1 for grey images or 3 for RGB.")
    kind, sizes, settings = _FAMILIES[family]
    named = _checked(name, kind)
    try:
        network = kind(channels=channels, **{**sizes[size], **settings, **named, **changes})
    except (TypeError, RuntimeError, OverflowError) as error:  # the last two: larger than any memory
        if not named:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The network {name!r} cannot be built: {reason}.") from error
    network.name, network.size, network.image_size = name, size, IMAGE_SIZE[size]
    network.out_dim = channels  # this and the next two are read by GaussianDiffusion
    network.self_condition = network.random_or_learned_sinusoidal_cond = False
    return network


def scaled(name: str, size: str, factor: float) -> dict[str, int | tuple[int, ...]]:
    """The keywords of `build` that give a network `factor` times its channels, at every resolution.

    The widths of attention's heads and of the time embedding stay.
    """
    _, sizes, _ = _FAMILIES[split(name)[0]]
    widths = {key: value for key, value in sizes[size].items() if key in ("widths", "dim", "nf")}
    return {
        key: tuple(round(factor * width) for width in value)
        if isinstance(value, tuple)
        else round(factor * value)
        for key, value in widths.items()
    }


def _checked(name: str, kind: type[nn.Module]) -> dict[str, object]:
    """The changes of a name as keywords of the class `kind`; what it does not know is left to the class.

    Raises InputError for a value of another type than the class says.
    """
    expected = {}
    for base in reversed(kind.__mro__):
        expected |= get_type_hints(base.__init__)
    named = keywords(name)
    for key, value in named.items():
        if key in expected and not _is(value, expected[key]):
            raise InputError(
                f"{key}={value!r} in {name!r} cannot be used: expected {_in_words(expected[key])}."
            )
    return named


def _is(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated type; True is no number, and a whole number is a float, too."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return any(_is(value, part) for part in parts)
    if kind is tuple:
        fits = isinstance(value, tuple) and len(value) == len(parts)
        return fits and all(map(_is, value, parts))
    if kind is Sequence:
        return isinstance(value, (tuple, list)) and all(_is(item, *parts) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def _in_words(hint: Any) -> str:
    """An annotated type as a refusal tells it."""
    if parts := get_args(hint):
        if isinstance(hint, UnionType):
            return " or ".join(map(_in_words, parts))
        return f"values in brackets, as in (1,2), each {_in_words(parts[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a word")
