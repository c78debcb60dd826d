"""Denoising by the reverse process: against closed forms, and against a walk written out by hand."""

import pytest
import torch
from torch import nn

from cunet import denoising, metrics, storage
from cunet.denoising import LEVELS, denoise, level_for, noise_std
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.sampling import NoiseStreams, ancestral_step
from cunet.trajectories import VARIANTS, Plan


def images(n=3, side=16, channels=1, seed=0):
    return (
        torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))
        .mul(0.4)
        .clamp(-1, 1)
    )


def shrink(x, t):
    """Some network, of v: its opinion depends on image and step."""
    return 0.2 * x - t.view(-1, 1, 1, 1) / 400


class Gaussian:
    """The best possible network for pixels from N(0, std^2)."""

    def __init__(self, diffusion, std=0.4):
        self.diffusion, self.std = diffusion, std

    def gain(self, t):
        abar = self.diffusion.alphas_cumprod[t]
        return abar.sqrt() * self.std**2 / (abar * self.std**2 + 1 - abar)

    def __call__(self, x, t):
        return self.diffusion.to_output((self.gain(t).view(-1, 1, 1, 1) * x).to(x), x, t)


def test_every_step_of_the_posterior_mean_is_scored_as_by_hand():
    diffusion, x0 = Diffusion("sigmoid", 60), images()
    result = denoise(shrink, x0, diffusion, [12], metrics=["psnr", "ssim"], seed=3)["mean", 12]
    x = diffusion.add_noise(x0, NoiseStreams(3, [12, 61 + 12, 122 + 12], x0.shape[1:])(), 11)
    scores = [metrics.psnr(x.clamp(-1, 1), x0)]
    for t in range(11, -1, -1):
        clean = diffusion.to_x0(shrink(x, torch.full((3,), t)), x, t).clamp(-1, 1)
        x = ancestral_step(diffusion, diffusion.noise_between(clean, x, t), x, t)
        scores.append(metrics.psnr(x.clamp(-1, 1), x0))
    assert result.steps.tolist() == list(range(13))
    torch.testing.assert_close(result.scores["psnr"], torch.stack(scores, 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        result.scores["ssim"][:, -1], metrics.ssim(x.clamp(-1, 1), x0), atol=1e-4, rtol=0
    )


def test_perfect_knowledge_ends_at_the_clean_image_and_peaks_there():
    diffusion, x0 = Diffusion("cosine", 50), images(2)
    know = lambda x, t: diffusion.to_output(x0.repeat(len(x) // 2, 1, 1, 1), x, t)  # noqa: E731
    result = denoise(know, x0, diffusion, [40, 15], ["mean", "ancestral", "clean"], frames=[0, 1])
    for variant in ("mean", "ancestral"):
        for level in (40, 15):
            trajectory = result[variant, level]
            torch.testing.assert_close(trajectory.frames[:, 1], x0, atol=1e-5, rtol=0)
            for metric, perfect in (("ssim", 1.0), ("lpips", 0.0)):
                best, step = trajectory.best(metric)
                assert (best - perfect).abs().max() < 1e-3 and (step >= level - 1).all(), (
                    variant,
                    metric,
                    step,
                )
    assert (result["mean", 40].scores["psnr"].diff(dim=1) > 0).all()
    assert (result["clean", 40].best("ssim")[1] == 1).all(), "the first prediction is already perfect"


def test_first_prediction_of_the_best_network_has_the_error_of_the_posterior():
    diffusion = Diffusion("cosine", 100)
    x0, oracle = images(4, side=64), Gaussian(diffusion)
    result = denoise(oracle, x0, diffusion, [30, 60], ["clean"], metrics=["psnr"])
    for level in (30, 60):
        abar = diffusion.alphas_cumprod[level - 1]
        variance = 0.16 * (1 - abar) / (abar * 0.16 + 1 - abar)
        expected = -10 * torch.log10(variance / 4)  # pixels in [0, 1] have half the deviation
        assert abs(result["clean", level].mean("psnr")[1] - expected) < 0.15


def test_fresh_noise_keeps_the_spread_of_the_data_and_the_posterior_mean_loses_it():
    diffusion = Diffusion("cosine", 200)
    x0 = images(4, side=32)
    result = denoise(
        Gaussian(diffusion),
        x0,
        diffusion,
        [150],
        ["mean", "ancestral"],
        metrics=["psnr"],
        frames=[1],
        stride=2,
    )
    spread = {v: float(result[v, 150].frames.std()) / 0.4 for v in ("mean", "ancestral")}
    assert 0.9 < spread["ancestral"] < 1.05 and spread["mean"] < 0.5
    assert result["mean", 150].mean("psnr")[-1] > result["ancestral", 150].mean("psnr")[-1] + 1


def test_scores_do_not_depend_on_batches_or_on_what_else_is_asked():
    diffusion, x0 = Diffusion("sigmoid", 60), images(5)
    ask = lambda levels, variants, **more: denoise(  # noqa: E731
        shrink, x0, diffusion, levels, variants, metrics=["psnr"], **more
    )
    all_at_once = ask([6, 20, 13], list(VARIANTS), batch_size=64)
    for variant in VARIANTS:
        for level in (6, 20, 13):
            alone = ask([level], [variant], batch_size=2)[variant, level]
            torch.testing.assert_close(
                alone.scores["psnr"], all_at_once[variant, level].scores["psnr"], atol=1e-5, rtol=0
            )
    assert (
        all_at_once["mean", 20].scores["psnr"] != ask([20], ["mean"], seed=1)["mean", 20].scores["psnr"]
    ).any()


def test_network_calls_are_images_times_levels_and_the_stride_divides_them():
    seen = []

    def counting(x, t):
        assert (t == t[0]).all()
        seen.append((int(t[0]), len(x)))
        return x

    for stride, calls in ((1, 20 + 7), (5, 4 + 2), (50, 2)):
        seen.clear()
        denoise(counting, images(3), Diffusion(timesteps=40), [20, 7], metrics=["psnr"], stride=stride)
        assert sum(n for _, n in seen) == 3 * calls
    seen.clear()
    denoise(counting, images(5), Diffusion(timesteps=40), [4, 2], metrics=["psnr"], batch_size=4)
    assert max(n for _, n in seen) == 4, "batch_size bounds the batch, whatever the levels"


def test_plan_joins_levels_on_the_common_grid():
    plan = Plan((20, 7), stride=5, every=2, frames=(0, 0.5, 1))
    assert plan.chains == {20: [19, 14, 9, 4], 7: [6, 4]} and plan.calls == 6
    assert [(t, plan.active(t), plan.previous(t)) for t in plan.timesteps] == [
        (19, [20], 14), (14, [20], 9), (9, [20], 4), (6, [7], 4), (4, [20, 7], -1)
    ]  # fmt: skip
    assert plan.steps == {20: [0, 10, 20], 7: [0, 7]} and plan.frame_steps == {20: [0, 10, 20], 7: [0, 0, 7]}


def test_stride_of_one_is_the_whole_chain_and_longer_ones_end_at_the_same_place():
    diffusion, x0 = Diffusion("cosine", 100), images(2)
    ends = {}
    for stride in (1, 2, 10):
        result = denoise(Gaussian(diffusion), x0, diffusion, [40], ["clean"], metrics=["psnr"], stride=stride)
        ends[stride] = result["clean", 40]
        assert len(ends[stride].steps) == 40 / stride + 1
    torch.testing.assert_close(ends[1].scores["psnr"][:, 1], ends[10].scores["psnr"][:, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(ends[1].mean("psnr")[-1], ends[2].mean("psnr")[-1], atol=0.3, rtol=0)


def test_noise_levels_and_steps_map_to_each_other():
    for schedule in ("linear", "cosine", "sigmoid"):
        diffusion = Diffusion(schedule)
        for level in (1, *LEVELS, 999, 1000):
            assert level_for(diffusion, noise_std(diffusion, level)) == level
    diffusion, x0, noise = Diffusion(), images(), images(seed=1)
    scaled = diffusion.add_noise(x0, noise, 299) / diffusion.alphas_cumprod[299].sqrt()
    torch.testing.assert_close(scaled.float(), x0 + noise_std(diffusion, 300) * noise)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.calls, self.fail_after = nn.Parameter(torch.tensor(0.2)), 0, None

    def forward(self, x, t):
        self.calls += 1
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        return x * self.weight


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    arguments = dict(
        images=images(6), diffusion=Diffusion(timesteps=20), levels=[8], metrics=["psnr"], batch_size=2
    )
    whole, net = denoise(Net(), **arguments), Net()
    net.fail_after = 1 + 2 * 8 + 4  # in the third group, after one call to know the network
    with pytest.raises(KeyboardInterrupt):
        denoise(net, **arguments, resume=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    net.calls, net.fail_after = 0, None
    resumed = denoise(net, **arguments, resume=tmp_path)
    assert net.calls == 1 + 8, "only the third group"
    assert torch.equal(resumed["mean", 8].scores["psnr"], whole["mean", 8].scores["psnr"])
    denoise(net, **arguments, resume=tmp_path)
    assert net.calls == 1 + 8 + 1, "nothing left to do"
    with monkeypatch.context() as patch:
        patch.setattr(denoising, "denoising_code", lambda: "other")
        denoise(net, **arguments, resume=tmp_path)
        assert net.calls == 1 + 8 + 1 + 1 + 3 * 8, "other code is another run"
    with torch.no_grad():
        net.weight += 0.1
    assert not torch.equal(
        denoise(net, **arguments, resume=tmp_path)["mean", 8].scores["psnr"],
        resumed["mean", 8].scores["psnr"],
    ), "other weights are another run"


def test_a_disk_that_fills_up_leaves_nothing_of_a_group(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    arguments = dict(images=images(2), diffusion=Diffusion(timesteps=20), levels=[8], metrics=["psnr"])
    with pytest.raises(InputError, match="No space left.*Make room on the disk"):
        denoise(Net(), **arguments, resume=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"levels": [0]}, "level=0"),
        ({"levels": [101]}, "level=101: the diffusion has 100 steps"),
        ({"levels": []}, "at least one noise level"),
        ({"variants": ["median"]}, "Unknown variant 'median'"),
        ({"metrics": ["ssmi"]}, "Unknown metric 'ssmi'.*Did you mean 'ssim'"),
        ({"stride": 0}, "stride=0"),
        ({"every": -1}, "every=-1"),
        ({"frames": [1.5]}, r"frames=\(1.5,\)"),
        ({"images": 2 * torch.ones(1, 1, 16, 16)}, r"in \[-1, 1\]"),
        ({"images": torch.ones(1, 16, 16)}, "shape"),
        ({"images": torch.full((1, 1, 16, 16), float("nan"))}, "cannot be denoised"),
    ],
)
def test_impossible_arguments_are_named(arguments, says):
    arguments = {"images": images(1), "levels": [3], **arguments}
    with pytest.raises(InputError, match=says):
        denoise(shrink, diffusion=Diffusion(timesteps=100), **arguments)


@pytest.mark.parametrize("std", [0.0, -1.0, 1e6, float("nan")])
def test_impossible_noise_levels_are_named(std):
    with pytest.raises(InputError, match="noise level"):
        level_for(Diffusion(), std)
