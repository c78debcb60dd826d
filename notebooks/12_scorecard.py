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
# # 12 · The scorecard
#
# *Answers: claims C01 to C26, all of them.*
#
# The notebooks before this one each measured some of the paper's claims and left the numbers in result files. Here
# they are put side by side.
#
# **The question: which of the claims hold, by which rule?**
#
# No verdict is typed by hand. Each claim has a *rule*, a function in `cunet/rules.py` that was written down with
# its thresholds, and that takes the measured numbers and returns one of these words: *reproduced*, *partly*, *not
# reproduced*, *undecided*, *not testable here*. A claim that no notebook of this run has measured stays in the list
# and says so.
#
# Not every rule stood before the first numbers were known. Some were rewritten after a review, which found that they
# could not give one of the verdicts, or gave a kinder one for fewer samples; `git log -p cunet/rules.py` has each change.

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # the run whose results are read, and where the scorecard goes
job = "12_scorecard"  # name of the result file
profile = "laptop"  # name of this set of numbers
seed = 0  # nothing here is random; every notebook has one

# %%
from IPython.display import HTML, Markdown, display

from cunet import rules, runs, scorecard
from cunet.claims import CLAIMS

run = runs.Run.open(globals())
found = {name: result for name, result in runs.results(run.run_dir).items() if name != job}
print(f"{len(found)} results in this run: {', '.join(found) or 'none yet'}")

# %% [markdown]
# ## The card

# %%
card = scorecard.scorecard(found.values())
run.save_table(card, "scorecard", "Every claim of the paper, what was measured, and the verdict")
display(HTML(card.to_html(index=False)))

# %% [markdown]
# A claim may have several rows: two networks, two data sets, two ways to measure. **One verdict a claim** is what its
# rows agree on, and *partly* where they differ. *Undecided* means: tested, and the samples leave it open. An undecided
# row keeps a claim from being *reproduced*, and likewise from being *not reproduced*: it is then undecided.

# %%
overall = scorecard.overall(card)
tally = scorecard.counts(card)
run.save_table(tally.rename_axis("verdict"), "ext_verdicts", "How many claims end with which verdict")
tally.to_frame()

# %% [markdown]
# ## How to read it
#
# - *measured* is ours, *paper* is theirs; where the data set or the size is not the paper's, the row says which it is.
# - *spread* says what the interval is about. An interval over samples says nothing about other trainings.
# - FD-AlexNet is not FID: compare order, and ratios above the distance of as many real images. Ratios of raw distances
#   (sampling in C22) are nearer to 1 the fewer the samples.
# - Rows *as described* of C01, C02, C03 and C05 are about widths that we chose: their verdict says what can be had, not
#   that the paper's network has it.
# - A stand-in data set is named as what it is.
# - Rows `ext_...`, at the end, answer questions that the paper does not ask: they have no verdict and are not counted.
#
# And these are the rules, word for word as they stand in the code:

# %%
display(HTML(rules.table().to_html(index=False)))

# %% [markdown]
# **Check.** Every claim of the paper is on the card, and every row that was measured has a verdict.

# %%
claimed = card[card.verdict != scorecard.BEYOND]
assert set(claimed["id"]) == set(CLAIMS) == set(overall.index)
assert claimed.verdict.isin([*rules.VERDICTS, scorecard.UNMEASURED, scorecard.MEANINGLESS]).all()
assert tally.sum() == len(CLAIMS)
reasons = {}
for one in found.values():
    for row in (*one["claims"], *one["timings"].get("claims", ())):
        if row["id"] in overall.index and row.get("why"):
            reasons.setdefault(row["id"], []).append(row["why"])
result = run.save_result(
    values={"results": sorted(found)},
    timings={  # some verdicts are about times
        "verdicts": overall.to_dict(),
        "counts": tally.to_dict(),
        "reasons": {claim: list(dict.fromkeys(texts)) for claim, texts in sorted(reasons.items())},
    },
    inputs=[run.run_dir / "results" / f"{name}.json" for name in found],
)

# %% [markdown]
# ## What the paper says, what we measured, why they differ
#
# What the paper says and what was measured stand side by side on the card. Here are the claims by verdict and, for
# those that do not simply hold, the reasons that the notebooks give.

# %%
groups = {}
for claim, verdict in result["timings"]["verdicts"].items():
    groups.setdefault(verdict, []).append(claim)
lines = []
if profile == "smoke":
    lines.append("*This is a smoke run: it shows that everything runs, and its numbers mean nothing.*\n")
for verdict, claims in groups.items():
    lines.append(f"\n**{verdict[0].upper()}{verdict[1:]}** ({len(claims)})\n")
    for claim in claims:
        why = [] if verdict == rules.REPRODUCED else result["timings"]["reasons"].get(claim, [])
        lines.append(f"- **{claim}** {CLAIMS[claim].text}" + (f": {'; '.join(why)}" if why else "") + ".")
display(Markdown("\n".join(lines)))
