"""Samples in blocks: the same images whoever makes them, and what is made again."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from cunet import checkpoints, datasets, frechet, metrics, models, processes, sampling, shards, storage
from cunet.diffusion import Diffusion
from cunet.errors import InputError

DIFFUSION = Diffusion("cosine", 1000, "v_prediction")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An untrained network as a checkpoint; what is tested here does not ask how good it is."""
    network = models.build("unet", size="smoke", channels=1).eval()
    path = tmp_path_factory.mktemp("network") / "mnist-unet-smoke-s0.safetensors"
    card = {"dataset": "mnist", "seed": 0, "variant": "", "diffusion": DIFFUSION.settings()}
    return checkpoints.save(path, network, card), network


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("BATCH", 4), ("BLOCK", 8)):
        monkeypatch.setattr(shards, name, value)


def made(trained, folder, count=29, of=1, steps=2):
    path, network = trained
    which = shards.Samples(path, "ddpm", steps, 3, count)
    for shard in reversed(range(of)):
        shards.make(which, folder, network, DIFFUSION, shard, of)
    return which


def test_a_set_is_the_same_to_the_bit_however_many_shards_made_it(trained, tmp_path):
    whole = made(trained, tmp_path / "one")
    for of in (2, 3, 7):
        parts = made(trained, tmp_path / str(of), of=of)
        for what in (shards.features, shards.pixels):
            assert torch.equal(what(parts, tmp_path / str(of))[:], what(whole, tmp_path / "one")[:])


def test_the_images_are_those_of_one_call_of_the_sampler(trained, tmp_path):
    which = made(trained, tmp_path)
    images = sampling.sample(trained[1], 29, DIFFUSION, "ddpm", 2, seed=3, batch_size=4)
    near = (shards.pixels(which, tmp_path)[:].float() - (images + 1) * 127.5).abs()
    assert near.max() <= 0.51 and len(near) == 29
    found = shards.features(which, tmp_path)
    assert found.shape == (29, 256) and found.dtype == torch.float32
    torch.testing.assert_close(found, frechet.features(images), rtol=1e-3, atol=1e-4)


def test_what_is_there_is_not_made_again_and_what_is_missing_is(trained, tmp_path, monkeypatch):
    which = made(trained, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample", None)
        made(trained, tmp_path)
    file = which.folder(tmp_path) / "24-5-features.safetensors"
    before = shards.features(which, tmp_path)
    file.unlink()
    with pytest.raises(InputError, match="24 ... 28 are missing"):
        shards.features(which, tmp_path)
    made(trained, tmp_path)
    assert torch.equal(shards.features(which, tmp_path), before)


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_a_damaged_block_is_made_again_and_no_other(trained, tmp_path, monkeypatch, kind):
    which = made(trained, tmp_path)
    read = {"features": shards.features, "pixels": shards.pixels}[kind]
    before, file = read(which, tmp_path)[:], which.folder(tmp_path) / f"8-8-{kind}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(InputError, match="8 ... 15 are missing"):
        read(which, tmp_path)[:]
    sample, asked = sampling.sample, []
    monkeypatch.setattr(sampling, "sample", lambda *a, first: asked.append(first) or sample(*a, first=first))
    with pytest.warns(UserWarning, match="damaged .* made again"):
        made(trained, tmp_path)
    assert asked == [8] and torch.equal(read(which, tmp_path)[:], before)


def test_any_slice_of_the_pixels_is_that_of_all_of_them(trained, tmp_path):
    which = made(trained, tmp_path)
    images = shards.pixels(which, tmp_path)
    whole = images[:]
    assert len(images) == 29 and whole.shape == (29, 1, 16, 16) and whole.dtype == torch.uint8
    for first, end in ((0, 3), (3, 8), (5, 21), (8, 16), (24, 40), (28, None), (40, 50), (9, 9), (-2, None)):
        assert torch.equal(images[first:end], whole[first:end])
    with pytest.raises(InputError, match="Every 2th image"):
        images[::2]


class Moments(torch.nn.Module):
    """Stands for Inception: two features an image, at once."""

    num_features = 2

    def forward(self, images):
        return torch.stack([images.double().mean((1, 2, 3)), images.double().std((1, 2, 3))], 1)


def test_fid_and_the_search_for_copies_are_of_all_images_a_block_at_a_time(trained, tmp_path, monkeypatch):
    """By the expressions of notebook 07. Each block is read once, and in order: nothing else is held."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    monkeypatch.setattr(frechet, "_inception", lambda *_: FrechetInceptionDistance(Moments()))
    which, read = made(trained, tmp_path), []
    train = datasets.ImageDataset("x", "train", torch.randint(256, (40, 1, 16, 16), dtype=torch.uint8))
    kept = storage.kept
    monkeypatch.setattr(storage, "kept", lambda path: read.append(path.name) or kept(path))
    images = datasets.from_uint8(shards.pixels(which, tmp_path))
    found = frechet.fid(train, images, "weights", batch_size=3)
    blocks = [f"{first}-{count}-pixels.safetensors" for first, count in which.blocks]
    assert read == blocks and len(blocks) == 4
    whole = shards.pixels(which, tmp_path)[:]
    at_once, fewer = (
        frechet.fid(train, datasets.from_uint8(x), "weights").value for x in (whole, whole[:24])
    )
    assert found.n_generated == 29 and found.value == pytest.approx(at_once) != pytest.approx(fewer)
    read.clear()
    near = metrics.nearest(shards.pixels(which, tmp_path), train.images, chunk=4)
    assert read == blocks and torch.equal(near[1], metrics.nearest(whole, train.images)[1])
    text = (ROOT / "notebooks" / "07_synthesis.py").read_text(encoding="utf-8")
    for expression in (
        "data.from_uint8(shards.pixels(one.samples, run.run_dir)), inception",
        "metrics.nearest(",
    ):
        assert expression in text


def test_another_network_or_code_makes_the_set_anew_and_drops_the_old(trained, tmp_path, monkeypatch, capsys):
    old = made(trained, tmp_path).folder(tmp_path)
    other = made(trained, tmp_path, steps=3).folder(tmp_path)
    assert "Deleting" not in capsys.readouterr().out
    monkeypatch.setattr(shards, "sampling_code", lambda: "0" * 64)
    new = made(trained, tmp_path).folder(tmp_path)
    assert new != old and new.is_dir() and other.is_dir() and not old.exists()
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Deleting")]
    assert str(old) in said and "another network, diffusion or code" in said


def test_one_networks_weights_with_another_diffusion_are_another_set(trained, tmp_path):
    path, network = trained
    card = {"dataset": "mnist", "seed": 0, "variant": ""}
    sets, other = [], Diffusion("linear", 1000, "epsilon")
    for number, diffusion in enumerate((DIFFUSION, other)):
        place = tmp_path / str(number) / path.name
        checkpoints.save(place, network, {**card, "diffusion": diffusion.settings()})
        sets.append(shards.Samples(place, "ddpm", 2, 3, 4))
        shards.make(sets[-1], tmp_path, network, diffusion)
    assert sets[0].folder(tmp_path) != sets[1].folder(tmp_path)
    with pytest.raises(InputError, match="trained with the diffusion .*'linear'.*of its own card"):
        shards.make(sets[1], tmp_path, network, DIFFUSION)


def test_a_shard_that_there_is_not_is_refused(trained, tmp_path):
    for shard, of in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match=f"no shard {shard} of {of}"):
            shards.make(
                shards.Samples(trained[0], "ddim", 2, 0, 8), tmp_path, trained[1], DIFFUSION, shard, of
            )


def peak(path, folder, count) -> None:
    """Body of a process of its own: make a set; prints what it held at most."""
    torch.set_num_threads(1)
    network, card = checkpoints.load(path)
    which = shards.Samples(path, "ddim", 1, 0, count)
    shards.make(which, folder, network, Diffusion(**card["diffusion"]))
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_number_of_samples(trained, tmp_path, measured):
    """To 30,000 samples at smoke size; all images of 1,000 more at once would be 1 MB, and 30,000 30 MB."""
    megabytes = {}
    for count in (1000, 30_000):
        code = f"import test_shards; from pathlib import Path; test_shards.peak(Path({str(trained[0])!r}), "
        code += f"Path({str(tmp_path)!r}), {count})"
        with processes.environment(
            PYTHONPATH=f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        ):
            said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        megabytes[count] = int(said.stdout.split()[1])
    measured(f"peak resident memory by number of samples, MB: {megabytes}")
    assert megabytes[30_000] < megabytes[1000] + 15
