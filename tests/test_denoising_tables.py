"""Tables 2 and 3: statistics against closed forms and the library's own, and who is said to be ahead."""

import numpy as np
import pandas as pd
import pytest
import torch

from cunet import denoising_claims, metrics, rules, scorecard
from cunet import denoising_tables as tables
from cunet.claims import CLAIMS
from cunet.errors import InputError
from cunet.trajectories import Denoised, Trajectory

LEVELS = (50, 400)


def trajectory(level, ssim, lpips):
    """A run scored at the start, at 40 % and at the end; scores (N, 3)."""
    steps = torch.tensor([0, 2 * level // 5, level])
    scores = {"ssim": torch.tensor(ssim).float(), "lpips": torch.tensor(lpips).float()}
    nothing = torch.empty(len(ssim), 0, 1, 1, 1)
    return Trajectory(level, "mean", steps, scores, torch.empty(0, dtype=torch.int64), nothing)


def network(peak_early: bool, ssim: float, lpips: float, n=12):
    """A network whose images score `ssim` and `lpips` at 40 % of the way or at the end; a little apart."""
    jitter = [0.001 * i for i in range(n)]
    curves = [[0.1, ssim + j, ssim - 0.2] if peak_early else [0.1, 0.15, ssim + j] for j in jitter]
    worse = [[0.9, lpips + j, lpips + 0.2] if peak_early else [0.9, 0.8, lpips + j] for j in jitter]
    return Denoised({("mean", level): trajectory(level, curves, worse) for level in LEVELS}, 0.01)


RUNS = {"unet": network(False, 0.8, 0.3), "cunet": network(True, 0.7, 0.2)}
SECONDS = {"unet": 0.02, "cunet": 0.01}


def test_bands_of_a_dozen_images_cover_what_they_say():
    columns = torch.randn(12, 2000, generator=torch.Generator().manual_seed(0))
    low, high = tables.band(columns)
    assert 0.935 < ((low < 0) & (high > 0)).double().mean() < 0.965, "plain percentiles: 0.91"


def test_bands_are_the_bootstrap_intervals_of_each_column():
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    low, high = tables.band(values, resamples=200, seed=4)
    for column in range(3):
        single = metrics.bootstrap_interval(values[:, column], resamples=200, seed=4)
        assert (float(low[column]), float(high[column])) == pytest.approx((single.low, single.high), abs=1e-6)


def test_a_sign_flip_test_is_exact_for_few_images_and_fair_for_many():
    assert tables.sign_flip(torch.ones(6)) == pytest.approx(2 / 2**6)
    assert tables.sign_flip(torch.tensor([1.0, 2.0, -3.0])) == 1
    many = torch.linspace(-1, 1, 40, dtype=torch.float64)
    assert tables.sign_flip(many) > 0.9 and tables.sign_flip(many + 1) < 0.001


def test_holms_adjustment_is_as_in_his_example_and_keeps_the_order():
    p = [0.01, 0.04, 0.03, 0.005]
    assert tables.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert tables.holm([0.6, 0.7]) == pytest.approx([1, 1])


def test_each_row_compares_the_same_images_and_names_who_is_ahead():
    frame = tables.comparison(RUNS, "mean", SECONDS)
    assert len(frame) == len(LEVELS) * 2 * 3
    row = tables.part(frame, "ssim", "value").loc[50]
    assert (row["first"], row["second"]) == pytest.approx((0.8055, 0.7055), abs=1e-5)
    assert row.difference == pytest.approx(-0.1, abs=1e-5) and row.ahead == "first"
    assert row.p == pytest.approx(2 / 2**12) and row.p_holm == pytest.approx(4 / 2**12)
    assert row.first_low < row["first"] < row.first_high
    assert (tables.part(frame, "lpips", "value").ahead == "second").all(), "a lower LPIPS is better"
    peak = tables.part(frame, "lpips", "step").loc[400]
    assert (peak["first"], peak["second"], peak.ahead) == (400, 160, "second")
    time = tables.part(frame, "ssim", "seconds").loc[50]
    assert (time["first"], time["second"]) == pytest.approx((1.0, 0.2))


def test_a_difference_that_the_images_do_not_decide_puts_nobody_ahead():
    one, other = network(False, 0.8, 0.3), network(False, 0.8, 0.3)
    frame = tables.comparison({"unet": one, "cunet": other}, "mean", SECONDS)
    assert (frame[frame.quantity != "seconds"].ahead == "").all()


def test_a_comparison_is_of_two():
    with pytest.raises(InputError, match="not of 1: unet"):
        tables.comparison({"unet": RUNS["unet"]}, "mean", SECONDS)


def test_tables_print_both_networks_and_the_papers_numbers():
    frame = tables.comparison(RUNS, "mean", SECONDS)
    two, three = tables.table_2(frame), tables.table_3(frame)
    assert list(two.index) == list(LEVELS) and two.index.name == "noise steps"
    assert two.loc[50, "paper: SSIM"] == "0.88 / 0.9" and two.loc[400, "paper: LPIPS"] == "0.184 / 0.146"
    first, second = two.loc[50, "best SSIM"].split(" / ")
    row = tables.part(frame, "ssim", "value").loc[50]
    assert first == f"{row['first']:.3f} [{row.first_low:.3f}, {row.first_high:.3f}]"
    assert second == f"{row.second:.3f} [{row.second_low:.3f}, {row.second_high:.3f}]"
    assert (
        three.loc[400, "LPIPS step"].startswith("400 [") and three.loc[400, "paper: SSIM step"] == "368 / 217"
    )
    assert three.loc[400, "paper: LPIPS seconds"] == "69.77 / 29.19"


def test_what_the_rules_take_is_counted_from_the_papers_table():
    frame = tables.comparison(RUNS, "mean", SECONDS)
    assert tables.weigh(frame, "ssim") == {"confirmed": 1, "contradicted": 1, "levels": 2}  # 50 is cU-Net's
    assert tables.weigh(frame, "lpips") == {"confirmed": 2, "contradicted": 0, "levels": 2}
    none = {"ssim_later": 0.0, "lpips_later": 0.0, "seconds_later": 0.0}
    assert tables.earlier(frame) == {"ssim": 1.0, "lpips": 1.0, "seconds": 1.0} | none
    slow = tables.comparison(RUNS, "mean", SECONDS | {"cunet": 0.1})
    assert tables.earlier(slow) == {"ssim": 1.0, "lpips": 1.0, "seconds": 0.0} | none | {"seconds_later": 1.0}
    other = tables.comparison(dict(reversed(RUNS.items())), "mean", SECONDS)
    assert tables.earlier(other) == {
        **{"ssim": 0.0, "lpips": 0.0, "seconds": 0.0},
        **{"ssim_later": 1.0, "lpips_later": 1.0, "seconds_later": 1.0},
    }
    values = tables.claim_values(RUNS, "mean", frame)
    assert set(values) == {"C09", "C10", "C11", "C13", "C14"} <= set(CLAIMS)
    assert values["C13"] == {"unet": 0.0, "unet_none": 1.0, "cunet": 1.0, "cunet_none": 0.0}


def test_an_elbow_is_counted_where_its_interval_is_clear_of_a_tenth():
    lost = [[0.9, 0.2, 0.2 + x] for x in (0.0, 0.2) * 6]  # a tenth of 0.7 on the whole, some more, some less
    wide = Denoised({("mean", level): trajectory(level, lost, lost) for level in LEVELS}, 0.01)
    found = tables.elbow_intervals({"unet": RUNS["cunet"], "cunet": wide}, "mean")
    assert ((found.low <= found.lost) & (found.lost <= found.high)).all() and len(found) == 4
    assert tables.has_elbow(found) == {"unet": 1.0, "unet_none": 0.0, "cunet": 0.0, "cunet_none": 0.0}


def test_a_band_of_a_ratio_of_means_covers_it():
    top, bottom = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)).double()
    low, high = tables.ratio_band(top, bottom)
    assert low < float(top.mean() / bottom.mean()) < high < 2 * low
    assert tables.ratio_band(0 * top, 0 * bottom) == (0, 0)
    assert tables.ratio_band(3 * bottom, bottom) == pytest.approx((3, 3))


def test_the_power_by_which_time_grows_is_found_and_tells_linear_from_quadratic():
    work, noise = [10, 10, 20, 40, 40, 80], [1.02, 0.98, 1.0, 1.01, 0.99, 1.0]
    for power in (1, 2):
        slope, low, high = tables.growth(work, [n * w**power for n, w in zip(noise, work, strict=True)])
        assert low < power < high and slope == pytest.approx(power, abs=0.05)
        assert not low < 3 - power < high


def test_heights_above_a_chord_are_sure_of_their_sign_or_say_that_they_are_not():
    at = [0.0, 1.0, 2.0, 3.0]
    noise = torch.randn(4, 200, generator=torch.Generator().manual_seed(0)).double()
    spans = []
    for inner, width in (((9.0, 8.0), 0.1), ((2.0, 1.0), 0.1), ((7.0, 4.0), 2.0)):
        curve = [10.0, *inner, 0.0]
        drawn = [x + width * line for x, line in zip(curve, noise, strict=True)]
        spans.append(tables.heights(at[::-1], curve[::-1], drawn[::-1]))
    assert spans[0][0] == pytest.approx(8 / 10 - 1 / 3) and spans[0][1] > 0
    assert spans[1][2] < 0 and spans[2][1] < 0 < spans[2][2]
    assert tables.sides(spans) == "1 of 3 rise above their chord, 1 lie below it, 1 are undecided"


def test_an_elbow_is_the_share_of_the_gain_that_is_lost_again():
    found = tables.elbows(RUNS, "mean")
    lost = np.mean([0.2 - 0.001 * i for i in range(12)])
    gained = np.mean([0.7 - 0.001 * i for i in range(12)])
    assert found["cunet"].tolist() == pytest.approx([lost / gained] * 2, abs=1e-5)
    assert found["unet"].tolist() == [0, 0]
    assert trajectory(50, [[0.5] * 3], [[0.2, 0.3, 0.4]]).elbow("lpips") == np.inf


def test_steps_above_and_below_are_counted_at_high_noise_only():
    assert tables.above(RUNS, "mean") == {"above": 0.5, "below": 0.5}
    swapped = {"unet": RUNS["cunet"], "cunet": RUNS["unet"]}
    assert tables.above(swapped, "mean") == {"above": 0.5, "below": 0.5}
    low = {name: Denoised({("mean", 50): run["mean", 50]}, 0.01) for name, run in RUNS.items()}
    assert tables.above(low, "mean") == {"above": 0.5, "below": 0.5}
    end = trajectory(50, [[0.1, 0.9, 0.9]] * 3, [[0.5] * 3] * 3)
    both = {
        "unet": Denoised({("mean", 400): RUNS["unet"]["mean", 400], ("mean", 50): end}, 0.01),
        "cunet": Denoised(
            {("mean", 400): RUNS["unet"]["mean", 400], ("mean", 50): RUNS["cunet"]["mean", 50]}, 0.01
        ),
    }
    assert tables.above(both, "mean") == {"above": 0.0, "below": 0.0}


def test_the_steps_above_are_those_where_the_first_network_is_ahead():
    ahead, level, behind = ([[0.1, ssim, 0.5]] * 12 for ssim in (0.9, 0.5, 0.2))

    def shares(first, second):
        runs = {
            name: Denoised({("mean", 400): trajectory(400, ssim, [[0.5] * 3] * 12)}, 0.01)
            for name, ssim in (("unet", first), ("cunet", second))
        }
        return tables.above(runs, "mean")

    assert shares(ahead, level) == shares(level, behind) == {"above": 0.5, "below": 0.0}
    assert shares(behind, level) == shares(level, ahead) == {"above": 0.0, "below": 0.5}


def test_every_frame_is_a_frame():
    frame = tables.comparison(RUNS, "mean", SECONDS)
    assert isinstance(frame, pd.DataFrame) and not frame.isna().any().any()


ENDS = (("", 0.0), (" low", -0.01), (" high", 0.01))


def evidence(mean=(), **changes) -> denoising_claims.Evidence:
    """Of the two networks above. mean: the distances of U-Net and cU-Net from the posterior mean, in rows."""
    rows = [
        {"noise steps": 900}
        | {f"{m}{end}": x + y for m, x in zip(RUNS, pair, strict=True) for end, y in ENDS}
        for pair in mean
    ]
    fast, slow = (tables.comparison(RUNS, "mean", SECONDS | {"cunet": t}) for t in (0.01, 0.1))
    columns = ["noise steps", *(f"{m}{end}" for m in RUNS for end, _ in ENDS)]
    frame = pd.DataFrame(rows, columns=columns)
    found = denoising_claims.Evidence(RUNS, RUNS, fast, slow, (0.5, 0.4, 0.7), frame, 1e-12, "1 of 1")
    return found._replace(**changes)


STRIDES = dict(stride=10, fine_levels=[50, 100], fine_stride=5)  # parameters of notebook 08


def test_few_steps_of_noise_may_be_walked_at_a_stride_of_their_own():
    assert tables.strides([50, 400, 100], STRIDES) == {5: [50, 100], 10: [400]}
    assert tables.strides_in_words([50, 400, 100], STRIDES) == "stride 10, at 50 and 100 steps 5"
    assert tables.strides_in_words([400], STRIDES) == "stride 10"
    assert tables.strides([50], STRIDES | {"fine_levels": []}) == {10: [50]}


def test_runs_from_different_levels_become_one_and_a_call_takes_the_mean_over_calls():
    whole = RUNS["unet"].trajectories
    few, many = (Denoised({("mean", level): whole["mean", level]}, 0.1) for level in LEVELS)
    many.trajectories["mean", 600] = trajectory(600, [[0.1, 0.2, 0.3]], [[0.3, 0.2, 0.1]])
    many.seconds_per_call = 0.4
    found = tables.together([few, many])
    assert set(found.trajectories) == {("mean", 50), ("mean", 400), ("mean", 600)}
    assert found["mean", 50] is whole["mean", 50]
    assert found.seconds_per_call == pytest.approx((2 * 0.1 + 4 * 0.4) / 6), "two scores a trajectory"


def test_claims_are_in_the_words_and_the_values_of_what_was_measured():
    given = dict(images=12, size="laptop", seed=0, variant="mean", levels=[50, 400], **STRIDES)
    found = {"mnist": evidence([(0.02, 0.05)]), "avatars": evidence(violation=1e-3)}
    made, timed = denoising_claims.claims(given, found, ["mean"])
    assert [(row["id"], row["dataset"]) for row in timed] == [("C11", "mnist"), ("C11", "avatars")]
    assert [row["id"] for row in made] == 2 * ["C09", "C10", "C13", "C14", "C26"]
    values = {row["id"]: row["value"] for row in made[:5]}
    assert values["C26"] == pytest.approx({"violation": 1e-12, "gap": 0.06, "nearest": 0.03, "low": 0.01})
    assert values["C13"]["cunet"] == 1
    assert scorecard.verdict("C26", values["C26"]) == rules.REPRODUCED
    words = {row["id"]: row["measured"] for row in made[:5]}
    assert words["C09"] == (
        "better best SSIM: U-Net at [50, 400], cU-Net as described at no level, undecided at no level"
        " (mean, stride 10, at 50 steps 5)"
    )
    assert "U-Net at 900 steps 2.0 % [1.0, 3.0], cU-Net as described at 900 steps 5.0 %" in words["C26"]
    assert {row["id"]: row["spread"] for row in (*made, *timed)} == denoising_claims.SPREADS
    assert "at [50, 400] steps of noise" in made[2]["why"] and "(1 of 1)" in made[4]["why"]
    assert made[2]["why"].endswith(f"mnist mean {tables.elbows(RUNS, 'mean').max(axis=None):.2f}")
    assert timed[0]["value"]["seconds"] == 0, "the time is taken at its unfavourable end"
    assert "taking 0.50 [0.40, 0.70] of the time" in timed[0]["measured"]


def test_a_posterior_mean_that_is_not_known_is_no_evidence():
    given = dict(images=12, size="laptop", seed=0, variant="mean", levels=[50, 400], **STRIDES)
    *_, row = denoising_claims.claims(given, {"mnist": evidence()}, ["mean"])[0]
    assert row["id"] == "C26" and row["value"] is None and "not known well enough" in row["measured"]
