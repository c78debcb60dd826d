"""Sweeps: each combination once, names that are files' names, and one tidy table."""

import pandas as pd
import pytest

from cunet import chain, folders, profiles, reproduce, runs, sweep
from cunet.errors import InputError

BASE = "size: smoke\ncheckpoints: train\nnotebooks: {05_training: , 06_sampling: }\n"


@pytest.fixture
def planned(tmp_path):
    def plan(text: str) -> chain.Plan:
        path = tmp_path / "sweep.yaml"
        path.write_text(BASE + text)
        return chain.plan(profiles.load(str(path)), reproduce.folder("none"))

    return plan


def test_a_profile_trains_each_combination_of_its_lists_once(planned):
    plan = planned(
        "datasets: [mnist, avatars]\nmodels: [unet, cunet, cunet-released]\n"
        "solvers: [rk4, leapfrog]\nseeds: [0, 1, 2]\n"
    )
    trained = plan.of("05_training")
    assert len(trained) == 2 * (1 + 2 + 1) * 3 == len({job.name for job in trained})
    assert {job.parameters["model"] for job in trained} == {
        *("unet", "cunet@solver=rk4", "cunet@solver=leapfrog", "cunet-released")
    }
    assert plan.of("06_sampling")[0].parameters["models"][1] == "cunet@solver=rk4"
    chain.check(plan)
    for job in trained:
        folders.check_name(job.name, "job")


def test_a_model_may_carry_changes_and_keeps_a_solver_of_its_own(planned):
    profile = planned('models: ["cunet@steps=4", "cunet@solver=rk4,steps=1"]\nsolvers: [leapfrog]\n').profile
    assert profile.networks() == ["cunet@steps=4,solver=leapfrog", "cunet@solver=rk4,steps=1"]


def test_a_solver_or_a_change_that_there_is_not_is_refused_before_the_first_job(planned):
    for text in ("solvers: [rk44]\n", 'models: ["cunet@stepps=4"]\n'):
        with pytest.raises(InputError, match="rk44|stepps"):
            chain.check(planned(text))


def test_the_table_has_a_row_a_training_and_a_column_a_variable(tmp_path):
    for model, seed, loss in (("unet", 0, 0.5), ("cunet@solver=rk4,steps=1", 0, 0.4), ("cunet", 1, 0.3)):
        job = f"05_training-mnist-{folders.slug(model, '+')}-s{seed}"
        given = dict(dataset="mnist", model=model, size="smoke", seed=seed, variant="", images=64)
        found = dict(validation_loss=loss, parameters=9, images_seen=64, steps=4)
        timings = {"training": {"wall_time_s": 2.0, "images_per_second": 32.0, "threads": 1}}
        runs.Run(tmp_path, job, "smoke", given).save_result(found, timings=timings)
    runs.Run(tmp_path, "06_sampling", "smoke", {"model": "x"}).save_result({})
    path = sweep.save(tmp_path, runs.results(tmp_path))
    frame = pd.read_csv(path, keep_default_na=False).set_index(["model", "solver", "seed"])
    assert len(frame) == 3 and frame.index.is_unique
    assert frame.loc[("cunet", "rk4", 0), "changes"] == "steps=1"
    assert frame.loc[("cunet", "", 1), "validation_loss"] == 0.3
    assert set(frame.images_per_second) == {32.0}


def test_one_training_is_no_sweep(tmp_path):
    runs.Run(tmp_path, "05_training-a", "smoke", dict(dataset="mnist", model="unet")).save_result(
        {"validation_loss": 1.0}
    )
    assert sweep.save(tmp_path, runs.results(tmp_path)) is None and not (tmp_path / "sweep.csv").exists()
