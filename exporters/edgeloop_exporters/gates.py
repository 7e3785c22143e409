"""Gates through which a channel's scale can pass: x · gate(x) of hard-swish and SiLU.

Such a product is not homogeneous. With x' = x / s in place of x, gate(s · x') is still the same gate, and the product is divided by
s as a whole. So a product with s before the gate, an integer operation of its own, lets each channel have a scale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import WEIGHTED, aten, channel_axis, tensor_of
from edgeloop_exporters.rewrites import call

__all__ = ["FLOORS", "GATED", "OPENS", "close_gates", "floor_of", "has_gates", "open_gates", "snapped"]

GATED, OPENS = "edgeloop_gated", "edgeloop_opens_gate"  # marks of the product, and of what restores x before the gate
STEPS, LEAST = 255, 8  # the factors of all channels are whole multiples of a 255th, so that 8 bits hold them exactly
FLOORS = {aten.relu6.default: -3.0, aten.sigmoid.default: -8.0}  # below, the product is zero or nearly so


def open_gates(module: fx.GraphModule) -> int:
    """Put a factor of 1 for each channel before every gate of what a layer makes; returns how many."""
    graph, opened = module.graph, 0
    for layer in [node for node in graph.nodes if node.target in WEIGHTED]:
        found = _gate(module, layer)
        if found is None:
            continue
        first, gate, product = found
        value, axis = layer.meta["val"], channel_axis(layer)
        name = f"opened_{layer.name}"
        module.register_buffer(name, torch.ones([*[1] * axis, value.shape[axis], *[1] * (value.dim() - 1 - axis)]))
        with graph.inserting_before(first):
            factor = graph.get_attr(name)
            factor.meta = {**layer.meta, "val": tensor_of(module, factor)}
            restored = call(graph, layer, aten.mul.Tensor, (layer, factor), value)
        first.replace_input_with(layer, restored)
        restored.meta[OPENS] = product.meta[GATED] = gate.target
        opened += 1
    return opened


def has_gates(module: fx.GraphModule) -> bool:
    """Whether a gate stands behind a layer, quantizers between them or not."""
    return any(node.target in FLOORS and any(_behind_layer(arg) for arg in node.all_input_nodes) for node in module.graph.nodes)


def _behind_layer(node: fx.Node) -> bool:
    """Of what a gate reads: the layer, or the layer plus a number."""
    while node.op == "call_module" or node.target is aten.add.Tensor:
        node = node.all_input_nodes[0]
    return node.target in WEIGHTED


def close_gates(module: fx.GraphModule) -> None:
    """Take out the factors that stayed 1."""
    for node in list(module.graph.nodes):
        factor = tensor_of(module, node.args[1]) if OPENS in node.meta else None
        if factor is not None and bool((factor == 1).all()):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def floor_of(node: fx.Node) -> float:
    """The value below which nobody reads what `node` makes: that of the opened gate it goes through."""
    return next((FLOORS[user.meta[OPENS]] for user in node.users if OPENS in user.meta), -math.inf)


def snapped(factors: Tensor) -> Tensor:
    """The nearest factors that an 8-bit constant holds exactly."""
    step = factors.max() / STEPS
    return (factors / step).round().clamp(min=LEAST) * step


def _gate(module: fx.GraphModule, layer: fx.Node) -> tuple[Any, Any, Any] | None:
    """The first operation of the gate, the one that bends, and the product, where a layer goes to these alone."""
    users = list(layer.users)
    products = [user for user in users if user.target is aten.mul.Tensor and len(user.args) == 2]
    if len(users) != 2 or len(products) != 1:
        return None
    (product,) = products
    first = next(user for user in users if user is not product)
    gate = product.args[1] if product.args[0] is layer else product.args[0]
    if not isinstance(gate, fx.Node) or gate is layer:
        return None
    if first.target is aten.sigmoid.default:
        return (first, first, product) if gate is first else None
    number = next((tensor_of(module, arg) for arg in first.args if arg is not layer), None)
    shifted = first.target is aten.add.Tensor and number is not None and number.numel() == 1 and float(number) == 3.0
    bend: Any = gate.args[0] if _times_number(module, gate) else gate
    straight = shifted and bend.target is aten.relu6.default and bend.args[0] is first and len(first.users) == 1
    return (first, bend, product) if straight else None


def _times_number(module: fx.GraphModule, node: fx.Node) -> bool:
    number = tensor_of(module, node.args[1]) if node.target is aten.mul.Tensor else None
    return number is not None and number.numel() == 1
