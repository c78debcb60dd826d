"""What ships is the network that was trained, in 16 bits where that costs nothing."""

import pytest
import torch

from cunet import checkpoints, datasets, models, release
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.validation import validation_losses

NAME = "mnist-cunet-smoke-s7"


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as a training leaves it, but for the training."""
    network = models.build("cunet", size="smoke", channels=1).eval()
    diffusion = Diffusion("cosine", prediction_type="v_prediction")
    test = datasets.load("mnist", "test", image_size=16)
    loss = validation_losses(network, test, diffusion)[:, 0].mean().item()
    card = {"dataset": "mnist", "seed": 7, "diffusion": diffusion.settings(), "validation_loss": loss}
    return network, checkpoints.save(tmp_path / NAME, network, card)


def test_free_halves_are_taken_and_both_losses_are_on_the_card(trained, tmp_path):
    network, path = trained
    stored = release.release(path, tmp_path / "shipped")
    back, card = checkpoints.load(stored)
    assert stored.name == path.name and card["dtype"] == "float16" and card["seed"] == 7
    assert card["validation_loss_float16"] == pytest.approx(card["validation_loss"], rel=release.FREE)
    assert card["validation_loss_float16"] != card["validation_loss"]
    test = datasets.load("mnist", "test", image_size=16)
    found = validation_losses(back, test, Diffusion(**card["diffusion"]))[:, 0].mean().item()
    assert card["validation_loss_float16"] == found, "of the network that a reader loads, to the last bit"
    for name, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], value.half().float())


def test_where_rounding_costs_32_bits_are_kept(trained, tmp_path, monkeypatch):
    network, path = trained
    monkeypatch.setattr(release, "FREE", -0.5)
    back, card = checkpoints.load(release.release(path, tmp_path / "shipped"))
    assert card["dtype"] == "float32"
    for name, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


def test_what_is_no_finished_training_is_refused(tmp_path):
    network = models.build("cunet", size="smoke", channels=1)
    path = checkpoints.save(tmp_path / NAME, network, {"dataset": "mnist", "seed": 7})
    with pytest.raises(InputError, match="no validation loss"):
        release.release(path, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
