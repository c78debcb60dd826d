"""Solving x'' = f(s, x, v): orders, counts, gradients, memory, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cunet.cost import peak_memory
from cunet.errors import InputError
from cunet.ode import ADAPTIVE, EVALUATIONS, FIXED_STEP, GRADIENTS, ORDER, SOLVERS, solve
from cunet.problems import PROBLEMS, global_error, local_error

STEPS = {1: (200, 400, 800), 2: (64, 128, 256), 4: (48, 96, 192), 5: (80, 115, 160)}  # over the whole span
SIZES = {1: (0.02, 0.01, 0.005), 2: (0.02, 0.01, 0.005), 4: (0.08, 0.04, 0.02), 5: (0.03, 0.02, 0.014)}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


@every_problem
@every_solver
def test_order_of_convergence(problem, solver):
    steps = STEPS[ORDER[solver]]
    errors = [global_error(problem, solver, n) for n in steps]
    assert -slope(steps, errors) == pytest.approx(ORDER[solver], abs=0.15)


@every_problem
@every_solver
def test_local_error_is_one_order_higher(problem, solver):
    """Except where leapfrog meets a force that depends on velocity: its first step then has order 1."""
    sizes = SIZES[ORDER[solver]]
    errors = [local_error(problem, solver, h) for h in sizes]
    first_step = "leapfrog" in solver and problem.velocity_dependent
    assert slope(sizes, errors) == pytest.approx(ORDER[solver] + (not first_step), abs=0.15)


def test_leapfrog_is_position_verlet_where_force_ignores_velocity():
    p, h, n = PROBLEMS["kepler"], 0.03, 100
    x, v = p.x0, p.v0
    for _ in range(n):
        x = x + h / 2 * v
        v = v + h * p.acceleration(0.0, x, v)
        x = x + h / 2 * v
    for solver in ("leapfrog", "reversible_leapfrog"):
        solution = solve(p.acceleration, p.x0, p.v0, (0.0, n * h), n, solver)
        torch.testing.assert_close(solution.x, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(solution.v, v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["leapfrog", "reversible_leapfrog"])
def test_leapfrog_keeps_energy_over_hundreds_of_orbits_and_rk4_does_not(solver):
    p, orbits = PROBLEMS["kepler"], 30
    start = p.energy(p.x0, p.v0)

    def drift(solver, evaluations):
        span = (0.0, 2 * math.pi * orbits)
        steps = evaluations * orbits // EVALUATIONS[solver]
        return (p.energy(*solve(p.acceleration, p.x0, p.v0, span, steps, solver)[:2]) - start).abs().item()

    assert drift(solver, 60) < 0.2 * drift("rk4", 60)


@every_solver
@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_evaluations_are_those_that_the_function_saw(solver, gradient):
    seen = []

    def f(s, x, v):
        seen.append(float(s))
        return -x - 0.1 * v

    x = torch.ones(3)
    solution = solve(f, x, x, steps=5, solver=solver, gradient=gradient)
    assert solution.evaluations == len(seen) > 0
    assert 0 <= min(seen) and max(seen) <= 1
    if solver != "dopri5":
        assert solution.evaluations == 5 * EVALUATIONS[solver]


@pytest.mark.parametrize("solver", FIXED_STEP + ADAPTIVE)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.25)])
def test_neither_pass_leaves_the_span(solver, span):
    seen, x = [], torch.ones(3, requires_grad=True)

    def f(s, x, v):
        seen.append(float(s))
        return -x - 0.1 * v

    solve(f, x, x, span, 3, solver, "adjoint").x.sum().backward()
    assert min(span) <= min(seen) and max(seen) <= max(span)


def test_dopri5_with_infinite_tolerance_takes_the_steps_asked_for():
    x = torch.ones(3)
    made = [solve(lambda s, x, v: -x, x, x, steps=n, solver="dopri5", tolerance=math.inf) for n in (1, 3, 10)]
    assert [solution.evaluations for solution in made] == [1 + EVALUATIONS["dopri5"] * n for n in (1, 3, 10)]


def test_dopri5_gets_closer_with_a_smaller_tolerance():
    p = PROBLEMS["kepler"]
    loose, tight = (
        solve(p.acceleration, p.x0, p.v0, p.span, solver="dopri5", tolerance=t) for t in (1e-3, 1e-9)
    )
    assert p.error(*tight[:2]) < 1e-7 < p.error(*loose[:2])
    assert tight.evaluations > loose.evaluations


@every_solver
def test_solving_back_returns_to_the_start(solver):
    p = PROBLEMS["damped"]
    there = solve(p.acceleration, p.x0, p.v0, (0.0, 1.0), 400, solver)
    back = solve(p.acceleration, *there[:2], (1.0, 0.0), 400, solver)
    assert p.error(*back[:2], 0.0) < (0.05 if solver == "euler" else 1e-3)


# -------------------------------------------------------------------------------------------- gradients


def gradients(problem, solver, gradient, steps, dtype=torch.float64, **keywords):
    """d(loss)/d(x0, v0, theta), where the force is scaled and shifted by results of theta."""
    x0, v0 = (z.to(dtype, copy=True).requires_grad_() for z in (problem.x0, problem.v0))
    theta = torch.tensor([0.1, -0.2], dtype=dtype, requires_grad=True)
    scale, shift = theta.exp()
    end = solve(
        lambda s, x, v: scale * problem.acceleration(s, x.double(), v.double()).to(dtype) + shift,
        x0, v0, (0.0, 1.0), steps, solver, gradient, **keywords,
    )  # fmt: skip
    weights = torch.linspace(1, 2, x0.numel(), dtype=dtype)
    loss = (weights * end.x).sum() + (end.v**2).sum()
    return torch.cat(torch.autograd.grad(loss, (x0, v0, theta)))


def difference(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def exact_gradients():
    """By backpropagation through a solution that is exact to about 1e-10."""
    return {name: gradients(p, "nystrom4", "direct", 250) for name, p in PROBLEMS.items()}


@every_problem
@pytest.mark.parametrize("solver", FIXED_STEP)
def test_adjoint_against_direct(problem, solver, exact_gradients):
    """The continuous adjoint tends to the gradient of the exact solution, with the solver's order."""
    steps = (20, 40, 80) if ORDER[solver] < 4 else (12, 24, 48)
    exact = exact_gradients[problem.name]
    errors = [difference(gradients(problem, solver, "adjoint", n), exact) for n in steps]
    assert -slope(steps, errors) > ORDER[solver] - 0.35
    assert errors[-1] < {1: 0.3, 2: 0.05, 4: 1e-4}[ORDER[solver]]


@every_problem
def test_adjoint_against_direct_with_adaptive_steps(problem, exact_gradients):
    adjoint = gradients(problem, "dopri5", "adjoint", 1, tolerance=1e-7)
    assert difference(adjoint, exact_gradients[problem.name]) < 1e-4


@every_problem
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_reversible_gradient(problem, steps):
    direct = gradients(problem, "reversible_leapfrog", "direct", steps)
    assert difference(gradients(problem, "reversible_leapfrog", "reversible", steps), direct) < 1e-11
    single = gradients(problem, "reversible_leapfrog", "reversible", steps, torch.float32)
    assert difference(single, direct) < 1e-5


@every_problem
@every_solver
def test_checkpoint_gradient_is_the_direct_one(problem, solver):
    assert torch.equal(gradients(problem, solver, "checkpoint", 3), gradients(problem, solver, "direct", 3))


WAYS = [("leapfrog", "direct"), ("nystrom4", "direct"), ("leapfrog", "checkpoint"),
        ("reversible_leapfrog", "reversible"), ("rk4", "adjoint")]  # fmt: skip


@pytest.mark.parametrize(("solver", "gradient"), WAYS)
def test_gradcheck(solver, gradient):
    """Against finite differences, with respect to the start and to a tensor that the force closes over."""
    torch.manual_seed(0)
    x, v, w = (torch.randn(1, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    steps = 20 if gradient == "adjoint" else 3  # the adjoint is exact only in the limit

    def end(x, v, w):
        solution = solve(
            lambda s, x, v: torch.tanh(w * x + s) - 0.3 * v * w, x, v, steps=steps, solver=solver,
            gradient=gradient,
        )  # fmt: skip
        return solution.x, solution.v

    assert torch.autograd.gradcheck(end, (x, v, w), atol=1e-6, rtol=1e-5)


class Force(nn.Module):
    def __init__(self, width=3, hidden=32):
        super().__init__()
        self.inner = nn.Linear(2 * width, hidden)
        self.outer = nn.Linear(hidden, width)

    def forward(self, s, x, v):
        return self.outer(torch.tanh(self.inner(torch.cat((x, v), 1)) + s))


@pytest.mark.parametrize(("solver", "gradient"), WAYS[2:])
def test_gradient_reaches_parameters_of_module_closure_and_upstream(solver, gradient):
    """One parameter enters twice: inside the force, and in a tensor computed before that it closes over."""
    torch.manual_seed(0)
    force, shared = Force().double(), torch.randn(3, dtype=torch.float64, requires_grad=True)
    x, v = torch.randn(2, 4, 3, dtype=torch.float64)

    def run(solver, gradient):
        upstream = torch.sin(3 * shared)
        end = solve(
            lambda s, x, v: force(s, x, v) * shared + upstream, x, v, steps=40, solver=solver,
            gradient=gradient,
        )  # fmt: skip
        loss = end.x.square().sum() + end.v.sum() + upstream.sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (shared, *force.parameters()))])

    reference = run(solver, "direct")
    assert difference(run(solver, gradient), reference) < 1e-7


@pytest.mark.parametrize(("solver", "gradient"), WAYS[3:])
def test_a_hidden_parameter_is_refused_rather_than_forgotten(solver, gradient):
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w

        @staticmethod
        def backward(ctx, g):
            return g, g

    w, x = torch.ones(3, requires_grad=True), torch.ones(3)
    with pytest.raises(InputError, match="cannot be followed"):
        solve(lambda s, x, v: Hidden.apply(x, w), x, x, solver=solver, gradient=gradient)


@pytest.mark.parametrize(("solver", "gradient"), WAYS)
def test_without_grad_no_gradient_costs_anything(solver, gradient):
    force, x = Force(), torch.ones(2, 3)
    with torch.no_grad():
        end = solve(force, x, x, solver=solver, gradient=gradient)
        plain = solve(force, x, x, solver=solver)
    assert torch.equal(end.x, plain.x) and end.evaluations == plain.evaluations and not end.x.requires_grad


@pytest.mark.parametrize(
    ("solver", "gradient"), [("midpoint", "adjoint"), ("reversible_leapfrog", "reversible")]
)
def test_finding_parameters_costs_no_evaluation(solver, gradient):
    force, x = Force(), torch.ones(2, 3)
    found = solve(force, x, x, steps=3, solver=solver, gradient=gradient)
    plain = solve(force, x, x, steps=3, solver=solver)
    assert found.evaluations == plain.evaluations
    assert torch.equal(found.x, plain.x) and found.x.requires_grad


def test_reversible_gradient_recomputes_in_the_precision_of_the_forward_pass():
    kinds, force, x = [], Force(), torch.ones(2, 3)
    force.inner.register_forward_hook(lambda module, args, out: kinds.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        end = solve(force, x, x, steps=3, solver="reversible_leapfrog", gradient="reversible")
    end.x.sum().backward()
    assert kinds == [torch.bfloat16] * 6


def memory(solver, gradient, steps):
    force, x = Force(hidden=512), torch.ones(64, 3)

    def step():
        end = solve(force, x, x, steps=steps, solver=solver, gradient=gradient)
        (end.x.sum() + end.v.sum()).backward()

    return peak_memory(step)


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [("leapfrog", "checkpoint"), ("reversible_leapfrog", "reversible"), ("midpoint", "adjoint")],
)
def test_memory_does_not_grow_with_the_activations_of_every_step(solver, gradient):
    few, many = memory(solver, gradient, 4), memory(solver, gradient, 24)
    stored_states = 20 * 2 * 64 * 3 * 4 if gradient == "checkpoint" else 0
    assert many - few <= stored_states + 0.02 * few
    assert memory(solver, "direct", 24) > 4 * memory(solver, "direct", 4)


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (dict(solver="leapfrg"), "Did you mean 'leapfrog'"),
        (dict(solver="rk45"), "expected one of leapfrog"),
        (dict(gradient="checkpint"), "Did you mean 'checkpoint'"),
        (dict(steps=0), "steps=0"),
        (dict(steps=2.0), "whole number"),
        (dict(steps=True), "whole number"),
        (dict(span=(1.0, 1.0)), "empty"),
        (dict(v0=torch.zeros(2, 4)), r"\(2, 4\).* do not match"),
        (dict(v0=torch.zeros(2, 3, dtype=torch.float64)), "float64 do not match"),
        (dict(gradient="reversible"), "choose solver='reversible_leapfrog'"),
        (dict(gradient="adjoint"), "choose one of euler"),
        (dict(acceleration=lambda s, x, v: x[:, :1]), r"\(2, 1\) for a position of shape \(2, 3\)"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_way_out(keywords, message):
    x = torch.zeros(2, 3)
    arguments = dict(acceleration=lambda s, x, v: -x, x0=x, v0=x) | keywords
    with pytest.raises(InputError, match=message):
        solve(**arguments)


def test_every_solver_and_gradient_is_tested():
    assert set(SOLVERS) == set(ORDER) and {g for _, g in WAYS} == set(GRADIENTS)
