"""The forward process: its schedules against two other packages, its targets against each other."""

import pytest
import torch
from diffusers import DDPMScheduler

from cunet.diffusion import PREDICTION_TYPES, SCHEDULES, Diffusion
from cunet.errors import InputError

OBJECTIVES = {"epsilon": "pred_noise", "sample": "pred_x0", "v_prediction": "pred_v"}


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def lucidrains():
    return pytest.importorskip("denoising_diffusion_pytorch")


@pytest.fixture(scope="module")
def tiny_unet(lucidrains):
    return lucidrains.Unet(dim=8, dim_mults=(1, 2), channels=1, full_attn=(False, True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_falls_from_nearly_all_to_nearly_none(schedule):
    abar = Diffusion(schedule).alphas_cumprod
    assert abar.dtype == torch.float64 and abar.shape == (1000,)
    assert (abar.diff() < 0).all() and abar[0] > 0.999 and 0 < abar[-1] < 5e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_level_at_a_fraction_of_the_way_hardly_depends_on_the_number_of_steps(schedule):
    coarse, fine = Diffusion(schedule, 100).alphas_cumprod, Diffusion(schedule, 1000).alphas_cumprod
    torch.testing.assert_close(coarse[:-1], fine[9:-1:10], atol=0.01, rtol=0)


def test_linear_schedule_is_that_of_ho_et_al():
    betas = Diffusion("linear").betas
    torch.testing.assert_close(betas[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))
    assert betas.diff().std() < 1e-15


def test_cosine_and_sigmoid_have_their_closed_forms():
    u = torch.arange(1, 1000, dtype=torch.float64) / 1000
    cosine = (
        torch.cos((u + 0.008) / 1.008 * torch.pi / 2) / torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2))
    ) ** 2
    torch.testing.assert_close(Diffusion("cosine").alphas_cumprod[:-1], cosine, atol=1e-7, rtol=0)
    half = Diffusion("sigmoid").alphas_cumprod[499]
    assert abs(half - 0.5) < 1e-12, "a sigmoid between -3 and 3 is symmetric"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [1, 2, 20, 1000])
def test_no_step_forgets_everything(schedule, timesteps):
    diffusion = Diffusion(schedule, timesteps)
    assert (diffusion.betas > 0).all() and (diffusion.betas <= 0.999).all()
    assert diffusion.alphas_cumprod[-1] > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_exact_answer_gives_back_image_and_noise(schedule, kind):
    diffusion = Diffusion(schedule, prediction_type=kind)
    x0, noise = normal(8, 2, 4, 4, dtype=torch.float64), normal(8, 2, 4, 4, seed=1, dtype=torch.float64)
    t = torch.tensor([0, 1, 10, 100, 500, 900, 998, 999])
    x_t, out = diffusion.add_noise(x0, noise, t), diffusion.target(x0, noise, t)
    torch.testing.assert_close(diffusion.to_x0(out, x_t, t), x0, atol=1e-9, rtol=0)
    torch.testing.assert_close(diffusion.to_epsilon(out, x_t, t), noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(diffusion.to_output(x0, x_t, t), out, atol=1e-9, rtol=0)
    torch.testing.assert_close(diffusion.noise_between(x0, x_t, t), noise, atol=1e-9, rtol=0)


def test_noisy_image_keeps_unit_variance_and_the_stated_snr():
    diffusion = Diffusion("sigmoid")
    x0, noise = normal(4, 200_000), normal(4, 200_000, seed=1)
    t = torch.tensor([200, 300, 600, 900])
    x_t = diffusion.add_noise(x0, noise, t)
    torch.testing.assert_close(x_t.var(1), torch.ones(4), atol=0.02, rtol=0)
    correlation = (x_t * x0).mean(1).double() ** 2
    torch.testing.assert_close(correlation / (1 - correlation), diffusion.snr(t), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_agrees_with_the_package_of_the_authors(schedule, kind, lucidrains, tiny_unet):
    ours = Diffusion(schedule, prediction_type=kind)
    theirs = lucidrains.GaussianDiffusion(
        tiny_unet, image_size=8, beta_schedule=schedule, objective=OBJECTIVES[kind], auto_normalize=False
    )
    torch.testing.assert_close(ours.betas.float(), theirs.betas, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=0, atol=1e-6)
    x0, noise, t = (
        normal(6, 1, 8, 8).clamp(-1, 1),
        normal(6, 1, 8, 8, seed=1),
        torch.tensor([0, 5, 250, 500, 750, 999]),
    )
    torch.testing.assert_close(ours.add_noise(x0, noise, t), theirs.q_sample(x0, t, noise), atol=1e-5, rtol=0)
    if kind == "v_prediction":
        torch.testing.assert_close(
            ours.target(x0, noise, t), theirs.predict_v(x0, t, noise), atol=1e-5, rtol=0
        )
    loss = (ours.loss(tiny_unet, x0, t, noise) * theirs.loss_weight[t]).mean()
    torch.testing.assert_close(loss, theirs.p_losses(x0, t, noise=noise), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_agrees_with_diffusers(schedule):
    ours = Diffusion(schedule)
    theirs = DDPMScheduler(**ours.scheduler_config())
    x0, noise, t = normal(5, 1, 8, 8), normal(5, 1, 8, 8, seed=1), torch.tensor([0, 5, 250, 500, 999])
    torch.testing.assert_close(
        ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(
        ours.target(x0, noise, t), theirs.get_velocity(x0, noise, t), atol=2e-5, rtol=0
    )


def test_loss_is_the_mean_square_error_of_each_image():
    diffusion = Diffusion("linear", prediction_type="epsilon")
    x0, noise, t = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1), torch.tensor([0, 500, 999])
    zero, perfect = (lambda x, t: torch.zeros_like(x)), (lambda x, t: noise)
    torch.testing.assert_close(diffusion.loss(zero, x0, t, noise), noise.square().mean((1, 2, 3)))
    assert diffusion.loss(perfect, x0, t, noise).abs().max() == 0
    half = diffusion.loss(lambda x, t: torch.zeros_like(x, dtype=torch.bfloat16), x0, t, noise)
    assert half.dtype == torch.float32 and half.shape == (3,)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_weights_are_those_of_hang_et_al_for_the_quantity_that_is_predicted(schedule, kind):
    diffusion = Diffusion(schedule, prediction_type=kind)
    weights = diffusion.loss_weights("min_snr")
    assert weights.shape == (1000,) and weights.dtype == torch.float64
    for t in (0, 100, 400, 700, 999):
        abar = diffusion.alphas_cumprod[t].item()
        snr = abar / (1 - abar)
        divided = {"epsilon": snr, "sample": 1.0, "v_prediction": snr + 1.0}[kind]
        assert weights[t].item() == pytest.approx(min(snr, 5.0) / divided, rel=1e-9)
    assert torch.equal(diffusion.loss_weights(), torch.ones(1000, dtype=torch.float64))
    with pytest.raises(InputError, match="min_snr"):
        diffusion.loss_weights("min_snt")


def test_weighted_losses_of_one_error_are_the_same_whatever_is_predicted():
    """By hand from the errors: that of the clean image, times min(SNR, 5)."""
    x0, noise, t = normal(5, 1, 4, 4), normal(5, 1, 4, 4, seed=1), torch.tensor([20, 200, 500, 700, 900])
    for kind in PREDICTION_TYPES:
        diffusion = Diffusion("cosine", prediction_type=kind)
        losses = diffusion.loss(lambda x, t, d=diffusion: d.to_output(0.5 * x, x, t), x0, t, noise)
        error = (0.5 * diffusion.add_noise(x0, noise, t) - x0).square().mean((1, 2, 3)).double()
        expected = diffusion.snr(t).clamp(max=5) * error
        torch.testing.assert_close(
            diffusion.loss_weights("min_snr")[t] * losses.double(), expected, rtol=1e-3, atol=1e-5
        )


def test_compiles_to_one_graph():
    torch._dynamo.reset()  # what other tests compiled counts against a limit
    diffusion = Diffusion("sigmoid")
    x0, noise, t = normal(3, 1, 4, 4), normal(3, 1, 4, 4, seed=1), torch.tensor([0, 500, 999])

    def step(x0, t, noise):
        return diffusion.loss(lambda x, t: x / 2, x0, t, noise)

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x0, t, noise), step(x0, t, noise))


def test_dtype_follows_the_image_and_settings_rebuild_the_object():
    diffusion = Diffusion("sigmoid", 50, "epsilon")
    again = Diffusion(**diffusion.settings())
    assert again.settings() == diffusion.settings() and repr(again) == repr(diffusion)
    assert torch.equal(again.betas, diffusion.betas)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert (
            diffusion.add_noise(torch.ones(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype), 3).dtype
            == dtype
        )


def test_one_timestep_for_all_equals_one_for_each():
    diffusion, x0, noise = Diffusion(), normal(3, 1, 4, 4), normal(3, 1, 4, 4, seed=1)
    each = diffusion.add_noise(x0, noise, torch.full((3,), 7))
    assert torch.equal(diffusion.add_noise(x0, noise, 7), each)
    assert torch.equal(diffusion.add_noise(x0, noise, torch.tensor(7)), each)
    assert diffusion.snr(7).shape == () and diffusion.snr(torch.tensor([7, 8])).shape == (2,)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"schedule": "cosin"}, "Unknown noise schedule 'cosin'.*Did you mean 'cosine'"),
        ({"prediction_type": "v"}, "Unknown prediction type 'v'"),
        ({"timesteps": 0}, "timesteps=0"),
        ({"timesteps": 10.0}, "timesteps=10.0"),
        ({"timesteps": True}, "timesteps=True"),
    ],
)
def test_impossible_settings_are_named(settings, says):
    with pytest.raises(InputError, match=says):
        Diffusion(**settings)


@pytest.mark.parametrize(
    "t, says",
    [(-1, "from -1"), (1000, "to 1000"), (torch.tensor([0, 1000]), "to 1000"), (0.5, "float32"),
     (torch.tensor([1, 2, 3]), "3 timesteps for 2 images"), (torch.zeros(2, 2, dtype=torch.int64), "shape")],
)  # fmt: skip
def test_impossible_timesteps_are_named(t, says):
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(InputError, match=says):
        Diffusion().add_noise(x, x, t)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(InputError, match="equal shapes"):
        Diffusion().add_noise(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4), 3)
