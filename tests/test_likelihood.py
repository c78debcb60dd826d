"""Likelihood: where it is known exactly it is found; bounds are bounds; nonsense is refused."""

import math

import pytest
import torch

from cunet import likelihood, models
from cunet.diffusion import PREDICTION_TYPES, Diffusion
from cunet.errors import InputError
from cunet.sde import GaussianMixture


def mixture() -> GaussianMixture:
    means = torch.tensor([[-0.6, 0.2], [0.5, -0.3], [0.1, 0.7]], dtype=torch.float64)
    covariances = torch.stack([torch.diag(torch.tensor(d, dtype=torch.float64)) for d in
                               ([0.05, 0.02], [0.03, 0.08], [0.04, 0.04])])  # fmt: skip
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_on_a_gaussian_mixture_it_is_the_known_density(prediction_type):
    diffusion, data = Diffusion("cosine", 1000, prediction_type), mixture()
    first = data.noised(float(diffusion.alphas_cumprod[0]))
    x = first.sample(16, torch.Generator().manual_seed(0))
    network = likelihood.exact_network(data, diffusion)
    found = likelihood.log_likelihood(network, diffusion, x.view(16, 1, 1, 2), "exact", 1e-6)
    # the last noise level is no pure noise by 1e-9 (cosine), the interpolation in t errs by (1/1000)^2
    torch.testing.assert_close(found.nats, first.log_prob(x), atol=2e-3, rtol=0)
    assert found.evaluations > 6


def test_hutchinson_s_estimate_is_right_on_average():
    diffusion, data = Diffusion(), mixture()
    first = data.noised(float(diffusion.alphas_cumprod[0]))
    x = first.sample(1, torch.Generator().manual_seed(1)).expand(400, 2).reshape(400, 1, 1, 2)
    network = likelihood.exact_network(data, diffusion)
    found = likelihood.log_likelihood(network, diffusion, x, "hutchinson", 1e-4).nats
    error = found.std() / 400**0.5
    assert error > 1e-4, "the estimate is random"
    assert abs(found.mean() - first.log_prob(x[:1].flatten(1))) < 4 * error + 2e-3


@pytest.mark.parametrize("how", likelihood.DEQUANTISATIONS)
def test_noise_of_the_right_distribution_takes_the_bits_it_has(how):
    """Levels drawn from a wide Gaussian have a known entropy a pixel; the exact model must find it."""
    spread, pixels = 0.3, 2
    diffusion = Diffusion()
    data = GaussianMixture(torch.ones(1), torch.zeros(1, pixels), spread**2 * torch.eye(pixels)[None])
    drawn = spread * torch.randn(300, 1, 1, pixels, generator=torch.Generator().manual_seed(0))
    levels = ((drawn.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    network = likelihood.exact_network(data, diffusion)
    found = likelihood.bits_per_dimension(network, diffusion, levels, how, 1e-4, batch_size=300).bits
    entropy = math.log2(spread * math.sqrt(2 * math.pi * math.e) / likelihood.WIDTH)
    error = float(found.std()) / 300**0.5
    assert float(found.mean()) == pytest.approx(entropy, abs=4 * error + 0.01)


def test_certain_pixels_cost_what_the_first_noise_hides_and_less_the_gaussian_way():
    """All pixels black hold no information: what is found is how loose each bound is."""
    diffusion = Diffusion()
    data = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        -torch.ones(1, 4, dtype=torch.float64),
        1e-8 * torch.eye(4, dtype=torch.float64)[None],
    )
    black = torch.zeros(64, 1, 1, 4, dtype=torch.uint8)
    network = likelihood.exact_network(data, diffusion)

    def double(x, t):
        return network(x.double(), t).to(x.dtype)

    bits = {
        how: float(likelihood.bits_per_dimension(double, diffusion, black, how, 1e-4).bits.mean())
        for how in likelihood.DEQUANTISATIONS
    }
    width = likelihood.WIDTH / (1 - diffusion.alphas_cumprod[0]).sqrt()
    floor = -math.log2(width / math.sqrt(2 * math.pi)) + (width**2 / 12 / 2) / math.log(2)
    assert bits["uniform"] == pytest.approx(float(floor), abs=0.1) and bits["uniform"] > 1
    assert 0 <= bits["gaussian"] < bits["uniform"] - 0.1


def test_a_network_of_images_gets_bits_and_keeps_its_mode():
    torch.manual_seed(0)
    network = models.build("cunet", "smoke", channels=1).train()
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    found = likelihood.bits_per_dimension(network, Diffusion(), images, tolerance=1e-1)
    assert found.bits.shape == (2,) and found.bits.isfinite().all() and network.training
    again = likelihood.bits_per_dimension(network, Diffusion(), images, tolerance=1e-1)
    assert torch.equal(found.bits, again.bits)


def test_no_two_images_or_seeds_share_their_noise_and_batches_change_nothing(monkeypatch):
    """Signs and dequantisation are those of (seed, image): else errors would not average out over images."""
    measure, signs, points = likelihood.velocity_and_divergence, {}, {}
    images = torch.full((6, 1, 1, 32), 9, dtype=torch.uint8)
    data = GaussianMixture(torch.ones(1), torch.zeros(1, 32), 0.1 * torch.eye(32)[None])
    network = likelihood.exact_network(data, Diffusion())

    def noted(field, x, e):
        made.setdefault(id(e), (e, x))
        return measure(field, x, e)

    monkeypatch.setattr(likelihood, "velocity_and_divergence", noted)
    for seed, size in ((0, 2), (0, 6), (1, 2)):
        made = {}
        found = likelihood.bits_per_dimension(network, Diffusion(), images, "uniform", 1e-2, seed, size)
        assert len(found.bits) == 6
        signs[seed, size], points[seed, size] = (torch.cat(part) for part in zip(*made.values(), strict=True))
    for of in (signs, points):
        assert torch.equal(of[0, 2], of[0, 6]), "the same whatever the batches"
        both = torch.cat([of[0, 2], of[1, 2]]).flatten(1)
        assert len(both.unique(dim=0)) == 12, "no image has the noise of another image or seed"


def test_nothing_is_made_on_another_device_than_the_images(monkeypatch):
    """Whatever is made without a device lands on one without numbers here, and meets the images in vain."""
    network, diffusion = lambda x, t: x / 10, Diffusion()
    as_timestep = diffusion.as_timestep  # keeps its steps on the CPU, as it says

    def on_cpu(t):
        with torch.device("cpu"):
            return as_timestep(t)

    monkeypatch.setattr(diffusion, "as_timestep", on_cpu)
    images = torch.arange(4, dtype=torch.uint8).view(2, 1, 1, 2)
    for how in likelihood.DEQUANTISATIONS:
        with torch.device("meta"):
            found = likelihood.bits_per_dimension(network, diffusion, images, how, 1e-2)
        assert found.bits.device.type == "cpu" and found.bits.isfinite().all()


def test_nonsense_is_refused():
    images, network = torch.zeros(1, 1, 16, 16), lambda x, t: x
    with pytest.raises(InputError, match="uint8"):
        likelihood.bits_per_dimension(network, Diffusion(), images)
    with pytest.raises(InputError, match="Did you mean 'uniform'"):
        likelihood.bits_per_dimension(network, Diffusion(), images.byte(), "uniformly")
    with pytest.raises(InputError, match="exact"):
        likelihood.log_likelihood(network, Diffusion(), images, "exactly")
    with pytest.raises(InputError, match="above 0"):
        likelihood.log_likelihood(network, Diffusion(), images, tolerance=0)
    with pytest.raises(InputError, match="damaged"):
        likelihood.log_likelihood(lambda x, t: x * math.inf, Diffusion(), images)
