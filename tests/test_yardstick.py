"""What samples are held against: the distance is the library's, and real images have none but the floor."""

import pytest
import torch

from cunet import datasets, frechet, kernel_distance, yardstick
from cunet.yardstick import Yardstick


@pytest.fixture(scope="module")
def digits():
    return Yardstick.of("mnist", 16, 120, resamples=20, seed=3)


def test_a_set_is_as_far_as_the_kernel_distance_says_and_the_floor_is_that_of_test_images(digits):
    images = digits.train.batch(slice(200, 240))
    real = kernel_distance.RealImages.of(frechet.dataset_features(digits.train, 120))
    wanted = kernel_distance.distances(real, frechet.features(images), 20, 3)
    found = digits.distance(images)
    assert found.value == pytest.approx(wanted.value) and found.draws == pytest.approx(wanted.draws)
    assert digits.of_features(frechet.features(images)).value == found.value
    assert len(digits.test) == len(digits.held_out) == 120 and digits.test.split == "test"
    noise = digits.distance(torch.rand(40, 1, 16, 16) * 2 - 1)
    assert digits.floor.interval[0] <= digits.floor.value < noise.interval[0]


def test_its_classifier_has_seen_the_images_compared_with(digits):
    right = digits.probe()(digits.real.features) == digits.train.labels[:120]
    assert right.float().mean() > 0.9
    assert digits.train.split == "train" and len(digits.train) == len(datasets.load("mnist", "train", 16))


def test_a_table_has_a_row_a_set(digits):
    found = {("unet", 2): digits.floor, ("cunet", 3): digits.floor}
    table = yardstick.table(found, ("model", "calls"))
    assert list(table.columns) == ["model", "calls", "kid", "kid_low", "kid_high"]
    assert list(table.calls) == [2, 3] and table.kid_low[0] == digits.floor.interval[0]
    assert yardstick.table({}, ("model",)).empty
