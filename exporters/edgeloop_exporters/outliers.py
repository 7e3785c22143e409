"""Outliers of transformers moved from activations into weights, exactly (Xiao et al. 2023, for LayerNorm and for residual streams).

A few channels of a residual stream are a hundred times as large as all others: one scale for the tensor leaves these a few steps.
What a layer adds to a stream is float behind it, so each channel can have a scale of its own there: it is divided out of the
layer's weights, which have one for each output anyway, and multiplied back in the stream. Before layers, a part of each channel's
size moves from what a LayerNorm makes into the columns of their weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.floating import NORMS, floating_nodes
from edgeloop_exporters.graph import aten, layer_name, set_parameter, tensor_of
from edgeloop_exporters.masks import MIGRATED
from edgeloop_exporters.rewrites import call

__all__ = ["migrate_outliers"]

OUTLIER = 4.0  # the largest channel's peak, relative to the middle one's, from which on it pays
LEAST = 1e-2  # of the middle channel's peak: fainter channels are taken for dead


def migrate_outliers(module: fx.GraphModule, x: Tensor) -> list[str]:
    """Move outliers between LayerNorms, linear layers and the sums that LayerNorms read. Returns the layers, in order.

    `module`: a folded float graph, changed in place; `x`: normalized samples, which show each channel's peak.
    """
    floating = floating_nodes(module, (), False)
    writers = [node for node in module.graph.nodes if _writes_stream(module, node, floating)]
    norms = {node: readers for node in module.graph.nodes if node.target in NORMS and (readers := _readers(module, node))}
    if not writers and not norms:
        return []
    recorder = _Peaks(module, {*writers, *norms})
    with torch.no_grad():
        recorder.run(x)
    moved = []
    for node in writers:
        if (scales := _relative(recorder.peaks[node])) is not None:
            _divide_outputs(module, node, scales)
            moved.append(layer_name(node))
    for node, readers in norms.items():
        if _relative(recorder.peaks[node]) is not None:
            _divide_inputs(module, node, readers, recorder.peaks[node])
            moved.append(layer_name(node))
    module.graph.lint()
    module.recompile()
    return moved


class _Peaks(fx.Interpreter):
    """The largest magnitude of each channel, the last axis."""

    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(module)
        self.wanted, self.peaks = wanted, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.peaks[n] = result.detach().abs().reshape(-1, result.shape[-1]).amax(0)
        return result


def _relative(peaks: Tensor) -> Tensor | None:
    """Peaks relative to the middle one; None without outliers."""
    middle = peaks.median()
    if not bool(torch.isfinite(peaks).all()) or float(middle) <= 0 or float(peaks.max() / middle) < OUTLIER:
        return None
    return (peaks / middle).clamp(min=LEAST)


def _own_weight(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The weight of a linear layer, if no other layer has it."""
    if node.target is not aten.linear.default or len(node.args[1].users) > 1:
        return None
    return tensor_of(module, node.args[1])


def _writes_stream(module: fx.GraphModule, node: Any, floating: set[fx.Node]) -> bool:
    """A linear layer that only sums in float read."""
    weight = _own_weight(module, node)
    bias = node.args[2] if weight is not None and len(node.args) > 2 else None
    only_sums = bool(node.users) and all(user.target is aten.add.Tensor and user in floating for user in node.users)
    return weight is not None and only_sums and (bias is None or len(bias.users) == 1)


def _readers(module: fx.GraphModule, norm: fx.Node) -> list[Any]:
    """The linear layers that read it; others read it as it is."""
    return [user for user in norm.users if user.args[0] is norm and _own_weight(module, user) is not None]


def _divide_outputs(module: fx.GraphModule, node: Any, scales: Tensor) -> None:
    """A layer whose outputs are divided by these, and multiplied again behind it."""
    weight, bias = tensor_of(module, node.args[1]), tensor_of(module, node.args[2]) if len(node.args) > 2 else None
    assert weight is not None
    set_parameter(module, str(node.args[1].target), weight / scales[:, None])
    if bias is not None:
        set_parameter(module, str(node.args[2].target), bias / scales)
    _multiplied(module, node, scales, list(node.users))


def _divide_inputs(module: fx.GraphModule, norm: Any, readers: list[Any], peaks: Tensor) -> None:
    """Layers read a LayerNorm's channels divided by √(own peak ÷ the weights' peak); their columns are multiplied by it."""
    weights = [weight for reader in readers if (weight := tensor_of(module, reader.args[1])) is not None]
    columns = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0)
    alive = (peaks > 0) & (columns > 0)
    wanted = (peaks / columns.clamp(min=1e-12)).sqrt()
    scales = torch.where(alive, wanted / wanted[alive].log().mean().exp(), torch.ones(()))
    for reader, weight in zip(readers, weights, strict=True):
        set_parameter(module, str(reader.args[1].target), weight * scales)
    _multiplied(module, norm, 1 / scales, readers)


def _multiplied(module: fx.GraphModule, node: Any, factors: Tensor, readers: list[Any]) -> None:
    name = f"{MIGRATED}{node.name}"
    module.register_buffer(name, factors.detach().clone())
    with module.graph.inserting_after(node):
        read = module.graph.get_attr(name)
        read.meta = {**node.meta, "val": factors}
    with module.graph.inserting_after(read):
        product = call(module.graph, node, aten.mul.Tensor, (node, read), node.meta["val"])
    for reader in readers:
        reader.replace_input_with(node, product)
