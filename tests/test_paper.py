"""The paper's numbers: the tables agree with each other, and the errata are really there."""

import re

import pandas as pd
import pytest

from cunet import paper
from cunet.claims import CLAIMS


def both(table, **where):
    """(U-Net row, cU-Net row) of a table, selected by column values."""
    rows = [r for r in table if all(getattr(r, k) == v for k, v in where.items())]
    by_model = {r.model: r for r in rows}
    return by_model["unet"], by_model["cunet"]


@pytest.mark.parametrize(
    "table, rows",
    [
        (paper.TABLE_1, 6),
        (paper.TABLE_2, 16),
        (paper.TABLE_3, 16),
        (paper.TABLE_4, 15),
        (paper.TABLE_5, 5),
    ],
)
def test_every_table_is_whole_and_becomes_a_frame_without_gaps(table, rows):
    frame = pd.DataFrame(table)
    assert len(frame) == rows
    assert not frame.isna().any().any()
    assert not frame.duplicated(subset=frame.columns[:2].tolist()).any()


def test_table_4_repeats_the_diffusion_rows_of_table_2():
    table_2 = {(r.noise, r.model): (r.ssim, r.lpips) for r in paper.TABLE_2}
    diffusion = [r for r in paper.TABLE_4 if r.method in ("unet", "cunet")]
    assert len(diffusion) == 6
    for row in diffusion:
        assert table_2[row.noise, row.method] == (row.ssim, row.lpips)


@pytest.mark.parametrize("dataset, faster", [("mnist", 1.10), ("celeba", 1.36), ("lsun_church", 1.31)])
def test_table_1_time_a_step_explains_only_part_of_the_speed_up(dataset, faster):
    unet, cunet = both(paper.TABLE_1, dataset=dataset)
    a_step = (unet.seconds / unet.steps) / (cunet.seconds / cunet.steps)
    assert a_step == pytest.approx(faster, abs=0.01)
    assert unet.seconds / cunet.seconds > a_step


def test_table_1_spans_the_speed_up_quoted_in_the_text():
    saved = []
    for dataset in ("mnist", "celeba", "lsun_church"):
        unet, cunet = both(paper.TABLE_1, dataset=dataset)
        saved.append(1 - cunet.seconds / unet.seconds)
    low, high = (int(n) / 100 for n in re.findall(r"\d+", CLAIMS["C05"].text))
    assert min(saved) == pytest.approx(low, abs=0.05)
    assert max(saved) == pytest.approx(high, abs=0.06)


def test_abstract_says_30_percent_of_the_flops_where_table_5_says_40():
    cost = {r.model: r for r in paper.TABLE_5}
    ratio = cost["cunet-released-5attn"].gflops / cost["unet"].gflops
    assert ratio == pytest.approx(0.40, abs=0.005)
    assert paper.QUOTES["flops_ratio"].value == 0.30
    assert any(e.place == "abstract" and "40 %" in e.correct for e in paper.ERRATA)


def test_table_5_megabytes_are_a_training_checkpoint_of_16_bytes_a_parameter():
    printed = {r.model: r.parameters for r in paper.RELEASED_CODE}
    for row in paper.TABLE_5:
        mebibytes = 16 * printed[row.model] / 2**20
        assert row.megabytes == pytest.approx(mebibytes, rel=0.02), row.model


def test_table_5_gflops_are_the_multiply_accumulates_printed_by_the_released_code():
    printed = {r.model: r.macs for r in paper.RELEASED_CODE}
    assert paper.TABLE_5[0].gflops == pytest.approx(printed["unet"] / 1e9, abs=0.005)
    assert printed["cunet-released"] / 1e9 < paper.TABLE_5[1].gflops  # the table's has more attention


def test_table_3_changes_its_time_a_step_between_the_first_row_and_the_others():
    a_step = {r.noise: r.ssim_seconds / r.ssim_step for r in paper.TABLE_3 if r.model == "unet"}
    assert a_step.pop(50) == pytest.approx(0.116, abs=0.001)
    assert min(a_step.values()) > 0.20
    assert max(a_step.values()) < 0.22


def test_figure_6_number_is_the_released_network_with_two_attentions():
    printed = {r.model: r.parameters for r in paper.RELEASED_CODE}
    assert round(printed["cunet-released"], -5) == paper.QUOTES["parameters"].value
    assert round(printed["cunet-released-5attn"], -5) != paper.QUOTES["parameters"].value


def test_the_noise_weight_of_equation_2_as_printed_is_one():
    assert r"\sqrt{\beta_t} \frac{1}{\sqrt{1 - \alpha_t}}" in paper.EQUATIONS[2]
    beta = 0.0137
    alpha = 1 - beta
    assert beta**0.5 / (1 - alpha) ** 0.5 == pytest.approx(1.0)


def test_every_equation_that_a_notebook_calls_wrong_is_among_the_errata():
    wrong = {2, 6, 10, 13, 14, 15}  # shown in 02, 03, 06 and 08
    places = " ".join(e.place for e in paper.ERRATA)
    listed = {int(n) for part in re.findall(r"eq\. ([\d, ]+)", places) for n in re.findall(r"\d+", part)}
    assert listed == wrong


def test_figures_are_all_there():
    assert sorted(paper.FIGURES) == list(range(1, 15))


def test_26_claims_in_order_each_with_a_place_and_evidence():
    assert list(CLAIMS) == [f"C{i:02d}" for i in range(1, 27)]
    for key, claim in CLAIMS.items():
        assert claim.id == key
        assert claim.text and claim.place and claim.paper


@pytest.mark.parametrize(
    "claim, table",
    [("C03", paper.TABLE_5), ("C04", paper.TABLE_5), ("C05", paper.TABLE_1), ("C06", paper.TABLE_1)]
    + [("C07", paper.TABLE_1), ("C09", paper.TABLE_2), ("C10", paper.TABLE_2), ("C11", paper.TABLE_3)]
    + [("C12", paper.TABLE_4)],
)
def test_numbers_that_a_claim_quotes_stand_in_its_table(claim, table):
    known = {f"{float(x):g}" for row in table for x in row if not isinstance(x, str)}
    quoted = {f"{float(x):g}" for x in re.findall(r"\d+(?:\.\d+)?", CLAIMS[claim].paper)}
    assert quoted and quoted <= known
