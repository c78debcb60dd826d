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
# # 05 · Training
#
# *Answers: what one network was trained with, and what it has learned; no claim of the paper.*
#
# There is one run of this page a data set, network and seed. They give the trained networks that notebooks 06 and later
# use.
#
# A diffusion model is trained by a guessing game. Take an image $x_0$, a diffusion step $t$ and noise $\epsilon$; mix
# them to $x_t$; let the network guess what was mixed in, and correct it by the squared error (Ho et al. 2020,
# algorithm 1):
#
# $$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I), \tag{N} $$
# $$ \min_\theta\ \mathbb E_{x_0, t, \epsilon}\,\big\| \tilde U_\theta(x_t, t) - y \big\|^2 . $$
#
# Here $\bar\alpha_t$ is the share of the image's variance left at step $t$ (notebook 06), and $y$ is what the network is
# asked for. Equation 3 of the paper has $y = \epsilon$. The authors' code, and ours, has
# $y = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$ ("v-prediction", Salimans and Ho 2022): it asks for the
# noise where the image is nearly clean, and for the image, with its sign turned, where it is nearly all noise.
#
# **The question: did this training work, and what did it see?**

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables, results and trained networks go
job = "05_training"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of weights, batches, diffusion steps and noise
dataset = "mnist"  # a name in cunet.datasets.DATASETS
model = "cunet"  # a name in cunet.models.MODELS
size = "laptop"  # a name in cunet.models.SIZES; gives the side of the images
variant = ""  # what sets this training apart from the standard one, as in the file's name
checkpoints = "released"  # released: read the network that ships; train: train it here, with what follows
images = 200_000  # images to see in all, repeats counted
max_seconds = 0.0  # s; above 0 it is the budget in place of `images`
batch_size = 64  # images an optimiser step
learning_rate = 1.5e-3  # of Adam, at its peak
warmup = 200  # optimiser steps of linear rise to the peak; from there a cosine falls to 0
ema_decay = 0.999  # a step, of the average of the weights, which is what is kept
clip = 1.0  # largest norm of the gradient
schedule = "cosine"  # noise schedule
prediction_type = "v_prediction"  # what the network guesses
flip = False  # mirror images at random; digits must not be
channels_last = True  # memory format: faster on most processors, the same numbers up to rounding
precision = "32-true"  # as in Lightning Fabric
devices = 1  # processes on a machine; above 1 they are started by torchrun
num_nodes = 1  # machines; above 1 within a Slurm job of as many
accumulate = 1  # parts that a device splits its share of a batch into, for want of memory
validate_every = 25_000  # images between validations
data_root = ""  # folder of the data set where it does not ship; empty: the standard one
samples = 32  # images on the sample sheet
sampling_steps = 50  # DDIM steps a sample

# %%
# %matplotlib inline
import pandas as pd
from IPython.display import Markdown, display

from cunet import checkpoints as store
from cunet import (
    cost,
    datasets,
    figures,
    folders,
    palette,
    paper,
    recipe,
    recipe_figures,
    recipe_study,
    runs,
    sampling,
    subsets,
    validation,
)
from cunet import devices as launcher
from cunet.diffusion import Diffusion
from cunet.errors import InputError

run = runs.Run.open(globals())
keys = [key for key in recipe.TrainConfig.model_fields if key in globals()]
config = recipe.configure({key: globals()[key] for key in keys})
if samples < 1:
    raise InputError(f"samples={samples}: the sheet shows 1 image or more.")
print(config.name)

# %% [markdown]
# ## 1. The training
#
# It is a process of its own (`python -m cunet.training_job`), or one a device, so that it can run on several GPUs, and so
# that a stopped one goes on where it was: batches, diffusion steps and noise are functions of the seed and the step
# alone. On several devices each computes its share of every batch, and the batches stay the same.

# %%
where = (dataset, model, size, seed, variant)
path = launcher.run(config, run.checkpoints) if checkpoints == "train" else store.released(*where)
network, card = store.load(path, model=model, size=size)
print(f"{path.name}: {card['images_seen']:,} images in {card['wall_time_s'] / 60:.1f} minutes")

# %% [markdown]
# What it was trained with, from the card that lies beside the weights; beside it, what the authors' code has for
# CelebA. The paper itself gives no training settings.

# %%
used = {key: value for key, value in card["recipe"].items() if key not in recipe.OPERATIONAL}
used["steps"] = card["steps"]
authors = [str(paper.RELEASED_RECIPE.get(key, "")) for key in used]
table = pd.DataFrame({"setting": list(used), "here": map(str, used.values()), "authors": authors})
slug = folders.slug(config.name)
run.save_table(table, f"ext_recipe_{slug}", f"Settings of {config.name}, beside those of the authors' code")
table

# %% [markdown]
# ## 2. Did it learn?
#
# The thin line is the loss on the batches as they came. The thick one is the loss of the averaged weights on 2,000
# test images, each always with the same diffusion step and the same noise, so that its values can be compared
# between moments, seeds and networks.

# %%
name = f"{model}-{variant}" if variant else model
picture = figures.loss_curves({name: card})
caption = (
    f"Loss of {config.name}, of its batches (thin) and of the averaged weights on test images (marks), at equal images "
    "and at equal time: has the validation loss stopped falling?"
)
run.save_figure(picture, f"ext_loss_{slug}", caption)

# %% [markdown]
# **Check.** The weights that are kept are the weights that were validated: their loss, computed anew, is the card's.

# %%
diffusion = Diffusion(**card["diffusion"])
test = datasets.load(dataset, "test", network.image_size, data_root or None)
losses = validation.validation_losses(network, test, diffusion)
again, quarters = validation.validation_summary(losses, diffusion.timesteps)
assert abs(again / card["validation_loss"] - 1) < 0.01, (again, card["validation_loss"])
T = diffusion.timesteps
steps = [f"t = {T * q // 4} ... {T * (q + 1) // 4 - 1}" for q in range(4)]
print(f"validation loss {again:.4f}; on the card {card['validation_loss']:.4f}; by diffusion step:")
pd.DataFrame({"loss": quarters}, index=steps).round(4).T

# %% [markdown]
# The loss is not the quality of images: at small $t$ it is about grain that nobody sees, at large $t$ about an image of
# which the input holds almost no trace. So look.
#
# ## 3. What has it learned?

# %%
generated = sampling.sample(network, samples, diffusion, "ddim", sampling_steps, seed)
sheets = {"data": subsets.images(test, samples), f"{palette.label(name)}, {sampling_steps} steps": generated}
picture = figures.sample_sheets(sheets)
caption = (
    f"The first {samples} samples of {config.name}, none selected, beside as many test images: by what would you tell "
    "the two sheets apart?"
)
run.save_figure(picture, f"ext_samples_{slug}", caption)

# %% [markdown]
# ## 4. What was tried
#
# **Would another recipe have trained better networks, and would it have helped one network more than the other?** One
# setting at a time is changed, for each network alike, from the same first weights and on the same images. *The released
# recipe* is here the one that the networks of this repository were trained with, not the authors'. Losses of different
# targets and noise schedules are different things, so all are measured with one yardstick: the squared error of the
# predicted clean image $\hat x$, clipped to $[-1, 1]$, times $1/(1-\bar\alpha_t) = 1 + \mathrm{SNR}_t$, where
# $\mathrm{SNR}_t = \bar\alpha_t/(1-\bar\alpha_t)$ (without the clipping this is the squared error of $v$),
#
# $$ L = \mathbb E_{x_0, t, \epsilon}\ (1 + \mathrm{SNR}_t)\, \big\| \mathrm{clip}\,\hat x(x_t, t) - x_0 \big\|^2 , $$
#
# at the same levels of noise for all, those of the released recipe's validation. It is the released recipe's own
# yardstick; FD-AlexNet of samples, beside it, is nobody's. Each recipe was trained once, so ratios are to be held
# against those of trainings that differ in their seed alone, where such were measured (grey). The trainings take hours:
# `cunet recipes --out papermill_runs/reference_recipes` makes them, and where its table is committed, it is read. The
# table is shown on the pages of its own networks only.

# %%
study = recipe_study.kept(dataset, size)
if not len(study):
    print(f"Not measured: cunet recipes --dataset {dataset} --size {size} --out {recipe_study.KEPT}")
elif variant or model not in set(study.model) or seed not in set(study.seed):
    print(f"See the page of one of: {', '.join(study.model.unique())}, seed {study.seed[0]}")
else:
    about, seeds = study.iloc[0], recipe_study.spread(study)
    measured = (
        f"each trained once on {about.images:,} images, {dataset}; FD-AlexNet of {about.samples} samples of"
        f" {about.sampling_steps} DDIM steps"
    )
    caption = f"Recipes: loss by one yardstick, its ratio to the released recipe's; {measured}"
    run.save_table(recipe_figures.table(study), f"ext_recipes_{slug}", caption)
    caption = (
        "Loss and FD-AlexNet of each recipe over those of the released one, logarithmic; left of the line: better."
        " Is there a recipe that is left of it for one network and right of it for the other? Grey: largest over"
        f" smallest loss by seed ({seeds.words}); {measured}"
    )
    run.save_figure(recipe_figures.figure(study, seeds.ratio), f"ext_recipes_{slug}", caption)
    for asked, answer in recipe_study.findings(study, seeds.ratio):
        print(f"{asked}: {answer}")

# %%
values = {
    "name": config.name,
    "checkpoint": folders.shown(path),
    "parameters": cost.parameters(network).total,
    "images_seen": card["images_seen"],
    "steps": card["steps"],
    "validation_loss": card["validation_loss"],
    "validation_quarters": quarters,
    "trained_here": checkpoints == "train",
}
timings = {key: card.get(key) for key in ("wall_time_s", "images_per_second", "threads", "processor")}
result = run.save_result(values, timings={"training": timings}, inputs=[path])

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
found = {**result["timings"]["training"], **result["values"]}
authors = paper.RELEASED_RECIPE["steps"] * paper.RELEASED_RECIPE["batch_size"]
brief = " Networks trained this briefly can be compared at this budget; how good they become with more is not shown."
display(
    Markdown(
        f"The paper gives neither loss curves nor training times; the authors' code trains for up to"
        f" {authors:,} images on GPUs. We: `{found['name']}`, {found['parameters']:,} parameters,"
        f" {found['images_seen']:,} images ({found['images_seen'] / authors:.2%} of theirs), validation loss"
        f" {found['validation_loss']:.4f}, {found['wall_time_s'] / 60:.1f} minutes on"
        f" {found['threads']} threads ({found['processor']})."
        + (brief if found["images_seen"] < authors / 2 else "")
    )
)
