"""Our docstrings, written to be read in a terminal, as the reStructuredText that Sphinx wants.

A docstring here is plain words: `code` in single backticks, indented lines for formulas and tables, arguments
either under `Arguments:` (left to Sphinx's napoleon) or as lines that begin with their names. Left as it is,
Sphinx would take a star for emphasis, a bar for a substitution and an indented line for an error.
"""

import re

SECTION = re.compile(r"(Arguments|Args|Returns|Raises|Attributes|Yields|Examples?|Notes?):$")
ITEM = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (.+)")
CODE = re.compile(r"(``.+?``|`[^`]+`)")


def to_rst(lines: list[str]) -> list[str]:
    """A docstring's lines, their common indentation removed, as reStructuredText."""
    done: list[str] = []
    inside = False  # of a section of napoleon's
    for block in _blocks(lines):
        if block[0].startswith("```"):
            done += ["::", "", *("    " + line for line in block[1:-1])]
        elif SECTION.match(block[0]):
            inside = True
            done += [block[0], *map(_escaped, block[1:])]
        elif block[0].startswith(" ") and inside:
            done += map(_escaped, block)
        elif block[0].startswith(" "):
            done += ["::", "", *block]
        elif block[0].startswith(">>>"):
            done += block
        else:
            inside = False
            done += _paragraph(block)
        done.append("")
    return done


def _blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines that are not blank; a fenced block is one, and a section's head opens a new one."""
    blocks: list[list[str]] = [[]]
    fenced = False
    for line in (line.rstrip() for line in lines):
        fence = line.startswith("```")
        if (fence and not fenced) or (SECTION.match(line) and not fenced) or not (line or fenced):
            blocks.append([])
        if line or fenced:
            blocks[-1].append(line)
        if fence and fenced:
            blocks.append([])
        fenced ^= fence
    return [block for block in blocks if block]


def _paragraph(block: list[str]) -> list[str]:
    """A paragraph of words, or a list if every unindented line begins with the name of an argument."""
    heads = [line for line in block if not line.startswith(" ")]
    if not any(ITEM.match(line) for line in heads) or not ITEM.match(block[0]):
        return _literal_tail(block)
    items: list[str] = []
    for line in block:
        for part in re.split(r"\s{4,}(?=[A-Za-z_]\w*(?:, \w+)*: )", line.strip()):
            if found := ITEM.match(part):
                names = ", ".join(f"``{name}``" for name in found[1].split(", "))
                items.append(f"- {names}: {_escaped(found[2])}")
            else:
                items[-1] += " " + _escaped(part)
    return items


def _literal_tail(block: list[str]) -> list[str]:
    """Words, and the indented lines below or between them as they stand."""
    done: list[str] = []
    for line in block:
        literal = line.startswith(" ")
        if done and literal != done[-1].startswith(" "):
            done += ["", "::", ""] if literal else [""]
        done.append(line if literal else _escaped(line))
    return done


def _escaped(line: str) -> str:
    """A line without what reStructuredText would read as markup, code in backticks kept."""
    parts = CODE.split(line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([\\*|`])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    return "".join(parts)
