"""A user's own picture: any size and kind comes back as itself, denoised, or is refused."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from cunet import checkpoints, cli, denoisers, pictures
from cunet.datasets import to_uint8
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.models import build


class Fake:
    """A denoiser of known answer that remembers what it was given."""

    def __init__(self, channels=None, side=None, answer=lambda noisy, std: noisy):
        self.channels, self.side, self.answer, self.seen = channels, side, answer, []

    def __call__(self, noisy, noise_std):
        self.seen.append((tuple(noisy.shape), noise_std))
        return self.answer(noisy, noise_std)


def random_picture(*shape, seed=0):
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def save(path, array, dtype=np.uint8, **options):
    Image.fromarray(np.asarray(array).astype(dtype)).save(path, **options)
    return path


GREY = np.arange(20 * 30).reshape(20, 30) % 256
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16), (1, 5, 40), (3, 41, 67), (1, 1, 1), (3, 33, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_denoiser_that_changes_nothing_gives_back_any_picture(shape, channels):
    picture = random_picture(*shape)
    fake = Fake(channels, side=16)
    found = pictures.denoise(fake, picture, 0.1, overlap=4)
    assert found.shape == picture.shape and torch.allclose(found, picture, atol=1e-5)
    assert all(size[1:] == (channels, 16, 16) and std == 0.2 for size, std in fake.seen)


def test_a_denoiser_without_a_side_sees_the_whole_picture_once():
    fake = Fake()
    picture = random_picture(3, 20, 50)
    assert torch.equal(pictures.denoise(fake, picture, 0.5), picture)
    assert fake.seen == [((1, 3, 20, 50), 1.0)]


def test_tiles_lie_evenly_and_share_at_least_the_overlap():
    for length in range(16, 120):
        for overlap in (0, 3, 7):
            found = pictures.starts(length, 16, overlap)
            assert found[0] == 0 and found[-1] == length - 16
            assert all(0 < b - a <= 16 - overlap for a, b in zip(found, found[1:], strict=False))


def test_seams_are_blended():
    """A denoiser that answers a different constant for every tile gives no step as high as the constants'."""
    numbers = iter(range(100))
    fake = Fake(1, 16, lambda x, std: torch.stack([torch.full_like(tile, next(numbers)) for tile in x]))
    found = pictures.tiled(fake, torch.zeros(1, 1, 16, 40), 0.1, 16, overlap=4)[0, 0, 8]
    steps = found.diff()
    assert found[0] == 0 and found[-1] == 2 and (steps >= 0).all()
    assert steps.max() < 0.5


def test_channels_of_a_colour_picture_do_not_mix_in_a_network_of_grey_images():
    picture = random_picture(3, 16, 16)
    fake = Fake(1, 16, lambda x, std: -x)
    assert torch.allclose(pictures.denoise(fake, picture, 0.1), -picture, atol=1e-6)
    grey = Fake(3, 16, lambda x, std: x * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1))
    assert torch.allclose(pictures.denoise(grey, picture[:, :1], 0.1), 2 * picture[:, :1], atol=1e-5)


@pytest.mark.parametrize("level", [0.0, -0.1, 1.01, 25.0, float("nan"), float("inf")])
def test_noise_levels_out_of_range_are_refused(level):
    with pytest.raises(InputError, match="divide by 255"):
        pictures.denoise(Fake(1, 16), random_picture(1, 16, 16), level)


def test_tiles_must_not_share_more_than_half():
    with pytest.raises(InputError, match="overlap=8"):
        pictures.denoise(Fake(1, 16), random_picture(1, 32, 32), 0.1, overlap=8)


# reading


def test_png_and_jpeg_grey_and_colour_are_read_as_they_are(tmp_path):
    grey = pictures.read(save(tmp_path / "g.png", GREY))
    assert grey.shape == (1, 1, 20, 30) and np.array_equal(to_uint8(grey)[0, 0].numpy(), GREY)
    colour = pictures.read(save(tmp_path / "c.png", COLOUR))
    assert np.array_equal(to_uint8(colour)[0].permute(1, 2, 0).numpy(), COLOUR)
    smooth = np.linspace(0, 255, 600).reshape(20, 30)
    jpeg = to_uint8(pictures.read(save(tmp_path / "g.jpeg", smooth, quality=95)))
    assert jpeg.shape == (1, 1, 20, 30) and abs(jpeg[0, 0].numpy().astype(float) - smooth).mean() < 4


def test_written_pictures_are_read_back_to_the_last_bit(tmp_path):
    for channels in (1, 3):
        picture = (random_picture(channels, 9, 13) * 127.5 + 127.5).round() / 127.5 - 1
        path = pictures.write(tmp_path / "new" / "x.png", picture)
        assert torch.allclose(pictures.read(path), picture, atol=1e-6)
    assert list(path.parent.iterdir()) == [path], "no draft is left"


def test_documented_kinds_are_read_as_documented(tmp_path):
    opaque = np.dstack([COLOUR, np.full(GREY.shape, 255)])
    assert torch.equal(
        pictures.read(save(tmp_path / "rgba.png", opaque)), pictures.read(save(tmp_path / "rgb.png", COLOUR))
    )
    Image.fromarray(COLOUR.astype(np.uint8)).quantize(16).save(tmp_path / "palette.png")
    assert pictures.read(tmp_path / "palette.png").shape == (1, 3, 20, 30)
    Image.fromarray(COLOUR.astype(np.uint8)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert pictures.read(tmp_path / "cmyk.jpg").shape == (1, 3, 20, 30)
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert set(to_uint8(pictures.read(tmp_path / "bits.png")).unique().tolist()) == {0, 255}
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    save(tmp_path / "turned.jpg", GREY, exif=turned)
    assert pictures.read(tmp_path / "turned.jpg").shape == (1, 1, 30, 20)


def bad_files(folder):
    """Name -> (file, what the refusal must say)."""
    image = Image.fromarray(COLOUR.astype(np.uint8))
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.png").mkdir()
    image.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:-200])
    other = Image.fromarray((255 - COLOUR).astype(np.uint8))
    for name in ("animated.gif", "animated.png"):
        image.save(folder / name, save_all=True, append_images=[other])
    image.save(folder / "still.bmp")
    save(folder / "deep.png", GREY.astype(int) * 257, dtype=np.uint16)
    clear = np.dstack([COLOUR, 255 - GREY])
    save(folder / "clear.png", clear)
    image.quantize(8).save(folder / "hole.png", transparency=0)
    return {
        "missing.png": "cannot be read",
        "text.png": "cannot be read",
        "empty.jpg": "cannot be read",
        "folder.png": "cannot be read",
        "cut.png": "cannot be read",
        "animated.gif": "animated, 2 frames",
        "animated.png": "animated, 2 frames",
        "still.bmp": "BMP file",
        "deep.png": "16 bits",
        "deep-colour.png": "16 bits",
        "clear.png": "transparent",
        "hole.png": "transparent",
    }


def deep_colour_png(path):
    """A colour PNG of 16 bits a channel, written by hand: Pillow cannot write one, and reads it as 8 bits."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def test_pictures_that_would_be_read_wrong_are_refused_by_name_and_reason(tmp_path):
    deep_colour_png(tmp_path / "deep-colour.png")
    assert Image.open(tmp_path / "deep-colour.png").mode == "RGB", "the trap: Pillow says nothing"
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(InputError, match=f"{name}.*{reason}"):
            pictures.read(tmp_path / name)


# the command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    card = {"dataset": "mnist", "seed": 0, "variant": "", "diffusion": Diffusion().settings()}
    folder = tmp_path_factory.mktemp("checkpoint")
    return checkpoints.save(folder / "mnist-cunet-smoke-s0", build("cunet", "smoke", 1), card)


@pytest.mark.parametrize("name, array", [("grey.png", GREY), ("colour.jpg", COLOUR)])
def test_the_command_writes_a_picture_of_the_same_size_and_kind_beside_it(
    tmp_path, checkpoint, name, array, capsys
):
    path = save(tmp_path / name, array)
    before = path.read_bytes()
    arguments = dict(model="cunet", checkpoint=checkpoint, steps=2)
    cli.denoise(path, 0.1, **arguments)
    out = path.with_name(f"{name}-denoised.png")
    with Image.open(out) as found:
        assert found.size == (30, 20) and found.mode == ("L" if array.ndim == 2 else "RGB")
        pixels = np.asarray(found).astype(int)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [name, out.name]
    )
    denoiser = denoisers.from_checkpoint(checkpoint, steps=2)
    expected = to_uint8(pictures.denoise(denoiser, pictures.read(path), 0.1))[0].permute(1, 2, 0)
    assert np.array_equal(pixels.reshape(expected.shape), expected.numpy())
    said = capsys.readouterr().out
    assert str(out.name) in said and "mnist" in said and "16 x 16" in said


def test_the_network_suits_the_picture_as_far_as_one_was_released(tmp_path, monkeypatch, capsys):
    """Grey: digits, colour: avatars; the other where there is none; and what is asked for, whatever it is."""
    assets = tmp_path / "released"
    monkeypatch.setattr(checkpoints, "ASSETS", assets)
    card = {"seed": 0, "variant": "", "diffusion": Diffusion().settings()}

    def release(dataset, channels):
        name = checkpoints.stem(dataset, "cunet", "smoke")
        checkpoints.save(assets / name, build("cunet", "smoke", channels), card | {"dataset": dataset})

    def seen(picture, **given):
        cli.denoise(picture, 0.1, size="smoke", steps=1, **given)
        return re.search("has seen ([a-z]+) images", capsys.readouterr().out)[1]

    assets.mkdir()
    grey, colour = save(tmp_path / "grey.png", GREY), save(tmp_path / "colour.png", COLOUR)
    with pytest.raises(InputError, match="avatars-cunet-smoke-s0"):
        seen(colour)
    release("mnist", 1)
    assert seen(grey) == seen(colour) == "mnist"
    release("avatars", 3)
    assert seen(grey) == "mnist" and seen(colour) == "avatars"
    assert seen(grey, dataset="avatars") == "avatars"


def test_pictures_that_differ_in_the_ending_alone_have_results_of_their_own(tmp_path, checkpoint):
    for name, array in (("x.png", GREY), ("x.jpg", 255 - GREY)):
        cli.denoise(save(tmp_path / name, array), 0.1, model="cunet", checkpoint=checkpoint, steps=1)
    results = {path.name: path.read_bytes() for path in tmp_path.glob("*-denoised.png")}
    assert set(results) == {"x.png-denoised.png", "x.jpg-denoised.png"} and len(set(results.values())) == 2


def test_the_picture_itself_is_never_written_over(tmp_path, checkpoint):
    path = save(tmp_path / "grey.png", GREY)
    (tmp_path / "link.png").symlink_to(path)
    (tmp_path / "same.png").hardlink_to(path)
    (tmp_path / "down").mkdir()
    before = path.read_bytes()
    for name in ("grey.png", "down/../grey.png", "link.png", "same.png"):
        with pytest.raises(InputError, match="is the picture itself"):
            cli.denoise(path, 0.1, model="cunet", checkpoint=checkpoint, out=tmp_path / name)
    assert path.read_bytes() == before


def test_the_command_refuses_before_it_writes(tmp_path, checkpoint):
    path = save(tmp_path / "grey.png", GREY)
    cases = [
        (dict(noise_level=25.0, checkpoint=checkpoint), "divide by 255"),
        (dict(noise_level=0.1, model="cunett"), "Did you mean 'cunet'"),
        (dict(noise_level=0.1, size="smoke"), "no checkpoint"),
        (dict(noise_level=0.1, dataset="celeba"), "no checkpoint"),
        (dict(noise_level=0.1, checkpoint=tmp_path / "none.safetensors"), "none.safetensors"),
        (dict(noise_level=0.1, checkpoint=checkpoint, steps=0), "steps=0"),
        (dict(noise_level=0.1, checkpoint=checkpoint, out=tmp_path), "is a folder: name the picture in it"),
        (dict(noise_level=0.1, checkpoint=checkpoint, out=tmp_path / "clean.jpg"), "ends in .png"),
        (dict(noise_level=0.1, checkpoint=checkpoint, out=tmp_path / "clean"), "ends in .png"),
    ]
    for given, reason in cases:
        with pytest.raises(InputError, match=reason):
            cli.denoise(path, **given)
    assert [p.name for p in tmp_path.iterdir()] == ["grey.png"]
