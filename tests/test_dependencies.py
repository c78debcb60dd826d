"""What a job depends on: the modules that a notebook imports, and no others."""

from cunet import dependencies


def test_a_job_depends_on_the_modules_it_imports_and_on_no_others(tmp_path):
    path = tmp_path / "01_x.py"
    path.write_text("%matplotlib inline\nfrom cunet import runs\ndef f():\n    import cunet.ode\n")
    names = {file.name for file in dependencies.modules(path)}
    assert {"__init__.py", "runs.py", "provenance.py", "errors.py", "ode.py"} <= names
    assert not {"cli.py", "report.py", "training.py"} & names


def test_relative_imports_are_followed_too(tmp_path):
    path = tmp_path / "01_x.py"
    path.write_text("from cunet import models\n")
    assert {"models.py", "continuous.py", "blocks.py", "ode.py"} <= {
        f.name for f in dependencies.modules(path)
    }
