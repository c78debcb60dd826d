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
# # 04 · The networks, and what they cost
#
# *Answers: figures 1, 2 and 6, table 5, equation 4 as built; claims C01, C02, C03, C04, C05 (the time of one call), C16,
# and C24 for the network as released; the errata of table 5.*
#
# The paper replaces the U-Net of a diffusion model by a *continuous* U-Net: where the U-Net has residual
# blocks, the cU-Net solves a differential equation. Its case is economy: a quarter of the parameters, a third of
# the arithmetic, a quarter of the memory, less time.
#
# **The question: what does each network cost, and is the network that was measured the network that is described?**
#
# The second half is asked because the authors published their code, and the code and the paper part in places. So there
# are two cU-Nets here, and every number below says whose it is:
#
# | name | what it is |
# |---|---|
# | `unet` | the baseline: the U-Net of Ho et al. (2020) |
# | `cunet` | the cU-Net as the paper *describes* it: second order, equation 4 |
# | `cunet-released` | the cU-Net as the authors *released* it, to the last parameter |
#
# Ablations carry a suffix: `-noattn` without attention, `-nores` without residual connections, `-plain` without
# either.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where figures, tables and results go
job = "04_networks"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # of the untrained weights and the test images
memory_batch = 4  # images in the training step whose memory is measured
timing_batches = [1, 8]  # images a call; the paper times single samples
timing_rounds = 7  # rounds of the interleaved timing, 2 or more

# %%
# %matplotlib inline
import json

import pandas as pd
import torch
from IPython.display import Markdown, display
from torch.utils.flop_counter import FlopCounterMode
from torchdiffeq import odeint, odeint_adjoint

from cunet import (
    bench_growth,
    bench_report,
    block_figure,
    cost,
    figures,
    folders,
    models,
    palette,
    paper,
    runs,
    scorecard,
)
from cunet.blocks import ODEBlock
from cunet.released import EVALUATIONS_A_BLOCK

run = runs.Run.open(globals())
SIZE, SIDE, CHANNELS = "paper", 64, 3  # table 5 is about images of 64 x 64 in RGB, and so is this notebook
torch.manual_seed(seed)
networks = {name: models.build(name, SIZE, CHANNELS).eval() for name in models.MODELS}
NORES5 = "cunet-released-nores-5attn"  # section 4 needs this one, which has no row of its own in table 5
networks[NORES5] = models.build("cunet-released-nores", SIZE, CHANNELS, attention=5).eval()

# %% [markdown]
# ## 1. What is in the box?
#
# A picture of a network is easily drawn as one wishes it were. These are not drawn: each network is run once on an
# empty image, and the picture shows which modules it called, in which order, what each of them read, and which of
# them depend on the diffusion step $t$ (a dot). Numbers in the boxes are channels, those below are parameters.

# %%
for name, place in {"unet": "ext", "cunet": "fig01", "cunet-released": "fig01"}.items():
    picture = figures.architecture(networks[name], SIDE, CHANNELS, palette.label(name))
    caption = (
        f"{palette.label(name)}: the modules that one call runs, in order from left to right, a height a resolution, "
        "with channels and parameters. Which are told the diffusion step (dots), and where do lines lead across?"
    )
    run.save_figure(picture, f"{place}_architecture_{name.replace('-', '_')}", caption)

# %% [markdown]
# Three networks, one shape. The U-Net stacks two residual blocks and an attention at every resolution, and every
# block is told the step. The cU-Net as described carries **two** states down and up the U, a position $x$ and a
# velocity $v$ ("2×"); each orange box solves an ODE and is told the step. In the released network **no box is told
# the step**: the sinusoids of $t$ are a frozen table that nothing reads. Section 6 returns to this.
#
# Figure 2 is the inside of an orange box. Equation 4 says
#
# $$ x'' = f(x, x', t, s), \qquad x(0) = x_0, \qquad x'(0) = g(x_0), \tag{4} $$
#
# where $t$ is the diffusion step and $s$ the block's own time (the paper's $\tilde t$). This picture is not drawn from
# memory either: the times $s$ are recorded in one call of the middle block, and the operations of $f$ are traced.

# %%
picture = block_figure.figure(networks["cunet"].middle)
caption = (
    "An ODE block of the cU-Net as described, and the network inside it that gives the acceleration: where do "
    "position, velocity, block time s and diffusion step t come in, and which of them enters at every evaluation?"
)
run.save_figure(picture, "fig02_block", caption)
print("evaluations of f a call, over all blocks:", networks["cunet"].evaluations)

# %% [markdown]
# ## 2. Counting
#
# Parameters are counted, not estimated. *Multiply-accumulates* (MACs) are counted while a call runs, so that every
# evaluation that a solver makes is in. We count them twice: all of them, and those of convolutions alone, because
# the tool that the authors printed their numbers with does not see the matrix products inside attention.
#
# And we count what a *training checkpoint* weighs: 4 bytes a weight, 4 more for its running average, and 8 for
# Adam's two moments where the weight is trainable. It will explain a column of table 5.

# %%
rows = []
for name, network in networks.items():
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, CHANNELS, SIDE, SIDE), 0)
    products = counter.get_flop_counts()["Global"]
    convolutions = sum(n for operator, n in products.items() if "convolution" in str(operator))
    total, trainable = cost.parameters(network)
    rows.append(
        {
            "model": name,
            "parameters": total,
            "trainable": trainable,
            "macs": counter.get_total_flops() // cost.FLOP_A_MAC,
            "convolution_macs": convolutions // cost.FLOP_A_MAC,
            "evaluations": network.evaluations,
            "checkpoint_mib": (8 * total + 8 * trainable) / 2**20,
        }
    )
counts = pd.DataFrame(rows).set_index("model")
assert counts.macs["cunet"] == cost.macs(networks["cunet"], SIDE), "the library counts the same way"
run.save_table(counts, "ext_counts", "Parameters, multiply-accumulates, evaluations and checkpoint size")
counts

# %% [markdown]
# **Check.** The baseline and all five released variants have exactly the parameters that the authors' notebook
# prints, and the MACs it prints, within 1 %. If they did not, nothing below would be about their networks.

# %%
for printed in paper.RELEASED_CODE:
    assert counts.parameters[printed.model] == printed.parameters, printed.model
    if printed.macs:
        assert abs(counts.convolution_macs[printed.model] / printed.macs - 1) < 0.01, printed.model
print(f"{len(paper.RELEASED_CODE)} networks agree to the last parameter with {paper.RELEASED_CODE_PLACE}")

# %% [markdown]
# ## 3. Figure 6: parameters

# %%
printed = {row.model: row.parameters for row in paper.RELEASED_CODE}
shown = counts.reset_index()[["model", "parameters"]]
shown["label"] = shown.model.map(palette.label)
shown["millions"] = shown.parameters / 1e6
shown["printed"] = shown.model.map(printed) / 1e6
order = ["unet", *list(printed)[1:], "cunet", "cunet-noattn", "cunet-nores", "cunet-plain"]
bars = shown.set_index("model", drop=False).loc[order]
claimed = {"millions": (1 / 4, "a quarter of the U-Net")}
picture = figures.bars_beside_paper(bars, [("millions", "printed", "million parameters")], claimed)
caption = (
    "Parameters, with their share of the U-Net's; diamonds: printed by the authors, whose networks stand first. Which "
    "bars end at the dashed quarter, and whose are they?"
)
run.save_figure(picture, "fig06_parameters", caption)

# %% [markdown]
# **Whose claim is it?** The paper gives no widths, so its claim is about the network that its authors released: the
# bars *released*, which the diamonds check. The widths of the network *as described* are **ours**. We could have chosen
# others, and every share of it here, of parameters, arithmetic, memory or time, would be another: rows of `cunet` say
# what this repository's network costs, and show nothing about whether the paper is right. What can be read off them is
# what attention and residuals add.

# %%
ratio = counts.parameters / counts.parameters["unet"]
quote = paper.QUOTES["parameters"]
match = min(printed, key=lambda name: abs(printed[name] - quote.value))
print(f"The paper ({quote.place}): {quote.text!r}. That is {match}, {printed[match]:,}.")
print(f"As released {ratio['cunet-released']:.1%} of the U-Net's; as described {ratio['cunet']:.1%}.")

# %% [markdown]
# ## 4. Table 5: arithmetic, and a column called memory
#
# > **Erratum.** Table 5 heads its first column *GigaFLOPS*. The numbers are multiply-accumulates, of convolutions
# > alone. One multiply-accumulate is two floating-point operations.
#
# > **Erratum.** The second column, *Megabytes in Memory*, is the size of a training checkpoint in MiB, derived in
# > section 2. It is proportional to the number of parameters and says nothing about the memory that a network
# > takes while it computes.
#
# > **Erratum.** The row "no resblocks" describes two networks: its GFLOPS are those of a network with five
# > attention layers, its MB those of one with two.
#
# > **Errata.** Table 5 and figure 6 are both said to show *the* cU-Net; the table's is the variant with five attention
# > layers, the figure's the one with two. And the abstract's share of the FLOPs is not the table's.
#
# All follow from the numbers:

# %%
table = pd.DataFrame(paper.TABLE_5).rename(columns={"gflops": "paper_gflops", "megabytes": "paper_mb"})
table = table.join(counts[["parameters", "checkpoint_mib"]], on="model")
table["counted_as"] = table.model.replace({"cunet-released-nores": NORES5})
table = table.join(counts[["macs", "convolution_macs"]], on="counted_as")
table["gmac_convolutions"] = table.convolution_macs / 1e9
table["gmac_all"] = table.macs / 1e9
table["gmac_of_unet"] = table.gmac_all / table.gmac_all[0]
table["mib_over_paper"] = table.checkpoint_mib / table.paper_mb
own = counts.loc[["cunet"]].reset_index().assign(label="cU-Net as described", counted_as="cunet")
own = own.assign(gmac_convolutions=own.convolution_macs / 1e9, gmac_all=own.macs / 1e9)
own["gmac_of_unet"] = own.gmac_all / table.gmac_all[0]
table = pd.concat([table, own[[c for c in table if c in own]]], ignore_index=True)
run.save_table(table, "tab05_cost", "Table 5 beside our counts")
table.drop(columns=["macs", "convolution_macs"]).round(3)

# %%
theirs = table.dropna(subset="paper_gflops")
assert ((theirs.gmac_convolutions / theirs.paper_gflops - 1).abs() < 0.02).all(), "GFLOPS are not these MACs"
assert (theirs.mib_over_paper.sub(1).abs() < 0.01).all(), "MB are not the size of a checkpoint"
with_two = counts.convolution_macs["cunet-released-nores"] / 1e9
five_mib = counts.checkpoint_mib[NORES5]
print(
    f"no resblocks, two attentions: {with_two:.2f} GMAC; five attentions: a checkpoint of {five_mib:.1f} MiB"
)
panels = [
    ("gmac_convolutions", "paper_gflops", "10⁹ MACs, convolutions"),
    ("gmac_all", None, "10⁹ MACs, all"),
    ("checkpoint_mib", "paper_mb", "MiB of a checkpoint"),
]
said = {"gmac_convolutions": paper.QUOTES["flops_ratio"].value, "gmac_all": paper.QUOTES["flops_ratio"].value}
claimed = {column: (share, "claimed share") for column, share in said.items()}
picture = figures.bars_beside_paper(table, panels, claimed | {"checkpoint_mib": (1 / 4, "claimed share")})
caption = (
    "Table 5 as bars, with their share of the U-Net's; diamonds: the paper's; dashed: the share it claims. Do bars and "
    "diamonds agree, and which reach the dashed line?"
)
run.save_figure(picture, "tab05_cost", caption)

# %% [markdown]
# Two more things to read off. The abstract's share of the U-Net's FLOPs is not table 5's. And the matrix products
# inside attention, which the authors' tool left out, are not small where attention works at high resolution.

# %%
abstract = paper.QUOTES["flops_ratio"]
in_table = theirs.paper_gflops[1] / theirs.paper_gflops[0]
in_full = table.gmac_of_unet[1]
print(
    f"abstract: {abstract.text!r}; table 5: {in_table:.0%}; the same network, every product counted: {in_full:.0%}"
)
print(f"as described, every product counted: {table.gmac_of_unet.iloc[-1]:.0%}")

# %% [markdown]
# **What do attention and residual connections cost?** Their share is the arithmetic that goes away when they do.
# An identity that is added costs no product at all. What table 5 books under "residual" is a 3 × 3 convolution
# that the authors' variant without residuals lacks: its second convolution is 1 × 1.


# %%
def shares(macs, full, without_attention, without_residual):
    """Percent of a network's MACs that go with its attention, and with its residual connections."""
    return {
        "attention": 100 * (1 - macs[without_attention] / macs[full]),
        "residual": 100 * (1 - macs[without_residual] / macs[full]),
    }


released = ("cunet-released-5attn", "cunet-released-noattn", NORES5)
described = ("cunet", "cunet-noattn", "cunet-nores")
parts = pd.DataFrame(
    {
        "table 5": shares(theirs.set_index("counted_as").paper_gflops, *released),
        "as released, convolutions": shares(counts.convolution_macs, *released),
        "as released, all products": shares(counts.macs, *released),
        "as described, all products": shares(counts.macs, *described),
    }
).T
run.save_table(parts.rename_axis("percent of all MACs"), "ext_shares", "What attention and residuals cost")
parts.round(1)

# %% [markdown]
# ## 5. Memory and time, measured
#
# Memory in use is what tensors hold at the worst moment: during one call without gradients, and during a training
# step with Adam (weights, moments, gradients and all activations kept for the way back).

# %%
main = ["unet", "cunet", "cunet-released"]


def call_memory(network, batch=1):
    """Peak bytes of one call without gradients, its weights included."""
    images = torch.zeros(batch, CHANNELS, SIDE, SIDE)
    with torch.no_grad():
        activations = cost.peak_memory(lambda: network(images, 0))
    return activations + 4 * cost.parameters(network).total


memory = pd.DataFrame(
    {
        "checkpoint": counts.checkpoint_mib[main],
        "inference": {n: call_memory(networks[n]) / 2**20 for n in main},
        "training": {
            n: cost.training_memory(lambda n=n: models.build(n, SIZE, CHANNELS), SIDE, memory_batch) / 2**20
            for n in main
        },
    }
)
run.save_table(memory.rename_axis("MiB"), "ext_memory", f"Memory; training with {memory_batch} images a step")
(memory / memory.loc["unet"]).round(3)

# %% [markdown]
# Time is a ratio of medians: in each round every network runs once, in an order drawn anew, so that another load
# on the machine meets all alike. The interval is a bootstrap over rounds.

# %%
timings = {}
for batch in timing_batches:
    images = torch.randn(batch, CHANNELS, SIDE, SIDE)
    with torch.no_grad():
        calls = {n: lambda n=n, x=images: networks[n](x, 500) for n in main}
        timings[batch] = cost.time_interleaved(calls, repeats=timing_rounds, seed=seed)
rows = [
    {"batch": batch, "model": n, "ms an image": 1e3 * t.medians[n] / batch, "ratio": t.ratios[n]}
    | {"low": t.spread[n][0], "high": t.spread[n][1]}
    for batch, t in timings.items()
    for n in main
]
times = pd.DataFrame(rows)
run.save_table(times, "ext_time_a_call", f"One call at {SIDE} x {SIDE}, {torch.get_num_threads()} threads")
times.round(3)

# %% [markdown]
# The rest of this section was measured by `make bench`, on a machine that did nothing else. What it wrote is read here,
# and what it did not write yet is named.
#
# **What was tried to make the cU-Net faster**, as ratios of a call's time to the plain network's. A variant that is the
# same function could be had for nothing; the others would have to be trained. Which come out below 1 by more than
# their interval, and which of those are the same function?

# %%
bench = folders.resolve("papermill_runs/reference_bench")


def measured(name):
    """A table of `make bench`, or None, which it says, where there is none yet."""
    if (bench / name).is_file():
        return pd.read_csv(bench / name)
    print(f"{name} was not measured yet.")


tried = measured("bench_variants.csv")
if tried is not None:
    tried = tried.set_index("variant")
    run.save_table(tried, "ext_variants", "What was tried for speed; ratio to the plain cU-Net, 95 % interval")
    display(tried.round(3))

# %% [markdown]
# **Where the time of a call goes**, by what the operators do, in percent. `cunet-first` is the network before it was
# made faster: how much of its time went into sums, norms and copies, and how much of it do the products have now?

# %%
operators = measured("bench_operators.csv")
if operators is not None:
    spent = 100 * bench_report.kinds(operators).T
    run.save_table(spent, "ext_operators", "Percent of a call's time by what operators do")
    display(spent.round(1))

# %% [markdown]
# **Images a second of training** at size laptop, as the networks that ship were trained, with the time of a step over
# the U-Net's, and with the share of a step that getting its batch takes: do the data limit anything?

# %%
throughput = measured("bench_throughput.csv")
if throughput is not None:
    run.save_table(throughput, "ext_throughput", "Images a second of training at size laptop, on MNIST")
    display(throughput.round(3))

# %% [markdown]
# **How cost grows** with the image's side, the batch, the width and the solver's steps: on two logarithms, where the
# slope is the exponent, printed above each panel. Does the cU-Net's line stay below the U-Net's everywhere, and does it
# get closer?

# %%
growth = measured("bench_growth.csv")
if growth is not None:
    exponents = bench_growth.exponents(growth)
    run.save_table(exponents, "ext_growth", "Exponents of growth, over all points and between the last two")
    caption = (
        "Time, memory and arithmetic against image side, batch, width and solver steps, with exponents: which lines "
        "are parallel, which cross, and what do the solver's steps cost a network that has no solver?"
    )
    run.save_figure(bench_report.growth_figure(growth), "ext_growth", caption)
    display(exponents.pivot(index=["varied", "quantity"], columns="model", values="exponent").round(2))

# %% [markdown]
# **How near to the machine's best?** Arithmetic a second of a denoising step, beside what the fastest matrix product
# and the fastest 3 × 3 convolution reached in the same minutes. A network with little arithmetic is held up by all
# that is none: how much of the convolution's rate does the cU-Net reach with one image, and with eight?

# %%
benched = measured("bench.csv")
if benched is not None:
    record = json.loads((bench / "bench.json").read_text(encoding="utf-8"))
    steps = benched[benched.task == "step"]
    reached = steps.pivot(index=["mode", "batch"], columns="model", values="of_best")
    run.save_table(reached, "ext_roofline", "Arithmetic a second over that of the best 3x3 convolution")
    caption = (
        "Arithmetic a second in a denoising step; dashed and dotted: the machine's best. Which network comes nearest, "
        "and is it the one that takes the least time?"
    )
    best = cost.Roofline(**record["roofline"])
    run.save_figure(bench_report.roofline_figure(benched, best), "ext_roofline", caption)
    display(reached.round(2))

# %% [markdown]
# ## 6. Is the network that was measured the network that is described?
#
# Four properties that section 3 of the paper states or needs, each as an experiment that both cU-Nets undergo.
# All networks of this page are untrained: what is shown follows from how they are built, not from what they learned.
# `cunet-released` is our re-writing of the authors' code, with its parameter counts. The experiments show what a network
# built so does; that theirs is built so, one reads there.
#
# **Second order.** Equation 4 makes the state a pair, and the position moves with the velocity: $dx/ds = v$. We take
# the state with which an image, here of pure noise, enters the middle block. Then we hold the acceleration at a constant
# $a$, whatever the network says, and call the block: if it is second order, it must answer $x_0 + v_0 + a/2$ and
# $v_0 + a$. In the released network the state $z$ has two halves, which would be the paper's $x$ and $x'$, and one
# function gives the derivative of both. There we let the equation run for a very short time $h$ and compare
# $(x(h) - x_0)/h$ with $v_0$. Both in double precision.


# %%
def at_the_middle(network, module):
    """What enters a block when the network is called on an image, in double precision."""
    caught = {}
    hook = module.register_forward_pre_hook(lambda _, arguments: caught.update(x=arguments))
    with torch.no_grad():
        network(image, 500)
    hook.remove()
    return [a.double() for a in caught["x"]]


def gap(moved, start, velocity, h):
    """Relative distance of (moved - start) / h from the velocity."""
    return float(((moved - start) / h - velocity).norm() / velocity.norm())


# %%
half = SIDE // 2  # what follows holds at any side, and takes a quarter of the time at half of it
image = torch.randn(1, CHANNELS, half, half, generator=torch.Generator().manual_seed(seed))
block = networks["cunet"].middle
x, v, embedding = at_the_middle(networks["cunet"], block)
constant = 3.0  # the acceleration
hook = block.acceleration.register_forward_hook(lambda _, arguments, a: torch.full_like(a, constant))
with torch.no_grad():
    x1, v1 = block.double()(x, v, embedding)
hook.remove()
block.float()
order_gap = {"cunet": gap(x1 - constant / 2, x, v, 1.0)}
assert gap(v1, v, torch.full_like(v, constant), 1.0) < 1e-9, "the velocity moves with the acceleration"

h = 1e-6  # of the block's own time, which runs from 0 to 1
z, _ = at_the_middle(networks["cunet-released"], networks["cunet-released"].bottom)
derivative = networks["cunet-released"].bottom.derivative.double()
with torch.no_grad():
    moved = odeint(derivative, z, torch.tensor([0.0, h], dtype=z.dtype), method="rk4")[-1]
(x, v), (moved, _) = z.chunk(2, dim=1), moved.chunk(2, dim=1)
order_gap["cunet-released"] = gap(moved, x, v, h)
derivative.float()
assert order_gap["cunet"] < 1e-4
pd.Series(order_gap, name="distance of dx/ds from v, as a share of v").map("{:.2g}".format).to_frame()

# %% [markdown]
# **Told the step, told the noise.** A denoiser has to know how noisy its input is: from the diffusion step $t$, or
# from the image. We change one thing at a time and ask how much the answer changes, relative to the largest
# absolute value of the answer: another $t$; the input brighter by 0.5; its contrast doubled; the same scene with a
# tenth of the noise; and, as a control that everything must react to, other noise.


# %%
def reactions(network, changes):
    """Largest change of the answer over the largest absolute answer, for each (image, step)."""
    with torch.no_grad():
        before = network(image, 3)
        return {
            what: float((network(*change) - before).abs().max() / before.abs().max())
            for what, change in changes.items()
        }


other = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed + 1))
scene = torch.linspace(-1, 1, half).expand_as(image)
image = scene + image  # a ramp under noise of standard deviation 1
changes = {
    "another step": (image, 900),
    "brighter": (image + 0.5, 3),
    "more contrast": (2 * image, 3),
    "less noise": (scene + 0.1 * (image - scene), 3),
    "other noise": (scene + other, 3),
}
sensitivity = pd.DataFrame({name: reactions(network, changes) for name, network in networks.items()}).T
run.save_table(sensitivity.rename_axis("model"), "ext_sensitivity", "What each network reacts to, untrained")
sensitivity.map(lambda x: f"{x:.2g}")

# %%
assert (sensitivity.loc[["unet", "cunet"]] > 1e-3).all(axis=None), "described networks see all of it"
assert sensitivity.loc["cunet-released", "another step"] == 0.0
assert (sensitivity.loc["cunet-released", ["brighter", "more contrast"]] < 1e-2).all()
assert (sensitivity[["less noise", "other noise"]] > 0.01).all(axis=None)

# %% [markdown]
# > **Where code and paper part.** The released network gives the same answer, to the last bit, for every diffusion
# > step, and the same answer up to rounding for any brightness and contrast, because its input block begins with an
# > instance norm and the input goes nowhere else. Nothing tells it the scale of its input; the noise level it can at
# > best guess from how the grain compares with the shapes. Figure 4 and section 3.1 describe the opposite. (The two
# > released variants without residuals have time networks: their counts say so. Where these enter is our inference; as
# > we wired them, they see $t$.)
#
# **The initial velocity.** Is $g$ wired in, so that the answer depends on it? (The weights are random; what a *trained*
# $g$ is worth, notebook 01 asks.)

# %%
hook = networks["cunet"].velocity.register_forward_hook(lambda module, arguments, v: torch.zeros_like(v))
with torch.no_grad():
    still = networks["cunet"](image, 3)
    hook.remove()
    moving = networks["cunet"](image, 3)
velocity_matters = float((moving - still).norm() / moving.norm())
print(f"without its initial velocity the answer changes by {velocity_matters:.1%}")

# %% [markdown]
# **The adjoint.** Section 3.3 argues with the adjoint method, which needs memory for one evaluation only. Its trace
# in PyTorch is a node of the autograd graph called `OdeintAdjointMethod`. We look for it, and show that we would
# find it: our cU-Net has the adjoint as an option. Lastly, what the released code would do if its switch were on:
# it hands a lambda to a function that wants a module.


# %%
def nodes(output):
    """Names of all operations that an output depends on."""
    todo, seen = [output.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [n for n, _ in node.next_functions]
    return {node.name() for node in seen}


with_adjoint = models.build("cunet", "smoke", CHANNELS, solver="midpoint", gradient="adjoint")
small = torch.zeros(1, CHANNELS, 16, 16)
adjoint = {
    "cunet, gradient='adjoint'": any("Adjoint" in n for n in nodes(with_adjoint(small, 3))),
    "cunet-released": any("Adjoint" in n for n in nodes(networks["cunet-released"](small, 3))),
}
try:
    odeint_adjoint(lambda s, z: z, torch.ones(1), torch.tensor([0.0, 1.0]))
    refusal = None
except ValueError as error:
    refusal = str(error)
assert adjoint["cunet, gradient='adjoint'"] and not adjoint["cunet-released"] and refusal
print("The switch turned on:", refusal)
pd.Series(adjoint, name="the adjoint is in the graph").to_frame()

# %% [markdown]
# ## 7. What the scorecard gets

# %%
difference = parts.sub(parts.loc["table 5"])
of_unet = counts.macs / counts.macs["unet"]
relative = memory / memory.loc["unet"]
common = {"dataset": "-", "size": SIZE, "n": 1}
names = {"cunet": "as described", "cunet-released": "as released"}
cost_of = {"cunet-released": "as released, at the authors' widths", "cunet": "as described, at widths that we chose"}


def row(claim, measured, value, why="", **more):
    """A row of the scorecard."""
    return {"id": claim, "measured": measured, "value": value, "why": why, **common, **more}


width_is_ours = (
    "the paper gives no widths, so the network as described is as small as we made it: its row says what this"
    " repository's network costs and shows nothing about the paper, whose claim is about the network *as released*"
)

# %%
claims = []
for name, whose in cost_of.items():
    total, gmac = counts.parameters[name], counts.macs[name] / 1e9
    claims.append(row("C01", f"{whose}: {total:,}, {ratio[name]:.1%}", float(ratio[name]), width_is_ours))
    text = f"{whose}, all products: {gmac:.2f} GMAC, {of_unet[name]:.1%}"
    claims.append(row("C02", text, float(of_unet[name]), width_is_ours))
    text = ", ".join(f"{relative.loc[name, c]:.1%} of the {c} memory" for c in relative)
    claims.append(row("C03", f"{whose}: {text}", relative.loc[name].to_dict(), width_is_ours))
next(c for c in claims if c["id"] == "C03" and "as released" in c["measured"])["why"] = (
    "the MB of table 5 follow from the number of parameters alone; what a step holds in memory also depends on"
    f" activations, which shrink with the width and not with its square (batches of {memory_batch} here)"
)

# %%
made = [module.evaluations for module in networks["cunet"].modules() if isinstance(module, ODEBlock)]
each_block = " to ".join(str(n) for n in sorted({min(made), max(made)}))
as_counted = theirs.gmac_convolutions[1] / theirs.gmac_convolutions[0]
text = f"as released, convolutions alone, as the paper counts: {as_counted:.1%}"
why = (
    "table 5 contradicts the abstract, and leaves out attention's matrix products; equation 4 with"
    f" {each_block} evaluations a block takes {counts.evaluations['cunet']} of them a call, the released code, with"
    f" {EVALUATIONS_A_BLOCK} a block, {counts.evaluations['cunet-released']}"
)
claims.append(row("C02", text, float(as_counted), why))
for name in parts.index[1:-1]:  # the last is ours, whose residuals are not those that table 5 removes
    text = f"{name}: attention {parts.attention[name]:.1f} %, residuals {parts.residual[name]:.1f} %"
    claims.append(row("C04", text, difference.loc[name].to_dict()))
claims[-1]["why"] = (
    "the authors' counter left out attention's matrix products, and their variant without residuals also lost a "
    "3x3 convolution; in our cU-Net the residual is a 1x1 convolution"
)
for name, whose in names.items():
    value = {"gap": order_gap[name], "velocity": velocity_matters if name == "cunet" else 0.0}
    ours = "we built it so: the row shows that it can be built, not that the authors' network is"
    why = ours if name == "cunet" else "one function gives the derivative of both halves of the state"
    text = f"{whose}, untrained: dx/ds differs from v by {order_gap[name]:.2g} of it"
    claims.append(row("C16", text, value, why))
seen = float(sensitivity.loc["cunet-released", "another step"])
why = "its ODE functions are built without their time networks"
claims.append(row("C24", f"as released: the answer changes by {seen:g} with t", {"sensitivity": seen}, why))

# %%
timed = []
for batch, t in timings.items():
    for name, whose in cost_of.items():
        saved, low = 1 - t.ratios[name], 1 - t.spread[name][1]
        text = f"{whose}: one call on {batch} saves {saved:.0%} of the time"
        spread = f"{low:.0%} to {1 - t.spread[name][0]:.0%}"
        why = "table 1 compares whole samplings, at different numbers of steps; this is one call"
        timed.append(row("C05", text, {"saved": saved, "low": low}, why, spread=spread, n=timing_rounds))
values = {
    "counts": counts.to_dict("index"),
    "parameters_ratio": ratio.to_dict(),
    "macs_ratio": of_unet.to_dict(),
    "memory_mib": memory.to_dict("index"),
    "shares_percent": parts.to_dict("index"),
    "order_gap": order_gap,
    "velocity_matters": velocity_matters,
    "sensitivity": sensitivity.to_dict("index"),
    "adjoint": adjoint,
}
result = run.save_result(values, claims, timings={"claims": timed, "a_call": times.to_dict("records")})
# %% [markdown]
# ## What the paper says, what we measured, why they differ

# %%
Markdown(scorecard.conclusion(result))
