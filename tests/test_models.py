"""Every network by its name, at every size, through the interfaces that others call."""

import pytest
import torch

from cunet import model_names, models
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


@pytest.mark.parametrize("written", ["false", "False", "FALSE"])
def test_truth_values_in_a_name_are_truth_values(written):
    plain = models.build(f"cunet@attention={written},residual={written},zero_velocity={written}", "smoke", 1)
    same = models.build("cunet-plain", "smoke", 1)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in same.named_parameters()]
    assert plain.velocity is not None


@pytest.mark.parametrize("written", ["true", "True", "TRUE"])
def test_what_is_off_by_default_can_be_turned_on_in_a_name(written):
    assert models.build(f"cunet@zero_velocity={written}", "smoke", 1).velocity is None


def test_values_of_each_resolution_can_stand_in_the_name():
    network = models.build("cunet@steps=(1,2,3,4),widths=(4,8,8,12),solver=midpoint", "smoke", 1)
    assert network.evaluations == 2 * (2 * (1 + 2 + 3 + 4) + 4)
    assert [block.acceleration.conv2.out_channels for block in network.blocks_down] == [4, 8, 8, 12]
    assert models.build("cunet-randomdepth@depths=(2,2)", "smoke", 1).depths == (2, 2)


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
        (("cunet@channels=1",), "cannot be built"),
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


@pytest.mark.parametrize(
    "name, match",
    [
        ("cunet@residual=no", "'no'.*expected true or false"),
        ("cunet@attention=0", "expected true or false"),
        ("cunet-released@attention=false", "False.*expected a whole number"),
        ("cunet@solver=4", "expected a word"),
        ("cunet@hidden=wide", "'wide'.*expected a number"),
        ("cunet@hidden=true", "expected a number"),
        ("cunet@time_width=1.5", "expected a whole number"),
        ("cunet@steps=2.0", "expected a whole number or values in brackets"),
        ("cunet@steps=(1,x,2,2)", "expected a whole number or values in brackets"),
        ("cunet-randomdepth@depths=(1,2,3)", "values in brackets"),
    ],
)
def test_values_of_another_type_than_the_class_takes_are_refused(name, match):
    with pytest.raises(InputError, match=match):
        models.build(name, "smoke", 1)


@pytest.mark.parametrize(
    "name, match",
    [
        ("cunet@time_width=-4", "time_width=-4"),
        ("cunet@time_width=0", "time_width=0"),
        ("cunet@hidden=-1", "hidden=-1"),
        ("cunet@hidden=0", "hidden=0"),
        ("cunet@hidden=0.1", "hidden=0.1"),  # of 4 channels
        ("cunet@hidden=1e999", "hidden=inf"),
        ("cunet@hidden=1e300", "cannot be built"),
        ("cunet@widths=(0,4,4,8)", "widths.0.=0"),
        ("cunet@widths=(4,)", "at least two resolutions"),
        ("cunet@steps=(1,2)", "or 4, one for each"),
        ("cunet@order=3", "order=3"),
        ("cunet@classes=-1", "classes=-1"),
        ("unet@dim=12", "multiple of 8"),
        ("unet@dim_mults=()", "dim_mults"),
        ("unet@dim_mults=(1,0)", "dim_mults.1.=0"),
        ("unet@head_width=0", "head_width=0"),
        ("cunet-released@nf=0", "nf=0"),
        (f"cunet-released@nf={'9' * 30}", "whole number"),
    ],
)
def test_values_out_of_range_are_refused_when_the_network_is_built(name, match):
    with pytest.raises(InputError, match=match):
        models.build(name, "smoke", 1)


def test_names_in_a_list_keep_their_changes():
    assert model_names.listed("unet,cunet@steps=(1,1,2,2),solver=rk4,cunet-nores") == [
        *("unet", "cunet@steps=(1,1,2,2),solver=rk4", "cunet-nores")
    ]


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
