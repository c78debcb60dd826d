"""The study of solvers: a network is evaluated as the column says, and nothing is computed twice."""

import dataclasses

import pandas as pd
import pytest
import torch
from conftest import first_images

from cunet import checkpoints, convergence, datasets, models, processes, solver_study, training
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.validation import validation_losses

TINY = solver_study.Settings(
    choices=("leapfrog:1", "leapfrog:2", "rk4:4"),
    size="smoke",
    images=64,
    samples=4,
    sampling_steps=2,
    batch_size=32,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The whole study, tiny, on a hundred images: its table and its folder."""
    out = tmp_path_factory.mktemp("solvers")
    with first_images(100, out / "data"):
        yield solver_study.run(TINY, out), out


def test_every_pair_has_a_loss_and_lowered_evaluations_a_distance(study):
    frame, _ = study
    assert len(frame) == 9 and (frame["loss"] > 0).all()
    pairs = {(row.trained, row.evaluated) for row in frame.itertuples() if row.fd == row.fd}
    own = {(text, text) for text in TINY.choices}
    assert pairs == own | {("leapfrog:2", "leapfrog:1")}


def test_each_is_trained_with_its_own_solver_from_the_same_first_weights(study):
    frame, out = study
    names = {p.stem for p in (out / "checkpoints").glob("*.safetensors")}
    assert names == {
        f"mnist-cunet@solver={s},steps={n}-smoke-s0"
        for s, n in (("leapfrog", 1), ("leapfrog", 2), ("rk4", 1))
    }
    losses = solver_study.matrix(frame, TINY.choices)
    assert losses["rk4:4"].nunique() == 3  # three different networks, evaluated alike


def test_the_figure_has_a_cell_a_pair_and_a_line_a_solver(study):
    frame, _ = study
    heat, lines, distances = solver_study.figure(frame, TINY.choices).axes
    losses = solver_study.matrix(frame, TINY.choices)
    assert [text.get_text() for text in heat.texts] == [f"{loss:.3f}" for loss in losses.to_numpy().flat]
    assert heat.images[0].get_array().diagonal().tolist() == [0.0] * 3, "each row over its own solver"
    drawn = {line.get_label(): line for line in lines.get_lines()}
    assert list(drawn["leapfrog"].get_xdata()) == [1, 2] and list(drawn["rk4"].get_xdata()) == [4]
    own = [losses.loc[name, name] for name in ("leapfrog:1", "leapfrog:2")]
    assert list(drawn["leapfrog"].get_ydata()) == own and len(distances.get_lines()) == 2


def test_a_cell_is_the_network_of_its_row_with_the_solver_of_its_column(study):
    frame, out = study
    path = out / "checkpoints" / "mnist-cunet@solver=leapfrog,steps=2-smoke-s0.safetensors"
    network, card = checkpoints.load(path)
    assert network.evaluations == 9 * 2
    test = datasets.load("mnist", "test", image_size=16)
    test = datasets.ImageDataset(test.name, test.split, test.images[:100])
    changed = convergence.with_solver(network, "rk4", 1)
    expected = validation_losses(changed, test, Diffusion(**card["diffusion"]))[:, 0].mean().item()
    row = frame.set_index(["trained", "evaluated"]).loc[("leapfrog:2", "rk4:4")]
    assert row["loss"] == pytest.approx(expected, rel=1e-5) and row["evaluations"] == 9 * 4


def test_what_is_there_is_not_computed_again_and_other_settings_are_kept(study, monkeypatch):
    frame, out = study

    def fail(*_):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(solver_study, "validation_losses", fail)
        patch.setattr(training.Training, "train_step", fail)
        again = solver_study.run(TINY, out)
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    fewer = dataclasses.replace(TINY, choices=("leapfrog:1",), samples=0)
    assert len(solver_study.run(fewer, out)) == 1
    kept = pd.read_csv(out / "solvers.csv")
    assert len(kept) == 10 and set(kept["samples"]) == {0, 4}
    assert (out / "solvers.png").stat().st_size > 5000


def test_a_second_study_in_one_folder_is_refused_while_the_first_is_at_work(tmp_path):
    with processes.locked(tmp_path / "checkpoints" / ".solvers.lock", "a study"):
        with pytest.raises(InputError, match=f"The study in {tmp_path} is being made by process"):
            solver_study.run(TINY, tmp_path)


def test_the_longest_study_is_read_back_and_told_in_words(study):
    frame, out = study
    found = solver_study.kept("mnist", "smoke", out)
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    assert not len(solver_study.kept("mnist", "laptop", out)) and not len(
        solver_study.kept("x", "smoke", out)
    )
    assert not len(solver_study.kept("mnist", "smoke", out / "nothing"))
    begun = frame.assign(images=2 * TINY.images)
    for cells in (begun[:1], begun[:4], begun[:1].assign(evaluated="leapfrog:2")):
        (out / "begun").mkdir(exist_ok=True)
        pd.concat([frame, cells]).to_csv(out / "begun" / "solvers.csv", index=False)
        assert len(solver_study.kept("mnist", "smoke", out / "begun")) == 9, "one under way hides none"
    begun[:7].to_csv(out / "begun" / "solvers.csv", index=False)
    assert set(solver_study.kept("mnist", "smoke", out / "begun")["trained"]) == set(begun["trained"][:6])
    (out / "damaged").mkdir()
    (out / "damaged" / "solvers.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no table of this study"):
        solver_study.kept("mnist", "smoke", out / "damaged")


def test_findings_are_the_best_of_the_diagonal_what_lowering_costs_and_what_another_solver_does():
    calls = {"own": 10, "leapfrog:1": 9, "leapfrog:2": 18}
    losses = [[0.4, 0.8, 0.2], [0.9, 0.5, 0.7], [0.9, 1.5, 0.3]]  # trained with, evaluated with
    rows = [
        (trained, evaluated, calls[evaluated], loss)
        for trained, row in zip(calls, losses, strict=True)
        for evaluated, loss in zip(calls, row, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["trained", "evaluated", "evaluations", "loss"])
    best, lowered, other = (answer for _, answer in solver_study.findings(frame))
    assert (
        best.startswith("0.4000 with the released steps (10 ")
        and "0.3000 with leapfrog 2 (18 " in best
        and "0.5000" in best
    )
    assert lowered == "3.00 to 3.00 times (most: leapfrog 2 at leapfrog 1)"
    assert other == "0.50 to 2.00 times (least: leapfrog 2)"
    (only,) = solver_study.findings(frame[(frame.trained == "own") & (frame.evaluated == "own")])
    assert only[1] == "0.4000 with the released steps (10 evaluations a call)"


@pytest.mark.parametrize("text", ["leapfrog", "leapfrog:0", "rk4:6", "dopri5:6", "midpoint:x"])
def test_choices_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="no solver with its evaluations"):
        solver_study.Settings(choices=(text,))


@pytest.mark.parametrize("change", [{"choices": ()}, {"choices": ("rk4:4",) * 2}, {"samples": 1}])
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(InputError):
        solver_study.Settings(**change)


def test_the_released_steps_are_a_choice_and_undo_any_other():
    own, network = solver_study.choice("own"), models.build("cunet", "smoke", 1)
    assert (
        own.text == "own" and own.model == "cunet" and own in map(solver_study.choice, solver_study.CHOICES)
    )
    x = torch.zeros(1, 1, 16, 16)
    with torch.no_grad():
        expected = network(x, 5)
        changed = convergence.with_solver(network, "rk4", 2)
        assert torch.equal(own.applied(changed)(x, 5), expected)
        assert not torch.equal(changed(x, 5), expected), "and the network given is left as it was"


@pytest.mark.parametrize("text", [text for text in solver_study.CHOICES if text != "own"])
def test_a_choice_makes_the_evaluations_that_it_names(text):
    from cunet.blocks import Acceleration, ODEBlock

    chosen, calls = solver_study.choice(text), []
    force = Acceleration(4, 4, 8)
    force.register_forward_hook(lambda *_: calls.append(1))
    block = ODEBlock(force, chosen.steps, chosen.solver)
    calls.clear()
    x = torch.zeros(1, 4, 4, 4)
    block(x, x, torch.zeros(1, 8))
    assert len(calls) == chosen.evaluations == block.evaluations
