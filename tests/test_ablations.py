"""Ablations: which networks are there, what they contribute, and how sure that is."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t as student

from cunet import (
    ablation_claims,
    ablations,
    checkpoints,
    datasets,
    models,
    parameters,
    recipe,
    rules,
    runs,
    scorecard,
    subsets,
    validation,
)
from cunet.ablations import Draws, Spread
from cunet.diffusion import Diffusion
from cunet.errors import InputError


def test_what_is_in_the_folder_is_found_and_networks_without_any_seed_are_missing(tmp_path):
    names = ("laptop-s0", "laptop-s2", "laptop-s0-walltime", "nores-laptop-s1")
    for name in names:
        (tmp_path / f"mnist-cunet-{name}.safetensors").touch()
    asked = ["cunet", "cunet-noattn", "cunet-nores"]
    paths, missing = ablations.find(tmp_path, ["mnist"], asked, "laptop", [0, 1, 2])
    plain = {("mnist", "cunet", 0), ("mnist", "cunet", 2), ("mnist", "cunet-nores", 1)}
    assert set(paths) == plain | {("mnist", "cunet-walltime", 0)}
    assert missing == [("mnist", "cunet-noattn", 0)]


def test_the_command_trains_by_the_recipe_of_the_network_to_be_compared_with(tmp_path):
    like = json.loads(checkpoints.released("mnist", "cunet", "laptop").with_suffix(".json").read_text())[
        "recipe"
    ]
    assert "--set" not in ablations.command(("mnist", "cunet-nores", 2), "laptop", like, tmp_path)
    wider = ("mnist", "cunet@widths=(16,28,56,96)", 0)
    assert wider[1] in shlex.split(ablations.command(wider, "laptop", like, tmp_path)), "brackets are quoted"
    like |= {"learning_rate": 1e-3, "flip": True}
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
    e = np.e
    values = {("m", "a"): [e, e**3], ("m", "b"): [e**15, e**15, e**18], ("m", "c"): [100.0]}
    spread = ablations.seed_spread(values, "m")
    assert spread.freedom == 3 and spread.deviation == pytest.approx(((2 + 6) / 3) ** 0.5)
    assert spread.of == "m a (2), m b (3)"
    assert ablations.seed_spread({("m", "a"): [1.0], ("m", "b"): [2.0]}, "m").freedom == 0


def test_a_data_set_with_one_seed_each_borrows_the_spread_and_one_with_several_does_not():
    values = {("m", "a"): [1.0, 2.0], ("n", "a"): [5.0]}
    borrowed = ablations.seed_spread(values, "n")
    assert borrowed == ablations.seed_spread(values, "m") and borrowed.of == "m a (2)"
    assert ablations.seed_spread(values | {("n", "b"): [3.0, 4.0]}, "n").of == "n b (2)"


def test_over_images_a_contribution_is_paired():
    rows = torch.randn(50, generator=torch.Generator().manual_seed(0))
    pair = [[ablations.draw(r, resamples=200)] for r in (rows, rows + 0.25)]
    found = ablations.contribution(*pair, ablations.UNKNOWN)
    assert found.over == "images" and found.sign == 1
    assert (found.low, found.high) == pytest.approx((0.25, 0.25), abs=1e-6)
    assert ablations.contribution(*pair[::-1], ablations.UNKNOWN).sign == -1


@pytest.mark.parametrize("alike", ["relatively", "absolutely"])
@pytest.mark.parametrize("floor", [0.0, 4.0])
def test_over_seeds_its_interval_holds_the_truth_as_often_as_it_says(floor, alike):
    """The truth is a difference of 1; distances of 5 and 6 have seeds that spread alike."""
    generator, held, tries = np.random.default_rng(0), 0, 600
    still = torch.zeros(2, dtype=torch.float64)
    for _ in range(tries):
        noise = generator.normal(0, 0.08, 3), generator.normal(0, 0.08, 2)
        full, without = (
            mean * np.exp(one) if alike == "relatively" else mean + 5.5 * one
            for mean, one in zip((5, 6), noise, strict=True)
        )
        spread = ablations.seed_spread({("m", "full"): full, ("m", "without"): without}, "m")
        pair = [[Draws(float(x - floor), still) for x in group] for group in (full, without)]
        found = ablations.contribution(*pair, spread, floor)
        held += found.low <= 1 <= found.high
    assert found.over == ablations.SEEDS and spread.freedom == 3
    assert found.estimate == pytest.approx(without.mean() - full.mean())
    reach = np.log((found.high + full.mean()) / without.mean())
    assert reach == pytest.approx(student.ppf(0.975, 3) * spread.deviation * (1 / 3 + 1 / 2) ** 0.5)
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


NONE = {"mnist": 0.0}  # floors


def draws_of(*values: float) -> list[Draws]:
    """A training seed a value, without spread over images."""
    return [Draws(value, torch.full((4,), value, dtype=torch.float64)) for value in values]


def test_contributions_have_a_row_a_network_that_is_trained_and_seeds_do_not_part_the_one_told_one_step():
    found = {}
    for model, values in {"cunet": (2.0, 4.0), "told": (5.0, 5.5), "cunet-noattn": (9.0,)}.items():
        for seed, one in enumerate(draws_of(*values)):
            found["mnist", model, seed] = {"fd": one}
    frame = ablations.contributions(found, "cunet", ["told", "cunet-noattn", "cunet-nores"], "told", NONE)
    assert list(frame.model) == ["told", "cunet-noattn"]
    told, without = frame.iloc[0], frame.iloc[1]
    assert (told.contribution, told.percent, told.over) == (2.25, 75, "images")
    assert (without.contribution, without.percent, without.over) == (6, 200, "training seeds")
    assert (without.full, without.full_seeds, without.seeds, without.without) == (3, 2, 1, "attention")
    others = ablations.contributions(found, "cunet-noattn", ["told", "cunet"], "", NONE).without
    assert (told.without, *others) == ("time embedding", "told", "cunet"), "what has no words has its name"
    assert not told.small and not without.small
    assert (
        ablations.contributions({k: v for k, v in found.items() if not k[2]}, "cunet", ["told"], "told", NONE)
        .small.isna()
        .all()
    )


def test_of_a_number_at_or_below_nothing_there_are_no_per_cent():
    found = {
        ("mnist", model, seed): {"fd": one}
        for model, values in {"cunet": (-1.0, 4.0), "cunet-noattn": (9.0,), "cunet-nores": (-2.0,)}.items()
        for seed, one in enumerate(draws_of(*values))
    }
    floors = {"mnist": 5.0}
    frame = ablations.contributions(found, "cunet", ["cunet-noattn", "cunet-nores"], "", floors)
    assert list(frame.over) == ["training seeds"] * 2, "the distance itself is above 0, and has a logarithm"
    spread = ablations.seed_spread({("mnist", "cunet"): [4.0, 9.0]}, "mnist")
    by_hand = ablations.contribution(draws_of(-1.0, 4.0), draws_of(9.0), spread, 5.0)
    assert tuple(frame.iloc[0][["contribution_low", "contribution_high"]]) == (by_hand.low, by_hand.high)
    assert list(frame.contribution) == [7.5, -3.5] and list(frame.percent) == [500, -700 / 3]
    alone = {key: one for key, one in found.items() if not key[2]}
    none = ablations.contributions(alone, "cunet-nores", ["cunet-noattn"], "", floors)
    assert none.percent.isna().all() and list(none.contribution) == [11]
    nothing = ablations.contributions(found, "unet", ["cunet"], "", floors)
    assert not len(nothing), "there is none to hold it against"
    first, rest = frame.to_dict("records")[0], none.to_dict("records")
    first |= dict(over=ablations.IMAGES, low=500.0, high=500.0, sign=1)
    for row in (first, *rest, *runs.plain(rest)):
        text = "+500 % [+500, +500]" if row["percent"] == 500 else "+11.00 [+11.00, +11.00]"
        assert ablation_claims.change(row) == text, "also of a result, in which it is None"
        assert ablation_claims.outcome(row) == "worse for these trainings"
    seeds = row | dict(over=ablations.SEEDS)
    assert [ablation_claims.outcome(seeds | dict(sign=s)) for s in (-1, 0)] == ["better", "undecided"]


def lines(*percent: float, over: str = ablations.SEEDS) -> pd.DataFrame:
    """Contributions to FD-AlexNet of the networks of figures 12 to 14, none of them by chance."""
    rows = [
        dict(
            model=model,
            without="it",
            measure="fd",
            percent=x,
            low=x,
            high=x,
            seeds=1,
            over=over,
            pooled="mnist cunet (3)",
            freedom=2,
            sign=1 if x > 0 else -1,
        )
        for model, x in zip(ablations.FIGURES, percent, strict=False)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("percent", "verdict"),
    [
        ((30, 10, 11), rules.REPRODUCED),
        ((30, 9, 11), rules.PARTLY),
        ((-30, -9, 11), rules.NOT_REPRODUCED),
    ],
)
def test_what_the_figures_leave_out_is_judged_by_all_three_networks(percent, verdict):
    row = ablation_claims.left_out(lines(*percent))
    assert scorecard.verdict("C15", row["value"]) == verdict
    assert "pooled over mnist cunet (3): 2 degrees of freedom" in row["spread"]
    alone = ablation_claims.left_out(lines(*percent, over=ablations.IMAGES))
    assert alone["value"] is None and "no network has a second training seed" in alone["measured"]
    none = dict(percent=np.nan, contribution=1.0, contribution_low=0.5, contribution_high=2.0)
    near = ablation_claims.left_out(lines(*percent).assign(**none))
    assert near["value"] is None and "as near as real images" in near["measured"]
    short = ablation_claims.left_out(lines(*percent[:2]))
    assert short["value"] is None and "not trained: without attention and residual" in short["measured"]


def test_every_data_set_has_its_claims_with_the_numbers_of_its_own_rows():
    robust = pd.DataFrame(
        [dict(dataset=d, ahead="second", ratio=x, trainings=1) for d, x in (("a", 0.5), ("b", 0.9))]
    )
    norms = pd.DataFrame(
        [dict(dataset=d, model=m, largest=x) for d in "ab" for m, x in (("unet", 3.0), ("cunet", 1.0))]
    )
    index = pd.MultiIndex.from_tuples([("a", "cunet"), ("b", "cunet"), ("b", "unet")])
    errors = pd.DataFrame({"told": [1.0, 2.0, 3.0], "held": [2.0, 2.0, 6.0]}, index=index)
    errors["held over told"] = errors.held / errors.told
    given = dict(
        models=["cunet"],
        discrete="unet",
        samples=7,
        images=5,
        disturbed_samples=9,
        read_images=2,
        true_steps=[1, 2, 3],
        size="laptop",
    )
    contributed = pd.concat([lines(20, 20, 20).assign(dataset=d) for d in "ab"])
    rows = ablation_claims.claims(
        given, contributed, robust, norms, norms, errors, {key: 0.1 for key in index}
    )
    numbers = {"C15": 7, "C22": "5 images, 9 samples", "C24": 6}
    expected = [
        ("C15", "a"),
        ("C22", "a"),
        ("C24", "a"),
        ("C15", "b"),
        ("C22", "b"),
        ("C24", "b"),
        ("C24", "b"),
    ]
    assert [(r["id"], r["dataset"]) for r in rows] == expected
    assert all(r["n"] == numbers[r["id"]] for r in rows)
    assert "0.50 to 0.50" in rows[1]["measured"] and "0.90 to 0.90" in rows[4]["measured"]
    assert [r["value"]["benefit"] for r in rows if r["id"] == "C24"] == [2, 1, 2]


def test_in_equal_time_each_takes_the_most_steps_that_it_has_time_for():
    distances = {5: (9.0, 12.0), 10: (6.0, 8.0), 20: (4.0, 5.0)}
    walked = {
        n: {("mnist", m, 0): {"fd": draws_of(x)[0]} for m, x in zip(("unet", "cunet"), both, strict=True)}
        for n, both in distances.items()
    }

    def against(time=None):
        frame = ablations.at_steps(walked, "unet", ["cunet"], NONE, time and {("mnist", "cunet"): time})
        return list(frame[["steps", "own_steps", "contribution"]].itertuples(index=False, name=None))

    assert against() == [(5, 5, 3), (10, 10, 2), (20, 20, 1)]
    assert against(0.5) == [(5, 10, -1), (10, 20, -1), (20, 20, 1)]
    assert against(1.5) == [(10, 5, 6), (20, 10, 4)], "it has no time for any, beside the fewest"
    assert not len(ablations.at_steps({5: {}}, "unet", ["cunet"], NONE))


def test_the_earlier_form_evaluates_more_often_and_none_is_a_remedy():
    (name,) = ablations.EARLIER
    earlier, full = (models.build(model, "laptop", 1) for model in (name, "cunet"))
    assert earlier.evaluations > full.evaluations and name not in ablations.REMEDIES
