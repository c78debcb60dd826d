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
# *Answers: equations 2, 5-9 and 15-18 of the paper; claims C18 and C26 (their theory); two errata.*
#
# A diffusion model with infinitely many steps is a stochastic differential equation. Section 3.3 of the paper
# builds its case for continuous networks on that limit: the reverse SDE is a deterministic *probability flow*
# plus *Langevin* noise; the flow alone is therefore faster; but it is less accurate.
#
# **The question: which links of this chain hold, and when?** To answer it without a network between us and the
# truth, the data here are a mixture of three Gaussians in the plane. Their score is a formula at every noise
# level, so every error below is an error of the method, never of training.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "03_sde"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of every random draw
points = 32768  # points in a cloud (a power of 2: Sobol points are even only then)
steps = 200  # solver steps where their number is not the question (a multiple of 20)
langevin_speed = 8  # how many times faster than in equation 9 Langevin runs when it runs alone
counts = [8, 16, 32, 64, 128]  # score evaluations, mixture
exact_counts = [64, 128, 256, 512, 1024]  # score evaluations, one Gaussian
target = 0.01  # error at which solvers are compared (distance in the plane; the data are about 1.2 wide)
training_steps = 1500  # of the small denoiser in section 9
toy_grid = 41  # grid points of the perception-distortion problem in section 9

# %%
# %matplotlib inline
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import sympy as sp
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from scipy.optimize import linprog

from cunet import figures, paper, runs, scorecard
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

# %% [markdown]
# ## 1. A thousand small steps become an SDE
#
# One step of the forward process multiplies by $\sqrt{1-\beta_k}$ and adds noise of variance $\beta_k$. Let a
# step take the time $h=1/T$ and write $\beta_k=\beta(t)\,h$. As $h\to0$, $\sqrt{1-\beta h}\approx1-\frac12\beta h$, and
#
# $$ x_{t+h} = x_t - \tfrac12\beta(t)\,x_t\,h + \sqrt{\beta(t)\,h}\;z
# \quad\longrightarrow\quad dx = \underbrace{-\tfrac12\beta(t)\,x}_{f(x,t)}\,dt + \underbrace{\sqrt{\beta(t)}}_{g(t)}\,dw . $$
#
# The left-hand side *is* a solver for the right-hand side: the Euler-Maruyama method. $dw$ is the increment of
# Brownian motion, a Gaussian whose variance is the time that passes: hence the $\sqrt h$.
#
# The equation is linear, so its solution is known: $x_t=\sqrt{\bar\alpha}\,x_0+\sqrt{1-\bar\alpha}\,\epsilon$ with
# $\bar\alpha(t)=\exp(-\int_0^t\beta)$. A Gaussian $\mathcal N(m,C)$ becomes
# $\mathcal N(\sqrt{\bar\alpha}\,m,\ \bar\alpha C+(1-\bar\alpha)I)$, and a mixture stays a mixture.

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
# The yardstick for clouds is the *sliced Wasserstein distance*: how far mass has to be moved to turn the cloud
# into the exact density, averaged over directions from which one looks at the plane. It has the unit of $x$. A
# cloud of $n$ perfect points does not have distance 0, but a *floor* of order $1/\sqrt n$.

# %%
y = data.sample(500, generator).requires_grad_()
(by_autograd,) = torch.autograd.grad(sde.marginal(data, 0.3).log_prob(y).sum(), y)
assert torch.allclose(score(y.detach(), 0.3), by_autograd, atol=1e-10)

cloud = data.sample(points, generator)
cloud = euler_maruyama(sde.drift, sde.diffusion, cloud, time_grid(steps, 0.0, 0.3), generator)
floor = sliced_wasserstein(data.sample(points, generator), data)
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
# Drift carries density along; noise spreads it. Now let time run backwards ($dt<0$, as the paper has it). Drift is
# simply undone, but noise still *spreads*, so against the clock its term changes sign. Try the family
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
# So $c=\frac12(1+\lambda^2)$, whatever the data, $f$ and $g$ are. Noise of strength $\lambda$ has to be paid for by more pull
# along the score. Two members have names:
#
# * $\lambda=1$, $c=1$: the **reverse SDE**, equation 5, as printed;
# * $\lambda=0$, $c=\frac12$: the **probability flow**, equation 6. The paper prints $c=1$.
#
# The missing $\frac12$ is an **erratum**: equation 8, derived from equation 6, has it again. The next cell puts the
# paper's $f=-\frac12\beta x$ and $g=\sqrt\beta$ into each equation. What is left over for equation 6 as printed,
# $-\frac12g^2\,\partial_x^2p$, is a diffusion equation run backwards: it sharpens the density without end.

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
#  \underbrace{-\,\tfrac12\beta\,s\,dt+\sqrt{\beta}\,dw}_{\text{Langevin}} ,\qquad s=\nabla\log p_t . $$
#
# The second part, with $d\tau=-\beta\,dt>0$, is $dx=\frac12 s\,d\tau+dw$: the Langevin equation, climbing the log-density against
# noise. It moves points, yet keeps the density $p_t$ as it is. The flow does the opposite: no noise, and it
# carries $p_t$ into $p_{t-dt}$. **All progress is the flow's; Langevin only shuffles, towards equilibrium.**
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
# Five clouds start from the exact $p_1$ and travel back to $t=0$: the reverse SDE; the flow; the Langevin part
# of equation 9 alone; the same with its clock running several times faster; and equation 6 as printed. At every
# mark each is compared with the exact $p_t$.
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
assert end["reverse SDE (eq. 7)"] < 4 * floor and end["flow (eq. 8)"] < 4 * floor
assert end[fast] < end["Langevin alone"] and end["eq. 6 as printed"] > 20 * end["flow (eq. 8)"]

# %%
COLOURS = dict(zip(ways, ("#D55E00", "#0072B2", "#009E73", "#56B4E9", "#555555"), strict=True))
EDGE = 3.3  # half the side of the pictures, in units of x
line = torch.linspace(-EDGE, EDGE, 121)
plane = torch.cartesian_prod(line, line)


def draw(axes, cloud, density, colours="magma_r"):
    """A cloud as a picture of its density, under contours of the exact one."""
    height = density.log_prob(plane).exp().view(121, 121).T
    shown = height
    if cloud is not None:
        shown = np.histogram2d(*cloud.T.numpy(), bins=66, range=[[-EDGE, EDGE]] * 2, density=True)[0].T
    axes.imshow(shown, origin="lower", extent=[-EDGE, EDGE] * 2, cmap=colours, vmin=0, vmax=1.1 * height.max())
    axes.contour(line, line, height, levels=[f * height.max() for f in (0.1, 0.5)], colors="#3a7ca5", linewidths=0.6)
    axes.set(xticks=[], yticks=[])


# %%
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 7.3))
    shown = [marks.index(at) for at in (1.0, 0.5, 0.3, 0.1, 0.0)]
    rows = {"exact": [None] * len(marks)} | {k: v for k, v in ways.items() if k != "Langevin alone"}
    for row, (name, clouds) in zip(figure.subplots(len(rows), len(shown)), rows.items(), strict=True):
        for axes, i in zip(row, shown, strict=True):
            draw(axes, clouds[i], exact[i])
            if clouds[i] is None:
                axes.set_title(f"t = {marks[i]:g}", loc="center", weight="normal")
            else:
                axes.text(0.96, 0.04, f"{distances[name][i]:.3f}", transform=axes.transAxes, ha="right", fontsize=7)
        row[0].set_ylabel(name.replace(", ", ",\n").replace(" (", "\n(").replace("as ", "\nas "))
run.save_figure(figure, "ext_sde_density_flow", "Clouds on their way back, contours of the exact density.")
figure

# %% [markdown]
# The number in each picture is the distance from the exact density. The SDE and the flow stay on $p_t$ throughout.
# Equation 6 as printed leaves it at once and ends in a few points: no noise to balance its doubled pull.
#
# How thin do they get? For Gaussian data $\mathcal N(0,\sigma^2)$ the flow of equation 6 is linear, and with $v_t=\bar\alpha\sigma^2+1-\bar\alpha$
# its variance obeys $\frac{d}{dt}\log V=-\beta+2\beta/v_t=\frac{d}{dt}\log v_t+\beta/v_t$. As $\dot v_t=\beta\,(1-v_t)$, the
# extra term integrates to $\log\frac{v}{1-v}$, and
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
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 2.9))
    left_axes, right_axes = figure.subplots(1, 2, width_ratios=[1.15, 1])
    for name, values in distances.items():
        left_axes.plot(marks, values, marker="o", ms=3, color=COLOURS[name], label=name)
    left_axes.axhspan(0, 1.5 * floor, color="0.85", lw=0)
    left_axes.set(xlim=(1, 0), yscale="log", xlabel="t (time runs to the right)", ylabel="distance from exact $p_t$")
    left_axes.legend(fontsize=6.5)
    for name in ("reverse SDE (eq. 7)", "flow (eq. 8)", "eq. 6 as printed"):
        right_axes.hist(ways[name][-1][:, 0].numpy(), bins=150, range=(-EDGE, EDGE), density=True,
                        histtype="step", color=COLOURS[name], lw=1)  # fmt: skip
    across = GaussianMixture(data.weights, centres[:, :1], shapes[:, :1, :1])
    right_axes.plot(line, across.log_prob(line[:, None]).exp(), "k--", lw=1, label="exact")
    right_axes.set(ylim=(0, 1.2), xlabel="$x_1$ at t = 0", ylabel="density")
run.save_figure(figure, "ext_sde_distance", "Distance from the exact density along the way, and the end.")
figure

# %% [markdown]
# **Same densities, different paths.** Below, the same twelve starting points go back by the SDE and by the flow, over
# the exact density of $x_1$ at every $t$ (grey). The flow's paths are smooth, and in the plane they never cross: a
# solver can take long steps along them. The SDE's are rough at every scale. This is the whole reason why the
# flow *can* be faster. Whether it *is* remains to be measured.

# %%
starts, times = sde.marginal(data, 1.0).sample(12, generator), time_grid(steps)
paths = {}
for name, weight in (("reverse SDE", 1.0), ("flow", 0.0)):
    pair = sde.reverse_drift(score, weight), sde.reverse_diffusion(weight)
    path = [starts]
    for span in pairwise(times):
        path.append(euler_maruyama(*pair, path[-1], span, generator))
    paths[name] = torch.stack(path)[..., 0]
height = torch.linspace(-3, 3, 200)
across = GaussianMixture(data.weights, centres[:, :1], shapes[:, :1, :1])
wall = torch.stack([sde.marginal(across, at).log_prob(height[:, None]).exp() for at in times], 1)

# %%
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 2.8))
    for axes, (name, path), colour in zip(
        figure.subplots(1, 2, sharey=True), paths.items(), ("#D55E00", "#0072B2"), strict=True
    ):
        axes.pcolormesh(times, height, wall, cmap="Greys", vmax=1.3 * wall.max(), shading="auto", rasterized=True)
        axes.plot(times, path, color=colour, lw=0.8)
        axes.set(title=name, xlim=(1, 0), ylim=(-3, 3), xlabel="t (time runs to the right)")
        axes.grid(False)
    figure.axes[0].set_ylabel("$x_1$")
run.save_figure(figure, "ext_sde_trajectories", "Twelve points on their way back, by the SDE and by the flow.")
figure

# %% [markdown]
# ## 5. Equation 2: DDPM's step, derived
#
# DDPM does not start from an SDE. It asks for the law of $x_{k-1}$ given $x_k$ *and* $x_0$, which is Gaussian: a
# product of $q(x_k\mid x_{k-1})$ and $q(x_{k-1}\mid x_0)$. The exponent is quadratic in $x_{k-1}$, so its maximum is the mean
# and its curvature the inverse variance. Then $x_0$ is eliminated by $x_0=(x_k-\sqrt{1-\bar\alpha_k}\,\epsilon)/\sqrt{\bar\alpha_k}$:
#
# $$ x_{k-1}=\frac1{\sqrt{\alpha_k}}\Big(x_k-\frac{\beta_k}{\sqrt{1-\bar\alpha_k}}\,\epsilon_\theta\Big)+\sigma_k z ,
# \qquad \sigma_k^2=\frac{1-\bar\alpha_{k-1}}{1-\bar\alpha_k}\,\beta_k . $$
#
# The paper's equation 2 has $\sqrt{\beta_k}/\sqrt{1-\alpha_k}$ as the factor of $\epsilon_\theta$. Since $\alpha_k=1-\beta_k$, that is 1 at every
# step: an **erratum** (Ho et al. 2020, algorithm 2, have the factor above).

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
# The library's `ancestral_step` is this formula; the next cell holds it to that, and then samples with both
# versions. The network is replaced by the exact answer $\epsilon=-\sqrt{1-\bar\alpha}\;\nabla\log p$.
#
# **DDPM is a solver of the reverse SDE.** Put $\beta_k=h\beta$ and $\epsilon=-\sqrt{1-\bar\alpha}\,s$ into equation 2 and expand in
# $h$: what remains to first order is the Euler-Maruyama step of equation 7. The difference in one step is
# $O(h^2)$, so after $1/h$ steps it is $O(h)$: like Euler-Maruyama, DDPM should have **weak order 1**, which section
# 6 measures. ("Weak": the error of the density, not of single paths.)

# %%
h = sp.symbols("h", positive=True)
step = ho.subs(eps, -sp.sqrt(1 - abar) * s).subs(alpha, 1 - h * beta)
assert sp.simplify(sp.series(step, h, 0, 2).removeO() - (xk - h * eq7.subs(x, xk))) == 0

chain = Diffusion("linear", timesteps=steps, prediction_type="epsilon")
k = steps // 3
xt, answer = torch.randn(50, 2, generator=generator), torch.randn(50, 2, generator=generator)
formula = sp.lambdify((xk, eps, alpha, abar), ho, "numpy")
by_hand = formula(xt.numpy(), answer.numpy(), float(chain.alphas[k]), float(chain.alphas_cumprod[k]))
assert np.allclose(ancestral_step(chain, answer, xt, k).numpy(), by_hand, atol=1e-12)


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
print(f"distance from the data, {steps} steps: equation 2 of Ho et al. {ddpm_distance:.3f}, as printed {printed_distance:.3f}")

# %% [markdown]
# ## 6. Error against the number of steps
#
# Two measurements. **One Gaussian, exactly:** every solver's step is linear there, $x\mapsto ax+bz$, so the variance it
# ends with follows from $a$ and $b$ with no sampling at all, and orders come out clean. **The mixture:** clouds against
# the exact density. For the flow, Sobol points push the floor below $10^{-3}$. For stochastic solvers every step draws fresh noise,
# and the floor of the cloud remains.
#
# The horizontal axis counts evaluations of the score (the network, in practice): that is what costs time. Heun's
# method uses two a step.

# %%
solvers = {
    "reverse SDE, Euler-Maruyama": lambda data, x, times, noise=None: euler_maruyama(
        sde.reverse_drift(sde.score(data)), sde.reverse_diffusion(), x, times, generator, noise
    ),
    "reverse SDE, DDPM (eq. 2)": ddpm,
    "flow, Euler": lambda data, x, times, noise=None: euler(sde.reverse_drift(sde.score(data), 0.0), x, times),
    "flow, Heun": lambda data, x, times, noise=None: heun(sde.reverse_drift(sde.score(data), 0.0), x, times),
}
calls, expected = [1, 1, 1, 2], [1, 1, 1, 2]  # score evaluations a step, and the order that theory promises


def order(evaluations, error):
    """Minus the slope of log error against log evaluations."""
    return -np.polyfit(np.log(evaluations), np.log(error), 1)[0]


# %%
exact_errors, cloud_errors = {}, {}
start = sde.marginal(data, 1.0).sample(2 * points, generator, quasi=True)
for (name, solve), each in zip(solvers.items(), calls, strict=True):
    exact_errors[name], cloud_errors[name] = [], []
    for n in exact_counts:
        v = affine(lambda x, span, z: solve(bell, x, span, z), time_grid(n // each), v1)  # noqa: B023
        exact_errors[name].append(abs(math.sqrt(v) / sigma - 1))
    for n in counts:
        cloud_errors[name].append(sliced_wasserstein(solve(data, start, time_grid(n // each)), data))
floors = [sliced_wasserstein(data.sample(2 * points, generator, quasi=q), data) for q in (False, True)]

# %%
def evaluations_for(error):
    """Score evaluations at which an error curve falls to `target`, read off between the measured points."""
    return float(np.exp(np.interp(-math.log(target), -np.log(np.minimum.accumulate(error)), np.log(counts))))


table = pd.DataFrame(
    {
        "solver": list(solvers),
        "order, theory": expected,
        "order, one Gaussian": [order(exact_counts, e) for e in exact_errors.values()],
        f"distance at {counts[-1]} evaluations": [e[-1] for e in cloud_errors.values()],
        f"evaluations to reach {target}": [evaluations_for(e) for e in cloud_errors.values()],
    }
)
assert (table["order, one Gaussian"] - table["order, theory"]).abs().max() < 0.15
run.save_table(table, "ext_sde_orders", "Measured orders of solvers of the reverse SDE and of the flow.")
table.round(3)

# %%
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 3.1))
    for axes, n, errors in zip(figure.subplots(1, 2), (exact_counts, counts), (exact_errors, cloud_errors), strict=True):
        for (name, error), colour, mark in zip(errors.items(), ("#D55E00", "#CC79A7", "#56B4E9", "#0072B2"), "os^D", strict=True):
            slope = f": slope {-order(n, error):.2f}" if errors is exact_errors else ""
            axes.loglog(n, error, color=colour, marker=mark, label=name + slope)
        axes.set_xticks(n, [str(m) for m in n])
        axes.minorticks_off()
        axes.set(xlabel="score evaluations")
    axes.axhspan(axes.get_ylim()[0], floors[0], color="0.88", lw=0)
    axes.text(counts[0], floors[0], "floor of independent points", fontsize=7, color="0.4", va="top")
    figure.axes[0].set(title="one Gaussian, exact", ylabel="relative error of the width")
    axes.set(title="mixture, clouds", ylabel="distance from the exact density")
    figure.axes[0].legend(fontsize=6.5, loc="lower left")
run.save_figure(figure, "ext_sde_orders", "Error against score evaluations, with fitted slopes.")
figure

# %% [markdown]
# With an exact score, then:
#
# * **The flow is faster.** At every number of evaluations it is nearer to the data than either solver of the SDE, and
#   it admits methods of higher order, which repay more and more as accuracy is asked for.
# * **The flow is not less accurate.** Both go to the exact density, and the flow goes there sooner. "Although [it] is
#   faster, it is less accurate" does not follow from equation 9.
#
# And Langevin on its own? The next cell lets it run towards a fixed $p_t$, starting from pure noise, at several
# noise levels. Where noise has filled the valleys between the modes, it arrives soon. At $t=0$ points sit in the mode
# that they found first: within each mode all is well, and the shares of the modes stay wrong for an age. And
# however long it runs, its step $h$ leaves a bias of order $h$ (exercise 4).

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
with figures.style():
    figure = Figure(figsize=(figures.PAGE * 0.62, 2.7))
    axes = figure.subplots()
    for (at, values), colour in zip(chased.items(), ("#009E73", "#56B4E9", "#E69F00", "#000000"), strict=True):
        axes.semilogy(np.arange(rounds) * (steps // 8), values, marker="o", color=colour, label=f"t = {at:g}")
    axes.set(xlabel="Langevin steps", ylabel="distance from $p_t$")
    axes.legend(fontsize=7)
run.save_figure(figure, "ext_sde_langevin", "Langevin alone, from pure noise towards p_t at four noise levels.")
figure

# %% [markdown]
# ## 7. When the score is wrong
#
# Why, then, do practitioners see better samples from the SDE (Karras et al. 2022, section 4)? Because a network's
# score is wrong. Let $q$ be the density of the samples on their way, and $\hat s=s+e$ the score that drives them.
# From the Fokker-Planck equation, with $\tau=1-t$,
#
# $$ \frac{d}{d\tau}\,\mathrm{KL}(q\,\|\,p_t) = -\tfrac12\lambda^2\beta\;\mathbb E_q\big\|\nabla\log\tfrac{q}{p_t}\big\|^2
#  + \tfrac12(1+\lambda^2)\,\beta\;\mathbb E_q\big[e\cdot\nabla\log\tfrac{q}{p_t}\big]. $$
#
# The first term is Langevin's. It only ever lowers the error, **whatever made it**: a wrong score earlier, or a coarse step. For the
# flow, $\lambda=0$, it is missing: the flow hands every old error on unchanged. The second term is the damage that a
# wrong score does *now*, and noise makes it worse, by $1+\lambda^2$: more noise needs more pull, and pull uses the
# wrong score.
#
# By $-a u^2+bu\le b^2/4a$ the sum is at most $\frac{(1+\lambda^2)^2}{8\lambda^2}\,\beta\,\mathbb E\|e\|^2$. The best guarantee against a score error of
# unknown shape is at $\lambda=1$: the reverse SDE itself. The flow has none.

# %%
guarantee = (1 + lam**2) ** 2 / (8 * lam**2)
assert sp.solve(sp.diff(guarantee, lam), lam) == [-1, 1] and guarantee.subs(lam, 1) == sp.Rational(1, 2)

weights = [0.0, 0.5, 1.0, 1.5, 2.0]  # lambda
flaws = {"early (t > 0.4)": (0.1, 0.4, 1.0), "late (t < 0.1)": (0.2, 0.0, 0.1), "throughout": (0.05, 0.0, 1.0)}


def flawed(size, low, high):
    """The exact score, but the noise it stands for is off by `size` along x_1 while low <= t <= high."""
    push = torch.tensor([size, 0.0])
    return lambda x, t: score(x, t) - (low <= t <= high) * push / math.sqrt(1 - sde.alpha_bar(t))


def error_with(score, weight, steps):
    times = time_grid(steps)
    back = sde.reverse_drift(score, weight), sde.reverse_diffusion(weight)
    return sliced_wasserstein(euler_maruyama(*back, start[: points // 2], times, generator), data)


# %%
flawed_errors = {
    name: [error_with(flawed(*flaw), weight, counts[-1]) for weight in weights] for name, flaw in flaws.items()
}
coarse_errors = {f"{n} steps": [error_with(score, weight, n) for weight in weights] for n in counts[1:]}
early, late = flawed_errors["early (t > 0.4)"], flawed_errors["late (t < 0.1)"]
assert early[0] > 2 * early[2]  # an old error: the SDE repairs what the flow keeps
assert late[2] > 1.2 * late[0]  # a fresh one: noise makes it worse
pd.DataFrame(flawed_errors, index=pd.Index(weights, name="lambda")).round(3)

# %%
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 2.9))
    titles = "the score is wrong", "the score is exact, steps are coarse"
    small_floor = floors[0] * 2
    for axes, lines, title in zip(figure.subplots(1, 2), (flawed_errors, coarse_errors), titles, strict=True):
        for (name, values), colour in zip(lines.items(), ("#D55E00", "#0072B2", "#009E73", "#000000"), strict=False):
            axes.semilogy(weights, values, marker="o", color=colour, label=name)
        axes.axhspan(axes.get_ylim()[0], small_floor, color="0.88", lw=0)
        axes.set(title=title, xlabel=r"noise $\lambda$   (0: flow, 1: reverse SDE)", xticks=weights)
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("distance from the data")
run.save_figure(figure, "ext_sde_imperfect_score", "What noise on the way back repairs, and what it costs.")
figure

# %% [markdown]
# An error made early is repaired by noise: the more, the better. An error made late is made worse. With coarse steps and an
# exact score, noise costs accuracy. So "the flow is faster and less accurate" is right **where the score is
# wrong early on and steps are many**, and wrong where the score is good and steps are few. Real networks make errors
# of all kinds, which is why Karras et al. tune the amount of noise for each network, and switch it off near
# the end.
#
# ## 8. Log-likelihood
#
# Along the flow $\dot x=b(x,t)$ a small volume changes at the rate $\nabla\!\cdot b$, so the density of a point that
# is carried along obeys $\frac{d}{dt}\log p_t(x_t)=-\nabla\!\cdot b(x_t,t)$, and
#
# $$ \log p_0(x_0)=\log p_1(x_1)+\int_0^1\nabla\!\cdot b(x_t,t)\,dt . $$
#
# The divergence needs $D$ backward passes for $D$ dimensions. For images one takes Hutchinson's estimate
# $e^\top\frac{\partial b}{\partial x}e$ with random signs $e$: one pass, and unbiased, because $\mathbb E[ee^\top]=I$.
#
# One more error is always there: samplers take $\mathcal N(0,I)$ for $p_1$. The cell below separates it.

# %%
probe = data.sample(200, generator)
p1 = sde.marginal(data, 1.0).log_prob
truth = data.log_prob(probe)
likelihood_steps = [4, 8, 16, 32, 64]
likelihood_errors = [
    float((log_likelihood(sde, score, probe, n, prior=p1) - truth).abs().max()) for n in likelihood_steps
]
prior_error = float((log_likelihood(sde, score, probe, 64) - truth).abs().max())
assert likelihood_errors[-1] < 1e-3 < prior_error
few, copies = probe[:4], 500
many = log_likelihood(sde, score, few.repeat(copies, 1), 32, "hutchinson", p1, generator).view(copies, 4)
bias = (many.mean(0) - truth[:4]) / (many.std(0) / math.sqrt(copies))
assert bias.abs().max() < 4  # standard errors
print(f"largest error with 64 steps: {likelihood_errors[-1]:.1e} nats; with N(0, I) for p_1: {prior_error:.3f}")
print(f"one Hutchinson estimate scatters by {float(many.std(0).mean()):.2f} nats; the mean of {copies} is on the spot")

# %%
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 2.7))
    axes, scatter = figure.subplots(1, 2)
    axes.loglog(likelihood_steps, likelihood_errors, "o-", color="#0072B2")
    tail = order(likelihood_steps[-3:], likelihood_errors[-3:])
    axes.axhline(prior_error, color="#D55E00", ls="--", lw=1)
    axes.text(likelihood_steps[0], 1.15 * prior_error, "N(0, I) for $p_1$", color="#D55E00", fontsize=7)
    axes.set_xticks(likelihood_steps, [str(n) for n in likelihood_steps])
    axes.minorticks_off()
    axes.set(xlabel="rk4 steps", ylabel="largest error in nats", title=f"exact trace: order {tail:.1f}")
    scatter.violinplot(list((many - truth[:4]).T.numpy()), showextrema=False, showmeans=True)
    scatter.axhline(0, color="black", lw=0.8)
    scatter.set(xlabel="data point", ylabel="error in nats", xticks=[1, 2, 3, 4], title="one Hutchinson probe")
run.save_figure(figure, "ext_sde_likelihood", "Log-likelihood against the exact density.")
figure

# %% [markdown]
# ## 9. What the L2 loss asks for: the posterior mean
#
# A denoiser trained with $\mathbb E\|x_0-D(y)\|^2$ is pulled, at every $y$, towards the mean of all clean $x_0$ that may
# lie behind that $y$. Indeed $\mathbb E\|x_0-D\|^2=\mathbb E\|x_0-\mathbb E[x_0|y]\|^2+\mathbb E\|\mathbb E[x_0|y]-D\|^2$ (the mixed term vanishes on
# averaging over $x_0$ given $y$), and only the second term depends on $D$. For our mixture the posterior mean is a formula (Tweedie's),
# $\mathbb E[x_0|y]=(y+(1-\bar\alpha)\,\nabla\log p_t(y))/\sqrt{\bar\alpha}$, so we can train a small network on noisy points and see where
# it ends up.

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


for _ in range(training_steps):
    clean = data.sample(1024, generator)
    loss = (net(noised(clean)) - clean).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()

# %% [markdown]
# Now four denoisers see the same noisy points: the network; the exact posterior mean; the flow, run from $t$ down to 0;
# and the reverse SDE, which draws one sample from the posterior. Two numbers each: **distortion**, the mean squared distance from the
# original, and **perception**, how far the outputs *as a whole* are from the data.

# %%
def rms(difference):
    return float(difference.square().sum(1).mean().sqrt())


clean = data.sample(points // 2, generator)
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
lost = float(data.covariance().trace()) - smoothing.variance["posterior mean"]
assert abs(lost / mmse - 1) < 0.05  # the variance that averaging takes away is the mean squared error
assert abs(smoothing.distortion["posterior sample (reverse SDE)"] / mmse - 2) < 0.1
run.save_table(smoothing, "ext_sde_denoisers", "Four denoisers of one noise level: distortion and perception.")
smoothing.round(3)

# %% [markdown]
# The network is the posterior mean, but for a few per cent. And the posterior mean is **over-smoothed**: by the law of total
# variance, exactly the mean squared error is missing from its variance, and its outputs lie between the modes, where there
# are no data. A posterior sample looks right but is twice as far from the original, again exactly: it and the
# original are two independent draws from one posterior.
#
# **Equations 16-18.** How good can perception be at a given distortion? On a grid this is a linear program: choose the joint
# probabilities of $y$ and $\hat x$ to minimise $d_\mathrm{TV}(p_{\hat X},p_X)$ subject to $\mathbb E(X-\hat X)^2\le D$. That makes $P(D)$ **convex**, and the
# proof is three lines: take the best estimators for $D_1$ and $D_2$ and toss a coin for which one to use. The distortion is
# then $\lambda D_1+(1-\lambda)D_2$; the output's density is the same mixture of the two; and the total variation, being convex, is at
# most $\lambda P(D_1)+(1-\lambda)P(D_2)$. The optimum can only be lower.

# %%
grid = np.linspace(-2, 2, toy_grid)
prior = 0.6 * np.exp(-((grid + 0.9) ** 2) / 0.18) + 0.4 * np.exp(-((grid - 0.9) ** 2) / 0.18)
prior /= prior.sum()
joint = prior[:, None] * np.exp(-((grid[None] - grid[:, None]) ** 2) / (2 * 0.8**2))  # X down, Y across
joint *= (prior / joint.sum(1))[:, None]
seen = joint.sum(0)
cost = ((grid[:, None, None] - grid) ** 2 * (joint / seen)[:, :, None]).sum(0)  # E[(X - xhat)^2 | y]: (Y, Xhat)
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
with figures.style():
    figure = Figure(figsize=(figures.PAGE, 2.6))
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.5])
    shown = {"noisy": noisy} | {k: answers[k] for k in ("posterior mean", "posterior sample (reverse SDE)")}
    for panel, (name, values) in zip(axes, shown.items(), strict=False):
        draw(panel, values, sde.marginal(data, noise_time) if name == "noisy" else data)
        panel.set_title(name.replace(" (", "\n("), loc="center", weight="normal", fontsize=7.5)
    axes[3].plot(budgets / lowest, curve, "o-", color="black", ms=3)
    axes[3].plot([1, 2], [curve[0], 0], "--", color="0.6", lw=1)
    axes[3].set(xlabel="distortion D / smallest possible", ylabel="$P(D)$: total variation", title="convex, eq. 17-18")
run.save_figure(figure, "ext_perception_distortion", "Over-smoothing by the posterior mean; P(D) on a toy.")
figure

# %% [markdown]
# $P(D)$ falls steeply where $D$ is smallest, and reaches 0 before twice the smallest distortion, as theory says it must (Blau and Michaeli
# 2018). The flow, in the table above, is a good bargain: deterministic, with outputs distributed as the data, and less distortion than a
# posterior sample.
#
# ## Exercises
#
# **1.** *Two variances.* Ho et al. found $\sigma_k^2=\beta_k$ as good as the $\sigma_k^2$ of equation 2. Show on one Gaussian that the former is exact for
# data $\mathcal N(0,1)$, and the latter for data that are a single point. (Use the affine map of a step.)

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
# **2.** *The flow keeps an error, Langevin forgets it.* Let the data be $\mathcal N(0,\sigma^2)$, and let a sampler arrive at $t=0.3$ with the right
# variance but a mean that is off by 0.5. Compute $\mathrm{KL}(q\|p)$ there and at $t=0$, for $\lambda=0$, 1 and 2.

# %% tags=["solution", "hide-input"]
def kl(mean, variance, true):
    return 0.5 * (variance / true + mean**2 / true - 1 - math.log(variance / true))


v = float(sde.marginal(bell, 0.3).covariance())
kls = {"at t = 0.3": kl(0.5, v, v)}
for weight in (0.0, 1.0, 2.0):
    back = sde.reverse_drift(sde.score(bell), weight), sde.reverse_diffusion(weight)
    times = time_grid(2000, 0.3, 0.0)
    m = euler_maruyama(*back, torch.tensor([[0.5]]), times, noise=torch.zeros(2000, 1, 1)).item()
    kls[f"lambda = {weight:g}"] = kl(m, affine(lambda x, span, z: euler_maruyama(*back, x, span, noise=z), times, v), sigma**2)  # noqa: B023,E501  # fmt: skip
assert abs(kls["lambda = 0"] / kls["at t = 0.3"] - 1) < 0.02 and kls["lambda = 2"] < kls["lambda = 1"] < kls["lambda = 0"]
kls

# %% [markdown]
# **3.** *Spend steps where they count.* Solve the flow by Heun's method in 16 steps on the even grid, and on $t=u^2$ with $u$ even. Why does
# the second do better? (Look at how fast $p_t$ changes in section 4.)

# %% tags=["solution", "hide-input"]
even = time_grid(16)
grids = {"even": even, "t = u^2": [u**2 for u in even]}
by_grid = {
    name: sliced_wasserstein(heun(sde.reverse_drift(score, 0.0), start, times), data) for name, times in grids.items()
}
assert by_grid["t = u^2"] < by_grid["even"]
by_grid

# %% [markdown]
# **4.** *Langevin's bias.* Show that unadjusted Langevin with step $h$ turns $\mathcal N(0,V)$ into $\mathcal N(0,V/(1-\frac{h}{4V}))$, a bias of order 1 in $h$.
# For which $h$ does it explode?

# %% tags=["solution", "hide-input"]
V, ends = sigma**2, []
sizes = [0.2, 0.1, 0.05]
for size in sizes:  # one step is x -> (1 - h/(2V)) x + sqrt(h) z; it explodes for h > 4V
    ends.append(affine(lambda x, span, z: euler_maruyama(lambda y, _: 0.5 * bell.score(y), lambda _: 1.0, x, span, noise=z),
                       time_grid(400, 0.0, 400 * size), V))  # fmt: skip
    assert abs(ends[-1] - V / (1 - size / (4 * V))) < 1e-9
print(f"bias {[round(v - V, 4) for v in ends]}: order {-order(sizes, [v - V for v in ends]):.2f} in h")

# %% [markdown]
# **5.** *Hutchinson's variance.* The flow's Jacobian $J$ is symmetric (why?). Show that for random signs $\mathrm{Var}(e^\top Je)=2\sum_{i\ne j}J_{ij}^2$, and check it. For
# which covariances of the data does one probe give the trace without error?

# %% tags=["solution", "hide-input"]
spot, at = probe[:1], 0.1
J = torch.func.jacrev(lambda y: sde.reverse_drift(score, 0.0)(y[None], at)[0])(spot[0])
signs = torch.randint(0, 2, (20000, 2), generator=generator) * 2.0 - 1
estimates = torch.einsum("bi,ij,bj->b", signs, J, signs)
assert torch.allclose(J, J.T) and abs(float(estimates.mean() - J.trace())) < 0.1 * float(J.norm())
assert abs(float(estimates.var()) / (2 * float((J - J.diag().diag()).square().sum())) - 1) < 0.05
# J is the Hessian of a potential, hence symmetric. Diagonal covariances, one component: J is diagonal, no error.

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
slow, quick = evaluations_for(cloud_errors["reverse SDE, Euler-Maruyama"]), evaluations_for(cloud_errors["flow, Euler"])
speedup = slow / quick
exact_ratio = cloud_errors["flow, Euler"][-1] / cloud_errors["reverse SDE, Euler-Maruyama"][-1]
early_ratio, late_ratio = early[0] / early[2], late[0] / late[2]
c18 = (
    f"equation 9 holds to {gap:.0e}; at error {target} the flow needs {speedup:.1f} times fewer steps than the SDE; its error is"
    f" {exact_ratio:.2f} of the SDE's with an exact score, {early_ratio:.1f} of it with a score that is wrong early,"
    f" {late_ratio:.2f} with one that is wrong late"
)
c26 = (
    f"P(D) convex (largest violation {max(violation, 0):.0e}); an L2-trained network is the posterior mean up to {l2_gap:.1%} of its"
    f" error; the variance it loses is {lost / mmse:.2f} of the mean squared error"
)
common = {"dataset": "Gaussian mixture", "size": "2-D", "n": points}
claims = [
    {"id": "C18", "measured": c18, "value": {"gap": gap, "speedup": speedup, "accuracy": exact_ratio}, **common},
    {"id": "C26", "measured": c26, "value": {"violation": violation, "gap": l2_gap}, **common},
]
values = {
    "distances": distances, "marks": marks, "floor": floor, "printed_equation_6_variance": left,
    "printed_equation_2_distance": printed_distance, "ddpm_distance": ddpm_distance,
    "orders": dict(zip(table["solver"], table["order, one Gaussian"], strict=True)), "exact_errors": exact_errors,
    "cloud_errors": cloud_errors, "flawed_errors": flawed_errors, "coarse_errors": coarse_errors,
    "likelihood_errors": likelihood_errors, "prior_error": prior_error, "perception": curve, "budgets": budgets / lowest,
}  # fmt: skip
run.save_result(values, claims=claims);

# %%
rows = ["| | the paper says | where | we measured | verdict |", "|---|---|---|---|---|"]
for claim in run.result(job)["claims"]:
    said = paper.CLAIMS[claim["id"]]
    judged = scorecard.verdict(claim["id"], claim["value"], profile)
    rows.append(f"| {said.id} | {said.text} | {said.place} | {claim['measured']} | {judged} |")
Markdown("\n".join(rows))

# %% [markdown]
# **Why they differ.** C18: that the SDE is flow plus Langevin is a theorem, and the flow is faster because its paths are smooth. But
# both have the same densities, so neither is less accurate in itself. What the paper observes comes from elsewhere:
# Langevin repairs errors that a trained score made earlier. It repairs none made at the end, and with coarse steps it adds its own.
# C26: both halves are theorems, and both can be seen here. Note that equation 15 is the posterior of $x$ given $y$; the sentence before it has
# the two the wrong way round.
