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
# # 08 · Denoising: distortion against perception
#
# *Answers: equations 15 to 18, figures 5 and 7 to 11, tables 2 and 3; claims C09, C10, C11, C13, C14, C26.*
#
# A diffusion model is a denoiser for every noise level. The paper takes test images, adds noise by some steps of the
# forward process, walks the reverse process down, and compares what it sees on the way with the original: by SSIM
# (distortion) and by LPIPS (perception). It finds the U-Net better in the one and the continuous U-Net in the other.
#
# **The question: which network denoises better, by which measure, how soon, and how much of the answer is the
# protocol's and not the network's?**

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "08_denoising"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of all noise
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist"]  # data sets, each with its own tables and claims
models = ["unet", "cunet"]  # the first and the last are compared
seeds = [0]  # training seeds; the first is used here
images = 12  # test images a noise level
levels = [50, 100, 150, 200, 250, 400, 600, 800]  # diffusion steps of noise: tables 2 and 3
stride = 10  # diffusion steps a network call; the paper's is 1
fine_levels = []  # of the levels those walked at `fine_stride`: from few steps of noise a peak has few places
fine_stride = 1  # diffusion steps a network call there
every = 1  # network calls a score
variant = "mean"  # the protocol of the tables, of VARIANTS; the others are compared with it
protocol_levels = [50, 150, 400]  # diffusion steps of noise of that comparison; table 4's
figure_levels = [150, 400, 800]  # of these levels: figures 7, 8 and 9
shown = 2  # test images in figure 5
stride_images = 3  # test images in the comparison of strides
stride_levels = [50, 150]  # diffusion steps of noise in it
strides = [1, 10]  # diffusion steps a network call
cost_images = [2, 4, 8]  # test images of the runs that are timed
timing_rounds = 9  # rounds of the interleaved timing of one network call
toy_noise = 0.5  # standard deviation of the toy's noise, in distances between two of its images
toy_draws = 120  # noisy images of the toy
tradeoff_images = 64  # test images of the perception-distortion curve
tradeoff_level = 400  # diffusion steps of noise
tradeoff_stride = 40  # diffusion steps a network call
tradeoff_resamples = 400  # of the bootstrap behind its intervals
reference_images = 10_000  # training images that its sets are compared with
mean_images = 64  # test images whose posterior mean is looked for
mean_levels = [900, 940, 980]  # diffusion steps of noise where the posterior mean is looked for
known_to = 0.03  # of the least error: how exactly the training images must tell the posterior mean

# %%
# %matplotlib inline
from functools import partial

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from cunet import checkpoints as store
from cunet import (
    cost,
    denoising_figures,
    denoising_tables,
    figures,
    frechet,
    kernel_distance,
    palette,
    paper,
    runs,
    scorecard,
    subsets,
    wording,
)
from cunet import datasets as data
from cunet import denoising_claims as judged
from cunet.denoisers import noisy_images
from cunet.denoising import denoise, level_for, noise_std
from cunet.diffusion import Diffusion
from cunet.posterior import estimate, perception, posterior
from cunet.sampling import best_device, device_name, placed, predict
from cunet.trajectories import VARIANTS

run = runs.Run.open(globals())
folder = store.ASSETS if checkpoints == "released" else run.checkpoints
pair = [models[0], models[-1]]
names = dict(zip(pair, map(palette.label, pair), strict=True))
paths, missing = store.complete(folder, size, datasets, pair, seeds[0])
datasets = list(dict.fromkeys(d for d, _ in paths))
networks, diffusions, device = {}, {}, best_device()  # the first GPU, where there is one
for key, path in paths.items():
    network, card = store.load(path, model=key[1], size=size)
    networks[key] = network.to(device)
    diffusions[key] = Diffusion(**card["diffusion"])
tests = {d: data.load(d, "test", networks[d, pair[0]].image_size) for d in datasets}
print("Missing, and so left out:", ", ".join(missing) or "nothing")
print("The networks compute on", device_name(device))

# %% [markdown]
# ## 1. The protocol
#
# An image is noised by $L$ steps at once, its noise *level*, with $t = L-1$ in
#
# $$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I). \tag{N} $$
#
# Then the reverse process walks down to the clean image. After each network call the image is compared with $x_0$. The
# *step* counts noise steps removed: 0 is the noisy image, $L$ the end. An image's score is its best one on the way
# (table 2); its step is where it had it (table 3). Note that the best one is found with $x_0$ at hand, apart for each
# score: nobody who denoises a picture could stop there. What anyone can have is counted in notebook 09.
#
# The paper leaves open what walks and what is looked at. Walks: to the posterior mean, without fresh noise (`mean`),
# or equation 2 with its noise (`ancestral`). Looked at: the image itself, or the network's prediction of $x_0$
# (`clean`, `ancestral-clean`). The tables take the parameter `variant`; three arguments for `mean`:
#
# 1. It is what the authors' code does.
# 2. A score that peaks long before the end, as table 3 prints, cannot come from `ancestral`: its image at step $t$ has,
#    by construction, the noise of step $t$ in it.
# 3. `clean` shows an image that is no state of the process, so that "steps to denoise" would lose its meaning.
#
# What the choice changes is measured in section 5. How much noise is a level? Once the image is back at full contrast,
# $x_t/\sqrt{\bar\alpha_t}=x_0+\sigma_L\,\epsilon$ with $\sigma_L=\sqrt{1/\bar\alpha_t-1}$. In grey levels of 0 to 255:

# %%
deviation = {
    f"{d}: {names[m]}": [127.5 * noise_std(diffusions[d, m], n) for n in levels] for d, m in networks
}
display(pd.DataFrame(deviation, index=pd.Index(levels, name="noise steps")).round(1))
first_peak = {row.model: row.ssim_step / row.noise for row in paper.TABLE_3 if row.noise == max(levels)}
print("Table 3's peak of SSIM at the highest level, as a share of the way:")
pd.Series(first_peak, name="share").rename({"unet": "U-Net", "cunet": "cU-Net"}).round(2).to_frame()

# %% [markdown]
# ## 2. The runs
#
# Both networks get the same images with the same noise, image by image. The images are test images from everywhere: the
# first of a data set need not be like the others (`cunet.subsets`). Every number below comes from these runs; a
# run that was interrupted goes on where it stopped.

# %%
fractions = [i / 8 for i in range(9)]  # of the way, where images are kept
denoised = {d: {} for d in datasets}


def walked(d, m, at, variants, frames=()):
    """Runs of a network from some levels, each at its stride."""
    parts = [
        denoise(
            networks[d, m], subsets.images(tests[d], images), diffusions[d, m], some, variants, denoising_tables.SCORES,
            k, every, frames, seed, progress=True, resume=run.checkpoints / job,
        )
        for k, some in denoising_tables.strides(at, run.parameters).items()
    ]  # fmt: skip
    return denoising_tables.together(parts)


for d, m in networks:
    denoised[d][m] = walked(d, m, levels, [variant], fractions)

# %% [markdown]
# **What a call costs.** As in the paper, on the CPU (whatever the runs above computed on), one image at a time: calls of
# both networks are timed in turn, with the step's own arithmetic.

# %%
seconds, calls = {}, {}
for d in datasets:
    one = {m: subsets.images(tests[d], 1) for m in pair}
    with placed("cpu", *(networks[d, m] for m in pair)):
        timed = cost.time_interleaved(
            {m: lambda d=d, m=m, x=x: denoise(networks[d, m], x, diffusions[d, m], [1], metrics=["psnr"])
             for m, x in one.items()}, timing_rounds, seed=seed,
        )  # fmt: skip
    seconds[d] = timed.medians
    calls[d] = (timed.ratios[pair[1]], *timed.spread[pair[1]])
    print(f"{d}: {names[pair[1]]} takes {wording.interval(*calls[d])} of the time")

# %% [markdown]
# ## 3. Tables 2 and 3
#
# First network / second network, as the paper prints them; in brackets 95 % bootstrap intervals over images; $p$ from a
# sign-flip test of the paired differences, adjusted over the levels of the column (Holm). The paper's columns are
# of CelebA at 64 x 64, so compare who is ahead, not the values. The seconds are those of one network call a noise
# step, as in the paper; at a stride of $k$ it takes a $k$-th. Their $p$ and intervals are over images, with the time of
# a call taken as known; the claim's verdict takes it at the unfavourable end of the spread printed above.

# %%
compared = {d: denoising_tables.comparison(denoised[d], variant, seconds[d], seed) for d in datasets}
for d in datasets:
    shown_2 = denoising_tables.table_2(compared[d])
    caption = f"Table 2, {d}: best values on the way, {' / '.join(names.values())}, {images} images a level"
    run.save_table(shown_2, f"tab02_denoising_{d}", caption)
    display(shown_2)

# %%
at_strides = denoising_tables.strides_in_words(levels, run.parameters)
every_number = pd.concat([frame.assign(dataset=d) for d, frame in compared.items()])
run.save_table(every_number, "ext_denoising_numbers", "Every number behind tables 2 and 3")
for d in datasets:
    shown_3 = denoising_tables.table_3(compared[d])
    caption = f"Table 3, {d}: step and time of the best values, {' / '.join(names.values())}, {at_strides}"
    run.save_table(shown_3, f"tab03_peaks_{d}", caption)
    display(shown_3)

# %% [markdown]
# ## 4. Figures 5 and 7 to 11
#
# **Figure 5**: the original, with noise, and at the end of the walk of each network. The first of the images
# above, not chosen.

# %%
for d in datasets:
    clean, rows = subsets.images(tests[d], images), []
    for level in levels:
        kept = [denoised[d][m][variant, level].frames for m in pair]
        row = [(clean[i], kept[0][i, 0], kept[0][i, -1], kept[1][i, -1]) for i in range(shown)]
        rows.append((f"{level} steps", [image for group in row for image in group]))
    picture = figures.image_rows(
        rows, ["original", "noisy", *(n.replace(" as ", "\nas ") for n in names.values())] * shown
    )
    caption = f"Original, noisy, and the end of each walk, {d}: what is lost as the noise grows, and what made up?"
    run.save_figure(picture, f"fig05_denoised_{d}", caption)

# %% [markdown]
# **Figures 7, 8 and 9**: the way there, at a lower, a middle and a high noise level.

# %%
for d in datasets:
    for number, level in zip((7, 8, 9), figure_levels, strict=True):
        strips = [denoising_figures.strip(m, denoised[d][m][variant, level], 0, "lpips") for m in pair]
        picture = denoising_figures.along_the_steps(subsets.images(tests[d], images)[0], strips, "lpips")
        caption = f"{paper.FIGURES[number]}: {level} steps of noise, {d}; where on the way is the best frame?"
        run.save_figure(picture, f"fig{number:02}_intermediate_{d}", caption)

# %% [markdown]
# **Figures 10 and 11**: SSIM and LPIPS along the way. The paper draws one image; here it is thin, and the mean thick.
# Images differ more than networks do, so the networks are compared image by image: below each panel stands the
# difference with its interval. Where the band leaves zero, one network is ahead.

# %%
for d in datasets:
    for number, metric in ((10, "ssim"), (11, "lpips")):
        picture = denoising_figures.against_steps(denoised[d], variant, metric)
        caption = (
            f"{metric.upper()} against noise steps removed, {d}: mean of {images} images, and one of them; "
            f"below, {names[pair[1]]} minus {names[pair[0]]} with its 95 % interval"
        )
        run.save_figure(picture, f"fig{number}_{metric}_{d}", caption)

# %% [markdown]
# **The elbow, quantified.** Figure 11's U-Net gets worse again after its peak. So: what share of the gain up to the
# peak (each image's own) is lost again by the end? 0 is no elbow, 1 is all lost. Claim C13 counts more than a tenth as
# an elbow, where the 95 % interval over images is clear of a tenth.

# %%
elbow = {d: denoising_tables.elbows(denoised[d], variant) for d in datasets}
for d in datasets:
    found = denoising_tables.elbow_intervals(denoised[d], variant, seed=seed)
    printed = [wording.interval(row.lost, row.low, row.high, ".3f") for row in found.itertuples()]
    found = found.assign(printed=printed, model=found.model.map(names)).pivot(index="noise", columns="model")
    found = found.printed[list(names.values())].rename_axis(index="noise steps", columns=None)
    run.save_table(found, f"ext_elbow_{d}", f"Share of the gain in LPIPS lost after the peak, 95 % over images, {d}")
    display(found)

# %% [markdown]
# ## 5. How much of this is the protocol?
#
# The same images and noise, all four variants; and the same claims, judged by the same rules (notebook 12 prints them).
# The variants are walked from some of the levels only. So the tables' own variant has two rows, one from all levels,
# which is the scorecard's, and one from these: what the levels change is not what the protocol changes.

# %%
others = {d: {} for d in datasets}
for d, m in networks:
    others[d][m] = walked(d, m, protocol_levels, tuple(VARIANTS))
# C11 speaks of time: a call of the second network at the unfavourable end of its spread
slowest = {d: seconds[d] | {pair[1]: seconds[d][pair[0]] * calls[d][2]} for d in datasets}
varied = {
    (d, v): denoising_tables.comparison(others[d], v, slowest[d], seed) for d in datasets for v in VARIANTS
}
rows = []
for d in datasets:
    cautious = denoising_tables.comparison(denoised[d], variant, slowest[d], seed)
    tried = [(variant, levels, denoised[d], cautious)]
    tried += [(v, protocol_levels, others[d], varied[d, v]) for v in VARIANTS]
    for v, at, runs_of, frame in tried:
        values = denoising_tables.claim_values(runs_of, v, frame, seed)
        verdicts = {c: scorecard.verdict(c, value) for c, value in values.items()}
        rows.append({"dataset": d, "variant": v, "levels": ", ".join(map(str, at))} | verdicts)
protocol = pd.DataFrame(rows)
run.save_table(protocol, "ext_denoising_protocol", "Verdicts under each variant of the protocol, and from which levels")
protocol

# %%
both = {"first": names[pair[0]], "second": names[pair[1]]}
best = pd.concat([frame.assign(dataset=d, variant=v) for (d, v), frame in varied.items()])
best = best[best.quantity == "value"].rename(columns=both)
spread = best.pivot_table(list(both.values()), ["dataset", "metric", "noise"], "variant")
spread.columns = [f"{name}, {v}" for name, v in spread.columns]
run.save_table(spread, "ext_denoising_variants", "Mean best SSIM and LPIPS by variant of the protocol")
for d in datasets:
    what = f"{names[pair[1]]} minus {names[pair[0]]}"
    picture = denoising_figures.differences({v: varied[d, v] for v in VARIANTS}, what)
    caption = f"{what}: best values by variant, {d}; do intervals leave 0, and on one side for all variants?"
    run.save_figure(picture, f"ext_denoising_variants_{d}", caption)

# %% [markdown]
# **What the stride costs.** Steps that are left out save time and change the walk: the peak can only fall on a step
# that was taken, and without fresh noise a longer stride is another path. The same images at each stride:

# %%
rows = []
for (d, m), network in networks.items():
    for k in strides:
        few = denoise(network, subsets.images(tests[d], stride_images), diffusions[d, m], stride_levels, [variant],
                      denoising_tables.SCORES, k, seed=seed)  # fmt: skip
        for level in stride_levels:
            found = {q: few[variant, level].best(q) for q in denoising_tables.SCORES}
            scores = {q: float(value.mean()) for q, (value, _) in found.items()}
            steps = {f"{q} step": float(step.double().mean()) for q, (_, step) in found.items()}
            rows.append({"dataset": d, "model": m, "noise": level, "stride": k} | scores | steps)
strided = pd.DataFrame(rows)
run.save_table(
    strided, "ext_denoising_stride", f"Best values and their steps by stride, {stride_images} images"
)
for k in strides:
    calls_made = images * sum(-(-level // k) for level in levels)
    spent = sum(calls_made * denoised[d][m].seconds_per_call for d, m in networks)
    print(
        f"stride {k}: {calls_made} calls a network; section 2 then takes {spent / 60:.1f} minutes, without the scores"
    )
strided.round(3)

# %% [markdown]
# **Is cost linear** in images times network calls? The time of whole runs, with the scores, beside the line through
# the origin that fits them best, on the device that the networks compute on. And by which power of images times calls
# does the time grow? 1 is linear, 2 quadratic, less than 1 has a part that does not grow:

# %%
d, m = datasets[0], pair[-1]


def whole_run(n, level):
    """One run of n images from one level."""
    denoise(networks[d, m], subsets.images(tests[d], n), diffusions[d, m], [level], [variant], denoising_tables.SCORES,
            stride, batch_size=cost_images[0])  # fmt: skip


tasks = {(n, level): partial(whole_run, n, level) for n in cost_images for level in stride_levels}
timed = cost.time_interleaved(tasks, 2, 1, seed)
linear = pd.DataFrame(
    [
        dict(images=n, noise=level, calls=n * -(-level // stride), run=t)
        for (n, level), found in timed.samples.items()
        for t in found
    ]
)
slope = float((linear.calls * linear.run).sum() / (linear.calls**2).sum())
power = denoising_tables.growth(linear.calls, linear.run)
picture = denoising_figures.cost_line(linear.calls, linear.run, linear.images, slope)
caption = f"Time of whole denoising runs, {names[m]}, {d}: do marks leave the line, and which?"
run.save_figure(picture, "ext_denoising_cost", caption)
print(f"time grows like images x calls to the power of {wording.interval(*power)} (95 %)")

# %% [markdown]
# ## 6. Equations 15 and 18: a toy that knows its posterior
#
# Let the data be ten images $x_1, \dots, x_{10}$, each as likely as another. Then equation 15 can be computed: given a
# noisy $y=x_t/\sqrt{\bar\alpha_t}$, image $x_k$ has the probability $\propto\exp(-\lVert y-x_k\rVert^2/2\sigma_L^2)$, and
# the L2 loss has its minimum at the mean of the images with these weights. (The sentence before equation 15 speaks of
# $y$ given $x$; what is meant is $x$ given $y$.) The noise is half the distance between two of the images: some are in
# doubt.
#
# The check: by Tweedie's formula the score of $q(y)$, here by autograd, leads to the same mean.

# %%
origin, toys = torch.arange(toy_draws) % 10, {}
for d in datasets:
    atoms = subsets.images(tests[d], 10).double()
    apart = torch.pdist(atoms.flatten(1)).square().mean().sqrt()
    level = level_for(diffusions[d, pair[0]], float(toy_noise * apart))
    std = noise_std(diffusions[d, pair[0]], level)
    y = noisy_images(diffusions[d, pair[0]], atoms[origin], level, seed).double().requires_grad_()
    found = posterior(y, atoms, std)
    fit = -(y[:, None] - atoms).square().flatten(2).sum(2) / (2 * std**2)
    (score,) = torch.autograd.grad(fit.logsumexp(1).sum(), y)
    assert torch.allclose(found.mean, y + std**2 * score, atol=1e-8), "Tweedie"
    toys[d] = dict(atoms=atoms, level=level, noisy=y.detach(), mean=found.mean.detach(),
                   weights=found.weights.detach())  # fmt: skip

# %% [markdown]
# **Over-smoothing.** The posterior mean has the least distortion there is, and is none of the images. A draw from the
# posterior is one of them, often a wrong one. Both follow exactly: the mean's variance lacks its own mean squared
# error, and the draw's error is twice as large.

# %%
for d, toy in toys.items():
    atoms, mean, weights = toy["atoms"], toy["mean"], toy["weights"]
    gaps = (atoms[None] - mean[:, None]).square().flatten(2).mean(2)  # of each image from each mean
    pairs = (atoms[None] - atoms[:, None]).square().flatten(2).mean(2)
    least = float((weights * gaps).sum(1).mean())
    sampled = float(torch.einsum("nk,kl,nl->n", weights, pairs, weights).mean())
    prior = weights.mean(0)
    centre = torch.einsum("k,kchw->chw", prior, atoms)
    lost = [
        float((w * (x - centre).square().flatten(1).mean(1)).sum())
        for w, x in ((prior, atoms), (1 / len(mean), mean))
    ]
    assert abs(sampled / least - 2) < 1e-9 and abs((lost[0] - lost[1]) / least - 1) < 1e-9
    print(
        f"{d}: least error {least:.3f}; a draw's {sampled:.3f}; variance of the images {lost[0]:.3f}, of the "
        f"means {lost[1]:.3f}"
    )
    drawn = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    rows = {"original": atoms[origin], "noisy": toy["noisy"], "posterior mean": mean, "posterior draw": atoms[drawn]}
    picture = figures.image_rows({k: v[:10].clamp(-1, 1) for k, v in rows.items()})
    caption = f"Ten images, {toy['level']} steps of noise, {d}: which of mean and draw is sharp, which is right?"
    run.save_figure(picture, f"ext_denoising_posterior_{d}", caption)

# %% [markdown]
# **Equations 16 to 18.** What is the best perception at a given distortion? Here a linear program answers without
# approximation (`cunet.posterior.perception`). Convex means: nowhere above the chord of its neighbours.

# %%
budgets = 1 + 1e-9 + 1.1 * np.linspace(0, 1, 23) ** 2  # closer together where the curve bends most
best_possible = {d: perception(toy["weights"], toy["atoms"], budgets) for d, toy in toys.items()}
left, middle, right = budgets[:-2], budgets[1:-1], budgets[2:]
share = (right - middle) / (right - left)  # how much of the chord's height comes from its left end
violation = {
    d: float((p[1:-1] - share * p[:-2] - (1 - share) * p[2:]).max()) for d, p in best_possible.items()
}
chord = np.clip(2 - budgets, 0, None)  # a coin decides between the mean and a draw
assert max(violation.values()) < 1e-6, "up to the tolerance of the linear program"
assert all((p <= chord + 1e-6).all() for p in best_possible.values()), "a coin is one of the denoisers"
picture = denoising_figures.toy(budgets, best_possible)
caption = "P(D) of equation 17 on ten images, and a coin's straight line: how far apart, and where?"
run.save_figure(picture, "ext_denoising_toy", caption)

# %% [markdown]
# Both were asserted: no point above the chord of its neighbours, as equation 18 says, and none above the coin's
# straight line.
#
# ## 7. And the trained networks?
#
# **Are they the posterior mean?** Where noise is so strong that thousands of training images have a say, these tell
# it: the mean of all of them with equation 15's weights. How exact that is, two halves of the training set tell: half
# their disagreement is the column `known within`. All columns are root mean squares in units of the least error, that of
# the posterior mean itself on these test images; *low* and *high* are the ends of 95 % intervals over these images. Only
# rows with `known within` up to the parameter `known_to` are judged.

# %%
rows = []
for d in datasets:
    clean, train = subsets.images(tests[d], mean_images), data.load(d, "train", tests[d].image_size).images
    for level in mean_levels:
        diffusion = diffusions[d, pair[0]]
        std, noisy = noise_std(diffusion, level), noisy_images(diffusion, clean, level, seed)
        truth, error = estimate(noisy, train, std)
        least = float((truth - clean).square().mean().sqrt())
        row = {"dataset": d, "noise steps": level, "least error": least}
        row["known within"] = error / least
        with torch.no_grad():
            for m in pair:
                x_t = noisy * diffusion.alphas_cumprod[level - 1].sqrt().float()
                guess = predict(networks[d, m].eval(), diffusion, x_t.to(device), level - 1).cpu()
                squares = [(x - truth).square().flatten(1).mean(1) for x in (guess, clean)]
                low, high = denoising_tables.ratio_band(*squares, seed=seed)
                row[m] = float((guess - truth).square().mean().sqrt()) / least
                row |= {f"{m} low": low**0.5, f"{m} high": high**0.5}
        rows.append(row)
away = pd.DataFrame(rows)
run.save_table(away, "ext_denoising_from_the_mean", "Distance of first predictions from the posterior mean")
away.rename(columns={f"{m}{end}": f"{names[m]}{end}" for m in pair for end in ("", " low", " high")}).round(3)

# %% [markdown]
# **At every level** the posterior mean has a fingerprint: its error is uncorrelated with it, so that the mean
# square (about grey, 0) missing from it is exactly its mean squared error. The networks' *first* prediction, missing
# mean square over error: 1 for the posterior mean; above 1 predictions err towards grey, below 1 by something
# that points less towards grey:

# %%
lacking = {}
with torch.no_grad():
    for (d, m), network in networks.items():
        clean, diffusion = subsets.images(tests[d], tradeoff_images), diffusions[d, m]
        for level in levels:
            e = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
            x_t = diffusion.add_noise(clean, e, level - 1).to(device)
            guess = predict(network.eval(), diffusion, x_t, level - 1).cpu()
            share = (clean.square().mean() - guess.square().mean()) / (clean - guess).square().mean()
            lacking[d, level, m] = float(share)
fingerprint = pd.Series(lacking).unstack(sort=False).rename_axis(["dataset", "noise steps"])
run.save_table(
    fingerprint, "ext_denoising_mean", "First predictions: missing mean square over mean squared error"
)
fingerprint.rename(columns=names).round(2)

# %% [markdown]
# **Their perception-distortion curves.** From its first prediction (ring) to its last (star): does a walk lead from the
# posterior mean towards a posterior draw, with more distortion and better perception? It need not, and may turn round.
# Distortion is the mean squared error, perception the KID-AlexNet (kernel distance of AlexNet features, notebook 07)
# between the predictions and the training images, with a bootstrap interval over images; that of the originals, as many,
# is the dashed line. The table has FD-AlexNet, too (`fd`), but nothing is judged by it: of so few images a Fréchet
# distance is too large, the more so the more varied they are, and blurred first predictions may pass for better than
# originals, whose own is printed below. KID is unbiased.

# %%
first_call = tradeoff_stride / tradeoff_level
stops = [first_call, *(f for f in (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0) if f > first_call)]
rows, floor, floor_fd, resampled = [], {}, {}, {}
for d in datasets:
    clean, side = subsets.images(tests[d], tradeoff_images), tests[d].image_size
    train, originals = data.load(d, "train", side), frechet.features(clean)
    real = kernel_distance.RealImages.of(frechet.dataset_features(train, reference_images))
    to_real = frechet.distance_to(frechet.dataset_statistics(train, reference_images))
    floor[d] = kernel_distance.distances(real, originals, tradeoff_resamples, seed).value
    floor_fd[d] = to_real(originals)
    for m in pair:
        walks = denoise(networks[d, m], clean, diffusions[d, m], [tradeoff_level], ["clean", "ancestral-clean"],
                        ["psnr"], tradeoff_stride, frames=stops, seed=seed)  # fmt: skip
        for v in ("clean", "ancestral-clean"):
            kept = walks[v, tradeoff_level]
            for i, step in enumerate(kept.frame_steps.tolist()):
                seen = frechet.features(kept.frames[:, i])
                far = kernel_distance.distances(real, seen, tradeoff_resamples, seed)
                near = float((kept.frames[:, i] - clean).square().mean())
                resampled[d, m, v, step] = torch.from_numpy(far.draws)
                row = dict(dataset=d, model=m, variant=v, step=step, distortion=near, perception=far.value)
                row |= dict(zip(("perception_low", "perception_high"), far.interval, strict=True))
                rows.append(row | {"fd": to_real(seen)})
points = pd.DataFrame(rows).drop_duplicates(["dataset", "model", "variant", "step"])
print("FD-AlexNet of the originals:", ", ".join(f"{d} {fd:.2f}" for d, fd in floor_fd.items()))

# %% [markdown]
# Is the curve convex? Equation 18's proof needs a distance that is convex in its second argument, and estimators that
# are the best ones; a walk does not promise the latter. So it is looked at: the heights of the points above the chord
# between the points of least and of greatest distortion, which need not be the walk's ends, as shares of the curve's
# height. Distortions are taken as exact; where the height itself is within noise, shares of it mean nothing. The largest
# of several noisy heights is too high, so the interval has all of them in it at once (Bonferroni): from the largest lower
# end to the largest upper end. With 0 in it, it is undecided whether the curve rises above its chord; wholly below 0, the
# curve lies below.

# %%
run.save_table(
    points, "ext_denoising_tradeoff", f"Distortion, KID and FD-AlexNet at {tradeoff_level} steps of noise"
)
bulge = {
    key: denoising_tables.heights(
        line.distortion, line.perception, [resampled[*key, step] for step in line.step]
    )
    for key, line in points.groupby(["dataset", "model", "variant"], sort=False)
}
bulges = pd.DataFrame(bulge.values(), index=pd.MultiIndex.from_tuples(bulge, names=["dataset", "model", "variant"]))
bulges.columns = ["height", "low", "high"]
run.save_table(bulges, "ext_denoising_chords", "Height of walks' curves above their chords, in shares of their own")
sides = {
    d: denoising_tables.sides([span for key, span in bulge.items() if key[0] == d]) for d in datasets
}
for d in datasets:
    picture = denoising_figures.tradeoff(points[points.dataset == d], floor[d])
    caption = (
        f"Perception against distortion, {tradeoff_level} steps of noise, {tradeoff_images} images, {d}: which line is"
        " lower at equal distortion? (Both have the same noise: intervals that overlap decide nothing.)"
    )
    run.save_figure(picture, f"ext_denoising_tradeoff_{d}", caption)
bulges.round(3)

# %% [markdown]
# ## 8. What the scorecard gets

# %%
evidence = {
    d: judged.Evidence(
        runs=denoised[d],
        others=others[d],
        compared=compared[d],
        cautious=denoising_tables.comparison(denoised[d], variant, slowest[d], seed),
        call=calls[d],
        mean=away[(away.dataset == d) & (away["known within"] <= known_to)],
        violation=violation[d],
        curves=sides[d],
    )
    for d in datasets
}
claims, timed_claims = judged.claims(run.parameters, evidence, VARIANTS)

# %%
lasting = every_number[every_number.quantity != "seconds"]
result = run.save_result(
    values={
        "tables": lasting.to_dict("records"),
        "elbow": {d: frame.to_dict() for d, frame in elbow.items()},
        "protocol": protocol.drop(columns="C11").to_dict("records"),
        "stride": strided.to_dict("records"),
        "toy": {"distortion": budgets, "perception": best_possible, "violation": violation},
        "from the mean": away.to_dict("records"),
        "missing": missing,
        "device": device_name(device),
        "missing variance": {"/".join(map(str, key)): share for key, share in lacking.items()},
        "tradeoff": points.to_dict("records"),
        "originals": floor,
        "originals fd": floor_fd,
        "height above the chord": {"/".join(key): span for key, span in bulge.items()},
    },
    claims=claims,
    timings={
        "claims": timed_claims,
        "protocol C11": protocol[["dataset", "variant", "levels", "C11"]].to_dict("records"),
        "seconds a call": seconds,
        "ratio of a call": calls,
        "cost": {
            "seconds a call and image": slope,
            "power": power,
            "runs": linear.to_dict("records"),
        },
    },
    inputs=paths.values(),
)

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
display(
    Markdown(
        f"*Setting:* {size} size, {', '.join(datasets)}, {images} images a level, one training seed. Missing: "
        f"{', '.join(result['values']['missing']) or 'nothing'}."
    )
)
display(Markdown(scorecard.conclusion(result)))
frame = pd.DataFrame(result["values"]["protocol"])
few = frame[frame.levels == ", ".join(map(str, protocol_levels))]
text = "; ".join(
    f"{d} {c}: {' or '.join(sorted(set(part[c])))}"
    for d, part in few.groupby("dataset", sort=False)
    for c in ("C09", "C10", "C13", "C14")
)
spans = list(result["values"]["height above the chord"].values())
display(
    Markdown(
        f"**Protocol.** Over its variants, from {protocol_levels} steps of noise, the verdicts are {text}. The table above"
        f" is from {levels}.\n\n**Equation 18.** On the toy P(D) is convex"
        f" to {max(0, *result['values']['toy']['violation'].values()):.0e}. Of the walks' curves"
        f" {denoising_tables.sides(spans)}; the heights lie between {min(s[1] for s in spans):+.0%} and"
        f" {max(s[2] for s in spans):+.0%} of a curve's own."
    )
)
