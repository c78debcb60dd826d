"""Accelerations: exact where the answer is known, the same numbers as what they shortcut."""

import numpy as np
import pytest
import torch

from cunet import accelerations, datasets, models, sampling
from cunet.accelerations import METHODS, CoarseImages, Distances, Prepared, RealImages
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.frechet import kid

DIFFUSION = Diffusion()


class GaussianNetwork(torch.nn.Module):
    """The best possible answer for data N(0, variance) in every pixel, independently."""

    channels, image_size = 1, 8

    def __init__(self, variance: float):
        super().__init__()
        self.variance = variance

    def forward(self, x, t):
        abar = DIFFUSION.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        x0 = abar.sqrt() * self.variance / (abar * self.variance + 1 - abar) * x
        return DIFFUSION.to_output(x0, x, t)


@pytest.fixture(scope="module")
def train():
    return datasets.load("mnist", "train", 16)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build("cunet", "smoke", channels=1).eval()


@pytest.fixture(scope="module")
def prepared(network, train):
    return Prepared.of(network, DIFFUSION, train, early=700, levels=3, images=4)


@pytest.mark.parametrize("before", [0, 300, 698])
def test_the_analytic_variance_is_that_of_the_exact_reverse_step(before):
    """For Gaussian data q(x_before | x_t) is a Gaussian: its variance is what Analytic-DPM has to give."""
    t, variance = 699, 0.3
    abar, abar_before = (DIFFUSION.alphas_cumprod[i] for i in (t, before))
    total = abar * variance + 1 - abar
    gamma = torch.zeros(1000, dtype=torch.float64)
    gamma[t] = (1 - abar) / total  # E epsilon^2, epsilon = sqrt(1 - abar) x / total, x of variance total
    step = (abar / abar_before).sqrt()
    total_before = abar_before * variance + 1 - abar_before
    exact = total_before - (step * total_before) ** 2 / total
    found = accelerations.analytic_std(DIFFUSION, gamma, t, before)
    assert found**2 == pytest.approx(float(exact), rel=1e-6)


def test_in_few_steps_the_analytic_variance_keeps_the_spread_that_equation_2_loses():
    """For independent Gaussian pixels the reverse steps are exact with it, however long they are."""
    variance, n = 0.05, 100
    model, chain = GaussianNetwork(variance), [999, 832, 666, 499, 332, 166]
    abar = DIFFUSION.alphas_cumprod
    gamma = (1 - abar) / (abar * variance + 1 - abar)
    spread = {}
    for name in ("ddpm", "analytic"):
        noise = sampling.NoiseStreams(0, range(n), (1, 8, 8))
        walk = (
            sampling.walk(model, noise(), DIFFUSION, chain, "ddpm", noise)
            if name == "ddpm"
            else accelerations._analytic_walk(model, noise(), DIFFUSION, chain, noise, gamma)
        )
        *_, before_last, _ = walk
        spread[name] = float(before_last.x.var())
    exact = float(abar[166] * variance + 1 - abar[166])
    error = exact * (2 / (64 * n)) ** 0.5  # standard error of a variance of independent pixels
    assert abs(spread["analytic"] - exact) < 4 * error
    assert abs(spread["ddpm"] - exact) > 8 * error


def test_coarse_images_have_the_data_s_mean_and_leading_spread(train):
    few = datasets.ImageDataset("mnist", "train", train.images[:1000])
    coarse = CoarseImages.fit(few, components=32, images=1000)
    drawn = coarse(torch.randn(4000, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == (4000, 1, 16, 16) and drawn.abs().max() <= 1
    pixels = few.batch(slice(None))
    # clipping to [-1, 1] takes a part of the spread, so 0.1 in pixel values rather than a standard error
    assert (drawn.mean(0) - pixels.mean(0)).abs().max() < 0.15
    assert float(drawn.flatten(1).var(0).sum()) < float(pixels.flatten(1).var(0).sum())
    with pytest.raises(InputError, match="no 32 principal components"):
        CoarseImages.fit(few, components=32, images=20)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_exactly_the_calls_it_is_given(method, network, prepared):
    asked = []

    class Counting(torch.nn.Module):
        channels, image_size = network.channels, network.image_size

        def forward(self, x, t):
            asked.append(int(t[0]))
            return network(x, t)

    calls = 19 if method == "heun" else 4
    images = accelerations.draw(Counting(), 2, DIFFUSION, method, calls, prepared, seed=1)
    assert len(asked) == calls
    assert images.shape == (2, 1, 16, 16) and images.abs().max() <= 1 and images.std() > 0
    top = prepared.early if METHODS[method].early else 999
    assert asked[0] == top or method == "heun"


def test_an_image_depends_on_its_number_alone(network, prepared):
    for method in ("analytic", "ddim-early"):
        whole = accelerations.draw(network, 3, DIFFUSION, method, 2, prepared, batch_size=3)
        parts = accelerations.draw(network, 3, DIFFUSION, method, 2, prepared, batch_size=1)
        torch.testing.assert_close(whole, parts, atol=1e-4, rtol=0)


def test_ddpm_here_is_the_sampler_of_that_name(network, prepared):
    ours = accelerations.draw(network, 2, DIFFUSION, "ddpm", 3, prepared, seed=5)
    assert torch.equal(ours, sampling.sample(network, 2, DIFFUSION, "ddpm", 3, seed=5))


def test_what_cannot_be_is_refused(network, prepared, train):
    with pytest.raises(InputError, match="Did you mean 'ddim'"):
        accelerations.draw(network, 1, DIFFUSION, "ddin", 4, prepared)
    with pytest.raises(InputError, match="odd number, 19 or more"):
        accelerations.draw(network, 1, DIFFUSION, "heun", 20, prepared)
    with pytest.raises(InputError, match="early=1000"):
        Prepared.of(network, DIFFUSION, train, early=1000)


@pytest.mark.parametrize("n", [40, 400])
def test_distances_are_the_kernel_distance_of_whole_sets(n):
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randn(n, 256, generator=generator), 1.1 * torch.randn(n, 256, generator=generator)
    found = accelerations.distances(RealImages.of(real.double()), made, resamples=50)
    assert found.value / 1000 == pytest.approx(kid(real, made, subsets=1, size=n)[0], rel=1e-4)
    again = accelerations.distances(RealImages.of(real.double()), made, resamples=50)
    assert np.array_equal(found.draws, again.draws) and found.draws.std() > 0


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_distance_is_unbiased_and_its_bootstrap_knows_the_spread(shift):
    """Near real images the interval is on the safe side, as the statistic is degenerate there."""
    generator = torch.Generator().manual_seed(1)
    real = RealImages.of(torch.randn(4000, 16, generator=generator))
    sets = [
        accelerations.distances(real, shift + torch.randn(50, 16, generator=generator), 200)
        for _ in range(150)
    ]
    values, error = np.array([one.value for one in sets]), 1 / len(sets) ** 0.5
    many = accelerations.distances(real, shift + torch.randn(4000, 16, generator=generator), 2).value
    assert abs(values.mean() - many) < 4 * values.std() * error + 5
    ratio = np.mean([one.draws.std() for one in sets]) / values.std()
    assert 0.8 < ratio < (2 if not shift else 1.25)
    bias = np.mean([one.draws.mean() - one.value for one in sets])
    assert abs(bias) < 0.3 * values.std(), "repeats in a resample do not shift it"


def test_sets_of_a_size_are_resampled_alike():
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    real = RealImages.of(torch.randn(100, 8, generator=torch.Generator().manual_seed(1)))
    one, same = (accelerations.distances(real, features.clone(), 40, seed=3) for _ in range(2))
    assert np.all(one.draws - same.draws == 0), "what is common to a pair falls out of its difference"
    with pytest.raises(InputError, match="two or more"):
        RealImages.of(features[:1])


def known(value, reach=0.0):
    return Distances(value, value + reach * np.linspace(-1, 1, 101))


def test_the_relative_gain_is_one_where_both_networks_gain_alike():
    found = {("a", "ddpm", 5): known(41.0), ("a", "ddim", 5): known(11.0)}
    found |= {("b", "ddpm", 5): known(21.0), ("b", "ddim", 5): known(6.0)}
    gain = accelerations.relative_gain(found, [("ddim", 5)], ("a", "b"), known(1.0))
    assert gain[:3] == pytest.approx((1.0, 1.0, 1.0)) and gain.used == [("ddim", 5)] and not gain.left_out
    assert gain.excess == (5.0, 40.0), "above the floor"
    found["b", "ddim", 5] = known(11.0)  # half the gain
    assert accelerations.relative_gain(found, [("ddim", 5)], ("a", "b"), known(1.0)).ratio == pytest.approx(
        0.5
    )
    with pytest.raises(InputError, match="name some"):
        accelerations.relative_gain(found, [], ("a", "b"), known(1.0))


def test_what_is_within_noise_of_real_images_is_left_out_by_name():
    found = {(n, m, 5): known(11.0) for n in "ab" for m in ("ddpm", "ddim")}
    found |= {
        (n, m, 20): known(3.0, reach=4.0 * (n == "b" and m == "ddpm")) for n in "ab" for m in ("ddpm", "ddim")
    }
    gain = accelerations.relative_gain(found, [("ddim", 5), ("ddim", 20)], ("a", "b"), known(1.0))
    assert gain.used == [("ddim", 5)] and gain.left_out == {("ddim", 20): "b with ddpm"}
    alone = accelerations.relative_gain(found, [("ddim", 20)], ("a", "b"), known(1.0))
    assert not alone.used and np.isnan(alone[:3]).all() and np.isnan(alone.excess).all()


def test_gains_in_time_multiply_where_a_network_and_a_method_each_halve_the_time():
    found = {(n, m, k): known(60.0 / k if m == "ddim" else 120.0 / k) for n in "ab" for m in ("ddim", "fast")
             for k in (2, 4, 8)}  # fmt: skip
    found = {key: one if key[1] == "ddim" else known(30.0 / key[2]) for key, one in found.items()}
    seconds = {(n, m, k): [k * (2.0 if n == "a" else 1.0)] * 5 for n, m, k in found}
    got = accelerations.multiplied(found, seconds, ("a", "b"))
    assert got.level[0] == 7.5 and got.by_network[0] == 2 and got.by_method[0] == 2
    assert got.together == (4.0, 4.0, 4.0) and got.times == (1.0, 1.0, 1.0)
    assert got.faster == (4.0, 4.0, 4.0) and got.reached == 1 and got.best == ("fast", 4)
    with pytest.raises(InputError, match="ddpm was not tried"):
        accelerations.multiplied(found, seconds, ("a", "b"), plain="ddpm")


def test_a_quality_that_is_not_reached_is_no_gain_and_choices_are_made_anew_in_every_resample():
    found = {("a", "ddim", k): known(10.0 / k) for k in (2, 4)}
    found |= {("b", "ddim", k): known(20.0 / k, reach=6.0) for k in (2, 4)}
    seconds = {(n, m, k): [k * s for s in (1.0, 1.1, 0.9)] for n, m, k in found}
    got = accelerations.multiplied(found, seconds, ("a", "b"))
    assert got.faster[0] == 0 and got.best is None and 0 < got.reached < 1
    assert got.faster[1] == 0 < got.faster[2], "in some resamples it is reached"
