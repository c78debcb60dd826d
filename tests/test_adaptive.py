"""Depth by need and reuse: the allocation is optimal, nothing is left changed, reuse is what it says."""

import itertools

import pytest
import torch

from cunet import adaptive, cost, datasets, models, sampling
from cunet.adaptive import Adaptive, Reusing, allocate
from cunet.depth import solved_with
from cunet.diffusion import Diffusion
from cunet.errors import InputError

DIFFUSION = Diffusion()


@pytest.fixture(scope="module", params=["cunet", "unet"])
def network(request):
    torch.manual_seed(0)
    return models.build(request.param, "smoke", channels=1).eval()


@pytest.fixture(scope="module")
def cunet():
    torch.manual_seed(0)
    return models.build("cunet", "smoke", channels=1).eval()


def images(n=2):
    return torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_allocation_is_the_best_of_all():
    cost = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    depths, budget = (1, 2, 4), 9
    every = [
        (sum(float(cost[i, j]) for i, j in enumerate(choice)), choice)
        for choice in itertools.product(range(3), repeat=4)
        if sum(depths[j] for j in choice) <= budget
    ]
    found = allocate(cost, depths, budget)
    assert found == list(min(every)[1])
    assert sum(depths[j] for j in found) <= budget
    with pytest.raises(InputError, match="budget=3"):
        allocate(cost, depths, 3)


def test_where_depth_helps_the_loss_is_measured_and_depth_goes():
    """A made-up network that errs by 1 / depth at t = 100 alone: all depth belongs there."""

    class OneHardStep(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = adaptive.blocks.ODEBlock(
                adaptive.blocks.Acceleration(1, 1, 4), steps=1, solver="leapfrog"
            )

        def forward(self, x, t):
            return DIFFUSION.to_output(self.x0.expand_as(x) + float(t[0] == 100) / self.block.steps, x, t)

    data = datasets.ImageDataset("grey", "train", torch.full((5, 1, 8, 8), 128, dtype=torch.uint8))
    network = OneHardStep()
    network.x0 = data.batch([0])
    found = adaptive.losses(network, DIFFUSION, data, [900, 100], [1, 2, 3], images=4)
    assert found.shape == (2, 3, 4)
    found = found.mean(-1)
    assert found[0].max() < 1e-8 and found[1, 0] > 3.9 * found[1, 1] > 0
    assert allocate(found, [1, 2, 3], 4) == [0, 2]


@torch.no_grad()
def test_an_adaptive_network_takes_the_depth_of_the_step(cunet):
    x, t = images(), torch.full((2,), 300)
    chosen = Adaptive(cunet, {300: 2, 100: 1})
    with solved_with(cunet, depth=2):
        expected = cunet(x, t)
    assert torch.equal(chosen(x, t), expected) and not torch.equal(expected, cunet(x, t))
    with pytest.raises(InputError, match="t = 5"):
        chosen(x, torch.full((2,), 5))


def test_work_counts_what_a_depth_adds_where_it_adds_it(cunet):
    once, twice, thrice = adaptive.work(cunet, [1, 2, 3])
    assert once == cost.macs(cunet, 16) and thrice - twice == twice - once > 0
    coarse, fine = cunet.middle, cunet.blocks_down[0]
    added = []
    for block in (coarse, fine):  # one evaluation more of either is no equal work
        block.steps += 1
        added.append(cost.macs(cunet, 16) - once)
        block.steps -= 1
    assert added[1] > 3 * added[0] > 0


def test_the_allocation_is_exact_for_work_of_any_size():
    generator = torch.Generator().manual_seed(1)
    costs, work = torch.rand(5, 3, generator=generator), (47_512_576, 57_817_088, 105_271_297)
    for budget in (5 * work[0], 280_000_000, 340_000_000, 5 * work[2]):
        every = [
            (sum(float(costs[i, j]) for i, j in enumerate(choice)), choice)
            for choice in itertools.product(range(3), repeat=5)
            if sum(work[j] for j in choice) <= budget
        ]
        assert allocate(costs, work, budget) == list(min(every)[1])


def test_errors_weigh_what_ddim_makes_of_them():
    """An error of v at one step moves the next image by sin(phi - phi'), to the last digit."""
    x = images(1).double()
    error = 1e-3
    for t, before in ((900, 700), (300, 0)):
        moved = []
        for extra in (0.0, error):
            v = 0.1 + extra
            x0 = DIFFUSION.to_x0(torch.full_like(x, v), x, t)
            epsilon = DIFFUSION.to_epsilon(torch.full_like(x, v), x, t)
            moved.append(DIFFUSION.add_noise(x0, epsilon, before))
        weight = adaptive.weights(DIFFUSION, [t, before])[0]
        assert float((moved[1] - moved[0]).abs().max()) == pytest.approx(
            error * float(weight) ** 0.5, rel=1e-6
        )


@torch.no_grad()
def test_reuse_takes_the_deep_blocks_of_the_last_call_and_computes_the_others(network):
    x, later = images(), images().flip(0)
    t, below = torch.full((2,), 500), torch.full((2,), 499)
    reusing = Reusing(network, every=2)
    assert torch.equal(reusing(x, t), network(x, t)), "the first call of a chain is the network's own"
    mixed = reusing(later, below)
    assert not torch.equal(mixed, network(later, below)) and not torch.equal(mixed, network(x, t))
    assert torch.equal(reusing(x, below - 1), network(x, below - 1)), "and so is every second one"
    assert torch.equal(reusing(later, t), network(later, t)), "a new chain begins afresh"
    assert "forward" not in vars(network.get_submodule(reusing.deep[0])), "and leaves the network as it was"


@torch.no_grad()
def test_no_chain_takes_over_what_an_interrupted_one_left(network, monkeypatch):
    x, later = images(), images().flip(0)
    t, below = torch.full((2,), 500), torch.full((2,), 300)
    reusing = Reusing(network, every=2)
    reusing(x, t)  # and then the chain is left
    reusing.reset()
    assert torch.equal(reusing(later, below), network(later, below)), "after a reset"
    reusing.reset()
    reusing(x, t)
    assert torch.equal(reusing(later[:1], below[:1]), network(later[:1], below[:1])), "of another shape"
    reusing.reset()
    reusing(x, t)
    with pytest.raises(Exception):  # noqa: B017 - whatever the network says to three channels
        reusing(later.expand(-1, 3, -1, -1), below)
    assert torch.equal(reusing(later, below - 1), network(later, below - 1)), "after an error"


def test_reusing_nothing_samples_as_the_network_does(network):
    made = [sampling.sample(n, 3, DIFFUSION, "ddim", 3, batch_size=2) for n in (network, Reusing(network, 1))]
    assert torch.equal(*made)
    reused = sampling.sample(Reusing(network, 3), 3, DIFFUSION, "ddim", 3, batch_size=2)
    assert not torch.equal(made[0], reused)


def test_what_cannot_be_reused_is_refused(network):
    assert len(adaptive.deep_blocks(network, 4)) < len(adaptive.deep_blocks(network, 8))
    with pytest.raises(InputError, match="side 1"):
        adaptive.deep_blocks(network, 1)
    with pytest.raises(InputError, match="every=0"):
        Reusing(network, 0)


def test_budgets_that_choose_alike_are_together():
    found = adaptive.merged({10: [1, 1], 12: [1, 2], 14: [1, 2], 20: [2, 2]})
    assert found == [([10], (1, 1)), ([12, 14], (1, 2)), ([20], (2, 2))]


def test_sets_of_samples_are_made_at_each_depth_and_the_network_is_as_before():
    torch.manual_seed(0)
    network, diffusion = models.build("cunet", "smoke", 1).eval(), Diffusion()
    before = network.evaluations
    found = adaptive.sampled(network, diffusion, [1.0, 3.0], lambda images: images, 2, 2, seed=5)
    assert network.evaluations == before and torch.equal(
        found[1.0], sampling.sample(network, 2, diffusion, "ddim", 2, 5)
    )
    with solved_with(network, depth=3.0):
        assert torch.equal(found[3.0], sampling.sample(network, 2, diffusion, "ddim", 2, 5))
    assert not torch.equal(found[1.0], found[3.0])


def test_samples_that_are_measured_are_made_on_the_first_gpu_whatever_wraps_the_network(cunet, monkeypatch):
    places, made = [], []
    monkeypatch.setattr(adaptive, "best_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, place: places.append((module, str(place))))
    for one in (cunet, Reusing(cunet, 2), Adaptive(cunet, {999: 1.0, 499: 3.0})):
        assert [id(p) for p in one.parameters()] == [id(p) for p in cunet.parameters()], "it goes along"
        made.append(adaptive.measured(one, DIFFUSION, lambda images: images, 2, 2, seed=5))
        assert places == [(one, "cuda:0"), (one, "cpu")] and not cunet.training
        places.clear()
    assert torch.equal(made[0], sampling.sample(cunet, 2, DIFFUSION, "ddim", 2, 5))
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
