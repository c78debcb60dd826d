"""The command at the end of a page: the run's parameters file, or what is not as the notebook has it."""

import shlex

import pytest
from conftest import ROOT

from cunet import again, cli, notebook, parameters, runs


@pytest.fixture
def run(tmp_path):
    declared = parameters.declaration(ROOT / "notebooks" / "11_beyond.py")
    given = declared | dict(samples=3, tolerance=0.5, size="smoke", methods=["ddim", "unipc"], onnx=False)
    return runs.Run(tmp_path / "a run", "11_beyond", parameters=given)


def test_it_gives_the_notebook_the_same_parameters(run, monkeypatch):
    words = shlex.split(again.command(run))
    assert words[:3] == [".venv/bin/cunet", "notebook", "notebooks/11_beyond.py"]
    seen = {}
    monkeypatch.setattr(notebook, "execute", lambda path, out, given, **rest: seen.update(given) or ROOT)
    cli.app(words[1:], standalone_mode=False)
    assert seen == dict(samples=3, tolerance=0.5, size="smoke", methods=["ddim", "unipc"], onnx=False)


def test_where_the_chain_wrote_a_parameters_file_that_is_named(run):
    path = run.run_dir / "params" / "11_beyond.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("samples: 3\n")
    assert shlex.split(again.command(run))[3:] == ["--out", str(run.run_dir), "-f", str(path)]
