"""Weights in fewer bits come back as near as the bits allow, and what does not fit is refused."""

import pytest
import torch

from cunet import checkpoints, models, precision, storage
from cunet.errors import InputError


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {
        "conv": torch.randn(5, 99, 3, 3) * torch.tensor([1e-4, 1.0, 30.0, 0.0, 1.0]).view(-1, 1, 1, 1),
        "linear": torch.randn(4, 1024),
        "small": torch.randn(4, 1023),
        "bias": torch.randn(5),
        "steps": torch.arange(3),
    }


def test_int8_is_within_half_a_step_of_each_channel(state):
    back = precision.unpacked(precision.packed(state, "int8"))
    assert list(back) == list(state)
    for name in ("conv", "linear"):
        apart = (back[name] - state[name]).flatten(1).abs().amax(1)
        step = state[name].flatten(1).abs().amax(1) / 127
        assert bool((apart <= step / 2 * (1 + 1e-5)).all())
        assert back[name].dtype == torch.float32 and back[name].shape == state[name].shape
    assert bool((back["conv"][3] == 0).all()), "a channel of zeros"
    assert float((back["conv"] - state["conv"]).abs().max()) > 0
    for name in ("bias", "small"):
        assert torch.equal(back[name], state[name].half().float())
    assert torch.equal(back["steps"], state["steps"]) and back["steps"].dtype == torch.int64


def test_the_largest_number_of_a_channel_is_kept(state):
    back = precision.unpacked(precision.packed(state, "int8"))
    for name in ("conv", "linear"):
        rows, own = back[name].flatten(1), state[name].flatten(1)
        at = own.abs().argmax(1, keepdim=True)
        torch.testing.assert_close(rows.gather(1, at), own.gather(1, at), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", precision.DTYPES)
def test_what_is_stored_shares_no_memory_with_the_network(state, dtype):
    for name, value in precision.packed(state, dtype).items():
        assert value.is_contiguous()
        if name in state:
            assert value.data_ptr() != state[name].data_ptr()


def test_float32_comes_back_to_the_bit(state):
    back = precision.unpacked(precision.packed(state, "float32"))
    assert all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize("change", ["lost", "short", "alone"])
def test_scales_that_do_not_fit_are_refused(tmp_path, monkeypatch, change):
    monkeypatch.setattr(precision, "SMALLEST", 64)  # the network is small
    network = models.build("cunet", size="smoke", channels=1)
    path = checkpoints.save(tmp_path / "x", network, {}, dtype="int8")
    tensors, card = storage.read(path)
    name = next(name for name in tensors if name.endswith(precision.SCALE))
    if change == "lost":
        del tensors[name]
    elif change == "short":
        tensors[name] = tensors[name][:-1].clone()
    else:
        del tensors[name.removesuffix(precision.SCALE)]
    storage.write(path, tensors, card)
    with pytest.raises(InputError, match="are not those of the network its card names"):
        checkpoints.load(path)
