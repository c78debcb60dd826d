"""Each notebook: header, parameters, order, and that jupytext gives it back unchanged."""

import ast
import re

import jupytext
import pytest
from conftest import ROOT
from jupytext.config import load_jupytext_configuration_file

from cunet import parameters

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
COUNT = 13  # 00 to 12
TALL = 60  # lines of a code cell
WIDE = {"07": 170, "08": 170, "09": 170, "10": 170, "11": 170}  # characters of a line of code, where not 120
HEADER = """\
# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path):
    return jupytext.read(path, fmt="py:percent").cells


def tagged(path, tag: str) -> list[int]:
    return [i for i, cell in enumerate(cells(path)) if tag in cell.metadata.get("tags", [])]


def calls(source: str, name: str) -> list[ast.Call]:
    """The calls of a function or method of that name in a cell, magics aside, with an argument or more."""
    plain = "\n".join(line for line in source.split("\n") if not line.startswith("%"))
    found = [node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Call) and node.args]
    return [call for call in found if ast.unparse(call.func).split(".")[-1] == name]


def test_there_are_as_many_notebooks_as_the_tests_think():
    assert len(NOTEBOOKS) == COUNT
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == COUNT


@each
def test_the_header_is_the_same_everywhere(path):
    assert path.read_text(encoding="utf-8").startswith(HEADER + "\n# %%")


@each
def test_jupytext_gives_the_file_back_unchanged(path):
    config = load_jupytext_configuration_file(str(FOLDER / "jupytext.toml"))
    notebook = jupytext.read(path, config=config)
    assert jupytext.writes(notebook, fmt="py:percent", config=config) == path.read_text(encoding="utf-8")


@each
def test_it_opens_with_a_title_then_parameters_then_imports(path):
    content = cells(path)
    (at,) = tagged(path, "parameters")
    assert content[0].cell_type == "markdown" and content[0].source.startswith("# ")
    assert all(cell.cell_type == "markdown" for cell in content[:at])
    assert "import" in content[at + 1].source


@each
def test_its_parameters_name_itself_and_each_has_a_comment(path):
    declared = parameters.declaration(path)
    assert declared["run_dir"] == "papermill_runs/interactive" and declared["profile"] == "laptop"
    assert declared["job"] == path.stem and declared["seed"] == 0
    (at,) = tagged(path, "parameters")
    source = cells(path)[at].source
    for statement in ast.parse(source).body:
        lines = source.splitlines()[statement.lineno - 1 : statement.end_lineno]
        assert any("#" in line for line in lines), f"say what {lines[0]} is, with its unit"


@each
def test_it_opens_its_run_saves_its_result_and_ends_with_what_was_found(path):
    code = [cell.source for cell in cells(path) if cell.cell_type == "code"]
    assert sum("Run.open(globals())" in source for source in code) == 1
    saves = [i for i, source in enumerate(code) if "save_result(" in source]
    assert len(saves) == 1, "the result is saved once"
    assert "result" in code[-1], "and read by what follows"


@each
def test_its_figures_are_shown_as_pictures_once_and_with_a_caption(path):
    """Without the line, a figure that is no pyplot's is shown as its type's name. `save_figure` shows it."""
    code = [cell.source for cell in cells(path) if cell.cell_type == "code"]
    saves = [call for source in code for call in calls(source, "save_figure")]
    (at,) = tagged(path, "parameters")
    if saves:
        assert cells(path)[at + 1].source.startswith("%matplotlib inline\n")
    assert all(len(call.args) == 3 for call in saves), "a figure, its name and its caption"
    for source in code:
        saved, shown = (
            {ast.unparse(call.args[0]) for call in calls(source, name)} for name in ("save_figure", "display")
        )
        assert not saved & shown and source.strip().split("\n")[-1] not in saved, "it would be shown twice"


@each
def test_a_cell_of_code_fits_a_screen_and_its_lines_a_width(path):
    """At most 60 lines, parameters and imports apart, of at most 120 characters.

    Notebooks 07 to 11 have captions and sentences in lines of up to 170 characters. Formulas and tables of
    the text are not looked at.
    """
    (at,) = tagged(path, "parameters")
    for i, cell in enumerate(cells(path)):
        lines = cell.source.split("\n") if cell.cell_type == "code" else []
        assert len(lines) <= TALL or i in (at, at + 1), f"{len(lines)} lines: {lines[0]}"
        long = [line for line in lines if len(line) > WIDE.get(path.stem[:2], 120)]
        assert not long, f"{len(long[0])} characters: {long[0]}"


@each
def test_it_holds_no_outputs_no_magic_installs_and_no_local_paths(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^[%!]?\s*pip install|/home/|/root/|\bC:\\", text, re.MULTILINE)
    assert "torch.load(" not in text


def test_only_the_text_form_is_in_the_folder_for_git():
    committed = {
        path.name for path in FOLDER.iterdir() if path.suffix != ".ipynb" and not path.name.startswith(".")
    }
    assert committed - {"__pycache__"} == {path.name for path in NOTEBOOKS} | {"jupytext.toml"}
