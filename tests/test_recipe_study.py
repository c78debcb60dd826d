"""The study of recipes: one yardstick for all, each variation trained as it says, nothing computed twice."""

import dataclasses
import math

import pandas as pd
import pytest
import torch
from conftest import first_images
from torch import nn

from cunet import (
    checkpoints,
    datasets,
    processes,
    recipe_choices,
    recipe_figures,
    recipe_loss,
    recipe_study,
    storage,
    training,
    validation,
)
from cunet.diffusion import PREDICTION_TYPES, SCHEDULES, Diffusion
from cunet.errors import InputError, TrainingDiverged
from cunet.recipe import TrainConfig

HO = "schedule=linear,prediction_type=epsilon"
TINY = recipe_study.Settings(
    variations=("", "prediction_type=epsilon,schedule=linear", "loss_weighting=min_snr"),
    models=("unet", "cunet"),
    size="smoke",
    images=64,
    samples=0,
    sampling_steps=2,
)


def few(count: int) -> datasets.ImageDataset:
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    return datasets.ImageDataset("mnist", "test", images.to(torch.uint8))


class Answer(nn.Module):
    """A network whose clean image is what `see` makes of the noisy one."""

    def __init__(self, diffusion, see):
        super().__init__()
        self.diffusion, self.see, self.weight = diffusion, see, nn.Parameter(torch.zeros(()))

    def forward(self, x, t):
        wide = x.double()
        return self.diffusion.to_output(self.see(wide, t), wide, t)


# --- the yardstick


def test_without_clipping_the_released_recipe_has_its_validation_loss():
    usual = TrainConfig()
    diffusion = Diffusion(usual.schedule, usual.timesteps, usual.prediction_type)
    network = Answer(diffusion, lambda x, t: 1.5 * x.tanh())
    ours = recipe_loss.v_losses(network, few(130), diffusion, clip=False)
    theirs = validation.validation_losses(network, few(130), diffusion)
    assert torch.equal(ours[:, 1], theirs[:, 1])
    torch.testing.assert_close(ours[:, 0], theirs[:, 0], rtol=1e-4, atol=1e-6)
    clipped = recipe_loss.v_losses(network, few(130), diffusion)
    assert (clipped[:, 0] <= ours[:, 0] + 1e-12).all() and clipped[:, 0].mean() < ours[:, 0].mean()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_loss_is_that_of_the_clean_image_whatever_the_network_is_asked_for(schedule, kind):
    """A network that sees a grey image everywhere: (1 + SNR) times the mean square of the data."""
    diffusion = Diffusion(schedule, prediction_type=kind)
    network, data = Answer(diffusion, lambda x, t: torch.zeros_like(x)), few(20)
    found = recipe_loss.v_losses(network, data, diffusion)
    abar = diffusion.alphas_cumprod[found[:, 1].long()]
    expected = data.batch(slice(20)).double().square().mean((1, 2, 3)) / (1 - abar)
    visible = abar > 1e-6  # nearer to no signal epsilon, in 32 bits, is no clean image any more
    torch.testing.assert_close(found[visible, 0], expected[visible], rtol=1e-2, atol=1e-3)
    assert (found[~visible, 0] <= 4.1).all(), "clipped, no error is larger"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_are_asked_at_the_same_levels_of_noise(schedule):
    own, usual = Diffusion(schedule), Diffusion("cosine")
    t = torch.arange(1000)
    at = recipe_loss.nearest_steps(own, usual, t)
    wanted, found = usual.snr(t).log(), own.snr(at).log()
    step = own.snr(t).log().diff().abs()
    limits = own.snr(t[[-1, 0]]).log()
    inside = (wanted > limits[0]) & (wanted < limits[1])
    gap = (found - wanted).abs()[inside]
    room = torch.maximum(step[(at[inside] - 1).clamp(0, 998)], step[at[inside].clamp(0, 998)])
    assert (gap <= room / 2 + 1e-9).all() and inside.double().mean() > 0.9
    if schedule == "cosine":
        assert torch.equal(at, t)


# --- variations


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "released"),
        ("released", "released"),
        ("schedule=cosine", "released"),
        ("learning_rate=5e-4", "learning_rate=0.0005"),
        ("ema_decay=0.0", "ema_decay=0"),
        ("flip=true", "flip=true"),
        ("prediction_type=epsilon, schedule=linear", HO),
    ],
)
def test_a_variation_has_one_text_which_gives_the_same_settings(text, expected):
    assert recipe_choices.canonical(text) == expected
    assert recipe_choices.changes(expected) == recipe_choices.changes(text)


def test_the_variations_are_written_as_they_are_kept_and_no_two_train_the_same():
    kept = [recipe_choices.canonical(text) for text in recipe_choices.VARIATIONS]
    assert tuple(kept) == recipe_choices.VARIATIONS and len(set(kept)) == len(kept)
    usual = recipe_study.Settings()
    names = {usual.recipe(text, "cunet").name for text in kept}
    assert len(names) == len(kept)
    steps = -(-usual.images // TrainConfig().batch_size)
    for text in kept:  # of two averages whose decay is never reached, one is the other
        decay = recipe_choices.changes(text).get("ema_decay", 0.0)
        assert decay < steps / (9 + steps), text


@pytest.mark.parametrize(
    "text, message",
    [
        ("images=3", "no part of a recipe"),
        ("learning_rat=3", "learning_rat=3"),
        ("learning_rate=-1", "learning_rate=-1"),
        ("schedule=liner", "liner"),
        ("loss_weighting=snr", "snr"),
        ("schedule", "key=value"),
        ("ema_decay=0,ema_decay=0.9", "twice"),
    ],
)
def test_variations_that_are_none_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        recipe_study.Settings(variations=(text,))


@pytest.mark.parametrize(
    "change", [{"models": ()}, {"models": ("nonet",)}, {"variations": ("", "released")}, {"samples": 1}]
)
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(InputError):
        recipe_study.Settings(**change)


def test_the_released_recipe_is_always_among_the_variations():
    assert recipe_study.Settings(variations=("flip=true",)).variations == ("released", "flip=true")


# --- the study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The whole study, tiny, on a hundred images: its table and its folder."""
    out = tmp_path_factory.mktemp("recipes")
    with first_images(100, out / "data"):
        yield recipe_study.run(TINY, out), out


def test_each_variation_is_trained_as_it_says_and_measured_by_the_yardstick(study):
    frame, out = study
    assert list(frame["variation"].unique()) == ["released", HO, "loss_weighting=min_snr"]
    assert len(frame) == 6 and frame["loss"].between(0, 100).all() and frame["fd"].isna().all()
    row = frame.set_index(["variation", "model"]).loc[(HO, "cunet")]
    name = "mnist-cunet-smoke-s0-schedule_linear_prediction_type_epsilon.safetensors"
    network, card = checkpoints.load(out / "checkpoints" / name)
    diffusion = Diffusion(**card["diffusion"])
    assert (diffusion.schedule, diffusion.prediction_type) == ("linear", "epsilon")
    test = datasets.load("mnist", "test", image_size=16)
    expected = recipe_loss.v_losses(network, test, diffusion)[:, 0].mean().item()
    assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert row["validation_loss"] == card["validation_loss"]
    _, card = checkpoints.load(out / "checkpoints" / "mnist-unet-smoke-s0-loss_weighting_min_snr.safetensors")
    changed = {"loss_weighting": "min_snr", "variant": "loss_weighting_min_snr"}
    assert card["recipe"] == TINY.recipe("", "unet").model_dump() | changed


def test_what_is_there_is_not_computed_again_with_or_without_its_checkpoint(study, monkeypatch):
    frame, out = study

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(recipe_study, "v_losses", fail)
    monkeypatch.setattr(training.Training, "train_step", fail)
    pd.testing.assert_frame_equal(recipe_study.run(TINY, out), frame, check_dtype=False)
    storage.remove(out / "checkpoints" / "mnist-unet-smoke-s0.safetensors")
    pd.testing.assert_frame_equal(recipe_study.run(TINY, out), frame, check_dtype=False)
    assert (out / "recipes.png").stat().st_size > 5000


def test_a_training_that_diverges_is_a_row_and_ends_nothing(study, monkeypatch, capsys):
    frame, out = study

    def fail(*_):
        raise TrainingDiverged("The loss is nan.")

    monkeypatch.setattr(training, "train", fail)
    further = dataclasses.replace(TINY, variations=("learning_rate=9",), models=("cunet",))
    rows = recipe_study.run(further, out).set_index("variation")
    assert rows["loss"]["learning_rate=9"] == math.inf and "The loss is nan" in capsys.readouterr().err
    assert rows["loss"]["released"] == frame["loss"][1]
    again = pd.read_csv(out / "recipes.csv")
    assert len(again) == 7 and again["loss"].iloc[-1] == math.inf


def test_a_second_study_in_one_folder_is_refused_while_the_first_is_at_work(tmp_path):
    with processes.locked(tmp_path / "checkpoints" / ".recipes.lock", "a study"):
        with pytest.raises(InputError, match=f"The study in {tmp_path} is being made by process"):
            recipe_study.run(TINY, tmp_path)


def test_released_networks_of_several_seeds_are_measured_for_the_spread(tmp_path, monkeypatch):
    paths = {s: checkpoints.released("mnist", "cunet", "laptop", s) for s in range(3)}
    measured = []
    monkeypatch.setattr(datasets, "load", lambda *_, **__: few(4))
    monkeypatch.setattr(recipe_study.Study, "measure", lambda self, *row: measured.append(row))
    work = recipe_study.Study(recipe_study.Settings(), tmp_path)
    work.shipped("cunet-noattn")
    assert not measured, "one seed has no spread"
    work.shipped("cunet")
    assert {key[5]: path for key, path in measured} == paths
    assert {key[:5] for key, _ in measured} == {("shipped", "cunet", 200_000, "mnist", "laptop")}


# --- what is read back


def rows(losses: dict, fd: float = 1.0, **changes) -> pd.DataFrame:
    """A table of variation -> losses of the two networks."""
    about = dict(images=64, dataset="mnist", size="smoke", seed=0, samples=4, sampling_steps=2) | changes
    return pd.DataFrame(
        [
            dict(variation=text, model=model, **about, loss=loss, fd=fd, validation_loss=loss)
            for text, pair in losses.items()
            for model, loss in zip(("unet", "cunet"), pair, strict=True)
        ]
    )


STUDY = rows({"ema_decay=0": (0.5, 0.45), "released": (1.0, 0.9), "flip=true": (2.0, math.inf)})


@pytest.fixture
def folder(tmp_path):
    """A folder with that study, one under way, one of another size, and shipped networks of three seeds."""
    parts = [STUDY, rows({"released": (1.0, 1.0)}, images=128), rows({"released": (1, 1)}, size="laptop")]
    parts += [rows({"shipped": (1.0, loss)}, images=512, seed=s) for s, loss in enumerate((1.0, 1.1, 1.05))]
    pd.concat(parts).to_csv(tmp_path / "recipes.csv", index=False)
    return tmp_path


def test_the_longest_study_that_varies_something_is_read_back(folder):
    found = recipe_study.kept("mnist", "smoke", folder)
    assert list(found["variation"].unique()) == ["released", "ema_decay=0", "flip=true"]
    assert set(found["images"]) == {64} and found["loss"].tolist() == [1.0, 0.9, 0.5, 0.45, 2.0, math.inf]
    for other in (
        ("mnist", "laptop", folder),
        ("avatars", "smoke", folder),
        ("mnist", "smoke", folder / "x"),
    ):
        assert not len(recipe_study.kept(*other))
    (folder / "recipes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no table of this study"):
        recipe_study.kept("mnist", "smoke", folder)


def test_the_spread_is_that_of_the_studys_own_seeds_or_of_the_longest_trainings(folder):
    found = recipe_study.kept("mnist", "smoke", folder)
    shipped = recipe_study.spread(found, folder)
    assert (
        shipped.ratio == pytest.approx(1.1)
        and shipped.words == "3 trainings of cU-Net as described on 512 images"
    )
    every = pd.concat([pd.read_csv(folder / "recipes.csv"), rows({"released": (1.0, 1.08)}, seed=1)])
    every.to_csv(folder / "recipes.csv", index=False)
    own = recipe_study.spread(found, folder)
    assert own.ratio == pytest.approx(1.2) and own.words == "2 trainings of cU-Net as described on 64 images"
    assert math.isnan(recipe_study.spread(found, folder / "nothing").ratio)


def test_findings_are_the_best_and_the_worst_what_helps_all_and_how_far_networks_agree():
    unet, cunet, all_of, ranks = (answer for _, answer in recipe_study.findings(STUDY, 1.1))
    assert unet == "0.500 with ema_decay=0, to 2.000 with flip=true"
    assert cunet == "0.500 with ema_decay=0, to inf with flip=true"
    assert all_of == "ema_decay=0" and ranks == "1.00 over 3 recipes"
    assert (
        dict(recipe_study.findings(STUDY, 3.0))[
            "recipes that lower the loss of every network by more than seeds do"
        ]
        == "none"
    )


def test_table_and_figure_show_every_variation_and_name_what_diverged():
    table = recipe_figures.table(STUDY)
    assert table["recipe"].tolist() == ["ema_decay=0", "the released recipe", "flip=true"]
    assert table["ratio, U-Net"].tolist() == [0.5, 1.0, 2.0] and "FD-AlexNet, U-Net" in table
    assert "FD-AlexNet, U-Net" not in recipe_figures.table(STUDY.assign(fd=math.nan))
    drawn = recipe_figures.figure(STUDY, 1.1)
    loss, distance = drawn.axes
    assert [text.get_text() for text in loss.get_yticklabels()] == table["recipe"].tolist()
    assert [text.get_text() for text in loss.texts] == ["diverged"]
    assert len(loss.patches) == 1 and not distance.patches, "the spread is one of losses"
    assert len(recipe_figures.figure(STUDY.assign(fd=math.nan)).axes) == 1
