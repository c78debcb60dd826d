"""Estimates: work counted as by hand, costs scaled and fitted, jobs laid out in time."""

import ast
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from cunet import (
    calibration,
    chain,
    checkpoints,
    cost,
    denoisers,
    estimate,
    measured,
    paper_cost,
    parameters,
    profiles,
    reproduce,
    runs,
    shards,
    synthesis_work,
    work,
)
from cunet.calibration import Costs
from cunet.errors import InputError
from cunet.estimate import Need
from cunet.synthesis_tables import MOST
from cunet.work import Item, Work

MOST_OFF = 2.0  # times that the processor's seconds of one notebook may be off, either way
UNET, CUNET = ("unet", "smoke", 1), ("cunet", "smoke", 1)
NETWORKS = {"unet": {"laptop": {"train": 0.02, "call": 0.005, "macs": 1e8}}}
NETWORKS["unet"]["smoke"] = {"train": 0.004, "call": 0.002, "macs": 7e6}
COSTS = Costs(
    *("a machine", 10.0, 6.0, 800.0, {"04_networks": 900.0}, 0.5, NETWORKS),
    {"feature": 1e-3, "score": 5e-3, "distance": 0.05, "kernel": 1e-8, "pixel": 1e-11},
    *({"03_sde": [20.0, 1e-6], "default": [5.0, 0.0]}, {"macs_a_second": 1e13, "known_from": "made up"}),
)


def given(stem: str, **changes) -> dict:
    return {**parameters.declaration(ROOT / "notebooks" / f"{stem}.py"), **changes}


def test_a_training_is_counted_with_its_validations_and_its_samples():
    of = given(
        "05_training", model="unet", size="smoke", checkpoints="train", images=1000, validate_every=300
    )
    found = work.count("05_training", of | {"samples": 8, "sampling_steps": 5})
    assert found == {Item("train", UNET): 1000, Item("sample", UNET): 4 * 2000, Item("call", UNET): 2000 + 40}
    found = work.count("05_training", of | {"checkpoints": "released", "samples": 8, "sampling_steps": 5})
    assert found == {Item("call", UNET): 2040}


def test_synthesis_is_counted_over_networks_samplers_and_steps():
    of = given("07_synthesis", size="smoke", checkpoints="train", samples=100, samplers=["ddim", "heun"])
    of |= dict(datasets=["mnist"], seeds=[0, 1], step_counts=[10, 20, 40], best_samples=150, draws=2)
    of |= dict(further_step_counts=[20], sampler_step_counts=[10, 20], sampler_samples=50)
    found = work.count("07_synthesis", of | {"resamples": 3, "reference_images": 500})
    leading = 100 * (10 + 20 + 40) + 50 * (19 + 39) + 100 * 20  # Heun asks twice a step, but for the last
    further, best = 100 * 20, 150 * 40  # at the most steps, as dear as it can be
    assert found[Item("sample", UNET)] == found[Item("sample", CUNET)] == leading + further + best
    steps = (1 + 3) * MOST * work.BACKWARD  # 9 rounds of timing, a third of them for training
    assert of["timing_rounds"] == 9 and found[Item("call", UNET)] == found[Item("call", CUNET)] == steps
    assert found[Item("made")] == 2 * (5 * 100 + 2 * 50 + 150)
    assert found[Item("feature")] == 500 + 10_000 + (100 + 50 + 150)
    sets = {100: 2 * 5, 50: 2 * 2, 150: 2 * 1}  # images -> sets
    expected = sum(work.distances(3 + 1, n) * number for n, number in sets.items())
    assert found[Item("distance")] == expected + sum(work.distances(2, n) for n in sets)
    assert found[Item("pixel")] == 3 * 150 * 60_000 * 16**2, "two networks' samples, and test images"
    assert found[Item("kernel")] == sum(number * 3 * 50 * n**2 for n, number in sets.items()), "KID's subsets"
    shared = synthesis_work.shared(of)
    assert shared[Item("sample", UNET)] == leading + further, "shards do not know which steps are best"
    assert shared[Item("made")] == found[Item("made")] - 2 * 150 and Item("feature") not in shared


def test_kid_is_counted_as_it_is_computed():
    of = given("07_synthesis", size="smoke", checkpoints="train", datasets=["mnist"], seeds=[0], draws=1)
    of |= dict(samples=3000, best_samples=3000, step_counts=[10], samplers=["ddim"])
    assert work.count("07_synthesis", of)[Item("kernel")] == 2 * 2 * 3 * 50 * 1000**2


def test_images_at_the_best_steps_go_on_from_the_blocks_that_are_there():
    """As many as the set has: none; more: those after its last whole block of 512. They are counted once."""
    of = given("07_synthesis", size="smoke", checkpoints="train", samples=1100, samplers=["ddim"])
    of |= dict(datasets=["mnist"], seeds=[0], step_counts=[10, 20, 40], draws=1)
    drawn = 1100 * (10 + 20 + 40)
    pixels, features = 16**2, 4 * 256
    for best, further in ((1000, 0), (1100, 0), (1101, 77), (3000, 3000 - 1024)):
        found = work.count("07_synthesis", of | dict(best_samples=best))
        assert found[Item("sample", UNET)] == drawn + 40 * further
        assert found[Item("made")] == 2 * (3 * 1100 + further)
        kept = synthesis_work.kept(of | dict(best_samples=best))
        assert kept[0] == 2 * 3 * 1100 * (features + pixels)
        assert kept[1] == 2 * further * (features + pixels)


def test_a_floor_of_more_images_than_the_test_set_has_reads_training_images_too():
    of = given("07_synthesis", size="smoke", checkpoints="train", datasets=["lsun_church"], samples=1000)
    of |= dict(best_samples=1000, sampler_samples=100, reference_images=5000)
    assert work.read("07_synthesis", of) == {
        ("lsun_church", "smoke", "train", 0, 5000): 5000,
        ("lsun_church", "smoke", "test", 0, 300): 300,
        ("lsun_church", "smoke", "train", 5000, 700): 700,
    }
    few = given("10_ablations", size="smoke", datasets=["lsun_church"], samples=310, reference_images=5000)
    read = work.read("10_ablations", few)
    assert read[("lsun_church", "smoke", "test", 0, 300)] == 300
    assert read[("lsun_church", "smoke", "train", 5000, 10)] == 10, "notebook 10 has a floor, too"


def test_denoising_is_counted_by_levels_over_strides_walk_by_walk():
    of = given("08_denoising", size="smoke", images=10, levels=[100, 205], stride=10, every=3)
    of |= dict(protocol_levels=[50], stride_images=2, stride_levels=[30], strides=[1, 10], cost_images=[1, 2])
    of |= dict(tradeoff_images=7, tradeoff_level=100, tradeoff_stride=25, mean_images=2, mean_levels=[900])
    found = work.count("08_denoising", of | {"datasets": ["mnist", "avatars"]})
    walked = 10 * (10 + 21) + 2 * 10 * 5 + 2 * (30 + 3)  # four protocols are two walks, each looked at twice
    walked += 7 * (2 * 4 + 2) + 2
    scored = 10 * (1 + 4 + 1 + 7) + 4 * 10 * (1 + 2) + 2 * (1 + 30 + 1 + 3)  # noisy images have scores, too
    assert found[Item("sample", UNET)] == found[Item("sample", ("unet", "smoke", 3))] == walked
    assert found[Item("sample", ("cunet", "smoke", 3))] == walked
    assert found[Item("sample", CUNET)] == walked + 3 * 3 * 3, "whole runs are timed on the first data set"
    assert found[Item("score")] == 2 * 2 * scored + 3 * 3 * (1 + 3)
    finer = work.count("08_denoising", of | {"fine_levels": [100], "fine_stride": 5, "datasets": ["mnist"]})
    once = work.count("08_denoising", of | {"datasets": ["mnist"]})
    assert finer[Item("sample", UNET)] - once[Item("sample", UNET)] == 10 * 10, "20 calls in place of 10"
    assert finer[Item("score")] - once[Item("score")] == 2 * 10 * (7 - 4), "one of three calls is scored"


def test_the_perception_of_denoised_images_is_counted_by_pairs_of_images_as_the_notebook_computes_them():
    """Real images among themselves, each set with them, and each set with itself, also in its resamples."""
    of = given("08_denoising", size="smoke", tradeoff_images=7, reference_images=500, tradeoff_resamples=511)
    found = work.count("08_denoising", of | {"datasets": ["mnist"]})
    sets = 1 + 2 * 2 * work.STOPS  # the originals, and two walks of two networks
    assert found[Item("kernel")] == 500**2 + sets * (7 * 500 + 7 * 7 * (1 + 512 / work.WIDTH))
    assert found[Item("distance")] == work.distances(sets, 7), "the table has them, too"
    assert found[Item("feature")] == 500 + sets * 7
    twice = work.count("08_denoising", of | {"datasets": ["mnist", "avatars"], "reference_images": 10**6})
    pairs = sum(work.kernel_pairs(work.images(d)[0], sets, 7, 511) for d in ("mnist", "avatars"))
    assert twice[Item("kernel")] == pairs, "there are no more real images than the data set has"
    text = (ROOT / "notebooks" / "08_denoising.py").read_text(encoding="utf-8")
    assert text.count("kernel_distance.distances(") == text.count(" to_real(") == 2, "originals and sets"
    assert COSTS.seconds(Item("kernel"), 10**8) == pytest.approx(1.0)


def test_the_other_denoisers_are_counted_by_walks_and_by_planes_of_bm3d():
    of = given("09_denoisers", size="smoke", images=4, levels=[50, 105], stride=10, timing_rounds=3)
    found = work.count("09_denoisers", of)
    calls = 4 * (5 + 11) + 4 * 2
    assert found[Item("sample", UNET)] == found[Item("sample", CUNET)] == calls
    assert found[Item("score")] == 2 * calls and found[Item("unit")] == 2 * 4 * 2 + 3 + 1


def test_the_other_denoisers_are_trained_blind_and_for_each_level_where_networks_are_trained():
    of = given("09_denoisers", size="smoke", datasets=["mnist", "avatars"], levels=[50, 150])
    of |= dict(training_images=[1000, 301])
    before = work.count("09_denoisers", of)
    assert not any(item.kind == "train" for item in before)
    found = work.count("09_denoisers", of | {"checkpoints": "train"})
    seen = {"autoencoder": 1000 + 2 * 333, "dncnn": 301 + 2 * 100}
    trained = {Item("train", (name, "smoke", channels)): n for name, n in seen.items() for channels in (1, 3)}
    validated = {
        Item("sample", item.network): 3 * 2 * 3 * 500 for item in trained
    }  # three networks, twice, at 3 levels
    assert found == before + Work(trained) + Work(validated)


def called(path: Path) -> set[str]:
    """What a notebook calls of the library, by dotted name, from the text of its file."""
    text = re.sub(r"(?m)^%.*", "", path.read_text(encoding="utf-8"))
    tree, names = ast.parse(text), {}
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {names.get(f.id, "") for f in functions if isinstance(f, ast.Name)}
    attributes = (f for f in functions if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name))
    return found | {f"{names.get(f.value.id, '')}.{f.attr}" for f in attributes}


def test_each_notebook_that_trains_networks_of_the_library_has_its_trainings_counted():
    trains = {"cunet.training.train", "cunet.devices.run", "cunet.denoiser_training.train"}
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
    expected = {path.stem for path in paths if called(path) & trains}
    assert expected >= {"05_training", "09_denoisers"}
    counted = set()
    for path in paths:
        of = parameters.declaration(path)
        of |= {"checkpoints": "train"} if "checkpoints" in of else {}
        counted |= {path.stem for item in work.count(path.stem, of) if item.kind == "train"}
    assert counted == expected


@pytest.mark.parametrize("name", denoisers.NETWORKS)
def test_a_denoiser_has_the_costs_of_its_own_network(name):
    network = denoisers.build(name, "smoke", 3)
    if name == "dncnn":  # 18 of 3 x 3 between 4 channels, the first and the last from and to 3
        assert work.macs((name, "smoke", 3)) == 16**2 * 9 * (18 * 4 * 4 + 2 * 3 * 4)
    assert estimate.parameters((name, "smoke", 3)) == cost.parameters(network).total
    assert estimate.activations((name, "smoke", 3)) > 3 * 4 * 16**2


def test_a_notebook_that_trains_itself_holds_its_network_in_its_own_kernel():
    settings = ["checkpoints=train", "09_denoisers.batch_size=4096"]
    found = {}
    for checkpoints_of in ("train", "released"):
        more = [*settings, f"09_denoisers.checkpoints={checkpoints_of}"]
        plan = chain.plan(profiles.load("smoke", more), reproduce.folder("none"))
        found[checkpoints_of] = {n.name: n for n in estimate.needs(plan, COSTS, 0, 1)}["09_denoisers"]
    batch = 4096 * estimate.activations(("dncnn", "smoke", 1)) / 2**20
    assert batch < found["train"].memory - estimate.HANDS - COSTS.start_mb < batch + 50, "and one kernel"
    assert found["train"].cpu > found["released"].cpu and found["train"].disk > found["released"].disk


def test_ablations_are_counted_network_by_network_and_the_disturbed_pair_setting_by_setting():
    of = given(
        "10_ablations", size="smoke", checkpoints="train", models=["cunet", "cunet-nores"], seeds=[0, 1]
    )
    few = of | dict(
        samples=10, steps=3, levels=[100, 205], stride=10, images=2, loss_images=5, held_steps=[1]
    )
    few |= dict(factors=[2.0], input_noise=[0.1], impulses=[0.1], weight_noise=[0.1], trainings=1)
    few |= dict(
        disturbed_samples=4, disturbed_steps=5, true_steps=[1, 2], rungs=3, known_images=4, read_images=2
    )
    found, one = work.count("10_ablations", few), 10 * 3 + 2 * 31 + 5
    pair, pair_calls = 5 * (4 * 5 + 2 * 31), 5 * 2 * 2 + 2 * 3 * (4 + 2 * 2) + 5
    drawn, calls = (
        {item.network[0]: n for item, n in found.items() if item.kind == kind and n}
        for kind in ("sample", "call")
    )
    assert drawn == {"cunet": 4 * one + pair, "cunet-nores": 2 * one, "unet": 2 * one + pair}
    assert calls == {"cunet": 4 * 5 + pair_calls, "unet": pair_calls}
    more = work.count("10_ablations", few | dict(remedies=["cunet-nores"], remedy_steps=[3, 7, 8]))
    for model in ("unet", "cunet", "cunet-nores"):
        item = Item("sample", (model, "smoke", 1))
        assert more[item] - found[item] == 2 * 10 * (7 + 8), "what is told one step is no remedy"
    assert more[Item("feature")] - found[Item("feature")] == 3 * 2 * 2 * 10
    assert more[Item("distance")] > found[Item("distance")]


def test_what_is_beyond_the_paper_is_counted_by_method_and_of_the_first_data_set_alone_what_follows():
    few = dict(size="smoke", samples=10, methods=["ddim", "heun"], calls=[5, 20], heun_calls=[19])
    few |= dict(
        plain_calls=[50],
        timing_rounds=3,
        power_images=8,
        likelihood_images=1,
        depths=[1.0, 3.0],
        depth_calls=2,
        depth_images=2,
        reuse=[2],
        ode_samples=5,
        ode_sample_depths=[1.0, 2.0],
    )
    found = work.count(
        "11_beyond", given("11_beyond", **few, ode_depths=[2.0, 4.0], ode_levels=[7], ode_images=4)
    )
    calls, drawn = (3 + 1) * (5 + 20 + 19 + 50) + 20 * 8, 10 * (5 + 20 + 19 + 50)
    both = calls + 12 * work.FLOW
    assert found[Item("call", UNET)] == both and found[Item("sample", UNET)] == drawn + 10 * 2 * 2
    one, deeper = work.depth_shares(CUNET, (1.0, 3.0))
    assert one == 1 and 2 < deeper < 3, "three times the solver's steps, with what is outside of blocks once"
    assert work.depth_shares(CUNET, (1.0, 0.9, 3.0)) == (one, deeper), "what rounds alike is tried once"
    assert found[Item("call", CUNET)] == both + math.ceil(2 * 2 * (1 + deeper)) + 4 * 6
    ways = 2 + (1 + deeper) + ((1 + deeper) / 2 + deeper)  # as it is and reusing, even depths, by need
    assert found[Item("sample", CUNET)] == drawn + math.ceil(10 * 2 * ways) + 5 * 2 * 3
    twice = work.count("11_beyond", given("11_beyond", **few, datasets=["mnist", "mnist"]))
    once = work.count("11_beyond", given("11_beyond", **few))
    assert twice[Item("call", UNET)] - once[Item("call", UNET)] == calls
    assert twice[Item("sample", UNET)] - once[Item("sample", UNET)] == drawn


def test_further_networks_are_counted_where_they_are_released_and_in_a_run_that_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "ASSETS", tmp_path)
    of = given("11_beyond", size="smoke", ode_depths=[2.0, 4.0], ode_levels=[7, 8], ode_images=4)
    of |= dict(guided_images=10, guided_steps=5, scales=[1.0, 2.0], ode_samples=3, depth_calls=2)
    of |= dict(ode_sample_depths=[1.0, 4.0])
    deep, told = ("cunet-randomdepth", "smoke", 1), ("cunet@classes=10", "smoke", 1)
    other = ("cunet@classes=4", "smoke", 3)
    before, read = work.count("11_beyond", of), work.read("11_beyond", of)
    for dataset, name in (("mnist", deep[0]), ("mnist", told[0]), ("avatars", other[0])):
        (tmp_path / f"{checkpoints.stem(dataset, name, 'smoke', 0)}.safetensors").touch()
    found = work.count("11_beyond", of)
    assert found[Item("call", deep)] == 4 * 2 * 6 and found[Item("sample", deep)] == 3 * 2 * 5
    assert found[Item("sample", told)] == found[Item("sample", other)] == 10 * 5 * (1 + 2)
    kinds = ("call", "sample")
    assert not any(before[Item(kind, network)] for kind in kinds for network in (deep, told, other))
    assert [which[0] for which in read] == ["mnist"], "what is absent costs nothing"
    assert [which[0] for which in work.read("11_beyond", of)] == ["mnist", "avatars"]
    trained = work.count("11_beyond", of | {"checkpoints": "train"})
    assert trained[Item("sample", ("unet@classes=4", "smoke", 3))] == trained[Item("sample", told)] > 0


def test_every_notebook_that_trains_or_samples_is_counted_and_every_unit_is_of_parameters_that_there_are():
    names = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    counted = {*work._COUNTS, *work.OWN_WORK, *work.FIXED}
    assert counted <= names
    for name in counted:
        assert all(amount >= 0 for amount in work.count(name, given(name)).values())


def test_what_a_training_notebook_does_besides_does_not_grow_with_the_training():
    assert not work.FIXED & set(work.OWN_WORK)
    found = Work({Item("train", UNET): 10**6})
    assert COSTS.units("05_training", found) == 0 < COSTS.units("06_sampling", found)


def test_a_distance_of_fewer_images_takes_less_and_that_of_the_calibration_takes_one():
    counts = (8, 96, work.WIDTH, work.DISTANCE_IMAGES, 2000)
    shares = [work.distance_share(n) for n in counts]
    assert shares == sorted(shares) and shares[3] == 1 and shares[0] < 0.05 < 4 < shares[4]
    of = given("10_ablations", size="smoke", models=["cunet"], disturbed_samples=work.DISTANCE_IMAGES)
    whole, few = (work.count("10_ablations", g) for g in (of, of | {"disturbed_samples": 8}))
    assert whole[Item("distance")] > few[Item("distance")] > 0


def test_costs_scale_by_macs_from_the_size_that_was_measured():
    macs = work.macs(("unet", "paper", 3))
    assert COSTS.seconds(Item("call", ("unet", "paper", 3)), 2) == pytest.approx(2 * 0.005 * macs / 1e8)
    assert COSTS.seconds(Item("train", UNET), 10) == pytest.approx(0.04 * work.macs(UNET) / 7e6)
    assert COSTS.seconds(Item("score"), 100) == pytest.approx(0.5)


def test_what_a_notebook_does_besides_is_found_from_two_runs():
    def result(points, seconds):
        of = given("03_sde", points=points, counts=[1], exact_counts=[1], steps=8)
        used = {"cpu_s": seconds + COSTS.kernel, "wall_time_s": 1.0}
        return {"notebook": "03_sde", "parameters": of, "timings": used, "environment": {"threads": 1}}

    a, b = calibration.notebooks_from(COSTS, [result(100, 30.0), result(10_000, 129.0)])["03_sde"]
    assert a == pytest.approx(29.0, rel=1e-3) and b == pytest.approx(1e-3, rel=1e-3)
    assert calibration.notebooks_from(COSTS, [result(100, 30.0)])["03_sde"] == [30.0, 0.0]
    a, b = calibration.notebooks_from(COSTS, [result(100, 50.0), result(10_000, 20.0)])["03_sde"]
    assert a > 0 and b == 0


def test_a_calibration_measures_reads_the_runs_and_is_loaded_again(tmp_path, monkeypatch, capsys):
    """Costs are measured, those of the smallest network; the run is made up."""
    measure = calibration.measure
    monkeypatch.setattr(calibration, "measure", lambda: measure(("unet",), ("smoke",)))
    monkeypatch.setattr(calibration, "path", lambda: tmp_path / "calibration.yaml")
    monkeypatch.setattr(calibration.folders, "find", lambda name: tmp_path)
    monkeypatch.setattr(calibration.runs, "results", lambda folder: {})
    assert calibration.main(["smoke"]) == 2 and "no results in smoke" in capsys.readouterr().err
    timings = {"cpu_s": 1000.0, "wall_time_s": 500.0, "peak_mb": 900.0}
    result = {"notebook": "03_sde", "parameters": given("03_sde"), "timings": timings, "sha256": "a1" * 32}
    monkeypatch.setattr(
        calibration.runs, "results", lambda folder: {"03_sde": {**result, "environment": {"threads": 2}}}
    )
    assert calibration.main(["smoke"]) == 0
    found = calibration.load()
    assert 0.9 < found.scaling < 1.0 and found.notebooks["03_sde"] == [
        pytest.approx(1000.0 - found.kernel, abs=0.01),
        0.0,
    ]
    assert 0 < found.networks["unet"]["smoke"]["call"] < found.networks["unet"]["smoke"]["train"]
    assert found.fitted == ["a1" * 6]
    assert found.start > 1 and all(seconds > 0 for seconds in found.other.values())
    assert not found.gpu["known_from"].startswith("measured") or found.gpu["macs_a_second"] > 0


def test_what_threads_gain_is_read_from_the_jobs_of_several():
    def job(cpu, wall, threads):
        return {"timings": {"cpu_s": cpu, "wall_time_s": wall}, "environment": {"threads": threads}}

    assert calibration.scaling([job(99.0, 100.0, 1)], 0.0) == 1.0
    assert calibration.scaling([job(99.0, 100.0, 1), job(20.0, 10.0, 4)], 0.0) == pytest.approx(0.5)
    assert calibration.scaling([job(20.0, 10.0, 4), job(30.0, 30.0, 2)], 0.0) == pytest.approx(0.125)
    started = [job(20.0, 10.0, 4)], [job(26.0, 10.0, 4)]
    assert calibration.scaling(started[0], 0.0) == calibration.scaling(started[1], 6.0)
    assert calibration.scaling([job(6.0, 1.0, 2)], 6.0) == 1.0, "a job that only starts tells nothing"


def test_features_that_a_run_found_kept_are_not_taken_off_its_notebooks_own_time(monkeypatch):
    monkeypatch.setattr(work, "count", lambda *_: Work({Item("feature"): 1_000_010}))
    monkeypatch.setattr(work, "read", lambda *_: {("mnist", "laptop", "train", 0, 1_000_000): 1_000_000})
    seconds = COSTS.kernel + COSTS.seconds(Item("feature"), 10) + 7.0
    result = {"notebook": "08_denoising", "parameters": {}, "timings": {"cpu_s": seconds}}
    assert calibration.notebooks_from(COSTS, [result])["08_denoising"] == [7.0, 0.0]


def need(name: str, seconds: float, after: tuple[str, ...] = (), **changes) -> Need:
    own = dict(cpu=seconds, gpu=0.0, memory=1000.0, gpu_memory=0.0, disk=1.0, devices=0, nodes=1)
    return Need(name=name, rule=f"notebook_{name}", seconds=seconds, after=after, **{**own, **changes})


def test_a_training_by_the_clock_is_known_by_the_images_that_it_saw():
    of = given("05_training", model="unet", size="smoke", checkpoints="train", validate_every=0, images=9)
    counted = work.count("05_training", of | {"images": 5000})
    used = {"timings": {"cpu_s": COSTS.kernel + COSTS.network_seconds(counted) + 7.0}}
    result = {"notebook": "05_training", "values": {"images_seen": 5000}, **used}
    result["parameters"] = of | {"max_seconds": 20.0}
    assert calibration.notebooks_from(COSTS, [result])["05_training"] == [7.0, 0.0]


def test_jobs_are_laid_out_as_the_chain_runs_them():
    jobs = [need("a", 5), need("b", 3), need("c", 4, ("b",)), need("d", 1, ("a", "c"))]
    assert estimate.laid_out(jobs, 1).seconds == 13
    assert estimate.laid_out(jobs, 2).seconds == 3 + 4 + 1
    assert estimate.laid_out(jobs, 9).seconds == 3 + 4 + 1
    assert estimate.laid_out([need("a", 5, ("not of this run",))], 1).seconds == 5


def test_jobs_at_once_share_the_gpus_of_the_machine():
    shards = [need(name, 5, devices=1) for name in "abc"]
    assert [estimate.laid_out(shards, 3, gpus).seconds for gpus in (0, 1, 2, 3)] == [5, 15, 10, 5]
    trained = [need("a", 5, devices=8), need("b", 5, devices=8), need("c", 3)]
    assert estimate.laid_out(trained, 8, 8).seconds == 10, "what needs no GPU runs beside"


def test_jobs_at_once_hold_their_memory_together():
    jobs = [need("a", 5, memory=1000.0), need("b", 3, memory=500.0), need("c", 4, ("b",), memory=800.0)]
    assert [estimate.laid_out(jobs, n).memory for n in (1, 2)] == [1000, 1800]


@pytest.mark.parametrize(
    "jobs, there, size, said, refused",
    [
        (2, 7000, "laptop", "", False),
        (2, 6999, "laptop", "2 jobs at once are estimated to hold 6.8 GB .* With --jobs 1 they fit", False),
        (3, 3999, "laptop", "b is estimated to hold 3.9 GB at its peak, and this machine has 3.9 GB", True),
        (3, 3999, "smoke", "b is estimated to hold 3.9 GB", False),
    ],
)
def test_a_job_that_is_too_large_for_the_machine_is_refused_and_several_at_once_are_told(
    monkeypatch, tmp_path, jobs, there, size, said, refused
):
    """Of the jobs whose results are missing."""
    found = [need("a", 1, memory=3000), need("b", 1, memory=4000), need("done", 1, memory=9000)]
    monkeypatch.setattr(estimate, "needs", lambda *_: found)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "done.json").touch()
    plan = chain.Plan(tmp_path, profiles.load("laptop", [f"size={size}"]), ())
    answer = estimate.memory(plan, jobs, there)
    assert answer.refused == refused and (re.search(said, answer.said) if said else answer.said == "")
    (tmp_path / "results" / "a.json").touch()
    (tmp_path / "results" / "b.json").touch()
    assert estimate.memory(plan, jobs, 1) == ("", False)


def test_the_gpus_that_a_rule_asks_for_are_its_devices_or_one_and_none_on_the_processor():
    settings = ["checkpoints=train", "shards=2", "05_training.devices=2", "05_training.batch_size=64"]
    plan = chain.plan(profiles.load("smoke", settings), reproduce.folder("none"))
    asked = estimate.gpus_asked(plan)
    assert asked["notebook_05_training"] == 2 and asked["samples"] == asked["notebook_08_denoising"] == 1
    assert not asked.keys() & {"notebook_03_sde", "notebook_04_networks", "notebook_12_scorecard"}
    of = {n.rule: n.devices for n in estimate.needs(plan, COSTS, 8, 1) if n.devices}
    assert of == {rule: asked[rule] for rule in of} and of.keys() == asked.keys()
    released = chain.plan(profiles.load("laptop"), reproduce.folder("none"))
    assert "notebook_05_training" not in estimate.gpus_asked(released)


@pytest.mark.parametrize("known", ["measured on a card", "assumed, not measured: there was no GPU"])
def test_one_gpu_and_eight_are_estimated_by_the_profile_alone_and_say_what_they_rest_on(monkeypatch, known):
    rate = {"macs_a_second": 1e9, "known_from": known}  # slow: what GPUs do is most of the run
    monkeypatch.setattr(estimate, "load", lambda: replace(COSTS, gpu=rate))
    own = ["checkpoints=train", "05_training.images=100000", "05_training.batch_size=64"]
    eight = ["gpus=8", "jobs=8", "shards=8", "05_training.devices=8"]
    told, hours, spent = {}, {}, {}
    for name, settings in (("one", ["gpus=1"]), ("eight", eight)):
        plan = chain.plan(profiles.load("smoke", [*own, *settings]), reproduce.folder("none"))
        told[name] = estimate.report(plan, plan.profile.jobs, cores=8 * plan.profile.jobs)
        found = estimate.needs(plan, estimate.load(), plan.profile.gpus, 1)
        hours[name] = estimate.laid_out(found, plan.profile.jobs, plan.profile.gpus).seconds
        spent[name] = sum(n.gpu for n in found)
    assert spent["one"] == pytest.approx(spent["eight"]), "GPU-hours are the same work"
    assert hours["one"] > 3 * hours["eight"]
    assert "on 1 GPU, 8 threads each: " in told["one"]
    assert "8 at once on 8 GPUs, 8 threads each: " in told["eight"]
    for text in told.values():
        assert f"rests on 1e+09 MAC/s of each, {known}" in text and "time of the run" in text
        assert ("measures it" in text) is known.startswith("assumed")


@pytest.mark.parametrize("gpus, threads, devices", [(0, 1, 1), (0, 4, 1), (1, 1, 1), (4, 1, 2)])
def test_a_training_by_the_clock_takes_the_time_that_it_was_given(gpus, threads, devices):
    """Images are as many as this machine reaches; the validation after them comes on top, as it is made."""

    def seconds(budget):
        settings = [f"05_training.max_seconds={budget}", "05_training.validate_every=0"]
        plan = chain.plan(
            profiles.load("smoke", [*settings, f"05_training.devices={devices}"]), reproduce.folder("none")
        )
        return next(n for n in estimate.needs(plan, COSTS, gpus, threads) if n.name.startswith("05"))

    short, long = seconds(600.0), seconds(4200.0)
    assert long.seconds - short.seconds == pytest.approx(3600, rel=1e-3)
    assert long.gpu - short.gpu == pytest.approx(3600 * devices if gpus else 0, rel=1e-3)
    assert 600 < short.seconds < 700 and long.memory == short.memory


def test_every_device_of_a_training_holds_the_data_and_on_the_processor_the_network():
    def memory(devices, gpus):
        settings = ["checkpoints=train", "05_training.batch_size=64", f"05_training.devices={devices}"]
        plan = chain.plan(profiles.load("laptop", settings), reproduce.folder("none"))
        return next(n.memory for n in estimate.needs(plan, COSTS, gpus, 1) if "avatars" in n.name)

    data = sum(work.images("avatars")[:2]) * 3 * 32**2 / 2**20
    assert memory(3, 4) - memory(1, 4) == pytest.approx(2 * (COSTS.start_mb + data))
    assert memory(2, 0) - memory(1, 0) > COSTS.start_mb + data


def test_a_cluster_is_asked_for_twice_the_largest_job_of_a_rule():
    small, large = need("a", 600, memory=1000.0), need("a", 60, memory=3000.0, devices=8, nodes=2)
    asked = estimate.resources([small, large])["notebook_a"]
    alone = {"mem_mb": 6000, "runtime": 2 * 10 + estimate.LEAST}
    assert asked == alone | {"gres": "gpu:8", "nodes": 2}, "8 on each of two machines, not 8 in all"
    one = need("a", 600, memory=3000.0, devices=8)
    assert estimate.resources([one])["notebook_a"] == alone | {"gpu": 8}
    none = need("a", 600, memory=3000.0, nodes=2)
    assert estimate.resources([none])["notebook_a"] == alone | {"nodes": 2, "tasks": 2}


def test_more_gpus_and_threads_take_less_time_and_the_same_work():
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    one, two = (estimate.needs(plan, COSTS, 0, threads) for threads in (1, 4))
    assert [n.cpu for n in one] == [n.cpu for n in two]
    assert all(a.seconds >= b.seconds for a, b in zip(one, two, strict=True))
    trained = next(n for n in one if n.name.startswith("05"))
    assert trained.seconds == pytest.approx(trained.cpu) and trained.gpu == 0
    fast = next(n for n in estimate.needs(plan, COSTS, 1, 1) if n.name == trained.name)
    assert fast.gpu > 0 and fast.devices == 1 and fast.cpu < trained.cpu


def test_shards_share_the_samples_and_the_notebook_waits_for_them():
    whole = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    parts = chain.plan(profiles.load("smoke", ["shards=4"]), reproduce.folder("none"))
    found = estimate.needs(parts, COSTS, 1, 1)
    shards = [n for n in found if n.rule == "samples"]
    assert len(shards) == 4
    (after,) = (n for n in found if n.name == "07_synthesis")
    assert {n.name for n in shards} < set(after.after)
    (before,) = (n for n in estimate.needs(whole, COSTS, 1, 1) if n.name == "07_synthesis")
    assert sum(n.gpu for n in shards) + after.gpu == pytest.approx(before.gpu)
    pages = estimate.PAGES
    assert sum(n.disk - pages for n in shards) + after.disk == pytest.approx(before.disk)
    of = chain.plan(profiles.load("smoke"), reproduce.folder("none")).of("07_synthesis")[0].parameters
    drawn, best = synthesis_work.kept(given("07_synthesis", **of))
    assert 2**20 * (before.disk - pages) == pytest.approx(drawn + best)
    assert 2**20 * (after.disk - pages) == pytest.approx(best)


def test_what_several_jobs_read_of_a_data_set_is_counted_with_the_first_and_no_other_job_keeps_samples():
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    found = {need.name: need for need in estimate.needs(plan, COSTS, 0, 1)}
    alone = {}
    for job in plan.jobs:
        one = chain.Plan(plan.run_dir, plan.profile, (job,))
        alone[job.name] = estimate.needs(one, COSTS, 0, 1)[0]
        again = work.read(job.notebook, given(job.notebook, **job.parameters))
        if job.notebook in ("10_ablations", "11_beyond"):
            assert found[job.name].disk == estimate.PAGES
            saved = alone[job.name].cpu - found[job.name].cpu
            before = [
                work.read(o.notebook, given(o.notebook, **o.parameters))
                for o in plan.jobs[: plan.jobs.index(job)]
            ]
            known = sum(n for which, n in again.items() if any(which in other for other in before))
            assert known and saved == pytest.approx(known * COSTS.other["feature"])
    assert alone["07_synthesis"].cpu == pytest.approx(found["07_synthesis"].cpu), "it is the first"


def test_notebooks_that_sample_ask_for_a_gpu_and_no_others():
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    asked = {need.name: need.devices for need in estimate.needs(plan, COSTS, 1, 1)}
    assert asked["03_sde"] == asked["04_networks"] == asked["12_scorecard"] == 0
    assert asked["07_synthesis"] == asked["08_denoising"] == asked["11_beyond"] == 1


def test_the_estimate_says_jobs_hours_memory_disk_formula_and_what_was_not_measured(monkeypatch):
    monkeypatch.setattr(estimate, "load", lambda: COSTS)
    text = estimate.report(chain.plan(profiles.load("smoke"), reproduce.folder("none")), 2)
    for word in ("jobs", "GPU-hours", "CPU-hours", "peak memory", "disk", "seconds of a job =", "a machine"):
        assert word in text
    assert "Not measured, counted as an average notebook: 00_start_here" in text


def test_the_estimate_needs_no_docstrings(monkeypatch):
    """Python leaves them out under -OO."""
    monkeypatch.setattr(estimate, "load", lambda: COSTS)
    monkeypatch.setattr(estimate, "__doc__", None)
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    assert estimate.FORMULA in estimate.report(plan, 1)


def test_a_run_is_compared_job_by_job(monkeypatch, tmp_path):
    plan = chain.plan(profiles.load("smoke"), tmp_path)
    monkeypatch.setattr(calibration, "load", lambda: COSTS)
    with pytest.raises(InputError, match="no results of this profile"):
        measured.compared(plan, 2)
    timings = {"cpu_s": 5.0 + COSTS.kernel, "wall_time_s": 5.0}
    monkeypatch.setattr(measured.runs, "results", lambda folder: {"12_scorecard": {"timings": timings}})
    line = next(row for row in measured.compared(plan, 2).splitlines() if "12_scorecard" in row)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert float(cells[1]) == float(cells[2]) == 15 and float(cells[3]) == 1


def finished(run_dir: Path, threads: int = 1) -> list[str]:
    """A run of two jobs, as the chain leaves it; returns the seals of its results."""
    profile = profiles.Profile(name="two", notebooks={"03_sde": {}, "12_scorecard": {}})
    plan = chain.plan(profile, run_dir)
    chain.prepare(plan)
    (run_dir / "results").mkdir()
    for number, job in enumerate(plan.jobs, 1):
        result = dict.fromkeys(runs.KEYS) | dict(job=job.name, notebook=job.notebook)
        result |= dict(timings={"cpu_s": 10.0 * number, "wall_time_s": 5.0, "peak_mb": 900.0})
        result |= dict(environment={"threads": threads, "processor": "a machine"})
        text = json.dumps(result | {"sha256": runs.seal(result)})
        (run_dir / "results" / f"{job.name}.json").write_text(text)
    return runs.seals(runs.results(run_dir).values())


def test_a_record_of_a_finished_run_is_kept_and_held_against_the_estimate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measured, "path", lambda name: tmp_path / f"{name}.yaml")
    monkeypatch.setattr(calibration, "load", lambda: COSTS)
    seals = finished(tmp_path / "run")
    assert measured.main([str(tmp_path / "run"), "--first"]) == 0
    found = measured.load("two")
    assert (found.machine, found.threads, found.first, found.seals) == ("a machine", 1, True, seals)
    assert found.jobs["12_scorecard"] == {"cpu_s": 20.0, "wall_time_s": 5.0}
    frame = measured.beside(found.plan(), COSTS, found.jobs, 0, found.threads)
    outside = COSTS.start - COSTS.kernel
    assert frame.loc["all", "measured"] == 30 + 2 * outside and frame.loc["all", "taken"] == 10 + 2 * 10
    assert frame.loc["12_scorecard", "ratio"] == pytest.approx(15 / (20 + outside))
    (tmp_path / "run" / "results" / "03_sde.json").unlink()
    assert measured.main([str(tmp_path / "run")]) == 2
    assert "is not finished: 03_sde has no result" in capsys.readouterr().err
    with pytest.raises(InputError, match="python -m cunet.measured none"):
        measured.load("none")


def test_no_record_is_of_a_run_that_the_costs_were_fitted_from(tmp_path, monkeypatch, capsys):
    seals = finished(tmp_path)
    monkeypatch.setattr(measured, "path", lambda name: tmp_path / "record.yaml")
    monkeypatch.setattr(calibration, "load", lambda: replace(COSTS, fitted=["0" * 12, seals[1]]))
    assert measured.main([str(tmp_path)]) == 2
    assert f"were fitted from {tmp_path} ({seals[1]} and 0 more" in capsys.readouterr().err
    assert not (tmp_path / "record.yaml").exists()
    assert set(calibration.Costs(**vars(COSTS)).fitted) == set(), "older files of costs do not say"


def test_features_that_an_earlier_run_has_computed_are_left_out_where_that_is_said():
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    first, later = (
        {n.name: n.cpu for n in estimate.needs(plan, COSTS, 0, 1, features)} for features in (True, False)
    )
    (job,) = plan.of("07_synthesis")
    read = sum(work.read(job.notebook, given(job.notebook, **job.parameters)).values())
    saved = first["07_synthesis"] - later["07_synthesis"]
    assert read and saved == pytest.approx(read * COSTS.other["feature"])
    assert first["03_sde"] == later["03_sde"]


def test_the_committed_costs_are_whole_and_of_the_networks_as_they_are():
    found = calibration.load()
    assert set(found.networks) >= {"unet", "cunet"} and set(found.other) == set(COSTS.other)
    assert 0 <= found.scaling <= 1 and found.kernel <= found.start and "default" in found.notebooks
    for name, sizes in found.networks.items():
        assert all(of["macs"] == work.macs((name, size, 1)) for size, of in sizes.items())
        assert all(math.isfinite(x) and x > 0 for measured in sizes.values() for x in measured.values())


def test_a_training_is_a_process_of_its_own_and_a_cluster_counts_papermill_and_snakemake():
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    found = {need.rule: need.memory for need in estimate.needs(plan, COSTS, 0, 1)}
    kernel = estimate.HANDS + COSTS.start_mb
    assert found["notebook_03_sde"] >= kernel
    assert found["notebook_05_training"] >= kernel + COSTS.start_mb
    assert found["notebook_04_networks"] >= kernel + 900, "what its jobs were seen to hold besides"


def test_memory_besides_networks_and_data_is_what_the_greediest_finished_job_held():
    of = given("03_sde", size="smoke")
    results = [
        dict(notebook="03_sde", parameters=of, timings={"peak_mb": peak}) for peak in (700.0, 1000.0, 900.0)
    ]
    explained, _ = estimate.modelled_memory(of, Work(), 600.0)
    found = calibration.memory_from(600.0, results)
    assert found == {"03_sde": pytest.approx(1000 - (explained - estimate.HANDS), abs=0.1)}
    results[1]["timings"]["peak_mb"] = results[2]["timings"]["peak_mb"] = 1.0
    results[0]["timings"]["peak_mb"] = 1.0
    assert calibration.memory_from(600.0, results) == {"03_sde": 0.0}, "never below what is explained"


def test_the_estimate_of_the_committed_run_is_within_30_per_cent_of_what_it_took():
    """Costs and run are of one machine; who commits a run of another one calibrates there, too."""
    committed = ROOT / "papermill_runs" / "reference"
    results = runs.results(committed)
    plan = chain.plan(profiles.load(str(committed / "profile.yaml")), reproduce.folder("none"))
    (threads,) = {result["environment"]["threads"] for result in results.values()} - {1} or {1}
    costs = calibration.load()
    needs = [need for need in estimate.needs(plan, costs, 0, threads) if need.name in results]
    took = sum(results[need.name]["timings"]["wall_time_s"] for need in needs)
    expected = sum(need.seconds - costs.start for need in needs)  # a wall time begins in the kernel
    assert len(needs) == len(results) and 0.7 < expected / took < 1.3


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_the_estimate_of_a_run_that_costs_were_not_fitted_from_is_within_30_per_cent(name, monkeypatch):
    """In all; each notebook, many of which take a few seconds, within a factor."""
    monkeypatch.setattr(estimate, "modelled_memory", lambda *_: (0.0, 0.0))  # takes trainings to learn
    if not measured.path(name).is_file():
        pytest.skip(f"not measured yet: `make reproduce PROFILE={name}`, `python -m cunet.measured {name}`")
    kept, costs = measured.load(name), calibration.load()
    measured.refuse_fitted(costs, kept.seals, name)
    plan = kept.plan()
    assert plan.profile.name == name and {job.name for job in plan.jobs} == kept.jobs.keys()
    found = measured.beside(plan, costs, kept.jobs, 0, kept.threads, features=kept.first)
    assert found.loc["all", ["ratio", "ratio of both"]].between(0.7, 1.3).all(), found
    assert found["ratio"].between(1 / MOST_OFF, MOST_OFF).all(), found


@pytest.mark.parametrize("name, minutes", [("smoke", 5), ("laptop", 30), ("reference", 150)])
def test_a_profile_is_meant_to_hold_within_its_budget_with_a_tenth_to_spare(name, minutes, monkeypatch):
    """On two cores, by the committed costs; budgets are those of the README."""
    monkeypatch.setattr(estimate, "modelled_memory", lambda *_: (0.0, 0.0))  # takes trainings to learn
    plan = chain.plan(profiles.load(name), reproduce.folder("none"))
    found = estimate.needs(plan, calibration.load(), 0, 2 // plan.profile.jobs)
    assert estimate.laid_out(found, plan.profile.jobs).seconds < 0.9 * 60 * minutes


@pytest.mark.long
def test_the_page_of_runs_says_what_the_papers_profile_costs_by_the_estimate(monkeypatch):
    """Networks of the paper's size are built and counted."""
    monkeypatch.setattr(estimate, "modelled_memory", lambda *_: (0.0, 0.0))  # takes trainings to learn
    text = (ROOT / paper_cost.PAGE).read_text(encoding="utf-8")
    if "Not written yet" in text.partition(paper_cost.BEGIN)[2].partition(paper_cost.END)[0]:
        pytest.skip("the page has no table yet: `python -m cunet.paper_cost`")
    assert paper_cost.replaced(text) == text, "python -m cunet.paper_cost writes it"
    rows = [line for line in paper_cost.block().splitlines() if "GPU" in line and line.startswith("|")]
    assert len(rows) == 1 + len(paper_cost.WAYS)
    for settings, of in paper_cost.WAYS.values():  # the page's commands are those that the table is of
        words = [f"--cores {of['cores']}", *(f"--set {setting}" for setting in settings)]
        assert any(all(word in line for word in words) for line in text.splitlines())


def test_the_laptop_profile_denoises_in_ten_minutes(monkeypatch):
    monkeypatch.setattr(estimate, "modelled_memory", lambda *_: (0.0, 0.0))  # takes trainings to learn
    plan = chain.plan(profiles.load("laptop"), reproduce.folder("none"))
    found = {need.name: need.seconds for need in estimate.needs(plan, calibration.load(), 0, 2)}
    assert found["08_denoising"] + found["09_denoisers"] < 600


def test_best_distances_of_the_reference_profile_are_of_thousands_of_images_that_go_on_from_whole_blocks():
    given = profiles.load("reference").notebooks["07_synthesis"]
    assert given["best_samples"] >= 2000
    assert all(given[key] % shards.BLOCK == 0 for key in ("samples", "other_samples", "best_samples"))


def test_the_committed_costs_know_what_every_notebook_holds():
    assert set(calibration.load().memory) == {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py")}
