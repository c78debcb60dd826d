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
# # 11 · Beyond the paper
#
# *Answers: claim C25, and what the paper leaves open.*
#
# The paper says that its gain is "orthogonal" to other accelerations: to samplers that take fewer steps, to shorter
# chains. Its text tries none; but the authors' code samples with DDIM (notebook 07), so table 1 itself
# is the gain with one of them. This notebook tries several, and then asks what else can be done with a network that is
# made of differential equations.
#
# **The question: does the cU-Net's gain add to that of other accelerations (section 2)? How probable do the networks
# find a digit (3)? Can work be saved where it is not needed (4)? Has the cU-Net learned an equation, or a residual
# network (5)? Can both networks draw what they are asked for (6)?**
#
# It begins with how the networks are used in other libraries (1), and ends with a panel to try them by hand (7).

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "11_beyond"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of the sampling noise
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist"]  # data sets of section 2; of sections 1, 3, 4, 5 and 7 the first
models = ["unet", "cunet"]  # the network compared with, and the one that is
seeds = [0]  # training seeds; the first is used here
further = ["cunet-randomdepth"]  # networks beside the second in section 5, those that are there
guided_datasets = ["mnist", "avatars"]  # data sets of section 6; one without classes has no network to ask
guided_models = ["unet", "cunet"]  # networks there, told the classes in training; those that are there
onnx = True  # whether the networks are exported, which takes longer than everything else of a smoke run
methods = ["ddpm", "analytic", "ddim", "dpmsolver++", "dpmsolver++sde", "unipc", "heun", "ddim-early",
           "dpmsolver++-early"]  # accelerations, names in cunet.accelerations.METHODS  # fmt: skip
samples = 100  # images a network, method and number of calls
calls = [2, 3, 5, 8, 14]  # network calls an image
plain_calls = [50]  # the same, further ones, for the plain method (DDIM), whose best quality is the one to reach
heun_calls = [19, 21, 25, 31, 39]  # the same for Heun's method: odd numbers from 19 up
power_images = 32  # training images, at each of 20 steps, behind the variance of Analytic-DPM
early_start = 700  # diffusion step t' at which early starts begin
reference_images = 10_000  # training images that all sets are compared with
resamples = 500  # of the bootstrap behind each interval
timing_rounds = 9  # rounds of the interleaved timing; of fewer than 6 no median has a 95 % interval
likelihood_images = 8  # test images whose probability is measured, and as many points of the mixture
tolerance = 1e-3  # of dopri5 along the probability flow
depths = [0.5, 1.0, 2.0, 3.0]  # multiples of the solver's own steps that an adaptive network may choose from
depth_calls = 10  # DDIM steps of the comparison of depths and of reuse
depth_images = 32  # training images behind each measured cost
reuse = [2, 3]  # deep blocks are computed at every 2nd, 3rd ... call
ode_depths = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]  # multiples of the solver's own steps in section 5
ode_levels = [50, 200, 500, 800]  # diffusion steps there
ode_images = 16  # test images there
ode_sample_depths = [1.0, 2.0, 4.0]  # the same, with which images are sampled there
ode_samples = 40  # images a network and depth there
scales = [0.0, 1.0, 2.0, 4.0]  # of the guidance in section 6; 0 ignores the class
guided_images = 60  # a network and scale there
guided_steps = 10  # DDIM steps there

# %%
# %matplotlib inline
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from IPython.display import Markdown, display

from cunet import (
    accelerations,
    adaptive,
    again,
    beyond_figures,
    cost,
    export,
    figures,
    guidance,
    likelihood,
    metrics,
    orthogonality,
    palette,
    panel,
    runs,
    sampling,
    scorecard,
    sde,
    solver_study,
    subsets,
    wording,
    yardstick,
)
from cunet import checkpoints as store
from cunet import datasets as data
from cunet.checkpoint_names import told
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.pipelines import PipelineModel
from cunet.validation import VALIDATION_IMAGES
from cunet.yardstick import Yardstick

# %%
needed = dict(datasets=datasets, models=models[1:2], methods=methods, calls=calls, depths=depths)
needed |= dict(ode_depths=ode_depths, ode_levels=ode_levels, ode_sample_depths=ode_sample_depths)
needed |= dict(heun_calls=heun_calls) if "heun" in methods else {}
needed |= dict(scales=scales) if guided_datasets else {}
if empty := [name for name, values in needed.items() if not values]:
    raise InputError(
        f"{' and '.join(empty)}: too few are given for this notebook: two models, one of each other."
    )
run = runs.Run.open(globals())

# %%
folder = store.ASSETS if checkpoints == "released" else run.checkpoints
paths, missing = store.there(folder, size, datasets, models, seeds[:1])
print("Not there, so left out:", ", ".join(missing) or "none")
device = sampling.device_name(sampling.best_device())  # of all samples that are measured
print("The samples whose distance is measured are computed on", device)
nets = {(which.dataset, which.model): store.load(path) for which, path in paths.items()}
processes = {key: Diffusion(**card["diffusion"]) for key, (_, card) in nets.items()}
nets = {key: network for key, (network, _) in nets.items()}
models = models[:2]
datasets = [d for d in datasets if all((d, m) in nets for m in models)]
if not datasets:
    raise InputError(
        f"There is no data set for which both {' and '.join(models)} are trained in {folder}. Train them with"
        " `cunet train`, or with the profile's line checkpoints: train."
    )
main, (first, second) = datasets[0], models
side = nets[main, first].image_size
pair = {m: (nets[main, m], processes[main, m]) for m in models}
rows_beyond, timed_beyond = [], []

# %% [markdown]
# ## 1. In other libraries
#
# **In diffusers.** `PipelineModel` wraps a network of ours as a model of that library (a `ModelMixin` with a
# `ConfigMixin`). It then takes part in any pipeline, with any scheduler, and is saved and loaded by the library's own
# functions. Four samples, to see that it does:

# %%
network, diffusion = pair[second]
with tempfile.TemporaryDirectory() as place:
    PipelineModel.wrap(network).save_pretrained(place)
    model = PipelineModel.from_pretrained(place).eval()
pipe = DDIMPipeline(model, DDIMScheduler(**diffusion.scheduler_config(), timestep_spacing="trailing"))
pipe.set_progress_bar_config(disable=True)
drawn = pipe(4, torch.Generator().manual_seed(seed), num_inference_steps=10, output_type="np").images
display(figures.image_grid(torch.from_numpy(drawn).permute(0, 3, 1, 2) * 2 - 1, 4, "DDIMPipeline, 10 steps"))

# %% [markdown]
# **As a graph.** `torch.export` gives the network as operators only, for any number of images.
#
# **Check.** The graph gives our answer, to 1e-4.

# %%
exported = models if onnx else []
programs = {m: export.to_program(pair[m][0]) for m in exported}
rows = [
    {"model": m, "torch.export": export.gap(pair[m][0], program.module(), seed)}
    for m, program in programs.items()
]
assert all(row["torch.export"] < 1e-4 for row in rows), rows
pd.DataFrame(rows)

# %% [markdown]
# **As a file.** ONNX is the same graph in a file that other runtimes read. Is the answer the same, and does it come sooner?
#
# **Check.** onnxruntime gives our answer, to 1e-4.

# %%
stand_ins = {}
with tempfile.TemporaryDirectory() as place:
    for row, (m, program) in zip(rows, programs.items(), strict=True):
        file = export.to_onnx(pair[m][0], Path(place) / f"{m}.onnx", program)
        stand_ins[m] = export.OnnxNetwork(file)
        row |= dict(onnxruntime=export.gap(pair[m][0], stand_ins[m], seed), kilobytes=file.stat().st_size / 1e3)
assert all(row["onnxruntime"] < 1e-4 for row in rows), rows
graphs = pd.DataFrame(rows)
if onnx:
    run.save_table(graphs, "ext_graphs", "Largest difference of an exported network's answer, and its file")
display(graphs)

# %%
runtimes = {}
for m, stand_in in stand_ins.items():
    for n in (1, 16):
        timed = export.timed(pair[m][0], stand_in, n, timing_rounds, seed)
        runtimes[m, n] = (timed.ratios["onnxruntime"], *timed.spread["onnxruntime"])
pd.DataFrame(
    [dict(model=m, images=n, ratio=r, low=lo, high=hi) for (m, n), (r, lo, hi) in runtimes.items()]
).round(3)

# %% [markdown]
# The ratio is onnxruntime's time over torch's, with its 95 % interval over rounds; below 1 onnxruntime is faster. Wherever
# a network is called and not trained, its file can take its place:
# `sampling.sample(export.OnnxNetwork(file), 16, diffusion)`.

# %%
for m in exported:
    gap = graphs[graphs.model == m].iloc[0]
    rows_beyond.append(
        dict(id="ext_export", claim=f"{palette.label(m)}: largest difference of onnxruntime's answer from torch's",
             measured=f"{gap.onnxruntime:.1e}", spread="none: the same input gives the same answer", n=3)
    )  # fmt: skip
    ratio, low, high = runtimes[m, 1]
    timed_beyond.append(
        dict(id="ext_export", claim=f"{palette.label(m)}: onnxruntime's time over torch's, one image",
             measured=f"{ratio:.2f}", spread=f"[{low:.2f}, {high:.2f}], 95 % over rounds", n=timing_rounds)
    )  # fmt: skip

# %% [markdown]
# ## 2. Accelerations
#
# Each of these methods takes a number of network calls and gives an image. `ddpm` is equation 2 on a shortened chain
# (*respaced* DDPM), and what the others are compared with.
#
# `analytic` (Analytic-DPM, Bao et al. 2022) takes the same steps with fresh noise of the variance that is best for the
# network. A step goes from $t$ down to an earlier step $u$ of the chain. With $\alpha = \bar\alpha_t / \bar\alpha_u$, and
# $\sigma^2$ for the variance that equation 2 gives to the noise of the step, the best variance is
#
# $$\sigma_*^2 = \sigma^2 + \Big(\sqrt{\tfrac{1-\bar\alpha_t}{\alpha}} - \sqrt{1 - \bar\alpha_u - \sigma^2}\Big)^2 (1 - \Gamma_t),
# \qquad \Gamma_t = \tfrac1n\,\mathbb E\,|\epsilon_\theta(x_t, t)|^2,$$
#
# where $n$ is the number of values of an image. Why $\Gamma_t$? The noise in $x_t$ has mean square 1. A network that
# found all of it would have $\Gamma_t = 1$; what is missing is the uncertainty about the clean image that $x_t$ leaves.
#
# The names with `-early` (ES-DDPM, Lyu et al. 2022) leave out the beginning, where there is little to see but noise: they
# start at a step $t'$ from a blurred image of nothing in particular (a Gaussian in the leading principal components of the
# training images), with noise of that step.
#
# **What is compared.** The kernel distance of AlexNet features (KID-AlexNet, in thousandths) between a set of samples and
# training images. The Fréchet distance does not serve here: of so few images it is too large, by an amount that depends on
# their number and on the set's own spread, so that a set can come out nearer to the data than as many real images do. The
# kernel distance is unbiased at any number of images, and may even be below 0. Its *floor* is that of test images, taken
# from everywhere in the test set: the distance of real images. All sets start from the same noise, image by image, so the
# bootstrap draws the same image numbers in all of them. Its percentiles are expanded (Hesterberg 2015; `metrics.tail`),
# since plain ones are too narrow where images are few. Of large differences of few images, to which some images contribute
# much more than others, the intervals may still be too narrow.

# %%
plain = "ddim" if "ddim" in methods else methods[0]
tried = {method: heun_calls if method == "heun" else calls for method in methods}
tried[plain] = sorted({*tried[plain], *plain_calls})
yards, prepared, found = {}, {}, {}
for d in datasets:
    yards[d] = Yardstick.of(d, side, reference_images, resamples, seed)
    for m in models:
        one = (nets[d, m], processes[d, m])
        prepared[d, m] = accelerations.Prepared.of(*one, yards[d].train, early_start, images=power_images)
        sets = accelerations.sweep(*one, tried, prepared[d, m], yards[d].distance, samples, seed)
        found |= {(d, m, *how): distance for how, distance in sets.items()}
floor = {d: yard.floor for d, yard in yards.items()}
quality = yardstick.table(found, ("dataset", "model", "method", "calls"))
caption = f"KID-AlexNet (thousandths) of {samples} samples by network, acceleration and network calls"
run.save_table(quality, "ext_accelerations", caption)
wide = quality.pivot_table(index=["dataset", "method"], columns=["calls", "model"], values="kid", sort=False)
wide.round(1)

# %%
for d in datasets:
    picture = beyond_figures.distance_against_calls(quality[quality.dataset == d], floor[d])
    caption = (
        f"KID-AlexNet against network calls, {d}, a panel a method, with 95 % over samples; dotted: respaced DDPM by"
        " the same network; band: real images. Where both networks leave the dots alike, the method helps both alike"
    )
    run.save_figure(picture, f"ext_accelerations_{d}", caption)

# %% [markdown]
# **How long do they take?** Whole samples, one at a time, on this CPU, with every number of calls; all sets of both networks
# in turn. A method's ratio is the cU-Net's time over the U-Net's, for all its numbers of calls together.

# %%
rows, rounds, seconds = [], {}, []
for d in datasets:
    tasks = {
        (m, method, k): partial(
            accelerations.draw, nets[d, m], 1, processes[d, m], method, k, prepared[d, m], seed
        )
        for where, m, method, k in found
        if where == d
    }
    timed = cost.time_interleaved(tasks, repeats=timing_rounds, warmup=1, seed=seed)
    rounds[d] = timed.samples
    seconds += [dict(dataset=d, model=m, method=x, calls=k, seconds=s) for (m, x, k), s in timed.medians.items()]
    rows += [dict(dataset=d) | row for row in orthogonality.time_ratios(timed.samples, models)]
times = pd.DataFrame(rows)
speed = quality.merge(pd.DataFrame(seconds), on=["dataset", "model", "method", "calls"])
for d in datasets:
    picture = beyond_figures.pareto(speed[speed.dataset == d], floor[d])
    caption = (
        f"KID-AlexNet against seconds a sample on this CPU, {d}: the line joins what no other setting of the network"
        " beats in both, with 95 % over samples; the line further left needs less time for the same quality"
    )
    run.save_figure(picture, f"ext_pareto_{d}", caption)

# %% [markdown]
# ### Do the gains multiply?
#
# Take a quality that both networks reach with a plain method: DDIM, or the first of `methods` where DDIM is not among
# them. (It was tried with more calls than the others, since its best is what is to be reached.) How much time does a sample
# of this quality take? Four factors:
#
# | | time of ... | over that of ... |
# |---|---|---|
# | `by_network` | the U-Net with the plain method | the cU-Net with the plain method |
# | `by_method` | the U-Net with the plain method | the U-Net with its best method |
# | `together` | the U-Net with the plain method | the cU-Net with its best method |
# | `times` | `together` | the product of the first two |
#
# If gains multiply, `times` is 1; above 1 they help each other, below 1 one takes from the other. `level` is the quality
# itself. The quality, and the fastest set that reaches it, are chosen anew in every resample of images and timing rounds,
# so that what choosing among noisy numbers adds is in the intervals.
#
# What does someone gain who has the U-Net with the plain method, at its best quality? That is another level, which the
# U-Net's own sets reach by construction and those of the cU-Net need not. With any method the cU-Net is `faster` by this
# factor (0 where it never gets there); the goal set for this notebook was 10. The U-Net `alone`, with a better method,
# gains, too. `each_best` compares both networks with their own best methods at `level`, which favours neither.

# %%
gains, rows = {}, []
for d in datasets:
    of = {key[1:]: one for key, one in found.items() if key[0] == d}
    gains[d] = orthogonality.multiplied(of, rounds[d], (first, second), plain, seed)
    for what in ("level", "by_network", "by_method", "together", "times", "faster", "alone", "each_best"):
        rows.append(
            dict(dataset=d, what=what)
            | dict(zip(("value", "low", "high"), getattr(gains[d], what), strict=True))
        )
multiply = pd.DataFrame(rows)
multiply.round(2)

# %% [markdown]
# The second measure asks for no common quality. At equal calls, by what factor does a method lower the distance above
# the floor of real images, against `ddpm`? If this factor is the same for both networks, the gains **multiply**; where
# methods gain nothing for the U-Net, an equal factor is no evidence of that. A factor of a distance that is within noise
# of the floor cannot be measured, so comparisons with such a one are left out, by name. Of the settings that remain some
# are still far from the data, where a method has most to gain.

# %%
gain = {}
pairs = [(x, k) for x in methods if x != "ddpm" for k in calls]
for d in datasets:
    of = {key[1:]: one for key, one in found.items() if key[0] == d}
    pairs_there = [(x, k) for x, k in pairs if all((m, y, k) in of for m in models for y in (x, "ddpm"))]
    if pairs_there:
        gain[d] = orthogonality.relative_gain(of, pairs_there, (first, second), floor[d])
        print(f"{d}: {len(gain[d].used)} of {len(pairs_there)} comparisons measured")
        if gain[d].used:
            print(f"{d}: {orthogonality.span(gain[d])}")
compared = pd.DataFrame(
    [dict(dataset=d, method=x, calls=k, measured=(x, k) in g.used, within_noise=g.left_out.get((x, k), ""))
     for d, g in gain.items() for x, k in [*g.used, *g.left_out]],
    columns=["dataset", "method", "calls", "measured", "within_noise"],
)  # fmt: skip
run.save_table(
    compared, "ext_compared", "Comparisons behind the relative gain, and sets within noise of real images"
)
compared

# %%
timed_claims = []
for d in datasets:
    slowest = times[(times.dataset == d) & (times.model == second)].sort_values("high").iloc[-1]
    about = dict(n=samples, dataset=d, size=size)
    time = (slowest.ratio, slowest.low, slowest.high)
    timed_claims.append(orthogonality.claim(time, slowest.method, gains[d], gain.get(d)) | about)
    timed_beyond.append(orthogonality.speedup(gains[d], accelerations.METHODS[plain].label) | about)
print(*(row["measured"] for row in timed_claims), sep="\n")

# %% [markdown]
# ## 3. How probable is a digit?
#
# Measure the time of the diffusion by an angle, $\cos\varphi = \sqrt{\bar\alpha_t}$. Then the probability flow (equation 8)
# is $dx/d\varphi = v(x, \varphi)$, and this $v$ is what the networks predict (notebook 05). The flow carries densities
# along: the logarithm of the density at an image is that of pure noise where the flow arrives, plus the integral of the
# divergence of $v$ on the way there,
#
# $$\log p_0(x) = \log \mathcal N(x(\varphi_{T-1}); 0, I) + \int_{\varphi_0}^{\varphi_{T-1}} \mathrm{div}\, v\; d\varphi,
# \qquad \mathrm{div}\, v = \mathbb E\, e^\top \frac{\partial v}{\partial x} e,$$
#
# with $\varphi_t$ the angle of step $t$, and $e$ a vector of random signs (Hutchinson's estimate).
#
# **Check.** For a mixture of Gaussians the density is known. The exact trace must find it up to the solver's error. The mean
# of many of Hutchinson's estimates must lie within `errors_allowed` of its own standard errors of it, at every point.

# %%
mixture = sde.GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]).double(),
    torch.tensor([[-0.6, 0.2], [0.5, -0.3], [0.1, 0.7]]).double(),
    torch.diag_embed(torch.tensor([[0.05, 0.02], [0.03, 0.08], [0.04, 0.04]])).double(),
)
diffusion = processes[main, second]
exact = likelihood.exact_network(mixture, diffusion)
start = mixture.noised(float(diffusion.alphas_cumprod[0]))
points = start.sample(likelihood_images, torch.Generator().manual_seed(seed))
truth = start.log_prob(points)
shaped = points.view(-1, 1, 1, 2)
tries, errors_allowed, solver_error = 200, 4, 2e-3
nats = likelihood.log_likelihood(exact, diffusion, shaped, "exact", 1e-6).nats
many = likelihood.log_likelihood(
    exact, diffusion, shaped.repeat_interleave(tries, 0), "hutchinson", 1e-4, seed
).nats.view(-1, tries)
by_trace = {"exact trace": nats - truth, f"Hutchinson, mean of {tries}": many.mean(1) - truth}
standard = many.std(1) / tries**0.5
assert by_trace["exact trace"].abs().max() < solver_error
assert ((many.mean(1) - truth).abs() < errors_allowed * standard + solver_error).all()
pd.DataFrame({name: [float(e.abs().mean()), float(e.abs().max())] for name, e in by_trace.items()},
             index=["mean error, nats", "largest"]).T.round(5)  # fmt: skip

# %%
print(f"Hutchinson's mean is at most {float(((many.mean(1) - truth).abs() / standard).max()):.1f} standard errors off.")

# %% [markdown]
# A digital image is made of grey levels, and a density belongs to a point of a continuous space. Noise turns the one into
# the other, in two ways. *Uniform* noise is as wide as a grey level, 1/127.5; the logarithm of this width is then added for
# every pixel. *Gaussian* noise is that of the model's own first step, so that the flow starts where the network was
# trained, and a grey level is recognised by its noisy value. Both give upper bounds of the bits that an image takes, in
# expectation over the noise; lower is better. The networks see digits with a black border, so these are not the bits per
# dimension of 28 x 28 pixels that the literature gives.

# %%
test = data.load(main, "test", side)
some = subsets.part(test, likelihood_images).images
rows, evaluations = [], {}
for how in likelihood.DEQUANTISATIONS:
    for m, (network, diffusion) in pair.items():
        bits = likelihood.bits_per_dimension(network, diffusion, some, how, tolerance, seed)
        evaluations[m, how] = bits.evaluations
        rows += [dict(model=m, dequantisation=how, image=i, bits=float(b)) for i, b in enumerate(bits.bits)]
bits = pd.DataFrame(rows)
run.save_table(bits, "ext_likelihood", f"Bits per dimension of {likelihood_images} test images, {main}")
picture = beyond_figures.likelihoods(bits)
caption = f"Bits per dimension of test images, {main}: who needs fewer? Diamonds: mean, with its 95 % interval"
run.save_figure(picture, "ext_likelihood", caption)

# %%
likely = {}
for how in likelihood.DEQUANTISATIONS:
    wide = bits[bits.dequantisation == how].pivot(index="image", columns="model", values="bits")
    intervals = {m: metrics.bootstrap_interval(torch.tensor(wide[m].to_numpy()), seed=seed) for m in models}
    apart = metrics.bootstrap_interval(torch.tensor((wide[second] - wide[first]).to_numpy()), seed=seed)
    likely[how] = {m: tuple(x) for m, x in intervals.items()} | {"difference": tuple(apart)}
    rows_beyond.append(
        dict(id="ext_likelihood", claim=f"bits per dimension of test images, {how} dequantisation (upper bounds)",
             measured=", ".join(f"{palette.label(m)} {x.estimate:.3f}" for m, x in intervals.items()),
             spread=f"difference {wording.interval(*apart, '+.3f')}, 95 % over images",
             n=likelihood_images, dataset=main, size=size)
    )  # fmt: skip
pd.DataFrame(
    {(how, m): x for how, of in likely.items() for m, x in of.items()}, index=["mean", "low", "high"]
).T.round(4)

# %% [markdown]
# ## 4. Depth where it is needed
#
# The cU-Net's blocks can be solved with any number of steps. *Depth* is their number over that which the block was trained
# with, rounded up to whole steps. Must it be the same at every call of the network?
#
# How much the error of $v$ depends on depth is measured for each call of a DDIM chain, on training images. A DDIM step
# from $\varphi$ to $\varphi'$ passes an error on, multiplied by $\sin(\varphi - \varphi')$. From these errors and a budget for
# the whole chain, dynamic programming finds the best depth of each call. The budget is of multiply-accumulates, since
# blocks differ in what an evaluation costs. Budgets that lead to the same choice share a row. The choice is compared with
# the same depth at every call, from the same noise.

# %%
network, diffusion = pair[second]
yard, train = yards[main], yards[main].train
chain = sampling.SPACINGS["trailing"](diffusion, depth_calls)
depth_work = dict(zip(depths, adaptive.work(network, depths), strict=True))
alike = [depth_work[n] for n in depths]
depths = [n for i, n in enumerate(depths) if depth_work[n] not in alike[:i]]  # those rounded alike once
work = [depth_work[n] for n in depths]
errors = adaptive.losses(network, diffusion, train, chain, depths, depth_images)
weights = adaptive.weights(diffusion, chain)[:, None]
between = [(a + b) // 2 for a, b in zip(work, work[1:], strict=False)]
budgets = [len(chain) * macs for macs in sorted({*work, *between})]

# %%
costs = errors.mean(-1) * weights
chosen = adaptive.merged(
    {budget: [depths[j] for j in adaptive.allocate(costs, work, budget)] for budget in budgets}
)
labels = {wording.ends([f"{b / len(chain) / 1e6:.3g}" for b in equal]): picks for equal, picks in chosen}
picture = beyond_figures.depth_by_need(chain, errors.numpy(), depths, labels)
caption = (
    f"Left: error of v at each depth over that at the depth trained with, {main}, 95 % over images; right: the depths"
    " chosen, a row for budgets that choose alike: where it is of one colour, need does not differ along the chain"
)
run.save_figure(picture, "ext_depth", caption)

# %%
measured = partial(adaptive.measured, distance=yard.distance, n=samples, steps=depth_calls, seed=seed)
evenly = adaptive.sampled(network, diffusion, depths, yard.distance, samples, depth_calls, seed)
sets = {(n,) * len(chain): one for n, one in evenly.items()}  # the same depths give the same samples
for _, picks in chosen:
    if picks not in sets:
        sets[picks] = measured(adaptive.Adaptive(network, dict(zip(chain, picks, strict=True))), diffusion)
done = [("even depth", [len(chain) * depth_work[n]], (n,) * len(chain), (n,)) for n in depths]
done += [("depth by need", equal, picks, picks) for equal, picks in chosen]
deep = []
for way, equal, picks, named in done:
    row = dict(model=second, way=way, macs=sum(depth_work[n] for n in picks), budgets=equal)
    deep.append((row | dict(depths=" ".join(f"{n:g}" for n in named)), sets[picks]))
pd.DataFrame([row | one.columns() for row, one in deep]).round(2)

# %% [markdown]
# **Can deep blocks be used twice?** If features far down the U change little from step to step, they need not be computed
# every time. At every second call (or third) all blocks are computed; in between, those on maps of half the side or less
# hand out what they gave before. This can be tried with both networks.

# %%
reused = []
for m, (one, process) in pair.items():
    row = dict(model=m, way=beyond_figures.FULL, macs=cost.macs(one, side) * len(chain))
    reused.append((row, measured(one, process)))
    for every in reuse:
        reusing = adaptive.Reusing(one, every)
        at_zero = torch.zeros(1, one.channels, side, side)
        with torch.no_grad(), torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            for t in chain:
                reusing(at_zero, torch.tensor([t]))
        reusing.reset()
        row = dict(model=m, way=f"every {every} calls", macs=counter.get_total_flops() // cost.FLOP_A_MAC)
        reused.append((row, measured(reusing, process)))

# %% [markdown]
# What does each way cost? All sets of a network start from the same noise, and their resamples draw the same image
# numbers. So `apart`, a set's distance less that of the full network, is a difference of pairs, and what both owe to
# the noise that was drawn falls out of it. Two distances can have intervals that overlap where their difference is
# certain. All ways are shown and none is chosen, so each interval holds by itself: of forty, two are expected to miss 0
# by chance.

# %%
full = {row["model"]: (row["macs"], one) for row, one in reused if row["way"] == beyond_figures.FULL}
saved = pd.DataFrame([row | one.columns(full[row["model"]][1]) for row, one in [*deep, *reused]])
caption = (
    f"KID-AlexNet (thousandths) of {samples} samples of {depth_calls} DDIM steps against work; apart: less that of the"
    " network that saves nothing, of pairs"
)
budgets_shown = [" ".join(map(str, b)) if isinstance(b, list) else "" for b in saved.budgets]
shown = saved.assign(budgets=budgets_shown, depths=saved.depths.fillna(""))
run.save_table(shown, "ext_saved_work", caption)
picture = beyond_figures.saved_work(saved, floor[main])
caption = (
    f"Top: KID-AlexNet against work a sample, {depth_calls} DDIM steps, {main}, with 95 % over samples. Bottom: less"
    " that of the full network (star), with 95 % over pairs of samples: a way saves work where it lies left of the"
    " star, and costs quality where its interval lies above 0"
)
run.save_figure(picture, "ext_saved_work", caption)
shown.drop(columns="budgets").round(2)

# %%
def to_full(row, one, name, what, further=""):
    """A row of the scorecard: how much farther from real images a way's samples are than the full network's."""
    macs, whole = full[row["model"]]
    apart = one - whole
    low, high = apart.interval
    share = f"{row['macs'] / macs:.2f} of the work"
    return dict(
        id=name, claim=f"{palette.label(row['model'])}, {what}: KID-AlexNet less that of the full network",
        measured=f"{apart.value:+.1f} thousandths, of {whole.value:.1f}, with {share}{further}",
        spread=f"[{low:+.1f}, {high:+.1f}], 95 % over pairs of samples", n=samples, dataset=main, size=size,
    )  # fmt: skip


for row, one in deep[len(depths) :]:
    most = wording.ends([f"{budget / 1e9:.3g}" for budget in row["budgets"]])
    beside = {n: one - evenly[n] for n in depths if len(chain) * depth_work[n] in row["budgets"]}
    even = "".join(
        f"; less that of depth {n:g} at every call {wording.interval(x.value, *x.interval, '+.1f')}"
        for n, x in beside.items()
    )
    what = f"depth by need, {most} G multiply-accumulates at most over {len(chain)} calls"
    rows_beyond.append(to_full(row, one, "ext_depth", what, even))
for row, one in reused:
    if row["way"] != beyond_figures.FULL:
        rows_beyond.append(to_full(row, one, "ext_reuse", f"deep blocks computed {row['way']}"))

# %% [markdown]
# ## 5. An equation, or a residual network?
#
# The cU-Net was trained with few solver steps. Has it learned an equation? Then more steps solve it better, and the error
# does not rise. Or has it learned a stack of layers that happens to be written as an equation? Then more steps are other
# layers, which were never trained.
#
# Would another training help? That of `cunet-randomdepth` takes another number of steps at every call, so that its loss
# is low only if its answer does not depend on the number.

# %%
more, unseen = store.there(folder, size, [main], further, seeds[:1])
print("Not there, so left out:", ", ".join(unseen) or "none")
solved = {second: pair[second]}
for which, path in more.items():
    other, card = store.load(path)
    solved[which.model] = (other, Diffusion(**card["diffusion"]))
print("Compared:", ", ".join(map(palette.label, solved)))

# %%
levels = [t for t in ode_levels if t < diffusion.timesteps]
by_depth, change, trained = {}, {}, min(ode_depths, key=lambda n: abs(n - 1))
for m, (one, process) in solved.items():
    inner = adaptive.losses(one, process, test, levels, ode_depths, ode_images)
    by_depth[m] = {
        n: tuple(metrics.bootstrap_interval(inner[:, j].mean(0), seed=seed)) for j, n in enumerate(ode_depths)
    }
    ratios = inner.mean(0) / inner[:, ode_depths.index(trained)].mean(0)  # (depths, images): paired by image
    change[m] = metrics.bootstrap_interval(ratios[ode_depths.index(max(ode_depths))], seed=seed)
picture = beyond_figures.inner_convergence(by_depth)
caption = (
    f"Error of v against the solver's steps, {main}; 95 % over images. Flat to the right of 1: an equation was learned;"
    " rising: layers"
)
run.save_figure(picture, "ext_inner_ode", caption)

# %%
converged = pd.concat(
    {m: pd.DataFrame(of, index=["loss", "low", "high"]).T for m, of in by_depth.items()},
    names=["model", "depth"],
)
run.save_table(
    converged, "ext_inner_ode", "Error of v against the solver's steps, in multiples of those trained with"
)
claim = f"error of v with {max(ode_depths):g} times the solver's steps, over that with {trained:g}"
for m, x in change.items():
    rows_beyond.append(
        dict(id="ext_inner_ode", claim=f"{palette.label(m)}: {claim}", measured=f"{x.estimate:.2f}",
             spread=f"[{x.low:.2f}, {x.high:.2f}], 95 % over images", n=ode_images, dataset=main, size=size)
    )  # fmt: skip
converged.round(4)

# %% [markdown]
# **What does it buy?** An error of $v$ is not yet a worse picture. How far are samples from real images when the blocks are
# solved with more steps than a network was trained with? All sets start from the same noise, so the difference to a
# network's own steps is that of pairs, in every resample.

# %%
by_steps = {
    (m, n): one
    for m, (net, process) in solved.items()
    for n, one in adaptive.sampled(
        net, process, ode_sample_depths, yard.distance, ode_samples, depth_calls, seed
    ).items()
}
sampled = yardstick.table(by_steps, ("model", "depth"))
caption = (
    f"KID-AlexNet (thousandths) of {ode_samples} samples of {depth_calls} DDIM steps, {main}, by the solver's steps, in"
    " multiples of the network's own; 95 % over samples"
)
run.save_table(sampled, "ext_depth_samples", caption)
sampled.round(1)

# %%
own, most = min(ode_sample_depths, key=lambda n: abs(n - 1)), max(ode_sample_depths)
for m in solved:
    base, apart = by_steps[m, own], by_steps[m, most] - by_steps[m, own]
    low, high = apart.interval
    claim = f"{palette.label(m)}: KID-AlexNet of samples with {most:g} times the solver's steps, less that with {own:g}"
    rows_beyond.append(
        dict(id="ext_depth_samples", claim=claim,
             measured=f"{apart.value:+.1f} thousandths, of {base.value:.1f}",
             spread=f"[{low:+.1f}, {high:+.1f}], 95 % over pairs of samples", n=ode_samples, dataset=main, size=size)
    )  # fmt: skip
    print(rows_beyond[-1]["claim"], rows_beyond[-1]["measured"], rows_beyond[-1]["spread"], sep=": ")

# %% [markdown]
# **Which solver should it have been trained with?** The same question, asked by training: the network is trained anew
# with each of several solvers and numbers of evaluations a block, from the same first weights on the same images, and
# each of the trained networks is evaluated with each solver. If training made equations of the blocks, all columns of a
# row that solve them well would agree. A training for each row takes longer than this whole notebook, so
# `cunet solvers --out papermill_runs/reference_solvers` makes them, and where its table is committed, it is read.

# %%
study = solver_study.kept(main, size)
if len(study):
    trained_with, about = list(dict.fromkeys(study.trained)), study.iloc[0]
    caption = (
        f"Each solver with its evaluations a block, trained on {about.images:,} images and evaluated with each, {main};"
        f" FD-AlexNet of {about.samples} samples of {about.sampling_steps} DDIM steps"
    )
    run.save_table(study, "ext_solvers", caption)
    caption = (
        f"Left: validation loss, {main}, trained with the row's solver and evaluations a block, evaluated with the"
        " column's; red: above that of the row's own solver. The diagonal says what more evaluations, or a higher"
        " order, buy; what is left of it, within a solver, what fewer cost at sampling alone. Right: each with its own"
        " solver; a solver helps where its line lies below the star"
    )
    run.save_figure(solver_study.figure(study, trained_with), "ext_solvers", caption)
else:
    print(f"Not measured: cunet solvers --dataset {main} --size {size} --out {solver_study.KEPT}")

# %%
for asked, answer in solver_study.findings(study) if len(study) else ():
    rows_beyond.append(
        dict(id="ext_solvers", claim=f"cU-Net: {asked}", measured=answer,
             spread=f"one training each, of {about.images:,} images", n=VALIDATION_IMAGES, dataset=main, size=size)
    )  # fmt: skip

# %% [markdown]
# ## 6. A class on demand
#
# A network that was told in training what is in the picture, and now and then not, can answer both with the class $c$ and
# without. Classifier-free guidance (Ho and Salimans 2022) takes the difference of the two answers $w$ times:
#
# $$v = v_\theta(x_t, t) + w\, \big(v_\theta(x_t, t, c) - v_\theta(x_t, t)\big).$$
#
# **Does it work as well for the cU-Net as for the U-Net, and what does it cost in quality?** A network of this kind has a
# vector for each class, which is added to the embedding of the step. Whether an image is of its class is judged by a
# linear classifier on AlexNet features that has seen real images only; its score on real test images says how far it can
# be trusted. All scales start from the same noise, so what guidance costs in quality, the distance less that at the
# scale nearest $w = 1$ (`apart`), is a difference of pairs. The best scale is chosen by the samples that it is then
# shown with, so the intervals of what the scorecard gets are made to hold for all scales at once (Bonferroni); those of
# the table and the figure hold for a scale alone.

# %%
unlabelled = [d for d in guided_datasets if not told(d, guided_models)]
asked = [store.there(folder, size, [d], told(d, guided_models), seeds[:1]) for d in guided_datasets]
classed = {which: path for paths_there, _ in asked for which, path in paths_there.items()}
untold = [name for _, absent in asked for name in absent]
print("Without classes:", ", ".join(unlabelled) or "none", "· not there, so left out:", ", ".join(untold) or "none")
by_class = {which: store.load(path) for which, path in classed.items()}
for _, card in by_class.values():
    print(guidance.training(card))

# %%
probes, judged_real = {}, {}
for d in dict.fromkeys(which.dataset for which in by_class):
    if d not in yards:
        yards[d] = Yardstick.of(d, side, reference_images, resamples, seed)
    probes[d] = yards[d].probe()
    judged_real[d] = float((probes[d](yards[d].held_out) == yards[d].test.labels).float().mean())
print("Right on real images:", ", ".join(f"{d} {100 * x:.0f} %" for d, x in judged_real.items()) or "-")

# %%
rows, grids = [], {}
for which, (one, card) in by_class.items():
    d, family, process = which.dataset, which.model.partition("@")[0], Diffusion(**card["diffusion"])
    found_rows, made = guidance.sweep(
        one, process, scales, probes[d], yards[d].of_features, guided_images, guided_steps, seed
    )
    rows += [dict(dataset=d, model=family) | row for row in found_rows]
    heads = [f"{palette.label(family)}\nw = {scale:g}" for scale in scales]
    grids.setdefault(d, []).extend((head, images[:10]) for head, images in zip(heads, made, strict=True))
guided = pd.DataFrame(rows, columns=["dataset", "model", *guidance.COLUMNS])
shown = guided.drop(columns=guided.filter(like="_all_").columns)  # of each scale alone
shown.round(2)

# %%
caption = f"of {guided_images} samples of {guided_steps} DDIM steps against the guidance scale, 95 % over samples"
if len(guided):
    what = "Share of the asked class, KID-AlexNet (thousandths), and apart: less that at the scale nearest 1, of pairs,"
    run.save_table(shown, "ext_guidance", f"{what} {caption}")
for d in grids:
    picture = beyond_figures.guidance(guided[guided.dataset == d], yards[d].floor, judged_real[d])
    about = f"Left: share of images of the class asked for, {d}; right: distance to real images; {caption}"
    run.save_figure(picture, f"ext_guidance_{d}", about)
    names = data.class_names(d)
    sheet = figures.image_rows(grids[d], [names[n % len(names)] for n in range(min(10, guided_images))])
    about = (
        f"A column a class asked for, {d}, a row a network and scale, from the same noise: is it what was asked for?"
    )
    run.save_figure(sheet, f"ext_guided_samples_{d}", about)

# %%
for (d, m), of in guided.groupby(["dataset", "model"], sort=False):
    at_one, best = of.loc[(of.scale - 1).abs().idxmin()], of.loc[of.right.idxmax()]
    two = (at_one, best) if best.scale != at_one.scale else (at_one,)
    rows_beyond.append(
        dict(id="ext_guidance", claim=f"{palette.label(m)}: images of the class asked for",
             measured=", ".join(f"{100 * x.right:.0f} % at w = {x.scale:g}" for x in two)
                      + f" (real images {100 * judged_real[d]:.0f} %)",
             spread=" and ".join(f"[{100 * x.right_all_low:.0f}, {100 * x.right_all_high:.0f}]" for x in two)
                    + " %, 95 % over samples for all scales at once",
             n=guided_images, dataset=d, size=size)
    )  # fmt: skip
    if len(two) == 1:  # no other scale asks a price
        continue
    of_one = wording.interval(at_one.kid, at_one.kid_all_low, at_one.kid_all_high, ".0f")
    low, high = best.apart_all_low, best.apart_all_high
    rows_beyond.append(
        dict(id="ext_guidance", claim=f"{palette.label(m)}: KID-AlexNet at the scale with most images of the class"
                                      f" asked for, w = {best.scale:g}, less that at w = {at_one.scale:g}",
             measured=f"{best.apart:+.0f} thousandths, of {of_one}",
             spread=f"[{low:+.0f}, {high:+.0f}], 95 % over pairs of samples for all scales at once",
             n=guided_images, dataset=d, size=size)
    )  # fmt: skip

# %% [markdown]
# ## 7. Try it
#
# Turn a control, and the image is noised and denoised anew, here and now. The panel's cell needs the cells of the parameters,
# the imports and the networks, at the top, and none of those between. It offers only what stays live. Does it? Below, the
# setting that takes the most evaluations is timed for each network and solver, and the slowest of them again. In a report
# the controls are still, so some of their positions are shown as a picture.

# %%
digits = data.load(main, "test", side)
settings = [panel.Setting(m, level, 10) for level in (100, 300, 600) for m in models]
settings.append(panel.Setting(second, 300, 10, None, 4))
picture = panel.sheet(digits.batch([0]), settings, pair, seed)
run.save_figure(picture, "ext_panel", "A test image noised and denoised by both networks, at settings of the panel")
if panel.live():
    display(panel.Panel(digits, pair, seed).widget)

# %%
dearest, taken = panel.slowest(digits.batch([0]), pair, timing_rounds, seed)
how = f"{palette.label(dearest.network)}, {dearest.steps} calls"
if dearest.evaluations:
    how += f", {dearest.evaluations} evaluations a block by {dearest.solver or 'its own solver'}"
timed_beyond.append(
    dict(id="ext_panel", claim="seconds that the slowest setting of the panel takes on this CPU",
         measured=f"{np.median(taken):.2f} ({how})",
         spread=f"{min(taken):.2f} to {max(taken):.2f} in {len(taken)} rounds", n=len(taken), dataset=main, size=size)
)  # fmt: skip
print(f"{timed_beyond[-1]['claim']}: {timed_beyond[-1]['measured']}, {timed_beyond[-1]['spread']}")

# %% [markdown]
# ## 8. What the scorecard gets

# %%
result = run.save_result(
    values={
        "missing": [*missing, *unseen, *untold],
        "device": device,
        "floor": {d: (yard.floor.value, *yard.floor.interval) for d, yard in yards.items()},
        "accelerations": quality.to_dict("records"),
        "gain": {d: g[:3] if g.used else None for d, g in gain.items()},
        "compared": compared.to_dict("records"),
        "noise_power": {m: float(prepared[main, m].gamma.mean()) for m in models},
        "graphs": graphs.to_dict("records"),
        "likelihood": likely,
        "evaluations": {f"{m}/{how}": n for (m, how), n in evaluations.items()},
        "saved_work": saved.astype(object).where(saved.notna(), None).to_dict("records"),
        "inner_ode": by_depth,
        "depth_samples": sampled.to_dict("records"),
        "guidance": guided.to_dict("records"),
        "classifier_on_real_images": judged_real,
        "mixture": {name: float(error.abs().max()) for name, error in by_trace.items()},
    },
    claims=rows_beyond,
    timings={
        "claims": timed_claims + timed_beyond,
        "seconds": speed[["dataset", "model", "method", "calls", "seconds"]].to_dict("records"),
        "multiply": multiply.to_dict("records"),
        "runtimes": {f"{m}/{n}": ratio for (m, n), ratio in runtimes.items()},
    },
    inputs=[*paths.values(), *more.values(), *classed.values()],
)

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
display(Markdown(f"*Setting:* {size} size, {', '.join(datasets)}, {samples} samples, one training seed."))
display(Markdown(scorecard.conclusion(result)))
display(Markdown(f"All rows again: `{again.command(run)}`"))
