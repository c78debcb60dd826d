"""Faults on purpose: what README.md of this folder promises for each. The long forms are marked `long`."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
from conftest import PARTS, ROOT, TINY, call, copied, hit, mutate, parts, start, wait_for, words
from dangers import dangers
from matplotlib.figure import Figure

from cunet import (
    checkpoints,
    datasets,
    denoiser_state,
    denoisers,
    drawn,
    metrics,
    models,
    photos,
    processes,
    reproduce,
    resume,
    run_outputs,
    runs,
    sampling,
    scorecard,
    shards,
    storage,
    training,
)
from cunet.denoising import denoise
from cunet.diffusion import Diffusion
from cunet.errors import InputError

FIRST = TINY / "01_first.py"


# --------------------------------------------------------------------------------------- no code from data


SOURCES = sorted([*(ROOT / "cunet").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_module_turns_data_into_code(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


def test_the_one_yaml_loader_makes_no_objects():
    import yaml

    from cunet import parameters

    assert issubclass(parameters._Loader, yaml.SafeLoader)


# ------------------------------------------------------------------------------------------ damaged files


class Stored:
    """A kind of file: where it is, how it is loaded, and whether a damaged one is made again."""

    def __init__(self, files, load, rebuilt=False):
        self.files, self.load, self.rebuilt = files, load, rebuilt


# each is made twice: `number` 1 is another file of the same kind, whose content is put in the place of 0's


def checkpoint(folder: Path, number: int) -> Stored:
    path = folder / "mnist-cunet-smoke-s0.safetensors"
    checkpoints.save(path, models.build("cunet", "smoke", 1), {"dataset": "mnist", "seed": 0})

    def load():
        network, card = checkpoints.load(path)
        return {**network.state_dict(), "card": card["card_sha256"]}

    return Stored([path, path.with_suffix(".json")], load)


def training_state(folder: Path, number: int) -> Stored:
    config = training.configure(
        {"size": "smoke", "model": "unet", "images": 32, "batch_size": 16, "validate_every": 0}
    )
    path = folder / f"{config.name}.safetensors"
    fabric, stop = training.start_fabric(config), training.Signals()
    run = training.Training(config, path, fabric, stop)
    for _ in range(1 + number):
        run.train_step()
    resume.save(run)
    state = resume.state_path(path)
    again = training.Training(config, path, fabric, stop)

    def load():
        resume.restore(again)
        return {"step": again.step, **again.network.state_dict()}

    return Stored([state, state.with_suffix(".json")], load)


def result(folder: Path, number: int) -> Stored:
    job = ("01_first", "12_last")[number]
    runs.Run(folder, job, parameters={"seed": 0}).save_result(
        {"fd": [12.5, 0.1], "n": 500}, [dict(id="C01", measured="x", value=0.25)]
    )
    path = folder / "results" / f"{job}.json"
    return Stored([path], lambda: runs.result_file(path))


def outputs(folder: Path, number: int) -> Stored:
    run = runs.Run(folder, "04_networks")
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([number, 1])
    run.save_figure(figure, "fig04_line")
    run.save_table(pd.DataFrame({"fd": [12.5 + number]}), "tab01_fd")
    run.save_table(scorecard.scorecard([]).assign(id=str(number)), runs.SCORECARD)
    run.save_result({})
    files = [run.run_dir / name for name in runs.results(folder)["04_networks"]["outputs"]["sha256"]]

    def load():
        run_outputs.results(folder)
        table = run_outputs.table(folder, "tab01_fd"), run_outputs.markdown_table(folder, "tab01_fd")
        figure = run_outputs.picture(folder, "fig04_line").read_bytes()
        return {"table": table, "figure": figure, "card": run_outputs.card(folder).to_csv()}

    return Stored(files, load)


def features(folder: Path, number: int) -> Stored:
    images = torch.randint(0, 256, (3, 1, 16, 16)).to(torch.uint8)
    dataset = datasets.ImageDataset("x", "train", images)
    metrics.dataset_features(dataset, cache=folder)
    return Stored([*folder.iterdir()], lambda: {"f": metrics.dataset_features(dataset, cache=folder)}, True)


def photographs(folder: Path, number: int) -> Stored:
    from PIL import Image

    for index in range(3):
        Image.new("RGB", (20, 30), (index, 90 + number, 200)).save(folder / f"{index}.png")
    found = photos.folder(folder, "train")
    load = lambda: {"p": photos.decode(found, 16, folder / "cache", "x")}  # noqa: E731
    load()
    return Stored([*(folder / "cache").iterdir()], load, rebuilt=True)


def scores(folder: Path, number: int) -> Stored:
    images, diffusion = torch.rand(2, 1, 16, 16), Diffusion(timesteps=4)

    def load():
        done = denoise(lambda x, t: 0.1 * x, images, diffusion, [2], metrics=["psnr"], resume=folder)
        return {"psnr": done["mean", 2].scores["psnr"]}

    load()
    return Stored([*folder.iterdir()], load, rebuilt=True)


def denoiser_training_state(folder: Path, number: int) -> Stored:
    path = folder / "mnist-autoencoder-smoke-s0.safetensors"

    def state() -> denoiser_state.State:
        network = denoisers.build("autoencoder", "smoke", 1)
        return denoiser_state.State(path, network, torch.optim.Adam(network.parameters()), {"recipe": {}})

    def load():
        found = state()
        moments = found.adam.state_dict()["state"]
        named = {f"{i}.{key}": value for i, of in moments.items() for key, value in of.items()}
        return {"step": found.step, "curve": found.curve, **named, **found.network.state_dict()}

    training = state()
    for _ in range(1 + number):
        training.network(torch.rand(2, 1, 16, 16)).sum().backward()
        training.adam.step()
        training.step += 1
    training.save()
    return Stored([training.path, training.path.with_suffix(".json")], load)


def drawn_data_set(folder: Path, number: int) -> Stored:
    name = ("avatars", "landscapes")[number]
    path = drawn.build(name, folder, {"train": 3, "test": 2}, workers=1, progress=False)

    def load():
        images = {(s, side): drawn.load(path, s, side) for s in ("train", "test") for side in (64, 32)}
        return {key: torch.from_numpy(value) for key, value in images.items()} | drawn.read_card(path)

    return Stored([path, path.with_suffix(".json")], load)


def block_of_samples(folder: Path, number: int) -> Stored:
    """Of two sets of one network, by different samplers."""
    network, diffusion = models.build("unet", "smoke", 1), Diffusion(timesteps=4)
    path = folder / "mnist-unet-smoke-s0.safetensors"
    card = {"dataset": "mnist", "seed": 0, "variant": "", "diffusion": diffusion.settings()}
    checkpoints.save(path, network, card)
    which = shards.Samples(path, ("ddim", "ddpm")[number], 2, 0, 3)

    def load():
        shards.make(which, folder, network, diffusion)
        return {"features": shards.features(which, folder), "pixels": shards.pixels(which, folder)[:]}

    load()
    return Stored(sorted(which.folder(folder).iterdir()), load, rebuilt=True)


KINDS = (
    *(checkpoint, training_state, denoiser_training_state, result, outputs, drawn_data_set),
    *(features, photographs, scores, block_of_samples),
)
TOLERANT = (result, drawn_data_set)  # what is read of them is hashed, and not each byte of the file


def same(a: dict, b: dict) -> bool:
    """Whether two loads gave the same, to the bit."""
    equal = lambda x, y: torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y  # noqa: E731
    return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:The cache")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.long)])
def test_a_damaged_file_is_refused_by_name_or_made_again(tmp_path, bomb, faults, kind, count):
    folders = [tmp_path / name for name in ("files", "others")]
    for folder in folders:
        folder.mkdir()
    (stored, other), draw = (kind(folder, number) for number, folder in enumerate(folders)), random.Random(7)
    good, originals = stored.load(), {path: path.read_bytes() for path in stored.files}
    others = dict(zip(stored.files, (path.read_bytes() for path in other.files), strict=True))
    for number in range(count):
        victim = stored.files[number % len(stored.files)]
        bad = originals[victim]
        while bad == originals[victim]:  # a byte may be overwritten with itself
            bad = mutate(originals[victim], draw, others[victim])
        with faults.one():
            victim.write_bytes(bad)
            if stored.rebuilt:
                assert same(stored.load(), good), f"mutation {number}"
            else:
                try:
                    loaded = stored.load()
                except InputError as error:
                    assert victim.stem.split(".")[0] in str(error)
                else:  # a space more or less, say
                    assert kind in TOLERANT and same(loaded, good), f"mutation {number} loaded silently"
        for path, data in originals.items():
            path.write_bytes(data)
    assert same(stored.load(), good) and not bomb.exists()
    assert faults.counts == [count, count]


def test_a_cache_from_another_folder_is_made_again(tmp_path):
    """Blocks of two sets of samples have the same names: the folder says whose they are."""
    files = [tmp_path / name / "0-512-features.safetensors" for name in ("set-a", "set-b")]
    for number, file in enumerate(files):
        storage.keep(file, torch.full((4, 2), float(number)))
    files[0].write_bytes(files[1].read_bytes())
    with pytest.warns(UserWarning, match="its folder's name is not the one that was hashed"):
        assert storage.kept(files[0]) is None
    (tmp_path / "set-b").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "elsewhere").parent.mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "run" / "set-b")
    assert storage.kept(tmp_path / "run" / "set-b" / files[1].name) is not None, "a run may be moved"


def test_what_was_read_from_a_cache_does_not_change_with_its_file(tmp_path):
    path, tensor = tmp_path / "x.safetensors", torch.arange(5000)
    storage.keep(path, tensor)
    read = storage.kept(path)
    path.write_bytes(b"")
    assert torch.equal(read, tensor)


# ---------------------------------------------------------------------------------------- numbers gone bad


def test_distances_say_how_many_images_are_too_few():
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    with pytest.raises(InputError, match="4 real and 1 generated images; a covariance needs two"):
        metrics.frechet_distance(images, images[:1])
    assert "4 images for 256 features" in metrics.frechet_distance(images, images).note
    with pytest.raises(InputError, match="4 real and 3 generated images; expected more of each"):
        metrics.precision_recall(images, images[:3])


# -------------------------------------------------------------------------------------- poor surroundings


def test_without_a_network_everything_that_ships_works(monkeypatch):
    def cut(*_):
        pytest.fail("something asked for the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, cut)
    monkeypatch.setattr(socket, "getaddrinfo", cut)
    digits = datasets.load("mnist", "test", 16).batch(slice(0, 4))
    assert metrics.lpips(digits[:2], digits[2:]).isfinite().all()
    assert metrics.features(digits).shape == (4, 256)
    network = models.build("cunet", "smoke", 1)
    assert sampling.sample(network, 1, Diffusion(), steps=2).isfinite().all()


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    """A file system of its own at `folder`; skips the test where this user may not mount one."""
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_on_a_full_disk_the_old_checkpoint_stays_and_nothing_is_half_written(tmp_path, faults):
    network = models.build("unet", "smoke", 1)
    with mounted(tmp_path / "small", "-o", "size=1m") as disk:
        storage.write(disk / "x.safetensors", {"w": torch.zeros(9)}, {"step": 1})
        before = sorted(path.name for path in disk.iterdir())
        filler = disk / "filler"
        filler.write_bytes(bytes(2**20 - 3 * 4096 - sum(p.stat().st_size for p in disk.iterdir())))
        with faults.one():
            with pytest.raises(
                InputError, match="No space left on device.*What was there before is unchanged"
            ):
                checkpoints.save(disk / "x.safetensors", network, {})
            filler.unlink()
            assert storage.read(disk / "x.safetensors")[1]["step"] == 1
            assert sorted(path.name for path in disk.iterdir()) == before
        with faults.one():
            config = training.configure({"size": "smoke", "model": "unet", "images": 64})
            with pytest.raises(InputError, match="MiB free, but training .* needs"):
                training.train(config, disk / "run", progress=False)
            assert [p.name for p in (disk / "run").iterdir()] == [f".{config.name}.lock"]


def test_data_sets_that_have_no_room_are_refused_before_they_are_decoded_or_drawn(
    tmp_path, faults, monkeypatch
):
    from PIL import Image

    for index in range(10):
        Image.new("RGB", (20, 30), (index, 90, 200)).save(tmp_path / f"{index}.png")
    found = photos.folder(tmp_path, "train")
    with mounted(tmp_path / "small", "-o", "size=16k") as disk:
        monkeypatch.setattr(photos, "_square", None)
        monkeypatch.setattr(drawn, "_render_all", None)
        with faults.one(), pytest.raises(InputError, match="will take .* MiB free. Make room"):
            photos.decode(found, 64, disk / "cache", "x")
        with faults.one(), pytest.raises(InputError, match="will take .* MiB free. Make room"):
            drawn.build("avatars", disk / "drawn")
        (disk / "filler").write_bytes(bytes(8192))
        with faults.one(), pytest.raises(InputError, match="x could not be written: .*No space left"):
            storage.keep(disk / "cache" / "x", torch.zeros(1000))
        assert not list((disk / "cache").iterdir())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-o", "size=12k"), marks=pytest.mark.long, id="full"),
        pytest.param(("-o", "ro"), id="read-only"),
    ],
)
def test_a_notebook_without_room_for_its_result_is_one_paragraph_and_leaves_nothing(
    tmp_path, faults, options
):
    with mounted(tmp_path / "disk", *options) as disk, faults.one():
        done = call("notebook", str(FIRST), "--out", str(disk / "run"), "-p", "count=5000")
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        said = done.stderr.strip().splitlines()[-1]
        assert said.startswith("cunet: ") and ("No space left" in said or "Read-only" in said), done.stderr
        assert not list(disk.rglob("*.json"))
        for kept in disk.rglob("*.ipynb"):  # with its traceback
            assert kept.parent.name == "logs" and nbformat.read(kept, 4).cells


@pytest.mark.parametrize("kib", [8, 96, pytest.param(160, marks=pytest.mark.long)])
def test_a_chain_on_a_full_disk_says_so_and_goes_on_when_there_is_room(repository, faults, kib):
    """Before its first job, in one, and in Snakemake's own books."""
    run_dir = repository / "papermill_runs" / "tiny"
    with mounted(run_dir, "-o", f"size={kib}k") as disk, faults.one():
        done = call("reproduce", "--profile", "tiny")
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        assert "No space left" in done.stderr and done.stderr.splitlines()[-1].startswith("cunet: ")
        assert len(runs.results(run_dir)) < 2  # what is there is whole, or this raises
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = call("reproduce", "--profile", "tiny")
        assert done.returncode == 0, done.stderr
        assert set(runs.results(run_dir)) == {"01_first", "12_last"}
        assert (run_dir / "report" / "index.html").stat().st_size and not list(run_dir.glob(".staging/*"))


@pytest.fixture
def clone(tmp_path) -> Path:
    """What a download of the repository has, without git, in a folder named with a space and a quote."""
    root = tmp_path / "it's my répo"
    for name in ("cunet", "notebooks", "papermill_runs/profiles"):
        shutil.copytree(
            ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb", ".*")
        )
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    return root


def poor(home: Path, clone: Path) -> dict:
    """How to start a process in poor surroundings: another working folder, a home that is not there, neither
    compiler nor git, one core, and 4 GiB of memory of its own."""
    home.mkdir()
    environment = {"HOME": "/nonexistent", "PATH": str(home), "PYTHONPATH": str(clone), "LANG": "C"}
    environment |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "TMPDIR": str(home)}

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])

    return {"cwd": home, "env": environment, "preexec_fn": limit}


def isolated() -> list[str]:
    """The beginning of a command line that has no network; skips the test where this user may not cut it."""
    for cut in ([shutil.which("unshare"), "-n"], [shutil.which("unshare"), "-r", "-n"]):
        if cut[0] and subprocess.run([*cut, "true"], capture_output=True).returncode == 0:
            return cut
    pytest.skip("cutting the network takes root, or user namespaces")


@pytest.mark.long
def test_a_notebook_and_a_training_give_the_same_bytes_in_poor_surroundings(tmp_path, clone, faults):
    """As usual; and on one core, in 4 GiB, without network, home, compiler and git."""
    plain = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(clone)}}
    small = ["--model", "unet", "--size", "smoke", "--images", "64", "--set", "validate_every=0"]
    outcomes = []
    for how, prefix, name in ((plain, [], "a"), (poor(tmp_path / "poor", clone), isolated(), "b")):
        out = clone / "papermill_runs" / name
        for line in (["notebook", str(FIRST), "--out", str(out)], ["train", *small, "--out", str(out)]):
            command = [*prefix, sys.executable, "-m", "cunet", *line]
            done = subprocess.run(command, capture_output=True, text=True, **how)
            assert done.returncode == 0, done.stderr[-3000:]
        weights = (out / "mnist-unet-smoke-s0.safetensors").read_bytes()
        result = runs.result(out, "01_first")
        assert result["environment"]["code_version"].startswith("files-")
        outcomes.append((weights, comparable(result)))
    with faults.one():  # the surroundings
        assert outcomes[0] == outcomes[1]


VERSIONS = ("sha256", "inputs", "environment")


def comparable(content: dict) -> dict:
    """A result without its times, and without the versions that a commit made meanwhile would change."""
    return {key: value for key, value in runs.untimed(content).items() if key not in VERSIONS}


# ------------------------------------------------------------------------------------------ killed anywhere


def own(run_dir: Path) -> list[psutil.Process]:
    return processes.marked(reproduce.RUN, str(run_dir))


def a_part(run_dir: Path, draw: random.Random) -> tuple[str, psutil.Process | None]:
    """One of the processes of a chain beside the command, each kind as likely as another, however many there
    are of it, and its kind; None if there is none."""
    found = parts(own(run_dir))
    kind = draw.choice(sorted(found)) if found else ""
    return kind, draw.choice(found[kind]) if found else None


def the_command(process: subprocess.Popen) -> psutil.Process | None:
    """The command itself; None when it has ended."""
    return psutil.Process(process.pid) if process.poll() is None else None


def ended(process: subprocess.Popen) -> str:
    """What a command that was hit, or a part of it, said until it ended."""
    _, said = process.communicate(timeout=1200)
    assert "Traceback" not in said or process.returncode < 0, said
    return said


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_chain_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    repository, faults, number
):
    draw, times = random.Random(int(number)), {signal.SIGKILL: 20}.get(number, 3)
    run_dir = repository / "papermill_runs" / "tiny"
    begun = time.monotonic()
    assert call("reproduce", "--profile", "tiny").returncode == 0
    usual = time.monotonic() - begun
    expected = {job: comparable(content) for job, content in runs.results(run_dir).items()}
    for _ in range(times):
        (run_dir / "results" / "01_first.json").unlink(missing_ok=True)  # so that both jobs have to run
        process = start("reproduce", "--profile", "tiny")
        time.sleep(draw.uniform(0.0, usual))  # the random moment; nothing is asserted about it
        part = a_part(run_dir, draw)[1] if number == signal.SIGKILL and draw.random() < 0.5 else None
        victim = part or the_command(process)
        if victim and hit(victim, number):
            faults.hit()
        ended(process)
        for content in runs.results(run_dir).values():  # whatever is there is whole
            assert comparable(content) == expected[content["job"]]
    done = call("reproduce", "--profile", "tiny")
    assert done.returncode == 0, done.stderr
    assert {job: comparable(content) for job, content in runs.results(run_dir).items()} == expected
    wait_for(lambda: not own(run_dir), "the end of every process of the run")
    assert not list((run_dir / ".staging").glob("*"))
    assert faults.counts[0] > times / 4, "most moments came too late"
    faults.survived()


def untimed(run_dir: Path) -> dict:
    """All results of a run without their times, and the content of its trained networks and tables."""
    found = {job: {**runs.untimed(content), "sha256": 0} for job, content in runs.results(run_dir).items()}
    found |= {path.name: path.read_bytes() for path in run_dir.glob("checkpoints/*.safetensors")}
    return found | {path.name: untimed_table(path) for path in run_dir.glob("tables/*.csv")}


def untimed_table(path: Path) -> str:
    """A table without its measured times: columns of seconds or milliseconds, rows about seconds, and in the
    table of times all but what was timed."""
    frame = pd.read_csv(path, dtype=str)
    if path.stem == "ext_time_a_call":
        return frame[["batch", "model"]].to_csv()
    if "quantity" in frame:
        frame = frame[frame["quantity"] != "seconds"]
    return frame.drop(columns=[name for name in frame if re.search(r"seconds|: s$|^ms ", name)]).to_csv()


def wait_for_jobs(process: subprocess.Popen, run_dir: Path, count: int) -> None:
    """Until `count` jobs of a run are done, or the command has ended."""
    done = run_dir / "results"
    wait_for(lambda: len(list(done.glob("*.json"))) >= count or process.poll() is not None, f"job {count}")


def moment(process: subprocess.Popen, run_dir: Path, usual: dict[str, float], draw: random.Random) -> None:
    """Wait for a random moment of a job that runs: up to a third of the time that it took undisturbed."""

    def running() -> list[str]:
        """The runners' jobs, as their command lines have them: `-f params/JOB.yaml`."""
        said = [word for runner in parts(own(run_dir)).get("notebook", []) for word in words(runner)]
        return [Path(word).stem for word in said if word.startswith("params/") and Path(word).stem in usual]

    jobs = wait_for(lambda: running() or process.poll() is not None, "a job")
    if jobs is not True:
        time.sleep(draw.random() * usual[draw.choice(jobs)] / 3)  # nothing is asserted about it


def kill(run_dir: Path, usual: dict[str, float], times: int, faults) -> set[str]:
    """Begin a run, again and again, until `times` of its processes were killed; returns of which kinds they
    were. So that this happens all over the chain, each life first gets its share of the jobs done. Then up to
    four processes are killed, a random moment apart: three parts, beside which another job goes on to its
    end, and the command. So that no kind is missed, the first part is one of each kind in turn, trainings
    first, as long as there are any."""
    draw, done = random.Random(times), run_dir / "results"
    missed, kinds = [*PARTS], set()
    while (before := faults.counts[0]) < times:
        process = start("reproduce", "--profile", run_dir.name, stdout=subprocess.DEVNULL)
        wait_for_jobs(process, run_dir, before * len(usual) // times)
        kind = missed.pop() if missed else ""
        while kind and kind not in kinds and process.poll() is None:
            wait_for(lambda: kind in parts(own(run_dir)) or process.poll() is not None, kind)  # noqa: B023
            time.sleep(draw.random() / 2)  # nothing is asserted about it; it may have ended then
            for victim in parts(own(run_dir)).get(kind, [])[:1]:
                if hit(victim):
                    faults.hit()
                    kinds.add(kind)
        for shot in range(3):
            moment(process, run_dir, usual, draw)
            kind, victim = a_part(run_dir, draw) if shot < 2 else ("the command", the_command(process))
            if victim and hit(victim):
                faults.hit()
                kinds.add(kind)
        ended(process)
        made = sorted(runs.results(run_dir))  # whatever is there is whole, or this raises
        if faults.counts[0] == before:  # the moment came too late: the next life shall have something to do
            (done / f"{draw.choice(made)}.json").unlink()
    return kinds


def listed(run_dir: Path) -> list[str]:
    """The files that a run consists of, by their paths in it; none that begins with a dot: locks, and what a
    killed writer left of a draft."""
    folders = ("results", "executed", "figures", "tables", "checkpoints", "samples", "report", "params")
    found = [path for name in folders for path in (run_dir / name).rglob("*") if path.is_file()]
    found += [path for path in run_dir.iterdir() if path.is_file()]
    names = [path.relative_to(run_dir) for path in found]
    return sorted(name.as_posix() for name in names if not any(part[0] == "." for part in name.parts))


@pytest.mark.long
@pytest.mark.first
@pytest.mark.timeout(3600)
def test_the_smoke_chain_made_twice_gives_the_same_bytes_though_the_second_is_killed_20_times(
    tmp_path, monkeypatch, faults
):
    """All notebooks, kernels and trainings as they are."""
    folders = [copied(tmp_path / name) / "papermill_runs" / "smoke" for name in ("undisturbed", "killed")]
    usual = {}
    for run_dir in folders:
        monkeypatch.setenv("CUNET_ROOT", str(run_dir.parents[1]))
        if usual:
            hit_kinds = kill(run_dir, usual, 20, faults)
        done = call("reproduce", "--profile", "smoke", timeout=3000)
        assert done.returncode == 0, done.stderr
        usual = {job: result["timings"]["wall_time_s"] for job, result in runs.results(run_dir).items()}
        wait_for(lambda: not own(run_dir), "the end of every process of the run")  # noqa: B023
    assert hit_kinds == {*PARTS, "the command"} and faults.counts[0] >= 20
    names = [listed(folder) for folder in folders]
    assert names[0] == names[1]
    assert {"executed", "figures", "samples"} <= {name.partition("/")[0] for name in names[0]}
    first, second = (untimed(folder) for folder in folders)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert not list((folders[1] / ".staging").glob("*"))
    faults.survived()


def test_every_module_has_a_file_of_its_name_or_is_used_by_the_one_that_the_readme_names():
    from cunet import dependencies

    folder, package = Path(__file__).parent, Path(dependencies.__file__).parent
    rows = re.findall(r"^\| `(test_\w+\.py)` \| (.+) \|$", (folder / "README.md").read_text("utf-8"), re.M)
    listed = {name: folder / file for file, names in rows for name in re.findall(r"\w+", names)}
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    assert set(listed) == {name for name in modules if not (folder / f"test_{name}.py").is_file()}
    unused = []
    for name, file in listed.items():
        near = [package / f"{one.split('.')[1]}.py" for one in dependencies.imported(file) if "." in one]
        near = [file, *(path for path in near if path.is_file())]
        words = "".join(path.read_text("utf-8") for path in near)
        found = {one for path in near for one in dependencies.imported(path)}
        if f"cunet.{name}" not in found and not re.search(rf"cunet\.{name}\b|\b{name}\.py\b", words):
            unused.append(f"{file.name}: {name}")
    assert unused == []


def test_every_promise_of_the_readme_names_a_test_that_is_there():
    import re

    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), name
