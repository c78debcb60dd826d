"""Training: what a step does, that nothing is lost when it is stopped, and what it refuses."""

import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import free_port
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn

from cunet import (
    checkpoints,
    datasets,
    dependencies,
    diffusion,
    folders,
    launch,
    models,
    parameters,
    provenance,
    resume,
    storage,
    training,
    training_job,
    validation,
)
from cunet.errors import InputError, TrainingDiverged, TrainingInterrupted
from cunet.recipe import TrainConfig, configure, generator
from cunet.training import train

NAME = "mnist-unet-smoke-s0"
SMALL = dict(model="unet", size="smoke", images=160, batch_size=8, warmup=4, log_every=32, validate_every=64)
TIMES = {"wall_time_s", "images_per_second", "card_sha256", "code_version"}


class Tiny(nn.Module):
    """A network of 300 numbers with a buffer, dropout and a frozen weight: all that a state has to keep."""

    def __init__(self, name, size, channels):
        super().__init__()
        self.name, self.size, self.channels, self.image_size = name, size, channels, 8
        self.into, self.out = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, channels, 3, padding=1)
        self.norm, self.time, self.drop = nn.BatchNorm2d(8), nn.Linear(1, 8), nn.Dropout(0.1)
        self.time.bias.requires_grad_(False)
        if name == "cunet-released":
            self.unused = nn.Linear(1, 1)
        if os.environ.get("PLAIN"):  # where parts of a batch are compared with the batch
            self.norm, self.drop = nn.Identity(), nn.Identity()

    def forward(self, sample, timestep):
        t = self.time(timestep.float()[:, None] / 1000)[:, :, None, None]
        return self.out(self.drop(torch.relu(self.norm(self.into(sample)) + t)))


class Pictures(datasets.ImageDataset):
    """Fifty squares of light in two halves."""

    @classmethod
    def load(cls, name, split="train", image_size=8, root=None):
        draw = generator(0, split, root or "")
        light = torch.randint(0, 256, (50, 1, 2, 2), generator=draw, dtype=torch.uint8)
        return cls(name, split, light.repeat_interleave(4, 2).repeat_interleave(4, 3))


def install(patch) -> None:
    patch(models, "build", lambda name, size="paper", channels=3: Tiny(name, size, channels))
    patch(models, "image_size", lambda size: 8)
    patch(datasets, "load", Pictures.load)
    patch(validation, "VALIDATION_IMAGES", 20)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    install(monkeypatch.setattr)


def settings(**changes) -> TrainConfig:
    return configure({**SMALL, **changes})


def final(folder: Path, name: str = NAME) -> tuple[bytes, dict]:
    """The weights and what of the card is not a time."""
    card = json.loads((folder / f"{name}.json").read_text())
    return (folder / f"{name}.safetensors").read_bytes(), {k: v for k, v in card.items() if k not in TIMES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch.setattr)
        folder = tmp_path_factory.mktemp("undisturbed")
        train(settings(), folder, progress=False)
    return folder


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(n): this process gets SIGTERM in the middle of step n."""
    step = training.Training.train_step

    def arrange(number):
        def interrupted(self):
            if self.step == number - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self)

        monkeypatch.setattr(training.Training, "train_step", interrupted)

    return arrange


# --- what a step is made of


def test_a_training_with_no_settings_given_is_that_of_the_released_network_and_of_notebook_05():
    usual = TrainConfig().model_dump()
    card = json.loads(checkpoints.released("mnist", "cunet", "laptop").with_suffix(".json").read_text())
    notebook = parameters.declaration(folders.root() / "notebooks" / "05_training.py")
    for other in (card["recipe"], notebook):
        assert {key: usual[key] for key in other if key in usual} == {
            key: value for key, value in other.items() if key in usual
        }
    assert {"learning_rate", "validate_every", "channels_last"} <= card["recipe"].keys() & notebook.keys()


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine_to_zero():
    config = settings(learning_rate=0.01, warmup=10)
    assert [config.rate(step, 0.0) for step in (0, 4, 9, 10)] == pytest.approx([0.001, 0.005, 0.01, 0.01])
    assert config.rate(100, 0.5) == pytest.approx(0.005)
    assert config.rate(100, 1 / 3) == pytest.approx(0.0075)
    assert config.rate(100, 1.0) == pytest.approx(0.0) and config.rate(100, 1.1) == pytest.approx(0.0)
    assert settings(warmup=0, learning_rate=0.01).rate(0, 0.0) == 0.01


def test_a_constant_learning_rate_rises_and_stays():
    config = settings(learning_rate=0.01, warmup=10, decay="constant")
    assert [config.rate(step, 0.9) for step in (0, 4, 9)] == pytest.approx([0.001, 0.005, 0.01])
    assert config.rate(100, 0.5) == config.rate(100, 1.0) == 0.01


def test_a_step_descends_on_the_weighted_loss_and_validation_has_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAIN", "1")
    run = make(settings(loss_weighting="min_snr", accumulate=2, channels_last=False), tmp_path / "weighted")
    x, t, noise = run.batches(0)
    abar = run.diffusion.alphas_cumprod[t]
    snr = abar / (1 - abar)
    with torch.no_grad():
        losses = run.diffusion.loss(run.network, x, t, noise).double()
    expected = (losses * snr.clamp(max=5) / (snr + 1)).mean().item()
    plain = make(settings(channels_last=False), tmp_path / "plain")
    for each in (run, plain):
        each.step = 64 // each.config.batch_size
        assert each.validate_if_due()
        each.step = 0
    assert run.validation == plain.validation
    assert run.train_step() == pytest.approx(expected, rel=1e-5)
    assert abs(expected / losses.mean().item() - 1) > 0.05, "they differ in this batch"


def test_without_weights_a_step_is_that_of_the_plain_mean_to_the_last_bit(tmp_path):
    class Nothing:
        """What a loss is multiplied with without being touched."""

        def __getitem__(self, t):
            return self

        def __rmul__(self, losses):
            return losses

    run, plain = (make(settings(), tmp_path / name) for name in ("run", "plain"))
    plain.loss_weights = Nothing()
    for _ in range(3):
        assert run.train_step() == plain.train_step()
    for one, other in zip(run.current, plain.current, strict=True):
        assert torch.equal(one, other)


def test_a_setting_that_a_card_lacks_had_its_default():
    saved = settings().model_dump()
    del saved["decay"], saved["loss_weighting"]
    assert settings().changes(saved) == ""
    assert settings(decay="constant").changes(saved) == "decay was 'cosine' and is now 'constant'"
    assert (
        settings().changes({"seed": 0, "decay": "constant"}).startswith("model was 'cunet' and is now 'unet'")
    )
    assert "seed was None and is now 0" in settings().changes({}), "of a card without any, nothing is known"


def test_the_first_step_is_adam_on_the_clipped_gradient_of_the_mean_loss(tmp_path):
    """From the formulas: after one step Adam's update is -rate * g / (|g| + eps), g clipped to norm 1."""
    run = make(settings(clip=0.01, channels_last=False), tmp_path)  # else gradients near 0 round otherwise
    before = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    x, t, noise = run.batches(0)
    run.batches.seed_network(run.network, 0, run.fabric)
    abar = run.diffusion.alphas_cumprod[t].float().view(-1, 1, 1, 1)
    output = run.network(abar.sqrt() * x + (1 - abar).sqrt() * noise, t)
    loss = (output - (abar.sqrt() * noise - (1 - abar).sqrt() * x)).square().mean()
    trained = {name: p for name, p in run.network.named_parameters() if p.requires_grad}
    grads = dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))
    norm = torch.cat([g.flatten() for g in grads.values()]).norm()
    run.network.norm.reset_running_stats()
    rate = run.config.learning_rate / 4  # of the first of 4 steps of warm-up
    assert run.train_step() == pytest.approx(loss.item(), rel=1e-5)
    for name, after in run.network.named_parameters():
        g = grads.get(name, torch.zeros(())) * min(1.0, 0.01 / norm.item())
        torch.testing.assert_close(after, before[name] - rate * g / (g.abs() + 1e-8), rtol=0, atol=2e-6)


def test_the_average_is_the_recursion_by_hand_and_copies_buffers(tmp_path):
    run = make(settings(ema_decay=0.35), tmp_path)
    expected = [p.double() for p in run.current]
    for step in range(6):
        run.train_step()
        decay = min(0.35, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.31, 0.35, 0.35
        expected = [decay * e + (1 - decay) * p.double() for e, p in zip(expected, run.current, strict=True)]
    for e, p in zip(expected, run.average, strict=True):
        torch.testing.assert_close(p.double(), e, rtol=0, atol=1e-6)
    assert torch.equal(run.ema.norm.running_mean, run.network.norm.running_mean)
    assert run.ema.norm.num_batches_tracked == 6


def make(config, folder):
    """A training, not started; the random state is the test's own to spoil."""
    path = Path(folder) / f"{config.name}.safetensors"
    return training.Training(config, path, launch.start_fabric(config), launch.Signals())


def test_a_validation_that_another_process_left_is_no_validation(tmp_path, monkeypatch):
    for elsewhere in (1.0, 0.0):
        run = make(configure(SMALL), tmp_path / str(elsewhere))
        run.step = 64 // run.config.batch_size

        def summed(values, reduce_op, elsewhere=elsewhere):
            return values + torch.cat([torch.zeros(len(values) - 1), torch.tensor([elsewhere])])

        monkeypatch.setattr(run.fabric, "all_reduce", summed)
        assert run.validate_if_due() is not bool(elsewhere)
        assert len(run.validation) == 1 - elsewhere


def test_a_batch_in_parts_is_the_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAIN", "1")
    losses = []
    for parts in (1, 4):
        run = make(settings(accumulate=parts), tmp_path)
        losses.append([run.train_step() for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_steps_leave_nothing_behind_in_torchs_queue_of_calls_to_a_gpu(tmp_path):
    run = make(settings(), tmp_path)
    run.train_step()
    before = len(torch.cuda._queued_calls)
    run.train_step()
    assert len(torch.cuda._queued_calls) == before


# --- validation


def test_validation_is_the_loss_at_fixed_evenly_spread_steps(tmp_path):
    run = make(settings(timesteps=400), tmp_path)
    losses = validation.validation_losses(run.ema, run.test, run.diffusion)
    assert losses.shape == (20, 2)
    assert sorted(losses[:, 1].tolist()) == [10 + 20 * k for k in range(20)]
    noise = torch.randn((20, 1, 8, 8), generator=generator(0, "validation", 0))
    with torch.no_grad():
        direct = run.diffusion.loss(run.ema, run.test.batch(slice(20)), losses[:, 1].long(), noise)
    torch.testing.assert_close(losses[:, 0], direct.double())
    mean, quarters = validation.validation_summary(losses, 400)
    assert mean == pytest.approx(direct.mean().item(), rel=1e-5)
    second = [loss for loss, t in losses.tolist() if 100 <= t < 200]
    assert len(second) == 5 and quarters[1] == pytest.approx(sum(second) / 5)
    assert sum(quarters) / 4 == pytest.approx(mean)


def test_validation_does_not_depend_on_how_many_processes_share_it(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_BATCH", 3)
    run = make(settings(), tmp_path)
    whole = validation.validation_losses(run.ema, run.test, run.diffusion)
    parts = [validation.validation_losses(run.ema, run.test, run.diffusion, rank, 3) for rank in range(3)]
    assert torch.equal(whole[:, 0], sum(part[:, 0] for part in parts))


# --- a whole training


def test_the_checkpoint_is_the_average_with_a_full_card(undisturbed):
    network, card = checkpoints.load(undisturbed / f"{NAME}.safetensors")
    assert sorted(p.name for p in undisturbed.iterdir()) == [
        f".{NAME}.lock",
        f"{NAME}.json",
        f"{NAME}.safetensors",
    ]
    assert (card["images_seen"], card["steps"], card["batch_size"], card["seed"]) == (160, 20, 8, 0)
    assert TrainConfig(**card["recipe"]) == settings()
    assert [images for images, _ in card["loss_curve"]] == [32, 64, 96, 128, 160]
    assert [images for images, _ in card["validation"]] == [64, 128, 160]
    assert diffusion.Diffusion(**card["diffusion"]).settings() == card["diffusion"]
    assert card["images_per_second"] == pytest.approx(160 / card["wall_time_s"])
    test = Pictures.load("mnist", "test")
    losses = validation.validation_losses(network, test, diffusion.Diffusion(**card["diffusion"]))
    assert losses[:, 0].mean().item() == pytest.approx(card["validation_loss"], rel=1e-5)
    assert card["validation_quartiles"][-1][0] == 160 and len(card["validation_quartiles"][-1]) == 5


def test_training_lowers_the_loss(tmp_path):
    train(settings(images=640, learning_rate=0.02), tmp_path, progress=False)
    curve = final(tmp_path)[1]["loss_curve"]
    assert curve[-1][1] < 0.7 * curve[0][1]


def test_a_finished_training_is_not_repeated(undisturbed, monkeypatch):
    before = final(undisturbed), (undisturbed / f"{NAME}.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(training.Training, "train_step", None)
    assert train(settings(), undisturbed, progress=False) == undisturbed / f"{NAME}.safetensors"
    assert (final(undisturbed), (undisturbed / f"{NAME}.safetensors").stat().st_mtime_ns) == before


def test_training_leaves_the_callers_random_numbers_and_signals_alone(tmp_path):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train(settings(images=16), tmp_path, progress=False)
    assert torch.equal(torch.rand(2), expected)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


def test_the_bar_shows_rate_time_left_and_loss(tmp_path, capsys):
    train(settings(), tmp_path)
    shown = capsys.readouterr().err
    assert "160/160" in shown and "images/s" in shown and "loss=" in shown and "validation loss" in shown


def test_a_time_budget_ends_the_training_and_plans_the_decay(tmp_path, monkeypatch):
    """A clock that gains a second a look makes every step last one second."""
    clock = iter(range(10**6))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    rates, rate = [], TrainConfig.rate

    def note(self, step, progress):
        rates.append((step, progress))
        return rate(self, step, progress)

    monkeypatch.setattr(TrainConfig, "rate", note)
    train(settings(max_seconds=6.0, images=8), tmp_path, progress=True)
    card = final(tmp_path)[1]
    assert card["steps"] == 6 and card["images_seen"] == 48
    assert rates == [(step, pytest.approx(step / 6)) for step in range(6)]
    assert json.loads((tmp_path / f"{NAME}.json").read_text())["wall_time_s"] == pytest.approx(6.0)


def test_time_that_was_used_before_an_interruption_counts(tmp_path, monkeypatch, stop_at):
    clock = iter(range(10**6))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    stop_at(4)
    with pytest.raises(TrainingInterrupted):
        train(settings(max_seconds=6.0), tmp_path, progress=False)
    stop_at(0)
    train(settings(max_seconds=6.0), tmp_path, progress=False)
    assert final(tmp_path)[1]["steps"] == 6


# --- stopped anywhere


@pytest.mark.parametrize("channels_last", [False, True])
def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path, stop_at, channels_last):
    config = settings(channels_last=channels_last)
    for number in (1, 3, 8, 19):
        stop_at(number)
        with pytest.raises(TrainingInterrupted, match=f"step {number} .*Start it again"):
            train(config, tmp_path / "stopped", progress=False)
    stop_at(0)
    for folder in ("stopped", "undisturbed"):
        train(config, tmp_path / folder, progress=False)
    assert final(tmp_path / "stopped") == final(tmp_path / "undisturbed")


def test_a_resumed_state_has_the_same_network_average_and_moments(tmp_path, stop_at):
    for folder, stops in ((tmp_path / "a", [15]), (tmp_path / "b", [2, 9, 15])):
        for number in stops:
            stop_at(number)
            with pytest.raises(TrainingInterrupted):
                train(settings(), folder, progress=False)
    a, b = ((tmp_path / f / f"{NAME}.state.safetensors").read_bytes() for f in "ab")
    names = set(storage.read(tmp_path / "a" / f"{NAME}.state.safetensors")[0])
    assert {"network.into.weight", "ema.norm.running_mean", "adam.out.bias.exp_avg_sq"} <= names
    assert a == b


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_data_are_read_stops_at_once_and_writes_nothing(tmp_path, monkeypatch, number):
    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        pytest.fail("the data were read on")

    monkeypatch.setattr(datasets, "load", interrupted)
    with pytest.raises(TrainingInterrupted, match="stopped while its data were read.*start it again"):
        train(settings(), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_scale_of_half_precision_goes_on_where_it_was(tmp_path):
    """Without it a resumed training would begin with the first scale again, and skip steps until it fits.
    Fabric has a scaler on a GPU only; the one here is given to it."""
    trainings = []
    for scale in (512.0, 65536.0):
        trainings.append(make(settings(), tmp_path))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainings[-1].fabric.strategy.precision = MixedPrecision("16-mixed", "cpu", scaler)
    resume.save(trainings[0])
    resume.restore(trainings[1])
    states = [run.fabric.strategy.precision.scaler.state_dict() for run in trainings]
    assert states[0] == states[1] and states[1]["scale"] == 512.0


def test_a_signal_during_validation_gives_it_up_and_repeats_it(undisturbed, tmp_path, monkeypatch):
    real, calls = training.validation_losses, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "validation_losses", interrupted)
    with pytest.raises(TrainingInterrupted, match="step 16"):
        train(settings(), tmp_path, progress=False)
    train(settings(), tmp_path, progress=False)
    assert len(calls) == 4 and final(tmp_path) == final(undisturbed)


def child(config: dict, out: str, environment: dict | None = None) -> None:
    """A training in a process of its own, through the command line's entry."""
    os.environ.update(environment or {})
    install(setattr)
    if doom := os.environ.get("DOOM"):
        die(**json.loads(doom))
    recipe = Path(f"{out}.recipe.json")
    recipe.write_text(json.dumps(config))
    status = training_job.main(["--config", str(recipe), "--out", out, "--quiet"])
    sys.exit(status)


def die(steps: int, seconds: float) -> None:
    """Have the system end this process, wherever it is then, `seconds` after it begins the next step but
    `steps`; after now, if `steps` is -1.

    SIGALRM is as deadly as SIGKILL here (nobody handles it), and comes on time when the machine is busy.
    """
    step, begun = training.Training.train_step, itertools.count()

    def stepping(self):
        if next(begun) == steps:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        return step(self)

    training.Training.train_step = stepping
    if steps < 0:
        signal.setitimer(signal.ITIMER_REAL, seconds)


@pytest.fixture(scope="module")
def start():
    """start(config, out): begin a training in a child of a server that has everything imported already."""
    context, started = multiprocessing.get_context("forkserver"), []
    context.set_forkserver_preload(
        ["torch", "cunet.training_job", "cunet.models", "cunet.datasets", __name__]
    )

    def begin(config, out, environment=None):
        process = context.Process(target=child, args=({**SMALL, **config}, str(out), environment))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_resumes_by_itself_to_the_same_bits(
    tmp_path, start, faults, monkeypatch, times
):
    """Before the first step, before the first state is saved, between states, while one is written, and from
    the last step on, where the checkpoint takes the place of the state."""
    recipe, step, moments = {"images": 128 * times}, training.Training.train_step, [time.monotonic()]

    def timed(self):
        moments.append(time.monotonic())
        return step(self)

    monkeypatch.setattr(training.Training, "train_step", timed)
    train(settings(**recipe), tmp_path / "undisturbed", progress=False)
    draw, folder = random.Random(times), tmp_path / "killed"
    state, last = folder / f"{NAME}.state.json", len(moments) - 2
    for life in itertools.count():
        if faults.counts[0] == times:
            break
        assert life < 3 * times, "most trainings ended before they could be killed"
        taken = json.loads(state.read_text())["step"] if state.exists() else 0
        doom = {
            "steps": draw.randrange(9),
            "seconds": draw.uniform(1e-6, 0.008),
        }  # of the 16 steps of its share
        if faults.counts[0] == times - 1:
            doom["steps"] = last - taken
        if (folder / f"{NAME}.json").exists() or (life % 4 == 0 and faults.counts[0] < times - 1):
            doom = {"steps": -1, "seconds": draw.uniform(1e-6, moments[1] - moments[0])}
        often = {"checkpoint_every": draw.choice((1, 2, 0))}
        process = start({**recipe, **often}, folder, {"DOOM": json.dumps(doom)})
        process.join(600)
        assert process.exitcode in (-signal.SIGALRM, 0)
        if process.exitcode:  # or it had ended before
            faults.hit()
    process = start(recipe, folder)
    process.join(600)
    assert process.exitcode == 0
    assert final(folder) == final(tmp_path / "undisturbed")
    names = [sorted(path.name for path in f.iterdir()) for f in (folder, tmp_path / "undisturbed")]
    assert names[0] == names[1]
    faults.survived()


def test_sigterm_ends_the_process_with_its_own_status_and_a_resumable_state(tmp_path, start):
    process = start({"images": 10**6, "checkpoint_every": 1}, tmp_path)
    state = tmp_path / f"{NAME}.state.json"
    while process.is_alive() and not state.exists():
        time.sleep(0.01)
    process.terminate()
    process.join(600)
    assert process.exitcode == 130
    assert storage.read(state.with_suffix(".safetensors"))[1]["step"] > 0


@pytest.mark.parametrize("model, count", [("cunet-released", 2), ("unet", 3)])
def test_processes_see_the_same_batches_and_learn_the_same(tmp_path, start, model, count):
    """DDP over gloo against one process: no dropout or batch statistics, but a layer that is never used."""
    recipe, name = {"model": model, "batch_size": 12}, f"mnist-{model}-smoke-s0"
    world = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "PLAIN": "1",
        "NODE_RANK": "0",
    }
    ranks = [
        start(
            {**recipe, "devices": count},
            tmp_path / "many",
            {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    alone = start(recipe, tmp_path / "one", {"PLAIN": "1"})
    for process in (*ranks, alone):
        process.join(600)
        assert process.exitcode == 0
    (_, one), (_, many) = final(tmp_path / "one", name), final(tmp_path / "many", name)
    for curve in ("loss_curve", "validation"):
        for (images, loss), (images2, loss2) in zip(one[curve], many[curve], strict=True):
            assert images == images2 and loss == pytest.approx(loss2, abs=1e-5)
    assert many["devices"] == count


# --- refused


def test_settings_that_make_another_training_are_refused_by_name(undisturbed, tmp_path, stop_at):
    stop_at(3)
    with pytest.raises(TrainingInterrupted):
        train(settings(), tmp_path, progress=False)
    stop_at(0)
    for folder in (tmp_path, undisturbed):
        with pytest.raises(
            InputError, match="learning_rate was 0.0015 and is now 0.002; warmup was 4 and is now 5"
        ):
            train(settings(learning_rate=0.002, warmup=5), folder, progress=False)
    with pytest.raises(InputError, match="SHA-256 differs"):
        train(settings(data_root="elsewhere"), tmp_path, progress=False)
    train(settings(checkpoint_every=7, checkpoint_seconds=1.0), tmp_path, progress=False)
    assert final(tmp_path)[0] == final(undisturbed)[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_damaged_state_or_checkpoint_is_refused_and_kept(tmp_path, stop_at, suffix, finished):
    stop_at(0 if finished else 3)
    try:
        train(settings(images=40), tmp_path, progress=False)
    except TrainingInterrupted:
        pass
    damaged = tmp_path / f"{NAME}{'' if finished else '.state'}{suffix}"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    with pytest.raises(InputError, match=damaged.name):
        train(settings(images=40), tmp_path, progress=False)
    assert damaged.read_bytes() == data


class Poison(Tiny):
    """From the sixth step on, the output (or only the gradient) is not finite."""

    def forward(self, sample, timestep):
        out, calls = super().forward(sample, timestep), int(self.norm.num_batches_tracked)
        if self.training and calls == 6:
            out = out * math.nan if self.name == "cunet" else out + torch.sqrt(out.detach() * 0 + 0 * out)
        return out


@pytest.mark.parametrize(
    "model, why", [("cunet", "the loss is nan"), ("unet", "the gradient's norm is (nan|inf)")]
)
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_numbers_that_are_not_finite_stop_the_training_at_its_last_good_state(
    tmp_path, monkeypatch, model, why, clip
):
    monkeypatch.setattr(models, "build", lambda name, size, channels: Poison(name, size, channels))
    config = settings(model=model, clip=clip, checkpoint_every=2)
    with pytest.raises(
        TrainingDiverged, match=rf"step 5 \(40 images\): {why}.*state\.safetensors \(step 4\).*Try"
    ):
        train(config, tmp_path, progress=False)
    assert storage.read(tmp_path / f"{config.name}.state.safetensors")[1]["step"] == 4
    assert not (tmp_path / f"{config.name}.safetensors").exists()


def test_an_output_that_another_process_trains_is_refused(tmp_path, start):
    process = start({"images": 10**6, "checkpoint_every": 1}, tmp_path)
    while process.is_alive() and not (tmp_path / f"{NAME}.state.json").exists():
        time.sleep(0.01)
    with pytest.raises(InputError, match=f"{NAME}.safetensors is being made by process {process.pid} "):
        train(settings(), tmp_path, progress=False)
    process.kill()
    process.join()
    train(settings(images=8, variant="other"), tmp_path, progress=False)


def test_a_full_disk_or_a_folder_that_cannot_be_used_is_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Training, "train_step", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        train(settings(), tmp_path / "file" / "folder", progress=False)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("cunet.resume.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="0.0 MiB free, but training .* needs"):
        train(settings(), tmp_path, progress=False)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"learning_rat": 0.1}, "learning_rat=0.1: Extra inputs.*The settings are: dataset, model"),
        ({"batch_size": "64"}, "batch_size='64': Input should be a valid integer"),
        ({"batch_size": 0, "seed": -1}, "seed=-1.*batch_size=0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"flip": 1}, "flip=1"),
        ({"variant": "../x"}, "variant='../x'"),
        ({"timesteps": 1001}, "timesteps=1001"),
        ({"precision": "8-bit"}, "precision='8-bit'"),
        ({"decay": "linear"}, "decay='linear'.*'cosine' or 'constant'"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, words):
    with pytest.raises(InputError, match=words):
        settings(**changes)


def test_batches_that_cannot_be_shared_and_missing_processes_are_refused(tmp_path):
    with pytest.raises(InputError, match="batch_size=8 cannot be shared by 3 devices .* a multiple of 3"):
        train(settings(devices=3), tmp_path, progress=False)
    with pytest.raises(InputError, match="need 2 processes, but 1 run. Start them with `torchrun"):
        train(settings(devices=2), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


# --- compiling


@pytest.mark.parametrize("when", ["at once", "at the first call"])
def test_without_a_compiler_training_goes_on_and_says_so_once(undisturbed, tmp_path, monkeypatch, when):
    def fail(*_):
        raise RuntimeError("no C++ compiler found\nlong story")

    def broken(model):
        return fail if when == "at the first call" else fail()

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="goes on without it: no C\\+\\+ compiler found$") as caught:
        train(settings(compile=True), tmp_path, progress=False)
    assert len([w for w in caught if "torch.compile" in str(w.message)]) == 1
    assert final(tmp_path)[0] == final(undisturbed)[0]


def test_a_compiled_network_saves_under_its_own_names(undisturbed, tmp_path, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **rest: real(model, **{**rest, "backend": "eager"}))
    train(settings(compile=True), tmp_path, progress=False)
    mine, expected = (storage.read(f / f"{NAME}.safetensors")[0] for f in (tmp_path, undisturbed))
    assert mine.keys() == expected.keys()
    assert all(torch.allclose(mine[name].float(), expected[name].float(), atol=1e-5) for name in mine)


@pytest.mark.parametrize("what", ["checkpoint", "state"])
def test_what_other_code_trained_is_refused_or_moved_aside_and_trained_again(tmp_path, monkeypatch, what):
    config, path = settings(images=16), tmp_path / f"{NAME}.safetensors"
    old = path if what == "checkpoint" else resume.state_path(path)
    with monkeypatch.context() as patch:
        patch.setattr(resume, "training_code", lambda: "0" * 64)
        patch.setattr(training, "training_code", lambda: "0" * 64)
        if what == "checkpoint":
            train(config, tmp_path, progress=False)
        else:
            resume.save(make(config, tmp_path))
    before = old.read_bytes()
    with pytest.raises(InputError, match="was trained by other code"):
        train(config, tmp_path, progress=False)
    with pytest.raises(InputError, match="images was 16 and is now 24"):
        train(settings(images=24), tmp_path, progress=False, renew=True)
    assert old.read_bytes() == before and not (tmp_path / "aside").exists()
    assert train(config, tmp_path, progress=False, renew=True) == path
    kept = sorted((tmp_path / "aside").iterdir())
    assert [file.suffix for file in kept] == [".json", ".safetensors"] and kept[1].read_bytes() == before
    stamp = path.stat().st_mtime_ns
    assert train(config, tmp_path, progress=False, renew=True) == path and path.stat().st_mtime_ns == stamp


def test_code_is_what_it_says_and_all_modules_of_a_network_count(tmp_path, monkeypatch):
    found = {file.stem for file in dependencies.modules(Path(models.__file__))}
    assert found - {"errors", "__init__"} <= set(provenance.TRAINING)
    for name in provenance.TRAINING:
        (tmp_path / f"{name}.py").write_text('"""Text."""\ndef f(x):\n    """Text."""\n    return x  # why\n')
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))

    def code() -> str:
        return provenance.training_code.__wrapped__()

    before = code()
    (tmp_path / "unet.py").write_text('"""Other text."""\n\ndef f( x ):\n    "More."\n    return (x)\n')
    assert code() == before
    (tmp_path / "ode.py").write_text('"""Text."""\ndef f(x):\n    """Text."""\n    return x + 0\n')
    assert code() != before
