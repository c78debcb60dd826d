"""A panel for notebooks: noise a test image, denoise it live, change anything.

`denoise` is what it computes, `sheet` the figure of several settings that stands in a report, and `Panel`
the widgets. Under the runner (`cunet.notebook`) nobody turns a slider: `live()` says so, and a notebook then
shows the figure alone.

A picture that takes seconds is not live, so `Panel` offers only what stays within `BUDGET`: evaluations of f,
over all blocks and all calls. It is meant for the networks of the laptop's size on a processor's one core, an
evaluation taking about a millisecond; notebook 11 times those that come nearest to it (`slowest`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from . import figures, palette, runs, sampling
from .blocks import ode_blocks
from .datasets import ImageDataset
from .depth import solved_with
from .diffusion import Diffusion
from .errors import InputError
from .metrics import psnr
from .ode import ADAPTIVE, EVALUATIONS, SOLVERS
from .samplers import evenly_spaced_timesteps

FIXED = tuple(name for name in SOLVERS if name not in ADAPTIVE)  # their time is known beforehand
CHOICES = (1, 2, 4, 8)  # evaluations a block that the panel offers, of those that make whole steps
CALLS = 50  # network calls at most
BUDGET = 900  # evaluations that a picture may take
OWN = "the network's own"
A_CALL = 20  # of evaluations: what a call counts of a network that has no equation
Networks = Mapping[str, tuple[nn.Module, Diffusion]]
"""Name -> network and its diffusion."""


class Setting(NamedTuple):
    """One position of the panel.

    network: name. noise_level: diffusion steps of noise, 1 ... T. steps: network calls on the way back, at
    most noise_level. solver, evaluations: of each ODE block in a call; None and 0 for the network's own, and
    without effect where there is no ODE.
    """

    network: str
    noise_level: int = 300
    steps: int = 10
    solver: str | None = None
    evaluations: int = 0


class Result(NamedTuple):
    """noisy, denoised: (1, C, H, W) in [-1, 1], the noisy one rescaled to the clean image's brightness.
    psnr: decibel. seconds: of the denoising."""

    noisy: Tensor
    denoised: Tensor
    psnr: float
    seconds: float


def solved(network: nn.Module, setting: Setting) -> contextlib.AbstractContextManager:
    """Within, the network's ODE blocks are solved as a setting says; nothing changes where there are none.

    Raises InputError for evaluations that are no whole number of the solver's steps.
    """
    blocks = ode_blocks(network)
    if not blocks:
        return contextlib.nullcontext()
    solver = setting.solver or blocks[0].solver
    steps, rest = divmod(setting.evaluations, EVALUATIONS[solver])
    if rest:
        raise InputError(
            f"evaluations={setting.evaluations}: a step of {solver} takes {EVALUATIONS[solver]}, so give a "
            "multiple of that, or 0 for as many steps as the network's own."
        )
    return solved_with(network, steps or None, setting.solver)


def work(network: nn.Module, setting: Setting) -> int:
    """Evaluations that a picture takes: those of a call, over all blocks, times the calls."""
    with solved(network, setting):
        return setting.steps * (getattr(network, "evaluations", 0) or A_CALL)


def choices(network: nn.Module, solver: str | None) -> list[int]:
    """The evaluations a block that may be chosen with a solver; 0 is as many steps as the network's own."""
    blocks = ode_blocks(network)
    if not blocks:
        return [0]
    a_step = EVALUATIONS[solver or blocks[0].solver]
    return [0, *(number for number in CHOICES if number % a_step == 0)]


def most_calls(network: nn.Module, setting: Setting) -> int:
    """The calls with which a setting stays within `BUDGET`, whatever calls it has itself; at most `CALLS`."""
    return max(1, min(CALLS, BUDGET // work(network, setting._replace(steps=1))))


def offered(networks: Networks) -> Iterator[Setting]:
    """Each network, solver and number of evaluations that the panel offers, with the most noise and calls."""
    for name, (network, diffusion) in networks.items():
        solvers = (None, *FIXED) if ode_blocks(network) else (None,)
        for solver in solvers:
            for evaluations in choices(network, solver):
                setting = Setting(name, diffusion.timesteps, 1, solver, evaluations)
                yield setting._replace(steps=most_calls(network, setting))


def dearest(networks: Networks) -> list[Setting]:
    """Of each network with each solver the setting of the panel that takes the most evaluations."""
    groups = itertools.groupby(offered(networks), key=lambda setting: (setting.network, setting.solver))
    return [max(group, key=lambda setting: work(networks[which[0]][0], setting)) for which, group in groups]


def slowest(image: Tensor, networks: Networks, rounds: int, seed: int = 0) -> tuple[Setting, list[float]]:
    """The slowest of the settings of `dearest`, each timed once, and its seconds in `rounds` more runs."""
    once = {setting: denoise(image, setting, networks, seed).seconds for setting in dearest(networks)}
    setting = max(once, key=once.__getitem__)
    return setting, [denoise(image, setting, networks, seed).seconds for _ in range(rounds)]


def denoise(image: Tensor, setting: Setting, networks: Networks, seed: int = 0) -> Result:
    """Add `noise_level` steps of noise to an image, and take them away by DDIM in `steps` calls.

    image: (1, C, H, W) float32 in [-1, 1]. networks: name -> (network, its diffusion). seed: of the noise.
    Raises InputError for an unknown network, or numbers out of range; `BUDGET` is the panel's, not its own.
    """
    if setting.network not in networks:
        raise InputError(f"There is no network {setting.network!r} here: choose {' or '.join(networks)}.")
    network, diffusion = networks[setting.network]
    level = setting.noise_level
    if not 1 <= level <= diffusion.timesteps or setting.steps < 1:
        raise InputError(
            f"noise_level={level}, steps={setting.steps}: give 1 ... {diffusion.timesteps} steps of noise, "
            "and 1 call or more."
        )
    steps = min(setting.steps, level)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    x = diffusion.add_noise(image, noise, level - 1)
    start = time.perf_counter()
    with solved(network, setting), sampling.evaluating(network):
        timesteps = evenly_spaced_timesteps(level, steps)
        *_, last = sampling.walk(network, x, diffusion, timesteps, "ddim")
    seconds = time.perf_counter() - start
    clean = last.x.clamp(-1, 1)
    shown = (x / float(diffusion.alphas_cumprod[level - 1].sqrt())).clamp(-1, 1)
    return Result(shown, clean, float(psnr(image, clean)), seconds)


def sheet(
    image: Tensor,
    settings: Sequence[Setting],
    networks: Networks,
    seed: int = 0,
) -> Figure:
    """What the panel shows, for several settings: a column each; clean, noisy, denoised from above."""
    found = [denoise(image, setting, networks, seed) for setting in settings]
    heads = [
        f"{palette.label(s.network)}\nnoise {s.noise_level}, {s.steps} calls"
        + (f"\n{s.solver or 'own solver'}, {s.evaluations} evaluations" if s.evaluations else "\n")
        + f"\n{r.psnr:.1f} dB"
        for s, r in zip(settings, found, strict=True)
    ]
    rows = [
        ("clean", [image[0]] * len(found)),
        ("noisy", [r.noisy[0] for r in found]),
        ("denoised", [r.denoised[0] for r in found]),
    ]
    return _columns(rows, heads)


def _columns(rows: Sequence[tuple], heads: Sequence[str]) -> Figure:
    """Images in columns with a heading of several lines each."""
    with palette.style():
        cell = min(1.3, (palette.PAGE - 0.8) / len(heads))
        figure = Figure(figsize=(cell * len(heads) + 0.8, cell * len(rows) + 0.8))
        grid = figure.subplots(len(rows), len(heads), squeeze=False)
        for line, (name, images) in zip(grid, rows, strict=True):
            line[0].text(-0.1, 0.5, name, ha="right", va="center", transform=line[0].transAxes)
            for axes, image in zip(line, images, strict=True):
                axes.set_axis_off()
                axes.imshow(figures.to_display(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for axes, text in zip(grid[0], heads, strict=True):
            axes.set_title(text, loc="center", weight="normal", fontsize=5.5)
    return figure


def live() -> bool:
    """Whether somebody may be there to turn a slider: not under the notebooks' runner."""
    return not os.environ.get(runs.JOB)


class Panel:
    """The widgets: image, network, noise level, calls, solver, evaluations; the picture follows at once.

    test: the images to choose from. networks: name -> (network, its diffusion).

    `widget` is what a notebook displays; `controls` has each control by the name of its field in `Setting`
    (and `image`), so that a program can turn them too; `last` is the last result. Where other controls leave
    fewer calls or evaluations, those two follow, and a line says so.
    """

    def __init__(self, test: ImageDataset, networks: Networks, seed: int = 0):
        import ipywidgets

        self.test, self.networks, self.seed = test, networks, seed
        most = min(diffusion.timesteps for _, diffusion in networks.values())
        slider = dict(continuous_update=False)
        self.controls = {
            "image": ipywidgets.IntSlider(0, 0, len(test) - 1, description="image", **slider),
            "network": ipywidgets.Dropdown(options=list(networks), description="network"),
            "noise_level": ipywidgets.IntSlider(min(300, most), 1, most, description="noise", **slider),
            "steps": ipywidgets.IntSlider(10, 1, CALLS, description="calls", **slider),
            "solver": ipywidgets.Dropdown(
                options=[(OWN, None), *((s, s) for s in FIXED)], description="solver"
            ),
            "evaluations": ipywidgets.Dropdown(options=[(OWN, 0)], description="evaluations"),
        }
        self._picture, self._text = ipywidgets.Image(format="png"), ipywidgets.HTML()
        self.last: Result | None = None
        self._following = False
        for control in self.controls.values():
            control.observe(lambda change: self.update(), names="value")
        self.widget = ipywidgets.HBox([ipywidgets.VBox([*self.controls.values(), self._text]), self._picture])
        self.update()

    @property
    def setting(self) -> Setting:
        """Where the controls stand."""
        return Setting(**{name: self.controls[name].value for name in Setting._fields})

    def update(self) -> None:
        """Denoise with the controls as they stand, and show it."""
        if self._following:  # a control that follows another needs no picture of its own
            return
        limits = self._follow()
        image = self.test.batch([self.controls["image"].value])
        self.last = denoise(image, self.setting, self.networks, self.seed)
        rows = [("clean", image), ("noisy", self.last.noisy), ("denoised", self.last.denoised)]
        buffer = io.BytesIO()
        figures.image_rows(rows).savefig(buffer, format="png", dpi=110)
        self._picture.value = buffer.getvalue()
        self._text.value = f"{self.last.psnr:.1f} dB in {self.last.seconds:.2f} s<br>{limits}"

    def _follow(self) -> str:
        """Let evaluations and calls offer what the other controls leave; returns what that is, in words."""
        network = self.networks[self.controls["network"].value][0]
        solver, evaluations, steps = (self.controls[name] for name in ("solver", "evaluations", "steps"))
        equation = bool(ode_blocks(network))
        self._following = True
        try:
            solver.disabled = evaluations.disabled = not equation
            offers = [(str(number) if number else OWN, number) for number in choices(network, solver.value)]
            if list(evaluations.options) != offers:
                before = evaluations.value
                evaluations.options = offers
                evaluations.value = before if before in dict(offers).values() else 0
            steps.max = most_calls(network, self.setting)  # the slider comes down to it
        finally:
            self._following = False
        words = f"At most {steps.max} calls, so that a picture stays live."
        return words if equation else f"{words} Solver and evaluations do nothing: there is no equation here."
