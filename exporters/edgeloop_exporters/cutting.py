"""Where an ONNX graph can be cut in two, and the two parts. Needs onnx alone: the hub cuts tails with it as well.

A tensor is a cut point when every path from the inputs to the outputs goes through it: it dominates the output. (A tensor inside a
residual block does not, and a cut there silently makes an invalid tail.) In a graph with QuantizeLinear/DequantizeLinear pairs only
quantized tensors are cut, so that the boundary crosses as 8 bits, with the scale in the tail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import onnx
from onnx import TensorProto, shape_inference

from edgeloop_contract.arrays import DtypeName
from edgeloop_contract.errors import BundleError

__all__ = ["boundaries", "head", "only_outputs", "tail"]

DTYPE_NAMES: dict[int, DtypeName] = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)): name for name in get_args(DtypeName)}
BATCHES = (7, 11)  # two that no layer's own size is likely to be: what follows both of them is the batch


@dataclass(frozen=True)
class Boundary:
    """`shape`: of one sample, without the batch; `depth`: share of the graph's nodes before it."""

    tensor: str
    dtype: DtypeName
    shape: list[int]
    depth: float


def boundaries(model: bytes) -> list[Boundary]:
    """Every inner cut point, from the input on; none where the batch is not free. Raises BundleError for what is no ONNX model."""
    graph = _inferred(model).graph
    constants = _constants(graph)
    known = [_shapes(model, size) for size in BATCHES]
    if not all(known):
        return []
    quantized = any(node.op_type == "QuantizeLinear" for node in graph.node)
    nested = any(_captured(node) for node in graph.node)
    points = []
    for place, node in enumerate(graph.node):
        for tensor in node.output:
            types = [shapes.get(tensor) for shapes in known]
            if tensor in constants or types[0] is None or types[1] is None or types[0][0] not in DTYPE_NAMES:
                continue
            if quantized and types[0][0] == TensorProto.FLOAT:
                continue
            first, second = types[0][1], types[1][1]
            if len(first) < 2 or not all(first):
                continue
            if (first[0], *second[:1]) != BATCHES or first[1:] != second[1:]:
                continue  # its first axis is not the batch: time was merged with it or moved there, or nothing of the batch is left
            if _dominates(graph, constants, tensor) and not (nested and not _separable(model, tensor)):
                points.append(Boundary(tensor, DTYPE_NAMES[types[0][0]], first[1:], (place + 1) / len(graph.node)))
    return points


def _shapes(model: bytes, batch: int) -> dict[str, tuple[int, list[int]]]:
    """Type and shape of every tensor for so many samples (0: not known); nothing where an input's first axis is not free."""
    whole = onnx.load_from_string(model)
    constants = {i.name for i in whole.graph.initializer}
    for entry in whole.graph.input:
        axes = entry.type.tensor_type.shape.dim
        if entry.name not in constants:
            if not axes or axes[0].HasField("dim_value"):
                return {}
            axes[0].dim_value = batch
    for output in whole.graph.output:
        output.type.tensor_type.ClearField("shape")
    del whole.graph.value_info[:]
    graph = shape_inference.infer_shapes(whole, data_prop=True).graph
    types = ((v.name, v.type.tensor_type) for v in graph.value_info)
    return {name: (t.elem_type, [d.dim_value for d in t.shape.dim]) for name, t in types}


def _separable(model: bytes, tensor: str) -> bool:
    """Do both parts hold whatever their branches and loops read from outside?"""
    try:
        for part in (head(model, tensor), tail(model, tensor)):
            onnx.checker.check_model(onnx.load_from_string(part), full_check=True)
    except (BundleError, onnx.checker.ValidationError, shape_inference.InferenceError):
        return False
    return True


def _captured(node: Any) -> set[str]:
    """Names that the branches or bodies of a node read from the graph around it."""
    captured: set[str] = set()
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
            read = {o.name for o in graph.output}
            for inner in graph.node:
                read |= {*inner.input, *_captured(inner)}
                own |= set(inner.output)
            captured |= read - own
    return captured - {""}


def head(model: bytes, tensor: str) -> bytes:
    """From the inputs to `tensor`."""
    return _part(model, None, [tensor])


def only_outputs(model: bytes, names: Collection[str]) -> bytes:
    """The model with these of its outputs alone, in its own order, and with the nodes and inputs that they need."""
    whole = onnx.load_from_string(model)
    graph = whole.graph
    outputs = [output for output in graph.output if output.name in names]
    needed, nodes = {output.name for output in outputs}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= {*node.input, *_captured(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in needed]
    inputs = [entry for entry in graph.input if entry.name in needed]
    for field, values in (("node", nodes[::-1]), ("output", outputs), ("initializer", kept), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    del graph.value_info[:]
    return bytes(whole.SerializeToString())


def tail(model: bytes, tensor: str, decoder: bytes = b"") -> bytes:
    """From `tensor` to the outputs. `decoder`: of a learned bottleneck; its input is then the tail's. Raises BundleError."""
    if not decoder:
        return _part(model, [tensor], None)
    before = onnx.load_from_string(decoder)
    behind = onnx.load_from_string(_part(model, [before.graph.output[0].name], None))
    try:
        joined = onnx.compose.merge_models(before, behind, [(before.graph.output[0].name, behind.graph.input[0].name)])
    except ValueError as error:
        raise BundleError(f"the decoder of {tensor} does not fit the model: {error}") from error
    return bytes(joined.SerializeToString())


def _part(model: bytes, inputs: list[str] | None, outputs: list[str] | None) -> bytes:
    whole = _inferred(model)
    graph = whole.graph
    initializers = {i.name for i in graph.initializer}
    try:
        cut = onnx.utils.Extractor(whole).extract_model(
            inputs or [i.name for i in graph.input if i.name not in initializers], outputs or [o.name for o in graph.output]
        )
    except (ValueError, KeyError, onnx.checker.ValidationError) as error:
        raise BundleError(f"the model cannot be cut at {inputs or outputs}: {error}") from error
    del cut.graph.value_info[:]
    return bytes(cut.SerializeToString())


def _inferred(model: bytes) -> Any:
    try:
        return shape_inference.infer_shapes(onnx.load_from_string(model))
    except Exception as error:  # protobuf's and onnx's own types
        raise BundleError(f"not an ONNX model: {error}") from error


def _constants(graph: Any) -> set[str]:
    """Tensors that depend on no input."""
    names = {i.name for i in graph.initializer} | {""}
    for node in graph.node:
        read = [*node.input, *_captured(node)]
        if node.op_type == "Constant" or (read and all(i in names for i in read)):
            names.update(node.output)
    return names


def _dominates(graph: Any, constants: set[str], tensor: str) -> bool:
    """Are the outputs out of the inputs' reach once `tensor` is taken away?"""
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in (*node.input, *_captured(node)):
            readers[name].append(node)
    wanted = {o.name for o in graph.output}
    reached = [i.name for i in graph.input if i.name not in constants]
    seen = {*reached, tensor}
    while reached:
        name = reached.pop()
        if name in wanted:
            return False
        for node in readers[name]:
            fresh = [o for o in node.output if o not in seen]
            seen.update(fresh)
            reached += fresh
    return True
