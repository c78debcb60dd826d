"""The README's results: written between two marks, from the files of the committed run and benchmark.

    python -m cunet.results_page

No number and no judgement there is typed. Table 1 is the run's beside the paper's, every ratio of cost is
from what `make bench` wrote, and what the paper got right and wrong is chosen among the scorecard's rows by a
rule (`findings`).
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from cunet import (
    bench_report,
    cost,
    folders,
    models,
    palette,
    paper,
    profiles,
    readme_picture,
    results_quality,
    rules,
    run_outputs,
    runs,
    scorecard,
    sources,
)
from cunet.claims import CLAIMS
from cunet.errors import InputError, command
from cunet.results_quality import TABLE_1, edge
from cunet.wording import ends, interval

FOLDER = Path("papermill_runs") / "reference"
BEGIN = "<!-- results: written by `python -m cunet.results_page`, not by hand -->"
END = "<!-- end of the results -->"
NONE = "The committed run is not there yet: `make reference` computes and publishes it, and writes this part."
OUTDATED = "The README's results are not those of the committed files: python -m cunet.results_page"
PICTURE = "readme.png"  # of the committed run's folder
BENCH = Path("papermill_runs") / "reference_bench"
NOT_MEASURED = "Cost over the U-Net's was not measured yet: `make bench` does, and writes it here."
SHARES = ("parameters", "MACs", "step", "training", "memory")  # what is shown of what the benchmark measured
COLUMNS = {
    "cunet": "cU-Net as described",
    "cunet@gradient=checkpoint": "the same, checkpointed",
    "cunet-released": "cU-Net as released",
}
WORDS = {
    rules.REPRODUCED: "Right",
    rules.PARTLY: "In part",
    rules.UNDECIDED: "Open",
    rules.NOT_REPRODUCED: "Wrong",
}
IN_PART = "Wrong in part"  # of a claim some of whose measurements failed, in a place kept for the wrong
ERRATA = (
    f"**Errata.** {len(paper.ERRATA)} places of the paper's text are wrong, or at odds with others: "
    "[notebook 00](notebooks/00_start_here.py) lists each with what it should say."
)
PLACES = {rules.REPRODUCED: 2, rules.NOT_REPRODUCED: 2, rules.PARTLY: 1}  # among five findings


def block(run_dir: Path) -> str:
    """The README's results of a run, Markdown without the marks; `NONE` if the folder is not there.

    Raises:
        InputError: the run has no table 1, or a file of it or of the benchmark is damaged.
    """
    if not run_dir.is_dir():
        return NONE
    results = run_outputs.results(run_dir)
    card = run_outputs.card(run_dir)  # judged by the rules of then
    card = scorecard.scorecard(results.values()) if card.empty else card
    parts = [
        in_short(card),
        readme_picture.markdown(run_dir, f"{FOLDER / PICTURE}"),
        "**Table 1.** Best distance of generated images from real ones, by the paper's rule (the number of "
        "sampling steps where it is lowest). FD-AlexNet is not the paper's FID: compare order, and "
        "ratios above the distance of as many real images (below)." + trained(results),
        table_1(run_dir),
        results_quality.goal(run_dir),
        results_quality.remedies(run_dir, results),
        results_quality.equal_steps(run_dir),
        results_quality.equal_time(run_dir),
        table_5(folders.resolve(BENCH)),
        training_rate(folders.resolve(BENCH)),
        verdicts(card),
        "\n".join(findings(card)),
        ERRATA,
        _setting(results),
    ]
    return "\n\n".join(part for part in parts if part)


SHORT = (
    ("C05", "a denoising step, and a sample at its best steps, takes much less time"),
    ("C06", "its best samples are as good"),
    ("C08", "they are at equal steps"),
    ("C07", "it gets there in fewer steps"),
    ("C16", "the network is of second order, with a learned initial velocity"),
)


def in_short(card: pd.DataFrame) -> str:
    """What became of the claims that a reader asks for first, each with the verdicts of its rows."""
    parts = []
    for claim, text in SHORT:
        found = card[(card["id"] == claim) & card["verdict"].isin(WORDS)]["verdict"].value_counts()
        if len(found):
            said = ", ".join(f"{found[v]} {v}" for v in WORDS if v in found)
            parts.append(f"*{text}* ({claim}): {said}")
    return f"**In short**, the scorecard's rows about the cU-Nets: {'; '.join(parts)}." if parts else ""


def verdicts(card: pd.DataFrame) -> str:
    """How many claims, and how many of their rows, end with which verdict; where one was not reproduced."""
    rows = card[card["verdict"].isin(rules.VERDICTS)]
    if rows.empty:
        return f"**The paper's {len(CLAIMS)} claims**: this run judged none of them."
    by_row = rows["verdict"].value_counts().reindex(rules.VERDICTS, fill_value=0)
    tally, of_rows = (
        ", ".join(f"{n} {verdict}" for verdict, n in counted.items() if n)
        for counted in (scorecard.counts(card), by_row)
    )
    wrong = sorted(set(rows[rows["verdict"] == rules.NOT_REPRODUCED]["id"]))
    of_rows += f"; not reproduced in {', '.join(wrong)}" if wrong else ""
    return (
        f"**The paper's {len(CLAIMS)} claims**: {tally}. A claim may have several rows, and is "
        f"*partly* reproduced where they differ, too. Of the {len(rows)} rows: {of_rows}. All are in "
        f"[the scorecard]({FOLDER / runs.SCORECARD}.md). Some of them, chosen by a rule, those of the "
        "abstract first:"
    )


def trained(results: dict[str, dict]) -> str:
    """At which size, on how many images the networks of the run were trained, beside the authors'."""
    of = [r for r in results.values() if r["notebook"] == "05_training"]
    if not of:
        return ""
    sizes = {r["parameters"]["size"] for r in of}
    seen = sorted({r["values"]["images_seen"] for r in of})
    recipe = profiles.load("paper")
    theirs = recipe.notebooks["05_training"]["images"]
    sides, their_side = ({models.image_size(size) for size in which} for which in (sizes, {recipe.size}))
    text = (
        f" Networks of size `{', '.join(sizes)}`, {_square(sides)} pixels, each trained on "
        f"{ends([f'{n:,}' for n in seen])} images; the authors' recipe is "
        f"{_square(their_side)} and {theirs:,}."
    )
    return text + "".join(shape(size, recipe.size) for size in sorted(sizes - {recipe.size}))


def shape(size: str, whole: str) -> str:
    """What the cU-Net's shares of the U-Net's cost are at a size, and at that of the paper, `whole`."""
    shares = {}
    for of in (size, whole):
        unet, cunet = (models.build(name, of) for name in ("unet", "cunet"))
        macs = cost.macs(cunet, cunet.image_size) / cost.macs(unet, unet.image_size)
        shares[of] = macs, cost.parameters(cunet).total / cost.parameters(unet).total
    return (
        f" Size `{size}` is not size `{whole}` made smaller. The cU-Net as described, of widths that we "
        f"chose, has {shares[size][0]:.2f} of the U-Net's MACs and {shares[size][1]:.2f} of its parameters "
        f"here, and at size `{whole}` {shares[whole][0]:.2f} and {shares[whole][1]:.2f}: time saved at one "
        "says nothing about the other."
    )


def _square(sides: set[int]) -> str:
    return ", ".join(f"{side} x {side}" for side in sorted(sides))


def table_1(run_dir: Path) -> str:
    """Table 1 as Markdown: ours with its interval, the paper's beside it; stand-ins named."""
    path = run_dir / "tables" / f"{TABLE_1}.csv"
    try:
        frame = pd.read_csv(path)
        rows = [
            {
                "data": sources.label(row.dataset),
                "network": palette.label(row.model),
                "FD-AlexNet [95 %]": interval(row.fd, row.fd_low, row.fd_high),
                "samples": f"{row.n:,}",
                "steps": f"{row.steps:.0f}" + edge(row),
                "s a sample": f"{row.seconds_per_sample:.3g}",
                "paper: FID": _printed(row.paper_fid, ".2f", row.dataset),
                "paper: steps": _printed(row.paper_steps, ".0f"),
                "paper: s a sample": _printed(row.paper_seconds, ".2f"),
            }
            for row in frame.itertuples()
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folders.shown(path)} is no table 1: {error}. Run notebook 07 again.") from None
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _printed(value: float, how: str, dataset: str = "") -> str:
    """A number of the paper; beside a stand-in's it says of which data it is."""
    if pd.isna(value):
        return "-"
    original = sources.place(dataset)
    return format(value, how) + (f" (of {sources.label(original)})" if original != dataset else "")


def table_5(folder: Path) -> str:
    """Cost of the cU-Nets as shares of the U-Net's, with what table 5 has of it, as Markdown.

    folder: where `cunet bench` wrote bench.csv and bench.json; `NOT_MEASURED` if it is not there.
    """
    path = folder / "bench.csv"
    if not path.is_file():
        return NOT_MEASURED
    try:
        frame, record = pd.read_csv(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        frame = frame[frame["task"].isin(SHARES)]
        rows = {}
        for title, cell in frame.groupby(frame.apply(bench_report.what, axis=1), sort=False):
            by_model = cell.set_index("model")
            rows[title] = {
                COLUMNS[m]: bench_report.ratio(by_model.loc[m], 2) for m in COLUMNS if m in by_model.index
            }
        environment, settings = record["environment"], record["settings"]
        if (settings["size"], settings["channels"]) != ("paper", 3):
            found = f"size {settings['size']}, {settings['channels']} channels"
            raise ValueError(f"measured at {found}, not at size paper on colour images")
        where = f"{environment['processor']}, {environment['threads']} threads"
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folders.shown(path)} is none of `make bench`: {error!r}. Run it again.") from None
    unet, cunet = paper.TABLE_5[:2]
    printed = {
        "parameters": paper.QUOTES["parameters_ratio"].value,
        "MACs a call": cunet.gflops / unet.gflops,
    }
    for title, share in printed.items():
        rows.setdefault(title, {})["paper"] = f"{share:.2f}"
    shown = pd.DataFrame.from_dict(rows, orient="index", columns=[*COLUMNS.values(), "paper"]).fillna("-")
    table = shown.rename_axis("over the U-Net's").reset_index()
    heading = (
        "**Table 5, and time.** Cost over the U-Net's, colour images at the paper's size, every evaluation "
        f"counted, with 95 % intervals of ratios of medians; {where}. As described: at widths that we chose; "
        "as released: at the authors'. (The abstract says about "
        f"{paper.QUOTES['flops_ratio'].value:.0%} of the FLOPs, table 5 {printed['MACs a call']:.0%}.) "
        f"{layouts(frame)}From [{BENCH}]({BENCH}), which `make bench` writes."
    )
    return f"{heading}\n\n{table.to_markdown(index=False, disable_numparse=True)}"


def training_rate(folder: Path) -> str:
    """Images a second of trainings, before and after the network was made faster, as a sentence.

    folder: where `cunet bench` wrote bench_throughput.csv; empty if it is not there.
    """
    path = folder / "bench_throughput.csv"
    if not path.is_file():
        return ""
    try:
        frame = pd.read_csv(path)
        rates = [
            f"{palette.label(row.model)} {row.images_per_second:.3g}, "
            f"{interval(row.ratio, row.low, row.high)} of the time a step"
            for row in frame.itertuples()
        ]
        size = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["recipe"]["size"]
        most = frame["data"].max()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{folders.shown(path)} is none of `make bench`: {error!r}. Run it again.") from None
    return (
        f"**Training**, images a second at size `{size}`, as the networks that ship were trained, data, "
        f"clipping and average included: {'; '.join(rates)}. Getting a batch takes {most:.2g} of a step at "
        "most."
    )


def layouts(frame: pd.DataFrame) -> str:
    """Where the networks of a row lie unlike each other in memory, and the ratio where they lie alike.

    frame: of bench.csv. Empty where no batch was measured both ways.
    """
    of = frame[(frame["task"] == "step") & (frame["model"] == "cunet")].set_index(["batch", "mode"])
    ways = ("eager", "eager+channels_last")
    batches = dict.fromkeys(of.index.get_level_values("batch"))
    pairs = {
        batch: [bench_report.ratio(of.loc[(batch, way), :], 2) for way in ways]
        for batch in batches
        if all((batch, way) in of.index for way in ways)
    }
    if not pairs:
        return ""
    told = "; ".join(f"{alike} at batch {batch}, not {unlike}" for batch, (unlike, alike) in pairs.items())
    return (
        "The cU-Net as described lies channels-last in memory, always; the others do in the rows that say "
        "so, and else as PyTorch lays them out, channels-first. Where both lie alike, its denoising step "
        f"takes {told}. "
    )


def findings(card: pd.DataFrame, most: int = 5) -> list[str]:
    """What the paper got right and wrong, in lines chosen by a rule and not by hand.

    Of the claims that were judged, those of the abstract come first, then the others by number. Two lines are
    kept for claims that were reproduced, two for those that were not, one for those that were in part. Where
    too few claims were not reproduced as a whole, those with a measurement that was not take these places,
    and the line says that it is in part. A place that its kind cannot fill goes to the next claim of any
    kind, also to one that stayed undecided. A line gives the first measurement that has the claim's verdict,
    or, where measurements differ, the first with the best and with the worst.

    card: as from `cunet.scorecard.scorecard`. Returns Markdown list items in the order of `WORDS`.
    """
    verdicts = scorecard.overall(card)
    judged = {claim: verdict for claim, verdict in verdicts.items() if verdict in WORDS}
    order = sorted(judged, key=lambda claim: ("abstract" not in CLAIMS[claim].place, claim))
    failed = set(card[card["verdict"] == rules.NOT_REPRODUCED]["id"])
    places: dict[str, str] = {}  # the verdict in whose place a claim stands
    for verdict, n in PLACES.items():
        own = [c for c in order if judged[c] == verdict and c not in places]
        if verdict == rules.NOT_REPRODUCED:
            own += [c for c in order if c in failed and c not in (*own, *places)]
        places |= dict.fromkeys(own[:n], verdict)
    places |= {claim: judged[claim] for claim in order if claim not in places}
    kinds, chosen = list(WORDS), list(places)[:most]
    chosen.sort(key=lambda claim: (kinds.index(places[claim]), order.index(claim)))
    return [_finding(card[card["id"] == c], judged[c], places[c] != judged[c]) for c in chosen]


def _finding(rows: pd.DataFrame, verdict: str, in_part: bool) -> str:
    """One claim as a list item. in_part: it has the place of one that was not reproduced, and is so in part:
    the line says which measurement failed, and which is the best."""
    claim = CLAIMS[rows.iloc[0]["id"]]
    ranks = (
        rows["verdict"]
        .map({verdict: i for i, verdict in enumerate(WORDS)})
        .dropna()
        .sort_values(kind="stable")
    )
    same = rows[rows["verdict"] == verdict]
    told = same.head(1) if len(set(ranks)) == 1 else rows.loc[[ranks.index[0], ranks.index[ranks.argmax()]]]
    if in_part:
        told = told[::-1]
    measured = "; ".join(
        f"*{row['verdict']}*: {_with_setting(row)}" if in_part else _with_setting(row)
        for row in told.to_dict("records")
    )
    notebooks = ", ".join(f"[{name[:2]}](notebooks/{name}.py)" for name in dict.fromkeys(told["notebook"]))
    word = IN_PART if in_part else WORDS[verdict]
    return f"- **{word}** ({claim.id}): {claim.text}. Measured: {measured}. {notebooks}"


def _with_setting(row: dict[str, str]) -> str:
    """What a row measured, and on which data if it says so."""
    return row["measured"] + (f" ({row['dataset']})" if row["dataset"] != "-" else "")


def _setting(results: dict[str, dict]) -> str:
    """What was run where, in a sentence."""
    kinds = ", ".join(sorted({f"`{result['profile']}`" for result in results.values()}))
    hours = run_outputs.seconds(results) / 3600
    processor, threads, code = (
        run_outputs.all_of(results, k) for k in ("processor", "threads", "code_version")
    )
    return (
        f"From {len(results)} executed notebooks under the profile {kinds}, [{FOLDER}]({FOLDER}): "
        f"{hours:.1f} h on "
        f"{processor}, threads a notebook: {threads}; code {code}."
    )


# ---------------------------------------------------------------------------------------------- the README


def write(run_dir: Path | None = None) -> Path:
    """Write the results into the README, and the picture beside the run; returns the README's path.

    run_dir: the committed run's folder if None.
    """
    run_dir, readme = run_dir or folders.resolve(FOLDER), folders.root() / "README.md"
    text = replaced(readme.read_text(encoding="utf-8"), block(run_dir))
    if readme_picture.there(run_dir):
        (run_dir / PICTURE).write_bytes(readme_picture.draw(run_dir))
    folders.write_atomically(readme, text)
    return readme


def current() -> bool:
    """Whether the README says what the committed run says."""
    text = (folders.root() / "README.md").read_text(encoding="utf-8")
    return replaced(text, block(folders.resolve(FOLDER))) == text


def replaced(text: str, results: str, begin: str = BEGIN, end: str = END, name: str = "README.md") -> str:
    """The text of a page, the README, with something else between its two marks.

    Raises InputError, with the page's name, if the marks are not there once each.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise InputError(f"{name} needs the lines {begin!r} and {end!r}, once each, in this order.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{results}\n{end}{rest.split(end)[1]}"


@command
def main(arguments: list[str] | None = None) -> int:
    """`python -m cunet.results_page`."""
    argparse.ArgumentParser(
        prog="python -m cunet.results_page", description=__doc__.splitlines()[0]
    ).parse_args(arguments)
    print(f"Results written to {folders.shown(write())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
