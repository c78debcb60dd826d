"""Every network by its name, at every size, through the interfaces that others call."""

import pytest
import torch

from cunet import models
from cunet.errors import InputError


@pytest.mark.parametrize("name", models.MODELS)
def test_every_name_builds_and_keeps_the_sample_s_shape(name):
    network = models.build(name, "smoke", channels=1)
    side = models.image_size("smoke")
    sample = torch.randn(2, 1, side, side)
    with torch.no_grad():
        assert network(sample, torch.tensor([0, 999])).shape == sample.shape
    assert (network.name, network.size, network.channels, network.image_size) == (name, "smoke", 1, side)
    assert (network.evaluations > 0) == (name != "unet")


@pytest.mark.parametrize("size", models.SIZES)
def test_the_continuous_network_is_the_smaller_one_at_every_size(size):
    count = [sum(p.numel() for p in models.build(n, size).parameters()) for n in ("cunet", "unet")]
    assert 0.03 < count[0] / count[1] < 0.3


def test_settings_of_a_size_can_be_changed():
    network = models.build("cunet", "smoke", 1, solver="rk4", steps=1)
    assert network.evaluations == 9 * 4


def test_changes_can_stand_in_the_name_which_the_network_keeps():
    network = models.build("cunet@solver=rk4,steps=1", "smoke", 1)
    assert network.evaluations == 9 * 4 and network.name == "cunet@solver=rk4,steps=1"


@pytest.mark.parametrize("name", ["unet", "cunet", "cunet-released"])
def test_a_network_twice_as_wide_has_about_four_times_the_parameters(name):
    wide = models.build(name, "laptop", 1, **models.scaled(name, "laptop", 2))
    count = [sum(p.numel() for p in m.parameters()) for m in (wide, models.build(name, "laptop", 1))]
    assert 2.5 < count[0] / count[1] < 4.5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("cunet@steps",), "no change"),
        (("cunet@colour=red",), "cannot be built"),
        (("cunet@solver=leapfrg",), "Did you mean 'leapfrog'"),
        (("cunett@steps=2",), "Did you mean 'cunet'"),
        (("cunett",), "Did you mean 'cunet'"),
        (("cunet", "papier"), "Did you mean 'paper'"),
        (("cunet", "smoke", 0), "1 for grey"),
        (("cunet", "smoke", 1.5), "1 for grey"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arguments, match):
    with pytest.raises(InputError, match=match):
        models.build(*arguments)


@pytest.mark.parametrize("name", ["unet", "cunet", "cunet-released"])
def test_serves_as_the_model_of_the_authors_package(name):
    """GaussianDiffusion of denoising-diffusion-pytorch 1.8.8 trains and samples with it, unchanged."""
    package = pytest.importorskip("denoising_diffusion_pytorch")
    network = models.build(name, "smoke", channels=3)
    diffusion = package.GaussianDiffusion(network, image_size=16, timesteps=1000, sampling_timesteps=3)
    loss = diffusion(torch.rand(2, 3, 16, 16))
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None for p in network.parameters())
    assert diffusion.sample(batch_size=2).shape == (2, 3, 16, 16)
