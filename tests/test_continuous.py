"""The continuous U-Net: second order, blind neither to the diffusion step nor to brightness and contrast."""

import copy

import pytest
import torch
from torch.overrides import TorchFunctionMode

from cunet import models, sampling
from cunet.blocks import ODEBlock
from cunet.continuous import ContinuousUNet
from cunet.cost import macs
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.samplers import SAMPLERS, SPACINGS

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build("cunet", "smoke", channels=1).eval()


@pytest.fixture
def image():
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_position_moves_with_the_velocity_exactly(network, image):
    """x'' = a in every block itself, in float64: x(1) = x + v + a/2 and v(1) = v + a, with and without a."""
    blocks = [m for m in copy.deepcopy(network).double().modules() if isinstance(m, ODEBlock)]
    assert len(blocks) == 9
    embedding = network.time(torch.tensor([500, 500])).double()
    for block in blocks:
        force = block.acceleration
        width = force.conv2.out_channels
        x, v = (torch.randn(2, width, 4, 4, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            for parameter in (force.conv2.weight, force.conv2.bias, force.residual.weight):
                parameter.zero_()
            for a in (0.0, 0.75):
                force.conv2.bias.fill_(a)
                x1, v1 = block(x, v, embedding)
                torch.testing.assert_close(x1, x + v + a / 2, rtol=0, atol=1e-12)
                torch.testing.assert_close(v1, v + a, rtol=0, atol=1e-12)


def test_sees_the_diffusion_step(network, image):
    with torch.no_grad():
        assert (network(image, 3) - network(image, 900)).abs().max() > 1e-3


@pytest.mark.parametrize("change", [lambda x: 2 * x, lambda x: x + 0.5])
def test_sees_brightness_and_contrast(network, image, change):
    with torch.no_grad():
        assert (network(change(image), 500) - network(image, 500)).abs().max() > 1e-2


def test_every_parameter_learns(network, image):
    network.zero_grad()
    network(image, torch.tensor([3, 900])).square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # the bias of a convolution that a norm follows group by group does nothing where a group is one channel
    assert not [n for n in still if not n.endswith("conv1.bias")]


def test_size_paper_stays_within_its_budget():
    """At most 21.6 % of the U-Net's parameters, 16 % of its MACs with every evaluation counted.

    Widths are multiples of 8: what vector units and convolution kernels take at once.
    """
    cunet, unet = models.build("cunet"), models.build("unet")
    count = [sum(p.numel() for p in m.parameters()) for m in (cunet, unet)]
    assert count[0] <= 0.216 * count[1]
    assert macs(cunet, 64) <= 0.16 * macs(unet, 64)
    assert all(block.acceleration.conv1.in_channels % 16 == 0 for block in cunet.blocks_down)  # x and v


def test_steps_are_one_number_or_one_a_resolution():
    """Down, middle (of the coarsest resolution) and up; what they add up to is what a call makes."""

    def steps(**changes):
        network = models.build("cunet", "smoke", 1, **changes)
        network(torch.zeros(1, 1, 16, 16), 5)
        blocks = [*network.blocks_down, network.middle, *network.blocks_up]
        assert network.evaluations == sum(block.steps for block in blocks)
        return [block.steps for block in blocks]

    assert steps(steps=3) == [3] * 9
    assert steps(steps=(4, 3, 2, 1)) == [4, 3, 2, 1, 1, 1, 2, 3, 4]
    with pytest.raises(InputError, match="4, one for each of widths"):
        steps(steps=(1, 2))


def test_each_ablation_lacks_what_its_name_says():
    def parts(name):
        names = [n for n, _ in models.build(name, "smoke", 1).named_modules()]
        return any("residual" in n for n in names), any(n.endswith("qkv") for n in names), "velocity" in names

    assert parts("cunet") == (True, True, True)
    assert parts("cunet-noattn") == (True, False, True)
    assert parts("cunet-nores") == (False, True, True)
    assert parts("cunet-plain") == (False, False, True)
    assert parts("cunet-zerovelocity") == (True, True, False)
    first = models.build("cunet-firstorder", "smoke", 1)
    assert all(b.acceleration.order == 1 for b in first.modules() if isinstance(b, ODEBlock))
    assert first.evaluations == models.build("cunet", "smoke", 1).evaluations


def test_accepts_a_number_a_scalar_and_a_batch_of_steps(network, image):
    with torch.no_grad():
        outputs = [network(image, t) for t in (7, torch.tensor(7), torch.tensor([7, 7]))]
    assert all(torch.equal(o, outputs[0]) and o.shape == image.shape for o in outputs)


def test_compiles_to_one_graph(network, image):
    """No graph break in a whole call: dynamo alone (backend eager), so that no compiler is needed."""
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(
            compiled(image, torch.tensor([3, 9])), network(image, torch.tensor([3, 9])), atol=1e-5
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_all_feature_maps_lie_channels_last_whatever_the_image(channels):
    """What enters every block, of images in either memory format; and the answer does not depend on it."""
    network, seen = models.build("cunet", "smoke", channels).eval(), []
    for module in network.modules():
        if isinstance(module, ODEBlock):
            module.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[:2]))
            module.register_forward_hook(lambda *call: seen.extend(call[2]))
    image = torch.randn(2, channels, 16, 16)
    with torch.no_grad():
        answers = [network(image.contiguous(memory_format=layout), 500) for layout in LAYOUTS]
    assert len(seen) == 2 * 9 * 4 and all(state.stride(1) == 1 for state in seen)
    torch.testing.assert_close(*answers)


def test_a_whole_denoising_step_compiles_to_one_graph(network, image):
    """The network, the clean image and DDIM's update, as `sampling.walk` calls them: no graph break."""
    diffusion = Diffusion()
    rising = sorted(SPACINGS["trailing"](diffusion, 4))
    scheduler = SAMPLERS["ddim"].build(diffusion.alphas_cumprod[rising])

    def step(x, i):
        x0 = sampling.predict(network, diffusion, x, rising[i])
        return scheduler.step(x0, i, x, return_dict=False)[0]

    with torch.no_grad():
        expected = next(sampling.walk(network, image, diffusion, rising[::-1])).x
        torch._dynamo.reset()
        found = torch.compile(step, backend="eager", fullgraph=True)(image, 3)
        torch._dynamo.reset()
        explained = torch._dynamo.explain(step)(image, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.parametrize(
    ("shape", "t", "match"),
    [
        ((2, 3, 16, 16), 5, "3, 16, 16"),
        ((2, 1, 15, 16), 5, "divisible by 8"),
        ((2, 1, 16, 16), 1000, "1000"),
        ((2, 1, 16, 16), -1, "-1"),
        ((2, 1, 16, 16), torch.tensor([1, 2, 3]), "one for each image"),
        ((2, 1, 16, 16), 0.5, "integer"),
    ],
)
def test_refuses_what_it_cannot_take(network, shape, t, match):
    with pytest.raises(InputError, match=match):
        network(torch.zeros(shape), t)


def test_refuses_too_few_resolutions():
    with pytest.raises(InputError, match="two resolutions"):
        ContinuousUNet(widths=(8,))


def test_linear_path_between_blocks_is_not_normalised(network):
    """Only f, g and attention normalise: elsewhere no norm is ever called."""

    class Spy(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Spy.calls += "norm" in getattr(func, "__name__", "")
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 4, 16, 16)
    with Spy(), torch.no_grad():
        network.head(x, x, network.time(torch.tensor([3, 3])))
        network.downs[0](x, x)
        network.position(torch.randn(2, 1, 16, 16))
    assert Spy.calls == 0
