"""Kernel distances: those of torchmetrics, unbiased, and with a bootstrap that knows their spread."""

import numpy as np
import pytest
import torch

from cunet import kernel_distance
from cunet.errors import InputError
from cunet.kernel_distance import Distances, RealImages, kid


@pytest.mark.parametrize("n", [40, 400])
def test_distances_are_the_kernel_distance_of_whole_sets(n):
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randn(n, 256, generator=generator), 1.1 * torch.randn(n, 256, generator=generator)
    found = kernel_distance.distances(RealImages.of(real.double()), made, resamples=50)
    assert found.value / 1000 == pytest.approx(kid(real, made, subsets=1, size=n)[0], rel=1e-4)
    again = kernel_distance.distances(RealImages.of(real.double()), made, resamples=50)
    assert np.array_equal(found.draws, again.draws) and found.draws.std() > 0


def test_a_matrix_computed_in_parts_gives_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(n, 16, generator=generator).double() for n in (40, 25))
    whole = kernel_distance.distances(RealImages.of(real), made, resamples=20)
    monkeypatch.setattr(kernel_distance, "CHUNK", 7)
    parts = kernel_distance.distances(RealImages.of(real), made, resamples=20)
    assert parts.value == pytest.approx(whole.value) and np.allclose(parts.draws, whole.draws)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_distance_is_unbiased_and_its_bootstrap_knows_the_spread(shift):
    """Near real images the interval is on the safe side, as the statistic is degenerate there."""
    generator = torch.Generator().manual_seed(1)
    real = RealImages.of(torch.randn(4000, 16, generator=generator))
    sets = [
        kernel_distance.distances(real, shift + torch.randn(50, 16, generator=generator), 200)
        for _ in range(150)
    ]
    values, error = np.array([one.value for one in sets]), 1 / len(sets) ** 0.5
    many = kernel_distance.distances(real, shift + torch.randn(4000, 16, generator=generator), 2).value
    assert abs(values.mean() - many) < 4 * values.std() * error + 5
    ratio = np.mean([one.draws.std() for one in sets]) / values.std()
    assert 0.8 < ratio < (2 if not shift else 1.25)
    bias = np.mean([one.draws.mean() - one.value for one in sets])
    assert abs(bias) < 0.3 * values.std(), "repeats in a resample do not shift it"


def test_sets_of_a_size_are_resampled_alike():
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    real = RealImages.of(torch.randn(100, 8, generator=torch.Generator().manual_seed(1)))
    one, same = (kernel_distance.distances(real, features.clone(), 40, seed=3) for _ in range(2))
    assert np.all(one.draws - same.draws == 0), "what is common to a pair falls out of its difference"
    with pytest.raises(InputError, match="two or more"):
        RealImages.of(features[:1])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_resamples_of_few_images_have_pairs(count):
    """Of 500 resamples of 5 images about one would be 5 times the same image, and every quantile NaN."""
    features = torch.randn(100 + count, 8, generator=torch.Generator().manual_seed(0))
    found = kernel_distance.distances(RealImages.of(features[count:]), features[:count])
    assert np.isfinite(found.draws).all() and found.interval[0] <= found.interval[1]


@pytest.mark.parametrize("count", [0, 1])
def test_a_distance_of_an_image_alone_is_refused(count):
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=f"distance of {count} images was asked for: give two or more"):
        kernel_distance.distances(RealImages.of(features), features[:count])


def test_a_difference_is_that_of_pairs_and_has_columns_of_its_own():
    """Two sets that differ by little and vary by much: the difference is certain, the distances are not."""
    draws = np.arange(41.0)
    base, other = Distances(20.0, draws, 10**6), Distances(23.0, draws + 3, 10**6)
    assert (other - base).value == 3 and (other - base).interval == (3, 3)
    assert other.columns() == pytest.approx(dict(kid=23.0, kid_low=4.0, kid_high=42.0), abs=1e-4)
    assert other.columns(base) == other.columns() | dict(apart=3.0, apart_low=3.0, apart_high=3.0)


def test_an_interval_of_few_images_holds_the_truth_as_often_as_it_says():
    generator, n, tries = np.random.default_rng(0), 10, 2000
    values = generator.normal(size=(tries, n))
    picks = generator.integers(n, size=(400, n))
    held = [
        low <= 0 <= high
        for row in values
        for low, high in [Distances(float(row.mean()), row[picks].mean(1), n).interval]
    ]
    assert abs(np.mean(held) - 0.95) < 0.02, "that of plain percentiles is lower"
    few, many = Distances(0.0, values[:, 0], 3), Distances(0.0, values[:, 0], 300)
    assert (few - many).n == (many - few).n == 3
    assert few.ends(4)[0] <= few.interval[0] < many.interval[0] < many.interval[1] < few.interval[1]
