"""What ships is the network that was trained, in the fewest bits that cost nothing."""

from types import SimpleNamespace

import pytest
import torch

from cunet import checkpoints, datasets, models, precision, release
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


def spoilt(network, dtype):
    """`precision.rounded`, but 8 bits add 1 to all that the network says."""
    other = precision.rounded(network, dtype)
    if dtype == "int8":
        other.register_forward_hook(lambda module, inputs, output: output + 1)
    return other


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_the_fewest_free_bits_are_taken_and_both_losses_are_on_the_card(
    trained, tmp_path, monkeypatch, dtype
):
    network, path = trained
    if dtype == "float16":  # 8 bits are made to cost something: the answers are off by 1
        monkeypatch.setattr(release, "precision", SimpleNamespace(DTYPES=precision.DTYPES, rounded=spoilt))
    stored = release.release(path, tmp_path / "shipped")
    back, card = checkpoints.load(stored)
    assert stored.name == path.name and card["dtype"] == dtype and card["seed"] == 7
    assert card["validation_loss_stored"] == pytest.approx(card["validation_loss"], rel=release.FREE)
    assert card["validation_loss_stored"] != card["validation_loss"]
    test = datasets.load("mnist", "test", image_size=16)
    found = validation_losses(back, test, Diffusion(**card["diffusion"]))[:, 0].mean().item()
    assert card["validation_loss_stored"] == found, "of the network that a reader loads, to the last bit"
    for name, value in precision.rounded(network, dtype).state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


def test_what_ships_may_be_released_again(trained, tmp_path):
    """8-bit weights that are read and stored in 8 bits are the same."""
    first = release.release(trained[1], tmp_path / "shipped")
    again = release.release(first, tmp_path / "again")
    (one, old), (two, new) = checkpoints.load(first), checkpoints.load(again)
    assert old["dtype"] == new["dtype"] == "int8"
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-6, atol=0)


def test_where_rounding_costs_32_bits_are_kept(trained, tmp_path, monkeypatch):
    network, path = trained
    monkeypatch.setattr(release, "FREE", -0.5)
    back, card = checkpoints.load(release.release(path, tmp_path / "shipped"))
    assert card["dtype"] == "float32"
    assert card["validation_loss_stored"] == pytest.approx(card["validation_loss"], rel=1e-6)
    for name, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


def test_what_is_no_finished_training_is_refused(tmp_path):
    network = models.build("cunet", size="smoke", channels=1)
    path = checkpoints.save(tmp_path / NAME, network, {"dataset": "mnist", "seed": 7})
    with pytest.raises(InputError, match="no validation loss"):
        release.release(path, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
