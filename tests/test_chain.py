"""The chain: what depends on what, and one command that makes a run, resumes it, and repeats nothing."""

import graphlib
import io
import os
import shutil
import signal
import time
import types
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import PARTS, ROOT, STOPS, call, copied, hit, parts, start, stopped, wait_for
from rich.console import Console

from cunet import chain, dependencies, processes, profiles, reproduce, runs
from cunet.checkpoint_names import besides
from cunet.errors import InputError

TRAINING = "05_training"


def prepared(settings: tuple[str, ...] = (), name: str = "tiny") -> chain.Plan:
    """Plan and prepare a run of the small repository."""
    plan = chain.plan(profiles.load(name, list(settings)), reproduce.folder("r"))
    chain.prepare(plan)
    return plan


@pytest.fixture
def training(repository):
    """The small repository with a training notebook, on two datasets, models and seeds."""
    text = (repository / "notebooks" / "01_first.py").read_text()
    more = 'dataset = "mnist"  # x\nmodel = "unet"  # x\ncheckpoints = "released"  # x\nseeds = [0]  # x\n'
    more += 'variant = ""  # x\n'
    text = text.replace("01_first", TRAINING).replace('names = ["a"]', more + 'names = ["a"]')
    (repository / "notebooks" / f"{TRAINING}.py").write_text(text)
    shutil.copy(repository / "notebooks" / "01_first.py", repository / "notebooks" / "06_sampling.py")
    profile = "datasets: [mnist, avatars]\nmodels: [unet, cunet]\nseeds: [3, 4]\n"
    profile += "notebooks: {12_last: , 06_sampling: {count: 1}, 05_training: {rate: 0.25}, 01_first: }\n"
    (profiles.folder() / "tiny.yaml").write_text(profile)
    return repository


def test_the_training_notebook_has_a_job_for_each_dataset_model_and_seed(training):
    plan = prepared()
    names = [job.name for job in plan.of(TRAINING)]
    assert len(names) == 8 and names[0] == "05_training-mnist-unet-s3" and len(set(names)) == 8
    job = plan.of(TRAINING)[-1]
    assert job.parameters == {
        **{"job": "05_training-avatars-cunet-s4", "profile": "tiny", "dataset": "avatars", "model": "cunet"},
        **{"seed": 4, "rate": 0.25, "checkpoints": "released", "seeds": [3, 4]},
    }


def test_what_a_notebooks_own_lines_ask_for_is_trained_too_and_where_networks_ship_it_is_not(training):
    path = training / "notebooks" / "06_sampling.py"
    more = 'checkpoints = "released"  # x\nmodels = ["unet"]  # x\nseeds = [0]  # x\nnames = ["a"]'
    path.write_text(path.read_text().replace('names = ["a"]', more))
    lines = ("06_sampling.models=[cunet,cunet-nores]", "06_sampling.seeds=[4,5]")
    plain = {job.name for job in prepared(lines).of(TRAINING)}
    plan = prepared(("checkpoints=train", *lines))
    names = [job.name for job in plan.of(TRAINING)]
    assert len(plain) == 8 and plain < set(names) and len(set(names)) == len(names)
    added = {("cunet", 5), ("cunet-nores", 4), ("cunet-nores", 5)}
    expected = {f"{TRAINING}-{d}-{m}-s{s}" for d in ("mnist", "avatars") for m, s in added}
    assert set(names) - plain == expected
    assert set(plan.of("06_sampling")[0].needs) == set(names)
    assert chain.load(plan.run_dir) == plan
    with pytest.raises(InputError, match="'models' of 06_sampling.py is 'cunet'"):
        prepared(("checkpoints=train", "06_sampling.models=cunet"))


def test_further_networks_and_those_that_are_told_classes_are_trained_where_a_notebooks_lines_name_them(
    training,
):
    path = training / "notebooks" / "06_sampling.py"
    more = 'datasets = ["mnist"]  # x\nfurther = ["cunet-nores"]  # x\nguided_datasets = ["mnist"]  # x\n'
    path.write_text(
        path.read_text().replace('names = ["a"]', more + 'guided_models = ["unet"]  # x\nnames = ["a"]')
    )
    train = "checkpoints=train"
    plain = {job.name for job in prepared((train,)).of(TRAINING)}
    lines = (
        "06_sampling.further=[cunet-randomdepth]",
        "06_sampling.guided_datasets=[avatars,landscapes,mnist]",
    )
    added = {job.name for job in prepared((train, *lines)).of(TRAINING)} - plain
    names = ("mnist-cunet-randomdepth", "avatars-unet@classes+4", "mnist-unet@classes+10")
    assert len(plain) == 8 and added == {f"{TRAINING}-{name.replace('@', '+')}-s3" for name in names}, (
        "landscapes have no classes"
    )
    assert len(prepared(lines).of(TRAINING)) == len(prepared().of(TRAINING)), "where networks ship, none"
    for line in ("guided_datasets=[avatras]", "guided_models=[unte]"):
        with pytest.raises(InputError, match="did you mean '(avatars|unet)'"):
            chain.check(prepared((train, f"06_sampling.{line}")))


def test_what_a_notebook_asks_for_besides_its_models_is_said_once_for_the_chain_and_the_estimate():
    of = {"datasets": ["mnist", "avatars"], "further": ["cunet-randomdepth"]}
    of |= {"guided_datasets": ["avatars"], "guided_models": ["unet"]}
    deep, told = ("mnist", "cunet-randomdepth"), ("avatars", "unet@classes=4")
    assert besides(of) == [deep, told], "further ones are of the first data set"
    assert besides(of | {"further": "cunet"}) == [told] and besides(of | {"datasets": 3}) == [told]
    assert besides({}) == []


def test_released_networks_that_are_not_there_are_left_out_by_name(training, tmp_path, monkeypatch):
    (tmp_path / "cunet" / "assets" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(chain, "PACKAGE", tmp_path / "cunet")
    for name in ("mnist-unet-laptop-s3", "mnist-cunet-laptop-s3", "mnist-unet-laptop-s4-time"):
        (chain.PACKAGE / "assets" / "checkpoints" / f"{name}.safetensors").touch()
    plan = prepared()
    there = ["05_training-mnist-unet-s3", "05_training-mnist-cunet-s3"]
    assert [job.name for job in plan.of(TRAINING)] == there and chain.load(plan.run_dir) == plan
    assert set(plan.of("06_sampling")[0].needs) == set(there)
    out = chain.left_out(plan.profile)
    assert len(out) == 6 and {"mnist-unet-laptop-s4", "avatars-cunet-laptop-s3"} <= set(out)
    trained = prepared(("checkpoints=train",))
    assert len(trained.of(TRAINING)) == 8 and not chain.left_out(trained.profile)
    plan = prepared(("05_training.variant=time",))
    assert [job.name for job in plan.of(TRAINING)] == ["05_training-mnist-unet-s4"]
    out = chain.left_out(plan.profile)
    assert len(out) == 7 and "mnist-unet-laptop-s3-time" in out, "by the whole name"


def test_jobs_wait_for_what_they_need_and_come_in_the_notebooks_order(training):
    plan = prepared()
    needs = {job.name: set(job.needs) for job in plan.jobs}
    trained = {job.name for job in plan.of(TRAINING)}
    assert needs["01_first"] == set() and all(needs[name] == set() for name in trained)
    assert needs["06_sampling"] == trained
    assert needs["12_last"] == {"01_first", "06_sampling"} | trained
    assert [job.notebook for job in plan.jobs] == sorted(job.notebook for job in plan.jobs)
    assert plan.of("06_sampling")[0].parameters == {
        "job": "06_sampling",
        "profile": "tiny",
        "seed": 3,
        "count": 1,
    }


@pytest.mark.parametrize("size, label", [("smoke", "smoke"), ("laptop", "tiny")])
def test_a_run_with_networks_of_the_size_smoke_is_one_whatever_its_profile_is_called(repository, size, label):
    plan = prepared((f"size={size}",))
    assert plan.profile.name == "tiny" and {job.parameters["profile"] for job in plan.jobs} == {label}


def test_what_is_prepared_is_what_is_loaded_whatever_is_released_meanwhile(training, tmp_path, monkeypatch):
    there = tmp_path / "cunet" / "assets" / "checkpoints"
    there.mkdir(parents=True)
    (there / "mnist-unet-laptop-s3.safetensors").touch()
    monkeypatch.setattr(chain, "PACKAGE", tmp_path / "cunet")
    plan = prepared()
    assert chain.load(plan.run_dir) == plan
    (there / "avatars-cunet-laptop-s3.safetensors").touch()
    assert len(chain.plan(plan.profile, plan.run_dir).of(TRAINING)) == 2, "which is another plan"
    assert chain.load(plan.run_dir) == plan
    assert len(prepared().of(TRAINING)) == 2, "until the run is started again"


@pytest.mark.parametrize(
    "spoil", [bytes.upper, lambda text: text[:-9], lambda text: b"[1]", lambda text: b"\xff"]
)
def test_a_plan_that_is_damaged_is_refused_and_prepared_anew(repository, spoil):
    plan = prepared()
    path = plan.run_dir / chain.PLAN
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match="papermill_runs/r/plan.json is damaged"):
        chain.load(plan.run_dir)
    assert chain.load(prepared().run_dir) == plan
    path.unlink()
    with pytest.raises(InputError, match="prepared by an earlier version.*--profile and --set"):
        chain.load(plan.run_dir)
    (plan.run_dir / "profile.yaml").unlink()
    with pytest.raises(InputError, match="not a prepared run"):
        chain.load(plan.run_dir)


def test_parameters_files_change_only_when_their_content_does(training):
    plan = prepared()
    files = sorted((plan.run_dir / "params").iterdir())
    for path in files:
        os.utime(path, (1, 1))
    prepared(("06_sampling.count=9",))
    assert [path.stem for path in files if path.stat().st_mtime != 1] == ["06_sampling"]


def test_results_that_the_profile_no_longer_makes_are_put_aside(training):
    plan = prepared()
    runs.Run(plan.run_dir, "05_training-mnist-unet-s4").save_result({})
    runs.Run(plan.run_dir, "01_first").save_result({})
    prepared(("seeds=[3]",))
    assert set(runs.results(plan.run_dir)) == {"01_first"}
    assert (plan.run_dir / "aside" / "05_training-mnist-unet-s4.json").is_file()


def test_a_profile_that_asks_for_a_missing_notebook_is_refused(repository):
    (repository / "notebooks" / "01_first.py").rename(repository / "notebooks" / "01_firsts.py")
    with pytest.raises(
        InputError, match="'01_first' \\(did you mean '01_firsts'\\?\\), which is not in notebooks"
    ):
        prepared()


def test_a_wrong_parameter_is_refused_before_anything_is_written(repository):
    with pytest.raises(InputError, match="'cuont' is not a parameter of 01_first.py"):
        prepared(("01_first.cuont=3",))
    assert not reproduce.folder("r").exists()


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "/x", "..", "-x", "profiles", "measured", "reference", "reference_bench", ".git", ""]
    + ["my run", " x", "it's", 'a"b', "é", "名", "a;b", "$HOME", "a\nb", "x\n", "x\0", "x" * 122],
)
def test_names_of_runs_stay_in_their_folder(repository, name):
    """Spaces, quotes and letters beyond ASCII are refused, too: a name is part of paths and marks."""
    with pytest.raises(InputError, match="run"):
        reproduce.folder(name)


def test_released_checkpoints_are_sources_of_trainings_that_read_them(training, tmp_path, monkeypatch):
    package = tmp_path / "cunet"
    (package / "assets" / "checkpoints").mkdir(parents=True)
    for name in ("mnist-unet-laptop-s3", "mnist-unet-laptop-s3-time", "mnist-unet-laptop-s4"):
        (package / "assets" / "checkpoints" / f"{name}.safetensors").touch()
    monkeypatch.setattr(chain, "PACKAGE", package)
    for setting, count in [("checkpoints=released", 2), ("checkpoints=train", 0)]:
        plan = prepared((setting,))
        sources = dependencies.sources(plan, plan.of(TRAINING)[0])
        assert sum(path.suffix == ".safetensors" for path in sources) == count
        assert not any("-s4" in path.name for path in sources)


def test_released_networks_of_a_further_list_are_sources_too(training, tmp_path, monkeypatch):
    package = tmp_path / "cunet"
    (package / "assets" / "checkpoints").mkdir(parents=True)
    for name in ("mnist-unet@classes=10-laptop-s0", "mnist-cunet-laptop-s0"):
        (package / "assets" / "checkpoints" / f"{name}.safetensors").touch()
    monkeypatch.setattr(chain, "PACKAGE", package)
    plan = prepared(("checkpoints=released",))
    (job,) = plan.of("06_sampling")
    source = training / "notebooks" / "06_sampling.py"
    source.write_text(source.read_text() + "\nfolder = store.ASSETS\n")
    of = dict(datasets=["mnist"], models=["unet"], further=["unet@classes=10"], seeds=[0], size="laptop")
    found = [p for p in dependencies.sources(plan, replace(job, parameters=of)) if p.suffix == ".safetensors"]
    assert [path.name for path in found] == ["mnist-unet@classes=10-laptop-s0.safetensors"]


def test_a_list_of_sources_is_written_anew_when_the_content_of_one_changes_and_not_else(training):
    plan = prepared()
    assert dependencies.record(plan) == {}, "there was none yet"
    lists = {path: path.stat().st_mtime_ns for path in (plan.run_dir / "params").glob("*.sources")}
    assert {path.stem for path in lists} == {*(job.name for job in plan.jobs), "report"}
    (plan.run_dir / "params" / "gone.sources").touch()
    source = training / "notebooks" / "06_sampling.py"
    source.touch()
    assert dependencies.record(plan) == {}
    assert {path: path.stat().st_mtime_ns for path in (plan.run_dir / "params").glob("*.sources")} == lists
    known = source.stat()
    source.write_text(source.read_text() + "# edited\n")
    os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert dependencies.record(plan) == {"06_sampling": ["notebooks/06_sampling.py"]}
    newer = [path.stem for path, written in lists.items() if path.stat().st_mtime_ns > written]
    assert newer == ["06_sampling"]


def test_shards_wait_for_the_networks_and_the_notebook_for_the_shards(training):
    text = (training / "notebooks" / "06_sampling.py").read_text()
    (training / "notebooks" / "07_synthesis.py").write_text(text)
    assert not prepared(("shards=3",)).receipts, "without notebook 07 there is nothing to share"
    profile = profiles.folder() / "tiny.yaml"
    profile.write_text(profile.read_text().replace("notebooks: {", "notebooks: {07_synthesis: , "))
    assert not prepared().receipts
    plan = prepared(("shards=3",))
    assert len(plan.receipts) == 3 and len(set(plan.receipts)) == 3
    (job,) = plan.of("07_synthesis")
    assert set(plan.receipts) < set(dependencies.inputs(plan, job))
    assert not set(plan.receipts) & set(dependencies.inputs(plan, plan.of("06_sampling")[0]))
    wait = dependencies.shard_inputs(plan)
    assert {f"results/{name}.json" for name in job.needs} | {"params/07_synthesis.yaml"} < set(wait)
    sources = {path.name for path in dependencies.shard_sources(plan)}
    assert {"shard_job.py", "shards.py", "synthesis.py", "sampling.py", "07_synthesis.py"} < sources


def test_shards_depend_on_the_released_networks_that_they_sample(tmp_path, monkeypatch):
    there = tmp_path / "cunet" / "assets" / "checkpoints"
    there.mkdir(parents=True)
    names = {"mnist-cunet-laptop-s0.json", "mnist-unet-laptop-s0.safetensors"}
    for name in (*names, "mnist-unet-smoke-s0.json", "mnist-dncnn-laptop-s0.json"):
        (there / name).touch()
    monkeypatch.setattr(chain, "PACKAGE", tmp_path / "cunet")
    monkeypatch.setattr(dependencies, "modules", lambda path: [])
    for setting, expected in (("released", names), ("train", set())):
        settings = ["shards=2", f"checkpoints={setting}"]
        plan = chain.plan(profiles.load("laptop", settings), tmp_path / "run")
        sources = dependencies.shard_sources(plan)
        assert {path.name for path in sources if "assets" in path.parts} == expected


def test_each_profile_of_the_repository_is_valid_for_its_notebooks():
    names = sorted(path.stem for path in profiles.folder().glob("*.yaml"))
    assert names == ["laptop", "paper", "reference", "smoke"]
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    for name in names:
        plan = chain.plan(profiles.load(name), ROOT / "papermill_runs" / name)
        assert {job.notebook for job in plan.jobs} == notebooks, f"profile {name}"


def test_no_notebook_waits_for_itself_through_others():
    order = list(graphlib.TopologicalSorter(chain.NEEDS).static_order())
    assert order[-1] == "00" and order.index("05") < order.index("07") < order.index("12")


def mtimes(run_dir) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (run_dir / "results").glob("*.json")}


def test_a_second_call_runs_nothing_and_an_edit_only_what_depends_on_it(repository):
    run_dir = repository / "papermill_runs" / "tiny"
    done = call("reproduce", "--profile", "tiny")
    assert done.returncode == 0, done.stderr
    last = "Results are in papermill_runs/tiny; open papermill_runs/tiny/report/index.html"
    assert done.stdout.splitlines()[-1] == last and "done 12_last" in done.stderr
    assert len(runs.result(run_dir, "01_first")["values"]["draws"]) == 2
    assert runs.result(run_dir, "12_last")["values"]["jobs"] == ["01_first"]
    assert (run_dir / "report" / "notebooks" / "12_last.html").is_file()
    first = mtimes(run_dir)

    for path in [*(repository / "notebooks").iterdir(), *(run_dir / "params").iterdir()]:
        path.touch()  # as a fresh checkout would: only content counts
    os.utime(repository / "notebooks" / "01_first.py", (time.time() + 86_400,) * 2)  # nor a clock ahead
    again = call("reproduce", "--profile", "tiny")
    assert "Nothing to do" in again.stderr and mtimes(run_dir) == first

    path = repository / "notebooks" / "12_last.py"
    path.write_text(path.read_text() + "# edited\n")
    os.utime(path, (0, 0))  # nor a copy that kept its time
    planned = call("reproduce", "--profile", "tiny", "--dry-run").stderr
    assert "would run 12_last" in planned and "01_first" not in planned and mtimes(run_dir) == first
    assert "(changed: notebooks/12_last.py)" in planned
    assert call("reproduce", "--profile", "tiny").returncode == 0
    edited = mtimes(run_dir)
    assert edited["01_first"] == first["01_first"] and edited["12_last"] > first["12_last"]

    assert call("reproduce", "--profile", "tiny", "--set", "01_first.count=3").returncode == 0
    assert all(mtimes(run_dir)[name] > edited[name] for name in edited)


def test_the_bar_says_how_many_jobs_a_minute_and_how_long_it_takes_yet():
    """Also where none ended in the last half a minute, which is as far back as rich looks by itself."""
    board = reproduce._Board(types.SimpleNamespace(jobs=[], receipts=[]), {}, dry_run=False)
    shown = Console(file=io.StringIO(), width=200)
    for at, line in ((0.0, "total  7"), (100.0, "1 of 7 steps (14%)"), (220.0, "2 of 7 steps (29%) done")):
        board.progress.get_time = lambda at=at: at
        board.line(line)
    shown.print(board.progress.get_renderable())
    text = shown.file.getvalue()
    assert "2/6" in text and "0.5 jobs a minute" in text and "left 0:08:00" in text


def test_a_failed_job_is_explained_and_the_same_command_goes_on(repository):
    path = repository / "notebooks" / "12_last.py"
    whole = path.read_text()
    path.write_text(whole + "raise ValueError('too | bad')\n")
    failed = call("reproduce", "--profile", "tiny")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "12_last: The notebook failed in cell 7: ValueError: too | bad." in failed.stderr
    assert (repository / "papermill_runs" / "tiny" / "logs" / "12_last.ipynb").is_file()
    before = mtimes(repository / "papermill_runs" / "tiny")
    assert set(before) == {"01_first"}
    path.write_text(whole)
    assert call("reproduce", "--profile", "tiny").returncode == 0
    assert mtimes(repository / "papermill_runs" / "tiny")["01_first"] == before["01_first"]


def sleeping(repository):
    """Start a chain whose first job sleeps; returns it and the kernel, once that is there."""
    process = start("reproduce", "--profile", "tiny", "--set", "01_first.action=sleep")
    kernels = wait_for(lambda: parts(own(repository)).get("kernel"), "a kernel")
    return process, kernels


def own(repository) -> list[psutil.Process]:
    return processes.marked(reproduce.RUN, str(repository / "papermill_runs" / "tiny"))


def test_a_second_command_is_refused_and_sigterm_stops_the_first_with_all_it_started(repository):
    process, _ = sleeping(repository)
    second = call("reproduce", "--profile", "tiny")
    assert second.returncode == 2 and f"Run 'tiny' is being made by process {process.pid} on" in second.stderr
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert not own(repository)
    assert process.returncode == 128 + signal.SIGTERM and "The same command resumes" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_stops_a_chain_within_5_s_and_says_how_to_go_on(repository, faults, measured, number):
    faults.hit()
    status, said, seconds = stopped(lambda: sleeping(repository)[0], number)
    assert not own(repository)
    assert status == 128 + number and "The same command resumes" in said
    measured(f"a chain of small notebooks stopped {seconds:.1f} s after {number.name}")
    assert seconds <= STOPS
    faults.survived()


def train_first(repository) -> Path:
    """Have the first notebook train a network before all else; returns the file of the training's state."""
    notebook = repository / "notebooks" / "01_first.py"
    before, run, after = notebook.read_text().partition("run = runs.Run.open(globals())\n")
    recipe = dict(model="cunet", size="smoke", images=128, batch_size=4, validate_every=0, checkpoint_every=1)
    train = f"from cunet import devices, recipe\n\ndevices.run(recipe.configure({recipe}), run.checkpoints)\n"
    notebook.write_text(before + run + train + after)
    profile = repository / "papermill_runs" / "profiles" / "tiny.yaml"
    profile.write_text(f"jobs: {processes.cores()}\n{profile.read_text()}")  # so that each job has one thread
    return repository / "papermill_runs" / "tiny" / "checkpoints" / "mnist-cunet-smoke-s0.state.json"


@pytest.mark.parametrize("victim", ["reproduce", *PARTS])
def test_after_kill_9_of_any_part_the_same_command_finishes_and_orphans_are_gone(repository, faults, victim):
    state = train_first(repository) if victim == "training" else None
    process, kernels = sleeping(repository)
    if state:
        wait_for(state.is_file, "a saved step")
    killed = parts(own(repository))[victim] if victim in PARTS else [psutil.Process(process.pid)]
    for one in killed:
        assert hit(one)
        faults.hit()
    process.communicate(timeout=300)
    assert process.returncode != 0
    done = call("reproduce", "--profile", "tiny")
    assert done.returncode == 0, done.stderr
    assert set(mtimes(repository / "papermill_runs" / "tiny")) == {"01_first", "12_last"}
    assert not any(processes.running(one) for one in (*kernels, *killed)) and not own(repository)
    assert state is None or state.with_name("mnist-cunet-smoke-s0.safetensors").is_file()
    faults.survived()


def test_two_runs_at_once_both_finish(repository):
    both = [start("reproduce", "--profile", "tiny", "--run", name) for name in ("one", "two")]
    for process in both:
        _, said = process.communicate(timeout=1000)
        assert process.returncode == 0, said
    values = [
        runs.result(repository / "papermill_runs" / name, "01_first")["values"] for name in ("one", "two")
    ]
    assert values[0] == values[1]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke chain of this repository, made once, in a copy of what the chain reads."""
    root = copied(tmp_path_factory.mktemp("smoke"))
    with processes.environment(CUNET_ROOT=str(root)):
        done = call("reproduce", "--profile", "smoke", timeout=3400)
    assert done.returncode == 0, done.stderr
    return root / "papermill_runs" / "smoke"


@pytest.mark.first
@pytest.mark.timeout(3600)
def test_the_smoke_chain_makes_every_notebook_and_says_that_its_numbers_mean_nothing(smoke):
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    results = runs.results(smoke)
    assert {result["notebook"] for result in results.values()} == notebooks
    assert {result["profile"] for result in results.values()} == {"smoke"}
    page = (smoke / "report" / "index.html").read_text(encoding="utf-8")
    assert "its numbers mean nothing" in page
    for name, result in results.items():
        assert f'id="{name}"' in page
        for figure in result["outputs"]["figures"]:
            assert {".png", ".pdf"} == {path.suffix for path in (smoke / "figures").glob(f"{figure}.*")}


@pytest.mark.first
@pytest.mark.timeout(3600)
def test_the_smoke_chain_made_again_runs_nothing_and_an_edit_only_what_depends_on_it(smoke):
    root = smoke.parents[1]
    with processes.environment(CUNET_ROOT=str(root)):
        before = mtimes(smoke)
        again = call("reproduce", "--profile", "smoke")
        assert "Nothing to do" in again.stderr and mtimes(smoke) == before
        edited = sorted((root / "notebooks").glob("0[1-4]_*.py"))[0]
        edited.write_text(edited.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
        said = call("reproduce", "--profile", "smoke", "--dry-run").stderr
    would = {line.split()[2].rstrip(":") for line in said.splitlines() if line.startswith("would run")}
    assert would == {edited.stem, "report", "12_scorecard", "00_start_here"}


def test_the_profiles_readme_lists_every_line_that_a_profile_may_have():
    text = (ROOT / "papermill_runs" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in profiles.Profile.model_fields)
    assert all(f"`{path.stem}`" in text for path in profiles.folder().glob("*.yaml"))
    for name in ("smoke", "laptop"):
        assert yaml.safe_load((profiles.folder() / f"{name}.yaml").read_text())["description"]
