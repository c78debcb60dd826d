"""Solver steps chosen for a while, or drawn in training: as asked, and afterwards as before."""

import pytest
import torch

from cunet import models
from cunet.blocks import ODEBlock
from cunet.convergence import with_solver
from cunet.depth import RandomDepth, solved_with
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


def test_depth_multiplies_the_steps_that_each_block_has_and_rounds_up():
    network = models.build("cunet", "smoke", channels=1)
    own = [module for module in network.modules() if isinstance(module, ODEBlock)]
    for number, block in enumerate(own):
        block.steps = 1 + number % 2
    for depth, expected in ((0.5, {1: 1, 2: 1}), (1, {1: 1, 2: 2}), (1.5, {1: 2, 2: 3}), (4, {1: 4, 2: 8})):
        with solved_with(network, depth=depth):
            assert [block.steps for block in own] == [expected[1 + n % 2] for n in range(len(own))]
    assert [block.steps for block in own] == [1 + n % 2 for n in range(len(own))]
    with pytest.raises(InputError, match="depth=0"), solved_with(network, depth=0):
        pass


def test_training_calls_draw_their_depth_by_the_seed_and_eval_calls_do_not():
    network = RandomDepth(widths=(4, 4), channels=1, time_width=16, steps=2, depths=(1, 3))
    (block, *_) = [module for module in network.modules() if isinstance(module, ODEBlock)]
    own, taken = block.steps, []
    block.register_forward_pre_hook(lambda module, _: taken.append(module.steps))

    def call(seed):
        torch.manual_seed(seed)
        network(images(), 5).sum().backward()
        return taken[-1]

    drawn = [call(seed) for seed in range(20)]
    assert set(drawn) == {own, 2 * own, 3 * own} and drawn == [call(seed) for seed in range(20)]
    assert block.steps == own
    network.eval()
    assert {call(seed) for seed in range(5)} == {own}
    with pytest.raises(InputError, match="depths=\\(0, 3\\)"):
        RandomDepth(widths=(4, 4), depths=(0, 3))
