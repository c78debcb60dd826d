"""The parts of the continuous U-Net, each against the formula that it stands for."""

import pytest
import torch

from cunet.blocks import Acceleration, Attention, InitialVelocity, ODEBlock, TimeEmbedding
from cunet.errors import InputError


def state(channels=4, side=8, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, side, side, generator=generator) for _ in range(2)]


def test_time_embedding_tells_all_steps_apart():
    torch.manual_seed(0)
    embedded = TimeEmbedding(32, 16)(torch.arange(1000))
    distances = torch.cdist(embedded, embedded) + torch.eye(1000)
    assert embedded.shape == (1000, 16)
    assert distances.min() > 1e-4


def test_initial_velocity_ignores_brightness_but_not_content():
    torch.manual_seed(0)
    g, (x, other) = InitialVelocity(4), state()
    assert torch.allclose(g(3 * x + 1), g(x), atol=1e-4)
    assert not torch.allclose(g(other), g(x), atol=1e-2)


@pytest.mark.parametrize("what", ["position", "velocity", "diffusion step", "own time"])
def test_acceleration_depends_on(what):
    torch.manual_seed(0)
    f = Acceleration(4, 8, 16)
    torch.nn.init.normal_(f.scale_shift_s)
    x, v = state()
    embedding = torch.randn(2, 16)
    before = f(0.25, x, v, f.modulation(embedding))
    after = {
        "position": lambda: f(0.25, 2 * x, v, f.modulation(embedding)),
        "velocity": lambda: f(0.25, x, 2 * v, f.modulation(embedding)),
        "diffusion step": lambda: f(0.25, x, v, f.modulation(-embedding)),
        "own time": lambda: f(0.75, x, v, f.modulation(embedding)),
    }[what]()
    assert (after - before).abs().max() > 1e-3


def test_residual_is_a_linear_force():
    """f with the residual minus f without it is W [x, v]: additive and homogeneous."""
    torch.manual_seed(0)
    f = Acceleration(4, 8, 16)
    x, v = state()
    m = f.modulation(torch.randn(2, 16))
    residual = f.residual
    with_residual = f(0.0, x, v, m)
    f.residual = None
    difference = with_residual - f(0.0, x, v, m)
    assert torch.allclose(difference, residual(torch.cat((x, v), 1)), atol=1e-6)
    assert residual.bias is None


@pytest.mark.parametrize(
    ("steps", "solver", "evaluations"), [(2, "leapfrog", 2), (3, "leapfrog", 3), (1, "rk4", 4)]
)
def test_block_counts_its_evaluations(steps, solver, evaluations):
    f = Acceleration(4, 4, 16)
    calls = []
    f.register_forward_hook(lambda *_: calls.append(1))
    block = ODEBlock(f, steps, solver)
    assert block.evaluations == evaluations
    block(*state(), torch.randn(2, 16))
    assert len(calls) == block.evaluations == evaluations


def test_block_without_force_moves_uniformly():
    """x'' = 0: x(1) = x(0) + v(0), v(1) = v(0). Holds only where dx/ds is v and nothing else."""
    f = Acceleration(4, 4, 16, residual=False)
    torch.nn.init.zeros_(f.conv2.weight), torch.nn.init.zeros_(f.conv2.bias)
    x, v = state()
    x1, v1 = ODEBlock(f, 2, "leapfrog")(x, v, torch.randn(2, 16))
    assert torch.allclose(x1, x + v, atol=1e-6) and torch.equal(v1, v)


def test_checkpointed_gradient_equals_direct():
    torch.manual_seed(0)
    f, (x, v), embedding = Acceleration(4, 8, 16), state(), torch.randn(2, 16)
    gradients = []
    for gradient in ("direct", "checkpoint"):
        f.zero_grad()
        x1, v1 = ODEBlock(f, 3, "leapfrog", gradient)(x, v, embedding)
        (x1.square().sum() + v1.sum()).backward()
        gradients.append([p.grad.clone() for p in f.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_attention_mixes_all_pixels_and_adds_to_its_input():
    torch.manual_seed(0)
    attention, (x, _) = Attention(8), state(8, 4)
    changed = x.clone()
    changed[:, :, 0, 0] += 3
    assert (attention(changed) - attention(x))[:, :, 3, 3].abs().max() > 1e-5
    torch.nn.init.zeros_(attention.out.weight), torch.nn.init.zeros_(attention.out.bias)
    assert torch.equal(attention(x), x)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="divisor of 6"):
        Attention(6)
    with pytest.raises(InputError, match="leapfrog"):
        ODEBlock(Acceleration(4, 4, 16), 2, "leapfrg")
    with pytest.raises(InputError, match="from 1 up"):
        ODEBlock(Acceleration(4, 4, 16), 0, "leapfrog")
