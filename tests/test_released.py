"""The released network has its authors' counts to the last digit, and its authors' faults."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cunet.errors import InputError
from cunet.released import EVALUATIONS_A_BLOCK, ReleasedCUNet

VARIANTS = {
    (2, True): 8_811_875,
    (5, True): 9_140_835,
    (0, True): 8_548_707,
    (2, False): 6_138_083,
    (0, False): 5_874_915,
}


def small(seed: int = 0, **settings) -> ReleasedCUNet:
    torch.manual_seed(seed)
    return ReleasedCUNet(nf=4, **settings).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_counted_to_the_last_digit(variant):
    attention, residual = variant
    with torch.device("meta"):
        model = ReleasedCUNet(attention=attention, residual=residual)
    assert sum(p.numel() for p in model.parameters()) == VARIANTS[variant]
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 256_000


@pytest.mark.parametrize(
    "attention, convolutions, printed", [(2, 2_822_832_128, 2_830_983_168), (5, 2_894_135_296, 2_900_000_000)]
)
def test_multiply_accumulates_are_those_the_authors_printed(attention, convolutions, printed):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ReleasedCUNet(attention=attention)(torch.randn(1, 3, 64, 64), 0)
    counts = counter.get_flop_counts()["Global"]
    assert counts[torch.ops.aten.convolution] == 2 * convolutions
    assert convolutions == pytest.approx(printed, rel=0.01)


@pytest.mark.parametrize("attention", [0, 2, 5])
def test_output_is_blind_to_the_diffusion_step(attention):
    model, x = small(attention=attention), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x, 3), model(x, 900))


def test_variants_without_residual_see_the_diffusion_step():
    model, x = small(residual=False), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert (model(x, 3) - model(x, 900)).abs().max() > 1e-4


@pytest.mark.parametrize("residual", [True, False])
def test_output_is_blind_to_brightness_and_contrast_of_every_channel(residual):
    model, x = small(residual=residual), torch.randn(2, 3, 32, 32)
    gain = torch.tensor([2.0, 0.5, 3.0]).view(1, 3, 1, 1)
    offset = torch.tensor([0.5, -4.0, 0.0]).view(1, 3, 1, 1)
    with torch.no_grad():
        y = model(x, 3)
        changed = (model(gain * x + offset, 3) - y).abs().max()
        other_noise = (model(torch.randn_like(x), 3) - y).abs().max()
    assert changed < 1e-3 * y.abs().max()
    assert other_noise > 100 * changed


@pytest.mark.parametrize("residual", [True, False])
def test_block_is_one_step_of_the_three_eighths_rule(residual):
    block = small(residual=residual).down_blocks[0].double()
    z, time = torch.randn(2, 8, 8, 8, dtype=torch.float64), torch.randn(2, 256, dtype=torch.float64)

    def f(z):
        norm = torch.nn.functional.instance_norm
        h = torch.nn.functional.softplus(block.derivative.conv1(norm(z)))
        h = torch.nn.functional.softplus(block.derivative.conv2(norm(h)))
        return z + h if residual else h

    start = z if residual else z + block.time(time)[:, :, None, None]
    k1 = f(start)
    k2 = f(start + k1 / 3)
    k3 = f(start - k1 / 3 + k2)
    k4 = f(start + k1 - k2 + k3)
    torch.testing.assert_close(block(z, time), start + (k1 + 3 * k2 + 3 * k3 + k4) / 8)


def test_evaluations_are_those_one_call_makes():
    model = small()
    calls = []
    for block in (*model.down_blocks, model.bottom, *model.up_blocks):
        block.derivative.conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32), 0)
    assert len(calls) == model.evaluations == 9 * EVALUATIONS_A_BLOCK


def without_gradient(side: int, **settings) -> set[str]:
    """The trainable parameters that a step on images of that side would leave as they are."""
    model = small(**settings)
    model(torch.randn(2, 3, side, side), torch.tensor([3, 900])).square().mean().backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert frozen == {"sinusoids"} <= still
    return still - frozen


@pytest.mark.parametrize("settings", [{"attention": 5}, {"residual": False}])
def test_every_trainable_parameter_learns(settings):
    assert without_gradient(32, **settings) == set()


def test_at_the_smallest_side_the_bottom_learns_its_last_offset_alone():
    """There its map is one pixel, which the instance norms make 0 whatever is before them."""
    unused = {"conv1.weight", "conv1.bias", "conv2.weight"}
    assert without_gradient(16) == {f"bottom.derivative.{name}" for name in unused}


def test_accepts_one_channel_and_the_smallest_side():
    model = small(channels=1).train()
    y = model(torch.randn(3, 1, 16, 16), torch.tensor([0, 5, 999]))
    assert y.shape == (3, 1, 16, 16) and y.isfinite().all()


def test_input_that_does_not_fit_is_refused():
    model = small(channels=1)
    with pytest.raises(InputError, match="24 x 24"):
        model(torch.zeros(1, 1, 24, 24), 0)
    with pytest.raises(InputError, match="outside 0 ... 999"):
        model(torch.zeros(1, 1, 16, 16), 1000)
    with pytest.raises(InputError, match="attention=3"):
        ReleasedCUNet(attention=3)
