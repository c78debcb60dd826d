"""Figure 2 of the paper: an ODE block, and the network inside it that gives the acceleration.

As with `cunet.diagram`, nothing is drawn from memory. When the solver asks for an acceleration is recorded in
one call of the block. What the acceleration network does is traced through its `forward` by `torch.fx`, which
sees every operation: those of layers, and those written as functions (joining, normalising, scaling).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from matplotlib.figure import Figure
from torch import fx, nn

from .blocks import Acceleration, ODEBlock
from .diagram import KINDS, short
from .palette import PAGE, style

VIEWS = {"getitem", "chunk", "view", "reshape"}  # operations that only look at a part of what they read
WORDS = {
    "cat": "join x and v",
    "mul": "s × learned direction",
    "add": "+",
    "group_norm": "group norm",
    "addcmul": "× (1 + scale) + shift",
    "silu": "SiLU",
}
TIME, SPACE = {"s", "modulation"}, {"x", "v"}  # arguments of `Acceleration.forward`


@dataclass
class Operation:
    """One operation of the acceleration network, or one of its arguments.

    says: in words. reads: names of the operations whose results it takes. needs: arguments that it depends
    on. parameters: of its layer. channels: of its result; 0 if that is no tensor.
    """

    name: str
    says: str
    reads: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)
    parameters: int = 0
    channels: int = 0


def operations(acceleration: Acceleration) -> dict[str, Operation]:
    """What `forward` does, in order, arguments first and the result, "output", last; views left out."""
    graph = fx.symbolic_trace(acceleration)
    layers = dict(acceleration.named_modules())
    found: dict[str, Operation] = {}
    stands_for: dict[str, list[str]] = {}  # a node, or one left out -> the operations that it comes from
    for node in graph.graph.nodes:
        reads = list(dict.fromkeys(s for n in node.all_input_nodes for s in stands_for[n.name]))
        kind = _kind(node)
        constant = kind == "add" and len(node.all_input_nodes) == 1  # 1 + scale
        if node.op == "get_attr" or kind in VIEWS or constant:
            stands_for[node.name] = reads
            continue
        stands_for[node.name] = [node.name]
        layer = layers[node.target] if node.op == "call_module" else None
        found[node.name] = Operation(
            node.name,
            _says(layer) if layer else WORDS.get(kind, kind),
            reads,
            {node.name} if node.op == "placeholder" else set().union(*(found[r].needs for r in reads)),
            sum(p.numel() for p in layer.parameters()) if layer else 0,
            getattr(layer, "out_channels", 0),
        )
    return found


def _kind(node: fx.Node) -> str:
    """The name of a node's function, or what it is."""
    if node.op in ("placeholder", "output", "call_method"):
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _says(layer: nn.Module) -> str:
    """A layer in words."""
    if isinstance(layer, nn.Conv2d):
        return "{} × {} conv".format(*layer.kernel_size)
    return type(layer).__name__


def asked(block: ODEBlock, side: int = 4) -> list[float]:
    """The times s at which one call of the block asks for an acceleration, in order."""
    force, times = block.acceleration, []
    x, v = force.conv1.weight.new_zeros(2, 1, force.conv1.in_channels // 2, side, side)
    embedding = force.conv1.weight.new_zeros(1, force.scale_shift.in_features)
    hook = force.register_forward_pre_hook(lambda _, arguments: times.append(float(arguments[0])))
    try:
        with torch.no_grad():
            block(x, v, embedding)
    finally:
        hook.remove()
    return times


# ---------------------------------------------------------------------------------------------------- drawing


def figure(block: ODEBlock) -> Figure:
    """The block (left) and its acceleration network (right), each as `asked` and `operations` find it."""
    with style():
        drawn = Figure(figsize=(PAGE, 4.2))
        left, right = drawn.subplots(1, 2, width_ratios=(1, 2.1))
        _draw_block(left, block)
        _draw_network(right, block.acceleration)
        for axes in (left, right):
            axes.set_axis_off()
    return drawn


def _draw_block(axes, block: ODEBlock) -> None:
    """The solver, and what it hands to f and gets back."""
    times = asked(block)
    order = block.acceleration.order
    steps = f"{block.steps} step" + "s" * (block.steps != 1)
    _box(axes, 0, 2, f"solver\n{block.solver}, {steps}\ns from 0 to 1", KINDS["ODEBlock"], height=1.5)
    _box(axes, 2.1, 2, "f", "#444444", width=0.8, height=1.5)
    _box(axes, 2.1, 3.7, "embedding of t", "", width=1.5)
    _box(axes, 0, 3.7, "x(0), v(0)", "")
    _box(axes, 0, 0.3, "x(1), v(1)", "")
    _arrow(axes, (0, 3.45), (0, 2.77))
    _arrow(axes, (0, 1.23), (0, 0.55))
    _arrow(axes, (2.1, 3.45), (2.1, 2.77))
    _arrow(axes, (0.85, 2.35), (1.68, 2.35), "s, x, v")
    _arrow(axes, (1.68, 1.65), (0.85, 1.65), "x''" if order == 2 else "x', v'", below=True)
    number = f"asked {len(times)} time" + "s" * (len(times) != 1)
    shown = ", ".join(f"{s:.3g}" for s in times[:6]) + (", ..." if len(times) > 6 else "")
    axes.text(2.1, 1.12, f"{number}:\ns = {shown}", ha="center", va="top", fontsize=7)
    axes.set(xlim=(-0.95, 3.0), ylim=(-0.1, 4.1))
    axes.set_title(f"an ODE block, {block.acceleration.conv1.in_channels // 2} channels")


def _draw_network(axes, acceleration: Acceleration) -> None:
    """The operations, the way of x and v down the middle, what depends on time alone at its left."""
    found = operations(acceleration)
    rows, columns = _places(found)
    colours = {"conv": KINDS["Conv2d"], "residual": KINDS["ResidualBlock"]}
    for name, one in found.items():
        at = (columns[name], -rows[name])
        for source in one.reads:
            start = (columns[source], -rows[source])
            if at[0] > 1:  # at the right of the middle: out at the side, then down
                way = [start[0] + 0.9, at[0], at[0]], [start[1], start[1], at[1]]
                axes.plot(*way, color="0.45", lw=0.8, zorder=1)
            else:
                _arrow(axes, (start[0], start[1] - 0.28), (at[0], at[1] + 0.28))
        linear = sum(p.numel() for p in acceleration.scale_shift.parameters())
        told = f"Linear, embedding of t\n{short(linear)} parameters"
        says = {"modulation": told, "output": "f"}.get(name, one.says)
        says = name if name in SPACE | {"s"} else says
        if one.parameters:
            says += f" → {one.channels}\n{short(one.parameters)} parameters"
        plain = name in SPACE | {"s", "output"}
        colour = "" if plain else colours.get(name.rstrip("0123456789"), "#444444")
        colour = KINDS["InitialVelocity"] if "modulation" in one.needs and not one.needs & SPACE else colour
        _box(axes, *at, says, colour, width=0.5 if plain else 1.8, height=0.56)
    low, high = min(columns.values()), max(columns.values())
    axes.set(xlim=(low - 0.95, high + 0.95), ylim=(-max(rows.values()) - 0.4, 0.4))
    number = sum(p.numel() for p in acceleration.parameters())
    axes.set_title(f"f, traced: {short(number)} parameters")


def _places(found: dict[str, Operation]) -> tuple[dict[str, float], dict[str, float]]:
    """Row and column of each operation: the longest way from x and v to the output goes down the middle."""
    depth: dict[str, int] = {}
    for name, one in found.items():
        depth[name] = max((depth[r] + 1 for r in one.reads if found[r].needs & SPACE), default=0)
    middle, name = [], "output"
    while found[name].reads:
        middle.append(name)
        name = max((r for r in found[name].reads if found[r].needs & SPACE), key=depth.get)
    rows = {name: float(depth[name]) for name in middle}
    columns = dict.fromkeys(middle, 0.0) | {"x": -0.4, "v": 0.4}
    rows |= {"x": 0.0, "v": 0.0}
    for name in reversed([n for n in found if n not in rows]):  # each a row above the first that reads it
        readers = [n for n, one in found.items() if name in one.reads]
        beside = bool(found[name].needs & SPACE)
        rows[name] = min(rows[n] for n in readers) - 1
        columns[name] = 2.0 if beside else -2.0 if found[name].needs != {"s"} else -4.0
    return rows, columns


def _box(axes, x: float, y: float, text: str, colour: str, width: float = 1.7, height: float = 0.5) -> None:
    """A box with a text; without a colour, the text alone."""
    from matplotlib.patches import Rectangle

    if colour:
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(Rectangle(corner, width, height, fc=colour, ec="white", lw=0.5, zorder=2))
    size, hue = 6 if colour else 7.5, "white" if colour else "black"
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=hue, zorder=3)


def _arrow(axes, start: tuple, end: tuple, text: str = "", below: bool = False) -> None:
    """An arrow, with a text over or below its middle."""
    looks = dict(arrowstyle="-|>", color="0.45", lw=0.8, shrinkA=0, shrinkB=0)
    axes.annotate("", end, start, arrowprops=looks)
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + (-0.07 if below else 0.07)
        axes.text(x, y, text, ha="center", va="top" if below else "bottom", fontsize=7)
