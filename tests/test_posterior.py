"""The posterior mean over a finite set of images: against closed forms, and what it says of its own error."""

import numpy as np
import pytest
import torch

from cunet.datasets import from_uint8
from cunet.errors import InputError
from cunet.posterior import estimate, perception, posterior


def pixels(count, seed=0, side=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, side, side), generator=generator, dtype=torch.uint8)


def noisy(images, std, seed=1):
    return images + std * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def test_two_images_have_the_posterior_of_a_logistic_function():
    images = from_uint8(pixels(2))
    y = noisy(images, 2.0)
    found = posterior(y, images, 2.0)
    apart = ((y - images[1]).square() - (y - images[0]).square()).flatten(1).sum(1) / 8
    assert found.weights[:, 0].float() == pytest.approx(apart.sigmoid(), abs=1e-5)
    mixed = (
        found.weights[:, 0].view(-1, 1, 1, 1) * images[0] + found.weights[:, 1].view(-1, 1, 1, 1) * images[1]
    )
    assert torch.allclose(found.mean, mixed, atol=1e-9)


def test_bytes_and_chunks_change_nothing():
    whole = pixels(23)
    y = noisy(from_uint8(whole[:5]), 1.5)
    once, parts = posterior(y, from_uint8(whole), 1.5), posterior(y, whole, 1.5, chunk=4)
    assert torch.allclose(once.mean, parts.mean, atol=1e-6)
    assert torch.allclose(parts.weights.sum(1), torch.ones(5).double())


def test_little_noise_leaves_one_image_and_strong_noise_the_mean_of_all():
    images = from_uint8(pixels(9))
    faint = posterior(noisy(images, 0.01), images, 0.01)
    assert torch.allclose(faint.mean.float(), images, atol=1e-5)
    strong = posterior(noisy(images, 1e4), images, 1e4)
    assert torch.allclose(strong.mean.float(), images.mean(0).expand_as(images), atol=1e-2)


def test_what_more_images_would_change_shrinks_with_their_number():
    """The data are a Gaussian, whose posterior mean is known: `estimate` says the error that there is."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20_000, 1, 1, 2, generator=generator).clamp(-4, 4) / 4
    data = torch.cat([data[data[:, 0, 0, 0] < 0][:9000], data[data[:, 0, 0, 0] > 0][:9000]])
    data = data.view(2, 9000, 1, 1, 2).transpose(0, 1).reshape(-1, 1, 1, 2)  # negative, positive, in turn
    y = noisy(data[:200], 0.5)
    truth = y.double() / (1 + 0.25 * 16)
    errors, claimed = [], []
    for count in (400, 18_000):
        found, error = estimate(y, data[-count:], 0.5)
        assert torch.allclose(found, posterior(y, data[-count:], 0.5).mean, atol=1e-9)
        errors.append(float((found - truth).square().mean().sqrt()))
        claimed.append(error)
    assert claimed[1] < claimed[0] / 3 and errors[1] < errors[0]
    assert 0.4 < claimed[0] / errors[0] < 2.5


def test_the_best_perception_is_convex_and_reaches_the_data_at_twice_the_least_error():
    images = from_uint8(pixels(3))
    std = 2.5
    y = noisy(images.repeat(8, 1, 1, 1), std)
    budgets = np.linspace(1 + 1e-9, 2.1, 9)
    found = perception(posterior(y, images, std).weights, images, budgets)
    assert found[0] > 0.9 and found[-1] < 1e-7 and (np.diff(found) < 1e-9).all()
    assert (found[1:-1] <= (found[:-2] + found[2:]) / 2 + 1e-9).all()
    assert (found <= np.clip(2 - budgets, 0, None) + 1e-9).all(), (
        "a coin between mean and draw does no better"
    )


def test_a_distortion_below_the_least_one_is_refused_and_so_are_weights_that_are_none():
    images = from_uint8(pixels(3))
    weights = posterior(noisy(images, 2.5), images, 2.5).weights
    with pytest.raises(InputError, match="no P.D. at 0.9 times .* budgets of 1 or more"):
        perception(weights, images, np.array([1.5, 0.9]))
    with pytest.raises(InputError, match="cannot be used"):
        perception(weights * torch.nan, images, np.array([1.5]))


@pytest.mark.parametrize("images, std", [(pixels(0), 1.0), (pixels(2, side=3), 1.0), (pixels(2), 0.0)])
def test_what_has_no_posterior_is_refused(images, std):
    with pytest.raises(InputError, match="No posterior"):
        posterior(torch.zeros(1, 1, 4, 4), images, std)
