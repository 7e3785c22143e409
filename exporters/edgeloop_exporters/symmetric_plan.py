"""Where TensorRT wants a tensor rounded: before layers that compute in integers there, and on the residual side of a sum.

The rules are those of `tensorrt_rules`. What only others read stays in float, in which TensorRT computes it with 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from torch import fx

from edgeloop_exporters.activations import least_read
from edgeloop_exporters.decoders import decoder_nodes, reach_of
from edgeloop_exporters.floating import floating_nodes, fuses_into_next, is_sum
from edgeloop_exporters.fronts import leading_part, spectrum
from edgeloop_exporters.graph import WEIGHTED, aten, layer_name, tensor_of
from edgeloop_exporters.kernel_scales import fixed_scale
from edgeloop_exporters.outputs import answers_here, last_nodes
from edgeloop_exporters.quantization_plan import (
    INPUT,
    QuantizationPlan,
    QuantizationPoint,
    QuantizedWeight,
    is_activation,
    pads_for_next,
    weight_of,
)

__all__ = ["symmetric_plan"]

PRODUCTS = {aten.matmul.default, aten.bmm.default}
HALF, MIDDLE = 127, 128
Readers = dict[fx.Node, list[fx.Node]]


def symmetric_plan(
    module: fx.GraphModule, float_layers: Collection[str] = (), float_streams: bool = False, float_front: int = 0
) -> QuantizationPlan:
    """Decide which tensors become int8 around zero; each has a scale of its own. Arguments: as of `quantization.plan`."""
    decoding = decoder_nodes(module)
    front = spectrum(module)
    floating = floating_nodes(module, float_layers, float_streams) | decoding | front | leading_part(module, float_front)
    readers, last = _readers(module, floating), set(last_nodes(module))
    points = []
    for node in module.graph.nodes:
        if node not in readers and node not in last:
            continue
        rounding = node in readers
        users = [*readers.get(node, []), *(user for user in node.users if node in last and answers_here(user))]
        name = INPUT if node.op == "placeholder" else node.name
        least = least_read(module, node)
        points.append(
            QuantizationPoint(
                name, layer_name(node), name, _around_zero(fixed_scale(node, floating, None)) if rounding else None, rounding,
                least=least if math.isfinite(least) else None, most=reach_of(node, decoding), readers=tuple(u.name for u in users),
            )
        )  # fmt: skip
    named_floats, named_decoding, named_front = (frozenset(n.name for n in nodes) for nodes in (floating, decoding, front))
    return QuantizationPlan(tuple(points), _weights(module, floating), named_floats, named_decoding, named_front, symmetric=True)


def _weights(module: fx.GraphModule, floating: set[fx.Node]) -> tuple[QuantizedWeight, ...]:
    """Of layers alone: TensorRT looks rows up in float. Every one has a scale for each output."""
    found: dict[str, QuantizedWeight] = {}
    for node in module.graph.nodes:
        weight = weight_of(module, node, floating) if node.target in WEIGHTED else None
        if weight is not None:
            found.setdefault(weight.name, replace(weight, axis=weight.axis or 0))
    return tuple(found.values())


def _around_zero(fixed: tuple[float, int] | None) -> tuple[float, int] | None:
    """A kernel's own scale and zero point (uint8) as the scale that reaches as far on both sides."""
    return fixed and (fixed[0] * max(fixed[1], 255 - fixed[1]) / HALF, MIDDLE)


def _readers(module: fx.GraphModule, floating: set[fx.Node]) -> Readers:
    """By activation, the operations that take it rounded."""
    found: Readers = {}
    for node in reversed(module.graph.nodes):  # a sum's readers are known before its inputs
        if node in floating:
            continue
        if is_sum(node):
            side = _residual(node)
            if side is not None and (next(iter(node.users)) if fuses_into_next(node) else node) in found:
                found.setdefault(side, []).append(node)
            continue
        weighted = node.target in WEIGHTED and tensor_of(module, node.args[1]) is not None
        for source in node.args[: 1 if weighted else 2] if weighted or node.target in PRODUCTS else ():
            if isinstance(source, fx.Node):
                taken, reader = (source.args[0], source) if pads_for_next(source) else (source, node)
                if isinstance(taken, fx.Node) and is_activation(module, taken) and reader not in found.get(taken, []):
                    found.setdefault(taken, []).append(reader)
    return found


def _residual(node: fx.Node) -> fx.Node | None:
    """Of a sum that TensorRT computes together with a layer before it, the other input; None where no layer is before it.

    Of two layers, the later one: the other's output is there already.
    """
    a, b = node.args[:2]
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    layers = [side for side in (a, b) if side.target in WEIGHTED and len(side.users) == 1]
    if not layers or a is b:
        return None
    order = {each: number for number, each in enumerate(node.graph.nodes)}
    fused = max(layers, key=order.__getitem__)
    return b if fused is a else a
