"""Edits of a graph that torch's ONNX exporter wrote, before it becomes a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.onnx_columns import columns_as_channels
from edgeloop_exporters.unread import remove_unread

MOVES = {"Pad", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}
HELD = "_held"  # ends the name of what `_hold_transpose` puts in
MIN_SHARED = 256  # bytes
SHARED = (1, 7)  # ONNX's numbers of float32 and int64
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def name_ports(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call inputs and outputs so, in their order. An inner value that has such a name gets another: the exporter does not look.

    Raises ModelError where an output is called as an input is.
    """
    graph = model.graph
    if taken := next((name for name in outputs if name in inputs), None):
        raise ModelError(f"an output is called {taken!r}, as the input is; give it another name")
    new = {name: f"inner_{name}" for name in (*inputs, *outputs)}
    ports = (*graph.input, *graph.output)
    new |= {port.name: name for port, name in zip(ports, (*inputs, *outputs), strict=True)}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in (*graph.initializer, *graph.value_info, *ports):
        value.name = new.get(value.name, value.name)


def tidy(model: Any) -> None:
    """Apply every edit to an onnx.ModelProto, in place."""
    _pool_means(model)
    _hold_cubic(model)
    _factors_into_scales(model)
    columns_as_channels(model)
    _separate_weights(model)
    _keep_float(model)
    _hold_transpose(model)
    _share_constants(model)
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


def _factors_into_scales(model: Any) -> None:
    """A rounded tensor times a positive number is the same integers under another scale; else it would be a float product."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    made = {node.output[0]: node for node in graph.node}

    def number(name: str) -> float | None:
        """Of a constant, rounded or not: one number is rounded to itself."""
        while name in made and made[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = made[name].input[0]
        value = numpy_helper.to_array(constants[name]) if name in constants else np.zeros(0)
        return float(value.reshape(())) if value.size == 1 and value.dtype.kind == "f" else None

    for place, node in enumerate(graph.node):
        if node.op_type != "Mul":
            continue
        for x, other in ((0, 1), (1, 0)):
            source, factor = made.get(node.input[x]), number(node.input[other])
            if factor is None or factor <= 0 or source is None or source.op_type != "DequantizeLinear":
                continue
            scale = constants.get(source.input[1])
            if scale is None or numpy_helper.to_array(scale).size != 1 or source.input[0] in constants:
                continue
            own = f"{node.output[0]}_scale"
            value = numpy_helper.to_array(scale) * np.float32(factor)
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), own))
            constants[own] = graph.initializer[-1]
            again = helper.make_node("DequantizeLinear", [source.input[0], own, *source.input[2:]], [node.output[0]], node.name)
            graph.node[place].CopyFrom(again)
            break
    remove_unread(graph)


def _separate_weights(model: Any) -> None:
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
            separate = graph.initializer.add()
            separate.CopyFrom(zero)
            separate.name = node.input[2] = f"z{number}"


def _share_constants(model: Any) -> None:
    """Equal constants once, as the same window or filter for each octave. Integer weights stay apart: see `_separate_weights`."""
    graph = model.graph
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for constant in list(graph.initializer):
        if len(constant.raw_data) >= MIN_SHARED and constant.data_type in SHARED:
            kept = first.setdefault((constant.data_type, tuple(constant.dims), constant.raw_data), constant.name)
            if kept != constant.name:
                same[constant.name] = kept
                graph.initializer.remove(constant)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def _keep_float(model: Any) -> None:
    """ONNX Runtime rounds the float weights of a layer between integer ones by itself (WeightBiasQuantization), and takes a float
    softmax for an integer one, unless something stands between that and its rounded input. The maximum of one tensor copies it, and
    no optimizer knows it.
    """
    from onnx import helper

    graph = model.graph
    constants = {i.name for i in graph.initializer}
    rounded = set()
    for node in graph.node:
        moved = node.op_type in MOVES and node.input[0] in rounded
        if moved or (node.op_type == "DequantizeLinear" and node.input[0] not in constants):
            rounded.add(node.output[0])
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        softmax = node.op_type == "Softmax" and not _rounds_by_256(graph, node)
        if node.input and node.input[0] in rounded and (softmax or (node.op_type in WEIGHTED and node.input[1] in constants)):
            copied = f"{node.output[0]}_input"
            graph.node.insert(place, helper.make_node("Max", [node.input[0]], [copied]))
            graph.node[place + 1].input[0] = copied


def _hold_transpose(model: Any) -> None:
    """Normalization by channel stays behind the input's change to channels first: ONNX Runtime would move it down again, and takes
    ten times as long for a difference along a last axis of three. It moves nothing past a reshape, which costs nothing.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim][1:]
    sizes = {i.name: int(np.prod(i.dims)) for i in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    for place, node in enumerate(graph.node):
        source = made.get(node.input[0]) if node.op_type == "Sub" else None
        if source is None or sizes.get(node.input[1], 1) == 1:
            continue
        before = made.get(source.input[0]) if source.op_type == "Cast" else source
        moved = made.get(before.input[0]) if before is not None and before.op_type == "Transpose" else None
        entered = [before.input[0] if moved is None else moved.input[0]] if before is not None else []
        if before is not None and before.op_type == "Transpose" and entered == [graph.input[0].name]:
            held = node.output[0] + HELD
            graph.initializer.append(numpy_helper.from_array(np.array([-1, shape[-1], *shape[:-1]], np.int64), f"{held}_shape"))
            graph.node.insert(place, helper.make_node("Reshape", [node.input[0], f"{held}_shape"], [held]))
            graph.node[place + 1].input[0] = held
            return


def _hold_cubic(model: Any) -> None:
    """A cubic resizing keeps its channels first: ONNX Runtime moves a change of layout past it, and makes nothing smaller then."""
    from onnx import helper, numpy_helper

    graph = model.graph
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in graph.value_info}
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type != "Resize" or not any(a.name == "mode" and a.s == b"cubic" for a in node.attribute):
            continue
        held, shape = f"{node.output[0]}_kept", shapes.get(node.input[0], [0])
        if all(shape[1:]):
            graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape[1:]], np.int64), f"{held}_shape"))
            graph.node.insert(place, helper.make_node("Reshape", [node.input[0], f"{held}_shape"], [held]))
            graph.node[place + 1].input[0] = held


def _rounds_by_256(graph: Any, softmax: Any) -> bool:
    """Whether a softmax is rounded as integer ones are; else it is meant to be float."""
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.initializer}
    readers = [node for node in graph.node if softmax.output[0] in node.input and node.op_type == "QuantizeLinear"]
    scales = [numpy_helper.to_array(constants[node.input[1]]) for node in readers if node.input[1] in constants]
    return bool(scales) and all(float(scale.reshape(-1)[0]) == 1 / 256 for scale in scales)


def _strip_notes(model: Any) -> None:
    """Stack traces, source paths and shape notes: larger than a small network, and private to the workstation."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        for field in ("metadata_props", "doc_string"):
            holder.ClearField(field)
    model.graph.ClearField("value_info")
