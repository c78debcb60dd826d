"""The README's results: each number from a file, each line chosen by the rule, between two marks."""

import json
import re

import pandas as pd
import pytest
from conftest import ROOT

from cunet import ablations, cost, models, palette, results_page, results_quality, rules, scorecard
from cunet.errors import InputError


def card(**verdicts: str) -> pd.DataFrame:
    """A scorecard with rows as C01="reproduced", or several as C01="reproduced, partly"; no others."""
    found = scorecard.scorecard([])
    rows = []
    for row in found.to_dict("records"):
        for i, verdict in enumerate(verdicts.get(row["id"], scorecard.UNMEASURED).split(", ")):
            measured = {"measured": f"{row['id']} number {i}", "verdict": verdict, "notebook": "04_networks"}
            rows.append(row | measured)
    return pd.DataFrame(rows)


R, P, N = rules.REPRODUCED, rules.PARTLY, rules.NOT_REPRODUCED


def named(lines: list[str]) -> list[str]:
    return [line.split("(")[1][:3] for line in lines]


def test_two_right_one_in_part_two_wrong_and_those_of_the_abstract_first():
    frame = card(C01=R, C04=R, C16=R, C22=R, C03=P, C05=P, C06=N, C07=N, C23=N)
    lines = results_page.findings(frame)
    assert named(lines) == ["C01", "C22", "C03", "C23", "C06"]
    assert [line[4 : line.index("**", 4)] for line in lines] == [
        "Right",
        "Right",
        "In part",
        "Wrong",
        "Wrong",
    ]


def test_places_that_a_kind_cannot_fill_go_to_others_and_what_was_not_tested_is_no_finding():
    assert named(results_page.findings(card(C16=R, C06=N, C07=N, C09=N, C10=N, C11=N))) == [
        "C16", "C06", "C07", "C09", "C10"
    ]  # fmt: skip
    assert named(results_page.findings(card(C03=R, C12=rules.NOT_TESTABLE))) == ["C03"]
    assert results_page.findings(card(C03=scorecard.MEANINGLESS)) == []


def test_a_line_tells_the_measurement_with_the_verdict_or_the_best_and_the_worst():
    (line,) = results_page.findings(card(C05=f"{P}, {R}, {P}"))
    assert line.startswith("- **In part** (C05)") and "Measured: C05 number 1; C05 number 0." in line
    assert "[04](notebooks/04_networks.py)" in line
    (line,) = results_page.findings(card(C05=f"{rules.NOT_TESTABLE}, {R}, {R}"))
    assert "Measured: C05 number 1." in line


def test_where_too_few_claims_were_not_reproduced_those_that_were_not_in_part_take_the_place():
    frame = card(C01=R, C16=R, C03=P, C08=f"{R}, {N}", C06=f"{rules.UNDECIDED}, {N}, {P}", C09=N)
    lines = results_page.findings(frame)
    assert named(lines) == ["C01", "C16", "C03", "C06", "C09"], "whole failures first, then by the order"
    assert lines[3].startswith("- **Wrong in part** (C06)") and lines[4].startswith("- **Wrong** (C09)")
    assert "Measured: *not reproduced*: C06 number 1; *partly*: C06 number 2." in lines[3]
    lines = results_page.findings(card(C06=N, C09=N, C08=f"{R}, {N}"))
    assert lines[0].startswith("- **In part** (C08)"), "the places are taken"


def test_the_page_that_the_line_on_errata_names_lists_them():
    (path,) = re.findall(r"\((notebooks/\S+\.py)\)", results_page.ERRATA)
    assert "paper.ERRATA" in (ROOT / path).read_text(encoding="utf-8")


def test_failures_are_counted_by_row_and_named_and_what_is_asked_first_is_said_first():
    text = results_page.verdicts(frame := card(C01=R, C04=f"{R}, {N}", C11=f"{N}, {rules.UNDECIDED}"))
    assert "Of the 5 rows: 2 reproduced, 2 not reproduced, 1 undecided; not reproduced in C04, C11." in text
    assert "1 reproduced, 1 partly, 1 undecided" in text
    assert results_page.in_short(frame) == ""
    assert "(C06): 1 reproduced, 1 undecided; " in results_page.in_short(
        card(C06=f"{R}, {rules.UNDECIDED}", C07=N)
    )


@pytest.mark.parametrize("verdicts", [{}, {"C01": scorecard.MEANINGLESS}])
def test_a_scorecard_without_a_judged_row_is_said_to_have_none(verdicts):
    text = results_page.verdicts(card(**verdicts))
    assert text == "**The paper's 26 claims**: this run judged none of them."


def test_how_long_the_networks_were_trained_stands_beside_the_authors_recipe():
    pages = {
        name: dict(notebook="05_training", parameters=dict(size="laptop"), values=dict(images_seen=seen))
        for name, seen in (("a", 200_000), ("b", 100_032))
    }
    text = results_page.trained(pages)
    assert "`laptop`, 32 x 32 pixels, each trained on 100,032 to 200,000 images" in text and "64 x 64" in text
    assert text.endswith(results_page.shape("laptop", "paper"))
    assert results_page.trained({}) == ""


def test_the_size_of_a_run_is_held_against_the_papers_by_counting():
    text = results_page.shape("laptop", "paper")
    shares = {
        (size, of): f"{count('cunet', size) / count('unet', size):.2f}"
        for size in ("laptop", "paper")
        for of, count in (("MACs", macs), ("parameters", total))
    }
    assert f"{shares['laptop', 'MACs']} of the U-Net's MACs and {shares['laptop', 'parameters']}" in text
    assert f"size `paper` {shares['paper', 'MACs']} and {shares['paper', 'parameters']}" in text
    assert float(shares["laptop", "MACs"]) > 2 * float(shares["paper", "MACs"]), "why it is said"


def macs(name: str, size: str) -> int:
    return cost.macs(models.build(name, size), models.image_size(size))


def total(name: str, size: str) -> int:
    return cost.parameters(models.build(name, size)).total


def test_images_a_second_of_training_are_told_once_they_are_measured(tmp_path):
    assert results_page.training_rate(tmp_path) == ""
    path = tmp_path / "bench_throughput.csv"
    path.write_text(
        "model,batch,images_per_second,ratio,low,high,data,data_low,data_high\n"
        "unet,64,101.25,1,1,1,0.004,0,0\ncunet-first,64,202.5,0.5,0.4,0.6,0.0123,0,0\n"
    )
    with pytest.raises(InputError, match="none of `make bench`"):
        results_page.training_rate(tmp_path)
    path.with_suffix(".json").write_text('{"recipe": {"size": "laptop"}}')
    text = results_page.training_rate(tmp_path)
    assert "`laptop`" in text and "U-Net 101, " in text and text.endswith("takes 0.012 of a step at most.")
    assert f"{palette.label('cunet-first')} 202, 0.50 [0.40, 0.60]" in text


def test_the_ratio_of_networks_that_lie_alike_in_memory_stands_beside_that_of_those_that_do_not():
    columns = ["task", "mode", "batch", "model", "value", "unit", "ratio", "low", "high"]
    rows = [("step", "eager", 8, "cunet", 1, "s", 0.10, 0.09, 0.12)]
    assert results_page.layouts(pd.DataFrame(rows, columns=columns)) == ""
    rows += [("step", "eager+channels_last", 8, "cunet", 1, "s", 0.13, 0.12, 0.14)]
    rows += [("step", "eager", 1, "cunet", 1, "s", 0.5, 0.4, 0.6)]
    rows += [("training", "eager", 8, "cunet", 1, "s", 2, 2, 2)]
    text = results_page.layouts(pd.DataFrame(rows, columns=columns))
    assert "takes 0.13 [0.12, 0.14] at batch 8, not 0.10 [0.09, 0.12]. " in text and "0.5" not in text


def test_a_run_without_table_1_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="tab01_synthesis.csv is no table 1.*notebook 07"):
        results_page.table_1(tmp_path)


def test_ratios_of_cost_are_those_that_the_benchmark_wrote(tmp_path):
    assert results_page.table_5(tmp_path) == results_page.NOT_MEASURED
    head = "task,mode,batch,model,value,unit,ratio,low,high"
    rows = ["parameters,-,0,unet,100,parameters,1,,", "parameters,-,0,cunet,12,parameters,0.12,,"]
    rows += [
        "step,eager,8,unet,2,s,1,1,1",
        "step,eager,8,cunet,0.5,s,0.25,0.2,0.3",
        "step,compiled+channels_last,8,cunet,0.5,s,0.125,0.1,0.2",
        "compile,compiled,8,cunet,30,s,0.9,,",
        "forward,eager,8,cunet,1,s,0.9,,",
    ]
    (tmp_path / "bench.csv").write_text("\n".join([head, *rows]))
    with pytest.raises(InputError, match="bench.csv is none of `make bench`"):
        results_page.table_5(tmp_path)
    record = {"environment": {"processor": "a box", "threads": 3}}
    record["settings"] = {"size": "laptop", "channels": 3}
    (tmp_path / "bench.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="at size laptop, 3 channels"):
        results_page.table_5(tmp_path)
    record["settings"]["size"] = "paper"
    (tmp_path / "bench.json").write_text(json.dumps(record))
    text = results_page.table_5(tmp_path)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]]
    assert "a box, 3 threads" in text and "0.9" not in text
    assert ["denoising step, batch 8, eager", "0.25 [0.20, 0.30]", "-", "-", "-"] in cells
    assert ["denoising step, batch 8, compiled, channels-last", "0.12 [0.10, 0.20]", "-", "-", "-"] in cells
    assert [row[0] for row in cells if row[0] == "parameters" and row[1] == "0.12" and row[-1] != "-"]


def test_table_1_names_stand_ins_and_has_a_dash_where_the_paper_has_no_number(tmp_path):
    (tmp_path / "tables").mkdir()
    columns = "dataset,model,fd,fd_low,fd_high,steps,seconds_per_sample,paper_fid,paper_steps,paper_seconds,n"
    rows = ["mnist,unet,7.125,7,8,30,1.23456,3.61,30,3.56,2048", "landscapes,cunet,9,8,10,5,0.5,,,,64"]
    rows.append("avatars,cunet,9,8,10,5,0.5,21.44,80,7.36,64")
    (tmp_path / "tables" / "tab01_synthesis.csv").write_text("\n".join([columns, *rows]))
    lines = results_page.table_1(tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["MNIST", "U-Net", "7.12 [7.00, 8.00]", "2,048", "30", "1.23", "3.61", "30", "3.56"]
    assert "stand-in for CelebA" in cells[2][0] and cells[2][6:] == ["21.44 (of CelebA)", "80", "7.36"]
    assert "stand-in for LSUN Church" in cells[1][0] and cells[1][6:] == ["-", "-", "-"]


def test_the_goal_is_judged_for_each_data_set_that_has_both_networks(tmp_path):
    (tmp_path / "tables").mkdir()
    rows = ["dataset,model,fd,steps,seconds_per_sample", "mnist,unet,8,20,1.0", "mnist,cunet,8,10,0.2"]
    rows += ["avatars,unet,8,20,1.0", "avatars,cunet,9,20,0.1", "landscapes,unet,8,20,1.0"]
    (tmp_path / "tables" / "tab01_synthesis.csv").write_text("\n".join(rows))
    text = results_quality.goal(tmp_path)
    assert "MNIST reached (distance 1.00, steps 0.50, time 0.20)" in text
    assert "not reached (distance 1.12, steps 1.00, time 0.10)" in text and "LSUN" not in text
    (tmp_path / "tables" / "tab01_synthesis.csv").write_text("\n".join(rows[:2]))
    assert results_quality.goal(tmp_path) == ""
    edge = [
        "dataset,model,fd,steps,seconds_per_sample,edge",
        "mnist,unet,8,50,1,most tried",
        "mnist,cunet,8,50,1,-",
    ]
    (tmp_path / "tables" / "tab01_synthesis.csv").write_text("\n".join(edge))
    assert "steps 1.00, a best one lies at the edge of what was tried, time" in results_quality.goal(tmp_path)


def test_equal_steps_have_a_row_a_data_set_and_seeds_a_sentence(tmp_path):
    (tmp_path / "tables").mkdir()
    assert results_quality.equal_steps(tmp_path) == ""
    rows = ["dataset,model,seed,steps,share,share_low,share_high", "mnist,cunet,0,20,1.1,1.0,1.2"]
    rows += ["mnist,cunet,0,5,0.9,0.8,1.0", "mnist,cunet,1,5,7,7,7", "avatars,cunet,0,5,0.5,0.4,0.6"]
    path = tmp_path / "tables" / "ext_equal_steps.csv"
    path.write_text("\n".join(rows))
    lines = results_quality.equal_steps(tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["data", "network", "5 steps", "20 steps"] and "7.00" not in str(cells)
    assert cells[2] == ["MNIST", "cU-Net as described", "0.90 [0.80, 1.00]", "1.10 [1.00, 1.20]"]
    assert cells[3][2:] == ["0.50 [0.40, 0.60]", "-"]
    seeds = "dataset,model,steps,mean,deviation,seeds\nmnist,cunet,5,16.2,0.616,3\n"
    (tmp_path / "tables" / "ext_fd_over_seeds.csv").write_text(seeds)
    text = results_quality.equal_steps(tmp_path)
    assert "MNIST, cU-Net as described, 5 steps 16.20 ± 0.62 (3 seeds). How far seeds" in text
    assert "seeds spread on avatars" in text
    assert text.endswith("is not known: no network has several there.")
    (tmp_path / "tables" / "ext_fd_over_seeds.csv").write_text(f"{seeds}avatars,unet,5,9,1,2\n")
    assert results_quality.equal_steps(tmp_path).endswith("(2 seeds).")
    path.write_text("dataset,seed\n")
    with pytest.raises(InputError, match="damaged.*notebook 07"):
        results_quality.equal_steps(tmp_path)


@pytest.mark.parametrize("text", ["", results_page.BEGIN, f"{results_page.END}\n{results_page.BEGIN}"])
def test_a_readme_without_its_marks_is_refused(text):
    with pytest.raises(InputError, match="once each"):
        results_page.replaced(text, "x")


def test_what_is_around_the_marks_stays():
    text = f"before\n{results_page.BEGIN}\nold\n{results_page.END}\nafter\n"
    assert results_page.replaced(text, "new") == text.replace("old", "new")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def remedied(folder, **changes):
    """The tables of notebook 10 about remedies, with changes to a row of gains, in a made-up run."""
    (folder / "tables").mkdir(exist_ok=True)
    columns = "dataset,model,remedy,measure,percent,low,high,contribution,contribution_low,contribution_high"
    wider, (earlier,) = "cunet@time_width=256", ablations.EARLIER
    gained = pd.DataFrame(
        [
            ("mnist", wider, "wider", "loss", -2, -3, -1, 0, 0, 0, -1),
            ("mnist", wider, "wider", "fd", 4, -5, 9, 0, 0, 0, 0),
            ("mnist", earlier, "narrower", "fd", 80, 70, 90, 0, 0, 0, 1),
        ],
        columns=[*columns.split(","), "sign"],
    ).assign(**changes)
    as_it_is = dict(model="cunet", remedy="none: as it is", percent=50, low=40, high=60)
    gaps = pd.concat([gained.assign(**as_it_is), gained])
    gained.to_csv(folder / "tables" / "ext_remedies_gain.csv")
    gaps.assign(macs=0.5).to_csv(folder / "tables" / "ext_remedies.csv")


TEN = {"10": dict(notebook="10_ablations", parameters=dict(samples=256, steps=20))}


def test_remedies_stand_with_what_each_did_and_the_earlier_form_is_none_of_them(tmp_path):
    assert results_quality.remedies(tmp_path, {}) == ""
    remedied(tmp_path)
    text = results_quality.remedies(tmp_path, TEN)
    assert "Of 1 remedy, validation loss better with 1, worse with 0, undecided with 0; FD-Alex" in text
    assert "with 0, worse with 0, undecided with 1. The earlier form tells" in text
    assert "256 samples at 20 steps" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]]
    assert cells[0][:5] == ["MNIST", "none: as it is", "-", "-", "+50.0 % [+40.0, +60.0]"]
    assert cells[1][1:4] == ["wider", "-2.0 % [-3.0, -1.0]", "+4 % [-5, +9]"] and cells[1][-1] == "0.50"
    assert cells[2][1:4] == ["narrower", "-", "+80 % [+70, +90]"]
    with pytest.raises(InputError, match="damaged.*notebook 10"):
        results_quality.remedies(tmp_path, {})


def test_without_a_remedy_of_its_own_the_earlier_form_is_told_alone(tmp_path):
    (earlier,) = ablations.EARLIER
    remedied(tmp_path, model=earlier)
    assert "No remedy is trained yet. The earlier form tells" in results_quality.remedies(tmp_path, TEN)


def test_in_equal_time_distances_stand_in_the_order_of_the_steps(tmp_path):
    assert results_quality.equal_time(tmp_path) == ""
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "ext_equal_time.csv"
    rows = ["dataset,steps,seconds,unet,cunet,cunet-walltime", "mnist,5,0.1,20,9.5,", "mnist,10,0.2,8,,"]
    path.write_text("\n".join(rows))
    text = results_quality.equal_time(tmp_path)
    assert "MNIST, 5 / 10 steps: U-Net 20.00 / 8.00; cU-Net as described 9.50 / -." in text
    assert "walltime" not in text
    path.write_text("dataset\nmnist\n")
    with pytest.raises(InputError, match="damaged.*notebook 07"):
        results_quality.equal_time(tmp_path)
