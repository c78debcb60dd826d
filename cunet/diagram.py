"""A network's architecture, found by running it: what it calls, in which order, and what reads what.

Nothing is drawn from memory. One forward pass of zeros, with hooks on every module, gives the *stages*: the
outermost modules that the network calls. Which stage reads which is asked of the autograd graph, from each
stage's output backwards until the output of another stage; so a skip connection appears if it is there, and a
time embedding that nothing reads is seen to be read by nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

INPUT = -1  # the index that stands for the network's input among a stage's sources


@dataclass
class Stage:
    """One call of one module. side, channels: of its output, channels of every tensor it returns.

    evaluations: the most often that one of its parts ran in this call (an ODE function, or 1). sources:
    indices of the stages that it reads, INPUT for the image. reads_time: whether its output depends on the
    diffusion step by a direct path. parameters: its own, trainable or not.
    """

    name: str
    kind: str
    side: int
    channels: tuple[int, ...]
    parameters: int
    evaluations: int = 1
    sources: set[int] = field(default_factory=set)
    reads_time: bool = False
    attends: bool = False


@dataclass
class Trace:
    """The stages that handle images, in order of their calls; those that handle t; what nothing calls.

    uncalled: parameters that belong to no called module, such as a table that the network indexes.
    """

    stages: list[Stage]
    time_stages: list[Stage]
    parameters: int
    uncalled: int

    def skips(self) -> list[tuple[int, int]]:
        """(from, to) of connections that pass over at least two stages.

        Where a stage reads several in a row (a sum of an attention and its input), the last stands for all.
        """
        return [
            (a, b)
            for b, stage in enumerate(self.stages)
            for a in sorted(stage.sources)
            if a != INPUT and b - a > 2 and a + 1 not in stage.sources
        ]


def trace(model: nn.Module, image_size: int, channels: int = 3) -> Trace:
    """Run the network once on zeros of (1, channels, image_size, image_size) and say what it does.

    The network comes back as it was: mode, gradients wanted, and no hooks left.
    """
    recorder = _Recorder(model)
    wanted = [p.requires_grad for p in model.parameters()]
    training = model.training
    try:
        model.eval().requires_grad_(True)
        sample = torch.zeros(1, channels, image_size, image_size, requires_grad=True)
        with torch.enable_grad():
            model(sample, torch.tensor([1]))
    finally:
        recorder.remove()
        model.train(training)
        for parameter, grad in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(grad)
    return recorder.trace(sample)


class _Recorder:
    """Hooks on every module; keeps the outermost calls below the network itself."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.depth = 0
        self.calls: list[tuple[str, nn.Module, list[Tensor], Counter]] = []
        self.inner: Counter = Counter()
        self.hooks = []
        for name, module in model.named_modules():
            if module is not model:
                self.hooks.append(module.register_forward_pre_hook(self._enter))
                self.hooks.append(module.register_forward_hook(self._leave(name)))

    def _enter(self, module, _args):
        if self.depth:
            self.inner[id(module)] += 1
        else:
            self.inner = Counter()
        self.depth += 1

    def _leave(self, name):  # an Identity stands for something left out, and is no stage
        def leave(module, _args, output):
            self.depth -= 1
            if not self.depth and not isinstance(module, nn.Identity):
                tensors = [
                    o for o in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(o)
                ]
                self.calls.append((name, module, tensors, self.inner))

        return leave

    def remove(self):
        for hook in self.hooks:
            hook.remove()

    def trace(self, sample: Tensor) -> Trace:
        handles_image = [any(t.ndim == 4 for t in tensors) for _, _, tensors, _ in self.calls]
        index, stages, owner = {}, [], {}
        for i, (_, _, tensors, _) in enumerate(self.calls):
            for tensor in tensors:
                owner.setdefault(tensor.grad_fn, i)
        tables = [p for p in self.model.parameters(recurse=False) if p.ndim == 2]
        for i, call in enumerate(self.calls):
            if handles_image[i]:
                index[i] = len(stages)
                stages.append(_stage(*call))
        for i, position in index.items():
            found, leaves = _sources(i, [t.grad_fn for t in self.calls[i][2]], owner)
            stages[position].sources = {index[j] for j in found if j in index}
            stages[position].sources |= {INPUT} if any(v is sample for v in leaves) else set()
            stages[position].reads_time = any(j not in index for j in found) or any(
                v is table for v in leaves for table in tables
            )
        called = {id(p) for _, module, _, _ in self.calls for p in module.parameters()}
        every = list(self.model.parameters())
        return Trace(
            stages,
            [_stage(*c) for c, image in zip(self.calls, handles_image, strict=True) if not image],
            parameters=sum(p.numel() for p in every),
            uncalled=sum(p.numel() for p in every if id(p) not in called),
        )


def _stage(name: str, module: nn.Module, tensors: list[Tensor], inner: Counter) -> Stage:
    return Stage(
        name,
        "+".join(type(m).__name__ for m in module)
        if isinstance(module, nn.Sequential)
        else type(module).__name__,
        side=tensors[0].shape[-1],
        channels=tuple(t.shape[1] for t in tensors),
        parameters=sum(p.numel() for p in module.parameters()),
        evaluations=max(inner.values(), default=1),
        attends=any("Attention" in type(m).__name__ for m in module.modules()),
    )


def _sources(call: int, outputs: list, owner: dict) -> tuple[set[int], list[Tensor]]:
    """Walk the autograd graph from a call's outputs: other calls' outputs met first, and leaves reached."""
    found, leaves, seen, todo = set(), [], set(), [o for o in outputs if o is not None]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if owner.get(node, call) != call:
            found.add(owner[node])
            continue
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        todo += [following for following, _ in node.next_functions if following is not None]
    return found, leaves


# ---------------------------------------------------------------------------------------------------- drawing

KINDS = {  # Okabe and Ito's colours; kinds that do the same work share one
    "Conv2d": "#8A8A8A",
    "Upsample+Conv2d": "#B5B5B5",
    "ResidualBlock": "#0072B2",
    "ODEBlock": "#D55E00",
    "Block": "#009E73",
    "InitialVelocity": "#CC79A7",
    "Attention": "#E69F00",
    "LinearAttention": "#56B4E9",
}
MORE = ("#7A5195", "#5E8C31", "#B8860B", "#444444")  # for kinds not listed


def draw(axes, trace: Trace) -> None:
    """Draw the stages as boxes on matplotlib axes: left to right in order of calls, height by resolution."""
    sides = sorted({s.side for s in trace.stages}, reverse=True)
    level = {side: -i for i, side in enumerate(sides)}
    kinds = list(dict.fromkeys(s.kind for s in trace.stages))
    others = [kind for kind in kinds if kind not in KINDS]
    colours = {kind: KINDS.get(kind) or MORE[others.index(kind) % len(MORE)] for kind in kinds}
    ys = [level[s.side] for s in trace.stages]
    axes.plot(range(len(ys)), ys, color="0.55", lw=0.8, zorder=1)
    for a, b in trace.skips():
        axes.plot([a, a, b, b], [ys[a], ys[a] + 0.4, ys[a] + 0.4, ys[b]], color="0.7", lw=0.8, zorder=0)
    for x, (y, stage) in enumerate(zip(ys, trace.stages, strict=True)):
        _box(axes, x, y, stage, colours[stage.kind])
    _labels(axes, trace, sides, level, colours)


def _box(axes, x: float, y: float, stage: Stage, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.4, y - 0.27), 0.8, 0.54, fc=colour, ec="white", lw=0.5, zorder=2))
    many = f"{len(stage.channels)}×" if len(stage.channels) > 1 else ""
    text = f"{many}{stage.channels[0]}"
    axes.text(x, y, text, rotation=90, ha="center", va="center", fontsize=6, color="white", zorder=3)
    axes.text(
        x, y - 0.31, short(stage.parameters), rotation=90, ha="center", va="top", fontsize=5, color="0.3"
    )
    if stage.reads_time:
        axes.plot(x, y + 0.27, "o", ms=3, color="black", zorder=4)


def _labels(axes, trace: Trace, sides: list[int], level: dict[int, int], colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for side in sides:
        axes.text(-1.0, level[side], f"{side} × {side}", ha="right", va="center", fontsize=7)
    handles = []
    for kind, colour in colours.items():
        often = evaluations_of([s for s in trace.stages if s.kind == kind])
        inside = ", attention inside" if any(s.attends for s in trace.stages if s.kind == kind) else ""
        inside = "" if "Attention" in kind else inside
        handles.append(Patch(color=colour, label=kind + often + inside))
    reads = sum(s.reads_time for s in trace.stages)
    handles.append(
        Line2D([], [], marker="o", ms=3, ls="", color="black", label="reads the diffusion step")
        if reads
        else Line2D([], [], ls="", label="nothing reads the diffusion step")
    )
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=6.5, ncols=3)
    axes.set_xlim(-0.085 * len(trace.stages) - 1, len(trace.stages) - 0.4)
    axes.set_ylim(level[sides[-1]] - 0.85, 0.55)
    axes.set_axis_off()


def evaluations_of(stages: Sequence[Stage]) -> str:
    """In words, how often stages of a kind are evaluated, by resolution where that differs; "" for once each.

    ", 4 evaluations"; ", 1 evaluation at sides 32 and 16, 2 at 8 and 4".
    """
    sides: dict[tuple[int, ...], list[int]] = {}
    for side in dict.fromkeys(sorted((s.side for s in stages), reverse=True)):
        times = tuple(sorted({s.evaluations for s in stages if s.side == side}))
        sides.setdefault(times, []).append(side)
    if set(sides) == {(1,)}:
        return ""
    parts = []
    for number, (times, some) in enumerate(sides.items()):
        often = " or ".join(map(str, times))
        unit = "" if number else " evaluation" if times == (1,) else " evaluations"
        where = f" at {'side' if len(some) == 1 else 'sides'} " if not number else " at "
        parts.append(f"{often}{unit}" + (where + " and ".join(map(str, some)) if len(sides) > 1 else ""))
    return ", " + ", ".join(parts)


def short(number: float) -> str:
    """A count as people write it: 8.81 M, 295 k, 448."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.3g}"
