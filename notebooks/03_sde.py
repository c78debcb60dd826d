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
# # 03 · SDE, probability flow, Langevin
#
# *Answers: equations 2, 5 to 9 and 15 to 18; claims C18 and C26 (their theory); the errata of those equations.*
#
# A diffusion model with infinitely many steps is a stochastic differential equation. Section 3.3 of the
# paper builds its case for continuous networks on that limit: the reverse SDE is a deterministic
# *probability flow* plus *Langevin* noise; the flow alone is therefore faster; but it is less accurate.
#
# **The question: which links of this chain hold, and when?**
#
# To answer it without a network between us and the truth, the data here are a mixture of three Gaussians in the plane.
# Their score is a formula at every noise level, so every error below is an error of the method, never of training.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "03_sde"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of every random draw
points = 16384  # points in a cloud (a power of 2: Sobol points are even only then)
steps = 200  # solver steps where their number is not the question (a multiple of 20)
langevin_speed = 8  # how many times faster than in equation 9 Langevin runs when it runs alone
counts = [8, 16, 32, 64]  # score evaluations, mixture
exact_counts = [64, 128, 256, 512, 1024]  # score evaluations, one Gaussian
target = 0.02  # error at which solvers are compared (distance in the plane; the data are about 1.2 wide)
training_steps = 1500  # of the small denoiser in section 9
toy_grid = 41  # grid points of the perception-distortion problem in section 9

# %%
# %matplotlib inline
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import sympy as sp
import torch
from IPython.display import Markdown
from scipy.optimize import linprog

from cunet import runs, scorecard, sde_figures
from cunet.diffusion import Diffusion
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
)

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(seed)
run = runs.Run.open(globals())
enough = counts[-1] >= 64 and training_steps >= 1000  # fewer are too few for some of the conclusions


# %% [markdown]
# ## 1. A thousand small steps become an SDE
#
# One step of the forward process multiplies by $\sqrt{1-\beta_k}$ and adds noise of variance $\beta_k$. Let
# a step take the time $h=1/T$ and write $\beta_k=\beta(t)\,h$. As $h\to0$, $\sqrt{1-\beta
# h}\approx1-\frac12\beta h$, and
#
# $$ x_{t+h} = x_t - \tfrac12\beta(t)\,x_t\,h + \sqrt{\beta(t)\,h}\;z
# \quad\longrightarrow\quad dx = \underbrace{-\tfrac12\beta(t)\,x}_{f(x,t)}\,dt + \underbrace{\sqrt{\beta(t)}}_{g(t)}\,dw . $$
#
# The left-hand side *is* a solver for the right-hand side: the Euler-Maruyama method. $dw$ is the increment
# of Brownian motion, a Gaussian whose variance is the time that passes: hence the $\sqrt h$.
#
# The equation is linear, so its solution is known,
#
# $$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I), \tag{N} $$
#
# as with a thousand steps, now with $\bar\alpha_t=\exp(-\int_0^t\beta)$, also written $\bar\alpha(t)$, or $\bar\alpha$
# where the time is clear. A Gaussian $\mathcal N(m,C)$ becomes
# $\mathcal N(\sqrt{\bar\alpha}\,m,\ \bar\alpha C+(1-\bar\alpha)I)$, and a mixture stays a mixture. The density at time
# $t$ is called $p_t$.


# %%
def tilted(long, short, degrees):
    """Covariance of an ellipse: standard deviations along its axes, and the angle of the long one."""
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    return turn @ torch.diag(torch.tensor([long**2, short**2])) @ turn.T


centres = torch.tensor([[-1.5, -0.6], [1.4, -0.9], [0.3, 1.7]])
shapes = torch.stack([tilted(0.55, 0.25, 60), tilted(0.5, 0.25, -40), tilted(0.6, 0.2, 0)])
data = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), centres, shapes)
sde = VariancePreserving()  # beta(t) from 0.1 to 20: the limit of DDPM's linear schedule
score = sde.score(data)

# %% [markdown]
# Two checks of the ground under everything below. The score, $\nabla\log p_t$, against automatic
# differentiation; and the claim that a simulated cloud has the density $p_t$.
#
# The yardstick for clouds is the *sliced Wasserstein distance*: how far mass has to be moved to turn the
# cloud into the exact density, averaged over directions from which one looks at the plane. It has the unit
# of $x$. A cloud of $n$ perfect points does not have distance 0, but a *floor* of order $1/\sqrt n$.

# %%
y = data.sample(500, generator).requires_grad_()
(by_autograd,) = torch.autograd.grad(sde.marginal(data, 0.3).log_prob(y).sum(), y)
assert torch.allclose(score(y.detach(), 0.3), by_autograd, atol=1e-10)


def floor_of(n):
    """Distance of n perfect, independent points from the density that they were drawn from: average of 4."""
    return np.mean([sliced_wasserstein(data.sample(n, generator), data) for _ in range(4)])


cloud, floor = data.sample(points, generator), floor_of(points)
cloud = euler_maruyama(sde.drift, sde.diffusion, cloud, time_grid(steps, 0.0, 0.3), generator)
distance = sliced_wasserstein(cloud, sde.marginal(data, 0.3))
assert distance < 3 * floor
print(f"simulated cloud to exact density at t = 0.3: {distance:.4f}; floor for {points} points: {floor:.4f}")

# %% [markdown]
# ## 2. The way back, and the factor that equation 6 lacks
#
# How does the density move when points obey $dx=b(x,t)\,dt+\gamma(t)\,dw$? By the Fokker-Planck equation:
#
# $$ \partial_t p = -\nabla\!\cdot(b\,p) + \tfrac12\gamma^2\,\Delta p . $$
#
# Drift carries density along; noise spreads it. Now let time run backwards ($dt<0$, as the paper has it).
# Drift is simply undone, but noise still *spreads*, so against the clock its term changes sign. The paper has a
# reverse SDE and a probability flow, here as printed,
#
# $$ dx = [f - g^2\,\nabla\log p_t]\,dt + g\,dw, \tag{5} $$
# $$ dx = [f - g^2\,\nabla\log p_t]\,dt, \tag{6} $$
#
# and, for $f=-\tfrac12\beta x$, $g=\sqrt\beta$ and the score $s=\nabla\log p_t$,
#
# $$ dx = -\tfrac12\beta\,[x+2s]\,dt + \sqrt\beta\,dw, \tag{7} $$
# $$ dx = -\tfrac12\beta\,[x+s]\,dt. \tag{8} $$
#
# One with noise and one without, and the same drift in (5) and (6): can both be right? Try the family
#
# $$ dx = \big[f - c\,g^2\,\nabla\log p_t\big]\,dt + \lambda\, g\,dw ,\qquad dt<0, $$
#
# and ask for which $c$ its density is the *same* $p_t$ that the forward SDE made. One dimension is enough to
# see it: in more, $\partial_x$ becomes a divergence and nothing else changes.

# %%
x, t, lam, c = sp.symbols("x t lambda c", real=True)
p, f, g = sp.Function("p")(x, t), sp.Function("f")(x, t), sp.Function("g")(t)
forward = -sp.diff(f * p, x) + g**2 / 2 * sp.diff(p, x, 2)
drift = f - c * g**2 * sp.diff(sp.log(p), x)
backward = -sp.diff(drift * p, x) - (lam * g) ** 2 / 2 * sp.diff(p, x, 2)
mismatch = sp.simplify((forward - backward).doit())
(needed,) = sp.solve(mismatch, c)
assert sp.simplify(needed - (1 + lam**2) / 2) == 0
sp.Eq(c, needed)

# %% [markdown]
# So $c=\frac12(1+\lambda^2)$, whatever the data, $f$ and $g$ are. Noise of strength $\lambda$ has to be paid
# for by more pull along the score. Two members have names:
#
# * $\lambda=1$, $c=1$: the **reverse SDE**, equation 5, as printed;
# * $\lambda=0$, $c=\frac12$: the **probability flow**, equation 6. The paper prints $c=1$.
#
# The missing $\frac12$ is an **erratum**: equation 8, derived from equation 6, has it again. The next cell
# puts the paper's $f$ and $g$ into each equation. What is left over for equation
# 6 as printed, $-\frac12g^2\,\partial_x^2p$, is a diffusion equation run backwards: it sharpens the density
# without end.

# %%
beta, s = sp.symbols("beta s", positive=True)
f_paper, g2 = -beta * x / 2, beta
eq5, eq6, eq6_mended = f_paper - g2 * s, f_paper - g2 * s, f_paper - g2 * s / 2
eq7, eq8 = -beta / 2 * (x + 2 * s), -beta / 2 * (x + s)
assert sp.expand(eq5 - eq7) == 0 and sp.expand(eq6_mended - eq8) == 0
assert sp.expand(eq6 - eq8) != 0  # the erratum
assert mismatch.subs({c: 1, lam: 1}) == 0 and mismatch.subs({c: sp.Rational(1, 2), lam: 0}) == 0
assert mismatch.subs({c: 1, lam: 0}) != 0
mismatch.subs({c: 1, lam: 0})

# %% [markdown]
# ## 3. Equation 9: reverse SDE = flow + Langevin
#
# Equation 9 splits the drift of the reverse SDE in two,
#
# $$ dx = \underbrace{-\tfrac12\beta\,[x+s]\,dt}_{\text{probability flow}}\;
#  \underbrace{-\,\tfrac12\beta\,s\,dt+\sqrt{\beta}\,dw}_{\text{Langevin}} ,\qquad s=\nabla\log p_t . \tag{9} $$
#
# The second part, with $d\tau=-\beta\,dt>0$, is $dx=\frac12 s\,d\tau+dw$: the Langevin equation, climbing
# the log-density against noise. It moves points, yet keeps the density $p_t$ as it is. The flow does the
# opposite: no noise, and it carries $p_t$ into $p_{t+dt}$, the density a moment earlier ($dt<0$). **All progress is the
# flow's; Langevin only shuffles, towards equilibrium.**
#
# Checked in symbols, then on the library: one step of the SDE is one step of each, to the last digit.

# %%
langevin_drift = -beta / 2 * s
assert sp.expand(eq7 - (eq8 + langevin_drift)) == 0
kept = -sp.diff(-beta / 2 * sp.diff(sp.log(p), x) * p, x) - beta / 2 * sp.diff(p, x, 2)
assert sp.simplify(kept.doit()) == 0  # Langevin leaves p_t where it is

before, span = sde.marginal(data, 0.4).sample(1000, generator), [0.4, 0.39]
noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
whole = euler_maruyama(sde.reverse_drift(score), sde.reverse_diffusion(), before, span, noise[0])
flow_part = euler(sde.reverse_drift(score, 0.0), before, span)
langevin_part = langevin(lambda y: score(y, 0.4), before, sde.beta(0.4) * 0.01, 1, noise[1])
gap = float((whole - flow_part - langevin_part + before).abs().max() / (whole - before).abs().max())
assert gap < 1e-12

# %% [markdown]
# ## 4. Watch the densities
#
# Five clouds start from the exact $p_1$ and travel back to $t=0$: the reverse SDE; the flow; the Langevin
# part of equation 9 alone; the same with its clock running several times faster; and equation 6 as printed.
# At every mark each is compared with the exact $p_t$.
#
# Without the flow, Langevin can only chase the moving target. The faster it runs, the closer it follows, and
# every bit of speed costs score evaluations.

# %%
marks = [1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0]


def follow(drift, diffusion, refine=1):
    """The cloud at every mark on its way from the exact p_1 to t = 0."""
    clouds = [sde.marginal(data, 1.0).sample(points, generator, quasi=True)]
    for start, end in pairwise(marks):
        times = time_grid(round((start - end) * steps * refine), start, end)
        clouds.append(euler_maruyama(drift, diffusion, clouds[-1], times, generator))
    return clouds


def only_langevin(speed):
    """Drift and diffusion of equation 9 without the flow, `speed` times as fast."""
    return lambda x, t: -0.5 * speed * sde.beta(t) * score(x, t), lambda t: math.sqrt(speed * sde.beta(t))


# %%
fast = f"Langevin alone, {langevin_speed} × speed"
ways = {
    "reverse SDE (eq. 7)": follow(sde.reverse_drift(score), sde.reverse_diffusion()),
    "flow (eq. 8)": follow(sde.reverse_drift(score, 0.0), sde.reverse_diffusion(0.0)),
    fast: follow(*only_langevin(langevin_speed), refine=langevin_speed),
    "Langevin alone": follow(*only_langevin(1)),
    "eq. 6 as printed": follow(sde.reverse_drift(score, 1.0), sde.reverse_diffusion(0.0)),
}
exact = [sde.marginal(data, at) for at in marks]
distances = {
    name: [sliced_wasserstein(*pair) for pair in zip(clouds, exact, strict=True)]
    for name, clouds in ways.items()
}
end = {name: line[-1] for name, line in distances.items()}
assert max(*distances["reverse SDE (eq. 7)"], *distances["flow (eq. 8)"]) < 4 * floor  # at every mark
assert end[fast] < end["Langevin alone"] and end["eq. 6 as printed"] > 20 * end["flow (eq. 8)"]

# %%
shown = [marks.index(at) for at in (1.0, 0.5, 0.3, 0.1, 0.0)]
label = {name: name.replace(", ", ",\n").replace(" (", "\n(") for name in ways if name != "Langevin alone"}
rows = {"exact": [None] * 5} | {text: [ways[name][i] for i in shown] for name, text in label.items()}
numbers = {text: [distances[name][i] for i in shown] for name, text in label.items()}
heads = [f"t = {marks[i]:g}" for i in shown]
figure = sde_figures.densities(rows, [exact[i] for i in shown], heads, numbers)
run.save_figure(
    figure,
    "ext_sde_density_flow",
    "Clouds on their way back, under contours of the exact density: which stay on it? Number: distance from it.",
)

# %% [markdown]
# The SDE and the flow stay on $p_t$, within a few times the floor of a perfect cloud at every mark (the cell above the
# picture asserts it). Equation 6 as printed leaves it at once and collapses almost to a point: it has the pull of the
# SDE, and no noise to balance it.
#
# How thin does it get? For Gaussian data $\mathcal N(0,\sigma^2)$ the flow of equation 6 is linear, and with
# $v_t=\bar\alpha\sigma^2+1-\bar\alpha$ its variance obeys $\frac{d}{dt}\log
# V=-\beta+2\beta/v_t=\frac{d}{dt}\log v_t+\beta/v_t$. As $\dot v_t=\beta\,(1-v_t)$, the extra term
# integrates to $\log\frac{v}{1-v}$, and
#
# $$ V_0=\sigma^4\,\bar\alpha(1)/v_1 \qquad\text{instead of}\qquad \sigma^2 . $$
#
# With the usual schedule, $\bar\alpha(1)\approx4\cdot10^{-5}$: nothing is left of the width.


# %%
def affine(step, times, variance):
    """Variance after steps x -> a x + b z. a and b are asked of the step itself: exact, nothing is sampled."""
    for span in pairwise(times):
        a, b = step(torch.tensor([[1.0], [0.0]]), span, torch.tensor([[[0.0], [1.0]]])).flatten().tolist()
        variance = a**2 * variance + b**2
    return variance


sigma = 0.5
bell = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1, 1), sigma**2))
v1 = float(sde.marginal(bell, 1.0).covariance())
printed = sde.reverse_drift(sde.score(bell), 1.0)
left = affine(lambda x, span, z: heun(printed, x, span), time_grid(400), v1)
assert abs(left / (sigma**4 * sde.alpha_bar(1.0) / v1) - 1) < 0.01
print(f"equation 6 as printed turns variance {sigma**2} into {left:.2e}")

# %%
lines = {name: (marks, values) for name, values in distances.items()}
axes = "t (time runs to the right)", "distance from the exact $p_t$"
panel = sde_figures.Panel(lines, *axes, falling=True, floor=floor, legend="below")
figure = sde_figures.panels(panel, height=3.7)
run.save_figure(
    figure,
    "ext_sde_distance",
    "Distance from the exact density along the way back: which lines stay in the grey band?",
)

# %% [markdown]
# **Same densities, different paths.** Below, the same eight starting points go back by the SDE and by the
# flow, over the exact density of the first coordinate at every $t$ (grey). The flow's paths are smooth, so a solver can
# take long steps along them. (They cross only in this view from the side: two points of the plane never
# meet.) The SDE's are rough at every scale. This is the whole reason why the flow *can* be faster. Whether
# it *is* remains to be measured.

# %%
times, paths = time_grid(steps), {}
for name, weight in (("reverse SDE", 1.0), ("flow", 0.0)):
    back = sde.reverse_drift(score, weight), sde.reverse_diffusion(weight)
    path = [sde.marginal(data, 1.0).sample(8, torch.Generator().manual_seed(seed))]
    for span in pairwise(times):
        path.append(euler_maruyama(*back, path[-1], span, generator))
    paths[name] = torch.stack(path)[..., 0]
height = torch.linspace(-3, 3, 200)
across = GaussianMixture(data.weights, centres[:, :1], shapes[:, :1, :1])  # the density of x_1
wall = torch.stack([sde.marginal(across, at).log_prob(height[:, None]).exp() for at in times], 1)
figure = sde_figures.paths(paths, wall, times, height)
run.save_figure(
    figure,
    "ext_sde_trajectories",
    "Eight points on their way back, by SDE and by flow, over the exact density: along which paths could a solver take "
    "long steps?",
)

# %% [markdown]
# ## 5. Equation 2: DDPM's step, derived
#
# DDPM does not start from an SDE. It asks for the law of $x_{k-1}$ given $x_k$ *and* $x_0$, which is
# Gaussian: a product of $q(x_k\mid x_{k-1})$ and $q(x_{k-1}\mid x_0)$. The exponent is quadratic in
# $x_{k-1}$, so its maximum is the mean and its curvature the inverse variance. Then $x_0$ is eliminated by
# $x_0=(x_k-\sqrt{1-\bar\alpha_k}\,\epsilon)/\sqrt{\bar\alpha_k}$:
#
# $$ x_{k-1}=\frac1{\sqrt{\alpha_k}}\Big(x_k-\frac{\beta_k}{\sqrt{1-\bar\alpha_k}}\,\epsilon_\theta\Big)+\sigma_k z ,
# \qquad \sigma_k^2=\frac{1-\bar\alpha_{k-1}}{1-\bar\alpha_k}\,\beta_k . \tag{2} $$
#
# The paper's equation 2 has $\sqrt{\beta_k}/\sqrt{1-\alpha_k}$ as the factor of $\epsilon_\theta$. Since
# $\alpha_k=1-\beta_k$, that is 1 at every step: an **erratum** (Ho et al. 2020, algorithm 2, have the factor
# above).

# %%
xk, xb, eps = sp.symbols("x_k x_{k-1} epsilon", real=True)
alpha, abar = sp.symbols("alpha abar", positive=True)
before_abar, beta_k = abar / alpha, 1 - alpha  # abar of step k-1, and beta of step k
clean = (xk - sp.sqrt(1 - abar) * eps) / sp.sqrt(abar)
exponent = -((xk - sp.sqrt(alpha) * xb) ** 2) / (2 * beta_k)
exponent -= (xb - sp.sqrt(before_abar) * clean) ** 2 / (2 * (1 - before_abar))
(mean,) = sp.solve(sp.diff(exponent, xb), xb)
variance = -1 / sp.diff(exponent, xb, 2)
ho = (xk - beta_k / sp.sqrt(1 - abar) * eps) / sp.sqrt(alpha)
as_printed = (xk - sp.sqrt(beta_k) / sp.sqrt(1 - alpha) * eps) / sp.sqrt(alpha)
assert sp.simplify(mean - ho) == 0
assert sp.simplify(variance - beta_k * (1 - before_abar) / (1 - abar)) == 0
assert sp.simplify(mean - as_printed) != 0  # the erratum

# %% [markdown]
# The library's `ancestral_step` is this formula. The next cell holds it to that; the one after it samples
# with both versions. The network is replaced by the exact answer $\epsilon=-\sqrt{1-\bar\alpha}\;\nabla\log
# p$.
#
# **DDPM is a solver of the reverse SDE.** Put $\beta_k=h\beta$ and $\epsilon=-\sqrt{1-\bar\alpha}\,s$ into
# equation 2 and expand in $h$: what remains to first order, in the mean and in the variance $\sigma_k^2$, is
# the Euler-Maruyama step of equation 7. The difference in one step is $O(h^2)$, so after $1/h$ steps it is
# $O(h)$: like Euler-Maruyama, DDPM should have **weak order 1**, which section 6 measures. ("Weak": the
# error of the density, not of single paths.)

# %%
h = sp.symbols("h", positive=True)
step = ho.subs(eps, -sp.sqrt(1 - abar) * s).subs(alpha, 1 - h * beta)
assert sp.simplify(sp.series(step, h, 0, 2).removeO() - (xk - h * eq7.subs(x, xk))) == 0
assert sp.simplify(sp.series(variance.subs(alpha, 1 - h * beta), h, 0, 2).removeO() - h * beta) == 0

chain = Diffusion("linear", timesteps=steps, prediction_type="epsilon")
k = steps // 3
xt, answer = torch.randn(50, 2, generator=generator), torch.randn(50, 2, generator=generator)
fresh, zk = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)), sp.symbols("z_k", real=True)
formula = sp.lambdify((xk, eps, zk, alpha, abar), ho + sp.sqrt(variance) * zk, "numpy")
given = float(chain.alphas[k]), float(chain.alphas_cumprod[k])
by_hand = formula(xt.numpy(), answer.numpy(), fresh.numpy(), *given)
assert np.allclose(ancestral_step(chain, answer, xt, k, fresh).numpy(), by_hand, atol=1e-12)


# %%
def ddpm(data, x, times, noise=None):
    """Equation 2 from times[0] to times[-1], on a chain of 1/h steps, with the exact score of that chain."""
    chain = Diffusion("linear", timesteps=round(1 / (times[0] - times[1])), prediction_type="epsilon")
    for n, time in enumerate(times[:-1]):
        k = round(time * chain.timesteps) - 1
        signal = float(chain.alphas_cumprod[k])
        epsilon = -math.sqrt(1 - signal) * data.noised(signal).score(x)
        z = torch.randn(x.shape, generator=generator) if noise is None else noise[n]
        x = ancestral_step(chain, epsilon, x, k, z)
    return x


start = sde.marginal(data, 1.0).sample(points, generator, quasi=True)
right, wrong = ddpm(data, start, time_grid(steps)), start
for k in reversed(range(steps)):
    signal = float(chain.alphas_cumprod[k])
    epsilon = -math.sqrt(1 - signal) * data.noised(signal).score(wrong)
    wrong = (wrong - epsilon) / float(chain.alphas[k].sqrt())  # the printed mean; its noise cannot save it
    wrong = wrong + float(chain.betas[k].sqrt()) * torch.randn(wrong.shape, generator=generator) * (k > 0)
printed_distance, ddpm_distance = sliced_wasserstein(wrong, data), sliced_wasserstein(right, data)
assert printed_distance > 10 * ddpm_distance
print(f"distance from the data after {steps} steps: {ddpm_distance:.3f}; as printed: {printed_distance:.3f}")

# %% [markdown]
# ## 6. Error against the number of steps
#
# Two measurements. **One Gaussian, exactly:** every solver's step is linear there, $x\mapsto ax+bz$, so the
# variance it ends with follows from $a$ and $b$ with no sampling at all, and orders come out clean.
# Langevin, which does not travel, starts from the exact width, runs for a fixed time towards the same
# Gaussian, and is judged by the width it ends with. **The mixture:** clouds against the exact density. For
# the flow, Sobol points push the floor down (section 4: the clouds at $t=1$ beside the floor of independent
# points), so its lines may fall below the grey band. For stochastic solvers every step draws fresh noise, and
# the floor of the cloud remains.
#
# The horizontal axis counts evaluations of the score (the network, in practice): that is what costs time.
# Heun's method uses two a step.


# %%
def sde_solver(data, x, times, noise=None):
    drift = sde.reverse_drift(sde.score(data))
    return euler_maruyama(drift, sde.reverse_diffusion(), x, times, generator, noise)


def flow_solver(method):
    return lambda data, x, times, noise=None: method(sde.reverse_drift(sde.score(data), 0.0), x, times)


solvers = {
    "reverse SDE, Euler-Maruyama": sde_solver,
    "reverse SDE, DDPM (eq. 2)": ddpm,
    "flow, Euler": flow_solver(euler),
    "flow, Heun": flow_solver(heun),
}
calls = [1, 1, 1, 2]  # score evaluations a step


def langevin_step(x, span, z):
    """Langevin towards the density of `bell`; here span is a piece of Langevin's own time."""
    return euler_maruyama(lambda y, _: 0.5 * bell.score(y), lambda _: 1.0, x, span, noise=z)


def order(evaluations, error):
    """Minus the slope of log error against log evaluations."""
    return -np.polyfit(np.log(evaluations), np.log(error), 1)[0]


# %%
exact_errors, cloud_errors = {}, {}
start = sde.marginal(data, 1.0).sample(4 * points, generator, quasi=True)
for (name, solve), each in zip(solvers.items(), calls, strict=True):
    exact_errors[name], cloud_errors[name] = [], []
    for n in exact_counts:
        v = affine(partial(solve, bell), time_grid(n // each), v1)
        exact_errors[name].append(abs(math.sqrt(v) / sigma - 1))
    for n in counts:
        cloud_errors[name].append(sliced_wasserstein(solve(data, start, time_grid(n // each)), data))
widths = [math.sqrt(affine(langevin_step, time_grid(n, 0.0, 8.0), sigma**2)) for n in exact_counts]
exact_errors["Langevin, fixed $p_0$"] = [abs(width / sigma - 1) for width in widths]


# %%
def evaluations_for(error):
    """Score evaluations at which an error curve falls to `target`, read off between the measured points; or NaN."""
    if min(error) > target:
        return math.nan
    return float(np.exp(np.interp(-math.log(target), -np.log(np.minimum.accumulate(error)), np.log(counts))))


table = pd.DataFrame(
    {
        "order, theory": [1, 1, 1, 2, 1],
        "order, one Gaussian": [order(exact_counts, e) for e in exact_errors.values()],
    },
    index=pd.Index(exact_errors, name="solver"),
)
reached = {name: evaluations_for(e) for name, e in cloud_errors.items()}
table[f"mixture, distance at {counts[-1]}"] = pd.Series({name: e[-1] for name, e in cloud_errors.items()})
table[f"mixture, evaluations to reach {target}"] = pd.Series(reached)
assert (table["order, one Gaussian"] - table["order, theory"]).abs().max() < 0.15
for e in (exact_errors, cloud_errors):  # step for step the flow is nearer
    for back in ("reverse SDE, Euler-Maruyama", "reverse SDE, DDPM (eq. 2)"):
        assert all(f < s for f, s in zip(e["flow, Euler"], e[back], strict=True))
run.save_table(
    table,
    "ext_sde_orders",
    "Measured orders of solvers of the reverse SDE and of the flow. No number: not measured, or not reached.",
)
table.round(3)

# %%
slopes = {f"{k}: slope {-order(exact_counts, e):.2f}": (exact_counts, e) for k, e in exact_errors.items()}
clouds = {name: (counts, e) for name, e in cloud_errors.items()}
log = {"xlabel": "score evaluations", "logx": True, "legend": "below"}
exactly = sde_figures.Panel(slopes, ylabel="relative error of the width", title="one Gaussian, exact", **log)
by_clouds = sde_figures.Panel(clouds, ylabel="distance from the data", title="mixture, clouds", **log)
by_clouds.floor = floor_of(4 * points)
figure = sde_figures.panels(exactly, by_clouds, height=3.8)
run.save_figure(
    figure,
    "ext_sde_orders",
    "Error against score evaluations, for one Gaussian (left) and the mixture (right): which line is lowest at how "
    "many, and which is steepest (a higher order)? Grey band: the floor of independent points.",
)

# %% [markdown]
# With an exact score, then:
#
# * **The flow is faster.** Step for step, Euler on the flow is nearer to the data than Euler-Maruyama and
#   DDPM on the SDE; and the flow admits methods of higher order. Whether one pays depends on the accuracy that is asked
#   for: the last column of the table compares Heun with Euler at the error `target`.
# * **The flow is not less accurate.** Both go to the exact density, and the flow goes there sooner.
#   "Although [it] is faster, it is less accurate" does not follow from equation 9.
# * **DDPM is a first-order solver of the reverse SDE**, with a larger constant than Euler-Maruyama: its
#   $\sigma_k^2$ is exact for data of no width at all (exercise 1) and too small for ours. Near $t=0$, where
#   $1-\bar\alpha_k$ is not much larger than $\beta_k$, the expansion in $h$ is not yet valid, and the slope
#   approaches 1 from below.
#
# And Langevin on its own? The next cell lets it run towards a fixed $p_t$, starting from pure noise, at
# several noise levels. Noise fills the valleys between the modes; where they are empty, a point can hardly leave the
# mode that it found first, and the shares of the modes stay as wrong as they began. And however long it runs, its step
# $h$ leaves the bias measured above (exercise 4 computes it).

# %%
levels, rounds = (0.4, 0.2, 0.1, 0.0), 8
narrowest = [float(torch.linalg.eigvalsh(sde.marginal(data, at).covariances).min()) for at in levels]
chased = {}
for at, width in zip(levels, narrowest, strict=True):
    stay = sde.marginal(data, at)
    cloud, chased[at] = torch.randn(points // 2, 2, generator=generator), []
    for _ in range(rounds):
        chased[at].append(sliced_wasserstein(cloud, stay))
        cloud = langevin(stay.score, cloud, 0.3 * width, steps // 8, generator)
assert chased[0.2][-1] < chased[0.2][0] / 3 or not enough  # arrived
assert chased[0.0][-1] > 0.1  # not arrived
lines = {f"t = {at:g}": (np.arange(rounds) * (steps // 8), values) for at, values in chased.items()}
panel = sde_figures.Panel(lines, "Langevin steps", "distance from $p_t$")
run.save_figure(
    sde_figures.panels(panel),
    "ext_sde_langevin",
    "Langevin alone, from pure noise towards four fixed $p_t$: at which noise levels does it arrive, and at which does "
    "its line stop falling above the others?",
)

# %% [markdown]
# ## 7. When the score is wrong
#
# Why, then, do practitioners see better samples from the SDE (Karras et al. 2022, section 4)? One
# reason: a network's score is wrong. Let $q$ be the density of the samples on their way, and $\hat s=s+e$ the score
# that drives them. From the Fokker-Planck equation, with time running back,
#
# $$ -\frac{d}{dt}\,\mathrm{KL}(q\,\|\,p_t) = -\tfrac12\lambda^2\beta\;\mathbb E_q\big\|\nabla\log\tfrac{q}{p_t}\big\|^2
#  + \tfrac12(1+\lambda^2)\,\beta\;\mathbb E_q\big[e\cdot\nabla\log\tfrac{q}{p_t}\big]. $$
#
# The first term is Langevin's. It only ever lowers the error, **whatever made it**: a wrong score earlier,
# or a coarse step. For the flow, $\lambda=0$, it is missing: the flow hands every old error on unchanged.
# The second term is the damage that a wrong score does *now*, and noise makes it worse, by $1+\lambda^2$:
# more noise needs more pull, and pull uses the wrong score.
#
# By $-a u^2+bu\le b^2/4a$ the sum is at most $\frac{(1+\lambda^2)^2}{8\lambda^2}\,\beta\,\mathbb E\|e\|^2$.
# The best guarantee against a score error of unknown shape is at $\lambda=1$: the reverse SDE itself. For
# the flow this argument gives none at all.

# %%
guarantee = (1 + lam**2) ** 2 / (8 * lam**2)
assert sp.solve(sp.diff(guarantee, lam), lam) == [-1, 1] and guarantee.subs(lam, 1) == sp.Rational(1, 2)

weights = [0.0, 0.5, 1.0, 1.5, 2.0]  # lambda
flaws = {"early (t > 0.4)": (0.1, 0.4, 1.0), "late (t < 0.1)": (0.2, 0.0, 0.1)}
flaws["throughout"] = (0.05, 0.0, 1.0)


def flawed(size, low, high):
    """The exact score, but the noise it stands for is off by `size` along x_1 while low <= t <= high."""
    push = torch.tensor([size, 0.0])
    return lambda x, t: score(x, t) - (low <= t <= high) * push / math.sqrt(1 - sde.alpha_bar(t))


def error_with(score, weight, steps):
    times = time_grid(steps)
    back = sde.reverse_drift(score, weight), sde.reverse_diffusion(weight)
    return sliced_wasserstein(euler_maruyama(*back, start[:points], times, generator), data)


# %%
flawed_errors, coarse_errors = {}, {}
for name, flaw in flaws.items():
    flawed_errors[name] = [error_with(flawed(*flaw), weight, 2 * counts[-1]) for weight in weights]
for n in counts[1:]:
    coarse_errors[f"{n} steps"] = [error_with(score, weight, n) for weight in weights]
early, late = flawed_errors["early (t > 0.4)"], flawed_errors["late (t < 0.1)"]
assert early[0] > 2 * early[2]  # an old error: the SDE repairs what the flow keeps
assert late[2] > 1.2 * late[0]  # a fresh one: noise makes it worse

# %%
axes = r"noise $\lambda$  (0: flow, 1: reverse SDE)", "distance from the data"
shown = {"the score is wrong": flawed_errors, "the score is exact, steps are coarse": coarse_errors}
panels = [
    sde_figures.Panel({name: (weights, e) for name, e in errors.items()}, *axes, title=title, floor=floor)
    for title, errors in shown.items()
]
run.save_figure(
    sde_figures.panels(*panels),
    "ext_sde_imperfect_score",
    "Distance from the data against the noise on the way back: where is each line lowest?",
)

# %%
every = {f"wrong score, {name}": e for name, e in flawed_errors.items()}
every |= {f"exact score, {name}": e for name, e in coarse_errors.items()}
found = "; ".join(f"{name}: {weights[int(np.argmin(e))]:g}" for name, e in every.items())


def beside_the_sde(errors):
    """How the flow's error, at lambda = 0, compares with the reverse SDE's, at lambda = 1."""
    more = errors[weights.index(0.0)] - errors[weights.index(1.0)]
    return "not told apart" if abs(more) <= floor else "less accurate" if more > 0 else "more accurate"


sides = {side: [] for side in ("less accurate", "more accurate", "not told apart")}
for name, errors in every.items():
    sides[beside_the_sde(errors)].append(name)
said = "; ".join(f"*{side}*: {', '.join(names) or 'nowhere'}" for side, names in sides.items())
Markdown(
    f"Each line is lowest at this $\\lambda$: {found}.\n\nThe flow ($\\lambda=0$) beside the reverse SDE"
    f" ($\\lambda=1$), where their errors differ by more than the floor of {floor:.3f}: {said}."
)

# %% [markdown]
# Real networks make errors of all kinds, which is why Karras et al. tune the amount of noise for each network, and
# confine it to a middle range of noise levels.
#
# ## 8. Log-likelihood
#
# Along the flow $\dot x=b(x,t)$ a small volume changes at the rate $\nabla\!\cdot b$, so the density of a
# point that is carried along obeys $\frac{d}{dt}\log p_t(x_t)=-\nabla\!\cdot b(x_t,t)$, and
#
# $$ \log p_0(x_0)=\log p_1(x_1)+\int_0^1\nabla\!\cdot b(x_t,t)\,dt . $$
#
# The divergence needs one backward pass for each dimension. For images one takes Hutchinson's estimate
# $e^\top\frac{\partial b}{\partial x}e$ with random signs $e$: one pass, and unbiased, because $\mathbb
# E[ee^\top]=I$.
#
# One more error is always there: samplers take $\mathcal N(0,I)$ for $p_1$. The table has it in a column of its own.

# %%
probe, p1 = data.sample(200, generator), sde.marginal(data, 1.0).log_prob
truth = data.log_prob(probe)


def likelihood_error(n, prior=p1):
    return float((log_likelihood(sde, score, probe, n, prior=prior) - truth).abs().max())


likelihood = pd.DataFrame({"rk4 steps": [8, 16, 32, 64, 128]})
likelihood["largest error in nats"] = [likelihood_error(n) for n in likelihood["rk4 steps"]]
likelihood["with N(0, I) for p_1"] = [likelihood_error(n, None) for n in likelihood["rk4 steps"]]
*_, (_, best, with_normal) = likelihood.itertuples(index=False)
assert best < 1e-3 < with_normal
run.save_table(likelihood, "ext_sde_likelihood", "Log-likelihood along the flow against the exact one.")
likelihood

# %% [markdown]
# Down to $10^{-3}$ nats and below, once the true $p_1$ is used. What is left with $\mathcal N(0,I)$ no solver can
# mend: it is the signal $\sqrt{\bar\alpha(1)}\,m$ that the noise never covered. Next, Hutchinson's estimate,
# many times for each of four points: it scatters, and its mean is right.

# %%
few, copies = probe[:4], 500
many = log_likelihood(sde, score, few.repeat(copies, 1), 64, "hutchinson", p1, generator).view(copies, 4)
bias = (many.mean(0) - truth[:4]) / (many.std(0) / math.sqrt(copies))
assert bias.abs().max() < 4  # in standard errors
print(f"one estimate scatters by {many.std(0).mean():.2f} nats; the mean of {copies} is off by", end=" ")
print(f"{(many.mean(0) - truth[:4]).abs().mean():.3f}, as chance allows")

# %% [markdown]
# ## 9. What the L2 loss asks for: the posterior mean
#
# A denoiser $\hat x$ trained with $\mathbb E\|x_0-\hat x(y)\|^2$ is pulled, at every $y$, towards the mean of all clean
# $x_0$ that may lie behind that $y$. Indeed $\mathbb E\|x_0-\hat x(y)\|^2=\mathbb E\|x_0-\mathbb
# E[x_0|y]\|^2+\mathbb E\|\mathbb E[x_0|y]-\hat x(y)\|^2$ (the mixed term vanishes on averaging over $x_0$ given
# $y$), and only the second term depends on $\hat x$. For our mixture the posterior mean is a formula (Tweedie's),
# $\mathbb E[x_0|y]=(y+(1-\bar\alpha)\,\nabla\log p_t(y))/\sqrt{\bar\alpha}$, so we can train a small network
# on noisy points and see where it ends up. Which $x_0$ may lie behind $y$ is Bayes's rule,
#
# $$ q(x_0|y) = \frac{q(y|x_0)\,q(x_0)}{q(y)}, \tag{15} $$
#
# a law of $x_0$ given $y$. (The paper's sentence before it speaks of $y$,
# conditioned on $x$: an **erratum**.)

# %%
noise_time = 0.3
signal = sde.alpha_bar(noise_time)
torch.manual_seed(seed)
net = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)
)
optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training_steps)


def noised(clean):
    return math.sqrt(signal) * clean + math.sqrt(1 - signal) * torch.randn(clean.shape, generator=generator)


# %%
y, behind = torch.linspace(-2, 2, 100).reshape(50, 2), sde.marginal(data, noise_time)
# Tweedie's formula, held to Bayes's rule: the mean of x_0 given y and the component, then over components
gain = math.sqrt(signal) * data.covariances @ torch.linalg.inv(behind.covariances)
means = data.means + torch.einsum("kij,nkj->nki", gain, y[:, None] - behind.means)
bells = torch.distributions.MultivariateNormal(behind.means, behind.covariances).log_prob(y[:, None])
share = (data.weights.log() + bells).softmax(1)[..., None]
assert torch.allclose(sde.posterior_mean(score, y, noise_time), (share * means).sum(1))


for _ in range(training_steps):
    clean = data.sample(1024, generator)
    loss = (net(noised(clean)) - clean).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()

# %% [markdown]
# Now four denoisers see the same noisy points: the network; the exact posterior mean; the flow, run from $t$
# down to 0; and the reverse SDE, which draws one sample from the posterior. Two numbers each:
# **distortion**, the mean squared distance from the original, and **perception**, how far the outputs *as a
# whole* are from the data.


# %%
def rms(difference):
    return float(difference.square().sum(1).mean().sqrt())


clean = data.sample(points, generator)
noisy, down = noised(clean), time_grid(steps, noise_time, 0.0)
with torch.no_grad():
    answers = {
        "network, L2 loss": net(noisy),
        "posterior mean": sde.posterior_mean(score, noisy, noise_time),
        "flow": heun(sde.reverse_drift(score, 0.0), noisy, down[::2]),
        "posterior sample (reverse SDE)": euler_maruyama(
            sde.reverse_drift(score), sde.reverse_diffusion(), noisy, down, generator
        ),
    }
best = answers["posterior mean"]

# %%
mmse = rms(best - clean) ** 2
l2_gap = rms(answers["network, L2 loss"] - best) / math.sqrt(mmse)
smoothing = pd.DataFrame(
    {
        "distortion": [rms(a - clean) ** 2 for a in answers.values()],
        "distance from the data": [sliced_wasserstein(a, data) for a in answers.values()],
        "variance": [float(a.T.cov().trace()) for a in answers.values()],
    },
    index=pd.Index(answers, name="denoiser"),
)
assert l2_gap < 0.1 or not enough  # of the smallest error there is
lost = float(data.covariance().trace()) - smoothing.variance["posterior mean"]
assert abs(lost / mmse - 1) < 0.1  # the variance that averaging takes away is the mean squared error
assert abs(smoothing.distortion["posterior sample (reverse SDE)"] / mmse - 2) < 0.2
assert smoothing.distortion["flow"] < smoothing.distortion["posterior sample (reverse SDE)"]
print(f"The network is {l2_gap:.1%} of the smallest error away from the posterior mean.")
run.save_table(
    smoothing, "ext_sde_denoisers", "Four denoisers of one noise level: distortion and perception."
)
smoothing.round(3)

# %% [markdown]
# How far is the network from the posterior mean? The printed number says, as a share of the smallest error there is.
# And the posterior mean is **over-smoothed**: by the law of total variance, exactly the mean squared error is missing
# from its variance, and its outputs lie between the modes, where there are no data. A posterior sample looks right but
# has twice the mean squared error, again exactly: it and the original are two independent draws from one posterior.
#
# **Equations 16-18.** How good can perception be at a given distortion?
#
# $$ d_\mathrm{TV}(p_{\hat X},p_X)=\tfrac12\int|p_{\hat X}(x)-p_X(x)|\,dx \tag{16} $$
# $$ P(D)=\min_{p_{\hat X|Y}} d_\mathrm{TV}(p_{\hat X},p_X)\quad\text{s.t.}\quad \mathbb E[\Delta(X,\hat X)]\le D
#   \tag{17} $$
# $$ \lambda P(D_1)+(1-\lambda)P(D_2)\ge P(\lambda D_1+(1-\lambda)D_2) \tag{18} $$
#
# With $\Delta$ the squared error, on a grid, this is a linear program over the joint probabilities of $y$ and
# $\hat x$. Its optimum $P(D)$ is **convex**, as (18) says, and the proof is three lines: take the best
# estimators for $D_1$ and $D_2$ and toss a coin for which one to use. The distortion is then $\lambda
# D_1+(1-\lambda)D_2$; the output's density is the same mixture of the two; and the total variation, being
# convex, is at most $\lambda P(D_1)+(1-\lambda)P(D_2)$. The optimum can only be lower.

# %%
grid, sightings = np.linspace(-2, 2, toy_grid), np.linspace(-6, 6, toy_grid)  # values of X and Xhat, and of Y
prior = sum(share * np.exp(-((grid - at) ** 2) / (2 * 0.3**2)) for share, at in ((0.6, -0.9), (0.4, 0.9)))
prior /= prior.sum()  # two narrow modes, seen through noise of standard deviation 2
joint = np.exp(-((sightings - grid[:, None]) ** 2) / (2 * 2.0**2))  # X down, Y across
joint *= (prior / joint.sum(1))[:, None]
seen = joint.sum(0)
cost = ((grid[:, None, None] - grid) ** 2 * (joint / seen)[:, :, None]).sum(
    0
)  # E[(X - xhat)^2 | y]: (Y, Xhat)
lowest = float(seen @ cost.min(1))


def perception(distortion):
    """P(D) of equation 17: variables are p(y, xhat), then the positive part of p_X - p_Xhat."""
    n, one = len(grid), np.eye(len(grid))
    marginals = np.hstack([np.tile(one, (1, n)), one])  # p_Xhat + slack >= p_X
    budget = np.append(cost.ravel(), np.zeros(n))
    equal = np.hstack([np.kron(one, np.ones((1, n))), np.zeros((n, n))])  # p_Y is given
    found = linprog(np.append(np.zeros(n * n), np.ones(n)), np.vstack([-marginals, budget]),
                    np.append(-prior, distortion), equal, seen)  # fmt: skip
    return found.fun


budgets = lowest * np.linspace(1 + 1e-9, 2.1, 23)
curve = np.array([perception(d) for d in budgets])
violation = float((curve[1:-1] - (curve[:-2] + curve[2:]) / 2).max())  # equation 18 with lambda = 1/2
assert violation < 1e-7 and (np.diff(curve) < 1e-9).all() and curve[budgets >= 2 * lowest].max() < 1e-7

# %%
shown = {"noisy": noisy} | {k: a for k, a in answers.items() if "network" not in k}
heads = [name.replace(" (", "\n(") for name in shown]
behind = [sde.marginal(data, noise_time), data, data, data]
smooth = sde_figures.densities({"": list(shown.values())}, behind, heads)
ends = {"posterior mean": ([1], curve[:1]), "posterior sample": ([2], [0.0])}
axes = "distortion D, in units of the smallest", "total variation from $p_X$"
panel = sde_figures.Panel({"P(D)": (budgets / lowest, curve)} | ends, *axes, logy=False)
tradeoff = sde_figures.panels(panel)
run.save_figure(
    smooth,
    "ext_sde_smoothing",
    "The same noisy points, and what three denoisers make of them, under contours of the density that each cloud "
    "should have: which clouds fill it, and which put points where there are no data?",
)
run.save_figure(
    tradeoff,
    "ext_perception_distortion",
    "P(D) of equation 17 on a toy, with the two estimators at its ends: does the line anywhere rise above its chords, "
    "and where does it reach 0?",
)

# %% [markdown]
# $P(D)$ falls steeply where $D$ is smallest, and reaches 0 no later than at twice the smallest distortion, as
# theory says it must (Blau and Michaeli 2018). The flow, in the table above, is a good bargain: deterministic, with
# outputs distributed as the data, and less distortion than a posterior sample.
#
# ## Exercises
#
# **1.** *Two variances.* Ho et al. found $\sigma_k^2=\beta_k$ as good as the $\sigma_k^2$ of equation 2.
# Show on one Gaussian that the former is exact for data $\mathcal N(0,1)$, and the latter for data that are
# a single point. (Use the affine map of a step.)

# %% tags=["solution", "hide-input"]
for width, choice in ((1.0, "beta"), (1e-6, "posterior")):
    v = float(chain.alphas_cumprod[-1]) * width**2 + 1 - float(chain.alphas_cumprod[-1])
    for k in reversed(range(steps)):
        a_k, abar_k = float(chain.alphas[k]), float(chain.alphas_cumprod[k])
        pull = (1 - (1 - a_k) / (abar_k * width**2 + 1 - abar_k)) / math.sqrt(a_k)
        fresh = 1 - a_k if choice == "beta" else (1 - a_k) * (1 - abar_k / a_k) / (1 - abar_k)
        v = pull**2 * v + fresh
    assert abs(v - width**2) < 1e-9
    print(f"data of width {width:g}, sigma^2 = {choice}: the chain ends with variance {v:.3e}")

# %% [markdown]
# **2.** *The flow keeps an error, Langevin forgets it.* Let the data be $\mathcal N(0,\sigma^2)$ with the
# $\sigma = 0.5$ of section 4, and let a sampler arrive at $t=0.3$ with the right variance but a mean that is off by 0.5.
# Compute $\mathrm{KL}(q\|p_t)$ there and at $t=0$, for $\lambda=0$, 1 and 2.


# %% tags=["solution", "hide-input"]
def kl(mean, variance, true):
    return 0.5 * (variance / true + mean**2 / true - 1 - math.log(variance / true))


def step_with(weight):
    drift, noise = sde.reverse_drift(sde.score(bell), weight), sde.reverse_diffusion(weight)
    return lambda x, span, z: euler_maruyama(drift, noise, x, span, noise=z)


v, times = float(sde.marginal(bell, 0.3).covariance()), time_grid(500, 0.3, 0.0)
kls = {"at t = 0.3": kl(0.5, v, v)}
for weight in (0.0, 1.0, 2.0):
    m, step = torch.tensor([[0.5]]), step_with(weight)
    for span in pairwise(times):
        m = step(m, span, torch.zeros(1, 1, 1))
    kls[f"lambda = {weight:g}"] = kl(float(m), affine(step, times, v), sigma**2)
assert (
    abs(kls["lambda = 0"] / kls["at t = 0.3"] - 1) < 0.02
    and kls["lambda = 2"] < kls["lambda = 1"] < kls["lambda = 0"]
)
kls

# %% [markdown]
# **3.** *Spend steps where they count.* Solve the flow by Heun's method in 16 steps on the even grid, and on
# $t=u^2$ with $u$ evenly spaced. Why does the second do better? (Look at how fast $p_t$ changes in section
# 4.)

# %% tags=["solution", "hide-input"]
even = time_grid(16)
grids = {"even": even, "t = u^2": [u**2 for u in even]}
by_grid = {
    name: sliced_wasserstein(heun(sde.reverse_drift(score, 0.0), start, times), data)
    for name, times in grids.items()
}
assert (
    by_grid["t = u^2"] < by_grid["even"]
)  # p_t changes most where t is small: that is where steps are needed
by_grid

# %% [markdown]
# **4.** *Langevin's bias.* Show that unadjusted Langevin with step $h$ turns $\mathcal N(0,V)$ into
# $\mathcal N(0,V/(1-\frac{h}{4V}))$, a bias of order 1 in $h$. For which $h$ does it explode?

# %% tags=["solution", "hide-input"]
V, ends = sigma**2, []
sizes = [0.2, 0.1, 0.05]
for size in sizes:  # one step is x -> (1 - h/(2V)) x + sqrt(h) z; it explodes for h > 4V
    ends.append(affine(langevin_step, time_grid(400, 0.0, 400 * size), V))
    assert abs(ends[-1] - V / (1 - size / (4 * V))) < 1e-9
z, ones = torch.randn(50, 1, generator=torch.Generator().manual_seed(1)), torch.ones(50, 1)
by_library = langevin(bell.score, ones, size, 1, torch.Generator().manual_seed(1))
assert torch.allclose(by_library, (1 - size / (2 * V)) * ones + math.sqrt(size) * z)
print(f"bias {[round(v - V, 4) for v in ends]}: order {-order(sizes, [v - V for v in ends]):.2f} in h")

# %% [markdown]
# **5.** *Hutchinson's variance.* The Jacobian $J$ of the flow's drift is symmetric (why?). Show that for random signs
# $\mathrm{Var}(e^\top Je)=2\sum_{i\ne j}J_{ij}^2$, and check it. For which covariances of the data does one
# probe give the trace without error?

# %% tags=["solution", "hide-input"]
spot, at = probe[:1], 0.1
J = torch.func.jacrev(lambda y: sde.reverse_drift(score, 0.0)(y[None], at)[0])(spot[0])
signs = torch.randint(0, 2, (20000, 2), generator=generator) * 2.0 - 1
estimates = torch.einsum("bi,ij,bj->b", signs, J, signs)
assert torch.allclose(J, J.T) and abs(float(estimates.mean() - J.trace())) < 0.1 * float(J.norm())
assert abs(float(estimates.var()) / (2 * float((J - J.diag().diag()).square().sum())) - 1) < 0.05
# J is the Hessian of a potential, hence symmetric. Diagonal covariances, one component: J is diagonal, no error.

# %% [markdown]
# ## 10. What the scorecard gets

# %%
sde_name, flow_name = "reverse SDE, Euler-Maruyama", "flow, Euler"
at_least = "at least " if math.isnan(reached[sde_name]) else ""
speedup = (counts[-1] if at_least else reached[sde_name]) / reached[flow_name]
at_equal_steps = [f / s for f, s in zip(cloud_errors[flow_name], cloud_errors[sde_name], strict=True)]
ratios = [errors[flow_name][2] / errors[sde_name][2] for errors in (cloud_errors, exact_errors)]
c18 = {
    "id": "C18",
    "measured": f"a step of the SDE is one of the flow and one of Langevin, to {gap:.0e}; the flow takes"
    f" {at_least}{speedup:.1f} times fewer steps to an error of {target}; error of the flow / of the SDE at equal"
    f" steps: {ratios[0]:.2f} (mixture) and {ratios[1]:.2f} (one Gaussian) with an exact score,"
    f" {early[0] / early[2]:.1f} with one that is wrong early, {late[0] / late[2]:.2f} with one that is wrong late",
    "spread": f"error of the flow / of the SDE, mixture: {min(at_equal_steps):.2f} to {max(at_equal_steps):.2f}",
    "value": {"gap": gap, "speedup": speedup, "accuracy": max(ratios)},
    "why": "the decomposition is a theorem, and the flow is faster because its paths are smooth. But both have the"
    " same densities, so neither is less accurate in itself. The SDE wins where the score was wrong earlier on:"
    " Langevin repairs that. It repairs nothing that goes wrong at the end, and coarse steps make it an error itself",
}
c26 = {
    "id": "C26",
    "measured": f"P(D) nowhere above its chords by more than {max(violation, 0):.0e}; a network trained with L2 is"
    f" the posterior mean up to {l2_gap:.1%} of its error; it loses {lost / mmse:.2f} of that error in variance",
    "value": {"violation": violation, "gap": l2_gap},
    "why": "both halves are theorems, and both can be seen here. Equation 15 is the posterior of x given y; the"
    " sentence before it has the two the wrong way round",
}

# %%
values = {
    "distances at marks": distances | {"t": marks, "floor": floor},
    "variance left by equation 6 as printed": left,
    "distance after equation 2": {"Ho et al.": ddpm_distance, "as printed": printed_distance},
    "orders": table["order, one Gaussian"].to_dict(),
    "errors": {"one Gaussian": exact_errors, "mixture": cloud_errors, "evaluations to target": reached},
    "errors against lambda": {"wrong score": flawed_errors, "coarse steps": coarse_errors, "lambda": weights},
    "log-likelihood errors": likelihood.to_dict("list"),
    "denoisers": smoothing.to_dict("index"),
    "perception-distortion": {"distortion": budgets / lowest, "perception": curve},
}
common = {"dataset": "Gaussian mixture", "size": "2-D", "n": points}
result = run.save_result(values, claims=[c18 | common, c26 | common])

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
Markdown(scorecard.conclusion(result))
