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
# # 07 · Image synthesis
#
# *Answers: table 1 and figure 3; claims C05, C06, C07, C08, C23.*
#
# Table 1 is the paper's headline: at a Fréchet distance like the U-Net's, the continuous U-Net needs fewer sampling
# steps and less time. It mixes three things, though. Each network is shown at *its own* best number of steps; a
# step of one network costs less than a step of the other; and time is steps times cost a step.
#
# **The question: how good are the samples of each network at a given number of steps, at a given time, and at its
# best; and how much of a difference is noise?**
#
# The distance here is **FD-AlexNet**, not FID: the same formula on the pooled features of an AlexNet whose weights
# come with this repository. Its values must not be compared with the paper's FID; only their order can, and how far
# they lie above the distance of real images.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "07_synthesis"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of the sampling noise
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist"]  # data sets, a column of table 1 each
models = [
    "unet",
    "cunet",
]  # networks that saw the same images; the first is what the others are compared with
seeds = [0]  # training seeds; the first is used here
samples = 500  # images a network, sampler and number of steps
samplers = ["ddim"]  # the authors sampled with DDIM
step_counts = [5, 10, 20, 50, 100]  # sampling steps
reference_images = 10_000  # training images that all sets are compared with
resamples = 60  # of the bootstrap behind each interval
timing_rounds = 9  # rounds of the interleaved timing

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from cunet import checkpoints as store
from cunet import cost, figures, frechet, metrics, paper, runs, sampling, scorecard, shards
from cunet import datasets as data
from cunet.diffusion import Diffusion

run = runs.Run.open(globals())
folder = store.ASSETS if checkpoints == "released" else run.checkpoints

# %% [markdown]
# ## 1. The networks
#
# All saw the same number of training images, in the same order. Where it is there, one more cU-Net takes part:
# `walltime` trained for as long as the U-Net did, and so, being cheaper, saw more images. (It ships for the digits;
# `cunet train --set variant=walltime --set max_seconds=...` makes one.)

# %%
wanted = [(d, m, "") for d in datasets for m in models] + [(d, "cunet", "walltime") for d in datasets]
paths = {
    (d, f"{m}-{variant}" if variant else m): folder
    / f"{store.stem(d, m, size, seeds[0], variant)}.safetensors"
    for d, m, variant in wanted
}
paths = {key: path for key, path in paths.items() if path.is_file() or not key[1].endswith("walltime")}
loaded = {
    (d, m): store.load(path, model=m.split("-walltime")[0], size=size) for (d, m), path in paths.items()
}
cards = pd.DataFrame(
    [
        {"dataset": d, "model": m, "parameters": cost.parameters(network).total}
        | {key: card[key] for key in ("images_seen", "validation_loss")}
        | {"training_minutes": card["wall_time_s"] / 60}
        for (d, m), (network, card) in loaded.items()
    ]
)
cards.round(4)

# %% [markdown]
# ## 2. Which of them learns faster?
#
# The paper says that training converges faster, and shows no curve. Here are two: validation loss against the images
# seen, and against the time that took. They need not agree, since an image costs the cU-Net less.

# %%
cards_of = {d: {m: card for (where, m), (_, card) in loaded.items() if where == d} for d in datasets}
for d in datasets:
    picture = figures.loss_curves(cards_of[d])
    run.save_figure(picture, f"ext_training_{d}", f"Loss against images seen and against training time, {d}")
    display(picture)


# %% [markdown]
# One number from each: what a network needs to come down to a loss that both reach, the higher of their two last
# ones, read off between validations.


# %%
def images_to(card, level):
    """Images seen when the validation loss first is `level`, interpolated in the logarithm of the loss."""
    seen, loss = np.array(card["validation"], dtype=float).reshape(-1, 2).T
    lowest = np.minimum.accumulate(loss)  # a rising np.interp needs
    return float(np.interp(-np.log(level), -np.log(lowest), seen))


rows = []
for d in datasets:
    first_card = cards_of[d][models[0]]
    for m, card in cards_of[d].items():
        level = max(first_card["validation"][-1][1], card["validation"][-1][1])
        share = images_to(card, level) / images_to(first_card, level)
        minutes = share * first_card["images_per_second"] / card["images_per_second"]
        rows.append(dict(dataset=d, model=m, to_loss=level, images=share, time=minutes))
convergence = pd.DataFrame(rows).set_index(["dataset", "model"])
convergence.round(3)

# %% [markdown]
# `images` and `time` are shares of what the U-Net needs for the same loss: below one is faster.
#
# ## 3. How small can the distance be?
#
# Two sets of real images are not at distance zero: they are finite, and the distance is biased upwards, the more so
# the smaller the set. So the floor is measured: as many *test* images as there will be samples (or all there are),
# against the same training images. The ceiling is noise.

# %%
reference, floor, ceiling = {}, {}, {}
for d in datasets:
    side = loaded[d, models[0]][0].image_size
    train, test = data.load(d, "train", side), data.load(d, "test", side)
    n = min(samples, len(test))
    reference[d] = frechet.dataset_features(train, min(reference_images, len(train)))
    floor[d] = float(frechet.frechet_distance(reference[d], frechet.features(test.batch(torch.arange(n)))))
    noise = torch.randn(n, test.channels, side, side, generator=torch.Generator().manual_seed(seed)).clamp(
        -1, 1
    )
    ceiling[d] = float(frechet.frechet_distance(reference[d], noise))
    assert floor[d] < ceiling[d] / 10, "the distance must tell digits from noise"
print(f"Up to {samples} images each. Floor (test images):", {d: round(x, 2) for d, x in floor.items()})
print("Ceiling (noise):", {d: round(x, 1) for d, x in ceiling.items()})

# %% [markdown]
# ## 4. The distance against the number of sampling steps
#
# Every network starts from the same noise, image by image. Intervals (95 %) are a bootstrap over the samples,
# centred, since a resample repeats images; they show what another draw of samples would change, and not what
# another training would.
#
# One distance can mislead, so three more measures look at the same features. **KID**, the kernel distance, is
# unbiased in the number of samples. **Precision** is the share of samples that lie among the data, **recall** the
# share of the data that lies among the samples: the first falls with bad samples, the second with missing ones.
#
# Samples are made in blocks that are kept in the run's folder, so that a stopped notebook goes on, and so that many
# jobs can make them, each its share (`shards` in the profile): image number i is the same whoever makes it.


# %%
def distance(dataset, features):
    """FD-AlexNet to the training images, with its bootstrap interval."""
    known = frechet.FrechetAlexNet(reference[dataset]).statistics()
    return metrics.bootstrap_interval(
        features, lambda f: float(frechet.frechet_distance(known, f)), resamples, seed=seed, centred=True
    )


rows, sheets = [], {}
for (d, m), (network, card) in loaded.items():
    diffusion = Diffusion(**card["diffusion"])
    for sampler in samplers:
        for steps in step_counts:
            which = shards.Samples(paths[d, m], sampler, steps, seed, samples)
            shards.make(which, run.run_dir, network, diffusion)
            features, like = shards.features(which, run.run_dir), reference[d][:samples]
            fd = distance(d, features)
            sheets[d, m, sampler, steps] = shards.pixels(which, run.run_dir)
            found = dict(fd=fd.estimate, fd_low=fd.low, fd_high=fd.high)
            found["kid"], _ = metrics.kid(reference[d], features, seed=seed)
            found["precision"], found["recall"] = metrics.precision_recall(like, features)
            rows.append(dict(dataset=d, model=m, sampler=sampler, steps=steps, **found))
curve = pd.DataFrame(rows)
caption = f"FD-AlexNet, KID, precision and recall of {samples} samples against sampling steps"
run.save_table(curve, "ext_fd_against_steps", caption)
curve.round(3)

# %%
for d in datasets:
    picture = figures.fd_against_steps(curve[curve.dataset == d], floor[d])
    run.save_figure(
        picture, f"ext_fd_against_steps_{d}", f"FD-AlexNet against sampling steps, {d}; ring: lowest"
    )
    display(picture)

# %% [markdown]
# ## 5. The paper's rule, and one that noise does not decide
#
# The paper takes, for each network, the number of steps with the lowest distance. On a flat curve that number is an
# accident. So we also give the smallest number of steps whose distance is within 5 % of the lowest.


# %%
def best(lines):
    """The row of the lowest distance, and the smallest number of steps within 5 % of it."""
    lowest = lines.loc[lines.fd.idxmin()]
    return lowest, int(lines.steps[lines.fd <= 1.05 * lowest.fd].min())


main = curve[curve.sampler == samplers[0]]
chosen = {key: best(lines) for key, lines in main.groupby(["dataset", "model"], sort=False)}
pd.DataFrame(
    [
        dict(dataset=d, model=m, lowest=row.fd, at_steps=row.steps, within_5_percent_from=flat)
        for (d, m), (row, flat) in chosen.items()
    ]
).round(2)

# %% [markdown]
# ## 6. Time
#
# As in the paper: on the CPU, for single samples. One step is one call of the network; calls of all networks are
# timed in turn, so that the machine's moods meet all alike. A sampler's own arithmetic is small beside it and
# counted too, since what is timed is a whole sampling run of a few steps.

# %%
PROBE = 5  # steps of the run that is timed
seconds, ratios = {}, {}
for d in datasets:
    runs_of = {
        m: lambda n=network, c=card: sampling.sample(
            n, 1, Diffusion(**c["diffusion"]), samplers[0], PROBE, seed
        )
        for (dataset, m), (network, card) in loaded.items()
        if dataset == d
    }
    timed = cost.time_interleaved(runs_of, repeats=timing_rounds, seed=seed)
    seconds |= {(d, m): t / PROBE for m, t in timed.medians.items()}
    ratios |= {(d, m): (timed.ratios[m], *timed.spread[m]) for m in timed.ratios}
pd.DataFrame(
    [
        {"dataset": d, "model": m, "ms a step": 1e3 * seconds[d, m], "ratio": r, "low": low, "high": high}
        for (d, m), (r, low, high) in ratios.items()
    ]
).round(3)

# %% [markdown]
# ## 7. Table 1
#
# Our columns first, the paper's beside them. *FD* is FD-AlexNet, *FID* the paper's; they are different measures.

# %%
printed = {(row.dataset, row.model): row for row in paper.TABLE_1}
rows = []
for (d, m), (row, _) in chosen.items():
    theirs = printed.get((d, m))
    own = dict(fd=row.fd, fd_low=row.fd_low, fd_high=row.fd_high, steps=row.steps)
    own["seconds_per_sample"] = seconds[d, m] * row.steps
    own |= {f"paper_{key}": getattr(theirs, key, None) for key in ("fid", "steps", "seconds")}
    rows.append(dict(dataset=d, model=m, **own))
table = pd.DataFrame(rows)
run.save_table(
    table, "tab01_synthesis", f"Table 1: FD-AlexNet of {samples} samples at each network's best steps"
)
table.round(3)

# %%
for d in datasets:
    picture = figures.sample_sheets(
        {
            f"{figures.label(m)}, {row.steps} steps": data.from_uint8(
                sheets[d, m, samplers[0], int(row.steps)][:32]
            )
            for (dataset, m), (row, _) in chosen.items()
            if dataset == d
        }
    )
    run.save_figure(picture, f"fig03_samples_{d}", f"The first 32 samples of each network at its best, {d}")
    display(picture)

# %% [markdown]
# Nothing here is selected: these are the first samples, from the same noise in each sheet.
#
# ## 8. Are they copies?
#
# A network that had learned the training images by heart would score best of all. So every sample is held beside
# the training image that is nearest to it, pixel by pixel. How near is too near? Test images say: nobody copied them.

# %%
rows = []
for d in datasets:
    side = loaded[d, models[0]][0].image_size
    train, test = data.load(d, "train", side), data.load(d, "test", side)
    sets = {"test images": test.images[: min(samples, shards.KEPT)]}
    sets |= {
        m: sheets[d, m, samplers[0], int(row.steps)] for (where, m), (row, _) in chosen.items() if where == d
    }
    near = {name: metrics.nearest(images, train.images) for name, images in sets.items()}
    usual = near["test images"][0]
    for name, (gap, _) in near.items():
        share = float((gap < usual.quantile(0.05)).float().mean())
        rows.append(dict(dataset=d, images=name, median_gap=float(gap.median()), nearer_than_5_percent=share))
    shown = []
    for name, (_, index) in near.items():
        pairs = (("", data.from_uint8(sets[name][:10])), (", nearest", train.batch(index[:10])))
        shown += [(f"{figures.label(name)}{which}", images) for which, images in pairs]
    picture = figures.image_rows(shown)
    caption = f"First images of each set, each above its nearest training image, {d}"
    run.save_figure(picture, f"ext_neighbours_{d}", caption)
    display(picture)
neighbours = pd.DataFrame(rows)
run.save_table(neighbours, "ext_neighbours", "Distance to the nearest training image, in grey levels (RMS)")
neighbours.round(3)

# %% [markdown]
# The last column is the share of a set nearer to the training images than all but 5 % of the test images are. Copies
# would bring it far above 0.05; samples that are smoother than data, which have near neighbours, bring it up too.
#
# ## 9. At equal steps, and at equal time
#
# The paper leaves open how the networks compare at the *same* number of steps. And for a user there is a third
# comparison: what does each give in the time that the U-Net takes?

# %%
first = models[0]
wide = main.pivot_table(index=["dataset", "steps"], columns="model", values="fd", sort=False)
excess = wide.sub(wide.index.get_level_values("dataset").map(floor), axis=0)  # above real images
equal_steps = excess.div(excess[first], axis=0)
equal_steps.round(3)

# %%
rows = []
for d in datasets:
    for steps in step_counts:
        budget = seconds[d, first] * steps
        fits = {m: [s for s in step_counts if seconds[d, m] * s <= budget * 1.001] for m in wide.columns}
        rows.append(
            {"dataset": d, "seconds": budget}
            | {f"{m}: FD": main[(main.dataset == d) & (main.model == m) & (main.steps <= max(s))].fd.min()
               for m, s in fits.items() if s}
        )  # fmt: skip
equal_time = pd.DataFrame(rows)
equal_time.round(3)

# %%
timed_curve = main.assign(seconds=[seconds[r.dataset, r.model] * r.steps for r in main.itertuples()])
for d in datasets:
    picture = figures.fd_against_steps(timed_curve[timed_curve.dataset == d], floor[d], x="seconds")
    run.save_figure(picture, f"ext_fd_against_time_{d}", f"FD-AlexNet against the time a sample takes, {d}")
    display(picture)

# %% [markdown]
# The first table takes from each distance what as many real images have (the floor, which is no network's fault), and
# divides by the U-Net's at the same number of steps. The second gives, for the time that the U-Net takes for each
# number of steps, the lowest distance that each network reaches within it.
#
# ## 10. What the scorecard gets

# %%
claims, timed_claims = [], []
why = {
    "C05": "table 1 multiplies what a step costs by how many steps each network takes at its best",
    "C06": "another distance, smaller networks, shorter training; the paper's own network was not told the step",
    "C07": "where the curve is flat, its lowest point is an accident of the samples; hence the second rule",
    "C08": "the paper reports no distance at equal steps",
    "C23": "the paper shows no curve; the learning rate falls to zero at the end of each training",
}
for d, name in (key for key in loaded if key[1] != first):
    u, c = chosen[d, first][0], chosen[d, name][0]
    where = dict(n=samples, dataset=d, size=size, spread="95 % bootstrap over samples, one training seed")
    whose = figures.label(name)
    both = (
        f"{whose}: {c.fd:.2f} [{c.fd_low:.2f}, {c.fd_high:.2f}] against"
        f" {u.fd:.2f} [{u.fd_low:.2f}, {u.fd_high:.2f}]"
    )
    overlap = bool(c.fd_low <= u.fd_high and u.fd_low <= c.fd_high)
    excesses = {"cunet": float(c.fd - floor[d]), "unet": float(u.fd - floor[d])}
    above = excesses["cunet"] / excesses["unet"]
    text = f"FD-AlexNet {both}; above the floor of {floor[d]:.2f}, {above:.2f} of the U-Net's"
    claims.append(dict(id="C06", measured=text, value=excesses | {"overlap": overlap}, **where))
    flat = {m: chosen[d, m][1] for m in (first, name)}
    steps = dict(cunet=int(c.steps), unet=int(u.steps), cunet_flat=flat[name], unet_flat=flat[first])
    text = "{cunet} steps against {unet} for the lowest, {cunet_flat} against {unet_flat} to come within 5 %"
    claims.append(dict(id="C07", measured=f"{whose}: {text.format(**steps)}", value=steps, **where))
    at_equal = equal_steps.loc[d, name]
    share = float((excess.loc[d, name] <= 1.1 * excess.loc[d, first]).mean())
    text = (
        f"{whose}: {at_equal.min():.2f} to {at_equal.max():.2f} of the U-Net's distance above the floor over"
        f" {list(at_equal.index)} steps"
    )
    claims.append(dict(id="C08", measured=text, value=dict(share=share), **where))
    sooner = convergence.loc[(d, name)]
    text = f"{whose} needs {sooner.images:.2f} of the U-Net's images and {sooner.time:.2f} of its time to a loss of"
    found = dict(images=float(sooner.images), time=float(sooner.time))
    learning = dict(where, n=1, spread="one training each")
    timed_claims.append(dict(id="C23", measured=f"{text} {sooner.to_loss:.4f}", value=found, **learning))
    where |= dict(n=timing_rounds, spread="95 % bootstrap over rounds")
    ratio, low, high = ratios[d, name]
    at_best = c.steps / u.steps  # each network at its best number of steps, as in table 1
    for factor, what in ((1.0, "a step"), (at_best, "a sample at its best steps")):
        text = f"{whose}: {what} takes {factor * ratio:.2f} [{factor * low:.2f}, {factor * high:.2f}] of the U-Net's time"
        saved = dict(saved=1 - factor * ratio, low=1 - factor * high)
        timed_claims.append(dict(id="C05", measured=text, value=saved, **where))
for claim in (*claims, *timed_claims):
    claim["why"] = why[claim["id"]]

# %%
result = run.save_result(
    values={
        "floor": floor,
        "neighbours": neighbours.to_dict("records"),
        "ceiling": ceiling,
        "curve": curve.to_dict("records"),
        "best": [
            dict(dataset=d, model=m, fd=r.fd, steps=r.steps, flat=f) for (d, m), (r, f) in chosen.items()
        ],
        "fid": frechet.fid(torch.empty(0), torch.empty(0)).note,
    },
    claims=claims,
    timings={
        "claims": timed_claims,
        "seconds_a_step": {f"{d}/{m}": s for (d, m), s in seconds.items()},
        "equal_time": equal_time.to_dict("records"),
    },
    inputs=paths.values(),
)

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
display(Markdown(f"*Setting:* {size} size, {', '.join(datasets)}, {samples} samples, one training seed."))
display(Markdown(scorecard.conclusion(result)))
