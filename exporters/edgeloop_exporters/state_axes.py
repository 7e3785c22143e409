"""States of recurrent layers, whose batch is the second axis in ONNX files, with the batch as the first axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeloop_exporters.graph_names import free_name, names_of, rename
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["TURN", "with_batch_first"]

TURN = (1, 0, 2)  # (layers, batch, values) to (batch, layers, values), and back


def with_batch_first(content: bytes, states: Mapping[str, str], where: str) -> bytes | None:
    """The same ONNX model with states (batch, layers, values); None if no state has three axes. `states`: input → output."""
    from onnx import helper

    model = parse_onnx(content, where)
    graph = model.graph
    ports = {value.name: value for value in (*graph.input, *graph.output)}
    turned = {old: new for old, new in states.items() if _rank(ports[old]) == len(TURN) and _rank(ports[new]) in (0, len(TURN))}
    if not turned:
        return None
    taken = names_of(graph)
    inner = {name: free_name(f"{name}_layers_first", taken) for pair in turned.items() for name in pair}
    rename(graph, inner)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(helper.make_node("Transpose", [old], [inner[old]], perm=TURN) for old in turned)
    graph.node.extend(nodes)
    graph.node.extend(helper.make_node("Transpose", [inner[new]], [new], perm=TURN) for new in turned.values())
    for name in inner:
        dims = ports[name].type.tensor_type.shape.dim
        moved = [dims[place].dim_value or dims[place].dim_param or None for place in TURN] if len(dims) else None
        ports[name].CopyFrom(helper.make_tensor_value_info(name, ports[name].type.tensor_type.elem_type, moved))
    for value in [value for value in graph.value_info if value.name in inner]:
        graph.value_info.remove(value)
    return bytes(model.SerializeToString(deterministic=True))


def _rank(port: Any) -> int:
    """0: the file does not say."""
    return len(port.type.tensor_type.shape.dim) if port.type.tensor_type.HasField("shape") else 0
