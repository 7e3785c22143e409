"""Outputs of an ONNX file that belong together, as one output: a detector's levels, or its boxes and their scores."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloop_exporters.graph_names import free_name, names_of
from edgeloop_exporters.model_files.onnx_file import parse_onnx
from edgeloop_exporters.model_files.split_detectors import Join

__all__ = ["with_joined_outputs"]


def with_joined_outputs(content: bytes, joins: Sequence[Join], where: str) -> bytes:
    """The same ONNX model with the outputs of `joins` alone, each (N, rows, values). Raises ModelError for a file that is none."""
    from onnx import TensorProto, helper

    model = parse_onnx(content, where)
    graph, taken = model.graph, names_of(model.graph)
    outputs = []
    for join in joins:
        name = free_name(join.name, taken)
        graph.node.append(helper.make_node("Concat", join.parts, [name], axis=join.axis))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None, None]))
    graph.ClearField("output")
    graph.output.extend(outputs)
    return bytes(model.SerializeToString(deterministic=True))
