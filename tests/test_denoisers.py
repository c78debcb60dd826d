"""The other denoisers: counts, the one interface, from a diffusion step to a noise level, training."""

import dataclasses
import itertools
import json
import math
import os
import signal
from functools import cache, partial

import pytest
import torch

from cunet import (
    checkpoints,
    datasets,
    denoiser_state,
    denoiser_training,
    denoisers,
    denoising,
    models,
    provenance,
    resume,
    storage,
)
from cunet.diffusion import Diffusion
from cunet.errors import InputError, TrainingDiverged
from cunet.sampling import NoiseStreams


@pytest.fixture(scope="module", autouse=True)
def each_data_set_is_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", cache(datasets.load))
        patch.setattr(denoiser_training, "VALIDATION_IMAGES", 100)
        yield


@pytest.fixture(scope="module")
def digits(each_data_set_is_read_once):
    return datasets.load("mnist", "test", 16).batch(slice(0, 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, each_data_set_is_read_once):
    """A small checkpoint of each network; DnCNN has 4 layers in place of 20, and learns sooner."""
    out = tmp_path_factory.mktemp("denoisers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(denoisers.WIDTHS, "smoke", 8)
        patch.setitem(denoisers.NETWORKS, "dncnn", partial(denoisers.DnCNN, depth=4))
        for method, images in (("autoencoder", 1600), ("dncnn", 960)):
            recipe = denoiser_training.Recipe(
                method, size="smoke", images=images, batch_size=16, warmup=10, learning_rate=1e-2
            )
            denoiser_training.train(recipe, out, progress=False)
        yield out


def smoke(name="cunet", channels=1, **settings):
    torch.manual_seed(0)
    network = models.build(name, "smoke", channels)
    return denoisers.Diffusing(network, Diffusion(), **settings)


@pytest.mark.parametrize("name, count", [("dncnn", 669_312), ("autoencoder", None)])
def test_dncnn_counts_as_many_parameters_as_the_authors(name, count):
    with torch.device("meta"):
        network = denoisers.build(name)
    found = sum(p.numel() for p in network.parameters())
    assert found == count if count else found > 1e6
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert name != "dncnn" or len(convolutions) == 20


def test_dncnn_with_a_silent_last_layer_gives_back_its_input(digits):
    network = denoisers.build("dncnn", "smoke", 1).eval()
    torch.nn.init.zeros_(network.layers[-1].weight)
    assert torch.equal(network(digits), digits)


@pytest.mark.parametrize("level", [50, 400])
def test_undoing_the_scaling_leaves_the_image_plus_noise_of_the_stated_strength(level):
    diffusion = Diffusion()
    images = datasets.load("mnist", "test", 16).batch(slice(0, 200))
    noise = denoisers.noisy_images(diffusion, images, level, seed=3) - images
    std = denoising.noise_std(diffusion, level)
    assert float(noise.std()) == pytest.approx(std, rel=0.02)  # 51,200 numbers: 0.3 %
    assert denoising.level_for(diffusion, std) == level
    correlation = torch.corrcoef(torch.stack([noise.flatten(), images.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.03  # x_t itself, darker, has -0.2 at 400 steps


def test_all_methods_get_the_noise_that_the_tables_of_denoising_have(digits):
    seen = []

    def network(x, t):
        seen.append((int(t[0]), x.clone()))
        return torch.zeros_like(x)

    diffusion = Diffusion()
    denoising.denoise(network, digits, diffusion, [30], metrics=["psnr"], stride=30, seed=5)
    at, x_t = max(((t, x) for t, x in seen), key=lambda pair: pair[0])
    assert at == 29
    mine = denoisers.noisy_images(diffusion, digits, 30, seed=5)
    assert torch.allclose(mine * diffusion.alphas_cumprod[29].sqrt(), x_t, atol=1e-6)


def test_a_perfect_network_behind_the_interface_gives_the_clean_image(digits):
    """And is asked where the noise level says, then ever lower."""
    denoiser, diffusion = smoke(steps=4), Diffusion()
    asked = []

    def perfect(x, t):
        asked.append(int(t[0]))
        return diffusion.to_output(digits, x, t)

    perfect.channels, perfect.image_size = 1, 16
    denoiser.network = perfect
    for level in (3, 202):
        noisy = denoisers.noisy_images(diffusion, digits, level)
        clean = denoiser(noisy, denoising.noise_std(diffusion, level))
        assert torch.allclose(clean, digits, atol=1e-4)
    assert asked == [2, 1, 0, 201, 151, 100, 50], "rounded as every chain, at most a call a step of the level"


def test_one_step_is_the_network_s_estimate_of_the_clean_image(digits):
    denoiser, diffusion = smoke(steps=1), Diffusion()
    noisy = denoisers.noisy_images(diffusion, digits, 120)
    x_t = noisy * float(diffusion.alphas_cumprod[119].sqrt())
    with torch.no_grad():
        v = denoiser.network.eval()(x_t, torch.full((len(x_t),), 119))
    expected = diffusion.to_x0(v, x_t, 119).clamp(-1, 1)
    found = denoiser(noisy, denoising.noise_std(diffusion, 120))
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("method", denoisers.NETWORKS)
def test_training_makes_a_denoiser_that_beats_its_input(trained, method):
    denoiser = denoisers.load(method, size="smoke", folder=trained)
    rows = {level: (mse, noisy) for level, mse, noisy in denoiser.card["validation_mse"]}
    assert rows[400][0] < 0.9 * rows[400][1]
    curve = denoiser.card["loss_curve"]
    assert curve[-1][1] < curve[0][1] and denoiser.card["images_seen"] in (960, 1600)
    images = datasets.load("mnist", "test", 16).batch(slice(0, 100))
    noisy = denoisers.noisy_images(Diffusion(), images, 400)
    clean = denoiser(noisy, denoising.noise_std(Diffusion(), 400))
    errors = [float((x - images).square().mean()) for x in (clean, noisy.clamp(-1, 1))]
    assert clean.shape == images.shape and clean.abs().max() <= 1 and errors[0] < 0.9 * errors[1]
    assert errors[0] == pytest.approx(rows[400][0], rel=0.3), "what the card says, on other images"


def test_training_is_a_function_of_its_recipe_and_is_not_repeated(trained, tmp_path):
    recipe = denoiser_training.Recipe("dncnn", size="smoke", images=32, batch_size=16)
    first, second = (denoiser_training.train(recipe, tmp_path / d, progress=False) for d in "ab")
    a, b = (checkpoints.load(path)[0].state_dict() for path in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    stamp = first.stat().st_mtime_ns
    assert denoiser_training.train(recipe, tmp_path / "a", progress=False) == first
    assert first.stat().st_mtime_ns == stamp and torch.equal(torch.rand(2), expected)
    with pytest.raises(InputError, match="highest was 800, is now 400"):
        other = denoiser_training.Recipe("dncnn", size="smoke", images=32, batch_size=16, highest=400)
        denoiser_training.train(other, tmp_path / "a", progress=False)


@pytest.mark.parametrize("method, stop_at", [("dncnn", 3), ("autoencoder", 5)])
def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path, monkeypatch, method, stop_at):
    recipe = denoiser_training.Recipe(method, size="smoke", images=96, batch_size=16)
    whole = checkpoints.verify(denoiser_training.train(recipe, tmp_path / "whole", progress=False))
    path = tmp_path / "parts" / f"{recipe.name}.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(denoiser_state, "SECONDS", 0.0)
        rate = denoiser_training.Recipe.rate

        def stops(self, step, share):
            if step == stop_at:
                raise KeyboardInterrupt
            return rate(self, step, share)

        patch.setattr(denoiser_training.Recipe, "rate", stops)
        with pytest.raises(KeyboardInterrupt):
            denoiser_training.train(recipe, path.parent, progress=False)
    state = resume.state_path(path)
    assert storage.read(state)[1]["step"] == stop_at and not path.exists()
    other = dataclasses.replace(recipe, highest=400)
    with pytest.raises(
        InputError, match=r"state.safetensors was trained with other settings: highest was 800"
    ):
        denoiser_training.train(other, path.parent, progress=False)
    denoiser_training.train(recipe, path.parent, progress=False)
    again = checkpoints.verify(path)
    same = ("sha256", "loss_curve", "validation_mse", "images_seen", "dtype", "code")
    assert {key: again[key] for key in same} == {key: whole[key] for key in same}
    assert not storage.exists(state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_step_with_its_state_saved(tmp_path, monkeypatch, capsys, number):
    recipe = denoiser_training.Recipe("autoencoder", size="smoke", images=96, batch_size=16)
    whole = checkpoints.verify(denoiser_training.train(recipe, tmp_path / "whole", progress=False))
    given = ["--method", "autoencoder", "--size", "smoke", "--images", "96", "--batch-size", "16"]
    given += ["--quiet", "--out", str(tmp_path / "parts")]
    state = tmp_path / "parts" / f"{recipe.name}.state.safetensors"
    rate, handlers = denoiser_training.Recipe.rate, [signal.getsignal(n) for n in (2, 15)]

    def signalled(self, step, share):
        if step == 3:
            os.kill(os.getpid(), number)
        return rate(self, step, share)

    with monkeypatch.context() as patch:
        patch.setattr(denoiser_training.Recipe, "rate", signalled)
        assert denoiser_training.main(given) == 130
        said = capsys.readouterr().err
        assert f"at step 4 of 6, and its state is saved in {state}. Start it again" in said
        assert storage.read(state)[1]["step"] == 4
        patch.setattr(datasets, "load", lambda *_: os.kill(os.getpid(), number))
        assert denoiser_training.main(given) == 130
        assert "before its first step or after its last" in capsys.readouterr().err
    assert [signal.getsignal(n) for n in (2, 15)] == handlers
    assert denoiser_training.main(given) == 0
    again = checkpoints.verify(tmp_path / "parts" / f"{recipe.name}.safetensors")
    assert again["sha256"] == whole["sha256"] and not storage.exists(state)


@pytest.mark.parametrize("what, said", [("loss", "the loss is nan"), ("gradient", "the gradient's norm inf")])
def test_numbers_that_are_not_finite_stop_it_at_its_last_good_state(tmp_path, monkeypatch, what, said):
    recipe = denoiser_training.Recipe("autoencoder", size="smoke", images=96, batch_size=16)
    calls, state = itertools.count(), tmp_path / f"{recipe.name}.state.safetensors"
    network, utils = denoisers.NETWORKS["autoencoder"], torch.nn.utils
    forward, clip = network.forward, utils.clip_grad_norm_
    if what == "loss":
        bad = lambda self, x: forward(self, x) * (math.nan if next(calls) == 3 else 1.0)  # noqa: E731
        monkeypatch.setattr(network, "forward", bad)
    else:
        bad = lambda *given: clip(*given) + (math.inf if next(calls) == 3 else 0.0)  # noqa: E731
        monkeypatch.setattr(utils, "clip_grad_norm_", bad)
    monkeypatch.setattr(denoiser_state, "SECONDS", 0.0)
    with pytest.raises(TrainingDiverged) as stopped:
        denoiser_training.train(recipe, tmp_path, progress=False)
    text = str(stopped.value)
    assert "stopped at step 3 (48 images)" in text and said in text and "--learning-rate (now 0.002)" in text
    assert f"the last good state is {state} (step 3)" in text
    tensors, card = storage.read(state)
    assert card["step"] == 3 and all(tensor.isfinite().all() for tensor in tensors.values())
    calls = itertools.count(3)
    with pytest.raises(TrainingDiverged, match="stopped at step 0 .*no state was saved yet"):
        denoiser_training.train(recipe, tmp_path / "new", progress=False)


def test_what_other_code_has_trained_is_set_aside_and_a_released_card_without_a_code_is_not(
    tmp_path, monkeypatch, capsys
):
    recipe = denoiser_training.Recipe("autoencoder", size="smoke", images=16, batch_size=16)
    path = denoiser_training.train(recipe, tmp_path, progress=False)
    network, card = checkpoints.load(path)
    old = {key: value for key, value in card.items() if key != "code"}
    checkpoints.save(path, network, old)
    stamp = path.stat().st_mtime_ns
    assert denoiser_training.train(recipe, tmp_path, progress=False) == path
    assert path.stat().st_mtime_ns == stamp
    checkpoints.save(path, network, card | {"code": "0" * 64})
    denoiser_training.train(recipe, tmp_path, progress=False)
    assert checkpoints.verify(path)["code"] == card["code"] == provenance.denoiser_code()
    assert "trained by other code" in capsys.readouterr().out
    assert [file.suffix for file in sorted((tmp_path / "aside").iterdir())] == [".json", ".safetensors"]


def test_a_network_is_for_one_level_or_blind():
    one, blind = (denoiser_training.recipe_for("dncnn", level, images=5) for level in (150, None))
    assert (one.lowest, one.highest, one.name, one.images) == (150, 150, "mnist-dncnn-laptop-s0-l150", 5)
    assert (blind.lowest, blind.highest, blind.name) == (1, 800, "mnist-dncnn-laptop-s0")


def test_weights_are_stored_in_16_bits_where_the_card_shows_that_it_costs_nothing(
    trained, tmp_path, monkeypatch
):
    for method in denoisers.NETWORKS:
        card = checkpoints.verify(trained / f"mnist-{method}-smoke-s0.safetensors")
        assert card["dtype"] == "float16"
        errors = (card[key] for key in ("validation_mse", "validation_mse_float16"))
        assert all(half[1] <= 1.01 * full[1] for full, half in zip(*errors, strict=True))
    monkeypatch.setattr(denoiser_training, "FREE", -1.0)
    recipe = denoiser_training.Recipe("autoencoder", size="smoke", images=16, batch_size=16)
    card = checkpoints.verify(denoiser_training.train(recipe, tmp_path, progress=False))
    assert card["dtype"] == "float32"


def test_the_command_line_trains_what_it_is_told_and_says_what_is_wrong(tmp_path, capsys):
    small = ["--method", "autoencoder", "--size", "smoke", "--images", "16", "--batch-size", "8", "--quiet"]
    level = ["--lowest", "150", "--highest", "150", "--variant", "l150"]
    assert denoiser_training.main([*small, *level, "--out", str(tmp_path)]) == 0
    path = tmp_path / "mnist-autoencoder-smoke-s0-l150.safetensors"
    assert str(path) in capsys.readouterr().out
    recipe = json.loads(path.with_suffix(".json").read_text())["recipe"]
    assert (recipe["lowest"], recipe["highest"], recipe["images"]) == (150, 150, 16)
    assert denoiser_training.main([*small, "--lowest", "900", "--out", str(tmp_path)]) == 2
    assert "Levels 900 ... 800" in capsys.readouterr().err
    assert denoiser_training.main([*small, "--method", "dncn", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'dncnn'" in capsys.readouterr().err


def test_bm3d_smooths_the_noise_it_is_told_of_in_every_channel():
    pytest.importorskip("bm3d")
    images = torch.full((1, 2, 16, 16), -1.0)
    images[:, :, 4:12, 4:12] = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    noisy = images + 0.2 * NoiseStreams(0, [0], images.shape[1:])()
    denoiser = denoisers.BM3D()
    told, fooled = ((denoiser(noisy, std) - images).square().mean(dim=(0, 2, 3)) for std in (0.2, 0.02))
    assert (told < 0.7 * 0.04).all(), "a good part of the noise's power is gone"
    assert (fooled > 1.2 * told).all(), "told of a tenth of the noise, it leaves the rest"
    assert torch.equal(denoiser(noisy, 0.2), denoiser(noisy, 0.2)), "the same to the last bit"
    with pytest.raises(InputError, match="16 pixels"):
        denoiser(torch.zeros(1, 1, 8, 8), 0.1)


def test_without_the_package_bm3d_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm3d", None)
    with pytest.raises(InputError, match="pip install bm3d"):
        denoisers.load("bm3d")


@pytest.mark.parametrize(
    "given, match",
    [
        (dict(method="dncn"), "Did you mean 'dncnn'"),
        (dict(method="dncnn", size="smoke"), "python -m cunet.denoiser_training --method dncnn"),
        (dict(method="unet", size="smoke"), "cunet train --model unet"),
        (dict(method="cunet", dataset="mnits"), "mnits"),
        (dict(method="cunet", size="huge"), "huge"),
        (dict(method="cunet", steps=0), "steps=0"),
    ],
)
def test_unknown_names_and_missing_checkpoints_are_refused_with_what_to_do(given, match):
    with pytest.raises(InputError, match=match):
        denoisers.load(**given)


@pytest.mark.parametrize(
    "spoil, std, match",
    [
        (lambda x: x.byte(), 0.1, "uint8"),
        (lambda x: x[0], 0.1, "shape"),
        (lambda x: x[:0], 0.1, "shape"),
        (lambda x: x / 0, 0.1, "finite"),
        (lambda x: x.expand(-1, 3, -1, -1), 0.1, "3 channels"),
        (lambda x: x, 0.0, "noise_std=0.0"),
        (lambda x: x, float("nan"), "noise_std=nan"),
    ],
)
def test_what_cannot_be_denoised_is_refused_by_every_kind(digits, spoil, std, match):
    for denoiser in (smoke(), denoisers.Feedforward(denoisers.build("dncnn", "smoke", 1))):
        with pytest.raises(InputError, match=match):
            denoiser(spoil(digits), std)


def test_the_autoencoder_needs_sides_that_it_can_halve_four_times():
    with pytest.raises(InputError, match="multiples of 16"):
        denoisers.build("autoencoder", "smoke", 1)(torch.zeros(1, 1, 24, 16))
