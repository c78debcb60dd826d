"""Properties that hold for any input, and input that is nonsense: drawn by hypothesis, the same each time."""

import contextlib
import math
import os
import shutil
import string
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
import yaml
from conftest import ROOT, TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cunet import chain, cli, parameters, profiles, reproduce, runs, storage
from cunet.batches import BatchOrder
from cunet.diffusion import PREDICTION_TYPES, SCHEDULES, Diffusion
from cunet.errors import InputError, whole_numbers
from cunet.models import MODELS, build
from cunet.ode import SOLVERS, solve


def drawn(count: int):
    """The one profile: `count` inputs, the same on every machine, no time limit for one, nothing kept."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks
    )


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


seeds = st.integers(0, 2**31)
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)
finite = st.floats(allow_nan=False, allow_infinity=False)

# ------------------------------------------------------------------------------------------- the mathematics


@drawn(60)
@given(st.sampled_from(list(SCHEDULES)), st.integers(1, 3000))
def test_every_schedule_goes_down_from_signal_to_noise(schedule, timesteps):
    diffusion = Diffusion(schedule, timesteps)
    betas, abar = diffusion.betas, diffusion.alphas_cumprod
    assert betas.shape == abar.shape == (timesteps,) and betas.dtype == torch.float64
    assert (betas > 0).all() and (betas <= 0.999).all()
    torch.testing.assert_close(abar, (1 - betas).cumprod(0))
    assert (abar.diff() < 0).all() and 0 < abar[-1] <= abar[0] < 1


@drawn(60)
@given(st.sampled_from(list(SCHEDULES)), st.integers(1, 3000))
def test_every_schedule_begins_at_the_image_and_ends_at_noise(schedule, timesteps):
    """However many steps: the first takes away a share of the signal that falls with 1 / T, the last leaves
    what its formula leaves, or 1 / 1000 of the step before where the formula leaves nothing."""
    diffusion, T = Diffusion(schedule, timesteps), timesteps
    betas, abar = diffusion.betas, diffusion.alphas_cumprod
    assert 1 - abar[0] <= 0.4 / T + 3 / T**2
    assert abar[-1] < 5e-5 or T < 50
    if schedule == "linear":
        first, last = min(0.1 / T, 0.999), min((20 if T > 1 else 0.1) / T, 0.999)
        assert float(betas[0]) == pytest.approx(first) and float(betas[-1]) == pytest.approx(last)
        return
    assert float(betas[-1]) == 0.999
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    left = {
        "cosine": lambda u: (
            (math.cos((u + 0.008) / 1.008 * math.pi / 2) / math.cos(0.004 * math.pi / 1.008)) ** 2
        ),
        "sigmoid": lambda u: (sigmoid(3) - sigmoid(6 * u - 3)) / (sigmoid(3) - sigmoid(-3)),
    }[schedule]
    for t in {0, T // 2, T - 2} & set(range(T - 1)):
        assert float(abar[t]) == pytest.approx(left((t + 1) / T), rel=1e-8)


@drawn(80)
@given(
    *(
        st.sampled_from(list(SCHEDULES)),
        st.sampled_from(list(PREDICTION_TYPES)),
        st.integers(1, 1000),
        shapes,
        seeds,
        st.sampled_from([torch.float32, torch.float64]),
    ),
    st.data(),
)
def test_image_and_noise_come_back_from_any_step_of_any_process(
    schedule, kind, timesteps, shape, seed, dtype, data
):
    diffusion = Diffusion(schedule, timesteps, kind)
    t = data.draw(st.integers(0, timesteps - 1) | st.sampled_from([0, timesteps - 1]))
    x0, noise = normal(*shape, seed=seed, dtype=dtype), normal(*shape, seed=seed + 1, dtype=dtype)
    x_t, out = diffusion.add_noise(x0, noise, t), diffusion.target(x0, noise, t)
    abar = float(diffusion.alphas_cumprod[t])
    rounding = 20 * torch.finfo(dtype).eps * max(float(z.abs().max()) for z in (x0, noise, x_t, out))
    image, eps = diffusion.to_x0(out, x_t, t), diffusion.to_epsilon(out, x_t, t)
    assert image.dtype == eps.dtype == dtype
    torch.testing.assert_close(image, x0, rtol=0, atol=rounding / math.sqrt(abar))
    torch.testing.assert_close(eps, noise, rtol=0, atol=rounding / math.sqrt(1 - abar))


@pytest.mark.parametrize("solver", SOLVERS)
@drawn(8)
@given(
    *(shapes, st.floats(0, 9), st.floats(0, 0.5), st.floats(-1, 1), st.floats(0.1, 1)),
    *(st.booleans(), seeds, st.sampled_from([torch.float32, torch.float64])),
)
def test_solving_there_and_back_returns_to_the_start(
    solver, shape, stiffness, drag, begin, span, backwards, seed, dtype
):
    """x'' = -k x - c v for any k and c: up to the solver's own error, and where nothing depends on the
    velocity up to rounding with leapfrog, which is symmetric in time."""
    x, v = normal(*shape, seed=seed, dtype=dtype), normal(*shape, seed=seed + 1, dtype=dtype)
    there = (begin, begin - span if backwards else begin + span)
    symmetric = "leapfrog" in solver
    drag = 0.0 if symmetric else drag
    ends = [x, v]
    for ways in (there, there[::-1]):
        ends = solve(lambda s, x, v: -stiffness * x - drag * v, *ends, ways, 100, solver)[:2]
    scale = max(1.0, float(x.abs().max()), float(v.abs().max()))
    error = max(float((a - b).abs().max()) for a, b in zip(ends, (x, v), strict=True)) / scale
    rounding = (
        1e-11 if dtype == torch.float64 else 1e-3
    )  # 50,000 times the smallest difference of 1, or 8,000
    assert error < (rounding if symmetric else {"euler": 0.5, "midpoint": 1e-2}.get(solver, 1e-3))


@drawn(40)
@given(
    st.sampled_from(list(SOLVERS)), shapes, st.sampled_from([torch.float32, torch.float64]), st.integers(1, 4)
)
def test_a_solution_has_the_shape_and_dtype_of_its_start(solver, shape, dtype, steps):
    x = normal(*shape, dtype=dtype)
    end = solve(lambda s, x, v: -x, x, x, (0.0, 0.5), steps, solver)
    assert end.x.shape == end.v.shape == shape and end.x.dtype == end.v.dtype == dtype
    assert end.x.isfinite().all() and end.evaluations >= steps


@drawn(40)
@given(st.integers(1, 60), st.integers(1, 90), st.integers(0, 2**20))
def test_any_epoch_has_each_image_once(count, batch_size, seed):
    order, steps = BatchOrder(count, batch_size, seed), -(-2 * count // batch_size)
    seen = torch.cat([order(step) for step in range(steps)])[: 2 * count].view(2, count)
    assert all(sorted(epoch.tolist()) == list(range(count)) for epoch in seen)


# ---------------------------------------------------------------------------------------------- what is kept

names = st.text(string.ascii_letters + string.digits + "._", min_size=1, max_size=20)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@drawn(40)
@given(st.dictionaries(names, st.tuples(shapes, dtypes), max_size=4), st.dictionaries(names, json_values))
def test_any_tensors_and_any_card_come_back_as_they_were(tmp_path_factory, tensors, card):
    path = tmp_path_factory.mktemp("pair") / "x.safetensors"
    tensors = {name: (normal(*shape) * 9).to(dtype) for name, (shape, dtype) in tensors.items()}
    storage.write(path, tensors, card)
    back, found = storage.read(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert {name: value for name, value in found.items() if name in card and "sha256" not in name} == {
        name: value for name, value in card.items() if "sha256" not in name
    }


@drawn(40)
@given(shapes, dtypes)
def test_any_tensor_comes_back_from_a_cache(tmp_path_factory, shape, dtype):
    path = tmp_path_factory.mktemp("cache") / "x"
    tensor = (normal(*shape) * 9).to(dtype)
    storage.keep(path, tensor)
    assert torch.equal(storage.kept(path), tensor) and [p.name for p in path.parent.iterdir()] == ["x"]
    storage.keep(path, named := {"a/1": tensor, "a": tensor.mT.clone()})
    found = storage.kept(path)
    assert found.keys() == named.keys() and all(torch.equal(found[name], named[name]) for name in named)


@drawn(10)
@given(st.dictionaries(st.text(max_size=9), json_values, max_size=4))
def test_any_result_is_read_as_it_was_saved(tmp_path_factory, values):
    run = runs.Run(tmp_path_factory.mktemp("run"), "01_first")
    run.save_result(values)
    assert runs.result(run.run_dir, "01_first")["values"] == runs.plain(values)


# ------------------------------------------------------------------------------------------------- nonsense

nasty = st.sampled_from(
    [
        "",
        " ",
        "-",
        "--",
        "-x",
        "..",
        "../..",
        "/",
        "/dev/null",
        "~",
        "a b",
        "é",
        "𝔘",
        "'",
        '"',
        "\\",
        "\n",
        "%s",
        "{}",
    ]
    + [
        "$(id)",
        "`id`",
        "; ls",
        "*",
        "[",
        "]",
        "=",
        "x=",
        "=x",
        "a=b=c",
        "null",
        "nan",
        ".inf",
        "-1",
        "0",
        "1e999",
    ]
    + [
        "1" * 400,
        "x" * 5000,
        "[" * 3000,
        "!!python/object/apply:os.system [id]",
        "!!bool x",
        "&a [*a]",
        "<<: 1",
    ]
    + ["!!timestamp x", "!!float ''", "? {a: 1}: 2", "\ud800", "\udcff", "smoke", "mnist", "cunet", "unet"]
)
words = nasty | st.text(max_size=12) | st.integers(-9, 1100).map(str)


def refused_or_done(function) -> bool:
    """Whether nonsense was accepted; anything but an InputError goes on its way."""
    try:
        function()
        return True
    except InputError as error:
        assert 0 < len(str(error)) < 20_000 and "Traceback" not in str(error)
        return False


LINES = [*profiles.Profile.model_fields, "sise", "Notebooks", ""]
REAL = ("05_training", "07_synthesis")  # with their own parameters, whose values are checked before they run
yaml_values = json_values | words
contents = (
    st.dictionaries(st.sampled_from(LINES) | st.text(max_size=5), yaml_values, max_size=5) | yaml_values
)
settings_of_jobs = st.sampled_from(
    [
        "count",
        "rate",
        "names",
        "job",
        "images",
        "batch_size",
        "learning_rate",
        "accumulate",
        "devices",
        "variant",
    ]
    + [
        "samples",
        "reference_images",
        "step_counts",
        "datasets",
        "models",
        "dataset",
        "model",
        "size",
        "seeds",
    ]
)
counts = st.integers(-1, 300) | st.lists(st.integers(0, 30), max_size=2) | st.floats(0, 1)
known = st.sampled_from(["mnist", "avatars", "unet", "cunet", "cunet@solver=heun", "smoke", "laptop"])
notebooks = st.dictionaries(
    st.sampled_from(["01_first", "12_last", *REAL, "../x"]) | st.text(max_size=4),
    st.none()
    | yaml_values
    | st.dictionaries(settings_of_jobs, yaml_values | counts | known | known.map(lambda name: [name])),
    max_size=3,
)


valid = st.fixed_dictionaries(
    {"notebooks": st.sampled_from([{"01_first": {"count": 1}}, {"05_training": {"images": 64}}])},
    optional={
        "jobs": st.integers(1, 9),
        "size": st.just("smoke"),
        "seeds": st.just([0, 1]),
        "checkpoints": st.sampled_from(["released", "train"]),
        "models": st.lists(known, max_size=2),
        "description": st.text(),
    },
)


def planned(changes: list[str]) -> None:
    """All that comes before the first job: the profile, its jobs with their parameters, what is refused."""
    plan = chain.plan(profiles.load("mine", changes), reproduce.folder("mine"))
    chain.check(plan, data=False)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_a_profile_of_anything_is_valid_or_refused_and_never_a_traceback(repository, faults, count):
    path = profiles.folder() / "mine.yaml"
    for stem in REAL:
        shutil.copy(ROOT / "notebooks" / f"{stem}.py", repository / "notebooks")
    accepted = []

    @drawn(count)
    @given(valid, contents, notebooks, st.integers(0, 3), st.lists(words, max_size=1))
    def attempt(base, content, own, spoilt, changes):
        content = (
            content if spoilt == 1 else {**base, **content} if isinstance(content, dict) and spoilt else base
        )
        if spoilt == 3 and isinstance(content, dict):
            content = {**content, "notebooks": own}
        text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with faults.one() if spoilt else contextlib.nullcontext():
            accepted.append(refused_or_done(lambda: planned(changes if spoilt else [])))

    attempt()
    assert len(accepted) >= count and set(accepted) == {True, False}


@drawn(100)
@given(st.text() | nasty | contents.map(repr))
def test_yaml_from_anybody_is_parsed_or_refused(text):
    refused_or_done(lambda: parameters.load_yaml(text, "x"))


@drawn(100)
@given(
    st.dictionaries(st.sampled_from(["count", "rate", "names", "seed", "job", "x"]), yaml_values, max_size=4)
)
def test_parameters_of_anything_have_the_type_of_the_literal_or_are_refused(given_values):
    path = TINY / "01_first.py"
    declared = parameters.declaration(path)
    checked = {}
    if refused_or_done(lambda: checked.update(parameters.validate(declared, given_values, path))):
        assert all(type(value) is type(declared[name]) for name, value in checked.items())


PATHS = {"--out", "--checkpoint", "--file", "NOTEBOOK", "IMAGE"}
SNAKEMAKES = "[-- ARGUMENTS]"  # what stands after -- is not ours
FOUND = {
    name: [p for p in command.params if p.metavar != SNAKEMAKES]  # --help is none of them
    for name, command in typer.main.get_command(cli.app).commands.items()
}
OPTIONS = {name: [p.metavar if p.param_type_name == "argument" else p.opts[-1] for p in found]
           for name, found in FOUND.items()}  # fmt: skip
FLAGS = {p.opts[-1] for found in FOUND.values() for p in found if getattr(p, "is_flag", False)}
OPTIONS["info"] += ["--jsn"]
OPTIONS["nonsense"] = ["--x"]
NEEDED = {  # without which nothing else of a command line is looked at
    "reproduce": ["--profile", "tiny"],
    "estimate": ["--profile", "tiny"],
    "notebook": ["notebooks/01_first.py"],
    "denoise": ["picture.png", "--noise-level", "0.1"],
    "info": ["cunet"],
}
GOOD = {  # every other time, so that nonsense meets what makes sense
    **{"--jobs": "2", "--gpus": "1", "--run": "mine", "--set": "01_first.count=3", "--size": "smoke"},
    **{"--n": "1", "--steps": "2", "--seed": "1", "--images": "64", "--samples": "0", "--dataset": "mnist"},
    **{"--model": "cunet", "--noise-level": "0.1", "--choices": "midpoint:4,own", "--out": "made"},
    **{"--vary": "decay=constant,ema_decay=0", "--on": "slurm", "--batch-size": "2", "--precision": "bf16"},
    **{"--sampler": "ddim", "--repeats": "1", "--channels": "1", "--training-batch": "2", "--cores": "2"},
}
sensible = st.sampled_from(
    ["tiny", "01_first", "01_first.py", "count=3", "rate=x", "learning_rate=1e-3", "ddim"]
    + ["picture.png", "0.1", "bm3d", "euler:2,own", "midpoint:4"]
)
KEYS = [
    *("attention", "residual", "zero_velocity", "order", "hidden", "time_width", "widths", "steps", "solver"),
    *("gradient", "classes", "depths", "dim", "dim_mults", "head_width", "nf", "channels", "colour", ""),
]
VALUES = ["true", "no", "(1,1,2,2)", "(4,8)", "(4,8", "[0,1]", "0.5", "rk4", "dopri5", "adjoint", "None"]
changes = st.builds(
    "{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES) | st.integers(-3, 9).map(str) | nasty
)
changed = st.builds(
    "{}@{}".format, st.sampled_from(MODELS), st.lists(changes, min_size=1, max_size=3).map(",".join)
)


@drawn(80)
@given(changed)
def test_a_network_of_any_changes_answers_or_is_refused(name):
    def answer():
        with torch.no_grad():
            assert build(name, "smoke", 1)(torch.zeros(1, 1, 16, 16), 3).shape == (1, 1, 16, 16)

    refused_or_done(answer)


@st.composite
def command_lines(draw) -> list[str]:
    command = draw(st.sampled_from(list(OPTIONS)))
    line = [command, *(NEEDED.get(command, []) if draw(st.integers(0, 3)) else [])]
    for option in draw(st.lists(st.sampled_from(OPTIONS[command]), max_size=4)):
        value = draw(words | sensible | st.builds("{}={}".format, words, words))
        value = GOOD.get(option, value) if draw(st.booleans()) else value
        if option.upper() in ("MODEL", "--MODEL", "--MODELS") and draw(st.booleans()):
            value = draw(changed)
        if option in PATHS:  # nothing outside the test's own folder
            value = value.replace("/", "_").replace("..", "_")
        lone = option in FLAGS or not draw(st.integers(0, 9))
        line += [value] if option.isupper() else [option] if lone else [option, value]
    return [text.replace("\0", "") for text in line]  # no system hands on a NUL


def test_the_options_that_are_fuzzed_are_those_of_the_command_line():
    assert {"--on", "--run"} <= set(OPTIONS["reproduce"]) and {"NOTEBOOK", "-p"} <= set(OPTIONS["notebook"])
    assert {"--seed", "--batch-size", "--compile", "--precision", "--out"} <= set(OPTIONS["sample"])
    assert {"--dry-run", "--json", "--compile", "--channels-last"} <= FLAGS and "--seed" not in FLAGS
    assert PATHS | set(GOOD) <= {option for found in OPTIONS.values() for option in found}
    assert SNAKEMAKES in {p.metavar for p in typer.main.get_command(cli.app).commands["reproduce"].params}


@pytest.fixture
def idle(repository, monkeypatch):
    """The command line with everything behind it that takes time taken out, in a folder of its own."""
    from cunet import (
        bench,
        checkpoints,
        cost,
        models,
        notebook,
        pictures,
        recipe_study,
        running,
        sampling,
        solver_study,
        training,
    )

    def refuse(*_, **__):
        raise InputError("Nothing is measured here.")

    def few(**named):
        """All that `sample` checks, and no more images than there is time for."""
        whole_numbers(**named)
        if named.get("n", (0,))[0] > 64:
            raise InputError("So many images take too long here.")

    monkeypatch.chdir(repository)
    network = models.build("cunet", "smoke", 1)
    monkeypatch.setattr(reproduce, "_snakemake", lambda *_: None)
    monkeypatch.setattr(notebook, "_run", lambda *_: None)
    monkeypatch.setattr(training, "train", lambda config, out, progress: Path(out) / "x.safetensors")
    card = {"diffusion": Diffusion().settings(), "dataset": "mnist", "model": "cunet"}
    monkeypatch.setattr(checkpoints, "load", lambda *_, **__: (network, card))
    monkeypatch.setattr(running, "compiled_or_eager", lambda network, *_, **__: network)
    monkeypatch.setattr(sampling, "walk", lambda model, x, *_: [SimpleNamespace(x=x)])
    monkeypatch.setattr(sampling, "whole_numbers", few)
    monkeypatch.setattr(bench, "run", refuse)
    monkeypatch.setattr(solver_study.Study, "train", refuse)
    monkeypatch.setattr(recipe_study.Study, "train", refuse)
    monkeypatch.setattr(pictures, "tiled", lambda denoiser, planes, *_: planes)
    pictures.write(repository / "picture.png", torch.zeros(1, 1, 16, 16))
    shutil.copy(ROOT / "papermill_runs" / "calibration.yaml", repository / "papermill_runs")
    monkeypatch.setattr(cost, "macs", lambda *_: 0)
    real = models.build
    monkeypatch.setattr(
        models,
        "build",
        lambda name, size="paper", channels=3: real(
            name, "smoke" if size in models.SIZES else size, min(channels, 4)
        ),
    )


@pytest.mark.parametrize("count", [80, pytest.param(2000, marks=pytest.mark.long)])
def test_no_command_line_ends_in_a_traceback(idle, monkeypatch, capfd, faults, count):
    statuses = []

    @drawn(count)
    @given(command_lines())
    def attempt(line):
        monkeypatch.setattr("sys.argv", ["cunet", *line])
        with faults.one():
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code in (0, 1, 2), line
            statuses.append(ended.value.code)
            said = capfd.readouterr().err
            assert "Traceback" not in said, line
            assert ended.value.code == 0 or said.strip(), line

    attempt()
    assert len(statuses) >= count and {0, 2} <= set(statuses)
    assert os.getcwd() == str(Path.cwd())
