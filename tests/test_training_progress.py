"""The loss curve of a training and its bar."""

import pytest

from cunet.recipe import configure
from cunet.training_progress import Progress

LOSSES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def progress(**changes) -> Progress:
    return Progress(configure({"batch_size": 8, "images": 56, "log_every": 20, **changes}))


def logged(curve: Progress, losses: list[float], step: int = 0) -> Progress:
    for loss in losses:
        step += 1
        curve.log(loss, step, step / 2, last=step == len(LOSSES))
    return curve


def test_a_point_of_the_curve_is_the_mean_since_the_one_before_and_the_last_step_has_one():
    curve = logged(progress(), LOSSES)
    assert curve.loss_curve == [[24, 2.0], [40, 4.5], [56, 6.5]] and curve.window == [0.0, 0]


@pytest.mark.parametrize("stop", range(1, len(LOSSES)))
def test_a_curve_goes_on_in_the_middle_of_a_mean(stop):
    before, after = logged(progress(), LOSSES[:stop]), progress()
    after.loss_curve, after.window = before.loss_curve, before.window
    assert logged(after, LOSSES[stop:], stop).loss_curve == logged(progress(), LOSSES).loss_curve


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": 80}, ["80/80", "loss=2.0000"]),
        ({"max_seconds": 5.0}, ["100%", "loss=2.0000", "images/s=16.0"]),
    ],
    ids=["images", "seconds"],
)
def test_the_bar_counts_what_the_budget_is(capsys, changes, words):
    shown = progress(**changes)
    with shown.bar(0, 0.0, show=True) as bar:
        for step in range(1, 11):
            shown.log(2.0, step, step / 2, last=False)
            assert bar.n == (step / 2 if shown.timed else step * 8)
        shown.tell("half of it")
    said = capsys.readouterr().err
    assert all(word in said for word in words) and f"{shown.config.name}: half of it\n" in said


def test_a_bar_that_goes_on_begins_where_the_training_does():
    shown = progress()
    with shown.bar(3, 1.5, show=True) as bar:
        assert (bar.n, bar.total) == (24, 56)


def test_what_is_not_shown_writes_nothing(capsys):
    silent = progress()
    with silent.bar(0, 0.0, show=False):
        logged(silent, LOSSES)
        silent.tell("half of it")
    assert capsys.readouterr() == ("", "") and len(silent.loss_curve) == 3
