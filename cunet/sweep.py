"""A sweep's results in one tidy table: a row a training, a column a thing that was set or found.

A profile with lists of data sets, networks, solvers and seeds trains each combination once (notebook 05). The
report of such a run is written with `sweep.csv` beside it, so that a question such as "which solver, over the
seeds?" is one line of pandas:

    table = pd.read_csv("papermill_runs/mine/sweep.csv", keep_default_na=False)
    table.groupby(["dataset", "model", "solver"]).validation_loss.describe()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cunet import folders, model_names

SET = ("dataset", "size", "seed", "variant", "images", "batch_size", "learning_rate")
FOUND = ("parameters", "images_seen", "steps", "validation_loss")
TIMES = ("wall_time_s", "images_per_second", "threads")


def table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The trainings among a run's results, in the order of their names.

    Columns: job; dataset, size, seed, variant, images, batch_size, learning_rate as they were set; model (its
    family) and changes (`steps=4`, or empty), with solver apart (empty: the family's own); parameters,
    images_seen, steps, validation_loss; wall_time_s (of the training), images_per_second, threads.
    """
    rows = []
    for job, result in sorted(results.items()):
        given, found = result["parameters"], result["values"]
        if not {"dataset", "model"} <= given.keys() or "validation_loss" not in found:
            continue
        family, written = model_names.split(given["model"])
        changes = dict(change.partition("=")[::2] for change in written)
        row = {"job": job, "model": family, "solver": changes.pop("solver", "")}
        row["changes"] = ",".join(f"{key}={value}" for key, value in changes.items())
        row |= {key: given.get(key) for key in SET} | {key: found.get(key) for key in FOUND}
        times = result["timings"].get("training", {})
        rows.append(row | {key: times.get(key) for key in TIMES})
    return pd.DataFrame(rows)


def save(run_dir: Path, results: dict[str, dict[str, Any]]) -> Path | None:
    """Write sweep.csv into a run's folder if it has more than one training; returns its path."""
    frame, path = table(results), run_dir / "sweep.csv"
    if len(frame) < 2:
        path.unlink(missing_ok=True)
        return None
    folders.write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))
    return path
