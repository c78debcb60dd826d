"""The batches of a training: functions of seed and step, drawn whole, computed in shares."""

import random
from types import SimpleNamespace

import pytest
import torch

from cunet.batches import Batches, BatchOrder
from cunet.datasets import ImageDataset
from cunet.errors import InputError
from cunet.recipe import configure, generator, stream


def pictures(count=50, labels=None) -> ImageDataset:
    light = torch.randint(0, 256, (count, 1, 8, 8), generator=generator(0, "light"), dtype=torch.uint8)
    return ImageDataset("mnist", "train", light, labels)


def batches(data=None, classes=0, **changes) -> Batches:
    return Batches(data or pictures(), configure({"batch_size": 12, "seed": 3, **changes}), classes)


def device(rank=0, world=1) -> SimpleNamespace:
    return SimpleNamespace(global_rank=rank, world_size=world, device=torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 120])
def test_every_epoch_has_each_image_once_and_epochs_differ(batch_size):
    order = BatchOrder(50, batch_size, seed=3)
    seen = torch.cat([order(step) for step in range(-(-150 // batch_size))])[:150].view(3, 50)
    assert all(sorted(epoch.tolist()) == list(range(50)) for epoch in seen)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_the_order_depends_on_seed_and_step_and_not_on_what_was_asked_before():
    again, jumping = BatchOrder(50, 7, seed=3), BatchOrder(50, 7, seed=3)
    in_order = [again(step) for step in range(30)]
    for step in random.Random(0).sample(range(30), 30):
        assert torch.equal(jumping(step), in_order[step])
    assert not torch.equal(BatchOrder(50, 7, seed=4)(0), in_order[0])
    assert len({stream(seed, "step", step) for seed in range(3) for step in range(100)}) == 300


def test_a_batch_is_the_same_whatever_was_drawn_before_or_ahead():
    labels = torch.arange(50) % 3
    plain, ahead = (batches(pictures(labels=labels), 3, flip=True) for _ in range(2))
    in_order = [plain(step) for step in range(6)]
    for step in (4, 0, 5, 5, 2):
        ahead.draw_ahead(step)
        torch.rand(3)  # whatever is drawn in between
        for asked in (step, step - 1) if step else (step,):
            assert all(torch.equal(a, b) for a, b in zip(ahead(asked), in_order[asked], strict=True))
    other = batches(pictures(labels=labels), 3, flip=True, seed=4)(0)
    assert not any(torch.equal(a, b) for a, b in zip(other, in_order[0], strict=True))


def test_flipping_mirrors_about_half_the_images_and_the_same_ones_every_time():
    plain, flipped = (batches(flip=flip, batch_size=50) for flip in (False, True))
    a, b = plain(2)[0], flipped(2)[0]
    same = (a == b).flatten(1).all(1)
    mirrored = (a.flip(-1) == b).flatten(1).all(1)
    assert bool((same | mirrored).all()) and 10 < int(mirrored.sum()) < 40
    assert torch.equal(b, flipped(2)[0])
    assert torch.equal(plain(2)[2], flipped(2)[2])


def test_a_share_of_the_labels_is_hidden_and_the_images_are_those_of_a_training_without():
    data = pictures(600, torch.arange(600) % 10)
    told = batches(data, 10, label_dropout=0.25, batch_size=512)
    images, t, noise, labels = told(3)
    for one, other in zip((images, t, noise), batches(data, batch_size=512)(3), strict=True):
        assert torch.equal(one, other)
    hidden = labels == 10
    assert 0.15 < hidden.float().mean() < 0.35
    assert torch.equal(labels[~hidden], data.labels[told.order(3)][~hidden])


@pytest.mark.parametrize("world, accumulate", [(1, 1), (1, 4), (3, 1), (2, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_shares_of_all_devices_and_parts_are_the_batch_in_its_order(world, accumulate, channels_last):
    labels = torch.arange(50) % 3
    chosen = batches(pictures(labels=labels), 3, accumulate=accumulate, channels_last=channels_last)
    whole = chosen(1)
    shares = [
        chosen.share(whole, part, device(rank, world)) for rank in range(world) for part in range(accumulate)
    ]
    assert {len(x) for share in shares for x in share} == {12 // (world * accumulate)}
    for parts, expected in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(parts), expected)


def test_a_network_drops_by_seed_step_and_device_and_has_the_depth_of_seed_and_step():
    def drawn(step, rank, **changes) -> tuple[float, int]:
        network = torch.nn.Dropout()
        network.depth_seed = None
        batches(**changes).seed_network(network, step, device(rank, 2))
        return torch.rand(()).item(), network.depth_seed

    first = drawn(5, 0)
    assert first == drawn(5, 0)
    assert drawn(5, 1)[0] != first[0] and drawn(5, 1)[1] == first[1]
    for other in (drawn(6, 0), drawn(5, 0, seed=4)):
        assert other[0] != first[0] and other[1] != first[1]


@pytest.mark.parametrize(
    "labels, why",
    [
        (None, "mnist has no class for each image, so a network with classes=3 cannot be trained"),
        (torch.zeros(50, 40).long(), "has no class for each image"),
        (torch.arange(50) % 4, "mnist has 4 classes, and the network 3: give the network classes=4"),
    ],
)
def test_classes_that_the_data_set_does_not_have_are_refused(labels, why):
    with pytest.raises(InputError, match=why):
        batches(pictures(labels=labels), 3)
    batches(pictures(labels=labels))
