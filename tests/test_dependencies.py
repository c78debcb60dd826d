"""What a job depends on: the modules that a notebook imports, and no others."""

import pytest

from cunet import (
    chain,
    denoisers,
    dependencies,
    pages,
    profiles,
    recipe_study,
    results_page,
    solver_study,
)


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


def test_the_report_depends_on_the_templates_and_the_style_of_its_pages():
    found = {path.resolve() for path in dependencies.report_sources()}
    assert pages.TEMPLATES == chain.PACKAGE / "assets" / "pages"
    assert {pages.TEMPLATES / name for name in ("base.html", "report.html", "style.css")} <= found
    assert {chain.PACKAGE / name for name in ("report.py", "pages.py")} <= found


def checkpoints_of(stem: str, root, *settings: str) -> list[str]:
    """Of some made-up checkpoints those that a notebook's first job depends on under `laptop`."""
    plan = chain.plan(profiles.load("laptop", list(settings)), root / "run")
    job, *_ = plan.of(stem)
    there = root / "assets" / "checkpoints"
    return sorted(
        {path.stem for pattern in dependencies._checkpoints(plan, job) for path in there.glob(pattern)}
    )


def test_a_notebook_depends_on_the_checkpoints_that_it_reads_and_on_no_others(tmp_path):
    there = tmp_path / "assets" / "checkpoints"
    there.mkdir(parents=True)
    names = [
        "mnist-cunet",
        "mnist-unet",
        "mnist-cunet-nores",
        "avatars-cunet",
        "avatars-dncnn",
        "mnist-autoencoder",
    ]
    told = ["mnist-cunet@classes=10", "avatars-unet@classes=4"]
    names += [*told, "avatars-unet@classes=10", "avatars-cunet-randomdepth", "mnist-cunet@time_width=256"]
    names += ["mnist-cunet@widths=(8,20,40,56),steps=2"]
    names = [f"{name}-laptop-s0" for name in names] + ["mnist-dncnn-laptop-s0-l50"]
    for name in names:
        (there / f"{name}.safetensors").touch()
    assert set(dependencies.RIVALS) == set(denoisers.NETWORKS)
    both = ["mnist-cunet-laptop-s0", "mnist-unet-laptop-s0"]
    assert checkpoints_of("02_adjoint", tmp_path) == both[:1]
    rivals = ["avatars-dncnn-laptop-s0", "mnist-autoencoder-laptop-s0", "mnist-dncnn-laptop-s0-l50"]
    assert checkpoints_of("09_denoisers", tmp_path) == sorted([*both, "avatars-cunet-laptop-s0", *rivals])
    by_class = [f"{name}-laptop-s0" for name in told]
    assert checkpoints_of("11_beyond", tmp_path) == sorted([*both, *by_class]), "each its data set's classes"
    ablated = checkpoints_of("10_ablations", tmp_path)
    expected = [*both, "mnist-cunet-nores-laptop-s0", "avatars-cunet-laptop-s0"]
    expected += ["mnist-cunet@time_width=256-laptop-s0"]
    expected += ["mnist-cunet@widths=(8,20,40,56),steps=2-laptop-s0"]
    assert ablated == sorted(expected), "with the discrete network beside them, remedies, and earlier forms"
    assert checkpoints_of("05_training", tmp_path) == [both[1]], "its own, and no other"
    assert checkpoints_of("03_sde", tmp_path) == []


def test_a_notebooks_own_line_says_whether_it_reads_released_checkpoints(tmp_path):
    there = tmp_path / "assets" / "checkpoints"
    there.mkdir(parents=True)
    (there / "mnist-unet-laptop-s0.safetensors").touch()
    line = "06_sampling.checkpoints"
    assert checkpoints_of("06_sampling", tmp_path, "checkpoints=train") == []
    own = checkpoints_of("06_sampling", tmp_path, "checkpoints=train", f"{line}=released")
    assert own == ["mnist-unet-laptop-s0"]
    assert checkpoints_of("06_sampling", tmp_path, f"{line}=train") == []


@pytest.mark.parametrize(
    "words, path, reader",
    [
        ("solver_study.kept(", solver_study.KEPT / "solvers.csv", "11_beyond"),
        ("recipe_study.kept(", recipe_study.KEPT / "recipes.csv", "05_training"),
        *(
            (f"bench{name}", results_page.BENCH / f"bench{name}", "04_networks")
            for name in ("_variants.csv", "_operators.csv", "_throughput.csv", "_growth.csv", ".csv", ".json")
        ),
    ],
)
def test_a_notebook_that_reads_a_committed_measurement_depends_on_it_once_it_is_there(
    tmp_path, monkeypatch, words, path, reader
):
    plan = chain.plan(profiles.load("laptop"), tmp_path / "run")
    assert dependencies.MEASURED[words] == path
    monkeypatch.setattr(dependencies, "MEASURED", {words: tmp_path / path.name})
    for expected in (set(), {reader}):
        reads = {
            stem
            for stem in ("04_networks", "05_training", "10_ablations", "11_beyond")
            if tmp_path / path.name in dependencies.sources(plan, plan.of(stem)[0])
        }
        assert reads == expected
        (tmp_path / path.name).touch()
