"""A run's folder: what is written where, with what inside, and that it can be read back."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cunet import provenance, runs
from cunet.errors import InputError


@pytest.fixture
def run(tmp_path) -> runs.Run:
    return runs.Run(tmp_path / "r", "04_networks", profile="laptop", parameters={"seed": 1, "run_dir": "x"})


def line() -> Figure:
    figure = Figure()
    figure.subplots().plot([1, 3, 2])
    return figure


@pytest.mark.parametrize("job", ["../up", "a/b", "", "-x", ".hidden", "a b", "x" * 200, "a\n"])
def test_job_names_that_are_not_file_names_are_refused(tmp_path, job):
    with pytest.raises(InputError, match="cannot be the name of a job"):
        runs.Run(tmp_path, job)


def test_figures_are_png_and_pdf_and_the_same_to_the_byte_each_time(run):
    first = {path.suffix: path.read_bytes() for path in saved(run)}
    second = {path.suffix: path.read_bytes() for path in saved(run)}
    assert set(first) == {".png", ".pdf"} and first == second
    assert first[".png"].startswith(b"\x89PNG") and first[".pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in first[".pdf"]


def saved(run):
    run.save_figure(line(), "fig04_noising", "A line.")
    return sorted((run.target / "figures").glob("fig04_noising.*"))


def test_a_saved_figure_is_shown_with_its_place_in_the_paper_and_its_caption(run, monkeypatch):
    import IPython

    shown, figure = [], line()
    monkeypatch.setattr(IPython, "get_ipython", lambda: "a notebook's")
    monkeypatch.setattr(IPython.display, "display", lambda *objects: shown.extend(objects))
    run.save_figure(figure, "fig04_noising", "A line.")
    run.save_figure(figure, "ext_line", "Another.")
    assert shown[0] is shown[2] is figure
    assert [shown[1].data, shown[3].data] == ["**Figure 4 of the paper.** A line.", "Another."]


def test_tables_are_csv_in_full_and_markdown_to_four_digits(run):
    table = pd.DataFrame({"model": ["a|b", "1e5"], "fd": [1.23456789, np.nan], "n": [10, 200000]})
    path = run.save_table(table, "tab01_fd", "Distances.")
    assert pd.read_csv(path)["fd"][0] == 1.23456789
    text = path.with_suffix(".md").read_text()
    assert "1.235" in text and "1.2345" not in text and "a\\|b" in text and "1e5" in text and "200000" in text


def test_a_named_index_becomes_a_column_and_an_unnamed_one_does_not(run):
    named = run.save_table(pd.DataFrame({"y": [2]}, index=pd.Index([7], name="x")), "ext_named")
    unnamed = run.save_table(pd.DataFrame({"y": [2]}), "ext_unnamed")
    assert named.read_text() == "x,y\n7,2\n" and unnamed.read_text() == "y\n2\n"


def test_the_scorecard_stands_in_the_runs_folder_itself(run):
    assert run.save_table(pd.DataFrame({"id": ["C01"]}), "scorecard") == run.run_dir / "scorecard.csv"


def test_a_result_holds_what_was_measured_and_what_made_it(run, tmp_path):
    (tmp_path / "data").write_bytes(b"abc")
    run.save_figure(line(), "fig04_noising", "A line.")
    values = {
        "fd": np.float32(1.5),
        "array": np.arange(3),
        "pair": (1, 2),
        "bad": float("nan"),
        "path": Path("p"),
    }
    run.save_result(values, [dict(id="C16", measured=np.int64(4))], {"step_s": 0.1}, [tmp_path / "data"])
    result = runs.result(run.run_dir, "04_networks")
    assert result["values"] == {"fd": 1.5, "array": [0, 1, 2], "pair": [1, 2], "bad": None, "path": "p"}
    assert result["claims"] == [{"id": "C16", "measured": 4}]
    assert result["parameters"] == {"seed": 1} and result["notebook"] == "04_networks"
    assert list(result["inputs"].values()) == [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    ]
    assert result["outputs"]["figures"] == {"fig04_noising": "A line."}
    assert set(result["environment"]) == {"code_version", "packages", "processor", "python", "threads"}
    assert {"torch", "papermill", "snakemake"} <= set(result["environment"]["packages"])


def test_results_are_the_same_to_the_byte_but_for_timings(run):
    def lasting() -> str:
        run.save_result({"b": 1, "a": 2}, timings={"t": np.random.rand()})
        content = json.loads((run.run_dir / "results" / "04_networks.json").read_text())
        assert list(content) == sorted(content) and "t" in content.pop("timings") and content.pop("sha256")
        return json.dumps(content)

    assert lasting() == lasting()


def test_the_hash_of_an_input_that_is_a_result_does_not_depend_on_its_timings(run):
    """Nor on a table that shows them."""
    first = runs.Run(run.run_dir, "01_first")
    hashes = set()
    for seconds in (1.0, 2.0):
        first.save_table(pd.DataFrame({"seconds": [seconds]}), "ext_time")
        first.save_result({"a": 1}, timings={"t": seconds})
        inputs = run.save_result({}, inputs=[run.run_dir / "results" / "01_first.json"])["inputs"]
        assert list(inputs) == ["results/01_first.json"]
        hashes |= set(inputs.values())
    first.save_result({"a": 2})
    hashes |= set(run.save_result({}, inputs=[run.run_dir / "results" / "01_first.json"])["inputs"].values())
    assert len(hashes) == 2


def test_a_result_has_the_hashes_of_its_figures_and_tables_and_one_that_was_edited_is_refused(run):
    run.save_figure(line(), "fig04_noising")
    run.save_table(pd.DataFrame({"x": [1]}), "ext_x")
    run.save_table(pd.DataFrame({"x": [1]}), runs.SCORECARD)
    run.save_result({})
    results = runs.results(run.run_dir)
    found = results["04_networks"]["outputs"]["sha256"]
    names = ["figures/fig04_noising.pdf", "figures/fig04_noising.png", "scorecard.csv", "scorecard.md"]
    assert sorted(found) == [*names, "tables/ext_x.csv", "tables/ext_x.md"]
    assert found["tables/ext_x.csv"] == hashlib.sha256(b"x\n1\n").hexdigest()
    for name in found:
        path = run.run_dir / name
        whole = path.read_bytes()
        runs.check_outputs(run.run_dir, results)
        path.write_bytes(whole + b" ")
        with pytest.raises(InputError, match=f"{path.name} does not .* Delete results/04_networks.json"):
            runs.check_outputs(run.run_dir, results)
        path.unlink()
        runs.check_outputs(run.run_dir, results)
        path.write_bytes(whole)


def test_a_result_of_earlier_code_has_no_hashes_of_its_outputs_and_is_read(run):
    run.save_table(pd.DataFrame({"x": [1]}), "ext_x")
    content = run.save_result({})
    del content["outputs"]["sha256"]
    content["sha256"] = runs.seal(content)
    (run.run_dir / "results" / "04_networks.json").write_text(json.dumps(content))
    (run.run_dir / "tables" / "ext_x.csv").write_text("x\n2\n")
    runs.check_outputs(run.run_dir, runs.results(run.run_dir))


def test_a_claim_without_its_measurement_is_refused(run):
    with pytest.raises(InputError, match="lacks 'id' or 'measured'"):
        run.save_result({}, claims=[{"id": "C01"}])


def test_what_json_cannot_hold_is_refused(run):
    with pytest.raises(InputError, match="cannot hold"):
        run.save_result({"model": object()})
    assert not (run.run_dir / "results" / "04_networks.json").exists()


def test_a_missing_result_names_those_there_are_and_how_to_make_it(run):
    run.save_result({})
    with pytest.raises(
        InputError, match=r"no result .*05_training.*results there: 04_networks.*cunet notebook"
    ):
        run.result("05_training-mnist-unet-s0")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"job": "04_networks"}', "\udcff"])
def test_a_damaged_result_is_refused_with_its_name(run, damage):
    run.save_result({})
    path = run.run_dir / "results" / "04_networks.json"
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="04_networks.json cannot be used"):
        runs.results(run.run_dir)


def test_a_result_that_was_edited_or_has_lost_its_hash_is_refused(run):
    run.save_result({"fd": 12.5})
    path = run.run_dir / "results" / "04_networks.json"
    text = path.read_text()
    path.write_text(text.replace("12.5", "11.5"))
    with pytest.raises(InputError, match="04_networks.json cannot be used: .*edited or damaged"):
        run.result("04_networks")
    content = json.loads(text)
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="04_networks.json cannot be used: it is not the result of a job"):
        run.result("04_networks")


def test_a_result_under_another_jobs_name_is_refused(run):
    run.save_result({})
    path = run.run_dir / "results" / "04_networks.json"
    path.rename(path.with_name("07_synthesis.json"))
    with pytest.raises(InputError, match="is the result of '04_networks'"):
        runs.result(run.run_dir, "07_synthesis")


def test_open_collects_the_parameters_cell_as_it_is_now(tmp_path):
    cell = f"run_dir = {str(tmp_path)!r}\njob = 'j'\nprofile = 'smoke'\nseed: int = 0\nnames = ['a']"
    namespace = {
        "run_dir": str(tmp_path),
        "job": "j",
        "profile": "smoke",
        "seed": 5,
        "names": ["a"],
        "other": 3,
    }
    namespace["In"] = ["", cell, "other = 3", "not python ("]
    run = runs.Run.open(namespace)
    assert run.parameters == {"job": "j", "profile": "smoke", "seed": 5, "names": ["a"]}
    assert run.profile == "smoke" and run.run_dir == tmp_path


def test_open_outside_ipython_takes_plain_globals(tmp_path):
    namespace = {"__name__": "x", "run_dir": str(tmp_path), "job": "j", "profile": "p", "seed": 1, "np": np}
    assert runs.Run.open(namespace).parameters == {"job": "j", "profile": "p", "seed": 1}


def test_open_before_the_parameters_cell_says_so():
    with pytest.raises(InputError, match="no 'job'"):
        runs.Run.open({"run_dir": "papermill_runs/x"})


def test_under_the_runner_outputs_are_staged_and_other_results_are_still_found(tmp_path, monkeypatch):
    runs.Run(tmp_path / "r", "01_first").save_result({"a": 1})
    monkeypatch.setenv(runs.STAGING, str(tmp_path / "stage"))
    monkeypatch.setenv(runs.JOB, "04_networks")
    run = runs.Run(tmp_path / "r", "04_networks")
    run.save_figure(line(), "ext_line")
    run.save_result({"b": 2})
    assert (
        not (tmp_path / "r" / "figures").exists()
        and (tmp_path / "stage" / "figures" / "ext_line.png").is_file()
    )
    assert run.result("01_first")["values"] == {"a": 1} and run.result("04_networks")["values"] == {"b": 2}
    assert run.checkpoints == tmp_path / "r" / "checkpoints"


def test_a_kernel_of_another_python_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(runs.PYTHON, sys.executable)
    runs.Run(tmp_path, "j")
    monkeypatch.setenv(runs.PYTHON, "/somewhere/else/python")
    with pytest.raises(InputError, match="another kernel named 'python3'"):
        runs.Run(tmp_path, "j")


def test_without_git_the_code_version_is_a_hash_of_the_library(monkeypatch):
    provenance.code_version.cache_clear()
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "")
    try:
        assert provenance.code_version().startswith("files-")
    finally:
        provenance.code_version.cache_clear()
