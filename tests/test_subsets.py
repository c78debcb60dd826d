"""Images that stand for a data set: from everywhere, each once, the same ones whoever asks."""

import pytest
import torch

from cunet import datasets, subsets
from cunet.datasets import ImageDataset
from cunet.errors import InputError


@pytest.mark.parametrize(
    ("total", "count"), [(10, 4), (10, 10), (10_000, 9_999), (5000, 100), (7, 1), (3, 0)]
)
def test_one_image_comes_from_each_of_as_many_stretches(total, count):
    chosen = subsets.evenly(total, count)
    assert chosen.dtype == torch.int64 and len(chosen) == count
    ends = torch.arange(count + 1) * total // max(count, 1)
    assert bool((ends[:-1] <= chosen).all()) and bool((chosen < ends[1:]).all())
    assert torch.equal(chosen, subsets.evenly(total, count))


def test_what_repeats_in_a_data_set_is_not_left_out():
    """Every 50th of images whose kinds come in turn would be of two kinds of four."""
    kinds = (subsets.evenly(5000, 100) % 4).bincount(minlength=4)
    assert kinds.min() > 100 / 4 / 2


def test_images_and_part_are_the_same_images():
    test = datasets.load("mnist", "test", 16)
    part, chosen = subsets.part(test, 12), subsets.evenly(len(test), 12)
    assert torch.equal(part.batch(slice(None)), subsets.images(test, 12))
    assert torch.equal(part.labels, test.labels[chosen]) and (part.name, part.split) == ("mnist", "test")
    few = ImageDataset("few", "test", test.images[:5])
    assert torch.equal(subsets.part(few, 12).images, few.images) and subsets.part(few, 12).labels is None


@pytest.mark.parametrize("count", [-1, 11])
def test_more_images_than_there_are_are_refused(count):
    with pytest.raises(InputError, match=f"{count} images were asked for, of a data set of 10"):
        subsets.evenly(10, count)
