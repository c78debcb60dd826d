"""The U-Net baseline is the one the paper compares with: same count, same outputs, same errors for users."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cunet import cost, paper
from cunet.errors import InputError
from cunet.unet import UNet


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter drawn anew, so that no gain is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * p.abs().mean().clamp_min(0.1) * torch.randn(p.shape, generator=generator))
    return module.eval()


def oracle_pair(dim: int, dim_mults: tuple[int, ...], channels: int, head_width: int = 32):
    """lucidrains' network with random weights, and ours with the same: both list them in one order."""
    lucidrains = pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    full = (False,) * (len(dim_mults) - 1) + (True,)
    theirs = lucidrains.Unet(
        dim, dim_mults=dim_mults, channels=channels, full_attn=full, attn_dim_head=head_width
    )
    theirs = randomised(theirs)
    ours = UNet(dim, dim_mults, channels, head_width).eval()
    state, other = ours.state_dict(), theirs.state_dict()
    assert len(state) == len(other)
    ours.load_state_dict({k: w.view_as(state[k]) for k, w in zip(state, other.values(), strict=True)})
    return ours, theirs


@pytest.mark.parametrize("channels, expected", [(3, 35_710_339), (1, 35_703_937)])
def test_parameters_are_counted_to_the_last_digit(channels, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(channels=channels).parameters()) == expected


def test_multiply_accumulates_of_convolutions_are_those_the_authors_printed():
    """Of convolutions alone: with attention's products and the linear layers, 1.3 % more than was printed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        UNet()(torch.zeros(1, 3, 64, 64), 0)
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] // cost.FLOP_A_MAC
    (printed,) = (row.macs for row in paper.RELEASED_CODE if row.model == "unet")
    assert (convolutions, printed) == (7_203_192_832, 7_206_256_640)
    assert convolutions == pytest.approx(printed, rel=0.01)
    everything = counter.get_total_flops() // cost.FLOP_A_MAC
    assert everything == 7_296_565_248 != pytest.approx(printed, rel=0.01)


@pytest.mark.parametrize(
    "dim, mults, channels, head_width, side",
    [(8, (1, 2), 1, 32, 16), (16, (1, 2, 4, 8), 3, 8, 24), (64, (1, 2, 4, 8), 3, 32, 16)],
)
def test_outputs_equal_lucidrains_under_the_same_weights(dim, mults, channels, head_width, side):
    ours, theirs = oracle_pair(dim, mults, channels, head_width)
    x, t = torch.randn(2, channels, side, side), torch.tensor([3, 900])
    with torch.no_grad():
        expected = theirs(x, t)
        torch.testing.assert_close(ours(x, t), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_gradients_equal_lucidrains_under_the_same_weights():
    ours, theirs = oracle_pair(16, (1, 2), 1)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 900])
    for model in (ours, theirs):
        model(x, t).square().mean().backward()
    largest = max(p.grad.abs().max().item() for p in theirs.parameters())
    for p, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.grad.view_as(p), rtol=1e-3, atol=1e-5 * largest)


def test_channels_last_changes_nothing_but_the_layout():
    model = randomised(UNet(8, (1, 2, 4, 8), 3))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x, 500)
        y = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), 500)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_compiles_to_one_graph():
    torch._dynamo.reset()  # what other tests compiled counts against a limit
    model, x = randomised(UNet(8, (1, 2), 1)), torch.randn(2, 1, 16, 16)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    t = torch.tensor([3, 900])
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t), model(x, t))


def test_timestep_may_be_a_number_a_scalar_tensor_or_one_for_each_image():
    model, x = randomised(UNet(8, (1, 2), 1)), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        y = model(x, 700, None, "ignored")
        torch.testing.assert_close(model(x, torch.tensor(700)), y)
        torch.testing.assert_close(model(x, torch.full((3,), 700)), y)
        assert (model(x, torch.tensor([700, 10, 700]))[1] - y[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "shape, timestep, said",
    [
        ((2, 3, 16, 16), 0, "takes (B, 1, H, W)"),
        ((1, 16, 16), 0, "(1, 16, 16)"),
        ((2, 1, 16, 20), 0, "16 x 20"),
        ((2, 1, 16, 16), 1000, "outside 0 ... 999"),
        ((2, 1, 16, 16), torch.tensor([5, -1]), "from -1 to 5"),
        ((2, 1, 16, 16), torch.tensor([1, 2, 3]), "for 2 images"),
        ((2, 1, 16, 16), 0.5, "integers"),
    ],
)
def test_input_that_does_not_fit_is_refused_with_the_value_named(shape, timestep, said):
    with torch.device("meta"):
        model = UNet(8, (1, 2, 4, 8), 1)
    with pytest.raises(InputError) as error:
        model(torch.zeros(shape), timestep)
    assert said in str(error.value)


def test_width_that_group_norm_cannot_divide_is_refused():
    with pytest.raises(InputError, match="dim=12"):
        UNet(12)
