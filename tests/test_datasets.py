"""Data sets: what is loaded is what was meant, in the originals' own formats, and damage is noticed."""

import gzip
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import celeba_lists
from PIL import Image

from cunet import assets, datasets, drawn, paper, photos, sources, work
from cunet.datasets import load
from cunet.errors import InputError

COUNTS = {"train": 12, "test": 6}


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CUNET_DATA", str(tmp_path / "root"))


@pytest.fixture(scope="module")
def avatars(tmp_path_factory):
    return drawn.build("avatars", tmp_path_factory.mktemp("drawn"), COUNTS, workers=1, progress=False)


def photograph(path, size=(178, 218), seed=0):
    """A JPEG with a grey level that grows from left to right, and red only in the top and bottom rows."""
    width, height = size
    pixels = np.tile(np.linspace(0, 255, width, dtype=np.uint8)[None, :, None], (height, 1, 3))
    if height > width:
        pixels[: (height - width) // 2 - 8] = pixels[-(height - width) // 2 + 8 :] = (255, 0, 0)
    pixels[:, :, 2] //= 1 + seed
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


# mnist


def test_mnist_has_the_published_counts_mean_and_deviation():
    train, test = load("mnist"), load("mnist", "test")
    assert train.images.shape == (60_000, 1, 32, 32) and test.images.shape == (10_000, 1, 32, 32)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    digits = train.images[:, 0, 2:-2, 2:-2].float() / 255
    assert float(digits.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(digits.std()) == pytest.approx(0.3081, abs=5e-5)
    assert not train.images[:, :, :2].any() and not train.images[..., -2:].any()


def test_what_is_known_of_a_data_set_beforehand_is_so():
    mnist = [load("mnist", split) for split in datasets.SPLITS]
    assert work.images("mnist") == (*map(len, mnist), mnist[0].channels)
    for name, source in sources.SOURCES.items():
        assert source.kind != "photographs" or callable(getattr(photos, name))
        assert (source.kind == "drawn") == (name in drawn.RECIPES) == bool(source.stands_for)
    places = {sources.place(name) for name, of in sources.SOURCES.items() if of.paper_name or of.stands_for}
    assert places == {row.dataset for row in paper.TABLE_1}, "a stand-in's place is one of the paper's"
    assert sources.label("avatars") == "avatars (stand-in for CelebA)" and sources.label("-") == "-"


@pytest.mark.parametrize("name", ["mnits", "folder:/nowhere", "avatars2", "folder", "mnist:here"])
def test_how_many_images_an_unknown_data_set_has_is_not_guessed(name):
    with pytest.raises(InputError, match="Unknown data set|does not exist"):
        work.images(name)


def test_mnist_equals_torchvisions_reading_of_the_same_files(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (assets.ROOT / "mnist").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    theirs = torchvision.datasets.MNIST(tmp_path, train=False, download=False)
    ours = load("mnist", "test")
    assert torch.equal(ours.images[:, 0, 2:-2, 2:-2], theirs.data) and torch.equal(
        ours.labels, theirs.targets
    )


def test_batches_are_floats_from_minus_one_to_one_and_convert_back_exactly():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    dataset = datasets.ImageDataset("levels", "train", levels)
    batch = dataset.batch(torch.tensor([0]))
    assert batch.dtype == torch.float32 and float(batch.min()) == -1 and float(batch.max()) == 1
    assert torch.equal(datasets.to_uint8(batch), levels)
    assert datasets.to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_smaller_images_are_means_of_areas_and_larger_ones_keep_the_mean():
    full, half, double = (load("mnist", "test", size) for size in (32, 16, 64))
    some = full.images[:50].double()
    blocks = some.reshape(50, 1, 16, 2, 16, 2).mean(dim=(3, 5))
    assert (half.images[:50].double() - blocks).abs().max() <= 0.5
    assert double.images.shape[-1] == 64
    assert double.images[:50].double().mean() == pytest.approx(float(some.mean()), abs=0.2)


def test_the_content_hash_follows_pixels_and_shape():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    hashes = {datasets.ImageDataset("x", "train", images).sha256}
    hashes.add(datasets.ImageDataset("y", "test", images.clone()).sha256)
    assert len(hashes) == 1
    hashes.add(datasets.ImageDataset("x", "train", images.reshape(1, 2, 8, 8)).sha256)
    images[1, 0, 3, 3] = 1
    hashes.add(datasets.ImageDataset("x", "train", images).sha256)
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("mnits",), "mnits"),
        (("mnist:here",), "mnist:here"),
        (("folder",), "folder"),
        (("mnist", "valid"), "valid"),
        (("mnist", "test", 30), "30"),
        (("mnist", "test", 0), "0"),
        (("mnist", "test", 32.0), "32.0"),
        (("celeba",), "img_align_celeba.zip"),
        (("lsun_church", "test"), "church_outdoor_val_lmdb"),
        (("folder:/no/such/place",), "/no/such/place"),
    ],
)
def test_bad_requests_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        load(*arguments)


def test_a_changed_or_missing_vendored_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(assets.ROOT / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    victim = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1])
    with pytest.raises(InputError, match="SHA-256"):
        load("mnist", "test")
    victim.unlink()
    with pytest.raises(InputError, match="missing"):
        load("mnist", "test")
    victim.write_bytes(content)
    assert len(load("mnist", "test")) == 10_000


@pytest.mark.parametrize("content", [b"\0\0\x08\x01\0\0\0\x03ab", b"\0\0\x0d\x01\0\0\0\x02ab", b"junk", b""])
def test_an_idx_file_that_is_not_one_is_refused(content):
    with pytest.raises(InputError, match="IDX"):
        datasets.read_idx(content)


# drawn


def test_a_second_build_gives_the_same_bytes_with_any_number_of_workers(avatars, tmp_path):
    (tmp_path / f".{avatars.name}.tmp-7").touch()  # of a killed writer
    again = drawn.build("avatars", tmp_path, COUNTS, workers=2, progress=False)
    assert again.read_bytes() == avatars.read_bytes()
    assert again.with_suffix(".json").read_text() == avatars.with_suffix(".json").read_text()
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json", ".lock"}, "no draft is left"


def test_a_built_file_is_not_built_again(avatars, monkeypatch):
    monkeypatch.setattr(drawn, "_render_all", None)
    assert drawn.build("avatars", avatars.parent, COUNTS) == avatars


def test_drawn_images_differ_and_both_sizes_are_the_same_picture(avatars):
    full, half = drawn.load(avatars, "train", 64), drawn.load(avatars, "train", 32)
    assert full.shape == (12, 3, 64, 64) and half.shape == (12, 3, 32, 32) and full.dtype == np.uint8
    assert np.abs(full.reshape(12, 3, 32, 2, 32, 2).mean(axis=(3, 5)) - half).max() <= 0.5
    everything = np.concatenate([full, drawn.load(avatars, "test", 64)]).reshape(18, -1)
    assert len(np.unique(everything, axis=0)) == 18 and everything.std(axis=1).min() > 20


def test_train_and_test_seeds_are_disjoint_and_styles_alternate():
    seeds = {split: {drawn.seed("avatars", split, i) for i in range(n)} for split, n in drawn.COUNTS.items()}
    assert [len(seeds[split]) for split in ("train", "test")] == [30_000, 5_000]
    assert not seeds["train"] & seeds["test"]


def test_the_card_holds_hash_recipe_versions_and_credits(avatars):
    import hashlib

    card = json.loads(avatars.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(avatars.read_bytes()).hexdigest()
    assert card["counts"] == COUNTS and set(card["packages"]) == set(drawn.PACKAGES)
    assert [credit["style"] for credit in card["credits"]] == drawn.RECIPES["avatars"]["styles"]
    assert all(credit["license"] and credit["creator"] for credit in card["credits"])


def test_a_damaged_drawn_file_is_refused(avatars, tmp_path):
    copy = tmp_path / avatars.name
    shutil.copy(avatars.with_suffix(".json"), copy.with_suffix(".json"))
    content = bytearray(avatars.read_bytes())
    copy.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        drawn.load(copy, "train", 64)
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        drawn.load(copy, "train", 64)


def test_an_edited_card_of_a_drawn_data_set_is_refused_and_one_of_earlier_code_made_again(avatars, tmp_path):
    copy = drawn.path("avatars", tmp_path, COUNTS)
    card = copy.with_suffix(".json")
    shutil.copy(avatars, copy)
    good = json.loads(avatars.with_suffix(".json").read_text())
    credits = [{**entry, "text": "by nobody"} for entry in good["credits"]]
    for bad in (good | {"credits": credits}, {k: v for k, v in good.items() if k != "credits"}, [], "x"):
        card.write_text(json.dumps(bad))
        with pytest.raises(InputError, match=f"{card.name} of a drawn data set was edited or is damaged"):
            drawn.load(copy, "train", 64)
    card.write_text(json.dumps({k: v for k, v in good.items() if k != "card_sha256"}))
    drawn.build("avatars", tmp_path, COUNTS, workers=1, progress=False)
    assert card.read_text() == avatars.with_suffix(".json").read_text()


def test_load_draws_a_missing_data_set_and_labels_the_style(monkeypatch):
    monkeypatch.setattr(drawn, "COUNTS", {"train": 5, "test": 4})
    monkeypatch.setattr(drawn.processes, "cores", lambda: 1)
    dataset = load("avatars", "train", 16)
    assert dataset.images.shape == (5, 3, 16, 16) and dataset.labels.tolist() == [0, 1, 2, 3, 0]
    assert "CC BY 4.0" in dataset.credit and "DiceBear" in dataset.credit
    scenes = load("landscapes", "test", 32)
    assert scenes.images.shape == (4, 3, 32, 32) and scenes.labels is None and "CC0" in scenes.credit


def test_drawing_that_is_interrupted_leaves_what_is_waiting(tmp_path, monkeypatch):
    drawn_blocks, real = [], drawn.tqdm

    def block(job):
        drawn_blocks.append(job)
        time.sleep(0.01)
        return np.zeros((job[3] - job[2], 3, 64, 64), np.uint8)

    class Interrupted(real):
        def update(self, n=1):
            raise KeyboardInterrupt

    monkeypatch.setattr(drawn, "_render_range", block)
    monkeypatch.setattr(drawn, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    monkeypatch.setattr(drawn, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        drawn.build("avatars", tmp_path, {"train": 25_000, "test": 50}, workers=2, progress=False)
    assert len(drawn_blocks) < 250  # of 501
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_script_that_its_own_processes_run_again_is_told_so_and_does_not_wait_for_ever(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"from cunet import drawn\ndrawn.build('avatars', drawn.Path({str(tmp_path)!r}), "
        f"{COUNTS}, workers=2, progress=False)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode and "if __name__ == '__main__':" in run.stderr
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_missing_drawing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "PACKAGES", ("no-such-package",))
    with pytest.raises(InputError, match="no-such-package"):
        drawn.build("avatars", tmp_path, COUNTS)


# photographs


def write_celeba(root, count=6):
    """The official layout: one list a file, names padded, attributes -1 or 1, split 0, 1 or 2."""
    base = root / "celeba"
    names = [f"{index + 1:06d}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        photograph(base / "img_align_celeba" / name, seed=index % 3)
    split = [0, 0, 0, 1, 2, 2]
    celeba_lists(base, names, split)


def test_celeba_is_read_in_its_own_layout_and_centre_cropped(tmp_path, monkeypatch):
    import torchvision.datasets.celeba as reader

    write_celeba(tmp_path)
    with pytest.raises(InputError, match="CelebA was not found"):
        load("celeba", "train", 64, tmp_path)  # the lists' MD5 are not the published ones
    monkeypatch.setattr(reader, "check_integrity", lambda path, md5: True)
    train, test = (load("celeba", split, 64, tmp_path) for split in ("train", "test"))
    assert train.images.shape == (3, 3, 64, 64) and test.images.shape == (2, 3, 64, 64)
    assert train.labels.tolist() == [[0, 1]] * 3
    first = train.images[0].float()
    assert (first[0] - first[1]).abs().max() < 12, "the red rows above and below the square must be gone"
    assert first[0, 32, 0] < 12 and first[0, 32, -1] > 243, "and nothing may be lost at the sides"


def test_lsun_is_read_from_lmdb_as_torchvision_reads_it(tmp_path, monkeypatch):
    lmdb = pytest.importorskip("lmdb")
    from torchvision.datasets import LSUN

    for part, count in (("train", 4), ("val", 2)):
        environment = lmdb.open(str(tmp_path / f"church_outdoor_{part}_lmdb"), map_size=2**20)
        with environment.begin(write=True) as transaction:
            for index in range(count):
                photograph(tmp_path / "one.webp", size=(120, 80), seed=index)
                transaction.put(f"{index:040d}".encode(), (tmp_path / "one.webp").read_bytes())
        environment.close()
    dataset = load("lsun_church", "train", 32, tmp_path)
    assert dataset.images.shape == (4, 3, 32, 32) and len(load("lsun_church", "test", 32, tmp_path)) == 2
    monkeypatch.chdir(tmp_path)  # torchvision leaves a file in the working directory
    theirs = LSUN(str(tmp_path), classes=["church_outdoor_train"])
    for index in range(4):
        image = theirs[index][0].crop((20, 0, 100, 80)).resize((32, 32), Image.Resampling.BILINEAR)
        assert (
            np.abs(np.asarray(image).transpose(2, 0, 1) - dataset.images[index].numpy().astype(int)).max()
            <= 2
        )


def test_a_cut_lmdb_file_is_refused_before_it_is_read(tmp_path):
    """LMDB maps the file: a page that is not there would end the process with SIGBUS."""
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "church_outdoor_train_lmdb"
    for number in range(3):  # transactions: the two headers differ
        environment = lmdb.open(str(folder), map_size=2**24)
        with environment.begin(write=True) as transaction:
            transaction.put(b"%d" % number, bytes(500_000))
        environment.close()
    file = folder / "data.mdb"
    whole = file.read_bytes()
    assert len(photos.lsun_church(tmp_path, "train").items) == 3
    for kept in (4096, 8192, 600_000, len(whole) - 200_000):
        file.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="data.mdb is cut: it has .* Fetch it again|cannot be opened"):
            photos.lsun_church(tmp_path, "train")


def test_a_folder_is_split_by_its_sub_folders_or_every_tenth(tmp_path):
    for index in range(20):
        photograph(tmp_path / "flat" / f"{index:02d}.PNG", (40, 40), seed=index)
    name = f"folder:{tmp_path / 'flat'}"
    train, test = load(name, "train", 16), load(name, "test", 16)
    assert (len(train), len(test)) == (18, 2) == datasets.find(name)
    assert work.images(name) == (18, 2, 3)
    assert torch.equal(load("folder", "test", 16, tmp_path / "flat").images, test.images)
    for split, count in (("train", 2), ("test", 1)):
        for index in range(count):
            photograph(tmp_path / "divided" / split / "deep" / f"{index}.jpg")
    name = f"folder:{tmp_path / 'divided'}"
    assert (len(load(name, "train")), len(load(name, "test"))) == (2, 1)


def test_decoded_photographs_are_kept_until_the_folder_changes(tmp_path, monkeypatch):
    for index in range(10):
        photograph(tmp_path / "in" / f"{index}.jpg", seed=index)
    name = f"folder:{tmp_path / 'in'}"
    first = load(name, "train", 16).images
    with monkeypatch.context() as patch:
        patch.setattr(photos, "_square", None)
        assert torch.equal(load(name, "train", 16).images, first)
    photograph(tmp_path / "in" / "0.jpg", size=(60, 60), seed=9)
    assert not torch.equal(load(name, "train", 16).images, first)


def test_an_unreadable_photograph_is_named_and_nothing_is_kept(tmp_path):
    for index in range(10):
        photograph(tmp_path / "in" / f"{index}.jpg")
    for spoil in (
        b"no image",
        b"P6 2x 2 255 " + bytes(12),  # ValueError
        b"BM"
        + bytes(8)
        + b"\x36\0\0\0\x28\0\0\0"
        + b"\xff\xff\0\0" * 2
        + b"\1\0\x18\0"
        + bytes(24),  # a bomb
    ):
        (tmp_path / "in" / "3.jpg").write_bytes(spoil)
        with pytest.raises(InputError, match="3.jpg cannot be read"):
            load(f"folder:{tmp_path / 'in'}", "train", 16)
    assert not list((tmp_path / "root").rglob("*.safetensors"))


def test_a_source_knows_without_reading_how_many_classes_there_are():
    for name in datasets.DATASETS:
        assert sources.classes(name) == len(datasets.class_names(name))
    assert sources.classes("folder:somewhere") == 0
