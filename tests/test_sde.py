"""The SDE, its flow and Langevin, held against densities that are known exactly. All in float64."""

import math
from itertools import pairwise

import pytest
import torch

from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.sampling import ancestral_step
from cunet.sde import (
    GaussianMixture,
    VariancePreserving,
    euler,
    euler_maruyama,
    heun,
    langevin,
    log_likelihood,
    sliced_wasserstein,
    time_grid,
    velocity_and_divergence,
)

SDE = VariancePreserving()


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(std):
    return GaussianMixture(tensor([1.0]), tensor([[0.0]]), tensor([[[std**2]]]))


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(
        tensor([0.5, 0.3, 0.2]),
        tensor([[-1.5, -0.6], [1.4, -0.9], [0.3, 1.7]]),
        tensor([[[0.12, 0.08], [0.08, 0.25]], [[0.2, -0.1], [-0.1, 0.12]], [[0.36, 0.0], [0.0, 0.04]]]),
    )


def std_after(step, std, times):
    """Standard deviation after steps x -> a x + b z, with a and b asked of the step itself: no sampling."""
    variance = std**2
    for n, span in enumerate(pairwise(times)):
        a, b = step(tensor([[1.0], [0.0]]), list(span), tensor([[[0.0], [1.0]]]), n).flatten().tolist()
        variance = a**2 * variance + b**2
    return math.sqrt(variance)


def fitted_order(error, counts):
    return (
        -torch.linalg.lstsq(
            torch.stack((tensor(counts).log(), torch.ones(len(counts), dtype=torch.float64)), 1),
            tensor([abs(error(n)) for n in counts]).log()[:, None],
        )
        .solution[0]
        .item()
    )


# ------------------------------------------------------------------------------------------ the exact density


def test_log_prob_is_that_of_torch_distributions(mixture):
    from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

    oracle = MixtureSameFamily(
        Categorical(mixture.weights), MultivariateNormal(mixture.means, mixture.covariances)
    )
    x = oracle.sample((200,))
    torch.testing.assert_close(mixture.log_prob(x), oracle.log_prob(x))


@pytest.mark.parametrize("t", [0.0, 0.2, 1.0])
def test_score_is_the_gradient_of_the_log_density(mixture, t):
    x = mixture.sample(50, generator()).requires_grad_()
    (gradient,) = torch.autograd.grad(SDE.marginal(mixture, t).log_prob(x).sum(), x)
    torch.testing.assert_close(SDE.score(mixture)(x.detach(), t), gradient)


@pytest.mark.parametrize(("quasi", "tolerance"), [(False, 0.05), (True, 0.003)])
def test_samples_have_the_mean_and_covariance(mixture, quasi, tolerance):
    x = mixture.sample(4096, generator(), quasi=quasi)
    assert (x.mean(0) - mixture.mean()).abs().max() < tolerance
    assert (x.T.cov() - mixture.covariance()).abs().max() < 2 * tolerance


def test_cdf_is_the_share_of_points_below(mixture):
    direction, z = tensor([0.6, 0.8]), tensor([-1.0, 0.0, 1.3])
    x = mixture.sample(2**14, generator(), quasi=True) @ direction
    torch.testing.assert_close(
        mixture.cdf(z, direction), (x[:, None] <= z).double().mean(0), atol=1e-3, rtol=0
    )


def test_sliced_distance_of_a_shifted_density_is_the_shift_seen_from_the_side(mixture):
    x = mixture.sample(2**13, generator(), quasi=True)
    assert sliced_wasserstein(x, mixture) < 3e-3
    # moving everything by 0.5 along an axis moves it by 0.5 |cos| seen from a direction: 2/pi on average
    moved = sliced_wasserstein(x + tensor([0.5, 0.0]), mixture, directions=64)
    assert moved == pytest.approx(0.5 * 2 / math.pi, abs=3e-3)


def test_sliced_distance_of_perfect_points_is_the_floor_that_its_docstring_names():
    round_one, g = (
        GaussianMixture(tensor([1.0]), tensor([[0.0, 0.0]]), torch.eye(2).double()[None]),
        generator(),
    )
    floors = [sliced_wasserstein(round_one.sample(400, g), round_one, directions=4) for _ in range(60)]
    # sqrt(B) |F_B - F| is |normal| of variance F(1 - F): its integral over the line is 1.29 on average
    assert math.sqrt(400) * sum(floors) / 60 == pytest.approx(1.29, abs=0.2)


# ---------------------------------------------------------------------------------------------- the process


@pytest.mark.parametrize("t", [0.05, 0.5, 0.9])
def test_signal_power_decays_at_the_rate_beta(t):
    rate = -(math.log(SDE.alpha_bar(t + 1e-5)) - math.log(SDE.alpha_bar(t - 1e-5))) / 2e-5
    assert rate == pytest.approx(SDE.beta(t), rel=1e-7)


def test_forward_sde_arrives_at_the_exact_marginal():
    def step(x, span, z, n):
        return euler_maruyama(SDE.drift, SDE.diffusion, x, span, noise=z)

    arrived = std_after(step, 0.5, time_grid(1000, 0.0, 0.4))
    assert arrived**2 == pytest.approx(SDE.marginal(gaussian(0.5), 0.4).covariance().item(), rel=2e-3)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_every_member_of_the_family_comes_back_to_the_data(weight):
    data = gaussian(0.5)
    drift, noise = SDE.reverse_drift(SDE.score(data), weight), SDE.reverse_diffusion(weight)

    def step(x, span, z, n):
        return euler_maruyama(drift, noise, x, span, noise=z)

    start = SDE.marginal(data, 1.0).covariance().item() ** 0.5
    assert std_after(step, start, time_grid(1000)) == pytest.approx(0.5, rel=5e-3)


def test_equation_6_as_printed_collapses_the_density():
    # without the factor 1/2 it is equation 5 without its noise; N(0, V) ends with variance V^2 abar / v_1
    data, std = gaussian(0.5), 0.5
    flow = SDE.reverse_drift(SDE.score(data), 1.0)
    start = SDE.marginal(data, 1.0).covariance().item()
    end = std_after(lambda x, span, z, n: heun(flow, x, span), start**0.5, time_grid(400))
    assert end**2 == pytest.approx(std**4 * SDE.alpha_bar(1.0) / start, rel=1e-2)


def test_a_step_of_the_sde_is_a_step_of_the_flow_and_one_of_langevin(mixture):
    score, t, h = SDE.score(mixture), 0.4, 0.01
    x = SDE.marginal(mixture, t).sample(100, generator())
    whole = euler_maruyama(SDE.reverse_drift(score), SDE.reverse_diffusion(), x, [t, t - h], generator(1))
    flow = euler(SDE.reverse_drift(score, 0.0), x, [t, t - h])
    thermal = langevin(lambda y: score(y, t), x, SDE.beta(t) * h, 1, generator(1))
    torch.testing.assert_close(whole - x, (flow - x) + (thermal - x))


def test_posterior_mean_is_the_conditional_expectation(mixture):
    t = 0.3
    signal = SDE.alpha_bar(t)
    noisy = SDE.marginal(mixture, t)
    x = noisy.sample(20, generator())
    # Gaussian conditioning component by component, weighted by the probability of the component
    joint = torch.stack(
        [
            w.log() + torch.distributions.MultivariateNormal(m, c).log_prob(x)
            for w, m, c in zip(noisy.weights, noisy.means, noisy.covariances, strict=True)
        ]
    )
    gain = math.sqrt(signal) * mixture.covariances @ torch.linalg.inv(noisy.covariances)
    given = mixture.means[:, None] + torch.einsum("kij,knj->kni", gain, x - noisy.means[:, None])
    expected = (joint.softmax(0)[..., None] * given).sum(0)
    torch.testing.assert_close(SDE.posterior_mean(SDE.score(mixture), x, t), expected)


# --------------------------------------------------------------------------------------------------- solvers


def reverse_sde(data, steps):
    drift, noise = SDE.reverse_drift(SDE.score(data)), SDE.reverse_diffusion()
    return lambda x, span, z, n: euler_maruyama(drift, noise, x, span, noise=z)


def flow_euler(data, steps):
    return lambda x, span, z, n: euler(SDE.reverse_drift(SDE.score(data), 0.0), x, span)


def flow_heun(data, steps):
    return lambda x, span, z, n: heun(SDE.reverse_drift(SDE.score(data), 0.0), x, span)


def ddpm(data, steps):
    chain = Diffusion("linear", steps, "epsilon")

    def step(x, span, z, n):
        signal = chain.alphas_cumprod[steps - 1 - n].item()
        epsilon = -math.sqrt(1 - signal) * data.noised(signal).score(x)
        return ancestral_step(chain, epsilon, x, steps - 1 - n, z[0])

    return step


@pytest.mark.parametrize(("solver", "order"), [(reverse_sde, 1), (flow_euler, 1), (flow_heun, 2), (ddpm, 1)])
def test_order_of_convergence(solver, order):
    data = gaussian(0.5)
    start = SDE.marginal(data, 1.0).covariance().item() ** 0.5
    counts = [64, 128, 256, 512]
    fitted = fitted_order(lambda n: std_after(solver(data, n), start, time_grid(n)) - 0.5, counts)
    assert fitted == pytest.approx(order, abs=0.15)


def test_halved_steps_on_one_brownian_path_halve_the_distance(mixture):
    # of the typical point: a few change sides between two modes, and are far off however small the step
    score, steps, n = SDE.score(mixture), 512, 256
    x = SDE.marginal(mixture, 1.0).sample(n, generator())
    fine = torch.randn(steps, n, 2, generator=generator(1), dtype=torch.float64)

    def end(count):
        noise = fine.view(count, steps // count, n, 2).sum(1) / math.sqrt(steps // count)
        return euler_maruyama(
            SDE.reverse_drift(score), SDE.reverse_diffusion(), x, time_grid(count), noise=noise
        )

    a, b, c, d = (end(count) for count in (64, 128, 256, 512))
    gaps = [(p - q).norm(dim=1).median().item() for p, q in ((a, b), (b, c), (c, d))]
    assert 1.5 < gaps[0] / gaps[1] < 2.7 and 1.5 < gaps[1] / gaps[2] < 2.7


@pytest.mark.parametrize("h", [0.02, 0.1])
def test_langevin_widens_a_gaussian_by_its_step(h):
    variance = 0.25
    x = gaussian(0.5).sample(2**14, generator(), quasi=True)
    x = langevin(gaussian(0.5).score, x, h, 60, generator(1))
    assert x.var().item() == pytest.approx(variance / (1 - h / (4 * variance)), rel=0.03)


def test_equal_generators_give_equal_paths_and_no_noise_needs_none(mixture):
    x, times = mixture.sample(10, generator()), time_grid(4)
    drift = SDE.reverse_drift(SDE.score(mixture))
    first, second = (euler_maruyama(drift, SDE.diffusion, x, times, generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    state = torch.random.get_rng_state()
    euler(drift, x, times)
    assert torch.equal(state, torch.random.get_rng_state())


# ------------------------------------------------------------------------------------------------ likelihood


def test_log_likelihood_is_the_exact_log_density(mixture):
    x = mixture.sample(64, generator())
    found = log_likelihood(SDE, SDE.score(mixture), x, steps=60, prior=SDE.marginal(mixture, 1.0).log_prob)
    assert (found - mixture.log_prob(x)).abs().max() < 1e-3
    assert not found.requires_grad


def test_a_standard_normal_prior_errs_by_the_signal_that_is_left(mixture):
    x = mixture.sample(64, generator())
    error = log_likelihood(SDE, SDE.score(mixture), x, steps=60) - mixture.log_prob(x)
    assert 1e-3 < error.abs().max() < 10 * math.sqrt(SDE.alpha_bar(1.0))


def test_hutchinson_estimates_the_same_log_density_without_bias(mixture):
    x, copies = mixture.sample(4, generator()), 400
    prior, score = SDE.marginal(mixture, 1.0).log_prob, SDE.score(mixture)
    many = log_likelihood(
        SDE, score, x.repeat(copies, 1), 30, "hutchinson", prior=prior, generator=generator(1)
    ).view(copies, 4)
    exact = log_likelihood(SDE, score, x, 30, prior=prior)
    standard_error = many.std(0) / math.sqrt(copies)
    assert (standard_error > 1e-3).all()  # else nothing was estimated
    assert ((many.mean(0) - exact).abs() < 4 * standard_error).all()


def test_divergence_of_a_linear_field_is_its_trace_for_images_too():
    matrix = torch.randn(12, 12, generator=generator(), dtype=torch.float64)
    x = torch.randn(3, 3, 2, 2, generator=generator(1), dtype=torch.float64)

    def field(y):
        return (y.flatten(1) @ matrix.T).view_as(y)

    value, divergence = velocity_and_divergence(field, x)
    torch.testing.assert_close(value, field(x))
    torch.testing.assert_close(divergence, matrix.trace().expand(3))
    signs = torch.randint(0, 2, x.shape, generator=generator(2)).double() * 2 - 1
    estimate = velocity_and_divergence(field, x, signs)[1]
    e = signs.flatten(1)
    torch.testing.assert_close(estimate, torch.einsum("bi,ij,bj->b", e, matrix, e))


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: time_grid(0), "steps=0"),
        (lambda: time_grid(2.5), "steps=2.5"),
        (lambda: GaussianMixture(tensor([1.0]), tensor([[0.0]]), tensor([[[-1.0]]])), "positive definite"),
        (lambda: GaussianMixture(tensor([1.0, 1.0]), tensor([[0.0]]), tensor([[[1.0]]])), "make no mixture"),
        (lambda: GaussianMixture(tensor([0.0]), tensor([[0.0]]), tensor([[[1.0]]])), "make no mixture"),
        (lambda: log_likelihood(SDE, None, tensor([[0.0]]), trace="hutchison"), "mean 'hutchinson'"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(InputError, match=names):
        call()
