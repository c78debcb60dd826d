"""Classes and guidance: what a network is told, how two answers become one, what judges the pictures."""

import numpy as np
import pytest
import torch

from cunet import checkpoints, datasets, guidance, metrics, models, training
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.kernel_distance import Distances
from cunet.recipe import configure
from cunet.sampling import sample

FAMILIES = ("unet", "cunet")


def network(family: str, seed: int = 0):
    """With classes, and with embeddings that differ, as after a training."""
    torch.manual_seed(seed)
    built = models.build(f"{family}@classes=3", size="smoke", channels=1).eval()
    torch.nn.init.normal_(built.labels.table.weight)
    return built


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_embedding_leaves_the_answers_as_they_were(family):
    plain = models.build(family, size="smoke", channels=1).eval()
    told = models.build(f"{family}@classes=3", size="smoke", channels=1).eval()
    told.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(told(x, 7, torch.tensor([0, 2])), plain(x, 7))
        assert torch.equal(told(x, 7), plain(x, 7))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_class_reaches_the_answer_and_no_label_is_the_last_one(family):
    net, x = network(family), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        first, second = (net(x, 7, torch.full((2,), label)) for label in (0, 1))
        assert not torch.allclose(first, second)
        assert torch.equal(net(x, 7), net(x, 7, torch.full((2,), 3)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guided_is_the_formula_of_the_two_answers(scale):
    net, x, labels = network("cunet"), torch.randn(3, 1, 16, 16), torch.tensor([0, 1, 2])
    with torch.no_grad():
        with_class, without = net(x, 7, labels), net(x, 7)
        wanted = without + scale * (with_class - without)
        assert torch.allclose(guidance.Guided(net, labels, scale)(x, 7), wanted, atol=1e-5)


def test_guiding_v_is_guiding_the_noise():
    diffusion, t = Diffusion(prediction_type="v_prediction"), 400
    x, u, c = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    of_noise = torch.lerp(diffusion.to_epsilon(u, x, t), diffusion.to_epsilon(c, x, t), 2.5)
    assert torch.allclose(diffusion.to_epsilon(torch.lerp(u, c, 2.5), x, t), of_noise)


def test_an_image_depends_on_its_noise_label_and_scale_alone():
    net, diffusion, labels = network("cunet"), Diffusion(), torch.tensor([0, 1, 2, 0, 1])
    settings = dict(steps=2, seed=4, sampler="ddim")
    whole = guidance.sample(net, labels, 2.0, diffusion, batch_size=5, **settings)
    parts = guidance.sample(net, labels, 2.0, diffusion, batch_size=2, **settings)
    assert whole.shape == (5, 1, 16, 16) and torch.allclose(whole, parts, atol=1e-4)
    plain = sample(net, 5, diffusion, batch_size=5, **settings)
    assert torch.equal(guidance.sample(net, labels, 0.0, diffusion, batch_size=5, **settings), plain)
    assert not torch.allclose(whole, plain, atol=1e-2)


def test_the_probe_tells_digits_apart_and_knows_nothing_of_shuffled_labels():
    data = datasets.load("mnist", "train", image_size=16)
    pixels = data.batch(slice(0, 3000)).flatten(1)
    other = data.batch(slice(3000, 4000)).flatten(1)
    right = guidance.LinearProbe(pixels, data.labels[:3000])(other) == data.labels[3000:4000]
    shuffled = data.labels[:3000][torch.randperm(3000, generator=torch.Generator().manual_seed(0))]
    guessed = guidance.LinearProbe(pixels, shuffled)(other) == data.labels[3000:4000]
    assert right.float().mean() > 0.75 and guessed.float().mean() < 0.2


def test_a_share_has_its_exact_interval_and_a_wider_one_where_it_was_chosen():
    right = torch.tensor([True] * 8 + [False] * 2)
    once, of_four = guidance.share(right), guidance.share(right, among=4)
    assert once == pytest.approx((0.8, 0.4439, 0.9748), abs=1e-4)  # Clopper and Pearson's table
    assert of_four.estimate == 0.8 and of_four.low < once.low and of_four.high > once.high
    assert guidance.share(right[:8]) == pytest.approx((1.0, 0.025 ** (1 / 8), 1.0))
    for wrong in (right.float(), right[:0], right[None]):
        with pytest.raises(InputError, match="give one bool an image"):
            guidance.share(wrong)


def test_the_interval_of_the_best_of_several_holds_what_it_is():
    """Where all have one share, that of the one that came out best does in 95 % of cases."""
    held, draw = 0, torch.Generator().manual_seed(0)
    for _ in range(200):
        sets = (torch.rand(4, 60, generator=draw) < 0.7).unbind()
        low, high = max(guidance.share(one, among=4) for one in sets)[1:]
        held += low <= 0.7 <= high
    assert held >= 190


def recipe(**changes):
    values = dict(
        model="cunet@classes=10", size="smoke", images=192, batch_size=32, warmup=0, validate_every=0
    )
    return configure({**values, **changes})


def test_a_training_tells_the_network_its_classes(tmp_path):
    path = training.train(recipe(), tmp_path, progress=False)
    net, card = checkpoints.load(path)
    weight = net.labels.table.weight
    assert card["model"] == "cunet@classes=10" and net.classes == 10
    assert weight.abs().sum(1).min() > 0, "every class and the missing one were seen"


def test_a_training_starts_from_released_weights(tmp_path, monkeypatch):
    first = training.train(recipe(model="cunet"), tmp_path, progress=False)
    monkeypatch.setattr(checkpoints, "ASSETS", tmp_path)
    told = models.build("cunet@classes=10", size="smoke", channels=1)
    known = Diffusion(**checkpoints.load(first)[1]["diffusion"]).settings()
    checkpoints.start(told, first.stem, known)
    plain, x = checkpoints.load(first)[0], torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(told.eval()(x, 7, torch.tensor([3, 4])), plain(x, 7))
    with pytest.raises(InputError, match="not those of the network"):
        checkpoints.start(models.build("unet", size="smoke", channels=1), first.stem, known)
    with pytest.raises(InputError, match="mean something else"):
        checkpoints.start(told, first.stem, known | {"prediction_type": "epsilon"})
    with pytest.raises(InputError, match="no released checkpoint 'nothing'"):
        checkpoints.start(told, "nothing", known)
    again = training.train(recipe(images=32, start=first.stem), tmp_path / "on", progress=False)
    assert checkpoints.verify(again)["start_sha256"] == checkpoints.verify(first)["sha256"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda: models.build("cunet@classes=-1", size="smoke"), "classes=-1: expected how many"),
        (lambda: guidance.Guided(models.build("cunet", size="smoke"), [0], 1.0), "'cunet' knows no classes"),
        (lambda: guidance.Guided(network("cunet"), [0], float("nan")), "scale=nan: expected a number"),
        (
            lambda: guidance.Guided(network("cunet"), [0], 2.0)(torch.zeros(2, 1, 16, 16), 7),
            "2 images for 1 labels",
        ),
        (
            lambda: guidance.sample(network("cunet"), torch.tensor([]).long(), 2.0, Diffusion()),
            "0 labels in batches of 64",
        ),
    ],
)
def test_what_cannot_be_is_refused(wrong, why):
    with pytest.raises(InputError, match=why):
        wrong()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (torch.tensor([0, 4]), r"reach from 0 to 4, but this network knows 0 \.\.\. 2, and 3 for no class"),
        (torch.tensor([0, -1]), "reach from -1 to 0"),
        (torch.tensor([0]), r"shape \(1,\) and dtype torch.int64 for 2 images"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
        (torch.tensor([0.0, 1.0]), "dtype torch.float32 .* one integer"),
        (torch.tensor([False, True]), "dtype torch.bool"),
        (torch.tensor([0, 1], dtype=torch.uint8), "dtype torch.uint8"),
        ([0, 1], "labels are a list: give a tensor"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), "labels are on meta, but the network on cpu"),
    ],
)
def test_labels_of_another_kind_are_refused(family, labels, why):
    with pytest.raises(InputError, match=why):
        network(family)(torch.zeros(2, 1, 16, 16), 7, labels)


@pytest.mark.parametrize(
    ("features", "labels", "why"),
    [
        (torch.zeros(3, 2), torch.zeros(3).long(), r"of the classes \[0\]: .* two or more"),
        (torch.zeros(3, 2), torch.tensor([-1, 0, 1]), r"of the classes \[-1, 0, 1\]: .* counted from 0"),
        (torch.zeros(0, 2), torch.zeros(0).long(), r"of the classes \[\]"),
        (torch.zeros(3, 2), torch.tensor([0.0, 1.0, 1.0]), "labels are torch.float32"),
        (torch.zeros(3, 2), None, "labels are NoneType"),
        (torch.zeros(3, 2), torch.zeros(3, 40).long(), r"labels of shape \(3, 40\)"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), r"shape \(3, 2\) .* labels of shape \(2,\)"),
        (torch.zeros(3), torch.tensor([0, 1, 1]), r"Features of shape \(3,\)"),
        (torch.zeros(3, 2).long(), torch.tensor([0, 1, 1]), "dtype torch.int64"),
        (torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1]), "NaN or infinite"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64, device="meta"), "labels are on meta"),
    ],
)
def test_a_classifier_learns_from_a_class_for_each_picture(features, labels, why):
    with pytest.raises(InputError, match=why):
        guidance.LinearProbe(features, labels)


def test_a_classifier_takes_as_many_features_as_it_learned_from():
    probe = guidance.LinearProbe(torch.eye(4, 3), torch.tensor([0, 1, 0, 1], dtype=torch.int32))
    with pytest.raises(InputError, match=r"shape \(2, 5\): .* give \(N, 3\)"):
        probe(torch.zeros(2, 5))


@pytest.mark.parametrize(("labels", "batch"), [([], 64), ([1], 0)])
def test_no_labels_and_no_batches_are_refused_as_such(labels, batch):
    with pytest.raises(InputError, match=f"{len(labels)} labels in batches of {batch}: give the class"):
        guidance.sample(network("cunet"), labels, 2.0, Diffusion(), batch_size=batch)


@pytest.mark.parametrize(("dataset", "classes"), [("landscapes", 3), ("mnist", 4)])
def test_classes_that_the_data_do_not_have_are_refused(dataset, classes, tmp_path, monkeypatch):
    digits = datasets.load("mnist", "test", image_size=16)
    images = datasets.ImageDataset(
        dataset, "test", digits.images, digits.labels if dataset == "mnist" else None
    )
    monkeypatch.setattr(datasets, "load", lambda *_, **__: images)
    with pytest.raises(InputError, match="class"):
        training.train(recipe(dataset=dataset, model=f"cunet@classes={classes}"), tmp_path, progress=False)


@pytest.mark.parametrize("name", ["mnist", "landscapes", "celeba"])
def test_class_names_are_those_of_the_labels(name):
    names = datasets.class_names(name)
    if name == "mnist":
        labels = datasets.load(name, "test", image_size=16).labels
        assert len(names) == int(labels.max()) + 1 and names[7] == "7"
    else:
        assert names == ()


def test_a_sweep_asks_for_all_classes_in_turn_at_each_scale_from_the_same_noise():
    net, diffusion, seen = network("cunet"), Diffusion(), []

    def distance(found):
        seen.append(found)
        return Distances(len(seen), np.array([len(seen) - 1.0, len(seen) + 1.0]), 5)

    first = lambda found: torch.arange(len(found)) % 2  # noqa: E731
    rows, made = guidance.sweep(net, diffusion, [0.0, 2.0], first, distance, images=5, steps=2, seed=4)
    labels = torch.tensor([0, 1, 2, 0, 1])
    wanted = guidance.sample(net, labels, 2.0, diffusion, steps=2, seed=4)
    assert torch.equal(made[1], wanted) and [set(row) for row in rows] == [set(guidance.COLUMNS)] * 2
    assert rows[0]["right"] == 0.4, "the 0 and the 1 of the first three; after them 1 for 0, and 0 for 1"
    assert rows[1]["kid"] == 2 and rows[1]["right_all_low"] < rows[1]["right_low"]


def test_what_a_scale_costs_is_a_difference_of_pairs_and_has_an_interval_for_all_scales_at_once():
    """Draws that all sets share fall out of the difference to w = 1, and of nothing else."""
    shared, own = np.random.default_rng(0).normal(size=(2, 1000))
    sets = iter(Distances(far, far + 9 * shared + far * own, 40) for far in (0.0, 1.0, 3.0))
    judge, far = (lambda found: torch.zeros(len(found))), (lambda found: next(sets))
    rows, _ = guidance.sweep(network("cunet"), Diffusion(), [0.0, 1.0, 4.0], judge, far, images=3, steps=1)
    assert [row["apart"] for row in rows] == [-1, 0, 2] and rows[1]["apart_all_high"] == 0
    low, high = np.quantile(2 + 2 * own, (metrics.tail(40), 1 - metrics.tail(40)))
    assert (rows[2]["apart_low"], rows[2]["apart_high"]) == pytest.approx((low, high))
    third = metrics.tail(40, 1 - 0.05 / 3)
    low, high = np.quantile(2 + 2 * own, (third, 1 - third))
    assert (rows[2]["apart_all_low"], rows[2]["apart_all_high"]) == pytest.approx((low, high))
    assert rows[2]["kid_all_low"] < rows[2]["kid_low"] < low < high < rows[2]["kid_high"]


def test_a_sweep_draws_on_the_first_gpu_and_the_network_comes_back(monkeypatch):
    net, places = network("cunet"), []
    monkeypatch.setattr(guidance.sampling, "best_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(net, "to", lambda place: places.append(str(place)))
    monkeypatch.setattr(
        guidance, "sample", lambda *_, **__: places.append("drawn") or torch.zeros(4, 1, 16, 16)
    )
    far = lambda found: Distances(1.0, np.array([1.0, 2.0]), 4)  # noqa: E731
    judge = lambda found: torch.zeros(len(found))  # noqa: E731
    guidance.sweep(net, Diffusion(), [0.0, 2.0], judge, far, images=4, steps=2)
    assert places == ["cuda:0", "drawn", "cpu"] * 2


def test_how_a_network_came_to_know_its_classes_is_read_off_its_card():
    card = dict(dataset="mnist", model="cunet@classes=10", images_seen=1000, recipe=dict(start=""))
    assert guidance.training(card).endswith("trained on 1,000 images, from random weights")
    card["recipe"]["start"] = "mnist-cunet-laptop-s0"
    assert guidance.training(card).endswith("from the weights of mnist-cunet-laptop-s0")
