# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · The adjoint
#
# *Answers: proposition 3.1 with its proof, equations 10 to 14; claims C17 (reusing the first-order adjoint for
# second-order neural ODEs is more efficient than a second-order adjoint), C20 (memory is constant in the number of
# solver steps); the errata of the proof.*
#
# To train an ODE block one needs the gradient of a loss at the end of a path with respect to where the path
# began and to every parameter that bent it on the way. Backpropagating through the solver gives it, and stores
# the activations of every evaluation. The *adjoint* gives it from the end state alone.
#
# **The question: which way to the gradient is exact, which is cheap, and does the order of the equation matter?**
#
# This page derives the adjoint, repairs the paper's proof, shows that the second-order adjoint is the first-order one
# in other clothes, and then compares four ways to the gradient on a real network: how exact, how much memory, how long.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # folder of the run, relative to the repository
job = "02_adjoint"  # name of the result file
profile = "laptop"  # whose numbers these are
seed = 0  # of every random draw
size = "laptop"  # of the network: paper, laptop or smoke
checkpoint = ""  # its weights (.safetensors); "" takes the released ones, "untrained" fresh ones
batch = 16  # MNIST digits in the batch that the gradients are taken on
block_steps = [1, 2, 4, 16, 64]  # solver steps tried on one block
network_steps = [1, 2, 8, 32]  # solver steps a block tried on the whole network
rounds = 2  # rounds of every timing, 2 or more

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
import sympy as sp
import torch
from IPython.display import Markdown
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.flop_counter import flop_registry
from torchdiffeq import odeint

from cunet import checkpoints, convergence, cost, datasets, diffusion, models, ode_figures, runs, scorecard
from cunet.ode import solve
from cunet.problems import PROBLEMS

run = runs.Run.open(globals())
generator = torch.Generator().manual_seed(seed)
D = torch.float64


def apart(a, b) -> float:
    """Relative difference of two vectors, or lists of tensors."""
    a, b = (
        torch.cat([p.detach().double().flatten() for p in x]) if not torch.is_tensor(x) else x for x in (a, b)
    )
    return ((a - b).norm() / b.norm()).item()


# %% [markdown]
# ## 1. The adjoint of a first-order equation
#
# A path $z$ obeys $z' = F(s, z, \theta)$ from $s = 0$ to $1$, and a loss $L(z(1))$ looks at its end. Because the
# equation holds, we may add it, weighted with any row vector $\lambda(s)^\top$, and change nothing:
#
# $$L = L(z(1)) - \int_0^1 \lambda^\top (z' - F)\, ds .$$
#
# Now move $\theta$ and the start a little. Integrating $\lambda^\top \delta z'$ by parts,
#
# $$\delta L = \bigl[L_z - \lambda^\top\bigr]_{1}\, \delta z(1) + \lambda(0)^\top \delta z(0)
#   + \int_0^1 (\lambda' + F_z^\top \lambda)^\top \delta z\; ds + \int_0^1 \lambda^\top F_\theta\, \delta\theta\; ds .$$
#
# We never want to know $\delta z(s)$. So choose $\lambda$ such that its factors vanish:
#
# $$\lambda' = -F_z^\top \lambda, \quad \lambda(1) = L_z^\top
#   \qquad\Longrightarrow\qquad
#   \frac{dL}{dz(0)} = \lambda(0)^\top, \quad \frac{dL}{d\theta} = \int_0^1 \lambda^\top F_\theta\, ds .$$
#
# $\lambda(s)$ is the gradient of the loss with respect to the state at time $s$. It travels backwards, and so can
# the state itself: start at $z(1)$ and solve $(z, \lambda, \int)$ together from 1 to 0. Nothing was stored.


# %%
def adjoint(F, theta, z, slope, span=(0.0, 1.0), steps=40, path=False):
    """dL/dz(s0) and dL/dtheta, from the state z and dL/dz = slope at the end of the span; no tape."""

    def backwards(s, state):
        z, lam = (q.detach().requires_grad_() for q in state[:2])
        with torch.enable_grad():
            out = F(s, z, theta)
            lam_z, lam_theta = torch.autograd.grad(
                out, (z, theta), lam, allow_unused=True, materialize_grads=True
            )
        return out.detach(), -lam_z, -lam_theta

    times = torch.linspace(span[1], span[0], steps + 1, dtype=z.dtype)
    states = odeint(backwards, (z.detach(), slope, torch.zeros_like(theta)), times, method="rk4")
    return states if path else tuple(q[-1] for q in states[1:])


# %% [markdown]
# A first check where everything is known: $z' = \Theta z$ has $z(1) = e^{\Theta} z(0)$, so
# $dL/dz(0) = (e^{\Theta})^\top L_z$. A second: the library's `gradient="adjoint"` solves exactly this for the
# stacked state $z = [x, v]$ of a second-order equation.

# %%
theta = torch.randn(3, 3, dtype=D, generator=generator).requires_grad_()
start, weight = torch.randn(2, 3, dtype=D, generator=generator)
end = torch.matrix_exp(theta) @ start
exact = torch.autograd.grad(weight @ end, theta)[0]
by_start, by_theta = adjoint(lambda s, z, theta: theta @ z, theta, end, weight, steps=200)
assert apart(by_start, torch.matrix_exp(theta.detach()).T @ weight) < 1e-9 and apart(by_theta, exact) < 1e-9


def against_library(problem) -> float:
    """Relative difference between `adjoint` above and the library's, with a force that has two parameters."""
    theta = torch.tensor([0.9, 0.1], dtype=D, requires_grad=True)
    x, v = (q.clone().requires_grad_() for q in (problem.x0, problem.v0))

    def force(s, x, v, theta=theta):
        return theta[0] * problem.acceleration(s, x, v) + theta[1]

    end = solve(force, x, v, steps=40, solver="rk4", gradient="adjoint")
    library = torch.autograd.grad(end.x.sum() + (end.v**2).sum(), (x, v, theta))
    slope = torch.cat((torch.ones_like(x), 2 * end.v)).detach()
    stacked = lambda s, z, theta: torch.cat((z.chunk(2)[1], force(s, *z.chunk(2), theta)))  # noqa: E731
    return apart(adjoint(stacked, theta, torch.cat(end[:2]), slope), [torch.cat(library[:2]), library[2]])


assert max(against_library(problem) for problem in PROBLEMS.values()) < 1e-10

# %% [markdown]
# ## 2. Proposition 3.1, step by step
#
# The paper's equation is the probability flow (its equation 8), here with $F$ for the right-hand side and $s_\theta$ for
# the score (not the time $s$ of section 1):
#
# $$x_t' = F(x_t, t, \theta) = \tfrac12 \beta(t)\,[-x_t - s_\theta(x_t, t)], \qquad x_{t_0} = f(X_0, \theta_f), \tag{11}$$
#
# and the claim is that its adjoint obeys $r_t' = -r_t^\top\, \partial F/\partial x_t$ (10). The proof writes
# $x_{t_n} = K + x_{t_0}$, and adds two zeros with free factors $A(t)$ and $B$:
#
# $$K = \int_{t_0}^{t_n} \bigl(x_t' + A(t)\,[x_t' - F]\bigr) dt + B\,(x_{t_0} - f). \tag{12}$$
#
# Its derivative with respect to $\theta$, **as it should read** (in red what equation 13 leaves out):
#
# $$\frac{dK}{d\theta} = \int \frac{\textcolor{red}{d}x_t'}{d\theta}\, dt
#   + \int A \Bigl(\frac{dx_t'}{d\theta} - \frac{\partial F}{\partial \theta}
#   - \frac{\partial F}{\partial x}\textcolor{red}{\frac{dx_t}{d\theta}}\Bigr) dt
#   + B \Bigl(\frac{dx_{t_0}}{d\theta} - \frac{df}{d\theta}\Bigr). \tag{13}$$
#
# Without the factor $dx_t/d\theta$ the chain rule is broken and shapes do not fit: $\partial F/\partial x$ is a matrix of
# states by states, the other terms are states by parameters. Integrate $(1 + A)\, dx_t'/d\theta$ by parts and
# what stays under the integral is $-(A' + A\, \partial F/\partial x)\, dx_t/d\theta - A\,\partial F/\partial\theta$.
# Sympy checks that, and that the printed form gives something else.

# %%
t, th = sp.symbols("t theta")
x, A = sp.Function("x")(t, th), sp.Function("A")(t)
F = sp.Function("F")
X = sp.Symbol("X")
F_x = sp.diff(F(X, t, th), X).subs(X, x)
F_theta = sp.diff(F(X, t, th), th).subs(X, x)
x_theta, rate = sp.diff(x, th), sp.diff(x, t, th)
boundary = sp.diff((1 + A) * x_theta, t)  # what integration by parts moves to the ends
repaired = rate + A * (rate - F_theta - F_x * x_theta) - boundary
assert sp.simplify(repaired + (sp.diff(A, t) + A * F_x) * x_theta + A * F_theta) == 0
printed = rate + A * (rate - F_theta - F_x) - boundary
left = sp.factor(sp.simplify(printed - repaired))
print("printed minus repaired integrand:", left)
assert sp.simplify(left - A * F_x * (x_theta - 1)) == 0

# %% [markdown]
# "Use the freedom of choice of $A(t)$ and $B$": the paper does not say how. Here is the choice. All terms in the
# unknown $dx_t/d\theta$ have to go, so
#
# $$A' = -A\,\frac{\partial F}{\partial x}, \qquad A(t_n) = -I, \qquad B = A(t_0), $$
#
# and what remains is $dx_{t_n}/d\theta = -\int A\, F_\theta\, dt - A(t_0)\, df/d\theta$. Multiply by
# $\partial L/\partial x_{t_n}$ and call $r^\top = -(\partial L/\partial x_{t_n})\, A$:
#
# $$r' = -\Bigl(\frac{\partial F}{\partial x}\Bigr)^{\!\top} r, \quad r(t_n) = \frac{\partial L}{\partial x_{t_n}}^{\!\top},
#   \qquad \frac{dL}{d\theta} = \int_{t_0}^{t_n} r^\top F_\theta\, dt + r(t_0)^\top \frac{df}{d\theta}. \tag{14}$$
#
# This is $\lambda$ of section 1. So the proposition is right, and its content is that a first-order equation has a
# first-order adjoint. Its errata: (13) lacks what stands in red; (10) and (14) lack the condition at $t_n$ and the
# formula for the gradient, without which they determine nothing; $r$ is never defined; and
# $r^\top \partial F/\partial x$ is a row where $r'$ is a column. Sympy does the bookkeeping at the two ends, for one
# number (where $I$ is 1).
#
# Numerically: a mixture of two Gaussians, diffused by $\beta$, has a score in closed form, whose parameters are
# the two means. The flow runs from noise at $t = 1$ to data at $t = 0$; the adjoint runs the other way. So that
# $df/d\theta$ is not 0, the start is shifted by a tenth of the sum of the means.

# %%
A_0, A_n, B, start_theta, end_theta, f_theta, inside = sp.symbols("A_0 A_n B x_0' x_n' f' integral")
K_theta = (
    (1 + A_n) * end_theta - (1 + A_0) * start_theta + B * (start_theta - f_theta) - inside
)  # of A F_theta
chosen = K_theta.subs({A_n: -1, B: A_0}) + start_theta  # and so the derivative of the end
assert sp.expand(chosen - (-inside - A_0 * f_theta)) == 0


# %%
def beta(t):
    return 0.1 + 19.9 * t


def score(x, t, means):
    """Gradient of the log density at time t: two Gaussians of width 0.2, shrunk to 0 and widened to 1."""
    keep = torch.exp(-0.5 * (0.1 * t + 19.9 * t**2 / 2))
    variance = 1 - keep**2 * (1 - 0.04)
    offset = keep * means - x[..., None, :]  # (..., 2 components, 2)
    share = torch.softmax(-offset.square().sum(-1) / (2 * variance), -1)
    return (share[..., None] * offset).sum(-2) / variance


def probability_flow(t, x, means):
    return 0.5 * beta(t) * (-x - score(x, t, means))


# %%
means = torch.tensor([[-1.0, -0.4], [1.0, 0.6]], dtype=D, requires_grad=True)
noise = torch.tensor(
    [[-1.4, 1.0], [-0.2, -1.5], [0.15, 1.6], [1.5, -0.6], [0.9, 1.4]], dtype=D, requires_grad=True
)
goal = torch.tensor([0.6, -0.4], dtype=D)
times = torch.linspace(1, 0, 401, dtype=D)
start = noise + 0.1 * means.sum(0)  # f of equation 11
paths = odeint(lambda t, x: probability_flow(t, x, means), start, times, method="rk4")
loss = 0.5 * (paths[-1] - goal).square().sum()
taped = torch.autograd.grad(loss, (noise, means))
states = adjoint(probability_flow, means, paths[-1], (paths[-1] - goal).detach(), (1.0, 0.0), 400, path=True)
r_start, integral = (q[-1] for q in states[1:])
flow_gap = apart(
    [r_start, integral + 0.1 * r_start.sum(0)], taped
)  # r(t_0) df/dtheta: the same for both means
assert flow_gap < 1e-6 < apart(integral, taped[1])
print(f"adjoint of equation 14 against backpropagation through 400 rk4 steps: {flow_gap:.1e}")

# %%
grid = torch.linspace(-2.2, 2.2, 120, dtype=D)
plane = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
density = torch.exp(-(plane[..., None, :] - means.detach()).square().sum(-1) / 0.08).sum(-1)
seen = [0, 240, 300, 340, 370, 400]  # of 401 times: the flow does most of its work near the end
picture = ode_figures.transported(
    paths.detach().numpy(),
    states[1].flip(0).numpy(),
    seen,
    density.numpy(),
    (-2.2, 2.2, -2.2, 2.2),
    goal.numpy(),
)
run.save_figure(
    picture,
    "ext_adjoint_flow",
    "The adjoint, carried back along the flow, from the squares (data) to the dots (noise); arrows: the gradient, at a "
    "third of its length. Where does it point, seen from the star, and how does it change on the way back?",
)
kept = states[1][-1].norm(dim=1) / states[1][0].norm(dim=1)
print(f"length of r at the start over that at the end, path by path: {', '.join(f'{q:.2g}' for q in kept)}")

# %% [markdown]
# The arrows are $r_t$, the direction in which the loss grows: at the end straight away from the goal, because that is
# how the loss was made. The transposed Jacobian turns them on the way back, and makes them shorter where the flow
# contracts and longer where it spreads. The printed numbers say which of the two each path has met: below 1, its start
# matters less for the loss than its end.
#
# ## 3. Second order: one adjoint in two forms
#
# For $x'' = f(x, v, s, \theta)$ take the pair as one state, $z = [x, v]$ and $F = [v, f]$. With $\lambda = [p, q]$
# the general result reads
#
# $$p' = -f_x^\top q, \qquad q' = -p - f_v^\top q, \qquad p(1) = L_x^\top,\; q(1) = L_v^\top. \tag{first order}$$
#
# Norcliffe et al. (2020) derive instead one equation of second order for $r = q$,
#
# $$r'' = f_x^\top r - f_v^\top r' - \Bigl(\frac{d}{ds} f_v^\top\Bigr) r, \qquad
#   r(1) = L_v^\top,\; r'(1) = -L_x^\top - f_v^\top r(1), \tag{second order}$$
#
# with $dL/dv_0 = r(0)$, $dL/dx_0 = -r'(0) - f_v^\top r(0)$. Differentiate the second line of the first-order form
# and insert the first: that *is* the second-order form. Sympy, for two dimensions and matrices that do not commute:

# %%
s = sp.Symbol("s")
f_x = sp.Matrix(2, 2, lambda i, j: sp.Function(f"f_x{i}{j}")(s))  # the Jacobians along a path,
f_v = sp.Matrix(2, 2, lambda i, j: sp.Function(f"f_v{i}{j}")(s))  # any functions of s
p, q = (sp.Matrix(2, 1, lambda i, j, n=n: sp.Function(f"{n}{i}")(s)) for n in "pq")
rules = dict(zip([*p.diff(s), *q.diff(s)], [*(-f_x.T * q), *(-p - f_v.T * q)], strict=True))
r1 = q.diff(s).subs(rules)
r2 = r1.diff(s).subs(rules)  # differentiate q', insert p' and q'
second_order = f_x.T * q - f_v.T * r1 - f_v.T.diff(s) * q
assert sp.simplify(r2 - second_order) == sp.zeros(2, 1)
assert sp.simplify(-r1 - f_v.T * q - p) == sp.zeros(2, 1)  # dL/dx from r and r'

# %% [markdown]
# So both give the same gradient, and the difference is the price. One evaluation of the first-order form is one
# evaluation of $f$ and one vector-Jacobian product, which returns $f_x^\top q$, $f_v^\top q$ and $f_\theta^\top q$
# at once. The second-order form needs a second product for $f_v^\top r'$, and $\frac{d}{ds} f_v^\top r$, a *second*
# derivative of the network: along the path, $\nabla_v$ of the directional derivative of $r^\top f$ along
# $(1, v, f)$. (Written with the momentum $p = -r' - f_v^\top r$, the second derivative drops out. What one is left
# with is the first-order form.) On a real block:


# %%
def network():
    """The trained cU-Net, its noise process, and the file it came from."""
    if checkpoint == "untrained":
        torch.manual_seed(seed)
        return models.build("cunet", size, channels=1), diffusion.Diffusion(), None
    path = checkpoint or checkpoints.released("mnist", "cunet", size)
    net, card = checkpoints.load(path, model="cunet")
    return net, diffusion.Diffusion(**card["diffusion"]), path


cunet, forward, path = network()
if checkpoint == "untrained":
    print("NOTE: the network of this page is untrained. Its costs are real, its gradients are nobody's.")
digits = datasets.load("mnist", "train", image_size=models.image_size(size)).batch(slice(0, batch))
noise = torch.randn(digits.shape, generator=generator)
steps_of_noise = torch.randint(0, forward.timesteps, (batch,), generator=generator)
noisy = forward.add_noise(digits, noise, steps_of_noise)
block, (x0, v0, embedding) = convergence.record(cunet, noisy[:2], steps_of_noise[:2])["blocks_down.0"]
modulation = block.acceleration.modulation(embedding).detach()
force, parameters = block.acceleration, [*block.acceleration.parameters()]
slope_x, slope_v = torch.randn(2, *x0.shape, dtype=D, generator=generator)


# %%
def first_order(s, state):
    x, v = (q.detach().requires_grad_() for q in state[:2])
    p, q = state[2:4]
    with torch.enable_grad():
        a = force(s, x, v, modulation)
        f_x, f_v, *f_theta = torch.autograd.grad(
            a, (x, v, *parameters), q, allow_unused=True, materialize_grads=True
        )
    return v.detach(), a.detach(), -f_x, -p - f_v, *(-g for g in f_theta)


def second_order_form(s, state):
    s, x, v = (torch.as_tensor(q).detach().requires_grad_() for q in (s, *state[:2]))
    r, dr = state[2:4]
    with torch.enable_grad():
        a = force(s, x, v, modulation)
        ds, f_x, f_v, *f_theta = torch.autograd.grad(
            a, (s, x, v, *parameters), r, create_graph=True, allow_unused=True, materialize_grads=True
        )
        along = ds + (f_x * v.detach()).sum() + (f_v * a.detach()).sum()  # derivative of r f along (1, v, f)
        change = torch.autograd.grad(along, v, retain_graph=True)[0]  # d/ds of f_v r
        (f_v_dr,) = torch.autograd.grad(a, v, dr)
    return v.detach(), a.detach(), dr, (f_x - f_v_dr - change).detach(), *(-g.detach() for g in f_theta)


# %%
end = solve(lambda s, x, v: force(s, x, v, modulation), x0, v0, steps=16, solver="rk4")
zeros = [torch.zeros_like(q) for q in parameters]
back = torch.linspace(1, 0, 17, dtype=D)
end_x, end_v, one_way = end.x.detach(), end.v.detach(), [None, None]
one_way[0] = odeint(first_order, (end_x, end_v, slope_x, slope_v, *zeros), back, method="rk4")


def transpose_v(s, x, v, r):
    """f_v^T r."""
    v = v.detach().requires_grad_()
    return torch.autograd.grad(force(s, x, v, modulation), v, r)[0]


r_end = (slope_v, -slope_x - transpose_v(back[0], end_x, end_v, slope_v))
one_way[1] = odeint(second_order_form, (end_x, end_v, *r_end, *zeros), back, method="rk4")
first, second = ([q[-1] for q in way[2:]] for way in one_way)
second[:2] = -second[1] - transpose_v(back[-1], x0, v0, second[0]), second[0]
adjoint_gap = apart(second, first)
assert adjoint_gap < 1e-6
print(
    f"gradients of {sum(q.numel() for q in first):,} numbers, first against second order: {adjoint_gap:.1e}"
)


# %%
class Count(TorchDispatchMode):
    """Multiply-accumulates of everything that runs inside, backward passes included."""

    macs = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        if (formula := flop_registry.get(operator.overloadpacket)) is not None:
            self.macs += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


forms = {"first order": first_order, "second order": second_order_form}
state, macs = (end_x, end_v, slope_x, slope_v, *zeros), {}
for name, function in {"force": lambda s, state: force(s, *state[:2], modulation), **forms}.items():
    with Count() as counter:
        function(back[0], state)
    macs[name] = counter.macs
adjoint_times = cost.time_interleaved(
    {name: lambda f=f: f(back[0], state) for name, f in forms.items()}, repeats=max(rounds, 2) * 4
)
cost_ratio = macs["second order"] / macs["first order"]
print("; ".join(f"{name}: {m / macs['force']:.2f} times the force" for name, m in macs.items()))
print(f"second order against first: {cost_ratio:.2f} times the multiply-accumulates, ", end="")
print(f"{adjoint_times.ratios['second order']:.2f} times the time")

# %% [markdown]
# ## 4. Four ways to the gradient
#
# | `gradient=` | keeps | on the way back | is the gradient of |
# |---|---|---|---|
# | `direct` | all activations of every evaluation | nothing to recompute | the discrete solution, exactly |
# | `checkpoint` | the states, one pair an evaluation (leapfrog: a step) | evaluates $f$ once more | the discrete solution, exactly |
# | `reversible` | the end state | evaluates $f$ once more, running the solver backwards | the discrete solution, up to rounding |
# | `adjoint` | the end state | solves $(x, v, p, q, \int)$ backwards | the *exact* solution, up to the solver's error |
#
# A solver can be run backwards exactly if each of its lines can be. Leapfrog's can when the force depends on the
# position only: from $x_{n+1/2}$ and $v_{n+1}$ one gets $a_n$ and $v_n$. Ours depends on the velocity, and $v_n$
# stands inside $f$ where we would need it first. `reversible_leapfrog` therefore hands $f$ a second velocity $w$,
# which lives at the half steps and is reflected at each step:
#
# $$a_n = f(x_{n+1/2}, w_n), \qquad v_{n+1} = v_n + h\,a_n, \qquad w_{n+1} = 2 v_{n+1} - w_n, \qquad w_0 = v_0 .$$
#
# From the state $(x_{n+1/2}, v_{n+1}, w_n)$ the acceleration can be had first, then $v_n$, then
# $w_{n-1} = 2 v_n - w_n$. (The idea is that of the asynchronous leapfrog and of reversible Heun, Kidger et al.
# 2021.) Averaging $w_{n+1} + w_n = 2 v_{n+1}$ keeps order 2. By hand, forth and back:

# %%
problem, n = PROBLEMS["damped"], 50  # whose force asks for both, position and velocity
h, x, v, w = 2.0 / n, problem.x0 + 1.0 / n * problem.v0, problem.v0, problem.v0
for i in range(n):
    v = v + h * problem.acceleration(0.0, x, w)
    if i + 1 < n:
        x, w = x + h * v, 2 * v - w
end = solve(problem.acceleration, problem.x0, problem.v0, (0.0, 2.0), n, "reversible_leapfrog")
torch.testing.assert_close((x + h / 2 * v, v), end[:2], rtol=0, atol=1e-12)
for i in reversed(range(n)):
    v = v - h * problem.acceleration(0.0, x, w)
    if i > 0:
        x, w = x - h * v, 2 * v - w
assert apart(x - h / 2 * v, problem.x0) < 1e-12 and apart(v, problem.v0) < 1e-12

# %% [markdown]
# Finite differences do not know how a gradient was found. `gradcheck` compares all four with them, in float64, on
# a force that depends on position, velocity and time, for the start and for a parameter.

# %%
SOLVER = {
    "direct": "leapfrog",
    "checkpoint": "leapfrog",
    "reversible": "reversible_leapfrog",
    "adjoint": "rk4",
}
z = [torch.randn(1, 2, dtype=D, generator=generator).requires_grad_() for _ in range(3)]
for way, solver in SOLVER.items():

    def ends(x, v, w, way=way, solver=solver):
        f = lambda s, x, v: torch.tanh(w * x + s) - 0.3 * v * w  # noqa: E731
        return solve(f, x, v, steps=24 if way == "adjoint" else 5, solver=solver, gradient=way)[:2]

    assert torch.autograd.gradcheck(ends, z, atol=1e-6, rtol=1e-5)


# %% [markdown]
# ## 5. On a real network
#
# Now one block (full resolution, where activations are largest) and the whole trained network, on a batch of
# noisy digits with the training loss. The yardstick for each way is plain backpropagation through the **same
# solver** with the same steps in float64. Leapfrog serves `direct` and `checkpoint`, the reversible leapfrog
# `reversible`, and the midpoint rule `adjoint`; all have order 2.

# %%
SOLVER["adjoint"] = "midpoint"
single = convergence.record(cunet, noisy, steps_of_noise, torch.float32)["blocks_down.0"]
weights = torch.randn(2, *single[1][0].shape, generator=generator)


def block_loss(net):
    kind = next(net.parameters()).dtype
    x, v = net(*(q.to(kind) for q in single[1]))
    return ((x * weights[0].to(kind)).sum() + (v * weights[1].to(kind)).sum()) / x.numel()


def network_loss(net):
    kind = next(net.parameters()).dtype
    return forward.loss(net, digits.to(kind), steps_of_noise, noise.to(kind)).mean()


subjects = {
    "one block": (single[0], block_loss, block_steps),
    "whole network": (cunet, network_loss, network_steps),
}


def gradient(net, loss):
    """The gradient of the loss with respect to all parameters."""
    return torch.autograd.grad(loss(net), [p for p in net.parameters() if p.requires_grad])


# %%
def compare(net, loss, steps: int) -> list[dict]:
    """Error, peak memory and time of every way to the gradient, with `steps` steps a block."""
    nets = {way: convergence.with_solver(net, solver, steps, way) for way, solver in SOLVER.items()}
    found = {}
    runs_of = {way: lambda way=way: found.update({way: gradient(nets[way], loss)}) for way in SOLVER}
    exact = {s: gradient(convergence.with_solver(net, s, steps).to(D), loss) for s in set(SOLVER.values())}
    timed = cost.time_interleaved(runs_of, repeats=max(rounds, 2), warmup=int(steps < 8))
    return [
        dict(
            gradient=way,
            solver=solver,
            steps=steps,
            error=apart(found[way], exact[solver]),
            memory=cost.peak_memory(lambda way=way: gradient(nets[way], loss)),
            seconds=timed.medians[way],
        )
        for way, solver in SOLVER.items()
    ]


# %%
rows = [
    dict(subject=subject) | row
    for subject, (net, loss, tried) in subjects.items()
    for steps in tried
    for row in compare(net, loss, steps)
]
timed = pd.DataFrame(rows)
costs = timed.drop(columns="seconds")

# %%
run.save_table(costs, "ext_gradients", "Error and peak memory of four ways to the gradient.")
picture = ode_figures.gradient_costs(timed)
run.save_figure(
    picture,
    "ext_gradients",
    "Four ways to the gradient, by solver steps: how wrong (dashed: 1e-5), how much memory, how long. Which lines "
    "grow? The adjoint's midpoint makes two evaluations a step, the others one.",
)


# %% [markdown]
# **Memory, in states.** How much does one more step cost? The slope of peak memory against steps, in units of one
# state (position and velocity of the batch, of all blocks together). `checkpoint` must keep one state a step, and
# nothing more; `reversible` and `adjoint` must be flat; `direct` pays for every activation.


# %%
def growth(line, state: float) -> float:
    """Slope of peak memory against steps, in states, over the steps from 2 on (or all, if fewer)."""
    line = line[line.steps >= 2] if (line.steps >= 2).sum() > 1 else line
    return np.polyfit(line.steps, line.memory, 1)[0] / state


# %%
states = {
    "one block": 2 * single[1][0].numel() * 4,
    "whole network": sum(
        2 * a[0].numel() * 4 for _, a in convergence.record(cunet, noisy, steps_of_noise).values()
    ),
}
slopes = pd.DataFrame(
    {
        subject: {way: growth(line, states[subject]) for way, line in lines.groupby("gradient", sort=False)}
        for subject, lines in costs.groupby("subject", sort=False)
    }
)
run.save_table(
    slopes.rename_axis("gradient").reset_index(),
    "ext_memory_growth",
    "Peak memory a further solver step takes.",
)
slopes

# %% [markdown]
# **Check.** Is each as exact, and as flat, as it has to be?

# %%
worst = costs.groupby("gradient", sort=False).error.max()
# Rounding is the floor: where training has all but removed the gradient, plain backpropagation in float32 is itself
# off by some 1e-5 of what is left. The others may add nothing to it.
off = costs.pivot(index=["subject", "steps"], columns="gradient", values="error")
floor = np.maximum(1e-5, 2 * off.direct)
assert off[["checkpoint", "reversible"]].le(floor, axis=0).all(axis=None) and floor.max() < 1e-4
assert (slopes.loc[["reversible", "adjoint"]].abs() < 0.1).all(axis=None)  # the rule of C20
assert (slopes.loc["checkpoint"] < 1.2).all() and (slopes.loc["direct"] > 2).all()

# %% [markdown]
# Flat is not small: the adjoint carries the gradient of every parameter through its steps. Is it worth it at the number
# of steps that the blocks were trained with (the largest, where they differ)? We compare on the whole network, and
# follow the line of `direct` to where it meets the adjoint's.

# %%
whole = costs[costs.subject == "whole network"].pivot(index="steps", columns="gradient")
trained = max(e.steps for e in convergence.equations(cunet, noisy, steps_of_noise, torch.float32))
few = min(network_steps, key=lambda n: abs(n - trained))  # the most of any block in training, or nearest
holds = whole.memory.adjoint[few] / whole.memory.direct[few]
a_step, none = np.polyfit(whole.index, whole.memory.direct, 1)
pays = max(1, int(np.ceil((whole.memory.adjoint[few] - none) / a_step)))
finding = (
    f"at {few} steps on the whole network the adjoint (midpoint, two evaluations a step) holds {holds:.1f} times the "
    f"memory of plain backpropagation (leapfrog, one), and its gradient is {whole.error.adjoint[few]:.1%} off; it "
    f"pays from about {pays} steps on"
)
print(finding)

# %% [markdown]
# ## Exercises
#
# **1.** *The end of the path.* The loss also depends on *when* the path ends, $s_1$. Show that
# $dL/ds_1 = L_z\, F(s_1, z(s_1))$, and check it.

# %% tags=["solution", "hide-input"]
# 1: moving the end by ds moves z by F ds. The adjoint has it for nothing.
p = PROBLEMS["damped"]
ends = [solve(p.acceleration, p.x0, p.v0, (0.0, s), 200, "nystrom4") for s in (1 - 1e-5, 1.0, 1 + 1e-5)]
difference = (ends[2].x.square().sum() - ends[0].x.square().sum()) / 2e-5
formula = (2 * ends[1].x * ends[1].v).sum()  # L = x^2, and the first line of F is v
assert abs(difference - formula) < 1e-6 * abs(formula)
print(f"1. {difference.item():.8f} by differences, {formula.item():.8f} by the formula")

# %% [markdown]
# **2.** *Where the adjoint goes astray.* Solve $x'' = -c\,v\,(1 + v^2)$, friction. Compare the adjoint's gradient with
# the direct one as $c$ grows, with 40 midpoint steps. Which sentence of section 1 fails when the equation is *solved*,
# and does `checkpoint` suffer?


# %% tags=["solution", "hide-input"]
# 2: "so can the state itself": backwards, friction pushes, and the solver's errors of v grow like exp(c). The path
# that the adjoint runs back along is not the one the solution came along. Checkpoints restart from stored states.
def friction_gradient(c: float, way: str) -> float:
    """d(x + v)/dc at s = 1 for x'' = -c v (1 + v^2), from v = 1."""
    c, zero = torch.full((1,), c, dtype=D, requires_grad=True), torch.zeros(1, dtype=D)
    end = solve(
        lambda s, x, v: -c * v * (1 + v * v), zero, zero + 1, steps=40, solver="midpoint", gradient=way
    )
    return torch.autograd.grad((end.x + end.v).sum(), c)[0].item()


off = {}
for c in (1.0, 5.0, 20.0):
    plain, stored, backwards = (friction_gradient(c, way) for way in ("direct", "checkpoint", "adjoint"))
    print(f"2. c = {c:4.0f}: direct {plain:.6f}, checkpoint {stored:.6f}, adjoint {backwards:.6f}")
    assert abs(stored / plain - 1) < 1e-12
    off[c] = abs(backwards / plain - 1)
assert off[1.0] < 0.01 < off[5.0] < 1 < off[20.0]

# %% [markdown]
# **3.** *Between all and nothing.* Between "every state" and "the end state" lies storing every $k$-th: recompute a whole
# segment at a time. For 64 steps, which $k$ needs the least memory?


# %% tags=["solution", "hide-input"]
# 3: peak = the 64/k stored states + the activations of k evaluations; least near k = sqrt(64 state / activations).
def segmented(k: int):
    module, (x, v, embedding) = convergence.with_solver(single[0], "leapfrog", k), single[1]
    modulation = module.acceleration.modulation(embedding)

    def segment(x, v, i):
        f = lambda s, x, v: module.acceleration(s, x, v, modulation)  # noqa: E731
        return solve(f, x, v, (i * k / 64, (i + 1) * k / 64), k)[:2]

    for i in range(64 // k):
        x, v = recompute(segment, x, v, i, use_reentrant=False)
    (x.sum() + v.sum()).backward()


peaks = {k: cost.peak_memory(lambda k=k: segmented(k)) / 1e6 for k in (1, 2, 4, 8, 16, 64)}
print("3. MB by k:", {k: round(m, 2) for k, m in peaks.items()}, "least at k =", min(peaks, key=peaks.get))
assert 1 < min(peaks, key=peaks.get) < 64

# %% [markdown]
# **4.** *Rounding.* Does the error of `reversible` in float32 grow with the steps?

# %% tags=["solution", "hide-input"]
# 4: it does not (asserted). The force is weak, so nothing magnifies what is rounded.
net, error = convergence.with_solver(single[0], "reversible_leapfrog", 1, "reversible"), {}
for n in (8, 32, 128):
    reference = gradient(convergence.with_solver(single[0], "reversible_leapfrog", n).to(D), block_loss)
    error[n] = apart(
        gradient(convergence.with_solver(net, "reversible_leapfrog", n, "reversible"), block_loss), reference
    )
print("4. relative error:", {n: f"{e:.1e}" for n, e in error.items()})
assert max(error.values()) < 1e-5 and error[128] < 2 * error[8]

# %% [markdown]
# ## 6. What the scorecard gets

# %%
whose = dict(dataset="untrained" if checkpoint == "untrained" else "MNIST", size=size)
c17 = (
    f"the adjoint of the probability flow of two Gaussians is right to {flow_gap:.0e}; on a block of the network "
    f"first- and second-order adjoint agree to {adjoint_gap:.0e}, and the second-order one takes {cost_ratio:.2f} "
    "times the multiply-accumulates"
)
c20 = {
    "adjoint": f"with the adjoint, as section 3.3 argues: a further step costs {{grow:.2f}} states; {finding}",
    "direct": "with plain backpropagation, the authors' way, on our network with leapfrog: a further step costs "
    "{grow:.1f} states",
}
why17 = (
    "the proposition holds for every first-order equation; its printed proof needs a factor and a d, an end condition "
    "and the formula for the gradient. The second half is a count, and "
    + ("comes out as claimed" if cost_ratio >= 1.1 else "does not come out as claimed")
)
why20 = (
    "constant memory is a property of the way to the gradient, not of the network; the authors' code backpropagates "
    f"through the solver, where memory grows with every evaluation. The reversible solver has it too "
    f"({abs(slopes.loc['reversible', 'one block']):.2f} states a step), with a gradient off by "
    f"{worst['reversible']:.0e} at most, where the adjoint's is off by up to {worst['adjoint']:.0%}"
)
claims = [
    dict(
        id="C17", measured=c17, value={"difference": adjoint_gap, "cost": cost_ratio}, why=why17, n=1, **whose
    ),
    *(
        dict(id="C20", measured=text.format(grow=slopes.loc[way].abs().max()), value=slopes.loc[way].abs().max(),
             spread=", ".join(f"{subject} {x:.2f}" for subject, x in slopes.loc[way].items()),
             why=why20, n=batch, **whose)
        for way, text in c20.items()
    ),
]  # fmt: skip

# %%
values = {
    "flow_gap": flow_gap,
    "adjoint_gap": adjoint_gap,
    "macs": macs,
    "gradients": costs.to_dict("records"),
    "memory_growth_states": slopes.to_dict(),
    "worst_error": worst.to_dict(),
    "adjoint_on_the_network": {"steps": few, "memory_of_direct": holds, "pays_from": pays},
    "reversible_rounding": error,
    "segments_mb": peaks,
    "network": whose["dataset"],
}
times = {
    "adjoint_forms": {"medians": adjoint_times.medians, "ratio": adjoint_times.ratios["second order"]},
    "gradients": timed.drop(columns=["error", "memory"]).to_dict("records"),
}
result = run.save_result(values, claims, timings=times, inputs=[path] if path else [])

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
Markdown(scorecard.conclusion(result))
