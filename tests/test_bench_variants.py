"""What was tried for speed: which variants are the same function, and what the study writes."""

import copy
import json
import warnings

import pandas as pd
import pytest
import torch

from cunet import bench, bench_report, bench_variants, contenders, models
from cunet.bench_variants import COLUMNS, PLAIN, VARIANTS


def network(**changes) -> torch.nn.Module:
    """The plain network with every parameter drawn, so that none is 0, and more than one step a block."""
    model = models.build(PLAIN, "smoke", 1, steps=(1, 2, 2, 3), **changes).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return model


def answers(model) -> torch.Tensor:
    """What a network says of two batches at two diffusion steps, asked twice for the first of them."""
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.stack([model(images, torch.full((3,), t)) for t in (10, 900, 10)])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_the_same_function_if_it_says_so_and_no_other(name):
    plain = network()
    expected, found = answers(plain), answers(VARIANTS[name].make(copy.deepcopy(plain)).eval())
    assert found.shape == expected.shape
    assert ((found - expected).abs().max() <= 1e-5 * expected.abs().max()) == VARIANTS[name].same


def test_modulations_are_computed_once_a_diffusion_step():
    model, calls = network(), []
    model.middle.acceleration.scale_shift.register_forward_hook(lambda *_: calls.append(1))
    answers(bench_variants.modulations_once(model))
    assert len(calls) == 2


def test_feature_maps_lie_with_the_channels_first_where_that_is_measured():
    model, seen = contenders.channels_first(network()), []
    for block in (*model.blocks_down, model.middle, *model.blocks_up):
        block.register_forward_hook(lambda _, given, out: seen.append(out[0].is_contiguous()))
    answers(model)
    assert all(seen) and model.middle.acceleration.conv1.weight.is_contiguous()


def test_each_lever_changes_what_it_is_called_after():
    def answered(name):
        made = VARIANTS[name].make(network())
        evaluations = [block.evaluations for block in (*made.blocks_down, made.middle, *made.blocks_up)]
        kinds = {type(module).__name__ for module in made.modules()}
        return evaluations, kinds

    assert "Attention" not in answered("no attention")[1] and "Attention" in answered("one step")[1]
    assert set(answered("one step")[0]) == {1} and set(answered("two steps")[0]) == {2}
    assert answered("two steps, then one")[0] == [2, 2, 1, 1, 1, 1, 1, 2, 2]
    assert "AvgPool2d" in answered("pooled downsampling")[1]


def test_the_norm_is_left_out_and_nothing_else(monkeypatch):
    plain = network()
    without = bench_variants.no_normalisation(copy.deepcopy(plain))
    real = torch.nn.functional.group_norm
    monkeypatch.setattr(
        "cunet.blocks.F.group_norm",
        # attention's norm stays: it is a module, which hands on a weight
        lambda x, groups, *given: real(x, groups, *given) if given else x,
    )
    torch.testing.assert_close(answers(without), answers(plain))


def test_the_study_has_a_row_for_each_variant_and_batch(tmp_path):
    given = dict(size="smoke", channels=1, batches=(1, 2), tasks=("variants",), repeats=2, warmup=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bench.run(bench.Settings(models=("unet",), **given), tmp_path)
    frame = found.variants
    assert list(frame) == COLUMNS and found.measured is None
    assert frame["variant"].tolist() == [PLAIN, *VARIANTS] * 2
    assert (frame.loc[frame["variant"] == PLAIN, "ratio"] == 1).all() and (frame["ratio"] > 0).all()
    assert ((frame["low"] <= frame["ratio"]) & (frame["ratio"] <= frame["high"])).all()
    sizes = frame.set_index(["variant", "batch"])[["parameters", "MACs"]]
    for name in ("bottleneck", "separable convolutions", "no attention", "pooled downsampling"):
        assert (sizes.loc[(name, 1)] < sizes.loc[(PLAIN, 1)]).all()
    macs = sizes["MACs"].xs(1, level="batch")
    assert macs["one step"] < macs[PLAIN] < macs["two steps"] < 2 * macs["one step"]
    assert macs["no normalisation"] == macs[PLAIN] < macs["late 1x1 convolution"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "bench_variants.csv"), frame, check_dtype=False)
    record = json.loads((tmp_path / "bench_variants.json").read_text())
    assert record["settings"]["size"] == "smoke" and len(record["rows"]) == len(frame)
    (printed,) = bench_report.tables(found)
    assert "| bare solver" in printed and "| batch 1" in printed and "same function" in printed
