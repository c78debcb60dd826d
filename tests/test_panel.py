"""The panel: what it shows is what the library computes, and it stays away where nobody is."""

import pytest
import torch

from cunet import datasets, models, panel, runs, sampling
from cunet.blocks import Acceleration
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
    found = panel.denoise(image, Setting("cunet", 100, 3, "midpoint", 8), networks, seed=1)
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
    assert "4 evaluations" in figure.axes[2].get_title() and "dB" in figure.axes[0].get_title()


def test_turning_a_control_computes_anew(networks, test_images):
    shown = Panel(test_images, networks)
    before, picture = shown.last, bytes(shown._picture.value)
    assert picture.startswith(b"\x89PNG")
    shown.controls["network"].value = "cunet"
    shown.controls["evaluations"].value = 4
    assert shown.setting == Setting("cunet", 300, 10, None, 4)
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
    with pytest.raises(InputError, match="evaluations=2: a step of rk4 takes 4"):
        panel.denoise(image, Setting("cunet", 100, 3, "rk4", 2), networks)


def counted(network, setting: Setting) -> int:
    """Evaluations that a call makes, counted as they are made."""
    made = []
    hooks = [
        module.register_forward_hook(lambda *_: made.append(1))
        for module in network.modules()
        if isinstance(module, Acceleration)
    ]
    with torch.no_grad(), panel.solved(network, setting):
        network(torch.zeros(1, 1, 16, 16), 0)
    for hook in hooks:
        hook.remove()
    return len(made)


def test_every_setting_that_is_offered_stays_within_the_budget_and_all_are_counted(networks):
    offered = list(panel.offered(networks))
    assert {setting.solver for setting in offered} == {None, *panel.FIXED}
    assert {setting.evaluations for setting in offered} == {0, *panel.CHOICES}
    for setting in offered:
        network = networks[setting.network][0]
        a_call = counted(network, setting) or panel.A_CALL
        assert panel.work(network, setting) == setting.steps * a_call <= panel.BUDGET
        more = setting._replace(steps=setting.steps + 1)
        assert setting.steps == panel.CALLS or panel.work(network, more) > panel.BUDGET


def test_the_slowest_setting_is_sought_among_those_with_the_most_evaluations(networks, monkeypatch):
    found = panel.dearest(networks)
    assert [(s.network, s.solver) for s in found] == [
        ("unet", None),
        *(("cunet", x) for x in (None, *panel.FIXED)),
    ]
    for most in found:
        same = [s for s in panel.offered(networks) if s[:1] + s[3:4] == most[:1] + most[3:4]]
        network = networks[most.network][0]
        assert panel.work(network, most) == max(panel.work(network, setting) for setting in same)
    slow = found[3]
    monkeypatch.setattr(
        panel, "denoise", lambda image, s, *rest: panel.Result(image, image, 0.0, 2.0 if s == slow else 1.0)
    )
    assert panel.slowest(torch.zeros(1), networks, 4) == (slow, [2.0] * 4)


def test_whatever_is_chosen_the_controls_stay_within_what_is_offered(networks, test_images, monkeypatch):
    asked = []
    result = panel.denoise(test_images.batch([0]), Setting("unet", 50, 1), networks)
    monkeypatch.setattr(panel, "denoise", lambda image, setting, *rest: asked.append(setting) or result)
    shown = Panel(test_images, networks)
    turn = {name: control for name, control in shown.controls.items()}
    turn["noise_level"].value = turn["noise_level"].max
    for name in ("cunet", "unet", "cunet"):
        turn["network"].value = name
        assert turn["solver"].disabled == turn["evaluations"].disabled == (name == "unet")
        assert ("do nothing" in shown._text.value) == (name == "unet")
        for solver in (None, *panel.FIXED):
            turn["solver"].value = solver
            for _, evaluations in turn["evaluations"].options:
                turn["evaluations"].value = evaluations
                turn["steps"].value = turn["steps"].max
                assert shown.setting == asked[-1]
                assert f"At most {turn['steps'].max} calls" in shown._text.value
    assert all(panel.work(networks[s.network][0], s) <= panel.BUDGET for s in asked)
    turn["solver"].value, turn["evaluations"].value = "leapfrog", 1
    turn["solver"].value = "rk4"
    assert turn["evaluations"].value == 0, "one evaluation is no step of rk4"
