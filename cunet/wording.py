"""How numbers and text are written where people read them: an interval, a cell of a Markdown table."""

from __future__ import annotations


def interval(value: float, low: float, high: float, style: str = ".2f", unit: str = "") -> str:
    """A number with the ends of its interval behind it, "0.98 [0.91, 1.02]".

    style: how each of the three is formatted, as in `format`; unit: what follows the number alone.
    """
    return f"{value:{style}}{unit} [{low:{style}}, {high:{style}}]"


def cell(text: object) -> str:
    """A text as one cell of a Markdown table: on one line, and a bar in it no border."""
    return str(text).replace("|", "\\|").replace("\n", " ")
