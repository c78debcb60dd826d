"""Solver steps chosen for a while, or drawn in training: as asked, and afterwards as before."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from cunet import checkpoints, models, training
from cunet.blocks import ODEBlock, ode_blocks
from cunet.convergence import with_solver
from cunet.depth import solved_with
from cunet.errors import InputError, TrainingInterrupted
from cunet.models import RandomDepth
from cunet.recipe import TrainConfig, stream
from cunet.training import train


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


@torch.no_grad()
def test_after_other_steps_an_adaptive_network_still_knows_the_evaluations_of_its_last_call():
    network = models.build("cunet@solver=dopri5", "smoke", channels=1).eval()
    network(images(), torch.full((2,), 300))
    block = ode_blocks(network)[0]
    block.made += 5  # as a harder equation would have taken
    with solved_with(network, 2, "leapfrog"):
        assert block.evaluations == 2
    assert block.evaluations == block.made and network.evaluations == sum(b.made for b in ode_blocks(network))


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


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_that_cannot_be_are_refused(steps):
    network = models.build("cunet", "smoke", channels=1)
    with pytest.raises(InputError, match="whole number"), solved_with(network, steps):
        pass


def gradients(call, network, seed=5):
    torch.manual_seed(seed)
    network.zero_grad()
    call(images(), torch.full((2,), 300)).square().mean().backward()
    return [p.grad.clone() for p in network.parameters()]


def test_the_way_back_takes_the_depth_that_the_way_forth_drew():
    """Whether f is kept or computed again, in the blocks or around the whole network."""
    torch.manual_seed(0)
    network = models.build("cunet-randomdepth", "smoke", 1).train()
    for seed in range(4):
        direct = gradients(network, network, seed)
        whole = gradients(lambda x, t: checkpoint(network, x, t, use_reentrant=False), network, seed)
        for block in (m for m in network.modules() if isinstance(m, ODEBlock)):
            block.gradient = "checkpoint"
        again = gradients(network, network, seed)
        for block in (m for m in network.modules() if isinstance(m, ODEBlock)):
            block.gradient = "direct"
        for others in (whole, again):
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(direct, others, strict=True))


def test_a_compiled_network_draws_as_the_network_does():
    torch.manual_seed(0)
    network = models.build("cunet-randomdepth", "smoke", 1).train()
    compiled = torch.compile(network, backend="eager")
    for seed in range(6):
        pairs = zip(gradients(network, network, seed), gradients(compiled, network, seed), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def prepared(tmp_path):
    config = TrainConfig(model="cunet-randomdepth", size="smoke", batch_size=4, seed=3)
    return training.Training(
        config, tmp_path / "x.safetensors", training.start_fabric(config), training.Signals()
    )


def depths(run, rank):
    """Of twelve steps, as the process of that rank draws them: two calls a step, as for two parts."""
    fabric, drawn = SimpleNamespace(global_rank=rank, device=torch.device("cpu")), []
    for step in range(12):
        run.batches.seed_network(run.network, step, fabric)
        drawn += [run.network._drawn(), run.network._drawn()]
    return drawn


def test_all_devices_and_all_parts_of_a_batch_take_one_depth(tmp_path):
    run = prepared(tmp_path)
    alone = depths(run, rank=0)
    assert set(alone) == {1, 2, 3} and alone[::2] == alone[1::2]
    assert alone == depths(run, rank=1) == depths(run, rank=5)


def test_the_depths_are_those_of_the_networks_that_ship(tmp_path):
    """One process drew them from torch's own generator, seeded by seed and step."""
    before = []
    for step in range(12):
        torch.manual_seed(stream(3, "network", step, 0))
        before.append(int(torch.randint(1, 4, ())))
    assert depths(prepared(tmp_path), rank=0)[::2] == before


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A training of random depth, undisturbed and stopped in between: draws and weights of both."""
    config = TrainConfig(model="cunet-randomdepth", size="smoke", images=48, batch_size=4, warmup=2,
                         validate_every=0)  # fmt: skip
    drawn, draw = [], RandomDepth._drawn

    def noted(network):
        drawn.append(draw(network))
        return drawn[-1]

    monkeypatch.setattr(RandomDepth, "_drawn", noted)
    once = checkpoints.load(train(config, tmp_path / "a", progress=False))[0]
    whole, step, number = list(drawn), training.Training.train_step, itertools.count()

    def stopped_after_five(self):
        loss = step(self)
        self.stop.requested = next(number) == 4
        return loss

    drawn.clear()
    monkeypatch.setattr(training.Training, "train_step", stopped_after_five)
    with pytest.raises(TrainingInterrupted):
        train(config, tmp_path / "b", progress=False)
    torch.manual_seed(99)  # whatever was drawn in between
    resumed = checkpoints.load(train(config, tmp_path / "b", progress=False))[0]
    return whole, drawn, once, resumed


def test_a_training_that_was_stopped_draws_what_an_undisturbed_one_draws(stopped):
    whole, drawn, _, _ = stopped
    assert len(whole) == 12 and set(whole) == {1, 2, 3} and drawn == whole


def test_a_training_that_was_stopped_ends_with_the_same_bits(stopped):
    _, _, once, resumed = stopped
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), resumed.parameters(), strict=True))
