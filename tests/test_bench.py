"""`cunet bench` measures what it says, on networks so small that their ratios mean nothing here."""

import dataclasses
import json

import pandas as pd
import pytest
import torch

from cunet import bench, bench_growth, bench_report, bench_tasks, contenders, cost, samplers
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.unet import UNet

TINY = bench.Settings(
    models=("unet", "cunet-released", "cunet-released@attention=0"),
    size="smoke",
    channels=1,
    batches=(2,),
    training_batch=2,
    tasks=(*bench.MEASURED, "operators"),
    modes=("eager",),
    repeats=2,
    warmup=0,
    grid=bench_growth.Grid(side=(16, 32), batch=(1, 2), width=(1, 2), steps=(1, 2), repeats=2),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One tiny run: its frame and its folder."""
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "roofline", lambda: cost.Roofline(matmul=2e9, convolution=1e9))
        return bench.run(TINY, out).measured, out


@pytest.fixture(scope="module")
def growth(tmp_path_factory):
    """The study of growth, alone: its frame and its folder."""
    out = tmp_path_factory.mktemp("growth")
    settings = dataclasses.replace(
        TINY, models=("unet", "cunet", "cunet@gradient=checkpoint", "diffusers-unet2d"), tasks=("growth",)
    )
    return bench.run(settings, out).growth, out


def test_every_task_has_a_row_for_every_network(measured):
    frame, _ = measured
    names = set(TINY.models)
    for task in ("parameters", "MACs", *bench.MEASURED):
        assert set(frame.loc[frame["task"] == task, "model"]) == names
    assert (frame["value"] > 0).all()


def test_ratios_refer_to_the_first_network_within_their_cell(measured):
    frame, _ = measured
    assert (frame.loc[frame["model"] == "unet", "ratio"] == 1).all()
    for _, cell in frame.groupby(["task", "mode", "batch"]):
        values = cell.set_index("model")["value"]
        expected = values / values["unet"]
        torch.testing.assert_close(
            torch.tensor(cell["ratio"].to_numpy()), torch.tensor(expected[cell["model"]].to_numpy())
        )
    timed = frame[frame["unit"] == "s"]
    assert (timed["low"] <= timed["ratio"]).all() and (timed["ratio"] <= timed["high"]).all()


def test_throughput_is_twice_the_macs_over_the_time(measured):
    frame, _ = measured
    macs = frame[frame["task"] == "MACs"].set_index("model")["value"]
    for _, row in frame[frame["task"] == "step"].iterrows():
        assert row["flop_per_s"] == pytest.approx(2 * macs[row["model"]] * row["batch"] / row["value"])
        assert row["of_best"] == pytest.approx(row["flop_per_s"] / 1e9)


def test_files_hold_what_was_returned(measured):
    frame, out = measured
    pd.testing.assert_frame_equal(pd.read_csv(out / "bench.csv"), frame, check_dtype=False)
    record = json.loads((out / "bench.json").read_text())
    assert [row["value"] for row in record["rows"]] == pytest.approx(frame["value"].tolist())
    assert record["settings"]["size"] == "smoke" and record["roofline"]["convolution"] == 1e9
    assert record["environment"]["processor"]
    operators = pd.read_csv(out / "bench_operators.csv")
    assert set(operators["model"]) == set(TINY.models) and set(operators["mode"]) == {"eager"}
    assert operators.groupby("model")["share"].sum().to_numpy() == pytest.approx(1.0)
    for stem in ("bench", "bench_roofline"):
        assert (out / f"{stem}.png").stat().st_size > 5000 and (out / f"{stem}.pdf").stat().st_size > 5000


def test_every_part_says_how_long_it_took(measured, growth):
    seconds = json.loads((measured[1] / "bench_operators.json").read_text())["seconds"]
    parts = {"counts", "roofline", "forward, eager", "step, eager", "training, eager", "memory", "operators"}
    assert set(seconds) == parts
    assert set(json.loads((growth[1] / "bench_growth.json").read_text())["seconds"]) == {"counts", "growth"}


def test_part_run_alone_leaves_the_files_of_the_others_as_they_are(growth):
    names = {path.name for path in growth[1].iterdir()}
    endings = (".csv", ".json", ".png", ".pdf", "_exponents.csv")
    assert names == {f"bench_growth{ending}" for ending in endings}


def test_growth_has_every_network_of_ours_at_every_point(growth):
    frame, grid = growth[0], TINY.grid
    assert "diffusers-unet2d" not in set(frame["model"])
    for (varied, *_), line in frame.groupby(["varied", "model", "quantity"]):
        assert sorted(line["at"]) == sorted(getattr(grid, varied)) and (line["value"] > 0).all()
    alone = frame.loc[frame["model"] == "cunet@gradient=checkpoint", "quantity"]
    assert set(alone) == {"training memory"}


def test_growth_of_multiply_accumulates_is_what_can_be_told_beforehand(growth):
    """In proportion to the batch; to the solver's steps but for what stands outside the blocks; not at all
    where there is no solver; and about four times as many for twice the side: more by attention, less by the
    time embedding."""
    frame = growth[0].query("quantity == 'MACs'").set_index(["varied", "model", "at"])["value"]
    for model in ("unet", "cunet"):
        assert frame["batch", model, 2] == 2 * frame["batch", model, 1]
        assert 3.9 < frame["side", model, 32] / frame["side", model, 16] < 5
        assert 2 < frame["width", model, 2] / frame["width", model, 1] <= 4
    assert frame["steps", "unet", 2] == frame["steps", "unet", 1]
    assert 1.5 < frame["steps", "cunet", 2] / frame["steps", "cunet", 1] < 2


def test_checkpointed_gradient_keeps_training_memory_from_growing_with_the_steps(growth):
    frame = growth[0].query("quantity == 'training memory' and varied == 'steps'").set_index(["model", "at"])
    added = frame["value"].unstack().diff(axis=1)[2]
    assert 0 < added["cunet@gradient=checkpoint"] < 0.6 * added["cunet"] and added["unet"] == 0


@pytest.mark.parametrize("size", ["laptop", "smoke"])
def test_the_default_points_of_small_sizes_are_built_and_the_impossible_ones_named(size):
    specs = ("unet", "cunet", "cunet-released")
    found, skipped = bench_growth.possible(specs, size, 1, bench_growth.Grid())
    every = list(bench_growth.points(specs, size, 1, bench_growth.Grid()))
    assert {point.name for point in found} | set(skipped) == {point.name for point in every}
    narrow = {"unet, width 0.25", "cunet, width 0.25"}
    narrower = {"unet, width 0.5", "cunet-released, width 0.25"}
    assert set(skipped) == narrow | (narrower if size == "smoke" else set())
    assert "multiple of 8" in skipped["unet, width 0.25"] and "heads" in skipped["cunet, width 0.25"]


def test_a_point_alone_on_its_line_is_not_measured():
    grid = bench_growth.Grid(width=(0.25, 1))
    found, skipped = bench_growth.possible(("unet",), "smoke", 1, grid)
    assert {point.varied for point in found} == {"side", "batch", "steps"}
    assert "No other point" in skipped["unet, width 1"] and "multiple of 8" in skipped["unet, width 0.25"]


def test_what_growth_cannot_build_is_known_before_anything_is_timed(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("unbuildable")

    monkeypatch.setattr(bench_growth, "possible", refuse)
    monkeypatch.setattr(cost, "time_interleaved", lambda *_, **__: pytest.fail("it timed first"))
    with pytest.raises(RuntimeError, match="unbuildable"):
        bench.run(dataclasses.replace(TINY, tasks=("forward", "growth")), tmp_path)


def test_exponents_of_a_power_law_are_its_own():
    rows = [("side", at, "unet", "time", 3 * at**2.5, "s") for at in (8, 16, 32)]
    found = bench_growth.exponents(pd.DataFrame(rows, columns=bench_growth.COLUMNS))
    assert found[["exponent", "last"]].to_numpy() == pytest.approx(2.5)
    bent = [("side", at, "unet", "time", 100 + at**2, "s") for at in (1, 10, 100)]
    found = bench_growth.exponents(pd.DataFrame(bent, columns=bench_growth.COLUMNS))
    assert 0 < found["exponent"].item() < found["last"].item() < 2


def test_tables_print_every_part(measured, growth):
    operators = pd.read_csv(measured[1] / "bench_operators.csv")
    printed = bench_report.tables(bench.Outcome(measured[0], operators, growth[0], {}))
    assert "images a second: training step" in printed[0] and "aten::" in printed[2]
    assert "| convolution " in printed[1] and "| normalisation " in printed[1]
    lines = [line for line in printed[3].splitlines() if line.startswith("| exponent of MACs in batch")]
    assert [cell.strip() for cell in lines[0].split("|")[2:4]] == ["1.00", "1.00"]


def test_table_gives_the_first_network_in_its_unit_and_the_others_as_ratios(measured):
    frame, _ = measured
    lines = bench_report.table(frame).splitlines()
    row = next(line for line in lines if line.startswith("| parameters"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    ratio = frame.query("task == 'parameters' and model == 'cunet-released'")["ratio"].item()
    assert cells[1].endswith((" k", " M")) and cells[2] == f"{ratio:.3f}"
    assert any("denoising step, batch 2, eager" in line for line in lines)


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0.2141, "s", "214 ms"),
        (1.5, "s", "1.5 s"),
        (3 * 2**30, "bytes", "3 GiB"),
        (35_710_339, "parameters", "35.7 M"),
        (7.3e9, "MAC", "7.3 G"),
    ],
)
def test_quantities_are_written_in_a_unit_that_reads_well(value, unit, text):
    assert bench_report.quantity(value, unit) == text


def test_denoising_step_advances_the_chain_of_the_sampler(monkeypatch):
    monkeypatch.setattr(bench_tasks, "DDIM_STEPS", 30)  # of which 1000 is no multiple
    diffusion, seen = Diffusion(), []

    def call(x, t):
        seen.append(int(t[0]))
        return torch.zeros_like(x)

    step = bench_tasks.step_task(call, torch.randn(1, 1, 8, 8), None)
    for _ in range(bench_tasks.DDIM_STEPS + 1):
        step()
    assert seen == [*samplers.trailing_timesteps(diffusion, 30), 999]


def test_training_step_updates_every_weight_from_images_at_all_diffusion_steps():
    model, seen = UNet(16, (1, 2), 1), []
    before = [p.clone() for p in model.parameters()]

    def call(x, t):
        seen.extend(t.tolist())
        return model(x, t)

    bench_tasks.training_task(call, torch.rand(3, 1, 16, 16), model)()
    assert seen == [0, 499, 999]
    assert all((a != b).any() for a, b in zip(model.parameters(), before, strict=True))


def test_networks_that_differ_in_the_gradient_alone_are_timed_in_training_only():
    measuring = bench.Bench(
        bench.Settings(models=("cunet", "cunet@gradient=checkpoint"), size="smoke", repeats=2)
    )
    measuring.count()
    measuring.time("forward", "eager", 1)
    measuring.time("training", "eager", 1)
    rows = [(row["task"], row["model"]) for row in measuring.rows]
    assert ("training", "cunet@gradient=checkpoint") in rows
    assert ("forward", "cunet@gradient=checkpoint") not in rows


def test_the_network_of_before_is_where_before_and_after_are_compared_and_nowhere_else(tmp_path):
    settings = dataclasses.replace(TINY, models=("unet", "cunet", "cunet-first"), tasks=("operators",))
    frame = bench.run(settings, tmp_path).operators
    assert list(dict.fromkeys(frame["model"])) == ["unet", "cunet", "cunet-first"]
    measuring = bench.Bench(settings)
    about = {task for task in bench.TASKS if "cunet-first" in measuring.of(task)}
    assert about == {"training", "memory", "operators", "throughput"}
    table = bench_report.kinds(frame)
    assert table.sum().to_numpy() == pytest.approx(1.0) and "convolution" in table.index
    assert list(table.columns) == [("eager", name) for name in ("unet", "cunet", "cunet-first")]


def test_the_network_of_before_lies_with_the_channels_first_unless_it_is_asked_to_lie_otherwise():
    seen = {}
    for text in ("eager", "eager+channels_last"):
        model = contenders.network("cunet-first", "smoke", 3)
        model.middle.register_forward_hook(lambda _, given, out: seen.update(x=out[0]))
        call = bench_tasks.callable_in(model, bench_tasks.mode(text))
        call(torch.randn(2, 3, 32, 32), torch.tensor([3, 3]))
        last = text != "eager"
        assert seen["x"].is_contiguous(memory_format=torch.channels_last) == last
        assert seen["x"].is_contiguous() != last


@pytest.mark.parametrize(
    "operator, kind",
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::native_group_norm", "normalisation"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::addmm", "matrix product"),
        ("aten::upsample_nearest2d", "resampling"),
        ("aten::cat", "joining and copying"),
        ("aten::addcmul", bench_report.REST),
        ("aten::silu", bench_report.REST),
    ],
)
def test_an_operator_counts_to_what_it_does(operator, kind):
    frame = pd.DataFrame([dict(operator=operator, mode="eager", model="unet", share=1.0)])
    assert bench_report.kinds(frame).index.tolist() == [kind]


@pytest.mark.parametrize(
    "models, task",
    [
        (("cunet-first",), "step"),
        (("cunet@gradient=checkpoint",), "operators"),
        (("diffusers-unet2d",), "growth"),
        (("diffusers-unet2d",), "throughput"),
    ],
)
def test_a_task_that_is_about_none_of_the_networks_is_refused(models, task, tmp_path):
    settings = dataclasses.replace(TINY, models=models, tasks=(task,))
    with pytest.raises(InputError, match=f"Nothing of {models[0]} is measured in {task}"):
        bench.run(settings, tmp_path)
    assert not list(tmp_path.iterdir())


def test_network_that_does_not_compile_is_skipped_with_the_reason(monkeypatch):
    def no_compiler(model, dynamic):
        def call(*_):
            raise RuntimeError("no C++ compiler\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    measuring = bench.Bench(TINY)
    measuring.time("forward", "compiled", 1)
    assert measuring.rows == []
    assert measuring.skipped["unet, forward, compiled"] == "no C++ compiler"


@pytest.mark.long
def test_broken_compiler_is_skipped_with_the_reason():
    """The compiler itself, not a stand-in for torch.compile: its program does not exist."""
    from torch._inductor import config

    measuring = bench.Bench(dataclasses.replace(TINY, models=("cunet",)))
    with config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        measuring.time("forward", "compiled", 1)
    assert measuring.rows == [] and "compiler" in measuring.skipped["cunet, forward, compiled"]


def test_missing_package_is_skipped_with_the_reason(monkeypatch):
    real = bench.network

    def without(spec, size, channels):
        if spec == "lucidrains-unet":
            raise ImportError("No module named 'denoising_diffusion_pytorch'")
        return real(spec, size, channels)

    monkeypatch.setattr(bench, "network", without)
    measuring = bench.Bench(bench.Settings(models=("unet", "lucidrains-unet"), size="smoke", channels=1))
    measuring.count()
    assert measuring.specs == ["unet"] and "denoising_diffusion" in measuring.skipped["lucidrains-unet"]


def test_modes_set_memory_format_and_precision():
    seen = {}

    class Spy(torch.nn.Conv2d):
        def forward(self, sample, timestep):
            seen["out"] = super().forward(sample)
            return seen["out"]

    spy, how = Spy(2, 2, 3), bench_tasks.mode("eager+channels_last+bf16")
    assert how == (False, True, True)
    images = bench.Bench(bench.Settings(channels=2, size="smoke")).images(2, how)
    assert images.is_contiguous(memory_format=torch.channels_last)
    answer = bench_tasks.callable_in(spy, how)(images, torch.tensor([0, 0]))
    assert seen["out"].dtype == torch.bfloat16 and answer.dtype == torch.float32
    assert spy.weight.is_contiguous(memory_format=torch.channels_last)
    assert bench_tasks.callable_in(spy, bench_tasks.mode("eager")) is spy, "nothing is measured besides"


@pytest.mark.parametrize("name", ["diffusers-unet2d", "lucidrains-unet"])
def test_foreign_networks_answer_like_ours(name):
    try:
        model = contenders.network(name, "smoke", 1)
    except ImportError as error:
        pytest.skip(str(error))
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert model(x, torch.tensor([3, 900])).shape == model(x, 3).shape == x.shape


def test_a_name_may_carry_changes():
    assert contenders.network("cunet-released@attention=0,nf=4", "smoke", 1).first.out_channels == 4
    for spec, said in (("cunet-released@attention", "no change"), ("unet@colour=red", "cannot be built")):
        with pytest.raises(InputError, match=said):
            contenders.network(spec, "smoke", 1)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"tasks": ("foward",)}, "Unknown task 'foward'.*Did you mean 'forward'"),
        ({"modes": ("fast",)}, "Unknown mode 'fast'"),
        ({"modes": ("eager+tf32",)}, "Unknown mode 'eager.tf32'"),
        ({"batches": (0,)}, "batches and channels are 1 or more"),
        ({"models": ()}, "every list needs an entry"),
        ({"repeats": 1}, "repeats 2 or more"),
        ({"size": "huge"}, "Unknown size 'huge'"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        bench.Settings(**change)


@pytest.mark.parametrize("change", [{"side": (64,)}, {"batch": (0, 1)}, {"width": (1, 1)}, {"repeats": 1}])
def test_grid_without_an_exponent_is_refused(change):
    with pytest.raises(InputError, match="two or more points"):
        bench_growth.Grid(**change)
