"""Unsigned integers of 16 to 64 bits, which torch can keep and not compute: int64 computes for them."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeloop_exporters.onnx_import.table import Handler, Node
from edgeloop_exporters.onnx_import.values import Unsupported, Value

__all__ = ["by_int64"]

WIDE = (torch.uint16, torch.uint32, torch.uint64)
# What int64 does to 64 unsigned bits as well: it wraps around, moves and compares for equality.
SAFE = {
    "Add", "Sub", "Mul", "Sum", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Equal", "Where", "Identity", "Reshape",
    "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Split", "Slice", "Expand", "Tile", "Gather", "GatherElements",
    "GatherND", "DepthToSpace", "SpaceToDepth", "Shape", "Size",
}  # fmt: skip
ORDERED = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "TopK", "ArgMax", "ArgMin", "ReduceMax", "ReduceMin"}
TOP = torch.iinfo(torch.int64).min  # the topmost bit: turned over, the order of int64 is that of unsigned values


def by_int64(handler: Handler, node: Node) -> Value | list[Value | None]:
    """The handler's answer; results of an unsigned operand's own type wrap around to it, as ONNX has it."""
    found = next((v.dtype for v in node.inputs if v is not None and isinstance(v.a, Tensor) and v.dtype in WIDE), None)
    if found is None or node.op == "BitCast":
        made = handler(node)
        return made if isinstance(made, Value) else list(made)
    turned = found == torch.uint64 and node.op in ORDERED
    left = node.op == "BitShift" and node.get("direction") == "LEFT"
    if found == torch.uint64 and not (turned or left or node.op in SAFE):
        raise Unsupported("of unsigned 64-bit values")
    kinds = _kinds(node)
    inputs = [_whole(node, v, turned) if v is not None and v.dtype in WIDE else v for v in node.inputs]
    made = handler(Node(node.build, node.op, node.name, inputs, node.attributes, node.version, node.wanted))
    values: list[Value | None] = [made] if isinstance(made, Value) else list(made)
    for i, value in enumerate(values):
        if i in kinds and value is not None and value.dtype == torch.int64:
            values[i] = _back(node, value, found, turned)
    return values


def _whole(node: Node, value: Value, turned: bool) -> Value:
    found = node.build.call(Tensor.to, value, torch.int64)
    return node.build.call(torch.bitwise_xor, found, TOP) if turned else found


def _back(node: Node, value: Value, dtype: torch.dtype, turned: bool) -> Value:
    value = node.build.call(torch.bitwise_xor, value, TOP) if turned else value
    return node.build.call(Tensor.to, value, dtype)


def _kinds(node: Node) -> set[int]:
    """The outputs that have the type of an unsigned operand."""
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op, node.version, "")
    except onnx.defs.SchemaError as error:
        raise Unsupported("of unsigned values") from error
    types = [parameter.type_str for parameter in schema.inputs]
    last = len(types) - 1
    mine = {types[min(i, last)] for i, v in enumerate(node.inputs) if v is not None and v.dtype in WIDE}
    made = schema.outputs
    return {i for i in range(len(node.wanted)) if made[min(i, len(made) - 1)].type_str in mine}
