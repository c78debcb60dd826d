"""The problems of cunet.problems: what is called an exact solution has to solve the equation."""

import pytest
import torch

from cunet.problems import PROBLEMS, damped

EVERY = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
H = 1e-5  # of the central differences: their error is about H^2, 1e-10, and rounding 1e-11


@EVERY
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_exact_solution_satisfies_its_equation(problem, share):
    s = problem.span[0] + share * (problem.span[1] - problem.span[0])
    (x, v), before, after = problem.exact(s), problem.exact(s - H), problem.exact(s + H)
    torch.testing.assert_close((after[0] - before[0]) / (2 * H), v, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        (after[1] - before[1]) / (2 * H), problem.acceleration(s, x, v), rtol=0, atol=1e-7
    )


@EVERY
def test_exact_solution_starts_at_the_start(problem):
    x, v = problem.exact(problem.span[0])
    torch.testing.assert_close(x, problem.x0, rtol=0, atol=1e-14)
    torch.testing.assert_close(v, problem.v0, rtol=0, atol=1e-14)
    assert problem.error(problem.x0, problem.v0, problem.span[0]) < 1e-13
    assert problem.x0.dtype == problem.v0.dtype == torch.float64


@EVERY
def test_velocity_dependence_is_as_declared(problem):
    x, v = problem.exact(0.4)
    moved = problem.acceleration(0.4, x, 2 * v) - problem.acceleration(0.4, x, v)
    assert (moved.abs().max() > 1e-3) == problem.velocity_dependent


@pytest.mark.parametrize("name", [name for name, p in PROBLEMS.items() if p.energy])
def test_energy_is_constant(name):
    problem = PROBLEMS[name]
    energies = torch.stack([problem.energy(*problem.exact(s)) for s in (0.0, 0.7, 1.9)])
    assert energies.std() < 1e-12 and problem.energy(problem.x0, 2 * problem.v0) != energies[0]


def test_error_is_the_distance_in_phase_space():
    problem = damped()
    x, v = problem.exact(2.0)
    assert problem.error(x + 3, v - 4) == pytest.approx(5)
