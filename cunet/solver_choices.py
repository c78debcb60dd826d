"""What `cunet.solver_study` compares: solvers, each with the number of its evaluations of f in a block."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import nn

from . import convergence, models
from .blocks import ode_blocks
from .errors import InputError
from .ode import ADAPTIVE, EVALUATIONS

A_STEP = {solver: n for solver, n in EVALUATIONS.items() if solver not in ADAPTIVE}  # evaluations of f
OWN = "own"  # the solver and the steps that the network has by itself
CHOICES = (
    OWN,
    *(f"leapfrog:{n}" for n in (1, 2, 3, 4, 8)),
    *(f"midpoint:{n}" for n in (2, 4, 8)),
    *(f"{solver}:{n}" for solver in ("nystrom4", "rk4") for n in (4, 8)),
)


class Choice(NamedTuple):
    """A solver, and the evaluations of f that it makes in a block; 0 stands for OWN."""

    solver: str
    evaluations: int

    @property
    def steps(self) -> int:
        return self.evaluations // A_STEP[self.solver]

    @property
    def text(self) -> str:
        return OWN if self.solver == OWN else f"{self.solver}:{self.evaluations}"

    @property
    def model(self) -> str:
        """The name of the network trained with it."""
        return "cunet" if self.solver == OWN else f"cunet@solver={self.solver},steps={self.steps}"

    def applied(self, network: nn.Module) -> nn.Module:
        """The network, solved so. network: as it was trained, with a solver of CHOICES."""
        if self.solver != OWN:
            return convergence.with_solver(network, self.solver, self.steps)
        own = ode_blocks(models.build("cunet", network.size, network.channels))
        network = copy.deepcopy(network)
        for block, like in zip(ode_blocks(network), own, strict=True):
            block.solve_with(like.solver, like.steps, like.gradient)
        return network


def choice(text: str) -> Choice:
    """ "midpoint:4" -> Choice("midpoint", 4). Raises InputError for another solver or broken steps."""
    if text == OWN:
        return Choice(OWN, 0)
    solver, _, number = text.partition(":")
    each = A_STEP.get(solver)
    if each is None or not number.isdigit() or not int(number) or int(number) % each:
        known = ", ".join(f"{name} ({n} a step)" for name, n in A_STEP.items())
        raise InputError(
            f"{text!r} is no solver with its evaluations a block: expected {OWN}, or one of {known}, and "
            "whole steps, as in midpoint:4."
        )
    return Choice(solver, int(number))
