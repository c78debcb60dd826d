"""Robustness: a disturbance is what it says, is none at strength nothing, and comparisons favour nobody."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

from cunet import denoising, models, robustness
from cunet.ablations import Draws, draw
from cunet.diffusion import Diffusion
from cunet.errors import InputError

DIFFUSION = Diffusion()


class Gaussian(nn.Module):
    """The best denoiser of data from N(0, I): x_0 = sqrt(abar_t) x. Keeps what it is shown and told."""

    channels, image_size = 1, 16

    def forward(self, x, t):
        self.shown, self.told = x, t
        return DIFFUSION.to_output(DIFFUSION.alphas_cumprod[t].sqrt().to(x)[:, None, None, None] * x, x, t)


@pytest.fixture
def x():
    return torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", robustness.KINDS)
@pytest.mark.parametrize("name", ["unet", "cunet"])
def test_without_strength_there_is_no_disturbance(kind, name, x):
    network = models.build(name, "smoke", 1).eval()
    same = robustness.disturb(network, DIFFUSION, kind, 1.0 if kind == "level" else 0.0)
    t = torch.full((4,), 300)
    with torch.no_grad():
        torch.testing.assert_close(same(x, t), network(x, t), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.4])
def test_a_wrong_level_has_noise_that_is_wrong_by_the_factor(factor):
    wrong, noise = robustness.wrong_steps(DIFFUSION, factor), denoising.noise_stds(DIFFUSION)
    asked = factor * noise
    inside = (asked > noise[0]) & (asked < noise[-1])
    gap = (noise[wrong] / asked).log().abs()
    for other in (wrong - 1, wrong + 1):
        other = other.clamp(0, DIFFUSION.timesteps - 1)
        assert (gap <= (noise[other] / asked).log().abs() + 1e-12)[inside].all(), "no step is nearer"
    assert (wrong[asked >= noise[-1]] == DIFFUSION.timesteps - 1).all()
    assert factor != 1.0 or torch.equal(wrong, torch.arange(DIFFUSION.timesteps))


def test_told_a_wrong_level_the_network_gets_the_contrast_of_that_level_and_is_read_by_it(x):
    inside, t = Gaussian(), torch.full((4,), 400)
    answer = robustness.disturb(inside, DIFFUSION, "level", 1.5)(x, t)
    told = int(robustness.wrong_steps(DIFFUSION, 1.5)[400])
    signal = DIFFUSION.alphas_cumprod.sqrt()
    assert told > 400 and (inside.told == told).all()
    torch.testing.assert_close(inside.shown, x * float(signal[told] / signal[400]))
    recovered = DIFFUSION.to_x0(answer, x, t)
    torch.testing.assert_close(recovered, x * float(signal[told] ** 2 / signal[400]), rtol=1e-4, atol=1e-5)


def test_input_noise_and_impulses_have_their_strength_and_are_the_same_for_two_networks():
    x, t = torch.zeros(50, 1, 16, 16), torch.full((50,), 400)
    shown = {}
    for kind in ("input", "impulses"):
        for network in (Gaussian(), Gaussian()):
            disturbed = robustness.disturb(network, DIFFUSION, kind, 0.2, seed=3)
            shown.setdefault(kind, []).append([disturbed(x, t) is not None and network.shown for _ in "ab"])
        one, other = shown[kind]
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert not torch.equal(*one), "each call has its own"
    draw = shown["input"][0][0]
    assert draw.std().item() == pytest.approx(0.2, rel=0.05) and abs(draw.mean().item()) < 0.01
    draw = shown["impulses"][0][0]
    assert set(draw.unique().tolist()) == {-1.0, 0.0, 1.0}
    for value in (-1, 1):
        assert (draw == value).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_noise_of_weights_is_relative_and_leaves_the_network_and_frozen_tables_alone():
    network = models.build("cunet-released", "smoke", 1).eval()
    before = {name: value.clone() for name, value in network.named_parameters()}
    other = robustness.with_noisy_weights(network, 0.1, seed=1)
    for name, value in other.named_parameters():
        assert torch.equal(before[name], dict(network.named_parameters())[name])
        if not value.requires_grad:
            assert torch.equal(value, before[name])
        elif value.numel() > 500:
            share = (value - before[name]).square().mean().sqrt() / before[name].square().mean().sqrt()
            assert share.item() == pytest.approx(0.1, rel=0.15)
    again = robustness.with_noisy_weights(network, 0.1, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), again.parameters(), strict=True))


def test_the_error_of_the_best_denoiser_of_gaussian_data_is_known():
    images = torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1) * 0.5
    rows = robustness.one_call_errors(Gaussian(), DIFFUSION, images, [1, 900])
    assert rows.shape == (40, 2) and rows[:, 0].mean() < 1e-3 < rows[:, 1].mean()
    assert robustness.geometric(rows).item() == pytest.approx(
        (rows[:, 0].mean() * rows[:, 1].mean()).sqrt().item()
    )


def growths(*factors):
    """Settings in which the second network's error grows by these factors more than the first one's."""
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02
    first = Draws(0.7, 0.7 + noise[:, 0], 16)
    return {
        ("one call", "input", float(i)): (first, Draws(0.7 + f, 0.7 + f + noise[:, 1], 16))
        for i, f in enumerate(torch.tensor(factors).log().tolist())
    }


def test_who_is_more_robust_is_decided_by_test_and_margin_and_alike_for_both():
    grown = growths(0.8, 1.0, 1.25, 1.03)
    frame = robustness.compared(grown)
    assert frame.ahead.tolist() == ["second", "", "first", ""]
    assert frame.ratio.tolist() == pytest.approx([0.8, 1.0, 1.25, 1.03])
    assert ((frame.low < frame.ratio) & (frame.ratio < frame.high)).all()
    assert robustness.weigh(frame) == {"confirmed": 1, "contradicted": 1, "settings": 4}
    swapped = robustness.compared({key: pair[::-1] for key, pair in grown.items()})
    assert swapped.ahead.tolist() == ["first", "", "second", ""]
    assert (swapped.ratio * frame.ratio).tolist() == pytest.approx([1.0] * 4)
    assert swapped.p.tolist() == pytest.approx(frame.p.tolist())


@pytest.mark.parametrize("n", [4, 12])
def test_the_test_of_few_images_is_that_of_their_pairs(n):
    """Of a mean of logarithms the whole is a paired t-test, which scipy has."""
    generator = torch.Generator().manual_seed(n)
    rows = [torch.randn(n, generator=generator, dtype=torch.float64) * 0.1 + shift for shift in (0.5, 0.6)]
    drawn = [draw(row, resamples=20_000) for row in rows]
    found = robustness.compared({("one call", "input", 1.0): tuple(drawn)}).iloc[0]
    known = scipy.stats.ttest_rel(rows[1], rows[0])
    assert found.p == pytest.approx(known.pvalue, rel=0.15) and found.n == n
    low, high = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=0.01)


def test_a_difference_without_spread_is_certain_and_none_at_all_is_no_difference():
    still = torch.full((5,), 0.5, dtype=torch.float64)
    one, other = Draws(0.5, still, 3), Draws(0.9, still + 0.4, 3)
    frame = robustness.compared({("a", "input", 1.0): (one, other), ("a", "input", 2.0): (one, one)})
    assert frame.p.tolist() == [0, 1] and frame.ahead.tolist() == ["first", ""]
    for drawn, rows in ((still, 0), (still, 1), (still[:1], 3)):
        with pytest.raises(InputError, match="2 images or more"):
            robustness.compared({("a", "input", 1.0): (Draws(0.5, drawn, rows), Draws(0.9, drawn, rows))})


def test_a_test_of_few_resamples_knows_no_more_of_its_error_than_they_do():
    (key, (first, second)), *_ = growths(1.5).items()
    few = {key: [Draws(d.value, d.resamples[:3], d.rows) for d in (first, second)]}
    row, drawn = robustness.compared(few).iloc[0], (second.resamples - first.resamples)[:3]
    t = math.log(row.ratio) / float(drawn.std() * (16 / 15) ** 0.5)
    assert row.p == pytest.approx(2 * scipy.stats.t.sf(t, 2))


def test_growth_is_a_factor_of_pairs():
    one = Draws(2.0, torch.tensor([1.9, 2.1], dtype=torch.float64))
    found = robustness.growth(one, Draws(6.0, 3 * one.resamples))
    assert found.value == pytest.approx(torch.tensor(3.0).log().item())
    assert found.resamples.std().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_the_spread_of_a_growth_is_that_of_measured_errors_whatever_resamples_are_too_large_by(bias):
    noise = 0.02 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = robustness.growth(Draws(2.0, 2 + bias + noise[0]), Draws(6.0, 6 + bias + noise[1]))
    assert found.resamples.mean().item() == pytest.approx(math.log(3))
    assert found.resamples.std().item() == pytest.approx(0.02 * (1 / 4 + 1 / 36) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "kind, strength", [("weight", 0.1), ("level", 0.0), ("impulses", 1.5), ("input", -1)]
)
def test_unknown_kinds_and_strengths_out_of_range_are_refused(kind, strength):
    with pytest.raises(InputError, match="kind of disturbance|strength="):
        robustness.disturb(Gaussian(), DIFFUSION, kind, strength)


def test_the_reason_follows_from_the_numbers():
    ahead = dict(confirmed=5, contradicted=2, settings=9)
    behind = dict(confirmed=2, contradicted=5, settings=9)
    for value, norms, word in (
        *((ahead, (4, 8), "also"), (ahead, (8, 4), "not")),
        *((behind, (8, 4), "also"), (behind, (4, 8), "not")),
    ):
        assert f"is {word} the one" in robustness.reason(value, *norms)
    even = dict(confirmed=2, contradicted=2, settings=9)
    assert "explains nothing" in robustness.reason(even, 4, 8) and "4.00" in robustness.reason(even, 4, 8)
