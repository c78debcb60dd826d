"""Images a second of training: which networks, trained how, and whether their data are read fast enough."""

import json
import time

import pandas as pd
import pytest
import torch
from conftest import ROOT

from cunet import bench, bench_report, bench_throughput, contenders, models, results_page
from cunet.batches import Batches
from cunet.datasets import ImageDataset

FEW = 0.1  # of a step: more would be worth reading ahead
TINY = bench_throughput.RECIPE.model_copy(update=dict(size="smoke", batch_size=4))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The task, alone, at smoke size: its frame and its folder."""
    out = tmp_path_factory.mktemp("throughput")
    settings = bench.Settings(
        models=("unet", "cunet", "cunet-first", "cunet@gradient=checkpoint", "diffusers-unet2d"),
        tasks=("throughput",),
        repeats=2,
        warmup=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        real = bench_throughput.run
        patch.setattr(bench_throughput, "run", lambda *given: real(*given, recipe=TINY))
        return bench.run(settings, out), out


def test_every_network_of_ours_is_trained_the_first_version_too(measured):
    frame = measured[0].throughput
    assert frame["model"].tolist() == ["unet", "cunet", "cunet-first", "cunet@gradient=checkpoint"]
    assert list(frame) == bench_throughput.COLUMNS and (frame["batch"] == 4).all()
    seconds = frame["batch"] / frame["images_per_second"]
    assert (seconds / seconds[0]).tolist() == pytest.approx(frame["ratio"].tolist())
    for value, low, high in (("ratio", "low", "high"), ("data", "data_low", "data_high")):
        assert ((frame[low] <= frame[value]) & (frame[value] <= frame[high])).all()


def test_files_hold_what_was_returned_and_the_recipe(measured):
    outcome, out = measured
    pd.testing.assert_frame_equal(pd.read_csv(out / "bench_throughput.csv"), outcome.throughput)
    record = json.loads((out / "bench_throughput.json").read_text())
    assert record["recipe"]["size"] == "laptop" and record["recipe"]["batch_size"] == 64
    assert {path.suffix for path in out.iterdir()} == {".csv", ".json"}, "no weights were saved"
    (printed,) = bench_report.tables(outcome)
    assert "| cunet-first" in printed and "images a second" in printed and "getting the batch" in printed


def test_the_data_of_the_trainings_that_ship_are_read_in_a_small_share_of_a_step():
    """With the batches of these trainings; a twentieth of the limit was seen."""
    frame = bench_throughput.run(("cunet",), repeats=3, warmup=1)
    assert frame["data"].item() < FEW


def test_data_that_are_read_slowly_are_seen_to_take_most_of_a_step(monkeypatch):
    real = ImageDataset.batch

    def slow(self, numbers):
        time.sleep(0.5)
        return real(self, numbers)

    monkeypatch.setattr(ImageDataset, "batch", slow)
    frame = bench_throughput.run(("cunet",), repeats=2, warmup=1, recipe=TINY)
    assert FEW < 0.5 < frame["data"].item() < 1.1, "drawn once in a step, and once alone"


def test_the_committed_trainings_were_not_limited_by_their_data():
    path = ROOT / results_page.BENCH / "bench_throughput.csv"
    if not path.is_file():
        pytest.skip("make bench has not written it yet")
    frame = pd.read_csv(path)
    assert {"unet", "cunet", contenders.BEFORE} <= set(frame["model"])
    assert (frame["data_high"] < FEW).all()


def test_nothing_random_is_moved_and_the_batches_are_those_of_the_training():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    bench_throughput.run(("cunet",), repeats=2, warmup=0, recipe=TINY)
    assert torch.rand(1) == expected
    run = bench_throughput._training("cunet", TINY)
    assert isinstance(run.batches, Batches) and run.network.size == "smoke"


def test_the_network_of_before_is_the_first_that_was_released():
    """As its weights in the history have it: so many parameters; two evaluations in each of nine blocks."""
    network = contenders.network(contenders.BEFORE, "laptop", 1)
    assert network.evaluations == 2 * 9 and network.position.out_channels == 8
    assert sum(p.numel() for p in network.parameters()) == 566_673
    trained = bench_throughput._training(contenders.BEFORE, bench_throughput.RECIPE).network
    assert trained.state_dict().keys() == network.state_dict().keys()
    for size in models.SIZES:
        assert contenders.network(contenders.BEFORE, size, 1).evaluations == 18
