"""Inputs that mean nothing are refused where they come in, not by an error of PyTorch somewhere inside."""

import math

import pandas as pd
import pytest
import torch

from cunet import (
    convergence,
    cost,
    figures,
    likelihood,
    metrics,
    models,
    noise_reading,
    posterior,
    sampling,
    synthesis_tables,
)
from cunet.blocks import ODEBlock, ode_blocks
from cunet.convergence import with_solver
from cunet.depth import solved_with
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.ode import solve
from cunet.recipe import configure


@pytest.mark.parametrize("solver", ["leapfrog", "nystrom4", "dopri5"])
def test_a_first_order_block_takes_solvers_of_fixed_steps_only(solver):
    with pytest.raises(InputError, match="first-order block.*euler, midpoint, rk4"):
        models.build("cunet-firstorder", "smoke", solver=solver)


@pytest.mark.parametrize("solver, evaluations", [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_a_first_order_block_counts_its_evaluations(solver, evaluations):
    network = models.build("cunet-firstorder", "smoke", channels=1, solver=solver, steps=3).eval()
    block, calls = next(m for m in network.modules() if isinstance(m, ODEBlock)), []
    block.acceleration.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network(torch.zeros(1, 1, 16, 16), 5)
        assert len(calls) == block.evaluations == 3 * evaluations
        with solved_with(network, 2, "midpoint"):
            network(torch.zeros(1, 1, 16, 16), 5)
            assert len(calls) - 3 * evaluations == block.evaluations == 4
    assert block.evaluations == 3 * evaluations


@pytest.mark.parametrize("solver, steps", [("leapfrog", 1), ("dopri5", 1), ("rk5", 1), ("rk4", 0)])
def test_a_first_order_network_is_not_solved_anew_by_what_it_does_not_take(solver, steps):
    network = models.build("cunet-firstorder", "smoke", channels=1)
    with pytest.raises(InputError, match="first-order block|Unknown solver|whole number"):
        with_solver(network, solver, steps)
    with pytest.raises(InputError), solved_with(network, steps, solver):
        pytest.fail("it was solved so")
    assert {(block.solver, block.gradient) for block in ode_blocks(network)} == {("euler", "direct")}


def test_gradients_that_a_solver_does_not_have_are_refused_before_any_call():
    network = models.build("cunet", "smoke", channels=1)
    with pytest.raises(InputError, match="gradient='reversible'"):
        with_solver(network, "leapfrog", 2, "reversible")


@pytest.mark.parametrize("name", ["unet", "cunet", "cunet-released"])
@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "torch.uint8.*from_uint8"),
        (torch.zeros(0, 1, 16, 16), "holds no pixel"),
        (torch.zeros(1, 1, 0, 16), "holds no pixel"),
    ],
)
def test_networks_refuse_what_is_no_batch_of_images(name, images, message):
    with pytest.raises(InputError, match=message):
        models.build(name, "smoke", channels=1)(images, 5)


@pytest.mark.parametrize("name", ["unet", "cunet", "cunet-released"])
def test_images_of_another_dtype_than_the_weights_are_refused_and_autocast_converts_them(name):
    network, images = models.build(name, "smoke", channels=1), torch.zeros(1, 1, 16, 16)
    for other in (torch.float64, torch.float16):
        with pytest.raises(InputError, match=rf"{other} and the network's weights torch.float32: convert"):
            network(images.to(other), 5)
    with torch.no_grad():
        assert network.double()(images.double(), 5).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert network.float()(images.bfloat16(), 5).isfinite().all()


@pytest.mark.parametrize("name", ["unet", "cunet", "cunet-released"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool])
def test_timesteps_that_are_no_integers_are_refused(name, dtype):
    with pytest.raises(InputError, match=rf"dtype {dtype}: diffusion steps are integers"):
        models.build(name, "smoke", channels=1)(torch.zeros(2, 1, 16, 16), torch.ones(2, dtype=dtype))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"span": (0.0, math.nan)}, "two finite times"),
        ({"span": (0.0, math.inf)}, "two finite times"),
        ({"span": (0.0, 0.5, 1.0)}, "two finite times"),
        ({"solver": "dopri5", "tolerance": -1.0}, "tolerance=-1.0"),
        ({"solver": "dopri5", "tolerance": math.nan}, "tolerance=nan"),
    ],
)
def test_spans_and_tolerances_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        solve(lambda s, x, v: -x, torch.ones(1), torch.ones(1), **changes)


NONE, ONE, FEATURES = torch.zeros(0, 1, 16, 16), torch.zeros(1, 1, 16, 16), torch.rand(5, 256)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.bootstrap_interval(FEATURES, resamples=0), "resamples=0"),
        (lambda: metrics.tail(1), "a mean of 1 values"),
        (lambda: metrics.near_duplicates(NONE.byte(), torch.zeros(3, 1, 16, 16).byte()), "no images"),
        (lambda: metrics.features([]), "no batch of images"),
        (lambda: metrics.kid(FEATURES, FEATURES + 1, subsets=0), "0 subsets of 5 images"),
        (lambda: metrics.kid(FEATURES[:1], FEATURES), "subsets of 1 images, of 1 real and 5"),
        (lambda: list(sampling.walk(lambda x, t: x, NONE, Diffusion(), [])), "timesteps is empty"),
        (lambda: cost.fastest(lambda: 0, 0), "repeats=0"),
        (lambda: cost.compare({}), "cannot be compared"),
        (lambda: cost.compare({"a": [1.0], "b": []}), "'b': 0"),
        (lambda: posterior.posterior(NONE, NONE, 1.0, chunk=0), "chunk=0"),
        (lambda: likelihood.bits_per_dimension(None, Diffusion(), NONE, batch_size=0), "batch_size=0"),
        (lambda: noise_reading.noise_found(None, Diffusion(), NONE, []), "told is empty"),
        (lambda: noise_reading.read(None, Diffusion(), NONE, NONE + 1, [5], [5, 9, 20]), "known is empty"),
        (lambda: noise_reading.read(None, Diffusion(), ONE, ONE, [], [5, 9, 20]), "true is empty"),
        (lambda: noise_reading.read(None, Diffusion(), ONE, ONE, [5], []), "told is empty"),
        (lambda: figures.image_grid(NONE), "no images to draw in the sheet"),
        (lambda: figures.image_grid(ONE, columns=0), "columns=0"),
        (lambda: figures.image_rows({}), "0 rows without an image"),
        (lambda: figures.image_rows({"a": NONE}), "1 rows without an image"),
        (lambda: figures.sheet_rows({}), "no images to draw in a sheet of no rows"),
        (lambda: figures.sheet_rows({"mnist": {}}), "no images to draw in mnist"),
        (lambda: figures.fd_against_steps(pd.DataFrame(columns=["sampler"])), "no distances to draw"),
        (lambda: synthesis_tables.best(pd.DataFrame(dict(steps=[], fd=[]))), "None of 0 rows"),
        (lambda: synthesis_tables.images_to(dict(validation=[]), 0.1), "no validation loss"),
        (lambda: convergence.needed(pd.DataFrame()), "No error was measured"),
    ],
)
def test_nothing_to_do_is_refused_by_name_and_not_by_an_index_that_is_out_of_range(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_folder_of_images_is_a_data_set_with_a_root_and_its_path_in_no_files_name():
    config = configure({"dataset": "folder:/my pictures/a:b"})
    assert (config.dataset, config.data_root) == ("folder", "/my pictures/a:b")
    assert config.name == "folder-cunet-laptop-s0"
    with pytest.raises(InputError, match="dataset="):
        configure({"dataset": "../x"})
