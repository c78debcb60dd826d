"""Norms of Jacobians: against singular values that are known, or found from the whole matrix."""

import pytest
import torch

from cunet import lipschitz, models
from cunet.diffusion import Diffusion
from cunet.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_of_a_linear_map_the_norm_is_its_largest_singular_value_image_by_image():
    parts = torch.linalg.svd(
        torch.randn(30, 20, dtype=torch.float64, generator=generator()), full_matrices=False
    )
    matrix = parts.U * torch.tensor([3.0, *[1.0] * 19], dtype=torch.float64) @ parts.Vh
    scale = torch.tensor([[1.0], [0.5], [10.0]], dtype=torch.float64)
    x = torch.zeros(3, 20, dtype=torch.float64)
    found = lipschitz.jacobian_norms(lambda z: scale * (z @ matrix.T), x, iterations=20)
    torch.testing.assert_close(found.largest, 3 * scale[:, 0], rtol=1e-10, atol=0)
    assert (found.random < found.largest).all() and (found.random > 0.9 * scale[:, 0]).all()


def test_a_convolution_has_the_norm_of_its_matrix():
    conv = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    x = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(conv, x).reshape(3 * 36, 2 * 36)
    found = lipschitz.jacobian_norms(conv, x, iterations=400).largest
    assert found.item() == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-6)


def test_it_rises_with_the_iterations_and_never_passes_the_norm():
    values = torch.linspace(0.1, 2.0, 50, dtype=torch.float64)
    x = torch.zeros(1, 50, dtype=torch.float64)
    found = [lipschitz.jacobian_norms(lambda z: z * values, x, n).largest.item() for n in (1, 2, 4, 8, 300)]
    assert found == sorted(found) and found[-1] <= 2.0 + 1e-12 and found[-1] == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("name", ["unet", "cunet", "cunet-firstorder", "cunet-released"])
def test_blocks_have_the_norms_of_their_whole_jacobians(name):
    network = models.build(name, "smoke", 1).double().eval()
    images = torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=generator())
    seen = lipschitz.record(network, images, 300)
    assert len(seen) == len({one.name for one in seen}) >= 9
    small = min(seen, key=lambda one: lipschitz.of_maps(one)[1].shape[1])
    function, row = lipschitz.of_maps(small)
    matrix = torch.autograd.functional.jacobian(function, row)[0, :, 0]
    found = lipschitz.jacobian_norms(function, row, iterations=80).largest.item()
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    assert 0.97 * norm < found <= norm * (1 + 1e-9)  # how fast it rises is a matter of the next value


def test_a_table_has_a_row_a_block_and_image_in_the_order_of_the_calls():
    network, images = (
        models.build("unet", "smoke", 1).eval(),
        torch.randn(2, 1, 16, 16, generator=generator()),
    )
    frame = lipschitz.block_norms(network, images, 300, iterations=2)
    assert len(frame) == 2 * frame.block.nunique() and set(frame.kind) == {"ResNet block"}
    assert frame.depth.is_monotonic_increasing and frame.depth.iloc[[0, -1]].tolist() == [0, 1]
    assert (frame.largest > 0).all()


def test_a_whole_network_is_measured_with_its_attention():
    network, images = (
        models.build("cunet", "smoke", 1).eval(),
        torch.randn(2, 1, 16, 16, generator=generator()),
    )
    found = lipschitz.network_norms(network, Diffusion(), images, 300, iterations=3)
    assert found.largest.shape == (2,) and (found.largest >= 0.99 * found.random).all()


def test_an_iteration_holds_nothing_of_the_one_before(monkeypatch):
    """A network's parameters want gradients: what led to a direction would be held, a network a call."""
    conv, x = torch.nn.Conv2d(1, 1, 3, padding=1), torch.ones(1, 1, 4, 4)
    directions, jvp = [], lipschitz.jvp
    monkeypatch.setattr(
        lipschitz, "jvp", lambda function, at, u: directions.append(u[0].grad_fn) or jvp(function, at, u)
    )
    lipschitz.jacobian_norms(conv, x, iterations=3)
    assert directions == 4 * [None]


def test_what_cannot_be_measured_is_refused():
    x = torch.ones(1, 3)
    with pytest.raises(InputError, match="iterations=0"):
        lipschitz.jacobian_norms(lambda z: z, x, 0)
    with pytest.raises(InputError, match="not finite"):
        lipschitz.jacobian_norms(lambda z: z / 0, x)
    with pytest.raises(InputError, match="no block"):
        lipschitz.record(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4), 0)
