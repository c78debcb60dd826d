"""How things are written for people: intervals, spans, cells of a Markdown table, the place of a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence

BEYOND = "Beyond the paper"


def interval(value: float, low: float, high: float, style: str = ".2f", unit: str = "") -> str:
    """A number with the ends of its interval behind it, "0.98 [0.91, 1.02]".

    style: how each of the three is formatted, as in `format`; unit: what follows the number alone.
    """
    return f"{value:{style}}{unit} [{low:{style}}, {high:{style}}]"


def ends(numbers: Sequence[str]) -> str:
    """The first and the last of rising numbers in words; one alone as it is."""
    return " to ".join(dict.fromkeys((numbers[0], numbers[-1])))


def cell(text: object) -> str:
    """A text as one cell of a Markdown table: on one line, and a bar in it no border."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def paper_place(name: str) -> str:
    """Where something is in the paper, by its file's name: fig04_... is figure 4, ext_... is `BEYOND`."""
    found = re.match(r"(fig|tab)(\d+)([a-z]?)_", name)
    if not found:
        return BEYOND
    return f"{'Figure' if found[1] == 'fig' else 'Table'} {int(found[2])}{found[3]} of the paper"
