"""The committed run: current with the notebooks, small, and put there whole; and how one comes to be.

The code is tried on a made-up run of one small notebook; what is committed is held to the same.
"""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

from cunet import chain, notebook, processes, profiles, publish, results_page, runs, slim
from cunet.errors import InputError
from cunet.provenance import sha256

HEADER = (ROOT / "notebooks" / "00_start_here.py").read_text(encoding="utf-8").split("# %%")[0]
NOTEBOOK = (
    HEADER
    + """\
# %% [markdown]
# # A made-up notebook

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where results go
job = "04_networks"  # name of the result file
profile = "laptop"  # name of the profile
seed = 0  # of random numbers
size = "laptop"  # of nothing
count = 3  # points of the figure

# %%
# %matplotlib inline
import pandas as pd
from matplotlib.figure import Figure

from cunet import runs

run = runs.Run.open(globals())

# %%
figure = Figure(figsize=(4, 2))
figure.subplots().plot(range(count))
run.save_figure(figure, "fig03_samples", "Samples, made up")
figure

# %% [markdown]
# Some words.

# %%
row = dict(dataset="avatars", model="cunet", fd=1.5, fd_low=1.25, fd_high=2.0, steps=5)
row |= dict(seconds_per_sample=0.5, paper_fid=None, paper_steps=None, paper_seconds=None, n=8)
run.save_table(pd.DataFrame([row]), "tab01_synthesis", "Table 1, made up")
shares = dict(checkpoint=0.25, inference=0.5, training=0.75)
values = {
    "parameters_ratio": {"cunet": 0.125, "cunet-released": 0.25},
    "macs_ratio": {"cunet": 0.2, "cunet-released": 0.4},
    "memory_mib": {"unet": dict.fromkeys(shares, 1.0), "cunet": shares, "cunet-released": shares},
}
calls = [dict(batch=1, model=name, ratio=0.5, low=0.4, high=0.6) for name in ("cunet", "cunet-released")]
claims = [dict(id="C01", measured="an eighth", value=0.125), dict(id="C20", measured="it grows", value=3.0)]
result = run.save_result(values, claims, timings={"a_call": calls})
"""
)
PROFILE = "name: made-up\nsize: laptop\nnotebooks:\n  04_networks: {count: 5}\n"


def made(root: Path, text: str = PROFILE) -> Path:
    """A finished run of the made-up notebook in the repository `root`; CUNET_ROOT names it."""
    plan = chain.plan(profiles.load("reference"), root / "papermill_runs" / "mine")
    chain.prepare(plan)
    for job in plan.jobs:
        notebook.execute(chain.source(job.notebook), plan.run_dir, {**job.parameters})
    return plan.run_dir


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A repository with a finished run, to be copied."""
    root = tmp_path_factory.mktemp("reference") / "my repo é"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "04_networks.py").write_text(NOTEBOOK, encoding="utf-8")
    (root / "papermill_runs" / "profiles").mkdir(parents=True)
    (root / "papermill_runs" / "profiles" / "reference.yaml").write_text(PROFILE)
    (root / "README.md").write_text(
        f"# Made up\n\n{results_page.BEGIN}\n{results_page.NONE}\n{results_page.END}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUNET_ROOT", str(root))
        made(root)
    return root


@pytest.fixture
def root(finished, tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "repo"
    shutil.copytree(finished, copy)
    monkeypatch.setenv("CUNET_ROOT", str(copy))
    return copy


@pytest.fixture
def published(root) -> Path:
    return publish.publish("papermill_runs/mine")


def edit(root: Path, old: str, new: str) -> None:
    path = root / "notebooks" / "04_networks.py"
    assert old in (text := path.read_text(encoding="utf-8"))
    path.write_text(text.replace(old, new), encoding="utf-8")


def change(path: Path, **changes) -> None:
    """Change a result file, and seal it anew."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content | {"sha256": runs.seal(content)}))


# ----------------------------------------------------------------------------------------- what is committed


def test_the_committed_run_is_current_and_small():
    """A notebook that is newer than its committed result fails here, with the command that refreshes it."""
    folder = ROOT / publish.FOLDER
    if not folder.is_dir():
        pytest.skip(f"There is no committed run yet. {publish.REFRESH}")
    assert publish.stale() == []
    assert {
        path.name for path in (folder / "executed").iterdir() if path.stat().st_size > slim.LIMIT
    } == set()
    assert list(folder.rglob("*.pdf")) == []


def test_a_published_notebook_does_not_say_where_the_repository_was(root):
    """A cell that ends with the path of what it saved shows it, and so do warnings."""
    edit(root, "# Some words.", "# Some words.\n\n# %%\nrun.save_table(pd.DataFrame({'x': [1]}), 'ext_x')")
    made(root)
    publish.publish("papermill_runs/mine")
    text = (root / publish.FOLDER / "executed" / "04_networks.ipynb").read_text()
    assert "ext_x.csv" in text and f"{root}/" not in text


def test_the_readme_says_what_the_committed_run_says():
    assert results_page.current(), results_page.OUTDATED


# ------------------------------------------------------------------------------------------------ publishing


def test_it_holds_notebooks_pictures_tables_and_results_and_nothing_of_the_machine(root, published):
    names = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    assert names == {
        "executed/04_networks.ipynb",
        "figures/fig03_samples.png",
        "tables/tab01_synthesis.csv",
        "tables/tab01_synthesis.md",
        "results/04_networks.json",
        "profile.yaml",
    }
    was, now = (
        runs.result(folder, "04_networks") for folder in (root / "papermill_runs" / "mine", published)
    )
    assert now["timings"].keys() == was["timings"].keys() - set(publish.NOISE)
    assert now["timings"]["a_call"] == was["timings"]["a_call"] and now["timings"]["wall_time_s"] % 1 == 0
    assert runs.untimed(now) | {"sha256": None} == runs.untimed(was) | {"sha256": None}
    kept = {"figures/fig03_samples.png", "tables/tab01_synthesis.csv", "tables/tab01_synthesis.md"}
    assert now["outputs"]["sha256"] == {name: sha256(published / name) for name in kept}
    assert publish.stale() == []


def test_results_without_hashes_of_their_figures_and_tables_are_published_and_get_them(root, published):
    """As runs of earlier code have them."""
    path = root / "papermill_runs" / "mine" / "results" / "04_networks.json"
    before = runs.result_file(published / "results" / path.name)["outputs"]
    assert len(before["sha256"]) == 3
    change(path, outputs={kind: before[kind] for kind in ("figures", "tables")})
    publish.publish("papermill_runs/mine")
    assert runs.result_file(published / "results" / path.name)["outputs"] == before


def test_an_edited_table_of_the_committed_run_does_not_get_into_the_readme(published):
    path = published / "tables" / "tab01_synthesis.csv"
    path.write_text(path.read_text().replace("1.5", "0.5"))
    with pytest.raises(InputError, match="tab01_synthesis.csv does not have the SHA-256"):
        results_page.block(published)


def test_publishing_again_gives_the_same_bytes_and_takes_away_what_is_gone(published):
    (published / "figures" / "old.png").write_bytes(b"")
    before = {
        path: path.read_bytes() for path in published.rglob("*") if path.is_file() and path.name != "old.png"
    }
    publish.publish("papermill_runs/mine")
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before
    assert not list(published.parent.glob(".publish-*"))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda run: (run / "results" / "04_networks.json").unlink(), "unfinished: it lacks 04_networks"),
        (lambda run: (run / "executed" / "04_networks.ipynb").unlink(), "unfinished: it lacks 04_networks"),
        (lambda run: (run / "profile.yaml").unlink(), "not a prepared run"),
        (lambda run: (run / "figures" / "fig03_samples.png").unlink(), "fig03_samples.png is missing"),
        (
            lambda run: (run / "tables" / "tab01_synthesis.csv").write_text("fd\n0\n"),
            "tab01_synthesis.csv does not have the SHA-256 that its job recorded",
        ),
        (lambda run: change(run / "results" / "04_networks.json", profile="smoke"), "smoke size"),
        (
            lambda run: change(run / "results" / "04_networks.json", parameters={"size": "smoke"}),
            "smoke size",
        ),
        (lambda run: change(run / "results" / "04_networks.json", source=""), "by another 04_networks"),
        (lambda run: edit(run.parents[1], "range(count)", "range(count + 1)"), "by another 04_networks"),
    ],
)
def test_a_run_that_must_not_be_published_is_refused_and_the_committed_one_stays(
    root, published, spoil, message
):
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    spoil(root / "papermill_runs" / "mine")
    with pytest.raises(InputError, match=message):
        publish.publish("papermill_runs/mine")
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_without_a_notebook_of_the_reference_profile_or_of_the_committed_run_is_refused(
    root, published
):
    before = content(published)
    profile = root / "papermill_runs" / "profiles" / "reference.yaml"
    shutil.copy(root / "notebooks" / "04_networks.py", root / "notebooks" / "06_more.py")
    profile.write_text(PROFILE + "  06_more:\n")
    with pytest.raises(InputError, match="mine is partial: .* it lacks 06_more. .* make reference"):
        publish.publish("papermill_runs/mine")
    assert content(published) == before
    profile.write_text(PROFILE)
    result = json.loads((published / "results" / "04_networks.json").read_text())
    more = published / "results" / "06_more.json"
    more.write_text(json.dumps(result | dict(job="06_more", notebook="06_more")))
    with pytest.raises(InputError, match="mine is partial: .* it lacks 06_more"):
        publish.publish("papermill_runs/mine")
    assert more.is_file()
    (root / "notebooks" / "06_more.py").unlink()  # what is no notebook any more need not be in it
    publish.publish("papermill_runs/mine")
    assert content(published) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_the_committed_run_comes_back_when_the_new_one_cannot_take_its_place(published, monkeypatch, error):
    (published / "old.txt").write_text("the old one")
    before, rename = content(published), Path.rename

    def failing(self, where):
        if self.name == "new":
            raise error
        return rename(self, where)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(type(error)):
            publish.publish("papermill_runs/mine")
    assert content(published) == before and not list(published.parent.glob(".publish-*"))


def test_the_committed_run_comes_back_after_a_kill_between_the_two_renames(published):
    before = content(published)
    (folder := published.parent / ".publish-killed").mkdir()
    published.rename(folder / "old")
    with pytest.raises(InputError, match="absent"):
        publish.publish("papermill_runs/absent")
    assert content(published) == before and not folder.exists()


def test_a_second_publisher_is_refused_while_the_first_lives(published):
    with processes.locked(published.parent / ".locks" / "publish.lock", "test"):
        with pytest.raises(InputError, match="papermill_runs/reference"):
            publish.publish("papermill_runs/mine")


def test_a_run_of_which_the_readme_cannot_be_written_is_not_published(published, monkeypatch):
    before = content(published)

    def refuse(run_dir):
        raise InputError(f"{run_dir.name} has no table 1")

    monkeypatch.setattr(results_page, "block", refuse)
    with pytest.raises(InputError, match="no table 1"):
        publish.publish("papermill_runs/mine")
    assert content(published) == before


def test_the_committed_run_cannot_take_its_own_place(published):
    with pytest.raises(InputError, match="the committed run itself"):
        publish.publish(published)


def test_a_notebook_run_by_hand_carries_no_source(root, monkeypatch):
    run = runs.Run(root / "papermill_runs" / "hand", "04_networks", "laptop", {})
    assert "source" not in run.save_result({})


# -------------------------------------------------------------------------------------------------- currency


def test_edited_code_is_out_of_date_whatever_the_times_of_files_say(root, published):
    edit(root, "range(count)", "range(count + 1)")
    os.utime(root / "notebooks" / "04_networks.py", (0, 0))
    (found,) = publish.stale()
    assert "code of notebooks/04_networks.py is newer" in found and "make reference" in found


def test_a_touched_file_and_code_laid_out_anew_need_no_new_run(root, published):
    os.utime(root / "notebooks" / "04_networks.py")
    assert publish.stale() == []
    edit(root, "figure = Figure(figsize=(4, 2))", "figure = Figure(\n    figsize=(4, 2)\n)  # inches")
    (found,) = publish.stale()
    assert publish.WORDS in found


def test_new_words_are_taken_over_with_the_outputs_and_parameters_as_they_were(root, published):
    edit(root, "# Some words.", "# Other [words](06_more.py).\n\n# %% [markdown]\n# And more of them.")
    (found,) = publish.stale()
    assert "words of notebooks/04_networks.py" in found and publish.WORDS in found
    before = nbformat.read(published / "executed" / "04_networks.ipynb", as_version=4).cells
    assert publish.reword() == ["04_networks"] and publish.stale() == [] and publish.reword() == []
    after = nbformat.read(published / "executed" / "04_networks.ipynb", as_version=4).cells
    words = [c.source for c in after if c.cell_type == "markdown"][1:]
    assert words == ["Other [words](06_more.ipynb).", "And more of them."], "links lead to what is beside it"
    code = [[(c.source, c.outputs) for c in cells if c.cell_type == "code"] for cells in (before, after)]
    assert code[0] == code[1] and any("count = 5" in source for source, _ in code[1])
    edit(root, "range(count)", "range(count + 1)")
    assert publish.reword() == [], "code that changed has to run"


def test_notebooks_that_were_added_or_are_gone_are_out_of_date(root, published):
    profile = root / "papermill_runs" / "profiles" / "reference.yaml"
    shutil.copy(root / "notebooks" / "04_networks.py", root / "notebooks" / "05x_more.py")
    shutil.copy(root / "notebooks" / "04_networks.py", root / "notebooks" / "06_more.py")
    profile.write_text(PROFILE + "  06_more:\n")
    assert publish.stale() == [f"06_more is not in it. {publish.REFRESH}"]
    profile.write_text(PROFILE.replace("04_networks: {count: 5}", "06_more:"))
    (root / "notebooks" / "04_networks.py").unlink()
    assert len(publish.stale()) == 2


def test_a_run_with_other_parameters_is_out_of_date_unless_the_readme_of_runs_names_them(
    root, published, capsys
):
    results_page.write()
    runs_folder = root / "papermill_runs"
    profile, readme = runs_folder / "profiles" / "reference.yaml", runs_folder / "README.md"
    profile.write_text(PROFILE.replace("count: 5", "count: 7"))
    (found,) = publish.stale()
    assert "04_networks ran with count=5, the profile reference has 7. Refresh the committed run" in found
    assert found.endswith("or name `04_networks.count` in papermill_runs/README.md")
    readme.write_text("As in `profiles/reference.yaml`.\n\nElsewhere: `04_networks.count`.\n")
    assert publish.stale() == [found], "what is named elsewhere is an example"
    readme.write_text("As in `profiles/reference.yaml`,\nbut for `04_networks.count`.\n\nMore words.\n")
    assert publish.stale() == [] and publish.main(["--check"]) == 0
    said = capsys.readouterr().out
    assert "is current." in said and "README.md says: 04_networks ran with count=5" in said
    profile.write_text(PROFILE)
    (found,) = publish.stale()
    assert "names `04_networks.count`, which is as in the profile" in found
    profile.write_text(PROFILE.replace("{count: 5}", "{count: 5, seed: 1}"))
    assert len(publish.stale()) == 2, "one that is named excuses no other"


def test_the_command_publishes_writes_the_readme_and_says_what_is_out_of_date(root, capsys):
    assert publish.main(["mine"]) == 0 and publish.main(["--check"]) == 0
    text = (root / "README.md").read_text()
    assert results_page.current() and "an eighth" in text and "under the profile `made-up`" in text
    edit(root, "# Some words.", "# Other words.")
    readme = root / "README.md"
    readme.write_text(readme.read_text().replace("an eighth", "a tenth"))
    assert publish.main(["--check"]) == 1
    assert {publish.WORDS, results_page.OUTDATED} <= {
        part for line in capsys.readouterr().out.splitlines() for part in (line, line.split(": ")[-1])
    }
    assert publish.main(["--words"]) == 0 and results_page.main([]) == 0 and publish.main(["--check"]) == 0
    assert publish.main(["absent"]) == 2 and "absent" in capsys.readouterr().err
