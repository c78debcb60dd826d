"""Ablations: which networks are there, what they contribute, and how sure that is."""

import json
import shlex

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from cunet import ablations, checkpoints, datasets, models, parameters, recipe, subsets, validation
from cunet.ablations import Draws, Spread
from cunet.diffusion import Diffusion
from cunet.errors import InputError


def test_what_is_in_the_folder_is_found_and_networks_without_any_seed_are_missing(tmp_path):
    for name in ("mnist-cunet-laptop-s0", "mnist-cunet-laptop-s2", "mnist-cunet-nores-laptop-s1"):
        (tmp_path / f"{name}.safetensors").touch()
    asked = ["cunet", "cunet-noattn", "cunet-nores"]
    paths, missing = ablations.find(tmp_path, ["mnist"], asked, "laptop", [0, 1, 2])
    assert set(paths) == {("mnist", "cunet", 0), ("mnist", "cunet", 2), ("mnist", "cunet-nores", 1)}
    assert missing == [("mnist", "cunet-noattn", 0)]


def test_the_command_trains_by_the_recipe_of_the_network_to_be_compared_with(tmp_path):
    like = json.loads(checkpoints.released("mnist", "cunet", "laptop").with_suffix(".json").read_text())[
        "recipe"
    ]
    words = shlex.split(ablations.command(("mnist", "cunet-nores", 2), "laptop", like, tmp_path))
    assert words[:2] == ["cunet", "train"]
    options = list(zip(words[2::2], words[3::2], strict=True))
    given = {name[2:]: value for name, value in options if name not in ("--set", "--out")}
    given |= {"seed": int(given["seed"]), "images": int(given["images"])}
    config = recipe.configure(given | parameters.assignments([v for name, v in options if name == "--set"]))
    assert (config.model, config.seed) == ("cunet-nores", 2)
    expected = recipe.configure({**like, "model": config.model, "seed": config.seed})
    assert not config.changes(expected.model_dump())


def test_trainings_that_differ_in_more_than_network_and_seed_are_told_apart():
    one = {"model": "cunet", "seed": 0, "recipe": recipe.TrainConfig().model_dump()}
    other = {"model": "unet", "seed": 1, "recipe": recipe.TrainConfig(model="unet", seed=1).model_dump()}
    assert not ablations.unequal(other, one)
    older = {name: value for name, value in one["recipe"].items() if name != "clip"}  # a card of before it
    assert not ablations.unequal(other, one | {"recipe": older})
    other["recipe"]["images"] = 5
    assert "images was 200000 and is now 5" in ablations.unequal(other, one)


def test_the_spread_of_seeds_is_pooled_within_networks():
    spread = ablations.seed_spread({"a": [1.0, 3.0], "b": [15.0, 15.0, 18.0], "c": [100.0]})
    assert spread.freedom == 3 and spread.deviation == pytest.approx(((2 + 6) / 3) ** 0.5)
    assert ablations.seed_spread({"a": [1.0], "b": [2.0]}).freedom == 0


def test_over_images_a_contribution_is_paired():
    rows = torch.randn(50, generator=torch.Generator().manual_seed(0))
    pair = [[ablations.draw(r, resamples=200)] for r in (rows, rows + 0.25)]
    found = ablations.contribution(*pair, ablations.UNKNOWN)
    assert found.over == "images" and found.sign == 1
    assert (found.low, found.high) == pytest.approx((0.25, 0.25), abs=1e-6)
    assert ablations.contribution(*pair[::-1], ablations.UNKNOWN).sign == -1


def test_over_seeds_its_interval_holds_the_truth_as_often_as_it_says():
    generator, held, tries = np.random.default_rng(0), 0, 600
    still = torch.zeros(2, dtype=torch.float64)
    for _ in range(tries):  # the truth is a difference of 1, the deviation between seeds 2
        full, without = generator.normal(5, 2, 3), generator.normal(6, 2, 2)
        spread = ablations.seed_spread({"full": full, "without": without})
        pair = [[Draws(float(x), still) for x in group] for group in (full, without)]
        found = ablations.contribution(*pair, spread)
        held += found.low <= 1 <= found.high
    assert found.over == "training seeds" and spread.freedom == 3
    assert found.high - found.estimate == pytest.approx(
        student.ppf(0.975, 3) * spread.deviation * (1 / 3 + 1 / 2) ** 0.5
    )
    assert abs(held / tries - 0.95) < 4 * (0.95 * 0.05 / tries) ** 0.5


def test_a_contribution_of_nothing_is_refused():
    with pytest.raises(InputError, match="one seed at least"):
        ablations.contribution([], [Draws(1.0, torch.zeros(2))], Spread(1.0, 2))


def test_a_network_that_is_held_hears_no_step_and_the_least_harmful_has_the_lowest_loss():
    network, diffusion = models.build("cunet", "smoke", 1).eval(), Diffusion()
    held, x = ablations.Held(network, 300).eval(), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(held(x, 5), network(x, 300)) and torch.equal(held(x, 900), network(x, 300))
    test = subsets.part(datasets.load("mnist", "test", 16), 100)
    best = ablations.least_harmful(network, diffusion, test, [50, 950])
    losses = {
        step: float(validation.validation_losses(ablations.Held(network, step), test, diffusion)[:, 0].mean())
        for step in (50, 950)
    }
    assert best.step == min(losses, key=losses.get)


def test_a_network_is_measured_in_three_ways_row_by_row():
    test, diffusion = datasets.load("mnist", "test", 16), Diffusion()
    plan = dict(samples=5, steps=2, levels=[100, 300], images=3, stride=50, loss_images=100, shown=4)
    network = models.build("cunet", "smoke", 1).eval()
    found = ablations.measure(network, diffusion, test, **plan)
    assert found.features.shape == (5, 256) and found.shown.shape == (4, 1, 16, 16)
    assert found.lpips.shape == (3,) and found.losses.shape == (100,)
    again = ablations.measure(network, diffusion, test, **plan)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "rows are pairs"
