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
# # 06 · Noising and sampling
#
# *Answers: equations 2 and 3, figure 4; claim C24 for trained networks; the erratum of equation 2.*
#
# A diffusion model has two directions. Forward, an image is buried in noise, by a formula and without any network.
# Backward, a network is asked again and again what was buried, and a little of the noise is taken away each time.
#
# **The question: what exactly is one step back, does the paper's equation 2 say it, and does the network need to
# know how far it has come?**

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "06_sampling"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of noise and samples
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist"]  # the first is used here
models = ["unet", "cunet"]  # the trained networks; the last one is shown sampling
seeds = [0]  # training seeds; the first is used here
noising_steps = [0, 50, 100, 200, 400, 600, 800, 999]  # diffusion steps of figure 4, of 1000
told_steps = [50, 150, 300, 500, 700, 900]  # diffusion steps: the true ones, and those told
error_images = 64  # test images behind each error
steps = 50  # sampling steps where their number is not the question
few_steps = [5, 10, 20, 50]  # sampling steps of the comparison of samplers
shown = 10  # samples a row

# %%
# %matplotlib inline
import math

import diffusers
import pandas as pd
import torch
from IPython.display import Markdown, display

from cunet import checkpoints as store
from cunet import datasets as data
from cunet import figures, palette, paper, runs, sampling, scorecard, subsets
from cunet.diffusion import SCHEDULES, Diffusion
from cunet.samplers import trailing_timesteps

run = runs.Run.open(globals())
folder = store.ASSETS if checkpoints == "released" else run.checkpoints
paths = {m: folder / f"{store.stem(datasets[0], m, size, seeds[0])}.safetensors" for m in models}
networks = {m: store.load(path, model=m, size=size) for m, path in paths.items()}
device = sampling.best_device()  # the first GPU, where there is one
for trained, _ in networks.values():
    trained.to(device)
network, card = networks[models[-1]]
diffusion = Diffusion(**card["diffusion"])
test = data.load(datasets[0], "test", network.image_size)
generator = torch.Generator().manual_seed(seed)
print(f"{models[-1]}, trained with {diffusion}; computed on {sampling.device_name(device)}")

# %% [markdown]
# ## 1. Forward: figure 4
#
# One small step multiplies the image by $\sqrt{\alpha_t} = \sqrt{1-\beta_t}$ and adds noise of variance $\beta_t$. All
# steps up to $t$ at once, with $\bar\alpha_t$ the product of the $\alpha$'s:
#
# $$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I). \tag{N} $$

# %%
clean = subsets.images(test, 4)
noise = torch.randn(clean.shape, generator=generator)
strip = [
    ("", [diffusion.add_noise(x[None], e[None], t)[0] for t in noising_steps])
    for x, e in zip(clean, noise, strict=True)
]
decibels = [10 * float(diffusion.snr(t).log10()) for t in noising_steps]
heads = [f"t = {t}\n{db:.0f} dB" for t, db in zip(noising_steps, decibels, strict=True)]
picture = figures.image_rows(strip, heads)
caption = (
    "The same test images at later and later diffusion steps t, with the signal-to-noise ratio: from which step on can "
    "you no longer tell which digit it is?"
)
run.save_figure(picture, "fig04_noising", caption)

# %% [markdown]
# **Check.** A thousand small steps are the one big step: going step by step with fresh noise, signal and variance
# come out as the formula says.

# %%
signal, variance = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
for alpha, beta, abar in zip(diffusion.alphas, diffusion.betas, diffusion.alphas_cumprod, strict=True):
    signal, variance = alpha.sqrt() * signal, alpha * variance + beta
    assert torch.isclose(signal, abar.sqrt()) and torch.isclose(variance, 1 - abar)
print(
    f"after {diffusion.timesteps} steps: signal {float(signal):.1e}, variance of the noise {float(variance):.6f}"
)

# %% [markdown]
# How fast the image is buried is a choice, the *noise schedule*. Linear is Ho et al.'s; the authors of this paper
# trained with the sigmoid; ours are trained with the cosine.

# %%
schedules = {name: Diffusion(name, diffusion.timesteps) for name in SCHEDULES}
db = {name: 10 * d.snr(torch.arange(d.timesteps)).log10() for name, d in schedules.items()}
t = range(diffusion.timesteps)
picture = figures.curves(t, db, "diffusion step t", "signal-to-noise ratio, dB", "Noise schedules")
caption = "Signal-to-noise ratio along three noise schedules: where does each cross 0 dB?"
run.save_figure(picture, "ext_schedules", caption)

# %% [markdown]
# ## 2. One step back: equation 2
#
# Given the noise in $x_t$, the mean of the image one step before is known; around it comes $\sigma_t z$, fresh noise of
# standard deviation $\sigma_t$. The paper's equation 2, as printed:

# %%
erratum = next(e for e in paper.ERRATA if e.place == "eq. 2")
Markdown(f"$${paper.EQUATIONS[2]}$$")

# %% [markdown]
# > **Erratum.** Written like this the weight of the noise is $\sqrt{\beta_t}/\sqrt{1-\alpha_t}$. Since
# > $\alpha_t = 1-\beta_t$, that is 1, whatever $t$: the first step back would take *all* the noise away. Ho et al.
# > (2020) have $\beta_t/\sqrt{1-\bar\alpha_t}$, with the bar.

# %%
d = diffusion
as_printed = d.betas.sqrt() / (1 - d.alphas).sqrt()
ho = d.betas / (1 - d.alphas_cumprod).sqrt()
assert (as_printed - 1).abs().max() < 1e-9
lines = {"as printed": as_printed, "Ho et al. (2020)": ho}
picture = figures.curves(t, lines, "diffusion step t", "weight of the noise", "Equation 2", logy=True)
caption = "The weight of the guessed noise in equation 2, both ways to write it: how much is taken away at small t?"
run.save_figure(picture, "ext_equation_2", caption)
print(f"printed in {erratum.place}: {float(as_printed.min()):.6f} ... {float(as_printed.max()):.6f}")

# %% [markdown]
# **Check.** Which of the two is the mean of $q(x_{t-1}\mid x_t, x_0)$? Bayes' rule for Gaussians gives it without
# either formula: precisions add.

# %%
worst = {"as printed": 0.0, "Ho et al. (2020)": 0.0}
x0, eps = torch.randn(2, 1000, dtype=torch.float64, generator=generator)
for k in range(1, d.timesteps):
    x = d.add_noise(x0, eps, k)
    alpha, beta, before = d.alphas[k], d.betas[k], d.alphas_cumprod[k - 1]
    precision = alpha / beta + 1 / (1 - before)  # of what x_t says of x_{t-1}, and of what x_0 says
    mean = (alpha.sqrt() / beta * x + before.sqrt() / (1 - before) * x0) / precision
    for name, weight in lines.items():
        formula = (x - weight[k] * eps) / alpha.sqrt()
        worst[name] = max(worst[name], float((formula - mean).abs().max()))
assert worst["Ho et al. (2020)"] < 1e-9 < 1 < worst["as printed"]
pd.Series(worst, name="largest error of the mean").map("{:.1e}".format).to_frame()

# %% [markdown]
# The library has the corrected step (`cunet.sampling.ancestral_step`). **Check**, against diffusers' scheduler, with
# the same image, guess and fresh noise:

# %%
scheduler = diffusers.DDPMScheduler(
    **{**d.scheduler_config(), "prediction_type": "epsilon"}, clip_sample=False
)
scheduler.alphas_cumprod = d.alphas_cumprod  # its own are float32, and lose digits of 1 - abar at small t
difference = 0.0
for k in (d.timesteps // 2, 100, 10, 1):
    x, guess = torch.randn(2, 8, 1, 32, 32, generator=generator)
    theirs = scheduler.step(guess, k, x, generator=torch.Generator().manual_seed(k)).prev_sample
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
    ours = sampling.ancestral_step(d, guess, x, k, fresh)
    difference = max(difference, float((ours - theirs).abs().max()))
print(f"largest difference from diffusers' DDPMScheduler: {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# And what would the printed formula do? The same network, the same noise, the same steps; once with each weight.


# %%
def ancestral(weight_as_printed):
    """Samples by equation 2 on a shortened chain, with either weight of the noise."""
    stairs = [*trailing_timesteps(d, steps), -1]
    shape = (network.channels, test.image_size, test.image_size)
    draw = sampling.NoiseStreams(seed, range(shown), shape, device)
    x = draw()
    for now, then in zip(stairs, stairs[1:], strict=False):
        x0 = sampling.predict(network, d, x, now)
        guess = (x - d.alphas_cumprod[now].sqrt() * x0) / (1 - d.alphas_cumprod[now]).sqrt()
        fresh = draw() if then >= 0 else None
        if weight_as_printed:
            before = d.alphas_cumprod[then] if then >= 0 else torch.tensor(1.0)
            alpha = d.alphas_cumprod[now] / before
            x = (x - guess.double()) / alpha.sqrt()
            x = (
                x + sampling.posterior_std(d.alphas_cumprod[now], before) * (0 if fresh is None else fresh)
            ).float()
        else:
            x = sampling.ancestral_step(d, guess, x, now, fresh, then)
    return x


with torch.no_grad():
    rows = {"as printed": ancestral(True), "Ho et al.": ancestral(False)}
picture = figures.image_rows(rows)
caption = "Samples by equation 2 with either weight of the noise, from the same noise: which row shows digits?"
run.save_figure(picture, "ext_equation_2_samples", caption)

# %% [markdown]
# ## 3. Equation 3: the network stands for the noise
#
# $$ \epsilon_\theta(x_t, t) \approx \tilde U(x_t, t, \tilde t; \theta). \tag{3} $$
#
# The paper's $\tilde t$ is a block's time, our $s$. Our networks answer with $v$; image, noise and $v$ are one another's
# linear combinations. **Check**: the round trip is exact.

# %%
k = torch.tensor([50, 300, 600, 900])
x = d.add_noise(clean.double(), noise.double(), k)
answer = d.target(clean.double(), noise.double(), k)
assert torch.allclose(d.to_x0(answer, x, k), clean.double(), atol=1e-9)
assert torch.allclose(d.to_epsilon(answer, x, k), noise.double(), atol=1e-9)

# %% [markdown]
# A walk back, from noise to digits: above, the image on its way; below, what the network thinks it will become. From
# which column on does the lower row no longer change its mind, and what is the rest of the way spent on?

# %%
shape = (network.channels, test.image_size, test.image_size)
start = sampling.NoiseStreams(seed, [0, 1], shape, device)()
walk = list(sampling.walk(network, start, d, trailing_timesteps(d, steps), "ddim"))
chosen = [walk[i] for i in sorted({round(i * (len(walk) - 1) / 9) for i in range(10)})]
rows = []
for i in range(len(start)):
    rows += [("on its way", [s.x[i] for s in chosen]), ("will become", [s.x0[i] for s in chosen])]
picture = figures.image_rows(rows, [f"t = {s.t}" for s in chosen])
caption = (
    f"Two walks of {models[-1]} from noise to digits, {steps} DDIM steps: the image on its way, and below it the clean "
    "image that the network expects. From which column on does the lower row stay as it is?"
)
run.save_figure(picture, "ext_trajectory", caption)

# %% [markdown]
# ## 4. Samplers, side by side
#
# DDPM is equation 2. DDIM (Song et al. 2020) adds no fresh noise and keeps enough of the guessed noise for the variance
# to stay right (exercise 3). Leaving $z$ out of equation 2 is another walk, through posterior means (08). DPM-Solver++
# (Lu et al. 2022) follows the same path as DDIM with a solver of second order. All start from the same noise.

# %%
rows = {}
for sampler in ("ddpm", "ddim", "dpmsolver++"):
    for n in few_steps:
        rows[f"{sampler}, {n}"] = sampling.sample(network, shown, d, sampler, n, seed)
picture = figures.image_rows(rows)
few = ", ".join(map(str, few_steps))
caption = (
    f"Samples of {models[-1]} by three samplers at {few} steps, all from the same noise: which rows show the same "
    "digits, and from how many steps on does a sampler's row no longer change?"
)
run.save_figure(picture, "ext_samplers", caption)

# %% [markdown]
# ## 5. Does the network need to know the step? (C24)
#
# Section 3 of the paper says that the time embedding lets the network tell how much noise to expect. A test that
# can fail: give a trained network images at step $t$, but *tell* it another step $t'$. If it listens, the error of
# the clean image that it recovers is smallest when it is told the truth. The answer is a mixture of image and noise
# whose weights depend on the step, and a network that was lied to may answer for the step it was told; so its answer
# is read both ways, with the true weights and with the told ones, and the smaller error counts. Rows: what is true;
# columns: what is told; numbers: mean squared error, relative to the truth being told.


# %%
def errors(network, diffusion):
    """Mean squared error of the recovered image: a row a true step, a column a step told."""
    images = subsets.images(test, error_images)
    table = {}
    for true in told_steps:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(true))
        x = diffusion.add_noise(images, noise, true)
        with torch.no_grad():
            answers = {told: network(x.to(device), told).cpu() for told in told_steps}
        table[true] = {
            told: min(float((diffusion.to_x0(a, x, k) - images).square().mean()) for k in (true, told))
            for told, a in answers.items()
        }
    return pd.DataFrame(table).T


tables = {m: errors(network, Diffusion(**card["diffusion"])) for m, (network, card) in networks.items()}
relative = {m: table.div([table.loc[s, s] for s in told_steps], axis=0) for m, table in tables.items()}
for m, table in relative.items():
    run.save_table(table.rename_axis("true step"), f"ext_told_{m}", f"Error when told another step, {m}")
relative[models[-1]].round(2)

# %%
benefit, sensitivity, right = {}, {}, {}
for m, table in relative.items():
    wrong = table.where(~torch.eye(len(told_steps), dtype=bool).numpy())
    benefit[m] = float(wrong.min(axis=1).mean())  # even the least harmful lie raises the error this much
    sensitivity[m] = float((table - 1).abs().max(axis=None))
    right[m] = int((table.idxmin(axis=1) == table.index).sum())
    print(
        f"{m}: the truth is best at {right[m]} of {len(told_steps)} steps; the mildest lie costs {benefit[m]:.2f}x"
    )
lines = {f"true t = {s}": relative[models[-1]].loc[s] for s in told_steps}
picture = figures.curves(
    told_steps, lines, "step told", "error / error when told the truth", logy=True, marker="o"
)
caption = (
    f"Error of {models[-1]} when told another step than the true one, a line a true step: is each line lowest where "
    "the step told is the true one?"
)
run.save_figure(picture, "ext_told", caption)

# %% [markdown]
# ## Exercises
#
# **1.** *Half and half.* At which diffusion step are signal and noise equally strong (0 dB)? Find it from the formulas of
# the linear schedule, $\beta$ from 0.0001 to 0.02, and of the cosine schedule,
# $\bar\alpha(u) \propto \cos^2\bigl(\frac\pi2\,\frac{u + 0.008}{1.008}\bigr)$ with $u = t/T$, then look it up.

# %% tags=["solution", "hide-input"]
# 1: abar = 1/2. Linear: abar is about exp(-(a u + b u^2)), since a sum of small betas is an integral.
T = d.timesteps
first, last = (1000 * beta for beta in (1e-4, 0.02))
linear = (-first + math.sqrt(first**2 + 2 * (last - first) * math.log(2))) / (last - first)
begin = math.cos(math.pi / 2 * 0.008 / 1.008)
cosine = 1.008 * 2 / math.pi * math.acos(begin / math.sqrt(2)) - 0.008
for name, u in {"linear": linear, "cosine": cosine}.items():
    found = int((schedules[name].alphas_cumprod > 0.5).sum())
    print(f"1. {name}: t = {u * T:.1f} by the formula, the first step below 0 dB is {found}")
    assert abs(found - u * T) < 3

# %% [markdown]
# **2.** *Why it is called v.* Write $\sqrt{\bar\alpha_t} = \cos\varphi$. Show that $v$ is the derivative of $x_t$ with
# respect to $\varphi$.

# %% tags=["solution", "hide-input"]
# 2: d/dphi of cos(phi) x_0 + sin(phi) eps is cos(phi) eps - sin(phi) x_0: v is the velocity along
# the circle on which x_t moves, at right angles to x_t in the plane of x_0 and eps.
k, step = 300, 1e-5
phi = d.alphas_cumprod[k].sqrt().acos()
around = [(phi + s).cos() * clean.double() + (phi + s).sin() * noise.double() for s in (-step, step)]
answer = Diffusion(d.schedule, T, "v_prediction").target(clean.double(), noise.double(), k)
apart = float(((around[1] - around[0]) / (2 * step) - answer).abs().max())
print(f"2. the derivative by central differences is v within {apart:.1e}")
assert apart < 1e-8

# %% [markdown]
# **3.** *Between DDIM and DDPM.* DDPM adds fresh noise of standard deviation $\sigma_t$, DDIM none. Show that any
# $\sigma$ in between is right too: if the network knows $\epsilon$, the step
# $x_{t-1} = \sqrt{\bar\alpha_{t-1}}\,x_0 + \sqrt{1-\bar\alpha_{t-1}-\sigma^2}\;\epsilon + \sigma z$ arrives with the
# variance that the forward process has at $t-1$; and with $\sigma_t$ it is equation 2.

# %% tags=["solution", "hide-input"]
# 3: eps and z are independent, so variances add. Equation 2's mean gives x_0 and eps the same weights for sigma_t.
abar, before = d.alphas_cumprod[1:], d.alphas_cumprod[:-1]
full = sampling.posterior_std(abar, before)
e, z = torch.randn(2, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
for share in (0.0, 0.5, 1.0):
    sigma = share * full
    weight = (1 - before - sigma**2).sqrt()
    # by construction; drawn, to see it
    assert abs(float((weight[k] * e + sigma[k] * z).var() / (1 - before[k])) - 1) < 0.02
by_equation_2 = ((1 - abar).sqrt() - ho[1:]) / d.alphas[1:].sqrt()  # of eps, once x_t is written out
print(f"3. with sigma_t, weights of eps agree within {float((weight - by_equation_2).abs().max()):.1e}")
assert torch.allclose(weight, by_equation_2, atol=1e-9)
assert torch.allclose(abar.sqrt() / d.alphas[1:].sqrt(), before.sqrt(), atol=1e-9)  # of x_0

# %% [markdown]
# **4.** *The erratum at work.* How much noise is left after one step of equation 2 as printed, taken at a small $t$, by a
# network that is right?

# %% tags=["solution", "hide-input"]
# 4: x_t holds sqrt(1 - abar) eps; taking away 1 eps leaves more noise than there was, with the other sign.
left = ((1 - d.alphas_cumprod).sqrt() - 1) / d.alphas.sqrt()
there = (1 - d.alphas_cumprod).sqrt()
print(f"4. at t = 10: {float(there[10]):.2f} of eps before the step, {float(left[10]):.2f} after it")
assert float(left[10]) < -0.5 and abs(float(left[10])) > float(there[10])

# %% [markdown]
# ## 6. What the scorecard gets

# %%
claims = []
for m in models:
    text = (
        f"{palette.label(m)}, trained: told the true step it does best at {right[m]} of {len(told_steps)} steps;"
        f" the mildest wrong step multiplies the error by {benefit[m]:.2f} on average"
    )
    value = {"sensitivity": sensitivity[m], "benefit": benefit[m]}
    why = "the step is an input of every block; the network as released cannot do this (notebook 04)"
    claims.append(dict(id="C24", measured=text, value=value, n=error_images, dataset=datasets[0], size=size))
    claims[-1]["why"] = why if m == models[-1] else ""
values = {
    "equation_2": {"printed_weight": [float(as_printed.min()), float(as_printed.max())], "errors": worst},
    "difference_from_diffusers": difference,
    "told": {m: table.to_dict("index") for m, table in relative.items()},
    "noising_decibels": dict(zip(map(str, noising_steps), decibels, strict=True)),
    "device": sampling.device_name(device),
}
result = run.save_result(values, claims, inputs=paths.values())

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
found = result["values"]["equation_2"]
display(Markdown(scorecard.conclusion(result)))
display(
    Markdown(
        f"**Equation 2.** {erratum.printed[0].upper()}{erratum.printed[1:]}. It should be {erratum.correct}. Measured:"
        f" the printed weight is {found['printed_weight'][0]:.4f} to {found['printed_weight'][1]:.4f} over all steps;"
        f" against Bayes' rule it is wrong by up to {found['errors']['as printed']:.2g}, the corrected one by"
        f" {found['errors']['Ho et al. (2020)']:.0e}."
    )
)
