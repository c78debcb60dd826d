"""Accelerations: exact where the answer is known, the same numbers as what they shortcut."""

import pytest
import torch

from cunet import accelerations, datasets, models, sampling
from cunet.accelerations import METHODS, CoarseImages, Prepared
from cunet.diffusion import Diffusion
from cunet.errors import InputError

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


def test_a_sweep_measures_each_method_at_its_own_numbers_of_calls(monkeypatch):
    asked = []
    monkeypatch.setattr(accelerations, "draw", lambda *given: asked.append(given[3:5]) or given[3:5])
    network = torch.nn.Identity()
    found = accelerations.sweep(network, None, {"ddim": [2, 5], "heun": [19]}, None, lambda images: images, 4)
    assert list(found) == asked == [("ddim", 2), ("ddim", 5), ("heun", 19)]
    assert all(key == value for key, value in found.items())


class Carried(torch.nn.Linear):
    """A network that tells where it was sent, and stays."""

    def to(self, place):
        self.places = [*getattr(self, "places", []), str(place)]
        return self


def test_the_sets_of_a_sweep_are_made_on_the_first_gpu_and_the_network_comes_back(monkeypatch):
    network = Carried(1, 1)
    monkeypatch.setattr(sampling, "best_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(accelerations, "draw", lambda network, *_: list(network.places))
    found = accelerations.sweep(network, None, {"ddim": [2, 5]}, None, lambda images: images, 4)
    assert list(found.values()) == [["cuda:0"], ["cuda:0"]] and network.places == ["cuda:0", "cpu"]
