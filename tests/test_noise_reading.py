"""Reading the noise level: exact for a denoiser that is exact, and nothing lost where nothing is told."""

import pytest
import torch
from torch import nn

from cunet import models, noise_reading
from cunet.ablations import Held
from cunet.denoising import noise_std
from cunet.diffusion import Diffusion
from cunet.errors import InputError

DIFFUSION = Diffusion()


class Gaussian(nn.Module):
    """The best denoiser of data from N(0, I): x_0 = sqrt(abar_t) x."""

    def forward(self, x, t):
        return DIFFUSION.to_output(DIFFUSION.alphas_cumprod[t].sqrt().to(x)[:, None, None, None] * x, x, t)


def normal(seed, n):
    return torch.randn(n, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_the_ladder_rises_by_equal_factors():
    ladder = noise_reading.ladder(DIFFUSION, 12)
    noise = torch.tensor([noise_std(DIFFUSION, t + 1) for t in ladder]).log()
    assert ladder == sorted(set(ladder)) and len(ladder) == 12
    assert (noise.diff() - noise.diff().mean()).abs().max() < 0.05
    with pytest.raises(InputError, match="3 steps or more"):
        noise_reading.ladder(DIFFUSION, 2)


def test_with_the_exact_denoiser_the_level_is_read_to_the_accuracy_of_a_variance():
    true, told = [300, 500, 800], noise_reading.ladder(DIFFUSION, 12)
    frame = noise_reading.read(Gaussian(), DIFFUSION, normal(1, 8), normal(2, 6), true, told)
    assert len(frame) == 18 and frame.true.tolist() == sorted(true * 6)
    # 4096 pixels give a variance of 1 + s^2 to 2.2 %, which is (1 + s^2) / s^2 times as much of s^2
    for t, rows in frame.groupby("true"):
        s2 = noise_std(DIFFUSION, t + 1) ** 2
        assert noise_reading.error(rows) < 0.05 + 3 * 0.0221 * (1 + s2) / s2 / 2 / 0.693


def test_a_network_that_is_blind_to_the_step_loses_nothing_when_it_is_held():
    network = models.build("cunet-released", "smoke", 1).eval()
    images, told = normal(0, 3)[..., :16, :16].clamp(-1, 1), noise_reading.ladder(DIFFUSION, 4)
    frames = [
        noise_reading.read(reader, DIFFUSION, images, images, [100, 500], told)
        for reader in (network, Held(network, 300))
    ]
    assert frames[0].equals(frames[1])


def test_a_crossing_is_interpolated_and_the_one_next_to_the_smallest_gap_counts():
    at = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    gap = torch.tensor(
        [[3.0, 1.0, -1.0, -3.0], [2.0, -2.0, 0.1, -0.1], [4.0, 3.0, 2.0, 1.0]], dtype=torch.float64
    )
    assert noise_reading.crossing(gap, at).tolist() == pytest.approx([1.5, 2.5, 3.0])
