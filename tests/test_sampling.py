"""The reverse process: equation 2 against diffusers, every sampler against a flow that is known exactly."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import nn

from cunet.diffusion import PREDICTION_TYPES, SCHEDULES, Diffusion
from cunet.errors import InputError
from cunet.sampling import (
    SAMPLERS,
    SPACINGS,
    NoiseStreams,
    ancestral_step,
    evaluating,
    placed,
    posterior_std,
    sample,
    walk,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers

SHAPE = (1, 8, 8)
STEPS = [1, 2, 3, 5, 30, 100]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Gaussian:
    """The best possible network for pixels from N(mean, std^2): E[x_0 | x_t] in closed form."""

    def __init__(self, diffusion, mean=0.1, std=0.2):
        self.diffusion, self.mean, self.std, self.asked = diffusion, mean, std, []

    def __call__(self, x, t):
        self.asked.append(int(t[0]))
        abar = self.diffusion.alphas_cumprod[t].view(-1, 1, 1, 1)
        gain = abar.sqrt() * self.std**2 / (abar * self.std**2 + 1 - abar)
        return self.diffusion.to_output(
            self.mean + gain * (x.double() - abar.sqrt() * self.mean), x.double(), t
        )

    def flow(self, x):
        """Where the probability-flow ODE takes x from t = T - 1 to no noise: quantiles stay quantiles."""
        abar = self.diffusion.alphas_cumprod[-1]
        std = (abar * self.std**2 + 1 - abar).sqrt()
        return self.mean + self.std * (x.double() - abar.sqrt() * self.mean) / std

    def ancestral_std(self, timesteps):
        """The standard deviation that equation 2 gives down `timesteps`: the step is affine in x and z."""
        variance = torch.ones((), dtype=torch.float64)
        for t, before in zip(timesteps, [*timesteps[1:], -1], strict=True):
            x = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
            eps = self.diffusion.to_epsilon(self(x, torch.tensor([t, t])), x, t)
            low, high = ancestral_step(self.diffusion, eps, x, t, previous=before).flatten()
            abar = self.diffusion.alphas_cumprod
            noise = posterior_std(abar[t], abar[before]) if before >= 0 else 0
            variance = (high - low) ** 2 * variance + noise**2
        return float(variance.sqrt())


def reference(scheduler, diffusion, model, x, steps):
    """A scheduler of diffusers used as its own documentation does, with the network's prediction type."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, torch.full((len(x),), int(t))).float(), t, x).prev_sample
    return x


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_equation_2_is_the_step_of_diffusers(schedule, kind, clip):
    diffusion = Diffusion(schedule, prediction_type=kind)
    theirs = DDPMScheduler(
        **diffusion.scheduler_config(), variance_type="fixed_small", clip_sample=clip, clip_sample_range=1.0
    )
    theirs.alphas_cumprod = (
        diffusion.alphas_cumprod
    )  # theirs are float32: 1 - abar of the first steps loses digits
    x0 = normal(2, *SHAPE, seed=1, dtype=torch.float64).clamp(-1, 1)
    for t in (999, 998, 900, 500, 100, 10, 1, 0):
        x = diffusion.add_noise(x0, normal(2, *SHAPE, dtype=torch.float64), t)
        out = diffusion.target(x0 + 0.3 * normal(2, *SHAPE, seed=2), (x - x0) * 0.5, t)
        clean = diffusion.to_x0(out, x, t)
        epsilon = (
            diffusion.noise_between(clean.clamp(-1, 1), x, t) if clip else diffusion.to_epsilon(out, x, t)
        )
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        ours = ancestral_step(diffusion, epsilon, x, t, noise)
        step = theirs.step(out, t, x, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(ours, step.prev_sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_equation_2_is_the_step_of_an_untouched_scheduler_but_for_its_float32_coefficients(schedule):
    diffusion = Diffusion(schedule)
    theirs = DDPMScheduler(**diffusion.scheduler_config(), clip_sample=False)
    for t, tolerance in (
        (999, 1e-5),
        (998, 1e-5),
        (500, 1e-5),
        (100, 1e-5),
        (50, 1e-5),
        (5, 3e-4),
        (1, 3e-4),
    ):
        x, out, noise = normal(2, *SHAPE), normal(2, *SHAPE, seed=1), normal(2, *SHAPE, seed=3)
        ours = ancestral_step(diffusion, diffusion.to_epsilon(out, x, t), x, t, noise)
        step = theirs.step(out, t, x, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(ours, step.prev_sample, atol=tolerance, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_with_fewer_steps_is_the_respaced_chain_of_diffusers(schedule):
    diffusion = Diffusion(schedule, prediction_type="epsilon")
    model = Gaussian(diffusion)
    theirs = DDPMScheduler(**diffusion.scheduler_config(), clip_sample=False, timestep_spacing="trailing")
    theirs.alphas_cumprod = diffusion.alphas_cumprod
    theirs.set_timesteps(20)
    x = start = normal(2, *SHAPE, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for t in theirs.timesteps:
        x = theirs.step(model(x, t.expand(2)), int(t), x, generator=generator).prev_sample
    again = torch.Generator().manual_seed(1)
    noise = lambda: torch.randn(2, *SHAPE, generator=again, dtype=torch.float64)  # noqa: E731
    *_, ours = walk(model, start, diffusion, theirs.timesteps.tolist(), "ddpm", noise, clip=False)
    torch.testing.assert_close(ours.x, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    "name, scheduler, options",
    [
        ("ddim", DDIMScheduler, {"clip_sample": False}),
        ("dpmsolver++", DPMSolverMultistepScheduler, {}),
        ("unipc", UniPCMultistepScheduler, {}),
    ],
)
def test_samplers_are_the_schedulers_of_diffusers(name, scheduler, options, kind):
    diffusion = Diffusion("linear", prediction_type=kind)
    model = Gaussian(diffusion)
    theirs = scheduler(**diffusion.scheduler_config(), timestep_spacing="trailing", **options)
    noise = NoiseStreams(0, range(4), SHAPE)
    ours = sample(model, 4, diffusion, name, 20, shape=SHAPE, clip=False)
    expected = reference(theirs, diffusion, model, noise(), 20).clamp(-1, 1)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_ddim_with_full_noise_is_ddpm():
    diffusion = Diffusion("sigmoid")
    a = sample(Gaussian(diffusion), 4, diffusion, "ddim", 30, shape=SHAPE, eta=1.0, clip=False)
    b = sample(Gaussian(diffusion), 4, diffusion, "ddpm", 30, shape=SHAPE, clip=False)
    torch.testing.assert_close(a, b, atol=2e-4, rtol=0)
    c = sample(Gaussian(diffusion), 4, diffusion, "ddim", 30, shape=SHAPE, clip=False)
    assert (a - c).abs().max() > 0.1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_thousand_steps_of_equation_2_give_the_distribution_of_the_data(schedule):
    diffusion = Diffusion(schedule)
    oracle = Gaussian(diffusion)
    x = sample(oracle, 6, diffusion, "ddpm", 1000, shape=(1, 48, 48), clip=False)
    assert abs(x.mean() - oracle.mean) < 0.01
    assert abs(x.std() / oracle.ancestral_std(SPACINGS["trailing"](diffusion, 1000)) - 1) < 0.02
    assert abs(x.std() / oracle.std - 1) < 0.05


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS[n].stochastic])
def test_deterministic_samplers_follow_the_probability_flow(name, schedule):
    diffusion = Diffusion(schedule)
    oracle = Gaussian(diffusion)
    x = sample(oracle, 16, diffusion, name, 150, shape=SHAPE, clip=False)
    exact = oracle.flow(NoiseStreams(0, range(16), SHAPE)()).float()
    torch.testing.assert_close(x, exact, atol=0.045, rtol=0)
    assert abs(x.std() / exact.std() - 1) < 0.06 and abs(x.mean() - exact.mean()) < 2e-3


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpmsolver++", 2), ("unipc", 2), ("heun", 2)])
def test_error_falls_with_the_order_of_the_sampler(name, order):
    diffusion = Diffusion("cosine")
    oracle = Gaussian(diffusion)
    exact = oracle.flow(NoiseStreams(0, range(16), SHAPE)())
    coarse, fine = (
        (sample(oracle, 16, diffusion, name, steps, shape=SHAPE, clip=False) - exact).abs().max()
        for steps in (20, 40)
    )
    measured = float(torch.log2(coarse / fine))
    assert (measured > order - 0.3) and (order == 2 or measured < 1.5), f"{measured:.2f}"


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", STEPS)
def test_every_sampler_takes_one_to_all_steps_and_asks_as_often_as_it_says(name, steps):
    diffusion = Diffusion("cosine", 100)
    oracle = Gaussian(diffusion)
    x = sample(oracle, 1, diffusion, name, steps, shape=(1, 2, 2))
    assert x.isfinite().all() and len(oracle.asked) == SAMPLERS[name].calls(steps)
    assert len(set(oracle.asked)) == steps and sorted(oracle.asked, reverse=True) == oracle.asked
    if SAMPLERS[name].spacing == "trailing":
        assert oracle.asked[0] == 99


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_few_long_steps_survive_schedules_that_end_at_almost_no_signal(name, schedule):
    diffusion = Diffusion(schedule)
    for steps in (1, 2, 5):
        assert sample(Gaussian(diffusion), 1, diffusion, name, steps, shape=(1, 2, 2)).isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_perfect_knowledge_of_the_image_recovers_it_from_any_noise(name):
    diffusion = Diffusion("sigmoid", prediction_type="epsilon")
    x0 = normal(3, *SHAPE).clamp(-1, 1)
    know = lambda x, t: diffusion.to_output(x0.to(x), x, t)  # noqa: E731
    x = sample(know, 3, diffusion, name, 12, shape=SHAPE)
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=0)


def test_few_steps_suffice_from_true_noise_but_not_from_signal_taken_for_it():
    diffusion = Diffusion("cosine")
    oracle = Gaussian(diffusion, mean=0.6, std=0.5)
    x = NoiseStreams(0, range(64), SHAPE)()
    trailing, leading = [999, 799, 599, 399, 199], [800, 600, 400, 200, 0]
    error = [
        abs(float([*walk(oracle, x, diffusion, ts, "ddim", clip=False)][-1].x.mean()) - 0.6)
        for ts in (trailing, leading)
    ]
    assert SPACINGS["trailing"](diffusion, 5) == trailing and error[0] < 0.01 < 0.05 < error[1]


def test_karras_spacing_is_even_in_the_root_of_sigma():
    diffusion = Diffusion("cosine")
    ts = SPACINGS["karras"](diffusion, 18)
    sigma = (1 / diffusion.alphas_cumprod[ts] - 1).sqrt()
    assert 60 < sigma[0] <= 80 and ts[-1] == 0
    gaps = sigma[:8].pow(1 / 7).diff()
    assert gaps.std() < 0.1 * gaps.abs().mean()
    for steps in (1, 2, 900, 1000):
        assert len(set(SPACINGS["karras"](diffusion, steps))) == steps


def pointwise(x, t):
    """A network without sums over pixels, so that rounding cannot depend on the batch."""
    return x * 0.3 + 0.1 * x * x.abs().clamp(max=1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_depends_on_seed_and_number_alone_to_the_bit(name):
    diffusion = Diffusion("cosine", 100)
    make = lambda n, **more: sample(pointwise, n, diffusion, name, 7, shape=(3, 5, 7), **more)  # noqa: E731
    whole = make(7, batch_size=7)
    for batch_size in (1, 2, 3, 64):
        assert torch.equal(make(7, batch_size=batch_size), whole)
    assert torch.equal(make(3), whole[:3]) and torch.equal(make(4, first=3), whole[3:])
    assert not torch.equal(make(7, seed=1), whole)
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 7


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_with_a_convolutional_network_batches_agree_up_to_its_rounding(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1))
    model = lambda x, t: net(x)  # noqa: E731
    diffusion = Diffusion("cosine")
    a, b = (sample(model, 6, diffusion, name, 50, shape=SHAPE, batch_size=size) for size in (6, 4))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    again = sample(model, 6, diffusion, name, 50, shape=SHAPE, batch_size=6)
    assert torch.equal(again, a)


def test_noise_streams_are_standard_normal_and_unrelated():
    streams = NoiseStreams(5, range(40), (3, 16, 16))
    x = torch.stack([streams(), streams()]).flatten(2)  # draw, image, pixel
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    together = torch.cat([x[0], x[1], NoiseStreams(6, range(40), (3, 16, 16))().flatten(1)])
    correlation = torch.corrcoef(together) - torch.eye(120)
    assert correlation.abs().max() < 0.19, "5 standard errors of 768 pixels"


def test_a_module_is_asked_in_eval_mode_and_put_back():
    class Net(nn.Module):
        channels, image_size, modes = 1, 8, []

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x, t):
            self.modes.append((self.training, torch.is_grad_enabled(), t.dtype, tuple(t.shape)))
            return x * self.scale

    net = Net().train()
    x = sample(net, 3, Diffusion(), steps=2)
    assert net.training and x.shape == (3, 1, 8, 8) and x.dtype == torch.float32
    assert set(net.modes) == {(False, False, torch.int64, (3,))} and not x.requires_grad
    assert x.abs().max() <= 1


def test_clipping_keeps_predicted_images_in_range_and_can_be_left_out():
    diffusion = Diffusion("cosine", prediction_type="sample")
    wild = lambda x, t: torch.full_like(x, 3.0)  # noqa: E731
    x = normal(1, *SHAPE)
    for clip, top in ((True, 1.0), (False, 3.0)):
        assert all(step.x0.max() == top for step in walk(wild, x, diffusion, [900, 500, 100], clip=clip))
    assert sample(wild, 1, diffusion, shape=SHAPE, steps=3, clip=False).max() == 1


@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16])
def test_the_networks_dtype_does_not_leak(width):
    x = sample(lambda x, t: x.to(width), 1, Diffusion(), steps=3, shape=SHAPE)
    assert x.dtype == torch.float32


def test_progress_shows_rate_and_time_left(capsys):
    sample(pointwise, 5, Diffusion(), "ddim", 4, shape=SHAPE, batch_size=2, progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown and "step/s" in shown and "5 images, ddim" in shown
    sample(pointwise, 5, Diffusion(), "ddim", 4, shape=SHAPE)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": -3}, "steps=-3"),
        ({"steps": 101}, "steps=101: the diffusion has 100 steps"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"n": 0}, "n=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"sampler": "dimm"}, "Unknown sampler 'dimm'.*Did you mean 'ddim'"),
        ({"eta": 0.5, "sampler": "heun"}, "eta=0.5"),
        ({"eta": 2}, "eta=2"),
        ({"shape": (8, 8)}, r"shape=\(8, 8\)"),
        ({"shape": None}, "image size"),
    ],
)
def test_impossible_arguments_are_named(arguments, says):
    arguments = {"n": 1, "steps": 2, "shape": SHAPE, **arguments}
    with pytest.raises(InputError, match=says):
        sample(pointwise, diffusion=Diffusion(timesteps=100), **arguments)


def test_damaged_networks_and_impossible_walks_are_named():
    with pytest.raises(InputError, match="not finite"):
        sample(lambda x, t: x * float("nan"), 1, Diffusion(), steps=2, shape=SHAPE)
    with pytest.raises(InputError, match="equal shapes"):
        sample(lambda x, t: x[:, :, :4], 1, Diffusion(), steps=2, shape=SHAPE)
    x = normal(1, *SHAPE)
    with pytest.raises(InputError, match="goes down"):
        list(walk(pointwise, x, Diffusion(), [5, 5]))
    with pytest.raises(InputError, match="needs noise"):
        list(walk(pointwise, x, Diffusion(), [5, 3], "dpmsolver++sde"))
    for t, previous in ((5, 5), (5, -2), (0, 0)):
        with pytest.raises(InputError, match="Cannot step"):
            ancestral_step(Diffusion(), x, x, t, previous=previous)
    with pytest.raises(InputError, match="timestep reaches"):
        ancestral_step(Diffusion(), x, x, 1000)


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_an_answer_that_is_not_finite_is_refused_at_the_call_that_gave_it(wrong):
    """Also an infinite one, which a clip to [-1, 1] would hide."""
    calls = []

    def network(x, t):
        calls.append(t)
        return torch.full_like(x, wrong if len(calls) == 2 else 0.0)

    with pytest.raises(InputError, match="not finite"):
        sample(network, 4, Diffusion(), steps=5, batch_size=2, shape=(1, 2, 2))
    assert len(calls) == 2


def test_networks_are_moved_for_a_block_and_back_even_after_an_error():
    class Moved(nn.Linear):
        def to(self, device):
            places.append(str(device))

    places, pair = [], [Moved(1, 1), Moved(1, 1)]
    with pytest.raises(KeyError), placed("cuda", *pair):
        assert places == ["cuda", "cuda"]
        raise KeyError
    assert places[2:] == ["cpu", "cpu"]


def test_a_network_is_in_the_mode_it_was_in_also_within_a_wrapper_of_another():
    network = torch.nn.Sequential(torch.nn.Dropout()).eval()
    wrapper = torch.nn.Sequential(network, torch.nn.Dropout())
    with evaluating(wrapper):
        assert not any(part.training for part in wrapper.modules())
    assert wrapper.training and wrapper[1].training and not network.training and not network[0].training
