"""Weights on disk: what was saved comes back, and nothing else does."""

import os
import pickle
import random
import shutil

import pytest
import torch
from conftest import Bomb, mutate

from cunet import checkpoints, models, precision, storage
from cunet.errors import InputError

CARD = {"dataset": "mnist", "seed": 0, "recipe": {"learning_rate": 1e-3}, "loss_curve": [[64, 0.5]]}
NAME = "mnist-cunet-smoke-s0.safetensors"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build("cunet", size="smoke", channels=1)


@pytest.fixture
def saved(network, tmp_path):
    return checkpoints.save(tmp_path / NAME, network, CARD)


def rewrite(path, tensors=None, **changes):
    """Store other tensors or another card with hashes that agree: what a careless tool would do."""
    old, card = storage.read(path)
    storage.write(path, old if tensors is None else tensors, {**card, **changes})


def test_a_network_comes_back_bit_for_bit_with_its_card(network, saved):
    back, card = checkpoints.load(saved, model="cunet", size="smoke", channels=1)
    assert not back.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), back.state_dict().values(), strict=True)
    )
    assert {key: card[key] for key in CARD} == CARD
    assert (card["model"], card["size"], card["channels"], card["image_size"]) == ("cunet", "smoke", 1, 16)
    assert (
        card["dtype"] == "float32"
        and card["packages"]["torch"]
        and card["code_version"]
        and card["processor"]
    )
    assert checkpoints.verify(saved) == card


def test_loading_leaves_the_random_numbers_alone(saved):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    checkpoints.load(saved)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("dtype", "share"), [("float16", 0.6), ("int8", 0.5)])
def test_fewer_bits_make_a_smaller_file_that_comes_back_as_float32(
    network, saved, tmp_path, monkeypatch, dtype, share
):
    monkeypatch.setattr(precision, "SMALLEST", 64)  # the network is small
    small = checkpoints.save(tmp_path / "small", network, {}, dtype=dtype)
    assert small.name == "small.safetensors" and small.stat().st_size < share * saved.stat().st_size
    back, card = checkpoints.load(small)
    assert card["dtype"] == dtype
    assert all(value.dtype == torch.float32 for value in back.parameters())
    rounded = precision.rounded(network, dtype).state_dict()
    assert all(torch.equal(rounded[name], value) for name, value in back.state_dict().items())


@pytest.mark.parametrize("dtype", precision.DTYPES[1:])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_weights_that_are_not_finite_are_not_saved(network, tmp_path, bad, dtype):
    broken = models.build("cunet", size="smoke", channels=1)
    few = next(value for value in broken.parameters() if value.dim() == 1)  # 16 bits, or 8 beside a scale
    with torch.no_grad():
        few[0] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        checkpoints.save(tmp_path / NAME, broken, CARD, dtype=dtype)  # 1e6 overflows float16
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_dtype_is_refused_with_the_nearest_before_anything_is_written(network, tmp_path):
    with pytest.raises(InputError, match="Unknown dtype 'float61'.*Did you mean 'float16'"):
        checkpoints.save(tmp_path / NAME, network, CARD, dtype="float61")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [{"model": "unet"}, {"size": "paper"}, {"channels": 3}])
def test_another_network_than_was_asked_for_is_refused(saved, asked):
    (key, value), *_ = asked.items()
    with pytest.raises(InputError, match=f"{key}={value!r} was asked for"):
        checkpoints.load(saved, **asked)


def test_a_card_that_speaks_of_another_network_is_not_saved(network, tmp_path):
    with pytest.raises(InputError, match="the network has model='cunet'"):
        checkpoints.save(tmp_path / NAME, network, {"model": "unet"})


def test_weights_of_another_network_are_refused_even_with_matching_hashes(saved):
    rewrite(saved, model="cunet-noattn")
    shutil.move(saved, saved.with_name("x.safetensors"))
    shutil.move(saved.with_suffix(".json"), saved.with_name("x.json"))
    with pytest.raises(InputError, match="x.safetensors are not those of the network"):
        checkpoints.load(saved.with_name("x.safetensors"))


def test_stored_nan_weights_are_refused_even_with_matching_hashes(saved, monkeypatch):
    tensors, _ = storage.read(saved)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_refuse_nonfinite", lambda *_: None)
        rewrite(saved, tensors)
    with pytest.raises(InputError, match="NaN or infinite"):
        checkpoints.load(saved)


@pytest.mark.parametrize("consistent", [False, True])
def test_a_pickle_with_the_right_name_is_never_executed(saved, bomb, monkeypatch, consistent):
    data = pickle.dumps(Bomb())
    if consistent:  # even a card that carries the pickle's hash does not get it opened
        monkeypatch.setattr(storage, "bytes_of", lambda tensors: data)
        storage.write(saved, {}, {"model": "cunet", "size": "smoke", "channels": 1})
    else:
        saved.write_bytes(data)
    with pytest.raises(InputError, match="pickle"):
        checkpoints.load(saved)
    assert not bomb.exists()


@pytest.mark.parametrize("half", [".safetensors", ".json"])
def test_half_a_pair_is_refused(saved, half):
    saved.with_suffix(half).unlink()
    with pytest.raises(InputError, match=f"There is no file .*{half}"):
        checkpoints.load(saved)


def test_swapped_files_are_refused(network, saved, tmp_path):
    other = checkpoints.save(tmp_path / "mnist-cunet-smoke-s1.safetensors", network, {**CARD, "seed": 1})
    for suffix in (".safetensors", ".json"):
        keep = tmp_path / "keep"
        shutil.move(saved.with_suffix(suffix), keep)
        shutil.move(other.with_suffix(suffix), saved.with_suffix(suffix))
        shutil.move(keep, other.with_suffix(suffix))
    with pytest.raises(InputError, match="swapped"):
        checkpoints.load(saved)


def test_no_mutation_of_either_file_loads(saved, tmp_path, bomb, faults):
    draw, suffixes = random.Random(0), (".safetensors", ".json")
    originals = {suffix: saved.with_suffix(suffix).read_bytes() for suffix in suffixes}
    other = tmp_path / "other" / NAME
    storage.write(other, {"w": torch.zeros(3)}, CARD)
    for number in range(120):
        suffix = suffixes[number % 2]
        bad = mutate(originals[suffix], draw, other.with_suffix(suffix).read_bytes())
        if bad == originals[suffix]:
            continue
        saved.with_suffix(suffix).write_bytes(bad)
        with faults.one(), pytest.raises(InputError, match=saved.stem):
            storage.read(saved)
        saved.with_suffix(suffix).write_bytes(originals[suffix])
    assert faults.counts[1] > 100 and not bomb.exists()
    storage.read(saved)


def test_an_edited_card_is_refused(saved):
    text = saved.with_suffix(".json").read_text()
    assert text.count('"seed": 0') == 1
    saved.with_suffix(".json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match="edited or damaged"):
        checkpoints.verify(saved)


def crash_while_writing(path, tensors, card, at: int) -> bool:
    """Write in a child that dies (no clean-up) before its `at`-th call to the system; True if it died."""
    child = os.fork()
    if child == 0:
        calls = 0

        def dying(function):
            def call(*arguments):
                nonlocal calls
                calls += 1
                if calls > at:
                    os._exit(9)
                return function(*arguments)

            return call

        os.replace, os.fsync = dying(os.replace), dying(os.fsync)
        try:
            storage.write(path, tensors, card)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_writer_killed_anywhere_leaves_the_old_or_the_new_pair(tmp_path, monkeypatch):
    """A write makes 6 calls to the system. After the fourth the new tensors are there without their card:
    from that state the next write, of 8 calls, is killed anywhere as well."""
    path, deaths = tmp_path / "x.state.safetensors", 0
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what is tested is the order, not the disk
    for first, second in [(at, 99) for at in range(6)] + [(4, at) for at in range(8)]:
        storage.write(path, {"w": torch.tensor([0.0])}, {"step": 0})
        allowed = {0}
        for step, at in ((1, first), (2, second)):
            deaths += crash_while_writing(path, {"w": torch.tensor([float(step)])}, {"step": step}, at)
            tensors, card = storage.read(path)
            assert tensors["w"].item() == card["step"] and card["step"] in allowed | {step}
            allowed = {card["step"]}
        storage.write(path, {"w": torch.tensor([3.0])}, {"step": 3})
        assert storage.read(path)[1]["step"] == 3
    assert deaths == 6 + 8 * 2
    storage.remove(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 2])
def test_a_write_that_fails_keeps_the_old_pair_and_leaves_no_temporary_file(tmp_path, monkeypatch, at):
    """The disk is full when the card is written, or when the card fits and the tensors do not."""
    path = tmp_path / "x.safetensors"
    storage.write(path, {"w": torch.zeros(2)}, {"step": 1})
    before, calls = sorted(os.listdir(tmp_path)), []

    def full(handle):
        calls.append(handle)
        if len(calls) == at:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            storage.write(path, {"w": torch.ones(2)}, {"step": 2})
    assert sorted(os.listdir(tmp_path)) == before
    assert storage.read(path)[1]["step"] == 1


@pytest.mark.parametrize("card", [{"loss": float("nan")}, {"loss": object()}])
def test_a_card_that_is_no_json_is_refused(tmp_path, card):
    with pytest.raises(InputError, match="no JSON"):
        storage.write(tmp_path / "x.safetensors", {"w": torch.zeros(1)}, card)


def test_released_checkpoints_are_found_by_name_and_others_are_listed(saved, monkeypatch):
    monkeypatch.setattr(checkpoints, "ASSETS", saved.parent)
    assert checkpoints.released("mnist", "cunet", "smoke") == saved
    with pytest.raises(InputError, match="'mnist-unet-smoke-s0-time'.*Released are: mnist-cunet-smoke-s0"):
        checkpoints.released("mnist", "unet", "smoke", variant="time")


def test_every_released_checkpoint_is_whole():
    for path in checkpoints.ASSETS.glob("*.safetensors"):
        _, card = checkpoints.load(path)
        assert (
            checkpoints.stem(card["dataset"], card["model"], card["size"], card["seed"], card["variant"])
            == path.stem
        )


def test_what_is_compared_is_there_for_each_network_and_the_missing_are_named(tmp_path):
    for name in ("mnist-unet-laptop-s0", "mnist-cunet-laptop-s0", "avatars-unet-laptop-s0"):
        (tmp_path / f"{name}.safetensors").touch()
    asked = (tmp_path, "laptop", ["avatars", "mnist"], ["unet", "cunet"])
    paths, missing = checkpoints.complete(*asked)
    assert list(paths) == [("mnist", "unet"), ("mnist", "cunet")] and missing == ["avatars-cunet-laptop-s0"]
    assert paths["mnist", "unet"] == tmp_path / "mnist-unet-laptop-s0.safetensors"
    with pytest.raises(InputError, match="avatars-cunet-laptop-s0.*cunet train"):
        checkpoints.complete(tmp_path, "laptop", ["avatars"], ["unet", "cunet"])
