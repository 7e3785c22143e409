"""Outputs that are one value a sample without an axis for it, (batch,), as (batch, 1)."""

from __future__ import annotations

from edgeloop_exporters.graph_names import free_name, names_of, rename
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["with_value_axes"]


def with_value_axes(content: bytes, where: str) -> bytes | None:
    """The same ONNX model whose outputs have an axis behind the batch; None where each has one. An output counts where its only
    axis is open, or 1. Raises ModelError for a file that is none.
    """
    from onnx import TensorProto, helper

    model = parse_onnx(content, where)
    graph = model.graph
    inputs = {value.name for value in graph.input}
    floats = [v for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT and v.name not in inputs]
    flat = [value for value in floats if [dim.dim_value > 1 for dim in value.type.tensor_type.shape.dim] == [False]]
    if not flat:
        return None
    taken = names_of(graph)
    inner = {value.name: free_name(f"{value.name}_flat", taken) for value in flat}
    rename(graph, inner)
    for value in flat:
        axes = free_name(f"{value.name}_shape", taken)
        graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [2], [-1, 1]))
        graph.node.append(helper.make_node("Reshape", [inner[value.name], axes], [value.name]))
        value.type.tensor_type.shape.dim.add().dim_value = 1
    for value in [value for value in graph.value_info if value.name in inner]:
        graph.value_info.remove(value)
    return bytes(model.SerializeToString(deterministic=True))
