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
# # 09 · Other denoisers
#
# *Answers: table 4; claim C12.*
#
# Table 4 puts the two diffusion networks beside three denoisers of other kinds: BM3D, which compares patches and
# learns nothing; a convolutional autoencoder; and DnCNN, a plain stack of convolutions. In the table the continuous
# U-Net has the best LPIPS at every noise level, and the best SSIM at the lowest.
#
# A diffusion network denoises by the reverse process, from the noisy image down to step 0. That is its *walk*, and
# it gives an image at every step; the others give one image.
#
# **The question: which of them denoises best, by which measure, at what price in time; and how much does the answer
# depend on what each was trained for, and on which image of a walk is counted?**

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "09_denoisers"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of all noise
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist"]  # data sets, each with its own table
models = ["unet", "cunet"]  # the first and the last take part
seeds = [0]  # training seeds; the first is used here
images = 12  # test images a noise level
levels = [50, 150, 400]  # diffusion steps of noise: table 4
stride = 10  # diffusion steps a call of a diffusion network; the paper's is 1
shown = 2  # test images a noise level in the pictures
timing_rounds = 9  # rounds of the interleaved timing of one image
training_images = [640_000, 80_000]  # seen by a blind autoencoder, and DnCNN, trained in this run
batch_size = 64  # images an optimiser step, likewise

# %%
# %matplotlib inline
from functools import partial

import pandas as pd
import torch
from IPython.display import Markdown, display

from cunet import checkpoints as store
from cunet import (
    cost,
    denoiser_tables,
    denoiser_training,
    denoisers,
    denoising_figures,
    figures,
    paper,
    scorecard,
    subsets,
    wording,
)
from cunet import datasets as data
from cunet.denoising import denoise, noise_std
from cunet.errors import InputError
from cunet.runs import Run
from cunet.sampling import best_device, device_name, placed

run = Run.open(globals())
folder = store.ASSETS if checkpoints == "released" else run.checkpoints
pair = [models[0], models[-1]]
paths, missing = store.complete(folder, size, datasets, pair, seeds[0])
datasets = list(dict.fromkeys(d for d, _ in paths))
diffusing = {key: denoisers.from_checkpoint(path, steps=1, method=key[1]) for key, path in paths.items()}
device = best_device()  # the first GPU, where there is one
for denoiser in diffusing.values():
    denoiser.network.to(device)
diffusions = {d: diffusing[d, pair[0]].diffusion for d in datasets}
tests = {d: data.load(d, "test", diffusing[d, pair[0]].side) for d in datasets}
print("Missing, and so left out:", ", ".join(missing) or "nothing")
print("The networks compute on", device_name(device))

# %% [markdown]
# ## 1. From a diffusion step to a noise level
#
# A diffusion step adds noise *and* takes contrast away,
#
# $$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I). \tag{N} $$
#
# A denoiser made for "image plus noise" expects the whole contrast. So the scaling is undone: an image with $L$ steps
# of noise has $t=L-1$, and
#
# $$\frac{x_t}{\sqrt{\bar\alpha_t}}=x_0+\sigma_L\,\epsilon,\qquad \sigma_L=\sqrt{1/\bar\alpha_t-1}.$$
#
# All denoisers are called alike, `denoiser(noisy, noise_std) -> clean`, with this image and $\sigma_L$; a diffusion
# network behind that call puts the scaling back.
#
# **Check.** Subtract the clean image from the noisy one: what is left has the standard deviation $\sigma_L$.

# %%
rows = []
for d in datasets:
    clean = subsets.images(tests[d], images)
    for level in levels:
        std = noise_std(diffusions[d], level)
        found = float((denoisers.noisy_images(diffusions[d], clean, level, seed) - clean).std())
        assert abs(found / std - 1) < 5 / (2 * clean.numel()) ** 0.5, "five standard errors"
        rows.append({"dataset": d, "steps": level, "noise std": std, "measured": found, "grey levels": 127.5 * std})
pd.DataFrame(rows).set_index(["dataset", "steps"]).round(3)

# %% [markdown]
# ## 2. Who takes part
#
# How the authors trained the autoencoder and DnCNN is not written down. They say of their own networks that they do
# without "specific noise-level training", and of table 4 "without retraining": this reads as if each rival had been
# trained for every level by itself, *one a level*. But who wants to denoise a picture seldom knows its level, and
# trains one network for all: *blind*, over 1 to 800 steps. Here are both; the networks of all levels together saw as
# many training images as the blind one. BM3D is told the level, and is not trained.
#
# **Check.** Ours is the authors' DnCNN: 20 layers and, with three channels and the paper's width, 669,312 parameters.

# %%
with torch.device("meta"):
    original = denoisers.build("dncnn", "paper", 3)
convolutions = [layer for layer in original.modules() if isinstance(layer, torch.nn.Conv2d)]
assert cost.parameters(original).total == 669_312 and len(convolutions) == 20

# %%
wanted = [(m, level) for m in denoisers.NETWORKS for level in (None, *levels)]
enough = dict(zip(denoisers.NETWORKS, training_images, strict=True))
table_levels = len({row.noise for row in paper.TABLE_4})
told = {}
try:
    told["bm3d"] = denoisers.BM3D()
except InputError as error:
    missing.append(f"bm3d ({error})")

# %%
networks, cards = {}, {}
for d in datasets:
    for m, level in wanted:
        recipe = denoiser_training.recipe_for(
            m, level, dataset=d, size=size, seed=seeds[0], schedule=diffusions[d].schedule,
            batch_size=batch_size, images=enough[m] // (table_levels if level else 1),
        )  # fmt: skip
        path = folder / f"{recipe.name}.safetensors"
        if checkpoints == "train":
            denoiser_training.train(recipe, folder, progress=False)
        elif not path.is_file():
            missing.append(path.stem)
            continue
        networks[d, m, level] = denoisers.from_checkpoint(path, method=m)
        networks[d, m, level].network.to(device)
        cards[d, m, level] = networks[d, m, level].card
        paths[d, m, level] = path
if not told and not networks:
    raise InputError(f"There is nothing to compare the diffusion networks with: missing {', '.join(missing)}.")
print("Missing, and so left out:", ", ".join(missing) or "nothing")

# %% [markdown]
# **How much has each of them seen?** Images in training, as the checkpoints' cards have it, and how often that is the
# first diffusion network's. A network that was trained for less might do better with more: what is compared below is
# these trainings, not all that a method can do.

# %%
seen = {(d, denoiser_tables.label(m), "all levels"): one.card["images_seen"] for (d, m), one in diffusing.items()}
seen |= {
    (d, denoisers.LABELS[m], f"{level} steps" if level else "blind"): card["images_seen"]
    for (d, m, level), card in cards.items()
}
trained = pd.Series(seen, name="images seen").rename_axis(["dataset", "network", "trained for"]).to_frame()
base = {d: diffusing[d, pair[0]].card["images_seen"] for d in datasets}
trained["of the first's"] = [n / base[d] for (d, _, _), n in seen.items()]
run.save_table(trained, "ext_denoisers_seen", "Images that each network saw in training")
trained.round(2)


# %%
def rivals(d, level):
    """The denoisers of other kinds that are there for a level, by name."""
    found = dict(told)
    for m in denoisers.NETWORKS:
        found |= {f"{m}-level": networks.get((d, m, level)), m: networks.get((d, m, None))}
    return {name: denoiser for name, denoiser in found.items() if denoiser}


# %% [markdown]
# **Does training for one level pay there, and what does it cost at the others?** Mean squared error on test images,
# written down after training. A row is a network, with what it was trained for; a column is a level where it was tried.

# %%
validated = denoiser_training.VALIDATION_LEVELS
rows = [
    [d, denoisers.LABELS[m], f"{level} steps" if level else "blind", *(row[1] for row in card["validation_mse"])]
    for (d, m, level), card in cards.items()
]
abroad = pd.DataFrame(rows, columns=["dataset", "network", "trained for", *(f"at {n}" for n in validated)])
if len(abroad):
    run.save_table(abroad, "ext_denoisers_levels", "Mean squared error at, and away from, the level trained for")
abroad.round(4)

# %% [markdown]
# ## 3. Table 4
#
# All get the same noisy images, made of test images from everywhere in the test set (`cunet.subsets`). Of a walk the
# paper counts, for each score, the *best* image on the way (notebook 08). To find it takes the original, and the
# rivals have no such choice. So each diffusion network is read in three ways: the best on the way, as in the paper;
# and what anyone can have, the *end* of the walk, and the *first* prediction of the clean image, after one call.
#
# Table 4 has the paper's reading; the other two follow in section 4. Its last column is how many images the network
# of the row saw in training.

# %%
scores = {d: {} for d in datasets}
readings = {d: {reading: {} for reading in denoiser_tables.READINGS} for d in datasets}
shots = {d: {} for d in datasets}
for d in datasets:
    clean = subsets.images(tests[d], images)
    walks = {
        m: denoise(diffusing[d, m].network, clean, diffusions[d], levels, ["mean"], stride=stride, frames=[1.0],
                   seed=seed, progress=True, resume=run.checkpoints / job) for m in pair
    }  # fmt: skip
    for level in levels:
        noisy = denoisers.noisy_images(diffusions[d], clean, level, seed)
        std = noise_std(diffusions[d], level)
        answers = {m: denoiser(noisy, std) for m, denoiser in rivals(d, level).items()}
        for m in pair:
            first = diffusing[d, m](noisy, std)
            readings[d]["first"][m, level] = denoiser_tables.measure(first, clean)
            for reading in ("best", "end"):
                readings[d][reading][m, level] = denoiser_tables.read(walks[m]["mean", level], reading)
            answers[m] = walks[m]["mean", level].frames[:, -1]
        scores[d] |= {
            (m, level): denoiser_tables.measure(x, clean) for m, x in answers.items() if m not in pair
        } | {(m, level): readings[d]["best"][m, level] for m in pair}
        shots[d][level] = {"original": clean, "noisy": noisy, **answers}

# %%
averages = {d: denoiser_tables.averages(scores[d], seed) for d in datasets}
for d in datasets:
    trainings = {(m, None): diffusing[d, m].card for m in pair}
    trainings |= {(m, level): card for (of, m, level), card in cards.items() if of == d}
    table = denoiser_tables.table_4(averages[d], trainings)
    caption = f"Table 4, {d}: {images} images a level, stride {stride}, 95 % bootstrap intervals over images"
    run.save_table(table, f"tab04_denoisers_{d}", caption)
    display(table)

# %% [markdown]
# **The same in a picture.** SSIM grows to the right and LPIPS falls downwards: the best corner is the lower right one.

# %%
for d in datasets:
    present = dict.fromkeys(m for m, _ in scores[d])
    picture = denoising_figures.plane(averages[d], {m: denoiser_tables.label(m) for m in present})
    caption = f"LPIPS against SSIM of each denoiser, {d}, 95 % over images: who is lowest, who farthest right?"
    run.save_figure(picture, f"ext_denoisers_plane_{d}", caption)

# %% [markdown]
# **To look at.** The first of the images, not chosen; of a diffusion network the end of its walk.

# %%
for d in datasets:
    rows = {
        {"original": "original", "noisy": "noisy"}.get(m) or denoiser_tables.label(m).replace(", ", ",\n"): [
            image for level in levels for image in shots[d][level][m][:shown]
        ]
        for m in shots[d][levels[0]]
    }
    picture = figures.image_rows(rows, [f"{level} steps" for level in levels for _ in range(shown)])
    caption = f"The same noisy images, a row a denoiser, {d}: which details are lost, and which are invented?"
    run.save_figure(picture, f"ext_denoisers_pictures_{d}", caption)

# %% [markdown]
# ## 4. What decides the answer?
#
# **Which image of the walk, and how the rivals were trained?** The cU-Net against each rival by a paired test over
# images (sign flips, p-values adjusted over the comparisons of a score by Holm's method), once for each reading of the
# walk and each way to train the rivals. The numbers are shares of the comparisons that the cU-Net wins and loses, by
# LPIPS at all levels and by SSIM at the lowest, as C12 has it; the rest are undecided. The last column is the verdict.

# %%
duels, rows = {}, []
for d in datasets:
    for way, others in denoiser_tables.WAYS.items():
        if not all((m, level) in scores[d] for m in others for level in levels):
            continue
        for reading, found in readings[d].items():
            frame = denoiser_tables.duels(scores[d] | found, pair[1], others, seed)
            duels[d, way, reading] = frame
            share = denoiser_tables.shares(frame)
            judged = scorecard.verdict("C12", share)
            rows.append(dict(dataset=d, rivals=way, walk=reading) | share | {"C12": judged})
protocol = pd.DataFrame(
    rows, columns=["dataset", "rivals", "walk", "lpips", "lpips_lost", "ssim", "ssim_lost", "C12"]
)
if len(protocol):
    run.save_table(protocol, "ext_denoisers_protocol", "Comparisons that cU-Net wins and loses, by what is counted")
protocol.round(2)

# %% [markdown]
# **Who is ahead, and is it decided?** For each reading of the walk, the method with the lowest mean LPIPS, with the
# interval over images; and all methods that a paired test over the same images cannot tell from it. The images also
# chose which method that is, so the intervals are made to hold for all methods of a level at once (Bonferroni), and the
# tests are adjusted over all pairs of methods (Holm).

# %%
ahead = pd.concat(
    [
        denoiser_tables.leaders(scores[d] | found, seed=seed).assign(dataset=d, walk=reading)
        for d in datasets
        for reading, found in readings[d].items()
    ]
)
printed = ahead.assign(
    method=ahead.method.map(denoiser_tables.label),
    undecided=[" / ".join(map(denoiser_tables.label, tied)) or "-" for tied in ahead.undecided],
).set_index(["dataset", "walk", "noise"])
run.save_table(printed, "ext_denoisers_leaders", "Lowest mean LPIPS by reading of the walk, and what is not told from it")
printed.round(3)

# %% [markdown]
# **How far are the three readings apart?** The means of each diffusion network, one column a reading:

# %%
frames = [
    denoiser_tables.averages(found, seed).assign(dataset=d, walk=reading)
    for d in datasets
    for reading, found in readings[d].items()
]
walked = pd.concat(frames).pivot_table("mean", ["dataset", "noise", "method", "walk"], "metric", sort=False)
run.save_table(walked, "ext_denoisers_walk", "Diffusion networks: best on the way, end of the walk, first call")
walked.round(3)

# %% [markdown]
# **Does it matter that the scaling is undone?** The same rivals once more, given $x_t$ itself, *left* at its low
# contrast, and told its noise, $\sqrt{1-\bar\alpha_t}$. PSNR in dB, higher is better:

# %%
rows = []
for d in datasets:
    clean = subsets.images(tests[d], images)
    for level in levels:
        contrast = float(diffusions[d].alphas_cumprod[level - 1].sqrt())
        std = contrast * noise_std(diffusions[d], level)
        for m, denoiser in rivals(d, level).items():
            left = denoiser_tables.measure(denoiser(contrast * shots[d][level]["noisy"], std), clean)
            for way, found in {"undone": scores[d][m, level], "left": left}.items():
                row = {"dataset": d, "method": denoiser_tables.label(m), "steps": level, "scaling": way}
                rows.append(row | {"PSNR": float(found["psnr"].mean())})
scaling = pd.DataFrame(rows).pivot_table("PSNR", ["dataset", "method", "steps"], "scaling", sort=False)
run.save_table(scaling, "ext_denoisers_scaling", "PSNR with the forward process' scaling undone, and left")
scaling.round(1)

# %% [markdown]
# **What does it cost?** Seconds an image on the CPU, one image at a time, the methods in turn. One call of each is
# timed. The paper's walk makes a call for every step of noise, so a diffusion network's time is that of a call times
# the level; the others make one call at any level.

# %%
times, factors = [], {}
for d in datasets:
    one, std = shots[d][levels[-1]]["noisy"][:1], noise_std(diffusions[d], levels[-1])
    timed = rivals(d, levels[-1]) | {m: diffusing[d, m] for m in pair}
    with placed("cpu", *(x.network for x in timed.values() if hasattr(x, "network"))):
        measured = cost.time_interleaved(
            {m: partial(denoiser, one, std) for m, denoiser in timed.items()}, timing_rounds, 1, seed
        )
    for m, denoiser in timed.items():
        network = getattr(denoiser, "network", None)
        row = {"dataset": d, "method": denoiser_tables.label(m)}
        row["parameters"] = cost.parameters(network).total if network else 0
        for level in levels:
            row[f"seconds at {level}"] = measured.medians[m] * (level if m in pair else 1)
        times.append(row)
    slowest = max((m for m in timed if m not in pair), key=measured.medians.get, default=None)
    if slowest is None:
        continue
    against = cost.compare({m: measured.samples[m] for m in (slowest, pair[1])})
    spread = (against.ratios[pair[1]], *against.spread[pair[1]])
    factors[d] = {"slowest": slowest, **dict(zip(("ratio", "low", "high"), (levels[-1] * x for x in spread), strict=True))}
times = pd.DataFrame(times).set_index(["dataset", "method"])
run.save_table(times, "ext_denoisers_time", "Seconds an image, one at a time, on this CPU")
times.round(4)

# %% [markdown]
# ## 5. What the scorecard gets

# %%
result = run.save_result(
    values={
        "table": pd.concat([frame.assign(dataset=d) for d, frame in averages.items()]).to_dict("records"),
        "comparisons": [
            row for (d, way, reading), frame in duels.items()
            for row in frame.assign(dataset=d, rivals=way, walk=reading).to_dict("records")
        ],
        "protocol": protocol.to_dict("records"),
        "leaders": ahead.to_dict("records"),
        "walk": walked.reset_index().to_dict("records"),
        "levels": abroad.to_dict("records"),
        "scaling": scaling.reset_index().to_dict("records"),
        "missing": missing,
        "device": device_name(device),
    },
    claims=denoiser_tables.claims(
        run.parameters | {"datasets": datasets}, duels, protocol, missing,
        cards | {(d, m, None): one.card for (d, m), one in diffusing.items()},
    ),
    timings={"seconds an image": times.reset_index().to_dict("records"), "walk against the slowest": factors},
    inputs=paths.values(),
)  # fmt: skip

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
setting = f"{size} size, {', '.join(datasets)}, {images} images a level, stride {stride}, one training seed"
absent = f" Missing: {', '.join(result['values']['missing'])}." if result["values"]["missing"] else ""
display(Markdown(f"*Setting:* {setting}.{absent}"))
display(Markdown(scorecard.conclusion(result)))


def sentence(reading):
    """Who has the lowest mean LPIPS at each level, by one reading of the walk."""
    parts = []
    for row in (row for row in result["values"]["leaders"] if row["walk"] == reading):
        tied = " / ".join(map(denoiser_tables.label, row["undecided"]))
        text = f"{row['dataset']} at {row['noise']}: {denoiser_tables.label(row['method'])}"
        text += f" {wording.interval(row['mean'], row['low'], row['high'], '.3f')}"
        parts.append(text + (f", not told from {tied}" if tied else ""))
    return "; ".join(parts)


ratios = "; ".join(
    f"{d} {wording.interval(f['ratio'], f['low'], f['high'], '.3g')} times {denoiser_tables.label(f['slowest'])}"
    for d, f in result["timings"]["walk against the slowest"].items()
)
display(
    Markdown(
        f"**Lowest mean LPIPS**, with the last image of each walk, which anyone can have: {sentence('end')}. With the best"
        f" on the way, for which the original must be at hand: {sentence('best')}.\n\n**Time.** At {levels[-1]} steps of"
        f" noise the paper's walk of {denoiser_tables.label(pair[1])} takes, beside the slowest of the others: {ratios}."
    )
)
