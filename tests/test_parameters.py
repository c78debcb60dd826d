"""Parameters from people: the parameters cell, YAML and the command line."""

import jupytext
import pytest
from conftest import TINY

from cunet import parameters
from cunet.errors import InputError

CELL = 'run_dir = "r"\njob = "j"\nprofile = "p"\nseed = 0\n'


def write(tmp_path, cell, head='# %% tags=["parameters"]'):
    path = tmp_path / "01_x.py"
    path.write_text(f"# %% [markdown]\n# # X\n\n{head}\n{cell}\n# %%\nx = other = 1\n")
    return path


def test_the_parameters_cell_is_the_one_that_jupytext_finds():
    path = TINY / "01_first.py"
    cells = [c for c in jupytext.read(path).cells if "parameters" in c.metadata.get("tags", [])]
    namespace = {}
    exec(cells[0].source, namespace)
    del namespace["__builtins__"]
    assert parameters.declaration(path) == namespace


def test_literals_of_all_kinds_are_read_with_comments_and_over_several_lines(tmp_path):
    cell = CELL + "lr: float = 1e-4  # a rate\nneg = -1\nlist_ = [\n    1,\n    2,\n]\nnone = None\n"
    declared = parameters.declaration(write(tmp_path, cell))
    assert declared["lr"] == 1e-4 and declared["neg"] == -1 and declared["list_"] == [1, 2]
    assert declared["none"] is None and "x" not in declared


@pytest.mark.parametrize(
    "line, message",
    [
        ("n = 1 + x", "n = 1 \\+ x"),
        ("import os", "import os"),
        ("a, b = 1, 2", "a plain literal"),
        ("n: int", "a plain literal"),
        ("n = (", "is not Python"),
    ],
)
def test_anything_but_plain_literals_is_refused(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        parameters.declaration(write(tmp_path, CELL + line))


def test_a_notebook_needs_one_parameters_cell_with_what_every_notebook_has(tmp_path):
    with pytest.raises(InputError, match="0 cells tagged 'parameters'"):
        parameters.declaration(write(tmp_path, CELL, head="# %%"))
    with pytest.raises(InputError, match="lacks job, profile"):
        parameters.declaration(write(tmp_path, 'run_dir = "r"\nseed = 0\n'))


def test_values_are_converted_to_the_type_of_the_literal(tmp_path):
    path = tmp_path / "x.py"
    declared = {"rate": 0.5, "steps": (1, 2), "rates": [0.1], "any": None, "empty": [], "n": 1}
    given = {"rate": 2, "steps": [3], "rates": [1, 0.5], "any": {"a": 1}, "empty": ["x"], "n": 5}
    checked = parameters.validate(declared, given, path)
    assert checked == {
        "rate": 2.0,
        "steps": (3,),
        "rates": [1.0, 0.5],
        "any": {"a": 1},
        "empty": ["x"],
        "n": 5,
    }
    assert isinstance(checked["rate"], float) and isinstance(checked["rates"][0], float)


def test_yaml_reads_1e_4_as_a_number_and_refuses_a_key_given_twice():
    assert parameters.load_yaml("lr: 1e-4\nn: 3\nt: 12e", "x") == {"lr": 1e-4, "n": 3, "t": "12e"}
    with pytest.raises(InputError, match="x is not valid YAML: 'n' is there twice"):
        parameters.load_yaml("n: 1\nn: 2", "x")


@pytest.mark.parametrize(
    "text", ["a: [", "!!python/object/apply:os.system [ls]", "\t- a: b: c", "? {a: 1}: 2"]
)
def test_yaml_that_is_broken_or_would_make_objects_is_refused(text):
    with pytest.raises(InputError, match="not valid YAML"):
        parameters.load_yaml(text, "x")


def test_assignments_are_yaml_unless_the_literal_is_text():
    declared = {"name": "a", "n": 1}
    assert parameters.assignments(["n=3", "name=3", "m=[1, b]"], declared) == {
        "n": 3,
        "name": "3",
        "m": [1, "b"],
    }
    assert parameters.assignments(["name=a=b"], declared) == {"name": "a=b"}


@pytest.mark.parametrize("pair", ["n", "=3", ""])
def test_what_is_no_assignment_is_refused(pair):
    with pytest.raises(InputError, match="not of the form key=value"):
        parameters.assignments([pair])


@pytest.mark.parametrize("content", ["- a", "3", "a: ["])
def test_a_parameters_file_holds_names_and_values(tmp_path, content):
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="p.yaml"):
        parameters.parameters_file(path)
    path.write_text("")
    assert parameters.parameters_file(path) == {}
