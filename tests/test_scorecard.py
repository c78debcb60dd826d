"""Verdicts: every rule reaches every verdict it can give, its borders lie where its sentence says."""

import pandas as pd
import pytest

from cunet import paper, rules, runs, scorecard
from cunet.claims import CLAIMS
from cunet.errors import InputError
from cunet.rules import NOT_REPRODUCED, NOT_TESTABLE, PARTLY, REPRODUCED, UNDECIDED
from cunet.scorecard import MEANINGLESS, UNMEASURED


def earlier(*shares):
    """What the rule of C11 takes: ahead and behind, in SSIM, LPIPS and time."""
    return dict(
        zip(("ssim", "ssim_later", "lpips", "lpips_later", "seconds", "seconds_later"), shares, strict=True)
    )


def beaten(*shares):
    """What the rule of C12 takes: comparisons won and lost, in LPIPS and SSIM."""
    return dict(zip(("lpips", "lpips_lost", "ssim", "ssim_lost"), shares, strict=True))


def adds(time_low, time, gain, gain_high, own):
    return dict(time_low=time_low, time=time, gain=gain, gain_high=gain_high, own=own)


def elbows(*shares):
    """What the rule of C13 takes: levels with an elbow and with none, of the U-Net and of cU-Net."""
    return dict(zip(("unet", "unet_none", "cunet", "cunet_none"), shares, strict=True))


BORDERS = [  # claim, value, verdict: on the border, just past it, far past it
    ("C01", 0.275, REPRODUCED),
    ("C01", 0.276, PARTLY),
    ("C01", 0.51, NOT_REPRODUCED),
    ("C02", 0.33, REPRODUCED),
    ("C02", 0.44, PARTLY),
    ("C02", 0.45, NOT_REPRODUCED),
    ("C03", dict(checkpoint=0.25, inference=0.2, training=0.275), REPRODUCED),
    ("C03", dict(checkpoint=0.25, inference=0.2, training=0.9), PARTLY),
    ("C03", dict(checkpoint=0.3, inference=0.3, training=0.9), NOT_REPRODUCED),
    ("C04", dict(attention=-2.0, residual=2.0), REPRODUCED),
    ("C04", dict(attention=0.1, residual=-2.1), PARTLY),
    ("C04", dict(attention=2.1, residual=-30.0), NOT_REPRODUCED),
    ("C05", 0.30, REPRODUCED),
    ("C05", dict(saved=0.5, low=0.29), PARTLY),
    ("C05", dict(saved=0.5, low=0.31), REPRODUCED),
    ("C05", dict(saved=0.5, low=0.0, high=0.6), UNDECIDED),
    ("C05", dict(saved=-0.5, low=-0.9, high=0.0), NOT_REPRODUCED),
    ("C05", 0.0, NOT_REPRODUCED),
    ("C05", -0.5, NOT_REPRODUCED),
    ("C06", dict(low=0.9, high=1.1), REPRODUCED),
    ("C06", dict(low=0.0, high=0.0), REPRODUCED),
    ("C06", dict(low=1.2, high=1.5), PARTLY),
    ("C06", dict(low=1.1, high=1.51), UNDECIDED),
    ("C06", dict(low=1.11, high=1.51), NOT_REPRODUCED),
    ("C07", dict(lowest_low=0.1, lowest_high=0.9, flat_low=0.2, flat_high=0.5), REPRODUCED),
    ("C07", dict(lowest_low=1.0, lowest_high=2.0, flat_low=0.2, flat_high=0.5), PARTLY),
    ("C07", dict(lowest_low=1.0, lowest_high=5.0, flat_low=0.2, flat_high=1.0), UNDECIDED),
    ("C07", dict(lowest_low=1.0, lowest_high=1.0, flat_low=1.0, flat_high=2.0), NOT_REPRODUCED),
    ("C08", dict(as_good=5, worse=0, tried=6), REPRODUCED),
    ("C08", dict(as_good=5, worse=1, tried=6), PARTLY),
    ("C08", dict(as_good=1, worse=1, tried=6), UNDECIDED),
    ("C08", dict(as_good=2, worse=2, tried=6), NOT_REPRODUCED),
    ("C23", dict(images=0.9, time=0.2), REPRODUCED),
    ("C23", dict(images=1.1, time=0.4), PARTLY),
    ("C23", dict(images=1.1, time=0.95), NOT_REPRODUCED),
    ("C09", dict(confirmed=6, contradicted=0, levels=8), REPRODUCED),
    ("C09", dict(confirmed=5, contradicted=0, levels=8), PARTLY),
    ("C09", dict(confirmed=7, contradicted=1, levels=8), PARTLY),
    ("C09", dict(confirmed=4, contradicted=4, levels=8), NOT_REPRODUCED),
    ("C09", dict(confirmed=1, contradicted=0, levels=8), UNDECIDED),
    ("C09", dict(confirmed=1, contradicted=1, levels=8), UNDECIDED),
    ("C09", dict(confirmed=1, contradicted=2, levels=8), NOT_REPRODUCED),
    ("C10", dict(confirmed=3, contradicted=0, levels=4), REPRODUCED),
    ("C10", dict(confirmed=3, contradicted=2, levels=6), PARTLY),
    ("C10", dict(confirmed=0, contradicted=8, levels=8), NOT_REPRODUCED),
    ("C10", dict(confirmed=0, contradicted=0, levels=8), UNDECIDED),
    ("C11", earlier(0.75, 0, 1, 0, 0.75, 0), REPRODUCED),
    ("C11", earlier(0.25, 0, 0, 0, 1, 0), PARTLY),
    ("C11", earlier(0, 0.75, 1, 0, 1, 0), PARTLY),
    ("C11", earlier(0.24, 0, 0, 0, 1, 0), UNDECIDED),
    ("C11", earlier(0, 0.75, 0, 0, 1, 0), NOT_REPRODUCED),
    ("C12", beaten(1, 0, 1, 0), REPRODUCED),
    ("C12", beaten(0.9, 0, 0, 1), PARTLY),
    ("C12", beaten(0.4, 0.6, 0.5, 0.5), PARTLY),
    ("C12", beaten(0.4, 0.51, 0.4, 0.6), NOT_REPRODUCED),
    ("C12", beaten(0.4, 0.5, 0.4, 0.6), NOT_REPRODUCED),
    ("C12", beaten(0, 1, 0, 0.5), NOT_REPRODUCED),
    ("C12", beaten(0.4, 0.5, 0.4, 0.5), UNDECIDED),
    ("C12", beaten(0, 0, 0, 0), UNDECIDED),
    ("C13", elbows(0.5, 0, 0, 0.8), REPRODUCED),
    ("C13", elbows(0.5, 0, 0, 0.75), PARTLY),
    ("C13", elbows(0.5, 0.5, 0, 0.5), UNDECIDED),
    ("C13", elbows(0.2, 0.51, 0, 0.5), NOT_REPRODUCED),
    ("C13", elbows(0.5, 0.5, 0.5, 0.5), NOT_REPRODUCED),
    ("C13", elbows(0.0, 1.0, 0, 1.0), NOT_REPRODUCED),
    ("C14", dict(above=0.9, below=0.1), REPRODUCED),
    ("C14", dict(above=0.5, below=0.4), PARTLY),
    ("C14", dict(above=0.4, below=0.4), NOT_REPRODUCED),
    ("C14", dict(above=0.24, below=0.1), UNDECIDED),
    ("C15", dict(visible=3, worse=3, better=0), REPRODUCED),
    ("C15", dict(visible=2, worse=3, better=0), PARTLY),
    ("C15", dict(visible=0, worse=1, better=1), NOT_REPRODUCED),
    ("C15", dict(visible=0, worse=0, better=0), UNDECIDED),
    ("C16", dict(gap=0.0, velocity=0.3), REPRODUCED),
    ("C16", dict(gap=0.0, velocity=0.0), PARTLY),
    ("C16", dict(gap=0.5, velocity=0.3), NOT_REPRODUCED),
    ("C17", dict(difference=1e-6, cost=1.1), REPRODUCED),
    ("C17", dict(difference=1e-6, cost=1.09), PARTLY),
    ("C17", dict(difference=2e-6, cost=2.0), NOT_REPRODUCED),
    ("C18", dict(gap=1e-10, speedup=1.1, accuracy=1.1), REPRODUCED),
    ("C18", dict(gap=1e-10, speedup=1.1, accuracy=1.0), PARTLY),
    ("C18", dict(gap=1e-10, speedup=1.0, accuracy=1.1), NOT_REPRODUCED),
    ("C18", dict(gap=2e-10, speedup=1.1, accuracy=1.1), NOT_REPRODUCED),
    ("C19", 0.25, REPRODUCED),
    ("C19", 0.26, PARTLY),
    ("C19", 0.51, NOT_REPRODUCED),
    ("C20", 0.1, REPRODUCED),
    ("C20", 0.11, NOT_REPRODUCED),
    ("C21", dict(same_solver=0.9, best_solver=0.9), REPRODUCED),
    ("C21", dict(same_solver=0.91, best_solver=0.9), PARTLY),
    ("C21", dict(same_solver=0.91, best_solver=0.91), NOT_REPRODUCED),
    ("C22", dict(confirmed=18, contradicted=0, settings=24), REPRODUCED),
    ("C22", dict(confirmed=17, contradicted=0, settings=24), PARTLY),
    ("C22", dict(confirmed=18, contradicted=6, settings=24), PARTLY),
    ("C22", dict(confirmed=6, contradicted=6, settings=24), NOT_REPRODUCED),
    ("C22", dict(confirmed=5, contradicted=5, settings=24), UNDECIDED),
    ("C24", dict(sensitivity=0.4, benefit=1.05), REPRODUCED),
    ("C24", dict(sensitivity=0.4, benefit=1.04), PARTLY),
    ("C24", dict(sensitivity=0.4, benefit=1.0), NOT_REPRODUCED),
    ("C24", 0.4, PARTLY),
    ("C24", 0.0, NOT_REPRODUCED),
    ("C25", adds(0.98, 0.99, 0.9, 1.0, 1.1), REPRODUCED),
    ("C25", adds(0.2, 0.3, 0.95, 1.0, 1.0), UNDECIDED),
    ("C25", adds(0.2, 0.3, 0.8, 0.85, 1.0), UNDECIDED),
    ("C25", adds(0.9, 1.0, 0.9, 1.0, 1.1), UNDECIDED),
    ("C25", adds(0.2, 0.3, 0.89, 0.9, 1.1), UNDECIDED),
    ("C25", adds(0.2, 0.3, 0.8, 0.89, 1.1), NOT_REPRODUCED),
    ("C25", adds(1.0, 1.1, 0.9, 1.1, 1.1), NOT_REPRODUCED),
    ("C26", dict(violation=1e-6, gap=0.1), REPRODUCED),
    ("C26", dict(violation=2e-6, gap=0.1), NOT_REPRODUCED),
    ("C26", dict(violation=0.0, gap=0.11), NOT_REPRODUCED),
    ("C26", dict(gap=0.11, nearest=0.1, low=0.09), PARTLY),
    ("C26", dict(gap=0.11, nearest=0.11, low=0.1), UNDECIDED),
    ("C26", dict(gap=0.2, nearest=0.13, low=0.11), NOT_REPRODUCED),
]


def result(*claims, profile="laptop", timed=()):
    return {
        "job": "04_networks",
        "notebook": "04_networks",
        "profile": profile,
        "claims": list(claims),
        "timings": {"claims": list(timed)},
    }


def the(frame, claim):
    return frame[frame.id == claim].iloc[0]


@pytest.mark.parametrize("claim, value, expected", BORDERS)
def test_a_rule_changes_its_verdict_at_the_border_it_states(claim, value, expected):
    assert scorecard.verdict(claim, value) == expected


def test_every_rule_is_tried_and_every_verdict_is_reached():
    tried = {claim for claim, _, _ in BORDERS}
    assert tried == set(rules.RULES) == set(CLAIMS)
    for claim in tried:
        partly = set() if claim in ("C20", "C25") else {PARTLY}  # these are so only when their rows differ
        reached = {v for c, _, v in BORDERS if c == claim}
        assert reached - {UNDECIDED} == {REPRODUCED, NOT_REPRODUCED} | partly
        assert (UNDECIDED in reached) == ("undecided" in rules.RULES[claim].__doc__ or claim == "C10")


def test_what_is_less_sure_is_never_kinder():
    """Wider intervals and fewer decided tests lead to a verdict as good or worse, or to none."""
    rank = {REPRODUCED: 2, PARTLY: 1, NOT_REPRODUCED: 0, UNDECIDED: -1}

    def no_better(wide, narrow):
        assert wide == UNDECIDED or wide == narrow or rank[wide] < rank[narrow], (wide, narrow)

    ends = [0.0, 0.5, 0.9, 1.0, 1.1, 1.2, 1.5, 1.6, 3.0]
    spans = [(a, b) for a in ends for b in ends if a <= b]
    for (a, b), (c, d) in [(x, y) for x in spans for y in spans if x[0] <= y[0] and y[1] <= x[1]]:
        no_better(rules.on_a_par(a, b), rules.on_a_par(c, d))
        no_better(
            rules.thirty_percent_faster(0.5, 1 - b, 1 - a), rules.thirty_percent_faster(0.5, 1 - d, 1 - c)
        )
        for e, f in ((0.5, 0.9), (0.5, 1.0), (1.0, 2.0)):
            no_better(rules.best_in_fewer_steps(a, b, e, f), rules.best_in_fewer_steps(c, d, e, f))

    shares = [0.0, 0.4, 0.5, 0.6, 1.0]
    tests = [(won, lost) for won in shares for lost in shares if won + lost <= 1]
    for few, more in [(x, y) for x in tests for y in tests if x[0] <= y[0] and x[1] <= y[1]]:
        for other in tests:
            no_better(
                rules.beats_the_other_denoisers(*few, *other), rules.beats_the_other_denoisers(*more, *other)
            )


def test_the_papers_own_numbers_pass_the_rules_except_where_the_paper_contradicts_itself():
    cost = {r.model: r for r in paper.TABLE_5}
    unet, ours = cost["unet"], cost["cunet-released-5attn"]
    assert scorecard.verdict("C02", ours.gflops / unet.gflops) == PARTLY  # the abstract says 30 %
    assert scorecard.verdict("C01", paper.QUOTES["parameters"].value / 35_710_339) == REPRODUCED
    for dataset in ("mnist", "celeba", "lsun_church"):
        a, b = (r for r in paper.TABLE_1 if r.dataset == dataset)
        assert scorecard.verdict("C05", 1 - b.seconds / a.seconds) == REPRODUCED
        assert scorecard.verdict("C06", dict(low=b.fid / a.fid, high=b.fid / a.fid)) == REPRODUCED
        steps = b.steps / a.steps
        steps = dict(lowest_low=steps, lowest_high=steps, flat_low=steps, flat_high=steps)
        assert scorecard.verdict("C07", steps) == REPRODUCED


@pytest.mark.parametrize(
    "value", [None, float("nan"), dict(saved=float("nan")), dict(saved=0.5, low=float("nan"))]
)
def test_a_value_that_could_not_be_measured_is_not_testable_in_a_result_file_either(value, tmp_path):
    assert scorecard.verdict("C05", value) == NOT_TESTABLE
    runs.Run(tmp_path, "04_networks").save_result({}, [dict(id="C05", measured="nothing", value=value)])
    assert the(scorecard.scorecard(tmp_path), "C05").verdict == NOT_TESTABLE


def test_a_smoke_run_has_no_verdict():
    frame = scorecard.scorecard([result(dict(id="C01", measured="1 of 9", value=0.1), profile="smoke")])
    assert the(frame, "C01").verdict == MEANINGLESS
    assert scorecard.overall(frame)["C01"] == MEANINGLESS
    assert scorecard.counts(frame)[MEANINGLESS] == 1


def test_the_scorecard_has_every_claim_and_the_promised_columns():
    frame = scorecard.scorecard([])
    assert list(frame.columns) == (
        "id claim place paper measured spread n dataset size verdict notebook".split()
    )
    assert list(frame.id) == list(CLAIMS)
    assert set(frame.verdict) == {UNMEASURED}


def test_a_measurement_stands_beside_the_papers_words_with_its_setting():
    row = dict(
        id="C06",
        measured="4.1",
        spread="0.2",
        n=500,
        dataset="mnist",
        size="laptop",
        value=dict(low=1.0, high=1.0),
    )
    found = the(scorecard.scorecard([result(row)]), "C06")
    assert found.paper == CLAIMS["C06"].paper
    assert list(found[["measured", "spread", "n", "dataset", "size", "notebook"]]) == (
        ["4.1", "0.2", "500", "MNIST", "laptop", "04_networks"]
    )


@pytest.mark.parametrize("dataset", ["avatars", "avatars (stand-in for CelebA)"])
def test_a_stand_in_is_named_as_one_beside_every_number_and_once(dataset):
    row = dict(id="C09", measured="1 of 2", dataset=dataset, size="laptop", value=None)
    found = result(row, dict(id="ext_x", claim="whether", measured="yes", dataset=dataset))
    frame = scorecard.scorecard([found])
    assert list(frame.dataset[frame.measured != "-"]) == ["avatars (stand-in for CelebA)"] * 2
    assert "1 of 2 (avatars (stand-in for CelebA), laptop)" in scorecard.conclusion(found)


def test_claims_are_gathered_from_the_result_files_of_a_run(tmp_path):
    for job, value in (("05_training-b", 0.9), ("04_networks", 0.1)):
        run = runs.Run(tmp_path, job)
        run.save_result({}, claims=[dict(id="C01", measured=job, value=value)])
    frame = scorecard.scorecard(tmp_path)
    found = frame[frame.id == "C01"]
    assert list(found.measured) == ["04_networks", "05_training-b"]
    assert list(found.notebook) == ["04_networks", "05_training"]
    assert list(found.verdict) == [REPRODUCED, NOT_REPRODUCED]
    assert len(frame) == 27


def test_a_claim_about_time_is_read_from_the_timings():
    frame = scorecard.scorecard([result(timed=[dict(id="C05", measured="54 %", value=0.54)])])
    assert the(frame, "C05").verdict == REPRODUCED


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, NOT_REPRODUCED], PARTLY),
        ([NOT_REPRODUCED, PARTLY], PARTLY),
        ([NOT_TESTABLE, NOT_REPRODUCED], NOT_REPRODUCED),
        ([UNDECIDED, REPRODUCED], UNDECIDED),
        ([UNDECIDED, NOT_REPRODUCED], UNDECIDED),
        ([UNDECIDED, PARTLY], PARTLY),
        ([UNDECIDED, REPRODUCED, NOT_REPRODUCED], PARTLY),
        ([UNDECIDED, NOT_TESTABLE], UNDECIDED),
        ([NOT_TESTABLE, NOT_TESTABLE], NOT_TESTABLE),
        ([REPRODUCED, MEANINGLESS], MEANINGLESS),
        ([UNMEASURED], UNMEASURED),
    ],
)
def test_rows_that_disagree_make_a_claim_partly_reproduced(verdicts, expected):
    frame = pd.DataFrame({"id": "C05", "verdict": verdicts})
    assert scorecard.overall(frame)["C05"] == expected


def test_counts_list_every_verdict_and_add_up_to_all_claims():
    frame = scorecard.scorecard([result(dict(id="C01", measured="", value=0.2))])
    counts = scorecard.counts(frame)
    assert counts[REPRODUCED] == 1 and counts[NOT_REPRODUCED] == 0 and counts.sum() == len(CLAIMS)


def test_what_is_beyond_the_paper_stands_below_its_claims_and_is_not_counted(monkeypatch):
    asked = dict(id="ext_likelihood", claim="how probable are digits", measured="2 | 3 bits", spread="0.1")
    card = result(dict(id="C01", measured="a", value=0.2), asked)
    frame = scorecard.scorecard([card])
    last = frame.iloc[-1]
    assert list(last[["id", "claim", "place", "measured", "spread", "verdict", "notebook"]]) == [
        "ext_likelihood", "how probable are digits", scorecard.BEYOND, "2 | 3 bits", "0.1", scorecard.BEYOND,
        "04_networks",
    ]  # fmt: skip
    assert set(scorecard.overall(frame).index) == set(CLAIMS)
    assert scorecard.counts(frame).sum() == len(CLAIMS)
    text = scorecard.conclusion(card)
    assert "| how probable are digits | 2 \\| 3 bits | 0.1 |" in text and "C01" in text
    with pytest.raises(InputError, match="what was asked"):
        scorecard.scorecard([result(dict(id="ext_likelihood", measured="2"))])


def test_one_function_adds_a_claim(monkeypatch):
    monkeypatch.setattr(rules, "RULES", {})

    @rules.rule("C19")
    def orders_differ_by_one(difference: float) -> str:
        """Reproduced when the orders differ by one."""
        return rules.graded(abs(difference - 1), reproduced=0.1, partly=0.3)

    frame = scorecard.scorecard([result(dict(id="C19", measured="5 and 4", value=1.05))])
    assert the(frame, "C19").verdict == REPRODUCED
    assert list(rules.table().rule) == ["Reproduced when the orders differ by one."]


@pytest.mark.parametrize(
    "mistake, message",
    [
        (lambda: scorecard.verdict("C1", 0.1), "Unknown claim 'C1'"),
        (lambda: scorecard.scorecard([result(dict(id="C99", value=None))]), "Unknown claim 'C99'"),
        (lambda: rules.rule("C27"), "Unknown claim"),
        (lambda: rules.rule("C01"), "has a rule already"),
        (lambda: scorecard.verdict("C03", {"checkpoint": 0.2}), "a_quarter_of_the_memory"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(InputError, match=message):
        mistake()


def test_a_measured_claim_without_a_rule_is_refused(monkeypatch):
    monkeypatch.setattr(rules, "RULES", {})
    with pytest.raises(InputError, match="has no rule"):
        scorecard.verdict("C01", 0.1)


def test_a_conclusion_sets_paper_and_measurement_side_by_side_with_the_reason():
    counted = dict(id="C01", measured="a | b", size="paper", value=0.2, why="Fewer channels.")
    timed = dict(id="C05", measured="54 %", value=0.54)
    text = scorecard.conclusion(result(counted, timed=[timed]))
    table, reasons = text.split("**Why.**")
    rows = table.strip().splitlines()[2:]
    assert len(rows) == 2
    assert CLAIMS["C01"].paper in rows[0] and "a \\| b (paper)" in rows[0] and "**reproduced**" in rows[0]
    assert "C05" in rows[1] and "54 %" in rows[1]
    assert reasons.strip() == "- **C01**: Fewer channels."
