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
# *Answers: figure 3, table 1; claims C05, C06, C07, C08, C23.*
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
# they lie above the distance of real images. And two of the data sets are **stand-ins**, drawn faces for CelebA and
# drawn scenery for LSUN Church: they have the place of the paper's photographs in table 1, and not their difficulty.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "07_synthesis"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of the sampling noise
checkpoints = "released"  # released: the networks that ship; train: those of this run
size = "laptop"  # of the networks
datasets = ["mnist", "avatars", "landscapes"]  # data sets, a column of table 1 each
models = [
    "unet",
    "cunet",
]  # networks that saw the same images; the first is what the others are compared with
seeds = [0, 1, 2]  # training seeds; networks are judged by the first, the others give the spread
samples = 150  # images a set, for the first data set
step_counts = [2, 5, 10, 20, 50, 100]  # sampling steps, a set each
best_samples = 150  # images at each network's best number of steps: the further ones are made there alone
other_samples = 100  # images a set, for the other data sets
other_step_counts = [5, 20, 50]  # sampling steps for them
further_step_counts = [5, 20]  # sampling steps of trainings with other seeds, and of variants
samplers = ["ddim", "ddpm"]  # the authors sampled with DDIM; the tables take the first
sampler_samples = 100  # images a set, for the other samplers
sampler_step_counts = [20]  # sampling steps for them; fewer than the diffusion has, so the chain is shortened
draws = 3  # sets with noise of their own, at the first of further_step_counts
reference_images = 10_000  # training images that all sets are compared with
resamples = 200  # of the bootstrap behind each interval
timing_rounds = 9  # rounds of the interleaved timing
inception = ""  # path of the Inception weights, for FID beside FD-AlexNet; empty: without

# %%
# %matplotlib inline
import pandas as pd
from IPython.display import Markdown, display

from cunet import (
    ablations,
    cost,
    figures,
    folders,
    frechet,
    metrics,
    palette,
    runs,
    sampling,
    scorecard,
    shards,
    sources,
    subsets,
    synthesis,
)
from cunet import checkpoints as store
from cunet import datasets as data
from cunet import synthesis_claims as judged
from cunet import synthesis_tables as tables
from cunet.diffusion import Diffusion

run = runs.Run.open(globals())
given = run.parameters
folder = store.ASSETS if checkpoints == "released" else run.checkpoints

# %% [markdown]
# ## 1. The networks
#
# The two networks of a data set and training seed saw the same images in the same order. A third takes part where
# somebody has trained it: the variant `walltime` of the cU-Net, which had the U-Net's training time in place of its
# number of images (`cunet train --set variant=walltime --set max_seconds=...`). What was asked for and is not there is
# named below, and everything does without it; the table has what there is.

# %%
paths, missing = synthesis.trainings(given, folder)
loaded = {which: store.load(path, model=which.model, size=size) for which, path in paths.items()}
sets_of = list(dict.fromkeys(which.dataset for which in paths))  # the data sets that take part
device = sampling.device_name(sampling.best_device())  # `cunet.shards` samples there
leading = {(w.dataset, synthesis.name(w)): w for w in paths if synthesis.leads(w, given)}
print("Not there, so not compared:", ", ".join(missing) or "nothing; all networks are there")
print("The samples are computed on", device)
for d in datasets:
    if d not in sets_of:
        print(
            f"{sources.label(d)}: no network to compare with in {folders.shown(folder)}, so nothing below is about it"
        )

# %%
cards = {(w.dataset, synthesis.name(w), w.seed): card for w, (_, card) in loaded.items()}
about = [
    {"dataset": w.dataset, "model": synthesis.name(w), "seed": w.seed}
    | {"parameters": cost.parameters(network).total}
    | {key: card[key] for key in ("images_seen", "validation_loss")}
    for w, (network, card) in loaded.items()
]
changed = [w.stem(size) for w, (_, card) in loaded.items() if not tables.committed(card)]
print("Trained by code that was not committed as it was:", ", ".join(changed) or "none of them")
for w, (_, card) in loaded.items():
    first = loaded[leading[w.dataset, models[0]]][1]
    unlike = "" if w.variant else ablations.unequal(card, first)
    assert not unlike, f"{w.stem(size)} was trained otherwise than {models[0]}: {unlike}"
pd.DataFrame(about).round(4)

# %% [markdown]
# ## 2. Which of them learns faster?
#
# The paper says that training converges faster, and shows no curve. Here are two: validation loss against the images
# seen, and against time. They need not agree, since an image does not cost every network the same. Every training seed
# is a line; the steep start, which tells nothing of the end, is cut off.
#
# How long the trainings took is no fair measure: they were made on different days, with one thread or two, beside other
# work. So the time is that of a training step of each network, measured here and now in turn, for the images seen.

# %%
an_image = tables.training_seconds(cards, timing_rounds // 3, seed)
for d in sets_of:
    picture = figures.loss_curves(
        [(m, card) for (where, m, _), card in cards.items() if where == d],
        zoom=True,
        seconds={m: took for (where, m), took in an_image.items() if where == d},
    )
    caption = (
        f"Validation loss against images seen and against training time, {d}: which line is lower, and where?"
    )
    run.save_figure(picture, f"ext_training_{d}", caption)


# %% [markdown]
# One number from each. Take the higher of the two final losses of a network and the U-Net with its seed: both reach it.
# How many images, and how much time, does the network need for that, over the U-Net's (read off between validations)?
# Below one is faster. This favours the network with the higher final loss: it reaches that level at the end of its
# decay, the other while its learning rate is still high.

# %%
converged = tables.convergence(cards, models[0], an_image)
caption = "Images and time to a loss that both reach, over the U-Net's of the same seed"
run.save_table(converged, "ext_convergence", caption)
converged.round(3)

# %% [markdown]
# ## 3. How small can the distance be?
#
# Two sets of real images are not at distance zero: they are finite, and the distance is biased upwards, the more so
# the smaller the set and the more varied it is. So the floor is measured: as many real images as there are samples,
# against the same training images. They are *test* images, taken from everywhere among them, and where these are too
# few, training images outside the reference set, too. The ceiling is noise. The floor takes the bias away only from sets
# as varied as real ones: smoother or less varied samples come out too near, even below the floor. The kernel distance KID
# (section 4) has no such bias; where it and FD-AlexNet disagree about who is ahead, the ratio of distances decides
# nothing.

# %%
side = {d: loaded[leading[d, models[0]]][0].image_size for d in sets_of}
yardsticks = {d: synthesis.Yardstick(d, side[d], reference_images, seed) for d in sets_of}
planned = synthesis.draws(given, paths)
counts = {
    d: sorted({one.samples.count for one in planned if one.trained.dataset == d} | {best_samples})
    for d in sets_of
}
limits = pd.DataFrame(
    [
        {"dataset": d, "images": n, "floor": yardsticks[d].floor(n), "ceiling": yardsticks[d].ceiling(n)}
        for d in sets_of
        for n in counts[d]
    ]
)
assert (limits.floor < limits.ceiling / 3).all(), "the distance must tell images from noise"
limits.round(2)

# %% [markdown]
# **Whose images these are**, and how near the test images of the drawn sets come to their training images (root mean
# square, grey levels of 0 to 255; measured for all of them when the set was drawn): the floor means something only if
# the test images are no copies.

# %%
for d in sets_of:
    display(Markdown(f"- **{sources.label(d)}**: {yardsticks[d].train.credit}"))
near = {sources.label(d): yardsticks[d].near_duplicates for d in sets_of if yardsticks[d].near_duplicates}
pd.DataFrame(near).T

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
# Sampling takes images x steps x the time of a call, so not every training makes as many sets as every other. DDPM in
# all its steps would take far longer than everything else together (below: calls by sampler); it is given fewer steps,
# on a shortened chain, and fewer images. Distances are compared between sets of one size only, or above the floor of as
# many images.
#
# Samples are made in blocks that are kept in the run's folder, so that a stopped notebook goes on, and so that many
# jobs can make them, each its share (`shards` in the profile): image number i is the same whoever makes it.

# %%
synthesis.calls(planned)


# %%
def made(draw):
    """A row of the curve: a set of samples, made where it is not there yet, and measured."""
    network, card = loaded[draw.trained]
    shards.make(draw.samples, run.run_dir, network, Diffusion(**card["diffusion"]))
    found = shards.features(draw.samples, run.run_dir)
    line, again = yardsticks[draw.trained.dataset].measure(found, resamples)
    line = synthesis.row(draw) | line
    drawn[tables.key(line)] = again
    return line


rows, drawn = [], {}  # drawn: the distances of resamples, by set
with sampling.progress_bar(sum(d.samples.count * d.samples.steps for d in planned), "samples", True) as bar:
    for draw in planned:
        rows.append(made(draw))
        bar.update(draw.samples.count * draw.samples.steps)
curve = pd.DataFrame(rows)
run.save_table(curve, "ext_fd_against_steps", "FD-AlexNet, KID, precision and recall of every set of samples")
curve.round(3)

# %%
main = tables.main_lines(curve, given)
first_seed = curve[(curve.noise == seed) & (curve.seed == seeds[0])]
for d in sets_of:
    here = first_seed[first_seed.dataset == d]
    floors = {s: yardsticks[d].floor(int(n)) for s, n in here.groupby("sampler", sort=False).n.max().items()}
    others = main[(main.dataset == d) & (main.seed != seeds[0])]
    picture = figures.fd_against_steps(here, floors, others=others)
    caption = (
        f"FD-AlexNet against sampling steps, {d}: which line is lower? (Both networks have the same noise: intervals that "
        "overlap decide nothing, the ratios of section 9 do.) Ring: lowest; dashed: as many real images; thin lines, if "
        "any: other training seeds"
    )
    run.save_figure(picture, f"ext_fd_against_steps_{d}", caption)

# %% [markdown]
# **How much is noise?** First, other draws of the samples. Does the bootstrap, which sees one draw, predict how far
# others lie apart? (A deviation from three draws is uncertain by about half.) Then other trainings, at equal steps: no
# number of samples reduces this spread.

# %%
by_draws, by_seeds = tables.over_draws(curve, given), tables.over_seeds(curve, given)
if len(by_draws):
    caption = "FD-AlexNet over draws of the noise, and what the bootstrap expects"
    run.save_table(by_draws, "ext_fd_over_draws", caption)
    display(by_draws.round(3))
if len(by_seeds):
    run.save_table(by_seeds, "ext_fd_over_seeds", "FD-AlexNet over training seeds, at equal steps")
    display(by_seeds.round(3))
else:
    print("There is one training seed of each network, so no spread over seeds.")

# %% [markdown]
# ## 5. The paper's rule, and one that noise does not decide
#
# The paper takes, for each network, the number of steps with the lowest distance. On a flat curve that number is an
# accident. So we also give the smallest number of steps whose distance is within 5 % of the lowest. How sure is either?
# Every resample of the samples, the same at all numbers of steps, chooses anew: *low* and *high* are the ends of the
# 95 % intervals. *edge* says where an interval ends at the fewest or the most steps tried: the best may lie beyond. And
# the lowest of several noisy numbers is too low: where `best_samples` is more than `samples`, further images are made at
# the best steps, and table 1 has the distance of them all. The images that decided the choice are among them, so about a
# share samples / best_samples of this optimism remains. The interval of C06 takes the chosen numbers of steps as given.

# %%
judges = main[
    [(d, m) in leading and s == seeds[0] for d, m, s in zip(main.dataset, main.model, main.seed, strict=True)]
]
best = {key: tables.best(lines) for key, lines in judges.groupby(["dataset", "model"], sort=False)}
by_training = {one.trained: one for one in reversed(planned)}  # the first set of each
at_best = {key: synthesis.at_best(by_training[leading[key]], best[key].steps, given) for key in best}
chosen = pd.DataFrame([made(one) for one in at_best.values()])
steps_of = {
    key: tables.chosen_steps(lines, drawn)
    for key, lines in judges.groupby(["dataset", "model"], sort=False)
}
choice = pd.DataFrame(
    [dict(dataset=d, model=m, **one._asdict(), **steps_of[d, m].spread()) for (d, m), one in best.items()]
)
run.save_table(choice, "ext_best_steps", "Best number of sampling steps by two rules, and how sure the choice is")
choice.round(2)

# %% [markdown]
# ## 6. Time
#
# As in the paper: on the CPU, for single samples. One step is one call of the network; calls of all networks are
# timed in turn, so that the machine's moods meet all alike. A sampler's own arithmetic is small beside it and
# counted too, since what is timed is a whole sampling run of a few steps.

# %%
PROBE = 5  # steps of the run that is timed
seconds, ratios = {}, {}
for d in sets_of:
    runs_of = {}
    for m in [m for where, m in leading if where == d]:
        network, card = loaded[leading[d, m]]
        settings = (network, 1, Diffusion(**card["diffusion"]), samplers[0], PROBE, seed)
        runs_of[m] = lambda settings=settings: sampling.sample(*settings)
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
# In the paper's layout, its numbers above ours. *FD-AlexNet* and *FID* are different measures, and a stand-in is not the
# paper's data set: in those columns the paper's numbers and ours answer the same question about different images. Here
# *edge* is about the best itself: it is the fewest or the most steps that were tried, so a better one may lie beyond.

# %%
table = tables.table_1(chosen, seconds)
table["edge"] = [steps_of[row.dataset, row.model].edge(row.steps) for row in table.itertuples()]
run.save_table(
    table, "tab01_synthesis", "Table 1: FD-AlexNet at each network's best steps, beside the paper's FID"
)
printed = tables.as_printed(table)
run.save_table(printed, "tab01_as_printed", "Table 1 in the paper's layout; stand-ins named")
printed

# %%
table.round(3)

# %%
sheets = {
    sources.label(d): {
        f"{palette.label(m)}, {best[d, m].steps} steps": data.from_uint8(
            shards.pixels(at_best[d, m].samples, run.run_dir)[:32]
        )
        for m in models
        if (d, m) in best
    }
    for d in sets_of
}
picture = figures.sheet_rows(sheets)
caption = "Figure 3: the first 32 samples of each network at its best steps; which could be data, which not?"
run.save_figure(picture, "fig03_samples", caption)

# %% [markdown]
# Nothing here is selected: these are the first samples, from the same noise in each sheet of a row.
#
# **FID.** With Inception's weights the same samples have an FID, too, over those whose pixels are kept:

# %%
fids = {
    f"{d}, {m}": frechet.fid(
        yardsticks[d].train, data.from_uint8(shards.pixels(one.samples, run.run_dir)), inception
    )
    for (d, m), one in at_best.items()
}
pd.DataFrame({key: dict(fid=f.value, images=f.n_generated, note=f.note) for key, f in fids.items()}).T

# %% [markdown]
# ## 8. Are they copies?
#
# A network that had learned the training images by heart would score best of all. So every sample is held beside
# the training image that is nearest to it, pixel by pixel. How near is too near? Test images say, taken from
# everywhere: nobody copied them.

# %%
rows = []
for d in sets_of:
    train, test = yardsticks[d].train, yardsticks[d].test
    sets = {m: shards.pixels(one.samples, run.run_dir) for (where, m), one in at_best.items() if where == d}
    sets = {"test images": subsets.part(test, max(map(len, sets.values()))).images, **sets}
    near = {name: metrics.nearest(images, train.images) for name, images in sets.items()}
    usual = near["test images"][0]
    for name, (gap, _) in near.items():
        share = float((gap < usual.quantile(0.05)).float().mean())
        rows.append(dict(dataset=d, images=name, median_gap=float(gap.median()), nearer_than_5_percent=share))
    shown = []
    for name, (_, index) in near.items():
        pairs = (("", data.from_uint8(sets[name][:10])), (", nearest", train.batch(index[:10])))
        shown += [(f"{palette.label(name)}{which}", images) for which, images in pairs]
    picture = figures.image_rows(shown)
    caption = f"Images of each set, each above its nearest training image, {d}: are any copies?"
    run.save_figure(picture, f"ext_neighbours_{d}", caption)
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
names = [m for m in dict.fromkeys(curve.model) if m != models[0]]
equal_steps = pd.concat([tables.against_first(curve, m, given, drawn).assign(model=m) for m in names])
run.save_table(
    equal_steps, "ext_equal_steps", "Each network beside the U-Net at equal steps, above the floor"
)
equal_steps.pivot_table("share", ["dataset", "model", "seed"], "steps", sort=False).round(3)

# %%
equal_time = tables.equal_time(judges, seconds, given)
caption = "Lowest FD-AlexNet of each network in the time that the U-Net takes for so many steps"
run.save_table(equal_time, "ext_equal_time", caption)
equal_time.round(3)

# %%
timed_curve = judges.assign(seconds=[seconds[r.dataset, r.model] * r.steps for r in judges.itertuples()])
for d in sets_of:
    here = timed_curve[timed_curve.dataset == d]
    picture = figures.fd_against_steps(here, yardsticks[d].floor(int(here.n.max())), x="seconds")
    caption = (
        f"FD-AlexNet against the time a sample takes, {d}: who is lower in equal time, where intervals are apart?"
        " (Where they overlap, this figure decides nothing.)"
    )
    run.save_figure(picture, f"ext_fd_against_time_{d}", caption)

# %% [markdown]
# The first table takes from each distance what as many real images have (the floor, which is no network's fault), and
# divides by the U-Net's at the same number of steps and with the same training seed. The second gives, for the time
# that the U-Net takes for each number of steps, the lowest distance that each network reaches within it.
#
# ## 10. What the scorecard gets

# %%
claims, timed_claims = judged.claims(given, curve, chosen, drawn, steps_of, ratios, converged)
result = run.save_result(
    values={
        "missing": missing,
        "device": device,
        "limits": limits.to_dict("records"),
        "near_duplicates": {d: yardsticks[d].near_duplicates for d in sets_of},
        "neighbours": neighbours.to_dict("records"),
        "curve": curve.to_dict("records"),
        "over_draws": by_draws.reset_index().to_dict("records"),
        "over_seeds": by_seeds.reset_index().to_dict("records"),
        "best": choice.to_dict("records"),
        "chosen": chosen.to_dict("records"),
        "fid": {key: dict(fid=f.value, images=f.n_generated, note=f.note) for key, f in fids.items()},
    },
    claims=claims,
    timings={
        "claims": timed_claims,
        "training_seconds_an_image": {f"{d}/{m}": s for (d, m), s in an_image.items()},
        "seconds_a_step": {f"{d}/{m}": s for (d, m), s in seconds.items()},
        "equal_time": equal_time.to_dict("records"),
    },
    inputs=paths.values(),
)

# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
values = result["values"]
found = ", ".join(sources.label(d) for d in sets_of)
most = max(row["n"] for row in values["chosen"])
lacking = f" Without {', '.join(values['missing'])}, which are not there." if values["missing"] else ""
display(Markdown(f"*Setting:* {size} size, {found}, up to {most} samples a set.{lacking}"))
display(Markdown(scorecard.conclusion(result)))
