"""`cunet sample`: what it draws from, and what it refuses before it draws."""

import pytest
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
