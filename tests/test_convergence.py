"""Looking into the ODE blocks of a network: what is found there has to be what the network does."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from cunet import convergence, models
from cunet.errors import InputError

KINDS = ("cunet", "cunet-firstorder", "cunet-released", "cunet-released-plain")


def network(name):
    torch.manual_seed(0)
    net = models.build(name, "smoke", channels=1).eval()
    with torch.no_grad():  # as strong as a trained one
        for p in net.parameters():
            p.mul_(1.5)
    return net


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", KINDS)
def test_an_equation_solved_as_the_network_does_is_the_block(name, images):
    net = network(name)
    found = convergence.equations(net, images, 300)
    recorded = convergence.record(net, images, 300)
    assert len(found) == 9 and [e.name for e in found] == list(recorded)
    assert {e.order for e in found} == {2 if name == "cunet" else 1}
    for e in (found[0], found[4], found[8]):
        block, args = recorded[e.name]
        if hasattr(block, "attention"):
            block.attention = None
        with torch.no_grad():
            out = block(*args)
        out = torch.cat(out, 1) if isinstance(out, tuple) else out
        z, evaluations = e.solve(e.solver, e.steps)
        torch.testing.assert_close(z, out, rtol=0, atol=1e-12)
        assert evaluations == (e.steps if "released" not in name else 4)
    if "released" not in name:  # one step at full resolution, two where the side is coarsest
        assert [found[i].steps for i in (0, 4, 8)] == [1, 2, 1]


def test_a_constant_push_tells_a_second_order_block_from_the_released_one(images):
    for block, (x, v, embedding) in convergence.record(network("cunet"), images, 300).values():
        block.acceleration.forward = lambda s, x, v, modulation: torch.full_like(x, 3.0)
        torch.testing.assert_close(block(x, v, embedding), (x + v + 1.5, v + 3), rtol=0, atol=1e-9)
    for block, (z, *rest) in convergence.record(network("cunet-released"), images, 300).values():
        block.attention, block.derivative.forward = None, lambda s, z: torch.full_like(z, 3.0)
        torch.testing.assert_close(block(z, *rest), z + 3, rtol=0, atol=1e-9)


def test_looking_changes_nothing(images):
    net = network("cunet")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        out = net(images, 300)
        convergence.errors(convergence.equations(net, images, 300)[:1], ("leapfrog",), (1,))
        changed = convergence.with_solver(net, "rk4", 1)
        assert not torch.equal(changed(images, 300), out) and changed.evaluations == 36
        assert torch.equal(net(images, 300), out) and net.evaluations == 14
    assert all(torch.equal(v, before[k]) and v.dtype == torch.float32 for k, v in net.state_dict().items())


def test_errors_fall_with_the_order_of_the_solver(images):
    blocks = convergence.equations(network("cunet"), images, 300)[:1]
    frame = convergence.errors(blocks, ("euler", "leapfrog", "nystrom4"), (4, 8, 16, 32))
    assert list(frame.columns) == ["block", "order", "solver", "steps", "evaluations", "share"]
    for solver, order in (("euler", 1), ("leapfrog", 2), ("nystrom4", 4)):
        line = frame[frame.solver == solver]
        slope = np.polyfit(np.log(line.steps[1:]), np.log(line.share[1:]), 1)[0]
        assert -slope == pytest.approx(order, abs=0.35)
        assert (line.evaluations == line.steps * {"nystrom4": 4}.get(solver, 1)).all()


def test_standing_still_has_the_error_one(images):
    e = convergence.equations(network("cunet"), images, 300)[3]
    assert e.share(torch.cat(e.start, 1), e.converged()) == pytest.approx(1)
    assert e.share(e.converged(), e.converged()) == 0


def test_an_equation_can_be_stopped_on_the_way(images):
    e = convergence.equations(network("cunet"), images, 300)[0]
    x, _ = e.solve("nystrom4", 4, end=1e-6)[0].chunk(2, 1)
    torch.testing.assert_close((x - e.start[0]) / 1e-6, e.start[1], rtol=1e-3, atol=1e-4)


def frame(shares, steps=(1, 2, 4, 8)):
    return pd.DataFrame(
        dict(block="b", solver="s", steps=steps, evaluations=[2 * n for n in steps], share=shares)
    )


@pytest.mark.parametrize(
    ("shares", "of", "expected"),
    [
        ([n**-2.0 for n in (1, 2, 4, 8)], "steps", 10.0),  # beyond the last point
        ([n**-2.0 for n in (1, 2, 4, 8)], "evaluations", 20.0),
        ([0.1 * n**-2.0 for n in (1, 2, 4, 8)], "steps", math.sqrt(10)),  # between two points
        ([0.005, 0.004, 0.003, 0.002], "steps", 1.0),  # at once
        (
            [0.5, 0.001, 0.05, 0.001],
            "steps",
            4 * 2 ** (math.log(5) / math.log(50)),
        ),  # the last crossing counts
        ([0.1, 0.1, 0.1, 0.1], "steps", math.inf),
    ],
)
def test_needed_reads_the_crossing_off_the_line(shares, of, expected):
    assert convergence.needed(frame(shares), of=of)["b", "s"] == pytest.approx(expected)


def test_what_has_no_blocks_or_no_such_solver_is_refused(images):
    with pytest.raises(InputError, match="no ODE blocks"):
        convergence.equations(models.build("unet", "smoke", channels=1), images, 3)
    with pytest.raises(InputError, match="no blocks with a choice"):
        convergence.with_solver(network("cunet-released"), "rk4", 1)
    with pytest.raises(InputError, match="first order and 'leapfrog'"):
        convergence.equations(network("cunet-released"), images, 3)[0].solve("leapfrog", 1)
