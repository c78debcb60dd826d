"""Table 4: who is compared with whom, what a walk is credited with, and what the rule of C12 is given."""

import pandas as pd
import pytest
import torch

from cunet import denoiser_tables as tables
from cunet import paper, rules, scorecard
from cunet.trajectories import Trajectory

LEVELS = (50, 150)
METHODS = ("bm3d", "autoencoder-level", "dncnn-level", "dncnn", "cunet")


def scores(quality):
    """(method, level) -> metric -> 12 values around a quality 0 ... 1, the same for both levels."""
    jitter = 0.001 * torch.arange(12)
    return {
        (m, level): {"ssim": q + jitter, "psnr": 10 * q + jitter, "lpips": 1 - q + jitter}
        for m, q in quality.items()
        for level in LEVELS
    }


CUNET = tables.label("cunet")
AHEAD = scores(dict(zip(METHODS, (0.2, 0.3, 0.4, 0.5, 0.9), strict=True)))


def test_a_walk_is_read_at_its_best_or_at_its_end():
    values = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.8]])
    walk = Trajectory(
        9, "mean", torch.tensor([0, 4, 9]), {"ssim": values, "lpips": values}, torch.empty(0), torch.empty(2)
    )
    assert tables.read(walk)["ssim"].tolist() == pytest.approx([0.9, 0.8])
    assert tables.read(walk)["lpips"].tolist() == pytest.approx([0.1, 0.2]), "low is good"
    assert tables.read(walk, "end")["ssim"].tolist() == pytest.approx([0.5, 0.8])


def test_denoised_images_get_every_score():
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    found = tables.measure(images, images)
    assert sorted(found) == ["lpips", "psnr", "ssim"] and found["psnr"].isinf().all()
    assert found["ssim"].tolist() == pytest.approx([1, 1])


def test_the_table_has_each_method_with_its_interval_and_the_papers_numbers():
    frame = tables.averages(AHEAD)
    assert len(frame) == len(METHODS) * len(LEVELS) * 3 and (frame.n == 12).all()
    assert ((frame.low <= frame["mean"]) & (frame["mean"] <= frame.high) & (frame.low < frame.high)).all()
    table = tables.table_4(frame, {})
    assert table.index[0] == (50, "BM3D") and (50, "DnCNN, one a level") in table.index
    printed = {(row.noise, row.method): row for row in paper.TABLE_4}
    row = table.loc[(150, "DnCNN, one a level")]
    assert row["paper: SSIM"] == printed[150, "dncnn"].ssim
    assert row["SSIM"].startswith("0.406 [") and row["PSNR"].startswith("4.0 [")
    assert table.loc[(150, "DnCNN, blind")]["paper: SSIM"] == "", "the paper's is not blind"


def test_the_table_says_how_many_images_each_network_has_seen_as_its_card_has_it():
    frame = tables.averages(AHEAD)
    assert (tables.table_4(frame, {})["images seen"] == "").all(), "no card, no number"
    cards = {("dncnn", None): 800, ("dncnn", 50): 200, ("dncnn", 150): 300, ("cunet", None): 5000}
    cards = {key: {"images_seen": number} for key, number in cards.items()}
    table = tables.table_4(frame, cards | {("autoencoder", 50): {}})
    seen = {key: number for key, number in table["images seen"].items() if number != ""}
    assert seen == {
        (50, "DnCNN, one a level"): 200,
        (150, "DnCNN, one a level"): 300,
        **{(level, name): n for level in LEVELS for name, n in (("DnCNN, blind", 800), (CUNET, 5000))},
    }


def test_who_wins_is_a_paired_test_whose_good_end_is_the_metrics():
    frame = tables.duels(AHEAD, "cunet", tables.AUTHORS)
    assert len(frame) == 2 * len(LEVELS) * 3 and (frame.winner == "chosen").all()
    assert (frame.p_holm >= frame.p).all()
    assert tables.shares(frame) == dict(lpips=1, lpips_lost=0, ssim=1, ssim_lost=0)
    assert scorecard.verdict("C12", tables.shares(frame)) == rules.REPRODUCED
    behind = tables.duels(AHEAD, "bm3d", ("dncnn", "cunet"))
    assert (behind.winner == "rival").all()
    assert tables.shares(behind) == dict(lpips=0, lpips_lost=1, ssim=0, ssim_lost=1)
    assert scorecard.verdict("C12", tables.shares(behind)) == rules.NOT_REPRODUCED


def test_what_the_images_do_not_decide_is_won_by_nobody_and_ssim_counts_at_the_lowest_level_alone():
    mixed = {key: dict(value) for key, value in AHEAD.items()}
    swing = torch.tensor([0.3, -0.3] * 6)
    for level in LEVELS:
        mixed["bm3d", level]["lpips"] = mixed["cunet", level]["lpips"] + swing
    mixed["bm3d", 150]["ssim"] = mixed["cunet", 150]["ssim"] + 0.1
    frame = tables.duels(mixed, "cunet", tables.AUTHORS)
    undecided = frame[(frame.metric == "lpips") & (frame.rival == "bm3d")]
    assert (undecided.winner == "").all()
    assert tables.shares(frame) == dict(lpips=pytest.approx(4 / 6), lpips_lost=0, ssim=1, ssim_lost=0)
    assert tables.in_words(frame) == (
        "LPIPS at all levels: 4 of 6 comparisons won, 0 lost; SSIM at 50: 3 of 3 comparisons won, 0 lost"
    )


def test_images_that_decide_nothing_leave_the_claim_undecided_and_ones_that_decide_the_opposite_do_not():
    """The same differences, in all images and then in too few for any test, with the cU-Net behind all."""
    behind = scores(dict(zip(METHODS, (0.9, 0.8, 0.7, 0.6, 0.2), strict=True)))
    few = {key: {metric: values[:3] for metric, values in found.items()} for key, found in behind.items()}
    verdicts = [
        scorecard.verdict("C12", tables.shares(tables.duels(found, "cunet", tables.AUTHORS)))
        for found in (behind, few)
    ]
    assert verdicts == [rules.NOT_REPRODUCED, rules.UNDECIDED]


def test_methods_are_named_with_how_they_were_trained():
    assert [tables.label(m) for m in ("bm3d", "dncnn", "autoencoder-level", "unet")] == [
        "BM3D",
        "DnCNN, blind",
        "autoencoder, one a level",
        "U-Net",
    ]


def test_a_leader_is_named_with_those_that_the_images_cannot_tell_from_it():
    steady, noisy = torch.linspace(0.1, 0.2, 12), torch.tensor([0.02, -0.015] * 6)
    found = {("a", 50): steady, ("b", 50): steady + noisy, ("c", 50): steady + 0.3}
    (row,) = tables.leaders({key: {"lpips": x} for key, x in found.items()}).to_dict("records")
    assert (row["method"], row["noise"], row["undecided"]) == ("a", 50, ["b"])
    assert row["low"] < row["mean"] < row["high"]
    alone = tables.leaders({("a", 50): {"ssim": steady}}, "ssim")
    assert alone.undecided[0] == [] and alone.method[0] == "a"


def test_a_leader_is_judged_by_all_pairs_that_it_was_chosen_from():
    """Seven images give a pair 2 / 2^7: enough for three rivals, not for six pairs."""
    apart = {(m, 50): {"lpips": torch.full((7,), float(n))} for n, m in enumerate("abcd")}
    assert tables.leaders({key: apart[key] for key in list(apart)[:2]}).undecided[0] == []
    assert tables.leaders(apart).undecided[0] == ["b", "c", "d"]


def test_the_interval_of_a_leader_is_of_all_that_it_was_chosen_from():
    one = torch.rand(40, generator=torch.Generator().manual_seed(0))
    alone, of_five = (
        tables.leaders({(m, 50): {"lpips": one + n} for n, m in enumerate(names)}) for names in ("a", "abcde")
    )
    assert (of_five.low < alone.low).all() and (of_five.high > alone.high).all()


SEEN = {  # cards
    ("mnist", "cunet", None): dict(images_seen=2000),
    ("mnist", "autoencoder", None): dict(images_seen=2000),
    ("mnist", "autoencoder", 50): dict(images_seen=2100),
    ("mnist", "dncnn", None): dict(images_seen=5000),
    ("mnist", "dncnn", 50): dict(images_seen=1900),
    ("avatars", "cunet", None): dict(images_seen=2000),
    ("avatars", "autoencoder", None): dict(images_seen=10),
}


def test_rivals_that_were_trained_for_less_are_named_way_by_way_and_no_others():
    level, blind = (tables.trained_for_less(SEEN, "mnist", way, "cunet") for way in tables.WAYS)
    assert "DnCNN saw 1,900 images a level, and cU-Net as described 2,000" in level
    assert "autoencoder" not in level and blind == ""
    assert "autoencoder saw 10 images, and" in tables.trained_for_less(SEEN, "avatars", "blind", "cunet")


def test_the_claim_has_a_row_for_each_way_to_train_the_rivals_and_says_what_was_missing():
    frame = tables.duels(AHEAD, "cunet", tables.AUTHORS)
    protocol = pd.DataFrame(
        [("mnist", "one a level", "best", "reproduced"), ("mnist", "one a level", "end", "not reproduced")],
        columns=["dataset", "rivals", "walk", "C12"],
    )
    given = dict(datasets=["mnist"], models=["unet", "cunet"], images=12, size="laptop")
    missing = ["mnist-dncnn-laptop-s0", "avatars-dncnn-laptop-s0"]
    found = {("mnist", "one a level", "best"): frame}
    met, unmet = tables.claims(given, found, protocol, missing, SEEN)
    assert met["value"] == tables.shares(frame) and met["measured"].startswith("rivals one a level: LPIPS")
    less = "In training DnCNN saw 1,900 images a level, and "
    assert f"best reproduced, end not reproduced. {less}" in met["why"]
    assert "do better with as many. And every network here is smaller" in met["why"]
    assert unmet["measured"] == "rivals blind: missing are mnist-dncnn-laptop-s0" and unmet["value"] is None
    assert all(row["id"] == "C12" and row["n"] == 12 and row["size"] == "laptop" for row in (met, unmet))


def test_a_way_to_train_the_rivals_misses_its_own_networks_and_those_of_both():
    given = dict(datasets=["mnist"], images=12, size="laptop")
    both = ["bm3d (not installed)"]
    level, blind = (
        ["mnist-dncnn-laptop-s0-l50", "mnist-autoencoder-laptop-s0-l400"],
        ["mnist-dncnn-laptop-s0"],
    )
    absent = [*both, *level, *blind, "avatars-dncnn-laptop-s0-l50"]
    rows = tables.claims(given, {}, pd.DataFrame(), absent, {})
    said = [row["measured"] for row in rows]
    assert said == [
        f"rivals one a level: missing are {', '.join([*both, *level])}",
        f"rivals blind: missing are {', '.join([*both, *blind])}",
    ]
