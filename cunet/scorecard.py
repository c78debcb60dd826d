"""The scorecard: every claim of the paper, what we measured, and a verdict by a written rule.

The verdicts come from the rules of `cunet.rules`; what these judge notebooks hand over as `value` in their
result files. A claim measured in several settings has a row for each; `overall` puts them together.

What the paper does not claim stands below its claims, without a verdict: rows whose id begins with `ext_` and
which say in `claim` what was asked, as `dict(id="ext_likelihood", claim="how probable ...", measured="...")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from . import rules, runs, sources
from .claims import CLAIMS
from .errors import InputError, one_of
from .wording import cell

BEYOND = "beyond the paper"
UNMEASURED = "not measured in this run"
MEANINGLESS = "meaningless (smoke run)"
COLUMNS = (
    "id", "claim", "place", "paper", "measured", "spread", "n", "dataset", "size", "verdict", "notebook"
)  # fmt: skip


def verdict(claim: str, value: float | Mapping[str, float] | None, profile: str = "laptop") -> str:
    """The verdict on one measurement.

    claim: "C01" ... "C26"; value: what the claim's rule takes, a number or a dictionary of its arguments, or
    None where the claim could not be tested (or one of the numbers is None, or not a number); profile: a
    smoke run's numbers mean nothing.
    Returns one of `rules.VERDICTS`, or MEANINGLESS. Raises InputError for an unknown claim, a claim without
    a rule, or arguments that the rule does not take.
    """
    one_of("claim", claim, CLAIMS)
    if claim not in rules.RULES:
        raise InputError(
            f"Claim {claim} was measured but has no rule: write one, as the head of cunet/rules.py shows."
        )
    numbers = list(value.values()) if isinstance(value, Mapping) else [value]
    if any(x is None or isinstance(x, float) and math.isnan(x) for x in numbers):  # NaN is None in a file
        return rules.NOT_TESTABLE
    try:
        result = rules.RULES[claim](**value) if isinstance(value, Mapping) else rules.RULES[claim](value)
    except TypeError as error:
        raise InputError(
            f"The rule of {claim} cannot judge value={value!r}: {error}. Hand over the arguments of"
            f" {rules.RULES[claim].__name__} in cunet/rules.py."
        ) from None
    return MEANINGLESS if profile == runs.SMOKE else result


def scorecard(results: Path | str | Iterable[dict]) -> pd.DataFrame:
    """All claims in order, one row a measurement, one row saying so for a claim without; then what is beyond.

    results: the folder of a run, or what its result files hold. Returns a frame with COLUMNS, all text.
    Raises InputError for a file that is no result, an unknown claim, a measured claim without a rule, or a
    row beyond the paper that does not say what was asked.
    """
    if isinstance(results, str | Path):
        results = runs.results(results).values()
    measured: dict[str, list[dict]] = {claim: [] for claim in CLAIMS}
    further = []
    for result in results:
        for row in (*result["claims"], *result["timings"].get("claims", ())):
            if beyond(row):
                asked = {"id": row["id"], "claim": row["claim"], "place": BEYOND}
                further.append(asked | _row(row, result))
            else:
                measured.setdefault(row["id"], []).append(_row(row, result))
    for claim in measured:
        one_of("claim", claim, CLAIMS)
    blank = {"measured": "-", "verdict": UNMEASURED}
    rows = [
        {"id": c.id, "claim": c.text, "place": c.place, "paper": c.paper} | row
        for c in CLAIMS.values()
        for row in measured[c.id] or [blank]
    ] + further
    return pd.DataFrame([{c: str(row.get(c, "-")) for c in COLUMNS} for row in rows], columns=COLUMNS)


def overall(frame: pd.DataFrame) -> pd.Series:
    """One verdict a claim of the paper: what its rows agree on; "partly" where they differ.

    A row that leaves it open keeps a claim from being reproduced, and likewise from being not reproduced: the
    claim is then undecided. Rows that could not be tested count only when there are no others. Indexed by
    claim.
    """
    frame = frame[frame["verdict"] != BEYOND]

    def merge(verdicts: pd.Series) -> str:
        tested = set(verdicts) - {rules.NOT_TESTABLE, UNMEASURED}
        if MEANINGLESS in tested:
            return MEANINGLESS
        decided = tested - {rules.UNDECIDED}
        if len(decided) > 1 or rules.PARTLY in decided:
            return rules.PARTLY
        return rules.UNDECIDED if rules.UNDECIDED in tested else next(iter(decided), verdicts.iloc[0])

    return frame.groupby("id")["verdict"].agg(merge)


def counts(frame: pd.DataFrame) -> pd.Series:
    """How many of the claims end with each verdict; every verdict is listed, also with 0."""
    found = overall(frame).value_counts()
    listed = [*rules.VERDICTS, UNMEASURED, *([MEANINGLESS] if MEANINGLESS in found else [])]
    return found.reindex(listed, fill_value=0).rename("claims")


def conclusion(result: Mapping) -> str:
    """The end of a notebook as Markdown: its claims, what the paper says, what was measured, why they differ.

    result: what the notebook's result file holds. A claim's row may say why in `why`, written by the notebook
    from its own numbers.
    """
    lines = ["| claim | the paper says | we measured | verdict |", "|---|---|---|---|"]
    reasons, further = [], []
    rows = (*result["claims"], *result["timings"].get("claims", ()))
    for row in sorted(rows, key=lambda row: row["id"]):
        if beyond(row):
            cells = (row["claim"], row["measured"], row.get("spread") or "-")
            further.append("| " + " | ".join(map(cell, cells)) + " |")
            continue
        claim = CLAIMS[row["id"]]
        where = (sources.label(row.get("dataset", "-")), row.get("size"))
        setting = ", ".join(str(part) for part in where if part not in (None, "-"))
        judged = verdict(row["id"], row.get("value"), result["profile"])
        cells = (
            f"**{claim.id}** {claim.text}",
            f"{claim.paper} ({claim.place})",
            f"{row['measured']}" + (f" ({setting})" if setting else ""),
            f"**{judged}**",
        )
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
        if row.get("why"):
            reasons.append(f"- **{claim.id}**: {row['why']}")
    if reasons:
        lines += ["", "**Why.**", "", *dict.fromkeys(reasons)]
    if further:
        lines += ["", "| beyond the paper | we measured | spread |", "|---|---|---|", *further]
    return "\n".join(lines)


def beyond(row: Mapping) -> bool:
    """Whether a row is about something that the paper does not claim.

    Raises InputError if it is, and does not say what was asked.
    """
    if not str(row["id"]).startswith("ext_"):
        return False
    if not row.get("claim"):
        raise InputError(
            f"The row {row['id']!r} is beyond the paper, so it has to say in 'claim' what was asked: "
            "dict(id='ext_likelihood', claim='how probable ...', measured='...')."
        )
    return True


def _row(row: dict, result: dict) -> dict:
    kept = {
        key: row[key] for key in ("measured", "spread", "n", "dataset", "size") if row.get(key) is not None
    }
    judged = BEYOND if beyond(row) else verdict(row["id"], row.get("value"), result["profile"])
    if "dataset" in kept:
        kept["dataset"] = sources.label(kept["dataset"])
    return kept | {"verdict": judged, "notebook": result["notebook"]}
