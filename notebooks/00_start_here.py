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
# # 00 · Start here: the paper in ten minutes
#
# *Answers: what the paper says, what is claimed for it, where each claim is tested, and what came out.*
#
# "The Missing U for Efficient Diffusion Models" replaces the network inside a diffusion model by one that solves
# differential equations.
#
# **The question: is a continuous U-Net a cheaper, faster, equally good denoiser, as the paper says?**
#
# Nothing on this page is typed from a run. Quotations come from `cunet/paper.py` and `cunet/claims.py`, pictures are
# computed here, and findings are read from the result files of the run that this page belongs to.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # the run whose results are read
job = "00_start_here"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of the noise in the first picture
digits = 3  # test images in the first picture
noising_steps = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999]  # diffusion steps in it, of 1000

# %%
# %matplotlib inline
import re

import pandas as pd
import torch
from IPython.display import HTML, Markdown, display

from cunet import datasets, figures, folders, models, paper, runs, scorecard
from cunet.claims import CLAIMS
from cunet.diffusion import Diffusion

run = runs.Run.open(globals())
results = {name: result for name, result in runs.results(run.run_dir).items() if name != job}

# %% [markdown]
# ## Minute 1: a diffusion model
#
# Bury an image $x_0$ under noise $\epsilon$ in a thousand small steps. After step $t$ a share $\bar\alpha_t$ of its
# variance is left, falling from nearly 1 to nearly 0; this needs no learning:
#
# $$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I). \tag{N} $$
#
# (Numbers of equations are the paper's. It has none for this one, so here it is (N), for noising, on every page.)

# %%
diffusion = Diffusion()
images = datasets.load("mnist", "test").batch(range(digits))
noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
rows = [
    ("", [diffusion.add_noise(x[None], e[None], t)[0] for t in noising_steps])
    for x, e in zip(images, noise, strict=True)
]
picture = figures.image_rows(rows, [f"t = {t}" for t in noising_steps])
caption = "Test images at later and later diffusion steps t: from which step on could you not say what was there?"
run.save_figure(picture, "ext_start_noising", caption)

# %% [markdown]
# Now learn to go from right to left. A network is shown $x_t$, is told $t$, and guesses the noise
# (equation 3 of the paper). Take a little of the guessed noise away, ask again, and after some tens or hundreds of
# calls there is a new image (equation 2). **The network is called at every step, so its cost is the cost of the
# model.** Notebook 06 walks through both directions.
#
# ## Minute 3: the U-Net, and a continuous one
#
# The network is usually a U-Net: blocks of convolutions at falling and rising resolution, with connections across.
# A residual block computes $x \mapsto x + f(x)$. That is one Euler step of a differential equation, and the idea of
# Neural ODEs (equation 1) is to take the equation itself for the block:
#
# $$ \frac{dx}{ds} = f(x, s). \tag{1} $$
#
# A solver may evaluate the *same* $f$ several times where a deep network would have several layers: depth without
# parameters (notebook 04 counts the evaluations). The paper goes one order further. Its blocks obey
#
# $$ x'' = f(x, x', t, s), \qquad x(0) = x_0, \qquad x'(0) = g(x_0), \tag{4} $$
#
# where features have a position and a velocity, and an initial velocity is learned. $t$ is the diffusion
# step; $s$, from 0 to 1, is the block's own time. Here is the network, drawn by running it:

# %%
network = models.build("cunet", "paper")
picture = figures.architecture(network, 64, 3, "The continuous U-Net as described")
caption = (
    "The continuous U-Net as the paper describes it: the modules that one call runs, from left to right, a height a "
    "resolution. Which boxes solve an equation, and which are told the diffusion step (dots)?"
)
run.save_figure(picture, "ext_start_architecture", caption)

# %% [markdown]
# Notebook 01 takes the block apart, 02 its gradient, 03 the stochastic equations behind it, and 04 the networks.
#
# ## Minute 5: two networks by one name
#
# The authors published their code. It is not quite the network that the paper describes: among other things its equation
# is of first order, and it is never told the step (two of its ablations are). So there are two cU-Nets in this
# repository. `cunet` is ours, after the description. `cunet-released` is theirs, to the last parameter. Every number
# says whose it is; notebook 04 shows the differences, one experiment each.
#
# The text has errors, too. Each is shown where it matters:

# %%
errata = pd.DataFrame(paper.ERRATA)
display(HTML(errata.to_html(index=False)))

# %% [markdown]
# ## Minute 7: what is claimed, where it is tested, and what was found
#
# One line a claim. Which notebooks test it is read from their first lines. A verdict stands where a notebook of this
# run has measured the claim. What was measured, on which data, and the rule that turned it into the verdict are in
# notebook 12; why paper and measurement differ, there and at the end of each notebook.

# %%
answers = {claim: [] for claim in CLAIMS}
for path in sorted((folders.root() / "notebooks").glob("[0-9][0-9]_*.py")):
    first = path.read_text(encoding="utf-8").split('tags=["parameters"]')[0]
    for claim in re.findall(r"\bC\d\d\b", first) if path.stem[:2] not in ("00", "12") else ():
        if path.stem not in answers[claim]:
            answers[claim].append(path.stem)
card = scorecard.scorecard(results.values())
overall = scorecard.overall(card)
tested = {claim: ", ".join(name[:2] for name in names) or "-" for claim, names in answers.items()}
places = pd.DataFrame(
    [(c.id, c.text, c.place, tested[c.id], overall[c.id]) for c in CLAIMS.values()],
    columns=["id", "claim", "place in the paper", "notebook", "verdict"],
)
if profile == "smoke":
    display(Markdown("*A smoke run: it shows that everything runs. Its numbers mean nothing.*"))
elif card.verdict.isin([scorecard.UNMEASURED]).all():
    display(Markdown("This run has no results yet. `make reproduce` computes them; then run this page again."))
display(HTML(places.to_html(index=False)))

# %% [markdown]
# ## How to read on
#
# | you have | read |
# |---|---|
# | 30 minutes | this page; section 1 of 04, for what the networks look like; 12, for every claim and its verdict |
# | 2 hours | also 06 (how a diffusion model works), 04 to its end (what is described, what was released), 07 (how good the images are, and how fast), 08 (denoising) |
# | a course | the four lessons below, an hour and a half each |
#
# | lesson | before | in class | exercises |
# |---|---|---|---|
# | 1. There and back: diffusion | this page | 06: noising, one step back, samplers | 06: 1 to 4 |
# | 2. A block that solves an equation | 01, sections 1 and 2 | 01: solvers, orders, what a trained block does | 01: 1 to 5 |
# | 3. The gradient | 02, section 1 | 02: the proof repaired, four ways to the gradient | 02: 1 to 4 |
# | 4. Time without steps | 03, section 1 | 03: reverse SDE, flow, Langevin; then 12: which claims hold? | 03: 1 to 5 |
#
# Each exercise has a solution below it that computes its answer and asserts it; in JupyterLab select its cell and choose
# *View, Collapse Selected Code* to hide it. The first halves of 01, 02 and 03 need nothing but a pencil. To train
# your own network: 05, then 06 with `checkpoints = "train"`.
#
# Every notebook runs by hand in JupyterLab (`make lab`), with the values of its parameters cell. `make reproduce`
# runs all of them in order, and puts every figure and table on one page, `report/index.html`, in the run's folder.
#
# ## Notation
#
# There are **two clocks**. The paper writes $t$ for one and $\tilde t$ for the other; we write $t$ and $s$. In the
# literature $s$ is a block's time, the score or the scale of guidance. Here it is the block's time; in 03, which has no
# block, the score; the scale is always $w$. Other letters that mean two things say in which notebook they mean which.
#
# | symbol | what | in the code |
# |---|---|---|
# | $t$, $T$ | diffusion step, 0 (one step of noise) to $T-1$ (all noise), and their number; in 03, where steps are infinitely many, $t$ is a time from 0 (clean) to 1 | `t`, `timestep`, `timesteps` |
# | $k$ | in 03 a diffusion step, because $t$ is a time there; in the code of 06 one step; in 01 an order, $O(h^k)$ | `k` |
# | $z$ | fresh noise in a step back (equation 2); in 01, 02 and 04 the state of an ODE | `noise`, `z` |
# | $s$ | time inside an ODE block, 0 to 1; the paper's $\tilde t$; in 03 the score | `s` |
# | $h$ | step of a solver, in units of $s$ (01, 02) or of the time $t$ (03) | `1 / steps` |
# | $x_0$, $x_t$ | clean image, and image at step $t$, in [-1, 1]; inside a block $x$ is the position | `x0`, `x` |
# | $\epsilon$ | the noise in $x_t$, from $\mathcal N(0, I)$ | `noise`, `epsilon` |
# | $L$ | noise level: how many steps of noise an image has, so that $t = L - 1$ (08, 09); in 02 the loss, in 01 (section 5) a Lipschitz constant, in 05 the yardstick of recipes | `level` |
# | $\sigma_L$ | standard deviation of the noise at level $L$, once the image is back at full contrast: $x_t/\sqrt{\bar\alpha_t} = x_0 + \sigma_L\,\epsilon$ | `noise_std` |
# | $y$ | what a denoiser is given: in 03 $x_t$ itself, in 08 $x_t/\sqrt{\bar\alpha_t}$, at full contrast; in 05 what the network is asked for | `noisy`, `target` |
# | $\hat x$, $\hat v$, $\hat s$ | with a hat, an estimate: of the clean image (03, 05), of a velocity between two steps (01), of the score (03) | |
# | $\sigma_t$ | standard deviation of the fresh noise in one step back (03, 06) | `posterior_std` |
# | $\beta_t$, $\alpha_t = 1 - \beta_t$ | variance that one step adds, share of the signal's that it keeps | `betas`, `alphas` |
# | $\bar\alpha_t$ | product of the $\alpha$'s up to $t$: the share of the image's variance that is left | `alphas_cumprod` |
# | $\mathrm{SNR}_t$ | signal-to-noise ratio, $\bar\alpha_t/(1-\bar\alpha_t)$ (05) | |
# | $p_t$, $q$ | $p_t$ the density of $x_t$ (03); $q$ the laws of noising, as in $q(x_{t-1}\mid x_t, x_0)$ (03, 06, 08), and in section 7 of 03 the density of samples on their way; $p$, $q$ in 02 the two halves of an adjoint | |
# | $\epsilon_\theta$, $\tilde U$ | the network, $\theta$ its parameters; $s_\theta$ in 02 the score that it stands for | `network(sample, timestep)` |
# | $v$ | inside a block the velocity $dx/ds$; in 05 and 06 what the network answers, a mixture of $\epsilon$ and $x_0$ | `v`; `v_prediction` |
# | $f$, $g$ | in a block acceleration and initial velocity (equation 4); in 03 drift and strength of noise of the forward process (equation 5) | `block.acceleration`, `network.velocity` |
# | $a$ | a value of $f$, an acceleration (01, 02), held constant in checks of 01 and 04 | |
# | $F$ | right-hand side of a first-order equation, $z' = F$ (02) | |
# | $A$, $B$, $K$ | in section 2 of 02 the free factors of the paper's proof, and the sum that it makes with them | `A`, `B` |
# | $b$, $\gamma$ | in 03 drift and strength of noise of any SDE; $b$ also the drift of the flow (section 8) | |
# | $\tau$ | in section 3 of 03 the clock of the Langevin part, $d\tau = -\beta\,dt$ | |
# | $\lambda$, $r$ | the adjoint (02): gradient of the loss with respect to the state, $r$ in section 3 of 02 to the velocity alone; $\lambda$ in 03 the strength of the noise on the way back (0 flow, 1 reverse SDE), in equation 18 a weight | `gradient="adjoint"`, `weight` |
# | $\varphi$ | the diffusion's time as an angle, $\cos\varphi_t = \sqrt{\bar\alpha_t}$ (11; exercise 2 of 06); in 01, section 2, any increasing function | `phi` |
# | $\Gamma_t$ | mean square of the guessed noise, 1 if all of it is found (11, analytic steps) | |
# | $u$ | in 11 a step earlier than $t$, to which a sampler goes; in 10 a direction in which a block is pushed; in exercises of 03 and 06 the time on another scale | `u` |
# | $e$ | vector of random signs, to estimate a trace or divergence (03, 11); in section 7 of 03 the error of a score | `signs` |
# | $J$ | Jacobian of a map: of the flow's drift (exercise 5 of 03), of a block (10), of a solver's step (exercise 3 of 01) | |
# | $c$, $w$ | class of an image, and scale of guidance: $w = 0$ ignores the class, 1 is unguided, above 1 exaggerates it (11); $c$ in section 2 of 03 the weight of the score, in exercises of 01 and 02 the strength of friction; $w$ in 02 the second velocity of a solver, and $dw$ in 03 the increment of Brownian motion | `labels`, `scale` |
# | $D$, $P(D)$ | distortion, and the best perception at that distortion (equation 17: 03, 08) | `distortion`, `perception` |
# | $n$ | number of a solver's step (01, 02); in 11 of an image's values | |
#
# ## Glossary
#
# | word | what it means here | more in |
# |---|---|---|
# | adjoint | an equation, solved backwards, that carries the gradient; it needs no stored activations | [02](02_adjoint.py) |
# | continuous U-Net, cU-Net | a U-Net whose blocks are ODE blocks: `cunet` as described, `cunet-released` as released | [04](04_networks.py) |
# | DDPM, DDIM | samplers: equation 2 with its fresh noise; one without, which keeps more of the guessed noise in its place | [06](06_sampling.py), exercise 3 |
# | DPM-Solver++, UniPC, Heun | samplers that solve the probability flow by methods of higher order: the first two combine earlier answers of the network, Heun asks it twice a step | [06](06_sampling.py), [11](11_beyond.py); Heun [03](03_sde.py) |
# | EMA | exponential moving average of the weights over training; the averaged weights are what is validated and kept | 05 |
# | evaluation | one call of $f$ by a solver; a block of 2 steps of rk4 takes 8 | [01](01_ode_block.py), [04](04_networks.py) |
# | FD-AlexNet | Fréchet distance between AlexNet's features of generated and of real images; in FID they are Inception's | [07](07_synthesis.py) |
# | floor | the distance that perfect samples would have, as many of them: measured between real images, or from points of the exact density | [07](07_synthesis.py), [03](03_sde.py) |
# | guidance | exaggerating the difference that naming a class makes to the network's answer | [11](11_beyond.py) |
# | KID-AlexNet | kernel distance between AlexNet's features of two sets of images: unbiased however few they are, so it may fall below 0 | [07](07_synthesis.py), [11](11_beyond.py) |
# | Langevin | the part of the reverse SDE that climbs the log-density against noise and leaves the density as it is | [03](03_sde.py) |
# | LPIPS, SSIM | perceptual distance between two images, lower is better; structural similarity, higher is better | [08](08_denoising.py) |
# | MAC | multiply-accumulate: one product, added to a sum; two FLOPs | [04](04_networks.py) |
# | order | a solver has order $k$ if its error at the end falls like $h^k$ | [01](01_ode_block.py) |
# | posterior mean | the mean of all clean images that may lie behind a noisy one: what the squared error asks for, and smoother than any of them | [03](03_sde.py), [08](08_denoising.py) |
# | precision, recall | share of the samples that lie among the data, and of the data that lies among the samples | [07](07_synthesis.py) |
# | probability flow | the ODE whose solutions have, at every time, the same densities as the SDE's | [03](03_sde.py) |
# | PSNR | peak signal-to-noise ratio: the mean squared error of an image, in decibels below the square of the range of its values; higher is better | [09](09_denoisers.py) |
# | sampling steps | calls of the network for one image; may be far fewer than $T$ | [07](07_synthesis.py) |
# | score | gradient of the log-density, $\nabla\log p_t(x)$; the noise in $x_t$ gives it | [03](03_sde.py) |
# | SNR | signal-to-noise ratio of $x_t$, $\mathrm{SNR}_t$; 0 dB where both are equally strong | [06](06_sampling.py), exercise 1 |
# | stand-in | a data set of drawn pictures in place of one that cannot ship; never compared with the paper as if it were it | [07](07_synthesis.py) |
# | v-prediction | the network answers with $v$, a mixture of noise and image, in place of the noise | [06](06_sampling.py), exercise 2 |
# | walk | the way of a noisy image down the reverse process, an image at every step | [08](08_denoising.py), [09](09_denoisers.py) |
#
# ## What the paper says, what we measured, why they differ
#
# All claims and reasons are in notebook 12 and at the ends of the notebooks; this is what they come to.

# %%
counts = scorecard.counts(card)
result = run.save_result(
    {"map": answers}, timings={"counts": counts.to_dict(), "verdicts": overall.to_dict()}
)  # some verdicts are about times
lines = ["| verdict | claims | which |", "|---|---|---|"]
for verdict, n in result["timings"]["counts"].items():
    which = [claim for claim, found in result["timings"]["verdicts"].items() if found == verdict]
    lines += [f"| {verdict} | {n} | {', '.join(which)} |"] if n else []
display(Markdown("\n".join(lines)))
