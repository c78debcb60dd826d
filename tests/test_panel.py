"""The panel: what it shows is what the library computes, and it stays away where nobody is."""

import pytest
import torch

from cunet import datasets, models, panel, runs, sampling
from cunet.convergence import with_solver
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.panel import Panel, Setting


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: (models.build(name, "smoke", 1).eval(), Diffusion()) for name in ("unet", "cunet")}


@pytest.fixture(scope="module")
def test_images():
    return datasets.load("mnist", "test", 16)


def test_it_denoises_with_the_network_the_solver_and_the_steps_that_are_asked_for(networks, test_images):
    image = test_images.batch([0])
    found = panel.denoise(image, Setting("cunet", 100, 3, "midpoint", 4), networks, seed=1)
    network, diffusion = with_solver(networks["cunet"][0], "midpoint", 4), Diffusion()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    x = diffusion.add_noise(image, noise, 99)
    *_, last = sampling.walk(network, x, diffusion, [99, 66, 32], "ddim")
    torch.testing.assert_close(found.denoised, last.x.clamp(-1, 1))
    assert found.seconds > 0 and found.noisy.abs().max() <= 1


def test_a_step_of_noise_at_most_is_a_call(networks, test_images):
    found = panel.denoise(test_images.batch([0]), Setting("unet", 2, 50), networks)
    assert found.psnr > 10, "two steps of noise are hardly any"


def test_the_figure_has_a_column_a_setting(networks, test_images):
    settings = [Setting("unet", 50, 2), Setting("cunet", 50, 2), Setting("cunet", 50, 2, None, 4)]
    figure = panel.sheet(test_images.batch([1]), settings, networks)
    assert len(figure.axes) == 9
    assert "4 steps" in figure.axes[2].get_title() and "dB" in figure.axes[0].get_title()


def test_turning_a_control_computes_anew(networks, test_images):
    shown = Panel(test_images, networks)
    before, picture = shown.last, bytes(shown._picture.value)
    assert picture.startswith(b"\x89PNG")
    shown.controls["network"].value = "cunet"
    shown.controls["ode_steps"].value = 5
    assert shown.setting == Setting("cunet", 300, 10, None, 5)
    assert not torch.equal(shown.last.denoised, before.denoised) and bytes(shown._picture.value) != picture
    assert "dB in" in shown._text.value


def test_under_the_runner_there_is_no_panel(monkeypatch):
    monkeypatch.delenv(runs.JOB, raising=False)
    assert panel.live()
    monkeypatch.setenv(runs.JOB, "11_beyond")
    assert not panel.live()


def test_what_cannot_be_is_refused(networks, test_images):
    image = test_images.batch([0])
    with pytest.raises(InputError, match="choose unet or cunet"):
        panel.denoise(image, Setting("other"), networks)
    with pytest.raises(InputError, match="noise_level=0"):
        panel.denoise(image, Setting("unet", 0), networks)
