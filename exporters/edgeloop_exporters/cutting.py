"""Where an ONNX graph can be cut in two, and the two parts. Needs onnx alone: the hub cuts tails with it as well.

A tensor is a cut point when every path from the inputs to the outputs goes through it: it dominates the output. (A tensor inside a
residual block does not, and a cut there silently makes an invalid tail.) In a graph with QuantizeLinear/DequantizeLinear pairs only
quantized tensors are cut, so that the boundary crosses as 8 bits, with the scale in the tail.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, shape_inference

from edgeloop_contract.errors import BundleError

DTYPES = {TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.INT16: "int16", TensorProto.FLOAT: "float32"}


@dataclass(frozen=True)
class Boundary:
    """`shape`: of one sample, without the batch; `depth`: share of the graph's nodes before it."""

    tensor: str
    dtype: str
    shape: list[int]
    depth: float


def boundaries(model: bytes) -> list[Boundary]:
    """Every inner cut point, from the input on. Raises BundleError for what is no ONNX model."""
    graph = _inferred(model).graph
    constants = _constants(graph)
    types = {v.name: v.type.tensor_type for v in graph.value_info}
    quantized = any(node.op_type == "QuantizeLinear" for node in graph.node)
    found = []
    for place, node in enumerate(graph.node):
        for tensor in node.output:
            known = types.get(tensor)
            if tensor in constants or known is None or known.elem_type not in DTYPES:
                continue
            if quantized and known.elem_type == TensorProto.FLOAT:
                continue
            shape = [d.dim_value for d in known.shape.dim]
            if len(shape) < 2 or not all(shape[1:]) or not known.shape.dim[0].dim_param:
                continue  # without a batch of its own, it holds more than one sample's share
            if _dominates(graph, constants, tensor):
                found.append(Boundary(tensor, DTYPES[known.elem_type], shape[1:], (place + 1) / len(graph.node)))
    return found


def head(model: bytes, tensor: str) -> bytes:
    """From the inputs to `tensor`."""
    return _part(model, None, [tensor])


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
        if node.op_type == "Constant" or (node.input and all(i in names for i in node.input)):
            names.update(node.output)
    return names


def _dominates(graph: Any, constants: set[str], tensor: str) -> bool:
    """Are the outputs out of the inputs' reach once `tensor` is taken away?"""
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
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
