"""Notebook 07's experiment: what is compared, what is sampled, what is measured, and who is ahead."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cunet import checkpoints, frechet, metrics, paper, processes, rules, runs, scorecard, subsets, synthesis
from cunet import synthesis_claims as judged
from cunet import synthesis_tables as tables
from cunet.checkpoints import Trained
from cunet.errors import InputError

GIVEN = dict(
    size="laptop", datasets=["mnist", "avatars"], models=["unet", "cunet"], seeds=[0, 1], seed=5,
    samples=300, step_counts=[2, 5, 20], best_samples=500, other_samples=100, other_step_counts=[5, 50],
    further_step_counts=[5, 20], samplers=["ddim", "ddpm"], sampler_samples=50, sampler_step_counts=[10],
    draws=3, timing_rounds=4,
)  # fmt: skip

MOST_COPIES = 6  # kB an image that an evaluation may hold: 1 in float32, 2 in float64 twice, and masks
BLOCK = 512  # images whose features are there at once where only a distance is asked for


def folder(path: Path, *stems: str) -> Path:
    for stem in stems:
        (path / f"{stem}-laptop-s0.safetensors").touch()
    return path


def made(found, **changed) -> list[tuple]:
    sets = synthesis.draws(GIVEN | changed, found)
    return [(synthesis.name(d.trained), d.trained.seed, *list(vars(d.samples).values())[1:]) for d in sets]


def test_what_is_there_takes_part_and_what_is_not_is_named(tmp_path):
    folder(tmp_path, "mnist-unet", "mnist-cunet", "avatars-cunet", "mnist-other")
    (tmp_path / "mnist-cunet-laptop-s1.safetensors").touch()
    (tmp_path / "mnist-cunet-laptop-s0-walltime.safetensors").touch()
    found, missing = synthesis.trainings(GIVEN, tmp_path)
    assert list(found) == [
        *(Trained("mnist", "unet"), Trained("mnist", "cunet"), Trained("mnist", "cunet", 1)),
        Trained("mnist", "cunet", 0, "walltime"),
    ]
    assert [synthesis.name(one) for one in found] == ["unet", "cunet", "cunet", "cunet-walltime"]
    assert [synthesis.standard(synthesis.name(one)) for one in found] == ["unet", "cunet", "cunet", "cunet"]
    assert "mnist-unet-laptop-s1" in missing and "avatars-unet-laptop-s0" in missing
    assert "avatars-cunet-laptop-s0" in missing, "there, but with nothing to be compared with"
    assert not {path.stem for path in found.values()} & set(missing)


def test_a_folder_without_the_network_to_compare_with_is_refused(tmp_path):
    with pytest.raises(InputError, match="no mnist-unet-laptop-s0 and no avatars-unet-laptop-s0"):
        synthesis.trainings(GIVEN, folder(tmp_path, "mnist-cunet"))


def test_the_leading_trainings_make_every_set_and_the_others_some():
    found = {Trained("mnist", "unet"): Path("u"), Trained("mnist", "cunet", 1): Path("c")}
    found[Trained("mnist", "cunet", 0, "walltime")] = Path("w")
    assert made(found) == [
        *[("unet", 0, "ddim", steps, 5, 300) for steps in (2, 5, 20)],
        ("unet", 0, "ddpm", 10, 5, 50),
        *[("unet", 0, "ddim", 5, noise, 300) for noise in (6, 7)],
        *[("cunet", 1, "ddim", steps, 5, 300) for steps in (5, 20)],
        *[("cunet-walltime", 0, "ddim", steps, 5, 300) for steps in (5, 20)],
    ]


def test_other_data_sets_have_their_own_numbers_and_no_set_is_made_twice():
    found = {Trained("mnist", "unet"): Path("u"), Trained("avatars", "unet"): Path("a")}
    avatars = [one for one in synthesis.draws(GIVEN, found) if one.trained.dataset == "avatars"]
    main = [(one.samples.steps, one.samples.count) for one in avatars if one.samples.sampler == "ddim"]
    assert main[:2] == [(5, 100), (50, 100)]
    for further in ([5, 20], [20], [50]):  # steps that a data set does not have are no reason to stop
        sets = synthesis.draws(GIVEN | dict(further_step_counts=further), found)
        assert len({one.samples for one in sets}) == len(sets)
    table = synthesis.calls(synthesis.draws(GIVEN | dict(draws=1), found))
    assert table.loc[("mnist", "unet"), "ddim"] == 300 * 27 and table.loc[("avatars", "unet"), "ddpm"] == 500


def test_more_images_are_made_at_the_best_steps_and_never_fewer():
    one = synthesis.draws(GIVEN, {Trained("mnist", "unet"): Path("u")})[0]
    more = synthesis.at_best(one, 20, GIVEN)
    assert (more.samples.steps, more.samples.count, more.samples.seed) == (20, 500, 5)
    assert synthesis.at_best(one, 20, GIVEN | dict(best_samples=1)).samples.count == 300


def test_the_fast_distance_is_the_distance():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 256, generator=generator)
    to_real = frechet.distance_to(frechet.FrechetAlexNet(real).statistics())
    for count in (2, 60, 500):  # with a singular covariance, too
        other = torch.randn(count, 256, generator=generator) * 1.3 + 0.2
        wanted = float(frechet.frechet_distance(real, other))
        assert to_real(other) == pytest.approx(wanted, rel=1e-5)
    for bad in (real[:1], real[:, :3], real * torch.nan):
        with pytest.raises(InputError):
            to_real(bad)
    with pytest.raises(InputError, match="400 images of one of the two sets all have the same"):
        frechet.distance_to(frechet.FrechetAlexNet(real[:1].repeat(400, 1)).statistics())


def test_distances_are_of_all_images_whatever_is_held_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    real, other = (torch.randn(500, 256, generator=generator) + shift for shift in (0, 0.1))
    to_real = frechet.distance_to(frechet.FrechetAlexNet(real).statistics())
    distance, shares = to_real(other), frechet.precision_recall(real, other)
    monkeypatch.setattr(frechet, "CHUNK", 64)
    monkeypatch.setattr(frechet, "PAIRS", 500 * 30)
    assert to_real(other) == pytest.approx(distance, rel=1e-9)
    assert to_real(torch.cat([other[:400], real[:100]])) < distance, "the last ones count"
    assert frechet.precision_recall(real, other) == pytest.approx(shares)


def test_a_distance_from_the_states_of_blocks_is_that_of_all_images_whoever_summed_which():
    """Each of several jobs sums over its blocks, and torchmetrics merges their states."""
    generator = torch.Generator().manual_seed(0)
    real, found = torch.randn(400, 256, generator=generator), torch.randn(1500, 256, generator=generator)
    wanted, known = frechet.frechet_distance(real, found), frechet.FrechetAlexNet(real).statistics()
    blocks = found.split(BLOCK)
    for jobs in (1, 2, 3):
        states = []
        for job in range(jobs):
            own = frechet.FrechetAlexNet()
            for block in blocks[job::jobs]:
                own.update(block, real=False)
            states.append(own.statistics(real=False))
        merged = frechet.FrechetAlexNet(known)
        for state in states:
            merged.update(state, real=False)
        assert merged.compute().n_generated == 1500
        assert float(merged.compute()) == pytest.approx(float(wanted), rel=1e-9)
    assert frechet.distance_to(known)(found) == pytest.approx(float(wanted), rel=1e-5)
    assert float(frechet.FrechetAlexNet(known).update(states[0], real=False).compute()) != pytest.approx(
        float(wanted), rel=1e-3
    ), "a state that is left out is missed"


def drawn_features(first: int, count: int) -> torch.Tensor:
    """Features of `count` images from number `first` on, as a set's block has them."""
    return torch.randn(count, 256, generator=torch.Generator().manual_seed(first)).abs()


def summed(count: int) -> None:
    """Body of a process of its own: a distance alone, from the states of four jobs, each over its blocks."""
    torch.set_num_threads(1)
    distance = frechet.FrechetAlexNet(drawn_features(10**6, 4000))
    for job in range(4):
        own = frechet.FrechetAlexNet()
        for first in range(job * BLOCK, count, 4 * BLOCK):
            own.update(drawn_features(first, min(BLOCK, count - first)), real=False)
        distance.update(own.statistics(real=False), real=False)
    assert distance.compute().n_generated == count


def evaluated(count: int) -> None:
    """Body of a process of its own: what notebook 07 measures of a set."""
    torch.set_num_threads(1)
    real, found = drawn_features(10**6, 10_000), drawn_features(0, count)
    distance = frechet.distance_to(frechet.FrechetAlexNet(real).statistics())
    metrics.resampled(found, distance, 2)
    metrics.kid(real, found)
    metrics.precision_recall(real[:4000], found)


def peaks(body: str) -> dict[int, int]:
    """Number of samples -> MB that a process of its own held at most."""
    found = {}
    for count in (4000, 30_000):
        code = f"import resource, test_synthesis; test_synthesis.{body}({count}); "
        code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        paths = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        with processes.environment(PYTHONPATH=paths):
            said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[count] = int(said.stdout)
    return found


def test_a_distance_from_the_states_of_blocks_takes_the_memory_of_one_block(measured):
    """To 30,000 samples, whose features are 29 MB: 25 MB more than those of 4,000."""
    megabytes = peaks("summed")
    measured(f"peak resident memory of a distance by number of samples, MB: {megabytes}")
    assert megabytes[30_000] - megabytes[4000] < 10


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_evaluation_holds_features_alone_and_no_more_for_each_image_than_a_few_of_them(measured):
    """Its bootstrap, its kernel distance and its nearest neighbours need each image's features: 1 kB in
    float32, and copies of it; pairs of images are looked at in parts of one size."""
    megabytes = peaks("evaluated")
    measured(f"peak resident memory of an evaluation by number of samples, MB: {megabytes}")
    assert megabytes[30_000] - megabytes[4000] < 26_000 * MOST_COPIES / 1024


def test_a_yardstick_tells_digits_from_noise_and_measures_test_images_at_the_floor(tmp_path, monkeypatch):
    monkeypatch.setenv("CUNET_DATA", str(tmp_path))
    monkeypatch.setattr("cunet.datasets._mnist", _few(monkeypatch))
    stick = synthesis.Yardstick("mnist", 16, limit=300)
    assert stick.floor(200) < stick.ceiling(200) / 3 and stick.near_duplicates is None
    at_once = stick.ceiling(200)
    monkeypatch.setattr(synthesis, "NOISE", 60)
    assert stick.ceiling(200) == pytest.approx(at_once, rel=1e-4), "the same noise, a part at a time"
    found, drawn = stick.measure(frechet.features(subsets.images(stick.test, 200)), resamples=5)
    assert len(drawn) == 5 and float(drawn.mean()) == pytest.approx(found["fd"])
    assert found["above"] == pytest.approx(0, abs=1e-4) and found["fd_low"] < found["fd"] < found["fd_high"]
    assert found["precision"] > 0.8 and found["recall"] > 0.8 and abs(found["kid"]) < 0.05
    with pytest.raises(InputError, match="20 images of one of the two sets all have the same features"):
        stick.measure(stick.features[:1].repeat(20, 1), resamples=5)


def test_the_floor_is_of_as_many_real_images_as_there_are_samples_or_there_is_none(tmp_path, monkeypatch):
    """100 test images, as LSUN Church has few: further ones are training images that distances are not to."""
    monkeypatch.setenv("CUNET_DATA", str(tmp_path))
    monkeypatch.setattr("cunet.datasets._mnist", _few(monkeypatch, test=100))
    stick = synthesis.Yardstick("mnist", 16, limit=300)
    real = torch.cat([frechet.features(stick.test), frechet.features(stick.train.batch(range(300, 400)))])
    for count in (60, 100, 130, 200):
        some = real[:count] if count > 100 else real[subsets.evenly(100, count)]
        wanted = float(frechet.frechet_distance(stick.features, some))
        assert stick.floor(count) == pytest.approx(wanted, rel=1e-4)
    assert stick.floor(200) < 0.9 * stick.floor(100), "the distance of fewer images is another"
    draw = torch.Generator().manual_seed(1)
    of_some = [stick.distance(real[torch.randperm(100, generator=draw)[:20]]) for _ in range(50)]
    error = np.std(of_some) * (1 / len(of_some) + 1 / synthesis.FLOORS) ** 0.5
    assert abs(stick.mean_floor(20) - np.mean(of_some)) < 5 * error
    for more in (stick.floor, lambda n: stick.measure(torch.rand(n, 256), resamples=2)):
        with pytest.raises(
            InputError, match="201 samples .* there are 200 of these.* lower reference_images"
        ):
            more(201)


def test_more_samples_than_real_images_are_refused_by_their_parameter():
    given = GIVEN | dict(reference_images=1000)
    synthesis.refuse_too_few(given, "mnist", 1000, 500)  # as many as best_samples
    synthesis.refuse_too_few(given, "mnist", 1200, 300)
    with pytest.raises(InputError, match="best_samples=500 of mnist: .* 499 of these"):
        synthesis.refuse_too_few(given, "mnist", 900, 499)
    with pytest.raises(InputError, match="other_samples=600 of avatars"):
        synthesis.refuse_too_few(given | dict(other_samples=600), "avatars", 1000, 500)


def test_lists_without_an_element_are_refused_where_one_is_needed():
    found = {Trained("mnist", "unet"): Path("u"), Trained("mnist", "unet", 1): Path("v")}
    for key, changes in {"samplers": {}, "step_counts": {}, "further_step_counts": dict(draws=2)}.items():
        with pytest.raises(InputError, match=f"^{key} is empty: give at least one"):
            synthesis.draws(GIVEN | changes | {key: []}, found)
    few = synthesis.draws(GIVEN | dict(draws=1, further_step_counts=[]), found)
    assert {one.trained.seed for one in few} == {0}, "the other training makes no sets"


def _few(monkeypatch, test=400):
    """MNIST's loader, cut to 400 images: features of 60,000 take a minute."""
    from cunet import datasets

    whole = datasets._mnist

    def few(name, split, side, root):
        loaded = whole(name, split, side, root)
        count = test if split == "test" else 400
        return datasets.ImageDataset(name, split, loaded.images[:count], loaded.labels[:count])

    return few


# --------------------------------------------------------- tables


def curve(above: dict[tuple, float], floor: float = 2.0, **columns) -> pd.DataFrame:
    """A curve from (model, training seed, steps) -> distance above the floor."""
    rows = [
        dict(dataset="mnist", model=m, seed=s, sampler="ddim", steps=n, noise=5, n=300, fd=floor + a, above=a)
        for (m, s, n), a in above.items()
    ]
    frame = pd.DataFrame(rows).assign(kid=0.0, precision=1.0, recall=1.0, **columns)
    return frame.assign(fd_low=frame.fd - 0.1, fd_high=frame.fd + 0.1)


TWO = curve(
    {
        **{("unet", 0, n): a for n, a in ((2, 9.0), (5, 4.0), (20, 1.0))},
        **{("cunet", 0, n): a for n, a in ((2, 3.0), (5, 1.0), (20, 1.02))},
        **{("unet", 1, n): a for n, a in ((5, 5.0), (20, 2.0))},
        **{("cunet", 1, n): a for n, a in ((5, 1.5), (20, 3.0))},
    }
)


def drawn(frame: pd.DataFrame, width: float = 0.05) -> dict[tuple, torch.Tensor]:
    """Resampled distances of every row: the row's own, and evenly around it; of all rows alike."""
    return {
        tables.key(row): row.fd + torch.linspace(-width, width, 41).double() for row in frame.itertuples()
    }


def at(lowest: int, flat: int = 20) -> tables.Chosen:
    """Nine resamples that all choose alike, of 5, 20 and 50 steps."""
    return tables.Chosen(torch.tensor([lowest] * 9), torch.tensor([flat] * 9), (5, 20, 50))


def test_every_resample_chooses_its_steps_and_edges_are_named():
    lines = curve({("unet", 0, n): a for n, a in ((2, 9.0), (5, 1.0), (20, 1.0), (50, 3.0))})
    found = drawn(lines)
    found[tables.key(lines.iloc[2])] = 3.0 - torch.linspace(-0.05, 0.05, 41).double()  # against the others
    chosen = tables.chosen_steps(lines.sample(frac=1, random_state=0), found)
    assert set(chosen.lowest.tolist()) == {5, 20} and set(chosen.flat.tolist()) == {5}
    assert chosen.spread() == dict(steps_low=5, steps_high=20, flat_low=5, flat_high=5, edge="-")
    few = tables.chosen_steps(lines[lines.steps < 20], found)
    assert few.spread()["edge"] == "most tried" and few.tried == (2, 5)


@pytest.mark.parametrize(
    ("ours", "others", "below", "above"),
    [
        (20, 20, 1.0, 1.0),
        (5, 20, 0.0, 0.25),  # the first may be smaller
        (50, 20, 2.5, tables.OPEN_RATIO),  # or larger
        (20, 5, 4.0, tables.OPEN_RATIO),  # the second may be smaller
        (20, 50, 0.0, 0.4),  # or larger
        (5, 50, 0.0, 0.1),
        (50, 5, 10.0, tables.OPEN_RATIO),
        (5, 5, 0.0, tables.OPEN_RATIO),
        (50, 50, 0.0, tables.OPEN_RATIO),
    ],
)
def test_a_ratio_of_steps_is_open_on_the_side_where_either_may_lie_beyond_what_was_tried(
    ours, others, below, above
):
    assert tables.ratio_of_steps(at(ours), at(others)) == (below, above)


def test_a_number_within_5_per_cent_may_be_larger_where_the_lowest_distance_is_at_the_most_tried():
    assert tables.ratio_of_steps(at(20), at(50), "flat") == (0, 1), "the second's may be larger"
    assert tables.ratio_of_steps(at(50), at(20), "flat") == (1, tables.OPEN_RATIO)
    assert tables.ratio_of_steps(at(20, flat=5), at(20), "flat") == (0, 0.25), "the first's may be smaller"
    assert tables.ratio_of_steps(at(20), at(20, flat=5), "flat") == (4, tables.OPEN_RATIO)


def test_an_open_ratio_of_steps_is_larger_than_any_and_a_number_that_a_file_can_hold():
    """Ratios of distances end at 10, and 100 steps over 2 are 50: no end of theirs is one of steps."""
    many = [tables.Chosen(torch.tensor([n] * 9), torch.tensor([n] * 9), (1, 2, 100, 200)) for n in (2, 100)]
    assert tables.ratio_of_steps(*reversed(many)) == (50, 50)
    (_, said) = judged.faster("cunet", (0.5, 0.4, 0.6), (50.0, 50.0, 50.0))
    assert "open" not in said["measured"], "it is known, however large"
    (_, said) = judged.faster("cunet", (0.5, 0.4, 0.6), (2.5, 2.5, tables.OPEN_RATIO))
    assert "open" in said["measured"] and said["value"]["low"] == 1 - 0.6 * tables.OPEN_RATIO
    assert runs.plain(said)["value"] == said["value"], "an end that is written as null would count as none"


def test_ratios_above_the_floor_have_ends_where_one_is_not_above_it():
    mine, theirs = torch.tensor([1.0, -1.0, 1.0, 9.0]), torch.tensor([2.0, 2.0, -2.0, 0.1])
    most = tables.MOST_RATIO
    assert tables.ratio_above(mine, theirs).tolist() == [0.5, 0, most, most]


def test_over_pairs_of_seeds_the_interval_is_students():
    middle, low, high = tables.over_pairs([0.5, 2.0])
    assert middle == pytest.approx(1) and low == pytest.approx(1 / high) and high > 1000
    assert all(x != x for x in (*tables.over_pairs([1.0, -1.0]), tables.over_pairs([0.5])[1]))


def test_the_papers_rule_takes_the_lowest_and_the_second_one_the_first_that_is_as_good():
    lines = curve({("unet", 0, n): a for n, a in ((2, 9.0), (5, 1.1), (20, 1.0), (50, 1.3))})
    assert tables.best(lines) == (20, 5, 3.0)
    assert tables.best(lines[lines.steps > 5]).flat == 20


def test_networks_are_compared_at_equal_steps_seeds_and_sizes_only():
    other = TWO[TWO.model == "cunet"].assign(n=50, sampler="ddpm")
    frame = pd.concat([TWO, other, TWO.assign(noise=6)])
    pairs = tables.against_first(frame, "cunet", GIVEN, drawn(frame))
    assert ((pairs.share_low < pairs.share) & (pairs.share < pairs.share_high)).all()
    found = {(row.seed, row.steps): row.share for row in pairs.itertuples()}
    assert found == pytest.approx({(0, 2): 1 / 3, (0, 5): 0.25, (0, 20): 1.02, (1, 5): 0.3, (1, 20): 1.5})


def test_equal_time_gives_the_lowest_distance_that_fits():
    seconds = {("mnist", "unet"): 1.0, ("mnist", "cunet"): 0.5}
    frame = tables.equal_time(TWO, seconds, GIVEN)
    assert frame.steps.tolist() == [2, 5, 20] and frame.seconds.tolist() == [2, 5, 20]
    assert frame.cunet.tolist() == [3 + 2, 1 + 2, 1 + 2] and frame.unet.tolist() == [11, 6, 3]


def test_spreads_over_draws_and_over_seeds_are_those_of_the_right_rows():
    again = pd.concat([TWO, TWO[(TWO.steps == 5) & (TWO.seed == 0)].assign(noise=6, fd=7.0)])
    draws = tables.over_draws(again, GIVEN)
    assert draws.index.tolist() == [("mnist", "unet", 5), ("mnist", "cunet", 5)]
    assert draws.loc[("mnist", "cunet", 5), "deviation"] == pytest.approx(pd.Series([3.0, 7.0]).std())
    assert draws.bootstrap.tolist() == pytest.approx([0.2 / 3.92] * 2)
    seeds = tables.over_seeds(again, GIVEN)
    assert seeds.loc[("mnist", "unet", 20)].tolist() == pytest.approx([3.5, pd.Series([3.0, 4.0]).std(), 2])


def test_table_1_has_the_papers_row_beside_ours_and_a_stand_in_is_named_as_one():
    chosen = pd.concat([TWO.iloc[[2, 4]], TWO.iloc[[2, 4]].assign(dataset="avatars")])
    seconds = dict.fromkeys(itertools.product(("mnist", "avatars"), ("unet", "cunet")), 0.5)
    table = tables.table_1(chosen, seconds)
    wanted = "dataset model fd fd_low fd_high steps seconds_per_sample paper_fid paper_steps paper_seconds"
    assert list(table.columns[:10]) == wanted.split()
    printed = {(row.dataset, row.model): row.fid for row in paper.TABLE_1}
    assert table.paper_fid.tolist() == [printed[d, m] for d in ("mnist", "celeba") for m in ("unet", "cunet")]
    assert table.paper_dataset.tolist() == ["mnist", "mnist", "celeba", "celeba"]
    assert table.seconds_per_sample.tolist() == [10.0, 2.5, 10.0, 2.5]
    shown = tables.as_printed(table)
    assert shown.shape == (4, 6) and "CelebA / avatars (stand-in for CelebA): distance" in shown.columns
    assert shown.loc["U-Net, here: FD-AlexNet", "MNIST: steps"] == "20"
    assert shown.loc["U-Net, paper: FID", "MNIST: distance"] == f"{printed['mnist', 'unet']:g}"


def card(*losses: float) -> dict:
    return dict(validation=[[100 * (i + 1), x] for i, x in enumerate(losses)])


AN_IMAGE = {("mnist", "unet"): 0.02, ("mnist", "cunet"): 0.01}


def test_convergence_is_read_off_at_a_loss_that_both_reach_and_pairs_training_seeds():
    cards = {("mnist", "unet", s): card(0.8, 0.4, 0.2) for s in (0, 1)}
    cards["mnist", "cunet", 0] = card(0.4, 0.2, 0.1)
    cards["mnist", "cunet", 2] = card(0.1)
    frame = tables.convergence(cards, "unet", AN_IMAGE).set_index(["model", "seed"])
    assert frame.loc[("cunet", 0), "images"] == pytest.approx(2 / 3)
    assert frame.loc[("cunet", 0), "to_loss"] == 0.2
    assert frame.loc[("cunet", 0), "time"] == pytest.approx(1 / 3)
    assert ("cunet", 2) not in frame.index and frame.loc[("unet", 1), "images"] == 1


def test_training_seconds_are_of_the_networks_that_the_cards_name():
    settings = dict(channels=1, batch_size=4, recipe=dict(channels_last=True))
    large = settings | dict(model="unet", size="laptop", image_size=64)
    small = settings | dict(model="cunet", size="smoke", image_size=16)
    cards = {("mnist", "large", 0): large, ("mnist", "small", 0): small}
    found = tables.training_seconds(cards, 2)
    assert found.keys() == {("mnist", "large"), ("mnist", "small")}
    assert found["mnist", "large"] > found["mnist", "small"] > 0


def test_training_seconds_are_of_no_larger_batches_than_a_processor_takes(monkeypatch):
    """As an image's: the paper's batches take gigabytes, and the time an image is the same."""
    given, rounds = [], dict(channels=1, batch_size=4000, recipe=dict(channels_last=False), image_size=16)
    monkeypatch.setattr(
        tables.bench_tasks, "training_task", lambda call, images, model: given.append(len(images)) or len
    )
    timings = tables.cost.Timings(medians=dict(cunet=8.0), samples={}, ratios={}, spread={})
    monkeypatch.setattr(tables.cost, "time_interleaved", lambda *_, **__: timings)
    found = tables.training_seconds({("mnist", "cunet", 0): rounds | dict(model="cunet", size="smoke")}, 2)
    assert given == [tables.MOST] and found == {("mnist", "cunet"): 8.0 / tables.MOST}


# --------------------------------------------------------- claims


def claims(frame=TWO, ratio=(0.5, 0.4, 0.6)):
    judges = frame[frame.seed == 0]
    best = {key: tables.best(lines) for key, lines in judges.groupby(["dataset", "model"], sort=False)}
    chosen = judges[[best[r.dataset, r.model].steps == r.steps for r in judges.itertuples()]]
    cards = {("mnist", m, s): card(0.4, 0.2) for m in ("unet", "cunet") for s in (0, 1)}
    converged = tables.convergence(cards, "unet", AN_IMAGE)
    ratios = {("mnist", "unet"): (1, 1, 1), ("mnist", "cunet"): ratio}
    again, groups = drawn(frame), judges.groupby(["dataset", "model"], sort=False)
    steps = {key: tables.chosen_steps(lines, again) for key, lines in groups}
    return judged.claims(GIVEN, frame, chosen, again, steps, ratios, converged)


def test_every_row_is_judged_by_its_rule_and_says_its_setting_and_why():
    made, timed = claims()
    verdicts = [(row["id"], scorecard.verdict(row["id"], row["value"])) for row in (*made, *timed)]
    assert verdicts == [
        *((claim, rules.REPRODUCED) for claim in ("C06", "C07", "C08")),  # the leading training
        *(("C06", rules.UNDECIDED), ("C08", rules.PARTLY), ("C23", rules.PARTLY)),  # two seeds decide little
        *(("C05", rules.REPRODUCED), ("C05", rules.REPRODUCED)),
    ]
    for row in (*made, *timed):
        assert row["dataset"] == "MNIST" and row["size"] == "laptop" and row["spread"] and row["why"]
        assert row["n"] > 0


def test_the_leading_training_and_the_seeds_have_rows_of_their_own():
    made, timed = claims()
    leading, seeds = ([row for row in made if ("seeds" in row["spread"]) is many] for many in (False, True))
    values = {row["id"]: row["value"] for row in leading}
    assert values["C06"] == pytest.approx(dict(low=1, high=1)), "the same resamples of both"
    steps = dict(lowest_low=0, lowest_high=0.25, flat_low=0, flat_high=0.25)  # the U-Net's lowest: the most
    assert values["C07"] == steps and values["C08"] == dict(as_good=3, worse=0, tried=3)
    assert all("joint bootstrap" in row["spread"] for row in leading)
    values = {row["id"]: row["value"] for row in seeds}
    ratio = tables.over_pairs([1.0 / 1.0, 1.5 / 2.0])
    assert values["C06"] == pytest.approx(dict(low=ratio[1], high=ratio[2]))
    assert values["C08"] == dict(as_good=1, worse=0, tried=2), "0.25 and 0.3; 1.02 and 1.5"
    assert "C07" not in values, "few numbers of steps are no curve"
    faster = [row["value"] for row in timed if row["id"] == "C05"]
    assert faster == [
        pytest.approx(dict(saved=0.5, low=0.4, high=0.6)),
        pytest.approx(dict(saved=0.875, low=0.85, high=1)),  # the U-Net's best may be of more steps
    ]


def test_a_training_that_is_worse_is_not_called_a_match():
    frame = TWO.assign(above=TWO.above.where(TWO.model == "unet", TWO.above * 9))
    frame = frame.assign(fd=2 + frame.above, fd_low=1.9 + frame.above, fd_high=2.1 + frame.above)
    made, _ = claims(frame, ratio=(1.2, 1.1, 1.3))
    verdicts = {
        row["id"]: scorecard.verdict(row["id"], row["value"]) for row in made if "seeds" not in row["spread"]
    }
    assert verdicts["C06"] == verdicts["C08"] == rules.NOT_REPRODUCED
    _, timed = claims(frame, ratio=(1.2, 1.1, 1.3))
    assert scorecard.verdict("C05", timed[-2]["value"]) == rules.NOT_REPRODUCED


def test_what_the_samples_leave_open_is_undecided():
    """Both networks' best steps are the most tried, and their intervals are wide."""
    frame = TWO.assign(above=10.0 / TWO.steps, fd=2 + 10.0 / TWO.steps)
    judges = frame[frame.seed == 0]
    again = {key: d.flip(0) if key[1] == "cunet" else d for key, d in drawn(frame, 0.9).items()}
    steps = {("mnist", m): tables.chosen_steps(judges[judges.model == m], again) for m in ("unet", "cunet")}
    chosen = judges[judges.steps == 20].set_index("model")
    rows = judged.at_best("cunet", chosen, {m: one for (_, m), one in steps.items()}, "unet", again)
    assert {row["id"]: scorecard.verdict(row["id"], row["value"]) for row in rows} == dict.fromkeys(
        ("C06", "C07"), rules.UNDECIDED
    )


def test_without_a_floor_nothing_above_it_is_judged_and_the_row_says_why():
    for model in ("unet", "cunet"):
        made, _ = claims(TWO.assign(above=TWO.above.where(TWO.model == model)))
        for row in made:
            judged_so = scorecard.verdict(row["id"], row["value"]) == rules.NOT_TESTABLE
            assert judged_so == (row["id"] in ("C06", "C08")) == ("fewer real images" in row["measured"])


def test_a_stand_in_is_called_one_in_every_row():
    made, timed = claims(TWO.assign(dataset="avatars"))
    assert made and all("stand-in for CelebA" in row["dataset"] for row in made)
    assert all("stand-in" in row["why"] for row in made)


def test_checkpoints_that_are_there_are_told_from_those_that_are_not(tmp_path):
    folder(tmp_path, "mnist-unet", "avatars-cunet")
    found, missing = checkpoints.there(tmp_path, "laptop", ["mnist", "avatars"], ["unet", "cunet"], [0])
    assert found[Trained("avatars", "cunet")] == tmp_path / "avatars-cunet-laptop-s0.safetensors"
    assert list(found) == [Trained("mnist", "unet"), Trained("avatars", "cunet")]
    assert missing == ["mnist-cunet-laptop-s0", "avatars-unet-laptop-s0"]


@pytest.mark.parametrize(
    "version, committed",
    [
        ("4d42e30ab351", True),
        ("0.1.0-7df8779682f4", True),
        ("4d42e30ab351+changes", False),
        ("files-0123456789ab", False),
        ("uncommitted+changes", False),
        (None, False),
    ],
)
def test_a_network_of_code_that_no_history_has_is_told_by_its_card(version, committed):
    card = {} if version is None else {"code_version": version}
    assert tables.committed(card) is committed
