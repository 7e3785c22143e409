"""Inputs of an ONNX file that take whole numbers, as pictures and sound are stored: the same file that takes them as floats."""

from __future__ import annotations

from edgeloop_exporters.graph_names import free_name, names_of
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["COUNTS", "with_float_input"]

COUNTS = ("uint8", "int8", "uint16", "int16", "int32")  # counts of a sensor: up to 2²⁴ each is a float32 too


def with_float_input(content: bytes, name: str, where: str) -> bytes:
    """The same ONNX model, whose input `name` takes the same values as float32. Raises ModelError for a file that is none."""
    from onnx import TensorProto, helper

    model = parse_onnx(content, where)
    graph = model.graph
    (port,) = (value for value in graph.input if value.name == name)
    kind, port.type.tensor_type.elem_type = port.type.tensor_type.elem_type, TensorProto.FLOAT
    whole = free_name(f"{name}_counts", names_of(graph))
    used = False
    for node in graph.node:
        to_float = node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
        if name in node.input and to_float:  # the values are floats already
            node.op_type = "Identity"
            del node.attribute[:]
        elif name in node.input:
            node.input[:] = [whole if given == name else given for given in node.input]
            used = True
    if used:
        graph.node.insert(0, helper.make_node("Cast", [name], [whole], to=kind))
    return bytes(model.SerializeToString(deterministic=True))
