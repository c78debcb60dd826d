"""What a command prints: tables are drawn on a terminal, and plain text in a pipe, which programs read.

rich is imported where something is drawn, so that the command line answers at once.
"""

import itertools
import re
import sys
from collections.abc import Sequence


def show(text: str) -> None:
    """Print a text; on a terminal its Markdown tables, lines that begin with a bar, are drawn."""
    if not sys.stdout.isatty():
        print(text)
        return
    for is_table, lines in itertools.groupby(text.split("\n"), key=lambda line: line.startswith("|")):
        if not is_table:
            print(*lines, sep="\n")
            continue
        head, rule, *rows = (_cells(line) for line in lines)
        draw(rows, head, [cell.endswith(":") for cell in rule])


def facts(pairs: dict[str, str]) -> None:
    """Print names and values: a table on a terminal, in a pipe a line each."""
    rows = [(key.replace("_", " "), value) for key, value in pairs.items()]
    if sys.stdout.isatty():
        draw(rows)
    else:
        print("\n".join(f"{key:22}{value}" for key, value in rows))


def draw(
    rows: Sequence[Sequence[str]], head: Sequence[str] | None = None, right: Sequence[bool] = (False, True)
) -> None:
    """Draw a table as wide as the terminal; cells that are too long are broken, and nothing is left out.

    rows: of texts, the first of each a name. head: names of the columns; None draws none. right: whether a
    column's texts end at its right.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=head is not None)
    for i, ends_right in enumerate(right):
        looks = dict(justify="right" if ends_right else "left", style="" if i else "bold", overflow="fold")
        table.add_column(_plain(head[i]) if head else "", **looks)
    for row in rows:
        table.add_row(*map(_plain, row))
    Console(highlight=False).print(table)


def _cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table; an escaped bar is none of its borders."""
    cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _plain(text: str):
    """A cell as it is: brackets in it are no markup."""
    from rich.text import Text

    return Text(text)
