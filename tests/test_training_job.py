"""A training as a process of its own: what it reads, what it says when it ends, and with which status."""

import json

import pytest

from cunet import errors, training_job


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"size": "smoke", "images": 8, "batch_size": 8, "model": "unet"}))
    return path


@pytest.mark.parametrize("content", ["{", "[1]", '{"model": "nonsense"}', '{"dataset": 3}', None])
def test_bad_settings_are_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, content):
    recipe = tmp_path / "recipe.json"
    if content is not None:
        recipe.write_text(content)
    assert training_job.main(["--config", str(recipe), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(errors.said([error])) == 1 and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error, status",
    [(errors.TrainingDiverged("The loss is nan."), 2), (errors.TrainingInterrupted("x", "at step 3."), 130)],
)
def test_a_training_that_ends_before_its_end_says_so_and_leaves_its_status(
    recipe, monkeypatch, capsys, error, status
):
    def stopped(config, out, progress, renew):
        assert (config.size, config.images, progress, renew) == ("smoke", 8, False, True)
        raise error

    monkeypatch.setattr(training_job, "train", stopped)
    assert training_job.main(["--config", str(recipe), "--out", "x", "--quiet"]) == status
    assert errors.said(capsys.readouterr().err.splitlines()) == [str(error)]


def test_the_end_is_the_path_of_the_checkpoint(recipe, tmp_path, capsys):
    assert training_job.main(["--config", str(recipe), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    path = tmp_path / "out" / "mnist-unet-smoke-s0.safetensors"
    assert capsys.readouterr().out.splitlines()[-1] == f"checkpoint: {path}" and path.is_file()
