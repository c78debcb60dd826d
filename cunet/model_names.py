"""What networks are called: `family@key=value,key=value`, as in `cunet@solver=rk4,steps=(1,1,2,2)`.

Profiles and sweeps take names apart before anything heavy is imported, so this is apart from `cunet.models`,
which knows the families.
"""

import ast
import re

from cunet.errors import InputError

COMMA = r",(?![^(\[]*[)\]])"  # outside brackets
NEXT_NAME = COMMA + r"(?![^,@(\[]*=)"  # and not before a further change


def split(name: str) -> tuple[str, list[str]]:
    """The family, and its changes as they are written: ("cunet", ["solver=rk4", "steps=(1,1,2,2)"])."""
    family, _, tail = name.partition("@")
    return family, [change for change in re.split(COMMA, tail) if change]


def listed(text: str) -> list[str]:
    """The names of a list with commas, changes and all: "unet,cunet@solver=rk4,steps=2" are two."""
    return re.split(NEXT_NAME, text)


def keywords(name: str) -> dict[str, object]:
    """A name's changes as keywords: true and false in any case, other values Python literals, or else text.

    Raises InputError for a change that is not key=value.
    """
    found: dict[str, object] = {}
    for change in split(name)[1]:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"{change!r} in {name!r} is no change: expected key=value, as in cunet@steps=4.")
        found[key] = _value(value)
    return found


def _value(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that its text can raise
        return text
