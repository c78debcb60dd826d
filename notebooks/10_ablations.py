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
# # 10 · Ablations, and robustness
#
# *Answers: figures 12 to 14; claims C15, C22, and C24 for the level that can be read back.*
#
# The blocks of the continuous U-Net solve
#
# $$ x'' = f(x, x', t, s), \qquad x(0) = x_0, \qquad x'(0) = g(x_0). \tag{4} $$
#
# The network has several ingredients: attention; a residual connection inside $f$; the second order of this equation; a
# learned initial velocity, $g$; an embedding of the diffusion step $t$, the *time embedding*. The paper's appendix C
# leaves some of them out, shows samples, and says that they get worse; it gives no number. And it says, in the abstract
# and in section 2, that a continuous network is more robust to noise than a discrete one, without an experiment.
#
# **The question: what does each ingredient contribute, and is that more than another training seed would change? What
# would bring the continuous network up to the U-Net? When something is wrong, does its error grow less than the discrete
# one's? And does the time embedding let a network tell the noise level?**

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "10_ablations"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of all noise
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist"]  # data sets; those without the full, the discrete, or any further network are left out
models = [
    "cunet",
    "cunet-noattn",
    "cunet-nores",
    "cunet-plain",
    "cunet-firstorder",
    "cunet-zerovelocity",
    "cunet-released",
]  # the full network first; of the others, those that are there are compared with it
remedies = [
    "cunet@widths=(16,28,56,96)",
    "cunet@steps=(1,2,4,4)",
    "cunet@time_width=256",
]  # with more than the full one has at size laptop; those that are there are held against it and the discrete one
earlier = ["cunet@widths=(8,20,40,56),steps=2"]  # forms of the full one from before it was made faster; likewise
remedy_steps = [5, 10]  # sampling steps of these besides `steps`, and of the two that they are held against
seeds = [0, 1, 2]  # training seeds; those that are there are used
discrete = "unet"  # the network that the full one's robustness is compared with
samples = 200  # images a network and training seed
steps = 20  # sampling steps (DDIM)
reference_images = 10_000  # training images that samples are compared with
levels = [100, 400]  # diffusion steps of noise of the images that are denoised
images = 16  # test images that are denoised from each level, and that the disturbed networks get
stride = 20  # diffusion steps a network call when denoising
loss_images = 400  # test images of the paired validation loss
held_steps = [100, 300, 500, 700, 900]  # diffusion steps, one of which is told in place of all
resamples = 40  # of the bootstrap of a Frechet distance
timing_rounds = 7  # rounds of the interleaved timing
shown = 24  # samples a sheet in figures 12 to 14
trainings = 1  # training seeds in the comparison of robustness, of those that both networks have
factors = [0.7, 1.4]  # noise level told, over the true one
input_noise = [0.05, 0.15]  # standard deviation of further noise on the input, for pixels in [-1, 1]
impulses = [0.01, 0.03]  # share of the pixels set to black or white
weight_noise = [0.02, 0.05]  # standard deviation of the weights' noise over their root mean square
disturbed_samples = 96  # samples of a disturbed network
disturbed_steps = 10  # sampling steps (DDIM) of a disturbed network
disturbed_resamples = 200  # of the bootstrap there
norm_steps = [100, 400, 800]  # diffusion steps at which Jacobians are measured; blocks at the middle one
norm_images = 4  # noisy images whose Jacobians are measured
iterations = 10  # of the power iteration
true_steps = [30, 100, 250, 500, 700]  # diffusion steps of the images whose noise level is read
rungs = 12  # noise levels that a reading tries
read_images = 12  # test images whose noise level is read, at each step
known_images = 16  # training images that the expectation is taken over, at each rung

# %%
# %matplotlib inline
import pandas as pd
import torch
from IPython.display import Markdown, display

from cunet import ablation_claims as judged
from cunet import (
    ablation_figures,
    ablations,
    cost,
    figures,
    frechet,
    lipschitz,
    noise_reading,
    palette,
    paper,
    robustness,
    runs,
    sampling,
    scorecard,
    subsets,
    synthesis,
)
from cunet import checkpoints as store
from cunet import datasets as data
from cunet import models as networks
from cunet.diffusion import Diffusion
from cunet.errors import InputError

needed = dict(datasets=datasets, models=models, seeds=seeds, levels=levels, held_steps=held_steps)
needed |= dict(norm_steps=norm_steps, true_steps=true_steps)
needed["one of factors, input_noise, impulses, weight_noise"] = (
    factors + input_noise + impulses + weight_noise
)
if empty := [name for name, values in needed.items() if not values]:
    raise InputError(f"Nothing is given for {', '.join(empty)}: give one value or more.")
run = runs.Run.open(globals())
folder = store.ASSETS if checkpoints == "released" else run.checkpoints
full = models[0]

# %% [markdown]
# ## 1. The networks
#
# An ablated network lacks one ingredient, and was trained as the full one was: same images in the same order, same
# recipe. Two lack more. `cunet-plain` is the paper's "basic version", without attention and residuals; `cunet-released`
# is no ablation of ours, and lacks several things at once, among them the time embedding (notebook 04).

# %%
paths, missing = ablations.find(
    folder, datasets, list(dict.fromkeys([discrete, *models, *remedies, *earlier])), size, seeds
)
trained = pd.Series([f"{d} {m}" for d, m, _ in paths], dtype=str).value_counts(sort=False)
print("Trained:", ", ".join(f"{name} ({n} seed{'s' * (n > 1)})" for name, n in trained.items()))
both_there = [d for d in datasets if not {(d, full), (d, discrete)} & {key[:2] for key in missing}]
several = [d for d in both_there if {m for where, m, _ in paths if where == d} - {full, discrete}]
without = [d for d in datasets if d not in several]
datasets = several or both_there[:1]  # without any other network, robustness is still a question
if without:
    print(f"No network beside {full} and {discrete}, so no ablations and no remedies: {', '.join(without)}.")
paths = {key: path for key, path in paths.items() if key[0] in datasets}
loaded = {
    key: store.load(path, model=synthesis.standard(key[1]), size=size) for key, path in paths.items()
}
if not datasets:
    raise InputError(
        f"There is no data set for which both {discrete} and {full} are trained in {folder}. Train them with"
        " `cunet train`, or with the profile's line checkpoints: train."
    )


# %%
def with_seeds(dataset, model):
    """Seeds of a network that are there, in order."""
    return [s for d, m, s in loaded if (d, m) == (dataset, model)]


def first_seed(dataset, model):
    """A network, with the first of its seeds, and its diffusion."""
    network, card = loaded[dataset, model, with_seeds(dataset, model)[0]]
    return network, Diffusion(**card["diffusion"])


for d in datasets:
    if not set(with_seeds(d, full)) & set(with_seeds(d, discrete)):
        raise InputError(
            f"{d}: {full} and {discrete} share no training seed, and section 6 compares them seed by seed. Train one of"
            " them with a seed of the other, or leave the data set out."
        )
recipes = {d: loaded[d, full, with_seeds(d, full)[0]][1] for d in datasets}
for key in missing:
    if key[0] in datasets:
        print(
            f"Missing: {key[1]}. To train it: {ablations.command(key, size, recipes[key[0]]['recipe'], folder)}"
        )
for (d, m, s), (_, card) in loaded.items():
    if m == synthesis.standard(m):
        unlike = ablations.unequal(card, recipes[d])
        assert not unlike, f"{d} {m} s{s} was trained otherwise: {unlike}"

# %% [markdown]
# **What do they cost?** This needs no training. *evaluations* is how often $f$ is called in one call of the network. Time
# is that of one call for one image, all networks in turn; beside it the ratio to the full network with its 95 %
# interval. Everything is given for one channel or three, as the data sets have.

# %%
side = networks.image_size(size)
tests = {d: data.load(d, "test", side) for d in datasets}
counted, clocked = {}, {}
for channels in sorted({test.channels for test in tests.values()}):
    built = {m: networks.build(m, size, channels).eval() for m in models}
    probe = torch.zeros(1, channels, side, side)
    with torch.no_grad():
        timed = cost.time_interleaved(
            {m: lambda n=n, x=probe: n(x, 500) for m, n in built.items()}, timing_rounds, seed=seed
        )
    for m, network in built.items():
        counted[channels, m] = {
            "lacks": ablations.INGREDIENTS.get(m, ""),
            "parameters": cost.parameters(network).total,
            "MACs": cost.macs(network, side),
            "evaluations": network.evaluations,
        }
        low, high = timed.spread[m]
        clocked[channels, m] = {
            "ms": 1e3 * timed.medians[m], "time": timed.ratios[m], "time_low": low, "time_high": high
        }  # fmt: skip


def of_each(found):
    """A row a data set and network, from what was found for its number of channels."""
    index = pd.MultiIndex.from_product([datasets, models], names=["dataset", "model"])
    return pd.DataFrame([found[tests[d].channels, m] for d, m in index], index=index)


costs, times = of_each(counted), of_each(clocked)
costs.join(times.round(3))

# %% [markdown]
# **Is only one thing left out?** An ablation that also changes how many weights there are, or how much work a call takes,
# leaves out more than its name says, or puts something in. From the table:

# %%
sizes = costs[["parameters", "MACs"]]
relative = sizes / sizes.xs(full, level="model").reindex(sizes.index, level="dataset") - 1
beside = {
    key: f"{one.parameters:+.0%} parameters, {one.MACs:+.0%} multiply-accumulates"
    for key, one in relative.iterrows()
}
larger = [key for key in beside if relative.loc[key].abs().max() >= 0.1]
told = [
    f"- {palette.label(m)}, {d}: {beside[d, m]} against the full network" for d, m in beside if m != full
]
display(Markdown("\n".join(told)))
if "cunet-firstorder" in {m for _, m in larger}:
    display(
        Markdown(
            "One network that drives position and velocity alike has to give twice as many channels as one that gives"
            " the acceleration, at equal widths. So the ablation without second order differs in size, too; widths at"
            " which the counts agree would change what the other blocks can hold."
        )
    )

# %% [markdown]
# ## 2. Three measurements
#
# Each network samples (FD-AlexNet of the samples), denoises (LPIPS, the best on the way as in notebook 08) and is
# validated (loss on test images). All get the same noise and the same test images, taken from everywhere in the test set.
#
# One more line takes the **time embedding** away from the full network: it is told the same step at every call, the one of
# `held_steps` with which its loss on training images is lowest. It was not trained so. A network that never had an
# embedding may do better, so this line is likely to overstate what the embedding contributes.
#
# The discrete network is measured, too: what another seed changes is learned from all networks that have several, and
# section 5 needs it.

# %%
HELD = f"{palette.label(full)}, told one step"
yards = {d: synthesis.Yardstick(d, side, reference_images, seed) for d in datasets}
floors = {d: yards[d].mean_floor(samples) for d in datasets}
trains = {d: yards[d].train for d in datasets}
subjects = {
    key: (network, Diffusion(**card["diffusion"])) for key, (network, card) in loaded.items()
}
for key, (network, diffusion) in list(subjects.items()):
    if key[1] == full:
        held = ablations.least_harmful(
            network, diffusion, subsets.part(trains[key[0]], loss_images), held_steps
        )
        subjects[key[0], HELD, key[2]] = (held, diffusion)
        print(f"{key[0]}, seed {key[2]}: the least harmful of the steps {held_steps} is {held.step}")
measured = {
    key: ablations.measure(
        network, diffusion, tests[key[0]], samples, steps, levels, images, stride, loss_images, shown, seed
    )
    for key, (network, diffusion) in subjects.items()
}

# %%
def above(dataset):
    """FD-AlexNet of features to the training images, above that of as many real ones."""
    return lambda features: yards[dataset].distance(features) - floors[dataset]


draws = {
    key: {
        "fd": ablations.draw(found.features, above(key[0]), resamples, seed),
        "lpips": ablations.draw(found.lpips, seed=seed),
        "loss": ablations.draw(found.losses, seed=seed),
    }
    for key, found in measured.items()
}
rows = []
for (d, m, s), found in draws.items():
    card = loaded[d, full if m == HELD else m, s][1]
    own = {measure: one.value for measure, one in found.items()}
    rows.append(dict(dataset=d, model=m, seed=s, images_seen=card["images_seen"]) | own)
single = pd.DataFrame(rows)
caption = f"Every training: FD-AlexNet of {samples} samples above that of as many real images, LPIPS, loss"
run.save_table(single, "ext_ablation_seeds", caption)
single.round(4)

# %% [markdown]
# ## 3. What each ingredient contributes
#
# The ablated network's number minus the full one's. All three are better when lower, so above zero the ingredient helps.
#
# What is the interval over? Over training seeds, where some network has several. How far seeds lie apart is then taken
# relative to the number itself (the deviation of its logarithm) and *pooled* over all networks of the data set that have
# several, ablated or not, with Student's t. That all spread alike, relatively, is an assumption. A data set whose
# networks have one seed each borrows the spread of the other data sets, and its own trainings cannot test that. The column
# `pooled` says over what it is pooled, `freedom` on how many degrees of freedom it rests. Where no network at all has
# several seeds, the interval is over images, and **says nothing about another training**. That of the time embedding is
# always over images: it is the same trainings, told otherwise.
#
# All trainings get the same noise and the same test images, so these intervals do not cover another draw of images. Each
# holds by itself: of forty, two are expected to miss 0 by chance.
#
# From FD-AlexNet we subtract the floor, the mean distance of many sets of as many real images, none of them among those
# that the distance is to. Per cents then depend less on the number of samples. Something is left: by how much a distance
# of few images is too large depends on how these differ among themselves, too. The spread between seeds alone is taken
# relative to the distance itself: a network near the data has little above that of real images, but its seeds need not
# lie closer together for that. (Pooled without any scale, the spread could not be borrowed, since distances on other data
# are many times as large.) The difference of two networks is the same either way. For a network much nearer to the data
# than those pooled over, the interval may still be too narrow.
#
# *small* says that the difference is less than the range of the full network over its seeds (unknown with one seed).

# %%
contributions = ablations.contributions(draws, full, [HELD, *models[1:]], HELD, floors)
run.save_table(
    contributions, "ext_contributions", "What each ingredient contributes: ablated minus full network"
)
shown_columns = ["dataset", "without", "measure", "percent", "low", "high", "over", "pooled", "freedom", "small"]
contributions[shown_columns].round(2)

# %%
for d in datasets:
    picture = ablation_figures.contributions(contributions[contributions.dataset == d])
    caption = (
        f"What is lost without each ingredient, {d}: right of 0 the network is worse without it, left better; where an"
        " interval (95 %) has 0 in it, undecided. Filled: over training seeds, with their pooled spread; open: over"
        " images alone"
    )
    run.save_figure(picture, f"ext_contributions_{d}", caption)
    few = contributions[
        (contributions.dataset == d) & contributions.small.eq(True) & (contributions.seeds < 3)
    ]
    for m in dict.fromkeys(few.model[few.model != HELD]):
        for s in [s for s in seeds if (d, m, s) not in loaded]:
            again = ablations.command((d, m, s), size, recipes[d]["recipe"], folder)
            print(f"Within the spread of seeds; another one: {again}")

# %% [markdown]
# All in one table, a row a network: what it costs, and the means over those of its seeds that are trained.

# %%
means = single.groupby(["dataset", "model"], sort=False)[["fd", "lpips", "loss"]].mean()
means["seeds"] = single.groupby(["dataset", "model"], sort=False).size()
validated = pd.Series({key: card["validation_loss"] for key, (_, card) in loaded.items()})
means["validation_loss"] = validated.groupby(level=[0, 1]).mean().rename_axis(["dataset", "model"])
table = costs.join(times).join(means.reindex(costs.index)).fillna({"seeds": 0})
caption = (
    f"Ablations: cost, time of a call over the full network's, distance above real images of {samples} samples at"
    f" {steps} steps, LPIPS after denoising from {levels} steps; blank: not trained"
)
run.save_table(table, "ext_ablations", caption)
table.round(4)

# %% [markdown]
# ## 4. Figures 12, 13 and 14
#
# The paper shows samples of each ablated network alone. Here they stand beside those of the full network from the same
# noise; the first ones, none chosen. **Does one see a difference?**

# %%
for d in datasets:
    for m, number in ablations.FIGURES.items():
        both = [s for s in with_seeds(d, full) if s in with_seeds(d, m)]
        if both:
            sheets = {palette.label(x): measured[d, x, both[0]].shown for x in (full, m)}
            picture = figures.sample_sheets(sheets)
            caption = f"{paper.FIGURES[number]}, beside the full network, {d}: the same noise in the same places"
            run.save_figure(picture, f"fig{number}_samples_{d}", f"{caption}, so compare sample by sample")
        else:
            print(f"Figure {number}, {d}: {m} is not trained with a seed of {full}.")

# %% [markdown]
# ## 5. What would bring it up to the U-Net?
#
# Where its samples are farther from real images than the U-Net's (notebook 07), what does the full network lack? Four
# suspicions, each with a remedy; those that are there take part. Each was trained from scratch as the full network was,
# the last but for the number of images:
#
# - *capacity*: more channels where images are coarse;
# - *solver*: more evaluations of $f$, with as many weights;
# - *time conditioning*: a wider time embedding;
# - *training*: the U-Net's training time in place of its number of images, where somebody trained that variant.
#
# The chain trains none of them, also with `checkpoints: train`: `cunet train` does, with a name from `remedies`.
#
# One more row is no remedy. The full network had an *earlier form*, with other widths and evaluations, before it was made
# faster. Was quality given up for speed? This one was trained by the same recipe, so its row answers that.
#
# Two questions, each with an interval of its own: how far is a remedy from the U-Net, and does it change anything, that
# is, how far is it from the full network? What it costs stands beside it: where a remedy takes more work a call, what it
# gives may be owed to the work, however that is spent. Numbers are in per cent of the U-Net's, or of the full network's,
# above zero worse, with intervals as in section 3.

# %%
variants = {m for _, m, _ in loaded if m != full and synthesis.standard(m) == full}
held_against = variants | {*remedies, *earlier}
remedied = [m for m in dict.fromkeys(m for _, m, _ in loaded) if m in held_against]
gaps = ablations.contributions(draws, discrete, [full, *remedied], HELD, floors)
gaps = gaps.rename(columns={"without": "remedy", "full": "discrete"})
gaps["remedy"] = gaps.remedy.where(gaps.model != full, "none: as it is")
gained = ablations.contributions(draws, full, remedied, HELD, floors).rename(columns={"without": "remedy"})
if len(gained):
    run.save_table(gained, "ext_remedies_gain", f"Remedies less {palette.label(full)} without them")
rates = []
for channels in sorted({test.channels for test in tests.values()}):
    built = {
        m: networks.build(synthesis.standard(m), size, channels).eval() for m in (discrete, full, *remedied)
    }
    probe = torch.zeros(1, channels, side, side)
    with torch.no_grad():
        calls = {m: lambda n=n, x=probe: n(x, 500) for m, n in built.items()}
        timed = cost.time_interleaved(calls, timing_rounds, seed=seed)
    for m, network in built.items():
        low, high = timed.spread[m]
        rates.append(
            dict(channels=channels, model=m, parameters=cost.parameters(network).total)
            | dict(macs=cost.macs(network, side), time=timed.ratios[m], time_low=low, time_high=high)
        )
rates = pd.DataFrame(rates).set_index(["channels", "model"])
for name in ("parameters", "macs"):
    rates[name] /= rates[name].xs(discrete, level="model").reindex(rates.index, level="channels")
caption = "Of one call for one image: parameters, multiply-accumulates and time over the U-Net's"
run.save_table(rates, "ext_remedies_cost", caption)
rates.round(3)

# %%
gaps["channels"] = [tests[d].channels for d in gaps.dataset]
nearness = gaps.join(rates[["parameters", "macs"]], on=["channels", "model"]).drop(columns=["small", "channels"])
run.save_table(nearness, "ext_remedies", f"{palette.label(full)} and its remedies beside the U-Net")
for d in dict.fromkeys(gaps.dataset):
    picture = ablation_figures.contributions(gaps[gaps.dataset == d], palette.label(discrete))
    caption = (
        f"What brings the continuous network nearer to the U-Net, {d}: right of 0 it is worse than the U-Net, and where"
        " an interval (95 %) has 0 in it, undecided. Filled: over training seeds, with their pooled spread; open: over"
        " images alone"
    )
    run.save_figure(picture, f"ext_remedies_{d}", caption)
nearness[["dataset", "model", "remedy", "measure", "percent", "low", "high", "over", "parameters", "macs"]].round(2)

# %% [markdown]
# **At other numbers of steps, and in equal time.** What lacks evaluations may show it at few steps, and what takes more
# work a call should be given fewer of them. So distances once more: at equal numbers of steps; and beside the U-Net's at
# each number, those of the most steps, of the ones tried, that a network has time for meanwhile (`own_steps`), by the
# times of a call above. Per cents of the U-Net's distance above real images. Data sets without a remedy are left out.

# %%
helped = [d for d in datasets if {m for where, m, _ in loaded if where == d} & set(remedied)]
compared = [key for key in loaded if key[0] in helped and key[1] in (discrete, full, *remedied)]
walked = {steps: {key: {"fd": draws[key]["fd"]} for key in compared}}
for n in [n for n in dict.fromkeys(remedy_steps) if n != steps]:
    walked[n] = {}
    for key in compared:
        found, _ = ablations.sampled(*subjects[key], samples, n, seed)
        walked[n][key] = {"fd": ablations.draw(found, above(key[0]), resamples, seed)}
call = {(d, m): rates.time[tests[d].channels, m] for d, m, _ in compared}
columns = ["dataset", "model", "steps", "own_steps", "full", "contribution", "percent", "low", "high", "over"]
at_steps = {
    name: ablations.at_steps(walked, discrete, [full, *remedied], floors, of_calls)
    for name, of_calls in (("steps", None), ("time", call))
}
for name, how in (("steps", "at equal numbers of steps"), ("time", "in equal time")):
    if len(at_steps[name]):
        found = at_steps[name][columns].rename(columns={"full": "discrete", "contribution": "difference"})
        caption = f"{palette.label(full)} and its remedies beside the U-Net, {how}: distance above real images"
        run.save_table(found, f"ext_remedies_{name}", caption)
        display(found.round(2))

# %% [markdown]
# ## 6. Robustness (C22)
#
# Four things go wrong, in the strengths of the parameters cell: the noise *level* that the network is told; further noise
# on its *input* that it is not told of; *impulses*, a kind of noise that it never met; noise in its *weights*. In each
# case there are three tasks: recover an image in one call, denoise it step by step, sample.
#
# How good a network is and how robust it is are two questions. So what counts is the factor by which a network's own
# error grows, and how large this is for the continuous network over the discrete one's: below 1 the continuous one is
# more robust. A factor of a network's own error below 1 means that the disturbance helps; by this count that is robust,
# too, although the network reacts more: the grey numbers in the figure show where. Distances of samples have a part that
# so few real images have too, which draws their factors towards 1, the more so for the better network. (Above that part
# two small numbers would be divided, and the factors would be mostly noise.) Both get the same noise and the same
# disturbances. The tests are Student's, over pairs of images or samples, with the standard error of a bootstrap.
#
# **Check.** A disturbance of strength nothing is none.

# %%
strengths = {"level": factors, "input": input_noise, "impulses": impulses, "weights": weight_noise}
pair = (discrete, full)
network, diffusion = first_seed(datasets[0], full)
noisy = subsets.images(tests[datasets[0]], 2)
for kind in robustness.KINDS:
    same = robustness.disturb(network, diffusion, kind, 1.0 if kind == "level" else 0.0)
    with torch.no_grad():
        t = torch.full((2,), 300)
        assert torch.allclose(same(noisy, t), network(noisy, t), atol=1e-4), kind

# %%
frames = []
for d in datasets:
    both = [s for s in with_seeds(d, discrete) if s in with_seeds(d, full)][:trainings]
    clean, grown = subsets.images(tests[d], images), {}
    real = frechet.dataset_statistics(trains[d], reference_images)
    for m, s in [(m, s) for m in pair for s in both]:
        network, card = loaded[d, m, s]
        diffusion = Diffusion(**card["diffusion"])
        plan = (
            diffusion,
            clean,
            real,
            levels,
            stride,
            disturbed_samples,
            disturbed_steps,
            disturbed_resamples,
            seed,
        )
        undisturbed = robustness.tried(network, *plan)
        for kind, strength in [(kind, x) for kind, values in strengths.items() for x in values]:
            found = robustness.tried(robustness.disturb(network, diffusion, kind, strength, seed), *plan)
            for task in robustness.TASKS:
                grown.setdefault((task, kind, strength), {m: [] for m in pair})
                grown[task, kind, strength][m].append(robustness.growth(undisturbed[task], found[task]))
    settings = {k: tuple(ablations.mean(found[m]) for m in pair) for k, found in grown.items()}
    frames.append(robustness.compared(settings).assign(dataset=d, trainings=len(both)))
robust = pd.concat(frames)
caption = f"Factors by which errors grow: first is {discrete}, second {full}; ratio: second over first"
run.save_table(robust, "ext_robustness", caption)
robust.round(3)

# %%
for d in datasets:
    picture = ablation_figures.growths(robust[robust.dataset == d], pair)
    caption = (
        f"Growth of the cU-Net's error over the U-Net's under four disturbances, {d}, 95 % by Student's t over pairs of"
        " images or samples; left of 1 the cU-Net is more robust, filled and in a network's colour where the test decides"
        " for it"
    )
    run.save_figure(picture, f"ext_robustness_{d}", caption)

# %% [markdown]
# ## 7. By how much do blocks stretch?
#
# Section 2 of the paper argues that a continuous network is bounded. How much can a map enlarge a small change of its
# input? By the largest singular value of its Jacobian $J$; the largest of these over all inputs would be the Lipschitz
# constant. Here $J$ is that at feature maps which occur in denoising. Its largest singular value is found by power
# iteration: start from a random direction $u$, repeat $u \leftarrow J^\top J u / \|J^\top J u\|$, and take $\|J u\|$. Beside
# it stands $\|J u\|$ of a random $u$ of length one: what happens to noise, which has no direction in particular.
#
# **Check.** Of a linear map the answer is known.

# %%
matrix = torch.randn(30, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
matrix = torch.linalg.svd(matrix, full_matrices=False)
known = torch.tensor([3.0, *[0.9] * 19], dtype=torch.float64)
matrix = matrix.U * known @ matrix.Vh  # the largest singular value is 3
start = torch.zeros(2, 20, dtype=torch.float64)
power = lipschitz.jacobian_norms(lambda z: z @ matrix.T, start, iterations=20).largest
assert torch.allclose(power, known[:1], rtol=1e-9), power

# %% [markdown]
# First each block by itself, at the middle one of `norm_steps` (the figure, and the last table of this section); then the
# whole network, from the noisy image to the image recovered, at all of them (the table below the figure). The map of an
# ODE block is of position and velocity together.

# %%
middle = norm_steps[len(norm_steps) // 2]
blocks, rows = {}, []
for d in datasets:
    clean = subsets.images(tests[d], norm_images)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    blocks[d] = {}
    for m in [m for m in (*pair, "cunet-released") if with_seeds(d, m)]:
        network, diffusion = first_seed(d, m)
        blocks[d][m] = lipschitz.block_norms(
            network, diffusion.add_noise(clean, noise, middle), middle, iterations, seed
        )
        for t in norm_steps:
            found = lipschitz.network_norms(
                network, diffusion, diffusion.add_noise(clean, noise, t), t, iterations, seed
            )
            of_all = dict(
                largest=float(found.largest.max()),
                mean=float(found.largest.mean()),
                random=float(found.random.mean()),
            )
            rows.append(dict(dataset=d, model=m, t=t) | of_all)
    picture = ablation_figures.stretch(blocks[d])
    caption = (
        f"By how much each block stretches a change of its feature maps, at t = {middle}, {d}: mean over images with the"
        " range; above the line at 1 a change grows"
    )
    run.save_figure(picture, f"ext_stretch_{d}", caption)

# %%
whole = pd.DataFrame(rows)
run.save_table(
    whole,
    "ext_stretch_network",
    "Noisy image to recovered image: largest and mean norm of the Jacobian over images, and the gain of random noise",
)
whole.round(3)

# %%
every_block = pd.concat(
    [frame.assign(dataset=d, model=m) for d, found in blocks.items() for m, frame in found.items()]
)
by_block = every_block.groupby(["dataset", "model", "kind", "block"], sort=False)[["largest", "random"]].agg(
    ["mean", "max"]
)
by_block.columns = [f"{column}, {what}" for column, what in by_block.columns]
run.save_table(
    by_block,
    "ext_stretch_blocks",
    f"Norm of each block's Jacobian at t = {middle}, over {norm_images} images",
)
summary = every_block.groupby(["dataset", "model", "kind"], sort=False)[["largest", "random"]].agg(
    ["median", "max"]
)
summary.round(2)

# %% [markdown]
# All these are lower bounds of Lipschitz constants: other inputs may be stretched more. What bears on robustness to noise
# is the table of whole networks.
#
# ## 8. Can the noise level be read back? (C24)
#
# The time embedding is said to let the network tell the noise level. If it does, the level can be read back. Show the
# network an image of unknown level, tell it one step after the other, and take the step at which it is consistent with
# itself: at which the noise that it finds is as large as noise of that step is.
#
# Part of this is arithmetic and needs no embedding: the network's answer is turned into noise with the weights of the
# step told, whatever the network makes of that step. So the control is the same network, told one step at every call
# (that of section 2). The control was not trained so, and a network that never had an embedding might read better: what
# the control loses is an upper estimate of what the embedding gives. *Held over told* is the control's error over the
# network's. Errors are root mean squares in *octaves*, factors of two of the
# noise's standard deviation.

# %%
told_steps = noise_reading.ladder(diffusion, rungs)
rows = []
for d, m in [(d, m) for d in datasets for m in (*pair, "cunet-released") if with_seeds(d, m)]:
    network, diffusion = first_seed(d, m)
    known, unread = subsets.images(trains[d], known_images), subsets.images(tests[d], read_images)
    held = ablations.least_harmful(network, diffusion, subsets.part(trains[d], loss_images), held_steps)
    for embedding, reader in (("told", network), ("held", held)):
        found = noise_reading.read(reader, diffusion, known, unread, true_steps, told_steps, seed)
        rows.append(found.assign(dataset=d, model=m, embedding=embedding))
read = pd.concat(rows)
keys = ["dataset", "model", "embedding"]
errors = read.groupby(keys, sort=False)[["octaves"]].apply(noise_reading.error).unstack("embedding")
errors["held over told"] = errors.held / errors.told
run.save_table(
    errors,
    "ext_reading",
    "Error of the noise level read back, in octaves, with the embedding and with it held still",
)
for d in datasets:
    picture = ablation_figures.readings(read[read.dataset == d])
    caption = (
        f"Error of the noise level read back, {d}, against the true one: where the dashed line (told one step always) lies"
        " above the solid one (told each step), the embedding helps"
    )
    run.save_figure(picture, f"ext_reading_{d}", caption)
errors.round(3)

# %% [markdown]
# Does a network listen to the step at all? The same images, told an early step and a late one: by how much does its
# answer change?
#
# **Check.** A network whose answer does not change reads no worse when it is told one step always.

# %%
with torch.no_grad():
    sensitivity = {}
    for (d, m), _ in errors.iterrows():
        some = subsets.images(tests[d], 2)
        answers = [first_seed(d, m)[0](some, t) for t in (100, 800)]
        sensitivity[d, m] = float((answers[1] - answers[0]).norm() / answers[0].norm())
        if not sensitivity[d, m]:
            assert errors.loc[(d, m), "held over told"] == 1, "a blind network loses nothing"
pd.Series(sensitivity, name="relative change of the answer from t = 100 to 800").to_frame().round(4)

# %% [markdown]
# ## 9. What the scorecard gets

# %%
result = run.save_result(
    values={
        "ablations": table.drop(columns=times.columns).reset_index().to_dict("records"),
        "seeds": single.to_dict("records"),
        "contributions": contributions.to_dict("records"),
        "remedies": nearness.to_dict("records"),
        "remedies_gain": gained.to_dict("records"),
        "remedies_steps": at_steps["steps"].to_dict("records"),
        "floors": floors,
        "device": sampling.device_name(sampling.best_device()),
        "missing": [" ".join(map(str, key[:2])) for key in missing],
        "robustness": robust.to_dict("records"),
        "stretch": whole.to_dict("records"),
        "reading": errors.reset_index().to_dict("records"),
    },
    claims=judged.claims(run.parameters, contributions, robust, whole, every_block, errors, sensitivity),
    timings={
        "call": times.reset_index().to_dict("records"),
        "remedies": rates.reset_index().to_dict("records"),
        "remedies_time": at_steps["time"].to_dict("records"),
    },
    inputs=paths.values(),
)

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
absent = ", ".join(result["values"]["missing"])
display(
    Markdown(
        f"*Setting:* {size} size, {', '.join(datasets)}, {samples} samples at {steps} steps."
        + (f" *Not trained, so not compared:* {absent}." if absent else "")
    )
)
display(Markdown(scorecard.conclusion(result)))
lines = []
for row in result["values"]["contributions"]:
    if row["measure"] == "fd":
        says = judged.outcome(row, "worse without it", "better without it")
        text = f"{judged.change(row)} (over {row['over']}; trained {judged.times(row['seeds'])})"
        key = row["dataset"], row["model"]
        size_too = f" The network has {beside[key]}." if key in larger else ""
        lines.append(f"- **{row['without']}**, {row['dataset']}: FD-AlexNet {text}: {says}.{size_too}")
display(
    Markdown("\n".join(["**Each ingredient.**\n", *lines]) if lines else "No ablated network is there yet.")
)
against = {
    (row["dataset"], row["model"]): f"; {judged.change(row)} against the full network's: {judged.outcome(row)}"
    for row in result["values"]["remedies_gain"]
    if row["measure"] == "fd"
}
lines = []
for row in result["values"]["remedies"]:
    if row["measure"] == "fd":
        cost_too = f"{row['parameters']:.2f} of its parameters, {row['macs']:.2f} of its multiply-accumulates"
        lines.append(
            f"- {row['dataset']}, {row['remedy']}: FD-AlexNet {judged.change(row)} against the U-Net's (over"
            f" {row['over']}; trained {judged.times(row['seeds'])}): {judged.outcome(row)}, with {cost_too}"
            f"{against.get((row['dataset'], row['model']), '')}."
        )
display(Markdown("\n".join(["**Remedies.**\n", *lines])))
