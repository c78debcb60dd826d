"""What a run left, for the pages about it: titles told apart, files that are missing or damaged are named."""

import pandas as pd
import pytest

from cunet import run_outputs, runs, scorecard
from cunet.errors import InputError


def test_only_jobs_of_one_notebook_get_more_than_its_title():
    titles = {"05_training-a-s0": "Training", "05_training-a-s1": "Training", "04_networks": "Networks"}
    assert list(run_outputs.told_apart(titles).values()) == ["Training: a-s0", "Training: a-s1", "Networks"]


@pytest.fixture
def run(tmp_path) -> runs.Run:
    run = runs.Run(tmp_path, "04_networks", "laptop", {"seed": 0})
    run.save_table(pd.DataFrame({"model": ["a, b", "c | d"], "fd": [1.23456789, 2]}), "ext_x")
    return run


def test_a_table_is_read_as_the_run_left_it(run):
    header, rows = run_outputs.table(run.run_dir, "ext_x")
    assert header == ["model", "fd"] and rows == [["a, b", "1.23456789"], ["c | d", "2.0"]]
    assert "c \\| d" in run_outputs.markdown_table(run.run_dir, "ext_x")


def test_rows_of_another_length_than_the_header_are_cut_or_filled(run):
    (run.run_dir / "tables" / "ext_x.csv").write_text("a,b\n1\n1,2,3\n")
    assert run_outputs.table(run.run_dir, "ext_x") == (["a", "b"], [["1", ""], ["1", "2"]])


@pytest.mark.parametrize(
    "read, file",
    [(run_outputs.table, "ext_x.csv"), (run_outputs.markdown_table, "ext_x.md")],
)
def test_a_missing_or_damaged_table_is_named(run, read, file):
    (run.run_dir / "tables" / file).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=f"{file} cannot be read.*Make its job again"):
        read(run.run_dir, "ext_x")
    (run.run_dir / "tables" / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing. Make its job again"):
        read(run.run_dir, "ext_x")


def test_a_missing_picture_is_named_and_no_name_leads_out_of_the_run(run):
    with pytest.raises(InputError, match="ext_x.png is missing"):
        run_outputs.picture(run.run_dir, "ext_x")
    for read, kind in ((run_outputs.picture, "figure"), (run_outputs.table, "table")):
        with pytest.raises(InputError, match=f"cannot be the name of a {kind}"):
            read(run.run_dir, "../secret")


def test_the_scorecard_is_read_as_it_was_saved_and_one_without_a_column_is_refused(run):
    assert run_outputs.card(run.run_dir).empty
    made = scorecard.scorecard([])
    run.save_table(made, runs.SCORECARD)
    pd.testing.assert_frame_equal(run_outputs.card(run.run_dir), made)
    run.save_table(made.drop(columns="dataset"), runs.SCORECARD)
    with pytest.raises(InputError, match="scorecard.csv has no column 'dataset'.*notebook 12"):
        run_outputs.card(run.run_dir)


def test_what_results_were_made_with_says_all_values_and_the_sum_of_times():
    made = [{"environment": {"threads": n}, "timings": {"wall_time_s": s}} for n, s in ((2, 60), (8, None))]
    results = dict(enumerate(made))
    assert run_outputs.all_of(results, "threads") == "2, 8" and run_outputs.all_of(results, "python") == ""
    assert run_outputs.seconds(results) == 60
