"""What is done to a graph that torch's ONNX exporter wrote, before it is a file."""

from __future__ import annotations

from collections import Counter
from typing import Any


def tidy(model: Any) -> None:
    """All of it, in place, on an onnx.ModelProto."""
    _pool_means(model)
    _part_weights(model)
    _strip_notes(model)


def _pool_means(model: Any) -> None:
    """A mean over all of an image is a GlobalAveragePool, which ONNX Runtime can do in integers; ReduceMean it cannot."""
    from onnx import numpy_helper

    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        rank = ranks.get(node.input[0], 0)
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if keeps and rank > 2 and sorted(int(a) % rank for a in constants[node.input[1]]) == list(range(2, rank)):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _part_weights(model: Any) -> None:
    """Integer weights by short names, with zero points of their own: shared ones cannot be made exact (runtimes/onnx.py)."""
    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for number, node in enumerate(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants):
        weight, zero = constants[node.input[0]], constants.get(node.input[2]) if len(node.input) > 2 else None
        if readers[weight.name] == 1:
            weight.name = node.input[0] = f"w{number}"
        if zero is not None and readers[zero.name] > 1:
            readers[zero.name] -= 1
            own = graph.initializer.add()
            own.CopyFrom(zero)
            own.name = node.input[2] = f"z{number}"


def _strip_notes(model: Any) -> None:
    """Stack traces, source paths and shape notes: larger than a small network, and nobody's business on a device."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        for field in ("metadata_props", "doc_string"):
            holder.ClearField(field)
    model.graph.ClearField("value_info")
