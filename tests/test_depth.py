"""Solver steps chosen for a while, or drawn in training: as asked, and afterwards as before."""

import pytest
import torch

from cunet import models
from cunet.blocks import ODEBlock
from cunet.convergence import with_solver
from cunet.depth import RandomSteps, solved_with
from cunet.errors import InputError


def images(n=2):
    return torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_within_the_blocks_are_solved_as_asked_and_after_as_before():
    network, x, t = models.build("cunet", "smoke", channels=1).eval(), images(), torch.full((2,), 300)
    plain = network(x, t)
    with pytest.raises(RuntimeError), solved_with(network, 5, "midpoint"):
        within = network(x, t)
        raise RuntimeError("whatever happens within")
    assert torch.equal(within, with_solver(network, "midpoint", 5)(x, t))
    assert not torch.equal(within, plain) and torch.equal(network(x, t), plain)


def test_a_network_without_an_ode_has_no_steps_to_choose():
    with pytest.raises(InputError, match="no ODE blocks"), solved_with(models.build("unet", "smoke", 1), 2):
        pass


def test_training_calls_draw_their_steps_by_the_seed_and_eval_calls_do_not():
    network = RandomSteps(widths=(4, 4), channels=1, time_width=16, random_steps=(1, 3))
    (block, *_) = [module for module in network.modules() if isinstance(module, ODEBlock)]
    taken = []
    block.register_forward_pre_hook(lambda module, _: taken.append(module.steps))

    def call(seed):
        torch.manual_seed(seed)
        network(images(), 5).sum().backward()
        return taken[-1]

    drawn = [call(seed) for seed in range(20)]
    assert set(drawn) == {1, 2, 3} and drawn == [call(seed) for seed in range(20)]
    assert block.steps == 2, "the network's own"
    network.eval()
    assert {call(seed) for seed in range(5)} == {2}
    with pytest.raises(InputError, match="random_steps=\\(0, 3\\)"):
        RandomSteps(widths=(4, 4), random_steps=(0, 3))
