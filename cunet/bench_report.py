"""What `cunet bench` leaves and prints: files, the table of ratios, the figure."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from . import figures

TITLES = {
    "parameters": "parameters",
    "MACs": "MACs a call",
    "forward": "one call",
    "step": "denoising step",
    "training": "training step",
    "memory": "peak memory of training",
    "compile": "first call, compiling",
}


def write(out: Path, frame: pd.DataFrame, operators: pd.DataFrame, record: dict) -> None:
    """bench.csv, bench_operators.csv, bench.json, bench.png and bench.pdf into `out`, made if missing."""
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "bench.csv", index=False)
    operators.to_csv(out / "bench_operators.csv", index=False)
    (out / "bench.json").write_text(json.dumps(record, indent=1) + "\n")
    drawn = figure(frame)
    for ending in ("png", "pdf"):
        drawn.savefig(out / f"bench.{ending}")


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
        lines[title] = {name: _ratio(by_model.loc[name]) for name in networks if name in by_model.index}
        first = by_model.iloc[0]
        lines[title][networks[0]] = quantity(first["value"], first["unit"])
    for title, cell in frame[frame["task"] == "step"].groupby(frame.apply(what, axis=1), sort=False):
        shares = cell.set_index("model")["of_best"]
        lines[f"share of the best convolution: {title}"] = {m: f"{s:.2f}" for m, s in shares.items()}
    return pd.DataFrame.from_dict(lines, orient="index", columns=networks).fillna("").to_markdown()


def quantity(value: float, unit: str) -> str:
    """A value in a unit that reads well: 0.2141 s is 214 ms."""
    scales = {"s": ((1, "s"), (1e-3, "ms")), "bytes": ((2**30, "GiB"), (2**20, "MiB"))}
    steps = scales.get(unit, ((1e9, "G"), (1e6, "M"), (1e3, "k")))
    scale, name = next(((s, n) for s, n in steps if value >= s), steps[-1])
    return f"{value / scale:.3g} {name}"


def _ratio(row: pd.Series) -> str:
    if pd.isna(row["ratio"]):
        return quantity(row["value"], row["unit"])
    spread = "" if pd.isna(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['ratio']:.3f}{spread}"


def figure(frame: pd.DataFrame) -> Figure:
    """Ratios to the first network, a line a quantity, a mark a network, with its interval; a log axis."""
    shown = frame[frame["ratio"].notna()]
    titles = list(dict.fromkeys(shown.apply(what, axis=1)))
    height = {title: -i for i, title in enumerate(titles)}
    first, *others = dict.fromkeys(shown["model"])
    looks = _looks(others)
    with figures.style():
        drawn = Figure(figsize=(figures.PAGE, 1.3 + 0.24 * len(titles)))
        axes = drawn.subplots()
        axes.axvline(1.0, color=figures.colour(first), label=figures.label(first))
        for i, name in enumerate(others):
            rows = shown[shown["model"] == name]
            nudge = 0.5 * (i + 0.5) / len(others) - 0.25  # marks of equal ratio side by side
            y = [height[what(row)] - nudge for _, row in rows.iterrows()]
            error = [(rows["ratio"] - rows["low"]).fillna(0), (rows["high"] - rows["ratio"]).fillna(0)]
            axes.errorbar(
                rows["ratio"], y, xerr=error, label=figures.label(name), lw=0.9, ls="none", **looks[name]
            )
        axes.set(xscale="log", xlabel=f"ratio to {figures.label(first)} (lower is better)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(list(height.values()), titles)
        drawn.legend(fontsize=7, loc="outside upper left", ncols=4)
    return drawn


def _looks(names: list[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each network: the project's own, or a free one for a network without."""
    markers, colours = itertools.cycle("xPv*<>"), itertools.cycle(figures.OTHERS)
    return {
        name: dict(color=figures.colour(name), marker=figures.MARKERS[name])
        if name in figures.MARKERS
        else dict(color=next(colours), marker=next(markers))
        for name in names
    }
