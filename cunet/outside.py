"""What an acceleration depends on besides its arguments.

A gradient that does not keep the graph of the forward pass (`reversible`, `adjoint` in ode.py) has to know
the tensors to differentiate with respect to. An acceleration is any callable, so they may come from a module,
a closure or a global, and may be results of other layers, as the time embedding is. Here they are found by
watching one evaluation, and a caller need not list them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .errors import InputError


class Outside(TorchFunctionMode):
    """Finds the tensors that enter an evaluation from outside, and puts stand-ins in their place.

    Inside this mode every tensor that enters a torch function and requires gradient is an outsider. While
    searching it is noted and replaced by its detached self, so that nothing computed from it requires
    gradient and is taken for an outsider too. Afterwards it is replaced by a view of itself (`views`).
    Derivatives with respect to the views are partial ones, even where one outsider was computed from another:
    no path leads from a view to another view.
    """

    def __init__(self):
        super().__init__()
        self.searching = True
        self.originals: dict[int, Tensor] = {}
        self.views: dict[int, Tensor] = {}

    def search(self, f: Callable, s: float | Tensor, x: Tensor, v: Tensor) -> Tensor:
        """Evaluate f(s, x, v), find its outsiders and return the value, without a graph.

        Raises InputError if something that requires gradient slipped through.
        """
        with torch.enable_grad(), self:
            a = f(s, x.detach(), v.detach())
        if a.requires_grad:
            raise InputError(
                "The acceleration uses a tensor that requires gradient where it cannot be followed (a "
                "compiled function, a script, an autograd.Function): use gradient='checkpoint' or 'direct'."
            )
        self.searching = False
        with torch.enable_grad():
            self.views = {key: tensor.view_as(tensor) for key, tensor in self.originals.items()}
        return a

    def wrap(self, f: Callable, device: str) -> Callable:
        """f with the views in place, under the autocast setting that holds now: for a backward pass."""
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def evaluate(s, x, v):
            with torch.autocast(device, dtype, enabled), self:
                return f(s, x, v)

        return evaluate

    def stand_in(self, tensor: Tensor) -> Tensor:
        """What a torch function gets to see in place of `tensor`."""
        if self.searching and tensor.requires_grad:
            self.originals[id(tensor)] = tensor
            return tensor.detach()
        return self.views.get(id(tensor), tensor)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(Tensor, self.stand_in, (args, kwargs or {}))
        return function(*args, **kwargs)
