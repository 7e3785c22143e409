"""Cross-layer equalization (Nagel et al. 2019): channels rescaled between layers so that one scale suits a whole tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.gates import GATED, OPENS, close_gates, floor_of, open_gates, snapped
from edgeloop_exporters.graph import CONVOLUTIONS, TRANSPOSED, WEIGHTED, aten, channel_axis, layer_name, tensor_of

__all__ = ["CLIPPING", "equalize"]

# f(s · x) = s · f(x) for s > 0, so that a channel's scale can pass through.
RECTIFYING = {aten.relu.default, aten.relu_.default, aten.leaky_relu.default}
HOMOGENEOUS = {
    *RECTIFYING, aten.max_pool2d.default, aten.avg_pool2d.default, aten.mean.dim, aten.squeeze.dims, aten.max_pool1d.default,
    aten.dropout.default, aten.contiguous.default,
}  # fmt: skip
CLIPPING = {aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default}
ADDING = {aten.add.Tensor, aten.add_.Tensor}
MAX_SCALE_RATIO = 1e4  # a scale beyond it says that a channel is dead
PASSES = 3
HEADROOM = (
    0.5  # of what a ReLU6 lets pass: as far as a channel that does not reach it is stretched, for what calibration did not see
)


@dataclass(frozen=True)
class ChannelGroup:
    """Tensors whose channels can only be rescaled together, in the graph's order: one layer's output, or a residual stream.

    `writers`, `readers`: the layers around them; `members`: every node whose output is one of the tensors. `gates`: what takes the
    scale back before a gate.
    """

    writers: tuple[Any, ...]
    readers: tuple[Any, ...]
    members: tuple[Any, ...]
    gates: tuple[Any, ...] = ()

    def __str__(self) -> str:
        given, taken = (" + ".join(dict.fromkeys(map(layer_name, nodes))) for nodes in (self.writers, self.readers))
        return f"{given} → {taken}"

    @property
    def clips(self) -> list[Any]:
        return [n for n in self.members if n.target in CLIPPING]


def channel_groups(module: fx.GraphModule) -> list[ChannelGroup]:
    """Every set of tensors between layers with only homogeneous operations, ReLU6, or sums of them on the way."""
    groups: list[ChannelGroup] = []
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    done: set[Any] = set()
    for node in module.graph.nodes:
        if node.target in WEIGHTED and node not in done:
            members, readers, gates = _reached(node)
            writers = [n for n in members if n.target in WEIGHTED]
            done.update(writers)
            if _can_rescale(module, members, writers, readers):
                sets = (writers, readers, members, gates)
                groups.append(ChannelGroup(*(tuple(sorted(nodes, key=order.__getitem__)) for nodes in sets)))
    return groups


def _reached(start: Any) -> tuple[set[Any], set[Any], set[Any]]:
    """Nodes whose outputs carry the scales of `start`'s, whatever they are, the layers that read them, and what opens gates."""
    members: set[Any] = set()
    readers: set[Any] = set()
    gates: set[Any] = set()
    following = [start]
    while following:
        node = following.pop()
        if node in members:
            continue
        members.add(node)
        if node.target in ADDING:
            following += [n for n in node.args if isinstance(n, fx.Node)]
        elif node.target in HOMOGENEOUS | CLIPPING:
            following.append(node.args[0])
        for user in node.users:
            (readers.add if user.target in WEIGHTED else gates.add if OPENS in user.meta else following.append)(user)
    return members, readers, gates


def _can_rescale(module: fx.GraphModule, members: set[Any], writers: list[Any], readers: set[Any]) -> bool:
    channels = {_channels(module, node) for node in writers}
    axis = channel_axis(writers[0])
    return (
        len(channels) == 1
        and bool(readers)
        and all(n.target not in TRANSPOSED and channel_axis(n) == axis and not _shared(module, n) for n in writers)
        and all(_passes(n, axis) for n in members if n.target not in WEIGHTED)
        and all(_can_take(module, n, members, *channels) for n in readers)
    )


def _channels(module: fx.GraphModule, node: Any) -> int:
    weight = tensor_of(module, node.args[1])
    return 0 if weight is None else weight.shape[0]


def _passes(node: Any, axis: int) -> bool:
    """Whether a scale of each channel passes through this operation."""
    if node.target in ADDING:
        shapes = [n.meta["val"].shape for n in node.args if isinstance(n, fx.Node)]
        return len(shapes) == 2 and shapes[0] == shapes[1] and not node.kwargs
    if node.target in CLIPPING:
        return _bounds(node)[0] == 0
    if node.target is aten.mul.Tensor:
        return GATED in node.meta or (node.args[1].op == "get_attr" and node.args[1].meta["val"].numel() == 1)
    if node.target is aten.mean.dim:
        return axis not in [d % node.args[0].meta["val"].dim() for d in node.args[1]]
    return node.target in HOMOGENEOUS


def _bounds(node: Any) -> tuple[float, float]:
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    low, high = (*node.args[1:], -1.0, 1.0)[:2] if len(node.args) != 2 else (node.args[1], 1.0)
    return float(low), float(high)


def _shared(module: fx.GraphModule, node: Any) -> bool:
    return len(node.args[1].users) > 1 or tensor_of(module, node.args[1]) is None


def _can_take(module: fx.GraphModule, node: Any, members: set[Any], channels: int) -> bool:
    if node.target in TRANSPOSED or _shared(module, node) or members & set(node.args[1:]):
        return False
    weight = tensor_of(module, node.args[1])
    assert weight is not None
    groups = _groups(node)
    return channels == weight.shape[1] if groups == 1 else channels == groups == weight.shape[0]


def _groups(node: Any) -> int:
    return int(node.args[6]) if node.target in CONVOLUTIONS and len(node.args) > 6 else 1


class _Peaks(fx.Interpreter):
    """Largest magnitude of each channel over the tensors of a tie that are stored; before a ReLU6 clips them."""

    def __init__(self, module: fx.GraphModule, groups: list[ChannelGroup]) -> None:
        super().__init__(module)
        self.axis = {node: channel_axis(group.writers[0]) for group in groups for node in group.members if _stored(node)}
        self.peaks: dict[Any, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.axis:
            seen = self.env[n.args[0]].clamp(min=0) if n.target in CLIPPING else result.clamp(min=floor_of(n)).abs()  # type: ignore[index]
            self.peaks[n] = seen.transpose(0, self.axis[n]).flatten(1).amax(1)
        return result

    def of(self, group: ChannelGroup) -> Tensor:
        """(channels,)"""
        return torch.stack([self.peaks[n] for n in group.members if n in self.peaks]).amax(0)


def _stored(node: Any) -> bool:
    """Is it a tensor of its own in integers: a layer's output or a sum, with the activation that fuses into it?"""
    following = [n for n in node.users if n.target in RECTIFYING | CLIPPING]
    if node.target in RECTIFYING | CLIPPING:
        return True
    return node.target in ADDING | {*WEIGHTED} and len(following) < len(node.users)


def equalize(module: fx.GraphModule, x: Tensor, through_gates: bool = False) -> list[str]:
    """Rescale channels between layers so that one scale suits all of a tensor's channels. Returns what was done, in words.

    `module`: a float graph with BatchNorm folded, changed in place; `x`: normalized samples. What a layer hands on is
    divided by s per channel, and the next layers' weights take it back: s = √(activation's peak ÷ weights' peak) as in
    Xiao et al. 2023, or the peak alone before depthwise layers, whose channels have a scale each anyway. A ReLU6 between
    becomes a ReLU where no sample reaches it; else channels that reach it stay, and the others are stretched towards it.
    `through_gates`: also through hard-swish and SiLU, each of which then has one operation more.
    """
    rescaled = []
    if through_gates:
        open_gates(module)
    groups = channel_groups(module)
    for _ in range(PASSES):
        recorder = _Peaks(module, groups)
        with torch.no_grad():
            recorder.run(x)
        for group in groups:
            if _rescale(module, group, recorder.of(group)):
                rescaled.append(str(group))
    close_gates(module)
    module.recompile()
    return list(dict.fromkeys(rescaled))


def _rescale(module: fx.GraphModule, group: ChannelGroup, peaks: Tensor) -> bool:
    """Rescale one group; whether anything changed. `peaks`: (channels,)."""
    top = min((_bounds(n)[1] for n in group.clips), default=float("inf"))
    if float(peaks.max()) <= top:
        for node in group.clips:
            node.target, node.args = aten.relu.default, (node.args[0],)
        top = float("inf")
    s = _scales(module, group, peaks, top)
    factors = [found for node in group.gates if (found := tensor_of(module, node.args[1])) is not None]
    if factors:
        s = snapped(factors[0].flatten() * s) / factors[0].flatten()
    if bool((s == 1).all()):
        return False
    with torch.no_grad():
        for factor in factors:
            factor.mul_(s.reshape(factor.shape))
        for node in group.writers:
            for argument in node.args[1:3]:
                tensor = None if argument is None else tensor_of(module, argument)
                if tensor is not None:
                    tensor.div_(s.reshape(-1, *[1] * (tensor.dim() - 1)))
        for node in group.readers:
            weight = tensor_of(module, node.args[1])
            assert weight is not None
            weight.mul_(s.reshape(*([-1] if _groups(node) > 1 else [1, -1]), *[1] * (weight.dim() - 1 - (_groups(node) == 1))))
    return True


def _scales(module: fx.GraphModule, group: ChannelGroup, peaks: Tensor, top: float) -> Tensor:
    """What each channel is divided by. `peaks`: (channels,); `top`: where they are clipped."""
    weights = [tensor_of(module, n.args[1]) for n in group.readers if _groups(n) == 1]
    columns = [w.detach().abs().transpose(0, 1).flatten(1).amax(1) for w in weights if w is not None]
    wanted = peaks
    if columns:  # depthwise layers have a scale for each channel and do not mind
        wanted = (peaks / torch.stack([c / c.max() for c in columns]).amax(0).clamp(min=1e-12)).sqrt()
    alive = (peaks > peaks.max() / MAX_SCALE_RATIO) & torch.isfinite(wanted) & (wanted > 0)
    if not bool(alive.any()):
        return torch.ones_like(peaks)
    if top < float("inf"):
        wanted = wanted / (top**0.5 if columns else top)
        s = torch.minimum(torch.maximum(wanted, peaks / (HEADROOM * top)), torch.ones(()))
    else:
        s = wanted / wanted[alive].log().mean().exp()  # the tensor's overall scale stays
    return torch.where(alive, s, torch.ones(()))
