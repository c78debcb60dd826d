"""The README's results on quality beside the U-Net's: the goal, what was tried, equal steps and equal time.

Markdown, from the tables of a run; `cunet.results_page` puts them into the README.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cunet import ablation_claims, folders, palette, sources
from cunet.ablations import EARLIER
from cunet.errors import InputError
from cunet.wording import interval

TABLE_1 = "tab01_synthesis"


def edge(row: Any) -> str:
    """Whether the best number of steps is the fewest or the most that was tried."""
    edge = getattr(row, "edge", "-")
    return "" if edge == "-" else f" ({edge})"


GOAL = (
    "**The goal that this reproduction set itself**, by the values of table 1 whatever their intervals: "
    "cU-Net's best distance no larger than the U-Net's, in at most half of the steps and a fifth of the "
    "time. cU-Net over U-Net: "
)


def goal(run_dir: Path) -> str:
    """Whether the goal was reached, data set by data set, from table 1; empty where no data set has both."""
    frame = pd.read_csv(run_dir / "tables" / f"{TABLE_1}.csv")
    parts = []
    for dataset, rows in frame.groupby("dataset", sort=False):
        by_model = rows.set_index("model")[["fd", "steps", "seconds_per_sample"]]
        if not {"unet", "cunet"} <= set(by_model.index):
            continue
        fd, steps, seconds = by_model.loc["cunet"] / by_model.loc["unet"]
        reached = fd <= 1 and steps <= 1 / 2 and seconds <= 1 / 5
        edges = [row for row in rows.itertuples() if row.model in ("unet", "cunet") and edge(row)]
        open_ = ", a best one lies at the edge of what was tried" if edges else ""
        parts.append(
            f"{sources.label(dataset)} {'reached' if reached else 'not reached'} (distance {fd:.2f}, steps "
            f"{steps:.2f}{open_}, time {seconds:.2f})"
        )
    return GOAL + "; ".join(parts) + "." if parts else ""


def remedies(run_dir: Path, results: Mapping[str, dict]) -> str:
    """What was tried to reach the goal, and what each did, as Markdown: how many helped, and a row a data set
    and network. Empty where the run held no remedy against the network without it.

    results: of the run, as `runs.results` reads them.
    """
    gain, gap = (run_dir / "tables" / f"ext_remedies{end}.csv" for end in ("_gain", ""))
    if not gain.is_file():
        return ""
    try:
        gained, gaps = pd.read_csv(gain), pd.read_csv(gap)
        (of,) = (r["parameters"] for r in results.values() if r["notebook"] == "10_ablations")
        tried = gained[~gained.model.isin(EARLIER)]
        told = len(tried) < len(gained)
        earlier = " The earlier form tells whether quality was given up for speed." if told else ""
        rows = []
        for (dataset, model), part in gaps.groupby(["dataset", "model"], sort=False):
            own = gained[(gained.dataset == dataset) & (gained.model == model)]
            found = {"data": sources.label(dataset), "what was tried": part.remedy.iloc[0]}
            for than, frame in (("cU-Net's", own), ("U-Net's", part)):
                cells = {r["measure"]: r for r in frame.to_dict("records")}
                for measure, title in JUDGED.items():
                    digits = 1 if measure == "loss" else 0  # networks differ by a per cent or two there
                    cell = ablation_claims.change(cells[measure], digits) if measure in cells else "-"
                    found[f"{title}, over the {than}"] = cell
            rows.append(found | {"MACs a call, over the U-Net's": f"{part.macs.iloc[0]:.2f}"})
        text = (
            "**What was tried to reach it** (notebook 10, section 5): the cU-Net with one thing changed, "
            f"trained anew. {_helped(tried)}{earlier} Below: changes in per cent, below 0 better, with 95 % "
            f"intervals; distances are above those of real images, of {of['samples']} samples at "
            f"{of['steps']} steps.\n\n" + pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
        )
    except (OSError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise InputError(
            f"{folders.shown(gain)} or {gap.name} is damaged: {error!r}. Run notebook 10 again."
        ) from None
    return text


JUDGED = {"loss": "validation loss", "fd": "FD-AlexNet"}  # of notebook 10's measures, those of the goal


def _helped(tried: pd.DataFrame) -> str:
    """With how many remedies either measure changed by more than its interval, in a sentence."""
    number = len(tried[["dataset", "model"]].drop_duplicates())
    if not number:
        return "No remedy is trained yet."
    parts = []
    for measure, title in JUDGED.items():
        signs = tried[tried.measure == measure].sign
        better, worse = int((signs < 0).sum()), int((signs > 0).sum())
        rest = number - better - worse
        parts.append(f"{title} better with {better}, worse with {worse}, undecided with {rest}")
    return f"Of {number} {'remedy' if number == 1 else 'remedies'}, {'; '.join(parts)}."


def equal_steps(run_dir: Path) -> str:
    """Distances at equal steps, and over training seeds, as Markdown; empty where the run has no such table.

    A row a data set and network, of the first training; a column a number of steps.
    """
    path, seeds = (run_dir / "tables" / f"{name}.csv" for name in ("ext_equal_steps", "ext_fd_over_seeds"))
    if not path.is_file():
        return ""
    try:
        frame, cells = pd.read_csv(path), {}
        frame = frame[frame.seed == frame.groupby(["dataset", "model"]).seed.transform("min")]
        for row in frame.sort_values("steps", kind="stable").itertuples():
            name = sources.label(row.dataset), palette.label(row.model)
            ends = [getattr(row, end, None) for end in ("share_low", "share_high")]
            cell = f"{row.share:.2f}" if None in ends else interval(row.share, *ends)
            cells.setdefault(f"{row.steps} steps", {})[name] = cell
        order = list(
            dict.fromkeys((sources.label(r.dataset), palette.label(r.model)) for r in frame.itertuples())
        )
        table = pd.DataFrame(cells).reindex(order).fillna("-").rename_axis(["data", "network"]).reset_index()
        text = (
            "**At equal steps**: distance above that of as many real images, over the U-Net's; below 1 it is "
            "smaller. In brackets 95 % over samples, where there are any.\n\n"
            + table.to_markdown(index=False, disable_numparse=True)
        )
        if seeds.is_file():
            text += f"\n\n{_over_seeds(pd.read_csv(seeds), list(dict.fromkeys(frame.dataset)))}"
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"{folders.shown(path)} or {seeds.name} is damaged: {error!r}. Run notebook 07 again."
        ) from None
    return text


def _over_seeds(frame: pd.DataFrame, datasets: list[str]) -> str:
    """What several trainings of a network spread by, and of which data sets that is not known, in words."""
    spread = [
        f"{sources.label(r.dataset)}, {palette.label(r.model)}, {r.steps} steps {r.middle:.2f} ± "
        f"{r.deviation:.2f} ({r.seeds} seeds)"
        for r in frame.rename(columns={"mean": "middle"}).itertuples()
    ]
    text = f"Over training seeds, FD-AlexNet's mean and standard deviation: {'; '.join(spread)}."
    once = [sources.label(d) for d in datasets if d not in set(frame.dataset)]
    if once:
        text += f" How far seeds spread on {', '.join(once)} is not known: no network has several there."
    return text


def equal_time(run_dir: Path) -> str:
    """Distances in equal time, in a sentence; empty where the run has no such table."""
    path = run_dir / "tables" / "ext_equal_time.csv"
    if not path.is_file():
        return ""
    parts = []
    try:
        for dataset, rows in pd.read_csv(path).groupby("dataset", sort=False):
            steps = " / ".join(f"{n:.0f}" for n in rows.steps)
            names = [m for m in rows.columns[3:] if rows[m].notna().any()]
            each = "; ".join(f"{palette.label(m)} {_slashed(rows[m])}" for m in names)
            parts.append(f"{sources.label(dataset)}, {steps} steps: {each}")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{folders.shown(path)} is damaged: {error!r}. Run notebook 07 again.") from None
    return (
        "**In equal time**: the lowest FD-AlexNet that each network reaches, of the numbers of steps that "
        f"were tried, in the time of so many of the U-Net's. {'. '.join(parts)}."
    )


def _slashed(numbers: pd.Series) -> str:
    """Distances as one list; a dash for none."""
    return " / ".join("-" if pd.isna(x) else f"{x:.2f}" for x in numbers)
