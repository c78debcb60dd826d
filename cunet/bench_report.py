"""What `cunet bench` leaves and prints: files, tables, figures."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import bench_growth, cost, palette
from .folders import write_atomically
from .wording import interval

TITLES = {
    "parameters": "parameters",
    "MACs": "MACs a call",
    "forward": "one call",
    "step": "denoising step",
    "training": "training step",
    "memory": "peak memory of training",
    "compile": "first call, compiling",
}


def write(out: Path, name: str, frame: pd.DataFrame, record: dict, drawn: dict[str, Figure]) -> None:
    """name.csv (the frame), name.json (the record with the frame's rows) and the figures, PNG and PDF.

    record: what has to be known of the measurement; its floats must be finite. drawn: file stem -> figure.
    """
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / f"{name}.csv", index=False)
    rows = json.loads(frame.to_json(orient="records", double_precision=15))
    write_atomically(out / f"{name}.json", json.dumps({**record, "rows": rows}, indent=1) + "\n")
    for stem, figure in drawn.items():
        palette.save(figure, out, stem)


def what(row: pd.Series) -> str:
    """The quantity of a row in words: "denoising step, batch 8, compiled"."""
    parts = [TITLES[row["task"]]]
    if row["mode"] != "-":
        parts += [f"batch {row['batch']}", row["mode"].replace("+", ", ").replace("_", "-")]
    return ", ".join(parts)


def table(frame: pd.DataFrame) -> str:
    """The ratios as a Markdown table: a row a quantity, a column a network, the first in its own unit."""
    networks = list(dict.fromkeys(frame["model"]))
    lines = {}
    for title, cell in frame.groupby(frame.apply(what, axis=1), sort=False):
        by_model = cell.set_index("model")
        lines[title] = {name: ratio(by_model.loc[name]) for name in networks if name in by_model.index}
        first = by_model.iloc[0]
        lines[title][networks[0]] = quantity(first["value"], first["unit"])
    for title, cell in frame[frame["task"] == "step"].groupby(frame.apply(what, axis=1), sort=False):
        shares = cell.set_index("model")["of_best"]
        lines[f"share of the best convolution: {title}"] = {m: f"{s:.2f}" for m, s in shares.items()}
    for title, cell in frame[frame["task"] == "training"].groupby(frame.apply(what, axis=1), sort=False):
        rates = (cell["batch"] / cell["value"]).set_axis(cell["model"])
        lines[f"images a second: {title}"] = {m: f"{rate:.3g}" for m, rate in rates.items()}
    return pd.DataFrame.from_dict(lines, orient="index", columns=networks).fillna("").to_markdown()


def operators_table(frame: pd.DataFrame, most: int = 10) -> str:
    """Percent of time by operator as a Markdown table: of each network and mode the `most` heaviest."""
    wide = frame.pivot_table(index="operator", columns=["mode", "model"], values="share", sort=False)
    heavy = pd.concat([wide[column].nlargest(most) for column in wide]).index.unique()
    return _written(100 * _flat(wide.loc[heavy]), ".1f")


KINDS = {
    "normalisation": ("norm",),
    "attention": ("attention", "softmax"),
    "convolution": ("conv",),
    "resampling": ("upsample", "pool", "interpolate"),
    "matrix product": ("mm", "linear", "matmul"),
    "joining and copying": ("cat", "copy", "clone", "contiguous", "empty", "resize", "fill", "zero"),
}
"""What an operator does -> what its name contains; the first that fits. All others count as `REST`."""
REST = "sums, activations, the rest"


def kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Shares of time by what operators do (`KINDS`), what takes most first.

    frame: of the task operators. Returns a frame with a row a kind, and a column (mode, model) a network, in
    the frame's order.
    """

    def kind(operator: str) -> str:
        return next((k for k, parts in KINDS.items() if any(part in operator for part in parts)), REST)

    named = frame.assign(kind=frame["operator"].map(kind))
    wide = named.pivot_table(index="kind", columns=["mode", "model"], values="share", aggfunc="sum")
    order = list(dict.fromkeys(zip(frame["mode"], frame["model"], strict=True)))
    return wide.fillna(0.0).loc[wide.sum(axis=1).sort_values(ascending=False).index, order]


def kinds_table(frame: pd.DataFrame) -> str:
    """Percent of time by what operators do, as a Markdown table."""
    return _written(100 * _flat(kinds(frame)), ".1f")


def _flat(wide: pd.DataFrame) -> pd.DataFrame:
    """Columns (mode, model) as one name each: "cunet, eager, channels-last"."""
    names = [f"{model}, {mode}".replace("+", ", ").replace("_", "-") for mode, model in wide.columns]
    return wide.set_axis(names, axis=1)


def throughput_table(frame: pd.DataFrame) -> str:
    """Images a second of training as a Markdown table: a row a network, time of a step, share of the data."""
    rows = {
        row.model: {
            "images a second": f"{row.images_per_second:.3g}",
            "time of a step": interval(row.ratio, row.low, row.high, ".3f"),
            "of it, getting the batch": interval(row.data, row.data_low, row.data_high, ".2g"),
        }
        for row in frame.itertuples()
    }
    shown = pd.DataFrame.from_dict(rows, orient="index")
    return shown.rename_axis("training at size laptop").to_markdown(disable_numparse=True)


def _written(frame: pd.DataFrame, how: str) -> str:
    """A frame of numbers as a Markdown table; NaN is an empty cell."""
    return frame.map(
        lambda value: "" if pd.isna(value) else format(float(format(value, how)) + 0.0, how)
    ).to_markdown(disable_numparse=True)


def growth_table(frame: pd.DataFrame) -> str:
    """The exponents of growth as a Markdown table: a row what is measured and varied, a column a network."""
    wide = bench_growth.exponents(frame).pivot(
        index=["varied", "quantity"], columns="model", values="exponent"
    )
    order = list(itertools.product(bench_growth.VARIED, bench_growth.QUANTITIES))
    wide = wide.reindex(index=order, columns=list(dict.fromkeys(frame["model"])))
    wide.index = [f"exponent of {quantity} in {varied}" for varied, quantity in wide.index]
    return _written(wide, ".2f")


def variants_table(frame: pd.DataFrame) -> str:
    """Ratios of the variants as a Markdown table: a row a variant, a column a batch, sizes as shares."""
    lines = {}
    for (name, same), part in frame.groupby(["variant", "same_function"], sort=False):
        ratios = {
            f"batch {row.batch}": interval(row.ratio, row.low, row.high, ".3g") for row in part.itertuples()
        }
        sizes = part[["parameters", "MACs"]].iloc[0] / frame[["parameters", "MACs"]].iloc[0]
        shares = {of: "" if pd.isna(share) else f"{share:.2f}" for of, share in sizes.items()}
        lines[name] = {"same function": same} | shares | ratios
    shown = pd.DataFrame.from_dict(lines, orient="index").fillna("")
    return shown.rename_axis("variant").to_markdown(disable_numparse=True)


def tables(outcome) -> list[str]:
    """What `bench.run` returned as Markdown tables, a part each."""
    parts = (
        *((outcome.measured, table), (outcome.operators, kinds_table), (outcome.operators, operators_table)),
        *((outcome.growth, growth_table), (outcome.variants, variants_table)),
        (outcome.throughput, throughput_table),
    )
    return [text(frame) for frame, text in parts if frame is not None]


def quantity(value: float, unit: str) -> str:
    """A value in a unit that reads well: 0.2141 s is 214 ms."""
    scales = {"s": ((1, "s"), (1e-3, "ms")), "bytes": ((2**30, "GiB"), (2**20, "MiB"))}
    steps = scales.get(unit, ((1e9, "G"), (1e6, "M"), (1e3, "k")))
    scale, name = next(((s, n) for s, n in steps if value >= s), steps[-1])
    return f"{value / scale:.3g} {name}"


def ratio(row: pd.Series, digits: int = 3) -> str:
    """A row's ratio with its interval, if it has one; its value where it has no ratio."""
    if pd.isna(row["ratio"]):
        return quantity(row["value"], row["unit"])
    if pd.isna(row["low"]):
        return f"{row['ratio']:.{digits}f}"
    return interval(row["ratio"], row["low"], row["high"], f".{digits}f")


def figure(frame: pd.DataFrame) -> Figure:
    """Ratios to the first network, a line a quantity, a mark a network, with its interval; a log axis."""
    shown = frame[frame["ratio"].notna()]
    titles = list(dict.fromkeys(shown.apply(what, axis=1)))
    height = {title: -i for i, title in enumerate(titles)}
    first, *others = dict.fromkeys(shown["model"])
    looks = _looks(others)
    with palette.style():
        drawn = Figure(figsize=(palette.PAGE, 1.3 + 0.24 * len(titles)))
        axes = drawn.subplots()
        axes.axvline(1.0, color=palette.colour(first), label=palette.label(first))
        for i, name in enumerate(others):
            rows = shown[shown["model"] == name]
            nudge = 0.5 * (i + 0.5) / len(others) - 0.25  # marks of equal ratio side by side
            y = [height[what(row)] - nudge for _, row in rows.iterrows()]
            error = [(rows["ratio"] - rows["low"]).fillna(0), (rows["high"] - rows["ratio"]).fillna(0)]
            axes.errorbar(
                rows["ratio"], y, xerr=error, label=palette.label(name), lw=0.9, ls="none", **looks[name]
            )
        axes.set(xscale="log", xlabel=f"ratio to {palette.label(first)} (lower is better)")
        palette.readable(axes.xaxis)
        axes.set_yticks(list(height.values()), titles)
        drawn.legend(fontsize=7, loc="outside upper left", ncols=4)
    return drawn


def roofline_figure(frame: pd.DataFrame, best: cost.Roofline) -> Figure:
    """What each network reaches in a denoising step beside the machine's best, in FLOP/s, a bar a network."""
    steps = frame[frame["task"] == "step"]
    titles = list(dict.fromkeys(steps.apply(what, axis=1)))
    names = list(dict.fromkeys(steps["model"]))
    looks, thick = _looks(names), 0.8 / len(names)
    with palette.style():
        drawn = Figure(figsize=(palette.PAGE, 0.9 + 0.17 * len(titles) * (len(names) + 1)))
        axes = drawn.subplots()
        for i, name in enumerate(names):
            rows = steps[steps["model"] == name]
            y = [-titles.index(what(row)) - (i - (len(names) - 1) / 2) * thick for _, row in rows.iterrows()]
            colour = looks[name]["color"]
            axes.barh(y, rows["flop_per_s"] / 1e9, thick, color=colour, label=palette.label(name))
        for value, line, label in zip(
            best, ("--", ":"), ("best matrix product", "best 3x3 convolution"), strict=True
        ):
            axes.axvline(value / 1e9, color="0.2", ls=line, lw=1, label=label)
        axes.set_yticks([-i for i in range(len(titles))], titles)
        axes.set(xlabel="10⁹ FLOP/s (higher is better)", xlim=(0, None))
        axes.grid(axis="y", visible=False)
        drawn.legend(fontsize=7, loc="outside upper left", ncols=4)
    return drawn


def growth_figure(frame: pd.DataFrame) -> Figure:
    """A column a varied quantity, a row a measured one, a line a network, its exponent above."""
    slopes = bench_growth.exponents(frame).set_index(["varied", "quantity", "model"])["exponent"]
    looks = _looks(list(dict.fromkeys(frame["model"])))
    rows, columns = bench_growth.QUANTITIES, bench_growth.VARIED
    with palette.style():
        drawn = Figure(figsize=(palette.PAGE, 1.5 * len(rows) + 0.6))
        grid = drawn.subplots(len(rows), len(columns), sharex="col", sharey="row")
        for (i, quantity), (j, varied) in itertools.product(enumerate(rows), enumerate(columns)):
            axes = grid[i][j]
            cell = frame[(frame["varied"] == varied) & (frame["quantity"] == quantity)]
            for n, (name, line) in enumerate(cell.groupby("model", sort=False)):
                axes.plot(line["at"], line["value"], label=palette.label(name), **looks[name])
                place = dict(xy=(0.04 + 0.24 * n, 1.0), xycoords="axes fraction", va="bottom", fontsize=6.5)
                axes.annotate(f"{slopes[varied, quantity, name]:.2f}", color=looks[name]["color"], **place)
            axes.set(xscale="log", yscale="log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
            axes.set_xticks(sorted(cell["at"].unique()))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axes, (_, label) in zip(grid[:, 0], rows.values(), strict=True):
            axes.set_ylabel(label, fontsize=7)
        for axes, label in zip(grid[-1], columns.values(), strict=True):
            axes.set_xlabel(label, fontsize=7)
        shown = grid[list(rows).index("training memory")][0]  # every network is in this one
        drawn.legend(*shown.get_legend_handles_labels(), fontsize=7, loc="outside upper left", ncols=4)
    return drawn


def _looks(names: list[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each network: the project's own, or a free one for a network without."""
    markers, colours = itertools.cycle("xPv*<>"), itertools.cycle(palette.OTHERS)
    return {
        name: dict(color=palette.colour(name), marker=palette.MARKERS[name])
        if name in palette.MARKERS
        else dict(color=next(colours), marker=next(markers))
        for name in names
    }
