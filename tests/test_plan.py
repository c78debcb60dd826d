"""What is refused before a chain starts, what a dry run leaves alone, and what makes a job run again."""

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, call, copied
from test_paper_profile import SWEEPS, Added, DryRun, believing, page, small_paper, write_celeba, write_lsun

from cunet import (
    chain,
    dependencies,
    engines,
    estimate,
    notebook,
    processes,
    profiles,
    reproduce,
    runs,
    work,
)
from cunet.errors import InputError
from cunet.parameters import declaration


@pytest.fixture
def whole(repository):
    """The small repository with the notebooks of the real one whose parameters are judged here."""
    for name in ("01_ode_block", "05_training", "06_sampling", "07_synthesis", "10_ablations"):
        shutil.copy(ROOT / "notebooks" / f"{name}.py", repository / "notebooks")
    text = "notebooks: {01_ode_block: , 05_training: , 06_sampling: , 07_synthesis: , 10_ablations: }\n"
    (profiles.folder() / "tiny.yaml").write_text(text)
    return repository


def checked(*settings: str) -> chain.Plan:
    plan = chain.plan(profiles.load("tiny", list(settings)), reproduce.folder("r"))
    chain.check(plan)
    return plan


def test_a_run_with_too_little_memory_is_refused_before_anything_starts_unless_the_user_knows_better(
    repository, monkeypatch, capsys
):
    started = []
    monkeypatch.setattr(reproduce, "_snakemake", lambda *_: started.append(1))
    monkeypatch.setattr(processes, "memory", lambda: 2**28)
    reproduce.reproduce("tiny")
    assert started == [1] and capsys.readouterr().err == ""  # nothing was measured in this repository
    shutil.copy(ROOT / "papermill_runs" / "calibration.yaml", repository / "papermill_runs")
    with pytest.raises(InputError, match="estimated to hold 0.9 GB at its peak, and this machine has 0.2 GB"):
        reproduce.reproduce("tiny", run="other")
    assert started == [1] and not reproduce.folder("other").exists()
    reproduce.reproduce("tiny", run="other", ignore_memory=True)
    reproduce.reproduce("tiny", run="other", dry_run=True)
    assert started == [1, 1, 1] and capsys.readouterr().err.count("Memory: ") == 2
    monkeypatch.setattr(processes, "memory", lambda: 2**40)
    reproduce.reproduce("tiny", run="other")
    assert started == [1, 1, 1, 1] and "Memory" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting, message",
    [
        ("models=[unet,cunte]", "the model 'cunte' \\(did you mean 'cunet'\\?\\)"),
        ("models=[cunte]", "the model 'cunte' \\(did you mean 'cunet'\\?\\)"),
        ("datasets=[mnits]", "the dataset 'mnits' \\(did you mean 'mnist'"),
        ("size=huge", "the size 'huge'"),
        ("seeds=[2147483648]", "less than 2\\^31"),
        ("datasets=[lsun_church]", "LSUN Church was not found|package lmdb is not installed"),
        ("size=smoke", "no released checkpoint 'mnist-unet-smoke-s0'"),
        ("seeds=[7]", "no released checkpoint 'mnist-unet-laptop-s7'"),
        ("05_training.images=0", "'images' of 05_training.py is 0; it needs a number above 0"),
        ("05_training.ema_decay=2.0", "ema_decay=2.0: Input should be less than 1"),
        ("05_training.warmup=-1", "0 or more"),
        ("05_training.seed=3", "05_training.seed cannot be set.*Write seeds: \\[3\\]"),
        ("05_training.dataset=avatars", "Write datasets: \\[avatars\\]"),
        ("05_training.data_root=/x", "CUNET_DATA=/x, which all read"),
        ("06_sampling.seed=-7", "'seed' of 06_sampling.py is -7; it needs a number that is 0 or more"),
        ("07_synthesis.samples=-5", "'samples' of 07_synthesis.py is -5"),
        ("07_synthesis.step_counts=[]", "at least one element"),
        ("07_synthesis.step_counts=[5,-1]", "elements that are 0 or more"),
        ("07_synthesis.models=[foo]", "07_synthesis asks for the model 'foo'"),
        ("10_ablations.discrete=foo", "10_ablations asks for the model 'foo'"),
    ],
)
def test_what_a_job_would_refuse_is_refused_before_the_first_starts(
    whole, setting, message, monkeypatch, tmp_path
):
    monkeypatch.setenv("CUNET_DATA", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=message):
        checked(setting)


def test_what_is_right_passes_and_a_notebooks_own_seed_wins(whole):
    plan = checked("06_sampling.seed=7", "05_training.warmup=0", "checkpoints=train")
    seeds = {job.notebook: job.parameters["seed"] for job in plan.jobs}
    assert seeds == dict.fromkeys(plan.profile.notebooks, 0) | {"06_sampling": 7}


def test_a_run_dir_among_a_notebooks_parameters_is_refused(tmp_path):
    with pytest.raises(InputError, match="run_dir.*--out"):
        notebook.execute(TINY / "01_first.py", tmp_path / "run", {"run_dir": "x"})


def content(run_dir) -> dict[str, tuple[str, int]]:
    """Digest and time of every file of a run, but for its lock."""
    files = [p for p in run_dir.rglob("*") if p.is_file() and ".locks" not in p.parts]
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def test_a_dry_run_with_another_profile_leaves_the_run_as_it_is(repository, monkeypatch):
    """Snakemake sees a copy that the new profile was applied to (test_chain has Snakemake's own answer)."""
    plan = chain.plan(profiles.load("tiny"), reproduce.folder("r"))
    chain.prepare(plan)
    for name in ("01_first", "12_last"):
        runs.Run(plan.run_dir, name).save_result({})
    before, seen = content(plan.run_dir), {}

    def look(command, plan, changed, dry_run, patience):
        seen.update(runs.results(plan.run_dir), folder=plan.run_dir, dry="--dry-run" in command)

    monkeypatch.setattr(reproduce, "_snakemake", look)
    path = profiles.folder() / "tiny.yaml"
    path.write_text("notebooks: {01_first: {count: 5}}\n")
    reproduce.reproduce("tiny", run="r", dry_run=True)
    assert content(plan.run_dir) == before
    assert set(seen) == {"01_first", "folder", "dry"} and seen["dry"] and not seen["folder"].exists()
    assert seen["folder"].parent == plan.run_dir.parent
    reproduce.reproduce("tiny", run="other", dry_run=True)
    assert sorted(p.name for p in (repository / "papermill_runs").iterdir()) == ["profiles", "r"]


@pytest.mark.parametrize("line", ["size: smoke", "name: other"])
def test_a_folder_with_the_run_of_another_profile_is_refused(repository, line):
    plan = chain.plan(profiles.load("tiny"), reproduce.folder("r"))
    chain.prepare(plan)
    runs.Run(plan.run_dir, "01_first").save_result({})
    before = content(plan.run_dir)
    path = profiles.folder() / "tiny.yaml"
    path.write_text(f"{line}\n{path.read_text()}")
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"papermill_runs/r is a run of a profile with .*--run NAME"):
            reproduce.reproduce("tiny", run="r", dry_run=dry_run)
    assert content(plan.run_dir) == before


def test_released_checkpoints_are_sources_of_each_notebook_that_reads_them(whole, tmp_path, monkeypatch):
    plan = checked()
    package = tmp_path / "cunet"
    (package / "assets" / "checkpoints").mkdir(parents=True)
    names = {"mnist-cunet-laptop-s0.json", "mnist-unet-laptop-s0-time.json", "mnist-cunet-smoke-s0.json"}
    for name in names:
        (package / "assets" / "checkpoints" / name).touch()
    monkeypatch.setattr(chain, "PACKAGE", package)
    read = {}
    for job in plan.jobs:
        read[job.name] = {path.name for path in dependencies.sources(plan, job)} & names
    assert read["01_ode_block"] == {"mnist-cunet-laptop-s0.json", "mnist-unet-laptop-s0-time.json"}
    assert read["05_training-mnist-cunet-s0"] == {"mnist-cunet-laptop-s0.json"}
    assert read["06_sampling"] == {"mnist-cunet-laptop-s0.json", "mnist-unet-laptop-s0-time.json"}


def test_jobs_run_this_checkouts_code_from_whatever_folder(tmp_path):
    """A copy of the checkout puts itself before the one that is installed."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "cunet", root / "cunet", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    code = "from cunet import chain, reproduce; print(reproduce.import_path())"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    environment = {**os.environ, "PYTHONPATH": done.stdout.strip()}
    code = "import cunet; print(cunet.__file__)"
    used = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert used.stdout.decode().strip() == str(root / "cunet" / "__init__.py"), done.stderr


def test_profiles_of_the_repository_pass_but_for_data_that_is_not_here():
    for name in ("smoke", "laptop", "reference"):
        chain.check(chain.plan(profiles.load(name), ROOT / "papermill_runs" / name))
    content = yaml.safe_load((profiles.folder() / "paper.yaml").read_text())
    assert "data_root" not in (content["notebooks"]["05_training"] or {})


def test_more_samples_than_real_images_to_hold_them_against_are_refused_before_anything_starts():
    asked = ["07_synthesis.best_samples=10001", "07_synthesis.reference_images=60000"]
    with pytest.raises(InputError, match="best_samples=10001 of mnist: .* there are 10000 of these"):
        chain.check(chain.plan(profiles.load("laptop", asked), reproduce.folder("none")))
    absent = chain.check(chain.plan(profiles.load("paper"), reproduce.folder("none")), data=False)
    assert isinstance(absent, list), (
        "30,000 samples of LSUN Church, whose 300 test images are not enough alone"
    )


def test_make_setup_looks_whether_the_installed_library_is_this_checkouts(tmp_path):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    code = next(line.removeprefix("HERE := ") for line in text.splitlines() if line.startswith("HERE"))
    shutil.copytree(
        ROOT / "cunet", tmp_path / "cunet", ignore=shutil.ignore_patterns("assets", "__pycache__")
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for folder, status in ((ROOT, 0), (tmp_path, 1)):
        done = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, env=environment)
        assert done.returncode == status
    assert "python -P -c '$(HERE)'" in text


def test_the_papers_profile_is_refused_without_its_data(monkeypatch, tmp_path):
    monkeypatch.setenv("CUNET_DATA", str(tmp_path / "empty"))
    plan = chain.plan(profiles.load("paper"), reproduce.folder("none"))
    with pytest.raises(InputError, match="CelebA was not found"):
        chain.check(plan)


EIGHT = ["gpus=8", "jobs=8", "shards=8", "05_training.devices=8"]


@pytest.mark.parametrize("settings", [[], pytest.param(EIGHT, marks=pytest.mark.long)])
def test_a_dry_run_lists_the_jobs_of_the_papers_profile_and_the_data_that_are_missing(
    monkeypatch, tmp_path, settings
):
    """By the command itself, and Snakemake: with nothing there, and with both data sets, made up."""
    monkeypatch.setenv("CUNET_ROOT", str(copied(tmp_path / "repository")))
    monkeypatch.setenv("CUNET_DATA", str(tmp_path / "data"))
    plan = chain.plan(profiles.load("paper", settings), reproduce.folder("paper"))
    names = {*(job.name for job in plan.jobs), *(Path(name).stem for name in plan.receipts), "report"}
    missing = {"img_align_celeba.zip", "church_outdoor"}
    for made in (False, True) if settings else (False,):
        if made:
            write_celeba(tmp_path / "data")
            write_lsun(tmp_path / "data")
            monkeypatch.setenv("PYTHONPATH", believing(tmp_path / "believe"))
        asked = [word for setting in settings for word in ("--set", setting)]
        done = call("reproduce", "--profile", "paper", "--dry-run", *asked)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        would = [line.split()[2].rstrip(":") for line in lines if line.startswith("would run ")]
        assert sorted(would) == sorted(names)
        absent = [line for line in lines if line.startswith("Not there yet: ")]
        assert {word for word in missing for line in absent if word in line} == (set() if made else missing)
        assert len(absent) == (0 if made else 2)
        assert "Nothing was run" in done.stdout and not plan.run_dir.exists()


WORDS = {"11_beyond": {"methods", "onnx"}}  # which the tiny form of the paper's profile has otherwise


def in_words(value) -> bool:
    """Whether a setting is a name, a choice or a list of such, and no number."""
    return isinstance(value, (str, bool)) or (isinstance(value, list) and any(map(in_words, value)))


def test_the_papers_rules_are_tried_with_all_that_its_profile_says():
    """What tiny counts may stand for: numbers of things, not data sets, networks or choices."""
    paper = profiles.load("paper")
    small = profiles.Profile(**small_paper(), name="paper")
    plans = [chain.plan(profile, reproduce.folder("none")) for profile in (paper, small)]
    whole, tiny = ({job.name: job.parameters for job in plan.jobs} for plan in plans)
    assert whole.keys() == tiny.keys(), "the same trainings, too"
    differ = {}
    for name, parameters in whole.items():
        stem = name.partition("-")[0]
        declared = declaration(chain.source(stem))
        one, other = declared | parameters, declared | tiny[name]
        keys = {key for key in one if one[key] != other[key] and (in_words(one[key]) or in_words(other[key]))}
        differ |= {stem: keys} if keys else {}
        assert set(paper.notebooks[stem]) <= set(small.notebooks[stem])
    assert differ == WORDS
    for key in ("precision", "accumulate", "schedule", "flip", "ema_decay", "learning_rate"):
        assert small.notebooks["05_training"][key] == paper.notebooks["05_training"][key]
    for key in ("checkpoints", "size", "datasets", "models", "seeds"):
        assert getattr(small, key) == getattr(paper, key)


def test_what_a_sweep_takes_is_written_with_seconds_shares_and_the_growth_of_the_graph():
    added = Added(100, 2, 1200.0, 9.5, 10.5)
    dry = [DryRun(100, 4.04, 3.9, 250.0), DryRun(1000, 21.0, 20.5, 400.26)]
    text = page(added, dry, "a machine", "today")
    lines = [line.strip("|").split("|") for line in text.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert ["100", "1200", "9.50 before, 10.50 after", "200", "2.00", "16.7%"] in rows
    assert [row for row in rows if row[0] == "1000"] == [["1000", "21", "20.5", "400.3"]]
    assert "SWEEP_JOBS=100" in text and "a machine" in text and "2 at once" in text
    readme = (ROOT / "papermill_runs" / "README.md").read_text(encoding="utf-8")
    assert SWEEPS.is_file() and SWEEPS.name in readme and "SWEEP_JOBS=100" in readme


def test_an_engine_is_a_folder_of_settings_and_its_jobs_say_what_they_need(monkeypatch):
    assert engines.find("slurm") == ROOT / "papermill_runs" / "executors" / "slurm"
    with pytest.raises(InputError, match="no engine 'slurn' .did you mean 'slurm'"):
        engines.find("slurn")
    with pytest.raises(InputError, match="cannot be named 'executors'"):
        reproduce.folder("executors")
    plan = chain.plan(profiles.load("smoke"), reproduce.folder("none"))
    command = engines.command(plan, 1, False, ["--jobs", "3"], engines.find("slurm"))
    assert "--cores" not in command and command[-2:] == ["--jobs", "3"]
    asked = dict(word.split("=") for word in command if ":mem_mb=" in word or ":runtime=" in word)
    rules = {name.partition(":")[0] for name in asked}
    assert rules == {f"notebook_{job.notebook}" for job in plan.jobs}
    assert all(int(value) >= 10 for value in asked.values())
    own = ["--set-resources", "notebook_05_training:runtime=9000", "--jobs", "3"]
    words = engines.command(plan, 1, False, own, engines.find("slurm"))
    assert words.count("--set-resources") == 1 and own[0] == "--set-resources" and len(own) == 4
    mine = [i for i, word in enumerate(words) if word.startswith("notebook_05_training:runtime=")]
    assert len(mine) == 2 and words[mine[1]].endswith("=9000")


@pytest.mark.parametrize(
    "settings, expected",
    [
        (["05_training.devices=8"], {"gpu": "8"}),
        (["05_training.devices=8", "05_training.num_nodes=2"], {"gres": "gpu:8", "nodes": "2"}),
    ],
)
def test_a_cluster_is_asked_for_the_gpus_of_a_rule_in_words_that_snakemake_reads(
    monkeypatch, settings, expected
):
    """On several machines by machine. (That Slurm hands them out is seen in tests/slurm.)"""
    from snakemake.cli import parse_set_resources

    sizes = {"macs": lambda network: 10**9, "depth_shares": lambda network, depths: depths}
    for name, made_up in sizes.items():  # large networks take long to build
        monkeypatch.setattr(work, name, made_up)
    monkeypatch.setattr(estimate, "parameters", lambda network: 10**6)
    monkeypatch.setattr(estimate, "modelled_memory", lambda *_: (0.0, 0.0))
    plan = chain.plan(profiles.load("paper", ["shards=2", *settings]), reproduce.folder("none"))
    words = engines.command(plan, 1, False, [], engines.find("slurm"))
    at = words.index("--set-resources") + 1
    told = list(itertools.takewhile(lambda word: not word.startswith("--"), words[at:]))
    rules = {f"notebook_{job.notebook}" for job in plan.jobs} | {"samples"}
    assert parse_set_resources(told).keys() == rules
    mine = dict(w.partition(":")[2].split("=") for w in told if w.startswith("notebook_05_training:"))
    assert {key: mine[key] for key in mine if key not in ("mem_mb", "runtime")} == expected
    assert "samples:gpu=1" in told and not [w for w in told if w.startswith("notebook_03_sde:g")]
