"""Two repairs that need no training: cross-layer equalization and bias correction (Nagel et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import CONVOLUTIONS, TRANSPOSED, WEIGHTED, aten, layer_name, set_parameter, tensor_of
from edgeloop_exporters.quantization import set_mode

# f(s · x) = s · f(x) for s > 0, so that a channel's scale can pass through.
HOMOGENEOUS = {
    aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.max_pool2d.default, aten.avg_pool2d.default,
    aten.mean.dim, aten.squeeze.dims, aten.max_pool1d.default, aten.dropout.default, aten.contiguous.default,
}  # fmt: skip
CLIPPING = {aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default}
MOST = 1e4  # a scale beyond it says that a channel is dead
PASSES = 3


@dataclass(frozen=True)
class Pair:
    """Two layers between which channels can be rescaled, by node name; `clips`: ReLU6 nodes on the way."""

    first: str
    second: str
    clips: tuple[str, ...]


def pairs(module: fx.GraphModule) -> list[Pair]:
    """Every pair of layers with only homogeneous operations, or ReLU6, between them, and no other reader."""
    found = []
    for node in module.graph.nodes:
        if node.target not in WEIGHTED or node.target in TRANSPOSED or _shared(module, node):
            continue
        clips, here = [], node
        while len(here.users) == 1:
            (here,) = here.users
            if here.target in CLIPPING:
                clips.append(here.name)
            elif here.target not in HOMOGENEOUS:
                break
        if here.target in WEIGHTED and here.args[0] is not node.args[0] and _can_take(module, here):
            found.append(Pair(node.name, here.name, tuple(clips)))
    return found


def _shared(module: fx.GraphModule, node: Any) -> bool:
    return len(node.args[1].users) > 1 or tensor_of(module, node.args[1]) is None


def _can_take(module: fx.GraphModule, node: Any) -> bool:
    if node.target in TRANSPOSED or _shared(module, node):
        return False
    groups = _groups(node)
    return groups == 1 or groups == tensor_of(module, node.args[1]).shape[0]  # type: ignore[union-attr]


def _groups(node: Any) -> int:
    return int(node.args[6]) if node.target in CONVOLUTIONS and len(node.args) > 6 else 1


class _Peaks(fx.Interpreter):
    """Largest magnitude of each channel of every weighted layer's output, before and after what follows it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.peaks: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target in WEIGHTED:
            rows = result.abs().transpose(0, _axis(n)).flatten(1) if result.dim() > 1 else result
            self.peaks[n.name] = rows.amax(1)
        return result


def _axis(node: Any) -> int:
    return int(node.meta["val"].dim() - 1) if node.target is aten.linear.default else 1


def equalize(module: fx.GraphModule, x: Tensor) -> list[str]:
    """Rescale channels between layers so that one scale suits all of a tensor's channels. Returns what was done, in words.

    `module`: a float graph with BatchNorm folded, changed in place; `x`: normalised samples. What a layer hands on is
    divided by s per channel, and the next layer's weights take it back: s = √(activation's peak ÷ weights' peak) as in
    Xiao et al. 2023, or the peak alone before a depthwise layer, whose channels have a scale each anyway. A ReLU6 between
    becomes a ReLU where no sample reaches 6.
    """
    said = []
    found = pairs(module)
    nodes = {node.name: node for node in module.graph.nodes}
    for _ in range(PASSES):
        recorder = _Peaks(module)
        with torch.no_grad():
            recorder.run(x)
        for pair in found:
            peaks = recorder.peaks[pair.first]
            if pair.clips and not _unclipped(module, nodes, pair, peaks):
                continue
            _rescale(module, nodes[pair.first], nodes[pair.second], peaks)
            said.append(f"{layer_name(nodes[pair.first])} → {layer_name(nodes[pair.second])}")
    module.recompile()
    return list(dict.fromkeys(said))


def _unclipped(module: fx.GraphModule, nodes: dict[str, fx.Node], pair: Pair, peaks: Tensor) -> bool:
    for name in pair.clips:
        node = nodes[name]
        if node.target is not aten.relu.default:
            bounds = node.args[1:] if node.target is not aten.relu6.default else (0.0, 6.0)
            if bounds[0] != 0 or float(peaks.max()) > float(bounds[1]):  # type: ignore[arg-type]
                return False
            node.target, node.args = aten.relu.default, (node.args[0],)
    return True


def _rescale(module: fx.GraphModule, first: Any, second: Any, peaks: Tensor) -> None:
    w1, w2 = tensor_of(module, first.args[1]), tensor_of(module, second.args[1])
    assert w1 is not None and w2 is not None
    depthwise = _groups(second) > 1
    with torch.no_grad():
        inputs = peaks.clone() if depthwise else (peaks / w2.abs().transpose(0, 1).flatten(1).amax(1).clamp(min=1e-12)).sqrt()
        alive = (peaks > peaks.max() / MOST) & torch.isfinite(inputs) & (inputs > 0)
        if not alive.any():
            return
        s = torch.where(alive, inputs, torch.ones(()))
        s = torch.where(alive, s / s[alive].log().mean().exp(), torch.ones(()))  # the tensor's overall scale stays
        w1.div_(s.reshape(-1, *[1] * (w1.dim() - 1)))
        bias = tensor_of(module, first.args[2]) if len(first.args) > 2 else None
        if bias is not None:
            bias.div_(s)
        w2.mul_(s.reshape(-1, *[1] * (w2.dim() - 1)) if depthwise else s.reshape(1, -1, *[1] * (w2.dim() - 2)))


class _Means(fx.Interpreter):
    """Mean of each channel of every weighted layer's output; with `wanted` given, biases are moved until they are those."""

    def __init__(self, module: fx.GraphModule, wanted: dict[str, Tensor] | None = None) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.means: dict[str, Tensor] = {}
        self.corrected: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target not in WEIGHTED:
            return result
        axis = _axis(n)
        mean = result.transpose(0, axis).flatten(1).mean(1)
        self.means[n.name] = mean
        bias = tensor_of(self.module, n.args[2]) if len(n.args) > 2 else None
        if self.wanted is None or bias is None:
            return result
        off = self.wanted[n.name] - mean
        bias.add_(off)
        self.corrected.append(layer_name(n))
        return result + off.reshape([-1 if i == axis else 1 for i in range(result.dim())])


def correct_biases(module: fx.GraphModule, x: Tensor) -> int:
    """Take each layer's mean error of rounding, channel by channel, off its bias; returns how many layers were corrected.

    `module`: a calibrated graph with quantizers, changed in place; `x`: normalised samples. Layers follow in order, each
    seeing the corrected ones before it.
    """
    with torch.no_grad():
        set_mode(module, "off", "off")
        plain = _Means(module)
        plain.run(x)
        set_mode(module, "quantize", "quantize")
        moved = _Means(module, plain.means)
        moved.run(x)
    return len(moved.corrected)


def add_biases(module: fx.GraphModule) -> int:
    """Give layers without a bias one of zeros, so that it can be corrected; returns how many."""
    added = 0
    for node in list(module.graph.nodes):
        if node.target not in WEIGHTED or (len(node.args) > 2 and node.args[2] is not None):
            continue
        weight = tensor_of(module, node.args[1])
        if weight is None or node.target in TRANSPOSED:
            continue
        name = f"{node.name}_added_bias"
        set_parameter(module, name, torch.zeros(weight.shape[0]))
        with module.graph.inserting_before(node):
            bias = module.graph.get_attr(name)
        node.args = (node.args[0], node.args[1], bias, *node.args[3:])
        added += 1
    module.recompile()
    return added
