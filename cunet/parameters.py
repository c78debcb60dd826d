"""Parameters that people hand in: a notebook's parameters cell, YAML files, `key=value` on the command line.

papermill only warns of an unknown parameter, and checks no types. Here both are refused before a kernel
starts, with the nearest name.
"""

import ast
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cunet.errors import InputError

ZERO = ("warmup", "clip", "validate_every")  # numbers that 0 switches off; all others above 0 stay above 0
TAG = r"tags=\[[^\]]*[\"']parameters[\"']"  # in the header of the parameters cell


def declaration(path: Path) -> dict[str, Any]:
    """The names and values of a notebook's parameters cell.

    The cell is found by its header line, without jupytext: a chain of a dozen notebooks is checked at once.

    Raises:
        InputError: the file cannot be read; there is no such cell, or more than one; it holds something other
            than `name = literal`; or the parameters that every notebook has (run_dir, job, profile, seed) are
            not all there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The notebook {path} cannot be read: {error}") from None
    parts = re.split(r"^# %%(.*)$", text, flags=re.MULTILINE)
    cells = [body for head, body in zip(parts[1::2], parts[2::2], strict=True) if re.search(TAG, head)]
    if len(cells) != 1:
        raise InputError(
            f"The notebook {path} has {len(cells)} cells tagged 'parameters'; it needs exactly one, headed "
            '`# %% tags=["parameters"]`.'
        )
    declared = {}
    for statement in _statements(cells[0], path):
        target = (
            statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        )
        try:
            declared[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise InputError(
                f"The parameters cell of {path} holds {ast.unparse(statement)!r}; it may hold only lines "
                "like `samples = 64  # images`, a name and a plain literal."
            ) from None
    missing = {"run_dir", "job", "profile", "seed"} - declared.keys()
    if missing:
        raise InputError(
            f"The parameters cell of {path} lacks {', '.join(sorted(missing))}, which every notebook has."
        )
    return declared


def _statements(source: str, path: Path) -> list[ast.stmt]:
    """The statements of the parameters cell."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"The parameters cell of {path} is not Python: {error}") from None


def validate(declared: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The given parameters, each converted to the type of the literal that it replaces.

    An int is accepted where a float stands. `None` as the literal accepts anything. Lists are compared by
    their elements. A literal also says the sign: nothing here goes below 0, a number above 0 stays above it
    (but for those of `ZERO`), and a list that has elements keeps some.

    Raises:
        InputError: an unknown name (the message has the nearest), a value of another type, or one that is
            out of range.
    """
    checked = {}
    for name, value in given.items():
        if name not in declared:
            raise InputError(
                f"{name!r} is not a parameter of {path.name}{nearest(name, declared)}. Its parameters are "
                f"{', '.join(declared)}."
            )
        try:
            checked[name] = _convert(value, declared[name])
        except TypeError:
            literal = declared[name]
            raise InputError(
                f"Parameter {name!r} of {path.name} is {value!r}, of type {type(value).__name__}, but the "
                f"notebook has {name} = {literal!r}: give a value of type {_type_name(literal)}."
            ) from None
        if expected := _out_of_range(name, checked[name], declared[name]):
            raise InputError(f"Parameter {name!r} of {path.name} is {value!r}; it needs {expected}.")
    return checked


def _convert(value: Any, literal: Any) -> Any:
    """`value` as the type of `literal`; TypeError if it is of another."""
    if literal is None:
        return value
    if isinstance(literal, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(literal)(_convert(item, literal[0]) if literal else item for item in value)
    if isinstance(literal, float) and type(value) is int:
        return float(value)
    if type(value) is not type(literal):
        raise TypeError
    return value


def _out_of_range(name: str, value: Any, literal: Any) -> str:
    """What was expected of a value that is out of range, judged by the literal; empty if it is in range."""
    if isinstance(literal, (list, tuple)) and isinstance(value, (list, tuple)):
        negative = any(_number(item) and item < 0 for item in literal)
        low = any(_number(item) and not item >= 0 for item in value) and not negative
        if low:
            return "elements that are 0 or more"
        return "at least one element" if literal and not value else ""
    if not _number(value) or not _number(literal) or literal < 0:
        return ""
    if literal > 0 and name not in ZERO:
        return "" if value > 0 else "a number above 0"
    return "" if value >= 0 else "a number that is 0 or more"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _type_name(literal: Any) -> str:
    """The type of a literal in words, with the elements' for a list."""
    name = type(literal).__name__
    return (
        f"{name} of {type(literal[0]).__name__}" if isinstance(literal, (list, tuple)) and literal else name
    )


def nearest(name: str, names: Mapping[str, Any] | list[str]) -> str:
    """' (did you mean ...?)' if one of `names` is near, else the empty string."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-4 is a number, and a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{sorted(twice)[0]!r} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML; InputError naming `source` and the place if it cannot be parsed."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets its own slips through: `!!bool x` is a KeyError, `!!timestamp x` an AttributeError
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source} is not valid YAML: {said}") from None


def parameters_file(path: str | Path) -> dict[str, Any]:
    """The parameters of a YAML file `name: value`."""
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The parameters file {path} cannot be read: {error}") from None
    if not isinstance(content or {}, dict):
        raise InputError(f"The parameters file {path} holds {content!r}; it needs lines like 'samples: 64'.")
    return content or {}


def assignments(pairs: list[str], declared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parse `key=value` from the command line; the value is YAML, or text where `declared` has a string."""
    parsed = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{pair!r} is not of the form key=value, as in samples=64 or datasets=[mnist].")
        if isinstance((declared or {}).get(name), str):
            parsed[name] = text
        else:
            parsed[name] = load_yaml(text, f"The value of {name!r}")
    return parsed
