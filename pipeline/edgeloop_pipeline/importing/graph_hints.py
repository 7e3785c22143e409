"""What the first operators of an ONNX file say about the values that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["takes_counts"]

PASSES = ("Cast", "Identity", "Transpose", "Unsqueeze", "Squeeze", "Reshape")
LARGE = 32.0  # a mean or a divisor as large as this is in counts from 0 to 255, not in shares from 0 to 1
MAX_STEPS = 64
WHOLE = (2, 3, 4, 5, 6)  # ONNX's numbers of uint8, int8, uint16, int16 and int32


def takes_counts(content: bytes, tensor: str) -> str:
    """The operator that turns counts from 0 to 255 into the network's own scale, in words; "" where the graph has none."""
    from edgeloop_exporters.model_files.onnx_file import parse_onnx

    graph = parse_onnx(content, tensor).graph
    if any(value.name == tensor and value.type.tensor_type.elem_type in WHOLE for value in graph.input):
        return "it takes whole numbers"
    constants = {i.name: i for i in graph.initializer}
    constants |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    waiting, seen = [tensor], 0
    while waiting and seen < MAX_STEPS:
        name, seen = waiting.pop(), seen + 1
        for node in graph.node:
            if name not in node.input:
                continue
            if node.op_type in PASSES:
                waiting.append(node.output[0])
            others = [constants[i] for i in node.input if i != name and i in constants]
            if others and node.op_type in ("Div", "Mul", "Sub", "Add") and (said := _said(node.op_type, others[0])):
                return said
            if node.op_type in ("Div", "Mul", "Sub", "Add") and others:
                waiting.append(node.output[0])
    return ""


def _said(operator: str, constant: Any) -> str:
    from onnx import numpy_helper

    values = np.abs(numpy_helper.to_array(constant).astype(np.float64)).reshape(-1)
    if not len(values) or len(values) > 4 or not values.max():
        return ""
    scale = 1 / values.max() if operator == "Mul" else values.max()
    if scale < LARGE:
        return ""
    shown = ", ".join(f"{value:.4g}" for value in values)
    return {"Div": f"it divides by {shown}", "Mul": f"it multiplies by {shown}", "Sub": f"it subtracts {shown}"}.get(
        operator, f"it adds {shown}"
    )
