"""The command line: help, exit statuses, one paragraph for what a user can mend."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types

import pandas as pd
import pytest
import typer
from conftest import ROOT, STOPS, TINY, call, start, stopped, wait_for
from PIL import Image
from typer.testing import CliRunner

from cunet import (
    checkpoints,
    cli,
    datasets,
    errors,
    folders,
    models,
    parameters,
    storage,
    terminal,
    wording,
)
from cunet.diffusion import Diffusion
from cunet.errors import InputError, Interrupted

COMMANDS = (
    *("reproduce", "estimate", "notebook", "train", "sample", "denoise", "bench", "solvers", "recipes"),
    "info",
)


def run(*arguments: str) -> tuple[int, str, str]:
    """Call `main` in this process; returns status, stdout, stderr."""
    runner = CliRunner()
    result = runner.invoke(cli.app, list(arguments), standalone_mode=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return -1, result.stdout, repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_that_name_it(command):
    status, said, _ = run(command, "--help")
    assert status == 0 and "Examples" in said and f"cunet {command}" in said


def test_options_in_the_examples_exist():
    for command in COMMANDS:
        said = run(command, "--help")[1]
        head, examples = said.split("Examples")
        for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", examples.split(" -- ")[0]):
            assert option in head, f"{command} has no {option}"


def test_parameters_in_the_examples_are_those_of_the_notebook_that_they_run():
    found = 0
    for line in (*examples(), *(ROOT / "README.md").read_text(encoding="utf-8").splitlines()):
        for path, rest in re.findall(r"cunet notebook (\S+\.py)(.*)", line):
            declared = parameters.declaration(ROOT / path)
            given = [text.strip("'") for text in re.findall(r" -p (\S+)", rest)]
            assert parameters.assignments(given, declared).keys() <= declared.keys()
            found += len(given)
    assert found >= 4, "the help's and the README's"


def examples() -> list[str]:
    """Every example of the command line's help."""
    groups = [command.epilog or "" for command in typer.main.get_command(cli.app).commands.values()]
    return [line for text in groups for line in re.findall(r"\[cyan\](.*?)\[/cyan\]", text)]


def test_help_imports_none_of_the_heavy_libraries():
    heavy = "{'torch', 'numpy', 'pandas', 'matplotlib', 'papermill', 'jupytext'}"
    code = (
        "import sys; from cunet import cli; cli.app(['--help'], standalone_mode=False); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr


def test_info_counts_the_u_net_to_the_last_digit():
    status, said, _ = run("info", "unet", "--json")
    facts = json.loads(said)
    assert status == 0 and facts["parameters"] == facts["trainable_parameters"] == 35_710_339
    assert facts["evaluations"] == 0 and facts["macs"] == 7_296_565_248 and facts["image_size"] == 64


def test_info_for_people_says_the_same(capsys):
    status, said, _ = run("info", "cunet", "--size", "smoke", "--channels", "1")
    facts = json.loads(run("info", "cunet", "--size", "smoke", "--channels", "1", "--json")[1])
    assert status == 0
    for key, value in facts.items():
        assert key.replace("_", " ") in said and (f"{value:,}" if isinstance(value, int) else value) in said


def test_on_a_terminal_the_same_facts_are_a_table(monkeypatch, capsys):
    facts = {"image_size": "64", "parameters": "35,710,339"}
    terminal.facts(facts)
    plain = capsys.readouterr().out
    assert plain.splitlines() == [f"{'image size':22}64", f"{'parameters':22}35,710,339"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal.facts(facts)
    table = capsys.readouterr().out
    assert "35,710,339" in table and "image size" in table and "│" in table and "│" not in plain


def test_tables_in_a_text_are_drawn_on_a_terminal_and_stay_as_they_are_in_a_pipe(monkeypatch, capsys):
    frame = pd.DataFrame({"job [all]": ["a | b", "[red]c"], "hours": [1.5, 20.25]})
    text = f"Before.\n\n{frame.map(wording.cell).to_markdown(index=False)}\n\nAfter [x].\n"
    terminal.show(text)
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal.show(text)
    drawn = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert drawn[:2] == ["Before.", ""] and drawn[-2:] == ["After [x].", ""] and len(drawn) == 11
    cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in drawn if line[0:1] in "┃│"]
    cells = [row for row in cells if row]
    assert cells == [["job [all]", "hours"], ["a | b", "1.5"], ["[red]c", "20.25"]]
    assert drawn[5].index("1.5") > drawn[6].index("20.25"), "numbers end at the right"


@pytest.mark.parametrize("command", ["estimate", "bench", "solvers", "recipes"])
def test_every_command_that_prints_a_table_draws_it_on_a_terminal(command, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(terminal, "show", shown.append)
    frame = pd.DataFrame({"x": [1.0]})
    outcome = types.SimpleNamespace(seconds={})
    monkeypatch.setattr("cunet.estimate.report", lambda *_: frame.to_markdown())
    monkeypatch.setattr("cunet.bench.run", lambda *_, **__: outcome)
    monkeypatch.setattr("cunet.bench_report.tables", lambda _: [frame.to_markdown()])
    for study in ("solver_study", "recipe_study"):
        monkeypatch.setattr(f"cunet.{study}.run", lambda *_, **__: frame)
    monkeypatch.setattr("cunet.solver_study.matrix", lambda *_: frame)
    monkeypatch.setattr("cunet.recipe_figures.table", lambda _: frame)
    spread = types.SimpleNamespace(ratio=1.0, words="none")
    monkeypatch.setattr("cunet.recipe_study.spread", lambda *_: spread)
    out = ["--profile", "smoke"] if command == "estimate" else ["--out", str(tmp_path)]
    status, said, error = run(command, *out)
    assert status == 0, error
    assert len(shown) == 1 and shown[0].startswith("|") and "|" not in said


def test_the_help_says_what_becomes_of_a_picture():
    said = " ".join(run("denoise", "--help")[1].replace("│", " ").split())
    for words in ("smaller", "16 bits", "transparent", "palettes", "CMYK", "Standard deviation"):
        assert words in said


def test_help_says_the_exit_statuses_that_the_program_has():
    said = " ".join(run("--help")[1].split())
    statuses = {0: "done", 1: "a job failed", 2: "bad input"}
    assert all(f"{status} {text}" in said for status, text in statuses.items())
    assert errors.explain(InputError("x")) == 2 and "128 + n" in said


def test_the_shell_completes_commands_and_options():
    def completed(words: str) -> list[str]:
        asked = {"_CUNET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "from cunet.cli import app; app(prog_name='cunet')"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=os.environ | asked, capture_output=True, text=True).stdout.split()

    assert set(COMMANDS) <= set(completed("cunet "))
    assert completed("cunet rep") == ["reproduce"] and "--dry-run" in completed("cunet reproduce --d")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["info", "cunt"], "Did you mean 'cunet'"),
        (["info", "cunet", "--size", "huge"], "huge"),
        (["info", "cunet", "--channels", "0"], "channels"),
        (["info", "unet", "--channels", "100000000"], "channels=100000000"),
        (["train", "--images", "1" + "0" * 400], "images has 401 digits"),
        (["notebook", "nowhere.py"], "no notebook 'nowhere.py'"),
        (["notebook", str(TINY / "01_first.py"), "-p", "cuont=1"], "did you mean 'count'"),
        (["notebook", str(TINY / "01_first.py"), "-f", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["reproduce", "--profile", "smok"], "did you mean 'smoke'"),
        (["reproduce", "--set", "sise=paper"], "did you mean 'size'"),
        (["reproduce", "--jobs", "0"], "1 or more"),
        (["reproduce", "--run", "../x"], "cannot be the name of a run"),
        (["train", "--dataset", "mnits"], "mnits"),
        (["train", "--set", "learning_rate=-1"], "learning_rate"),
        (["sample", "--size", "smoke"], "no released checkpoint"),
        (["sample", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["sample", "--steps", "-1"], "steps=-1"),
        (["sample", "--sampler", "ddmi"], "Unknown sampler 'ddmi'"),
        (["train", "--dataset", "celeba"], "CelebA was not found"),
        (["bench", "--tasks", "fly"], "fly"),
        (["bench", "--batches", "x"], "--batches has 'x'"),
        (["solvers", "--choices", "rk4:3"], "'rk4:3' is no solver"),
        (["recipes", "--vary", "images=3"], "'images=3' changes images, which is no part of a recipe"),
        (["recipes", "--vary", "schedule=liner"], "'liner'"),
        (["recipes", "--models", "unet,unet"], "models=unet, unet: give one or more, each once"),
    ],
)
def test_bad_input_is_an_input_error_and_writes_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUNET_DATA", str(tmp_path / "data"))  # where this machine may have some
    status, _, error = run(*arguments)
    assert status == -1 and error.startswith("InputError(") and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("diffusion", [{"foo": 1}, {"schedule": "x"}, [1], 3, None])
def test_a_card_without_a_diffusion_is_refused_before_the_work(diffusion, tmp_path, monkeypatch):
    network, path = models.build("unet", "smoke", 1), tmp_path / "x.safetensors"
    checkpoints.save(path, network, {"dataset": "mnist", "diffusion": diffusion})
    Image.new("L", (16, 16)).save(tmp_path / "x.png")
    for command in (["sample"], ["denoise", str(tmp_path / "x.png"), "--noise-level", "0.1"]):
        status, _, error = run(*command, "--checkpoint", str(path), "--out", str(tmp_path / "y.png"))
        assert status == -1 and "does not say the network's diffusion" in error and str(path) in error


def test_a_card_without_its_data_set_is_refused_before_a_picture_is_denoised(tmp_path, monkeypatch):
    monkeypatch.setattr("cunet.pictures.denoise", lambda *_, **__: pytest.fail("it worked first"))
    network, path = models.build("unet", "smoke", 1), tmp_path / "x.safetensors"
    checkpoints.save(path, network, {"diffusion": Diffusion().settings()})
    Image.new("L", (16, 16)).save(tmp_path / "x.png")
    status, _, error = run(
        "denoise", str(tmp_path / "x.png"), "--noise-level", "0.1", "--checkpoint", str(path)
    )
    assert status == -1 and "does not say on which data set" in error
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".png", ".safetensors"]


@pytest.mark.parametrize(
    "arguments, work",
    [
        (["bench"], "cunet.bench.run"),
        (["solvers"], "cunet.solver_study.run"),
        (["recipes"], "cunet.recipe_study.run"),
        (["denoise", "x.png", "--noise-level", "0.1"], "cunet.pictures.denoise"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(arguments, work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("it worked first"))
    Image.new("L", (9, 9)).save("x.png")
    status, _, error = run(*arguments, "--out", "x.png/new/y.png")
    assert status == -1 and "cannot be written to" in error


@pytest.mark.parametrize(
    "error, status, text",
    [
        (InputError("It is wrong."), 2, "cunet: It is wrong."),
        (
            Interrupted(15),
            143,
            "cunet: Stopped by SIGTERM. Nothing is half-written.",
        ),
        (errors.NotebookError("It failed."), 1, "cunet: It failed."),
        (errors.ChainError("It failed."), 1, "cunet: It failed."),
        (errors.TrainingDiverged("The loss is nan."), 2, "cunet: The loss is nan."),
        (errors.TrainingInterrupted("x", "at step 3."), 130, "cunet: Training x was stopped at step 3."),
        (typer.Abort(), 130, "cunet: Stopped."),
        (KeyboardInterrupt(), 130, "cunet: Stopped."),
        (FileNotFoundError(2, "No such file", "/x/y"), 2, "cunet: /x/y: No such file"),
        (OSError(28, "No space left on device", "/x/y"), 2, "cunet: /x/y: No space left"),
        (OSError(28, "No space left on device"), 2, "cunet: No space left on device. Make room"),
        (OSError(30, "Read-only file system"), 2, "cunet: Read-only file system. Make room"),
        (SystemExit(3), 3, ""),
    ],
)
def test_each_kind_of_failure_has_its_status_and_one_paragraph(error, status, text, capsys):
    assert errors.explain(error) == status
    said = capsys.readouterr().err
    assert said.startswith(text) and said.count("\n") <= 1


@pytest.mark.parametrize(
    "error, text",
    [
        (errors.TrainingInterrupted("x", "at step 3."), "cunet: Training x was stopped at step 3."),
        (KeyboardInterrupt(), "cunet: Stopped. The same command resumes."),
    ],
)
def test_a_command_that_is_interrupted_says_how_to_go_on(error, text, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise error

    monkeypatch.setattr("cunet.training.train", interrupted)
    monkeypatch.setattr(sys, "argv", ["cunet", "train"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 130 and said.startswith(text) and said.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize(
    "arguments, work",
    [
        (["sample", "--out", "s"], "cunet.sampling.sample"),
        (["denoise", "x.png", "--noise-level", "0.1"], "cunet.pictures.denoise"),
        (["bench", "--size", "smoke", "--models", "unet", "--out", "s"], "cunet.bench.callable_in"),
        (["solvers", "--size", "smoke", "--out", "s"], "cunet.solver_study.Study.train"),
        (["recipes", "--size", "smoke", "--out", "s"], "cunet.recipe_study.Study.train"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_signal_in_any_command_ends_it_with_a_paragraph_and_leaves_no_half_of_a_file(
    arguments, work, number, tmp_path, monkeypatch, capsys
):
    """`except Exception` in between, as around a network that may not compile, does not hold it up."""

    def signalled(*_, **__):
        try:
            os.kill(os.getpid(), number)
            time.sleep(600)
        except Exception:
            pytest.fail("a signal was taken for a failure")

    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 9)).save("x.png")
    monkeypatch.setattr(work, signalled)
    monkeypatch.setattr(sys, "argv", ["cunet", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 128 + number
    assert said[-1] == f"cunet: {Interrupted(number)}" and "same command" in said[-1]
    assert not list(tmp_path.rglob("*.tmp-*")) and not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    "error, status",
    [(InputError("x"), 2), (OSError(28, "No space left", "/x/y"), 2), (KeyboardInterrupt(), 130)],
)
def test_the_main_of_a_module_says_it_likewise(error, status, capsys):
    @errors.command
    def main() -> int:
        raise error

    assert main() == status and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_one_exception_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        with errors.interruptible():
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), number)  # an impatient second Ctrl-C must not cut the cleaning short
                time.sleep(0.01)
    assert caught.value.signum == number and signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_main_of_a_module_is_a_paragraph_too(number, capsys):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    @errors.command
    def main() -> int:
        os.kill(os.getpid(), number)
        time.sleep(600)

    assert main() == 128 + number and capsys.readouterr().err == f"cunet: {Interrupted(number)}\n"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_a_command_says_is_read_back_from_its_output(capsys):
    assert errors.explain(InputError("It is: cunet: wrong.")) == 2
    print("bar 50%", "", "error: other", sep="\n", file=sys.stderr)
    assert errors.explain(Interrupted(2)) == 130
    lines = capsys.readouterr().err.splitlines()
    assert errors.said(lines) == ["It is: cunet: wrong.", str(Interrupted(2))] and len(lines) == 5


def test_an_error_of_the_program_itself_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        errors.explain(ZeroDivisionError())
    with pytest.raises(OSError, match="Bad file"):
        errors.explain(OSError(9, "Bad file descriptor"))
    with pytest.raises(ZeroDivisionError):
        errors.command(lambda: 1 / 0)()


def test_folders_of_variables_are_absolute_for_all_that_a_command_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUNET_ROOT", "repo")
    monkeypatch.setenv("CUNET_DATA", "data")
    monkeypatch.setattr(sys, "argv", ["cunet", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert folders.root() == tmp_path / "repo" and os.environ["CUNET_ROOT"] == str(tmp_path / "repo")
    assert datasets.data_root() == tmp_path / "data"


def test_as_a_process_bad_input_is_one_paragraph_and_status_2_from_any_folder(tmp_path):
    done = call("info", "cunt", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("cunet: ") and "Traceback" not in done.stderr
    unknown = call("info", "unet", "--jsn", cwd=tmp_path)
    assert unknown.returncode == 2 and "--jsn" in unknown.stderr and "Traceback" not in unknown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_stops_a_training_within_5_s_with_its_state_saved(tmp_path, faults, measured, number):
    folders = []

    def begin():
        folders.append(tmp_path / str(len(folders)))
        small = ["--size", "smoke", "--images", "1000000", "--set", "checkpoint_every=1"]
        process = start("train", *small, "--out", str(folders[-1]))
        wait_for(lambda: list(folders[-1].glob("*.state.json")) or process.poll() is not None, "a saved step")
        return process

    faults.hit()
    status, said, seconds = stopped(begin, number)
    assert status == 130 and "its state is saved in" in said and "Start it again" in said
    measured(f"a training stopped {seconds:.1f} s after {number.name}")
    assert seconds <= STOPS
    for folder in folders:
        assert storage.read(next(folder.glob("*.state.safetensors")))[1]["step"] > 0
    faults.survived()


def test_train_then_sample_leave_what_their_last_lines_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--size", "smoke", "--images", "64", "--set", "batch_size=32", "--set", "validate_every=0"]
    status, said, error = run("train", *small, "--out", "c")
    assert status == 0, error
    path = tmp_path / "c" / "mnist-cunet-smoke-s0.safetensors"
    assert said.splitlines()[-1].startswith("Checkpoint: ") and path.is_file()
    draw = [
        "sample",
        "--checkpoint",
        str(path),
        "--n",
        "3",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--out",
        "s",
    ]
    status, said, error = run(*draw)
    assert status == 0, error
    sheet = tmp_path / "s" / "mnist-cunet-smoke-s0-ddim2-s0.png"
    assert said.splitlines()[-1].startswith("Samples: ") and sheet.read_bytes()[:4] == b"\x89PNG"
    import numpy as np

    pixels = np.load(sheet.with_suffix(".npy"))
    assert pixels.shape == (3, 16, 16, 1) and pixels.dtype == np.uint8
    assert os.listdir(tmp_path / "s") and pixels.std() > 0
