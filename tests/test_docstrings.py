"""Every public function and class of the library says what it does, of arguments that it has.

Arguments are told in one of three forms (`cunet.docstrings`): in a section `Args:`, in lines that begin with
their names, or one after another in a paragraph, `name: text. name: text.`
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from conftest import ROOT

from cunet.docstrings import ITEM, SECTION, _blocks

FILES = sorted((ROOT / "cunet").glob("*.py"))
FURTHER = re.compile(r"(?<=\. )([a-z]\w*(?:, [a-z]\w*)*): ")  # in the middle of a line
PARTS = re.compile(r"\s{4,}(?=[A-Za-z_]\w*(?:, \w+)*: )")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Defined(NamedTuple):
    """A function, class or method with its docstring, and the names that this may tell of."""

    name: str
    public: bool
    doc: str
    names: set[str]


def definitions(text: str) -> Iterator[Defined]:
    """The functions and classes of a module, and the methods of its classes."""
    for node in ast.parse(text).body:
        public = not getattr(node, "name", "_").startswith("_")
        if isinstance(node, Function):
            yield Defined(node.name, public, ast.get_docstring(node) or "", parameters(node))
        elif isinstance(node, ast.ClassDef):
            yield Defined(node.name, public, ast.get_docstring(node) or "", attributes(node))
            for part in node.body:
                if isinstance(part, Function):
                    name, doc = f"{node.name}.{part.name}", ast.get_docstring(part) or ""
                    yield Defined(name, False, doc, parameters(part))


def parameters(node: Function) -> set[str]:
    """The names in a function's signature."""
    given = node.args
    rest = [one for one in (given.vararg, given.kwarg) if one]
    return {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)}


def attributes(node: ast.ClassDef) -> set[str]:
    """What a class may tell of: the arguments of `__init__`, its fields, and what is set on `self`."""
    names = set()
    for part in ast.walk(node):
        if isinstance(part, Function) and part.name == "__init__":
            names |= parameters(part)
        elif isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store):
            names.add(part.id if isinstance(part, ast.Name) else part.attr)
    return names


def told(doc: str) -> Iterator[str]:
    """The names of the arguments that a docstring tells of; that of `with f() as name:` is none."""
    section, columns, given = "", False, re.findall(r"^ +with .* as (\w+):$", doc, re.MULTILINE)
    for block in _blocks(doc.splitlines()):
        if found := SECTION.match(block[0]):
            section = found[1]
        elif not block[0].startswith(" "):
            section = ""
        if section in ("Args", "Arguments", "Attributes"):
            lines = [line.strip() for line in block[1:] if re.match(r" {4}\S", line)]
        elif not section and ITEM.match(block[0]):
            lines = [line for line in block if not line.startswith(" ")]
        else:
            continue
        for part in (part for line in lines for part in PARTS.split(line)):
            columns |= (
                not section and "Columns: " in part
            )  # of the table given back: what follows names these
            if section or not columns:
                names = [found[1] for found in (ITEM.match(part), *FURTHER.finditer(part)) if found]
                every = [name for one in names if one[0].islower() for name in one.split(", ")]
                yield from (name for name in every if name not in given)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_public_functions_and_classes_say_what_they_are(file):
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "the module says nothing"
    assert not [one.name for one in definitions(text) if one.public and not one.doc]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_arguments_that_a_docstring_tells_of_are_in_the_signature(file):
    wrong = {one.name: set(told(one.doc)) - one.names for one in definitions(file.read_text("utf-8"))}
    assert not {name: names for name, names in wrong.items() if names}


def test_hundreds_of_arguments_are_told_of():
    found = [name for file in FILES for one in definitions(file.read_text("utf-8")) for name in told(one.doc)]
    assert len(found) > 400, "the forms in which arguments are told have changed"


SECTIONED = '''def f(a, *, b=1, **rest):
    """What.

    Args:
        a: one.
        {}, rest: two,
            c: of the line before.

    Returns:
        d: three.
    """
'''
LISTED = (
    'class F:\n    """What.\n\n    a: one.\n    {}: two.    g: five.\n    """\n    a: int\n    b = g = 1\n'
)
RUNNING = (
    'def f(a, b):\n    """What.\n\n    a: one; c: more. {}: two.\n\n    Columns: e.\n    h: six.\n    """\n'
)
METHOD = 'class F:\n    """What."""\n    def f(self, b):\n        """What.\n\n        {}: one.\n        """\n'


@pytest.mark.parametrize(
    "text", [SECTIONED, LISTED, RUNNING, METHOD], ids="section lines words method".split()
)
def test_a_name_that_is_no_argument_is_found_in_each_form(text):
    for name, wrong in (("b", set()), ("old", {"old"})):
        found = list(definitions(text.format(name)))
        assert found[0].public and found[0].doc
        assert set().union(*(set(told(one.doc)) - one.names for one in found)) == wrong


def test_a_function_without_a_docstring_is_found():
    found = definitions("def f(): pass\nclass G: pass\ndef _h(): pass\nclass I:\n    def j(self): pass\n")
    assert [one.name for one in found if one.public and not one.doc] == ["f", "G", "I"]
