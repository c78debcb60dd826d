"""A panel for notebooks: noise a test image, denoise it live, change anything.

`denoise` is what it computes, `sheet` the figure of several settings that stands in a report, and `Panel`
the widgets. Under the runner (`cunet.notebook`) nobody turns a slider: `live()` says so, and a notebook then
shows the figure alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from . import figures, palette, runs, sampling
from .datasets import ImageDataset
from .depth import solved_with
from .diffusion import Diffusion
from .errors import InputError
from .metrics import psnr
from .ode import SOLVERS
from .samplers import evenly_spaced_timesteps

FIXED = tuple(name for name in SOLVERS if name != "dopri5")  # solvers whose time is known beforehand


class Setting(NamedTuple):
    """One position of the panel.

    network: name. noise_level: diffusion steps of noise, 1 ... T. steps: network calls on the way back, at
    most noise_level. solver, ode_steps: of the ODE blocks; None and 0 for the network's own, and always for a
    network without an ODE.
    """

    network: str
    noise_level: int = 300
    steps: int = 10
    solver: str | None = None
    ode_steps: int = 0


class Result(NamedTuple):
    """noisy, denoised: (1, C, H, W) in [-1, 1], the noisy one rescaled to the clean image's brightness.
    psnr: decibel. seconds: of the denoising."""

    noisy: Tensor
    denoised: Tensor
    psnr: float
    seconds: float


def denoise(
    image: Tensor, setting: Setting, networks: Mapping[str, tuple[nn.Module, Diffusion]], seed: int = 0
) -> Result:
    """Add `noise_level` steps of noise to an image, and take them away by DDIM in `steps` calls.

    image: (1, C, H, W) float32 in [-1, 1]. networks: name -> (network, its diffusion). seed: of the noise.
    Raises InputError for an unknown network, or numbers out of range.
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
    solved = (
        solved_with(network, setting.ode_steps or None, setting.solver)
        if getattr(network, "evaluations", 0)
        else contextlib.nullcontext()
    )
    start = time.perf_counter()
    with solved, sampling.evaluating(network):
        timesteps = evenly_spaced_timesteps(level, steps)
        *_, last = sampling.walk(network, x, diffusion, timesteps, "ddim")
    seconds = time.perf_counter() - start
    clean = last.x.clamp(-1, 1)
    shown = (x / float(diffusion.alphas_cumprod[level - 1].sqrt())).clamp(-1, 1)
    return Result(shown, clean, float(psnr(image, clean)), seconds)


def sheet(
    image: Tensor,
    settings: Sequence[Setting],
    networks: Mapping[str, tuple[nn.Module, Diffusion]],
    seed: int = 0,
) -> Figure:
    """What the panel shows, for several settings: a column each; clean, noisy, denoised from above."""
    found = [denoise(image, setting, networks, seed) for setting in settings]
    heads = [
        f"{palette.label(s.network)}\nnoise {s.noise_level}, {s.steps} calls"
        + (f"\n{s.solver or 'ODE'}, {s.ode_steps} steps" if s.ode_steps else "\n")
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
    """The widgets: image, network, noise level, calls, solver and its steps; the picture follows at once.

    test: the images to choose from. networks: name -> (network, its diffusion).

    `widget` is what a notebook displays; `controls` has each control by the name of its field in `Setting`
    (and `image`), so that a program can turn them too; `last` is the last result.
    """

    def __init__(
        self, test: ImageDataset, networks: Mapping[str, tuple[nn.Module, Diffusion]], seed: int = 0
    ):
        import ipywidgets

        self.test, self.networks, self.seed = test, networks, seed
        own = "the network's own"
        most = min(diffusion.timesteps for _, diffusion in networks.values())
        slider = dict(continuous_update=False)
        self.controls = {
            "image": ipywidgets.IntSlider(0, 0, len(test) - 1, description="image", **slider),
            "network": ipywidgets.Dropdown(options=list(networks), description="network"),
            "noise_level": ipywidgets.IntSlider(min(300, most), 1, most, description="noise", **slider),
            "steps": ipywidgets.IntSlider(10, 1, 50, description="calls", **slider),
            "solver": ipywidgets.Dropdown(
                options=[(own, None), *((s, s) for s in FIXED)], description="solver"
            ),
            "ode_steps": ipywidgets.IntSlider(0, 0, 8, description="ODE steps", **slider),
        }
        self._picture, self._text = ipywidgets.Image(format="png"), ipywidgets.HTML()
        self.last: Result | None = None
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
        image = self.test.batch([self.controls["image"].value])
        self.last = denoise(image, self.setting, self.networks, self.seed)
        rows = [("clean", image), ("noisy", self.last.noisy), ("denoised", self.last.denoised)]
        buffer = io.BytesIO()
        figures.image_rows(rows).savefig(buffer, format="png", dpi=110)
        self._picture.value = buffer.getvalue()
        self._text.value = f"{self.last.psnr:.1f} dB in {self.last.seconds:.2f} s"
