"""`cunet sample`: what it draws from, and what it refuses before it draws."""

import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cunet import checkpoints, cli, models, sampling
from cunet.errors import InputError


def refuse(*arguments: str) -> str:
    """The InputError that `cunet sample` ends with."""
    result = CliRunner().invoke(cli.app, ["sample", *arguments], standalone_mode=False)
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


@pytest.fixture
def path(tmp_path):
    """A checkpoint of an untrained U-Net."""
    network = models.build("unet", "smoke", channels=1)
    card = {"dataset": "mnist", "seed": 0, "diffusion": {"schedule": "cosine"}}
    return checkpoints.save(tmp_path / "mnist-unet-smoke-s0.safetensors", network, card)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--model", "cunet", "model='unet', but model='cunet' was asked for"),
        ("--size", "laptop", "size='smoke', but size='laptop' was asked for"),
        ("--dataset", "avatars", "was trained on 'mnist', not on 'avatars'"),
    ],
)
def test_a_checkpoint_of_another_network_than_was_asked_for_is_refused(path, option, value, message):
    assert message in refuse("--checkpoint", str(path), option, value)


def test_a_checkpoint_whose_card_has_no_diffusion_is_refused(tmp_path):
    network = models.build("unet", "smoke", channels=1)
    path = checkpoints.save(tmp_path / "x.safetensors", network, {"dataset": "mnist"})
    assert "does not say the network's diffusion" in refuse("--checkpoint", str(path))


def test_a_folder_that_cannot_be_written_is_refused_before_sampling(path, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sample", lambda *a, **k: pytest.fail("it sampled first"))
    (tmp_path / "file").touch()
    assert "cannot be written to" in refuse("--checkpoint", str(path), "--out", str(tmp_path / "file" / "s"))


def drawn(path, out, *arguments: str):
    """The images that `cunet sample` draws, and what it warned of."""
    line = [
        "sample",
        "--checkpoint",
        str(path),
        "--n",
        "3",
        "--batch-size",
        "2",
        "--steps",
        "2",
        "--out",
        str(out),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = CliRunner().invoke(cli.app, [*line, *arguments], standalone_mode=False)
    assert result.exception is None, result.output
    (array,) = out.glob("*.npy")
    return np.load(array).astype(int), [str(w.message) for w in caught if "torch.compile" in str(w.message)]


def test_a_network_that_runs_otherwise_draws_the_same_images(path, tmp_path, monkeypatch):
    real = torch.compile
    seen = []

    def spied(model, **rest):
        seen.append(model)
        return real(model, backend="eager")

    monkeypatch.setattr(torch, "compile", spied)
    plain, _ = drawn(path, tmp_path / "plain")
    for options, allowed in ((["--compile", "--channels-last"], 1), (["--precision", "bf16"], 30)):
        images, warned = drawn(path, tmp_path / options[0], *options)
        assert not warned and abs(images - plain).max() <= allowed
    assert len(seen) == 1 and seen[0].channels_last and not seen[0].bf16


@pytest.mark.parametrize("when", ["at once", "at the first call"])
def test_without_a_compiler_the_images_are_drawn_without_it_and_a_warning_says_so(
    path, tmp_path, monkeypatch, when
):
    plain, _ = drawn(path, tmp_path / "plain")

    def fail(*_):
        raise RuntimeError("no C++ compiler found\nlong story")

    monkeypatch.setattr(torch, "compile", lambda model: fail if when == "at the first call" else fail())
    images, warned = drawn(path, tmp_path / "compiled", "--compile")
    said = "torch.compile does not work here, the network goes on without it: no C++ compiler found"
    assert warned == [said] and np.array_equal(images, plain)


def test_an_unknown_precision_is_refused(path):
    assert "Unknown precision 'bf61'" in refuse("--checkpoint", str(path), "--precision", "bf61")
