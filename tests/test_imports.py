"""What importing costs: a module that is hidden meanwhile, and what the library leaves to its users."""

import importlib
import subprocess
import sys

import pytest

from cunet import imports


def test_a_module_is_hidden_from_those_who_import_it_meanwhile_only(tmp_path, monkeypatch):
    (tmp_path / "seldom_wanted.py").write_text("there = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with imports.hidden("seldom_wanted"), pytest.raises(ImportError):
        importlib.import_module("seldom_wanted")
    assert importlib.import_module("seldom_wanted").there
    with imports.hidden("seldom_wanted"):  # who has it already keeps it
        assert importlib.import_module("seldom_wanted").there


def test_what_most_notebooks_import_loads_nothing_that_takes_as_long_as_torch():
    """Every kernel and every job of a chain would wait for it."""
    modules = "models, checkpoints, datasets, devices, figures, frechet, metrics, runs, sampling"
    heavy = ("torch._dynamo", "lightning_fabric", "diffusers", "torchvision", "torchmetrics")
    told = f"import sys; from cunet import {modules}; print([x for x in {heavy!r} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
