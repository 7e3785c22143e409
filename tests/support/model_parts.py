"""Small model files in both formats, built operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, ["" if name == "-" else name for name in inputs.split()], outputs.split(), **attributes)


def onnx_file(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None, opset: int = 18, props: dict[str, str] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    constants = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "made", list(inputs), list(outputs), constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="somebody")
    helper.set_model_props(model, props or {})
    return model


def tflite_file(
    tensors: dict[str, Any], operators: Sequence[tuple[str, str, str]], inputs: str, outputs: str, custom: str = ""
) -> bytes:
    """A TFLite file. `tensors`: name → its constant array, or (shape, dtype) or (shape, dtype, scale, zero point)."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    graph.tensors, graph.operators, names = [], [], list(tensors)
    for name, what in tensors.items():
        tensor = schema.TensorT()
        array = what if isinstance(what, np.ndarray) else None
        shape, dtype, *scale = (array.shape, str(array.dtype)) if array is not None else what
        tensor.name, tensor.type = name.encode(), getattr(schema.TensorType, dtype.upper())
        tensor.shape, tensor.shapeSignature = [max(size, 1) for size in shape], list(shape)
        if array is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(array.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        if scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale[0]], [scale[1]]
        graph.tensors.append(tensor)
    for kind, reads, makes in operators:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        number = getattr(schema.BuiltinOperator, kind)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        code.customCode = custom.encode() if kind == "CUSTOM" else None
        model.operatorCodes.append(code)
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = ([names.index(n) if n != "-" else -1 for n in side.split()] for side in (reads, makes))
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [names.index(n) for n in inputs.split()], [names.index(n) for n in outputs.split()]
    model.subgraphs = [graph]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)  # of a convolution
D = RNG.normal(size=(4, 5)).astype(np.float32)  # of a layer


def saved(model: onnx.ModelProto | bytes, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def scored(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, **more: Any) -> onnx.ModelProto:
    """From x (batch, 4) to y (batch, 5)."""
    return onnx_file(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 5])], {"w": D} | (weights or {}), **more)


DENSE = node("MatMul", "x w", "s")
C = np.ones((4, 3, 3, 3), np.int8)
QUANTIZED = {
    "x": ((-1, 8, 8, 3), "int8", 0.5, -1), "w": C, "b": np.zeros(4, np.int32), "c": ((-1, 6, 6, 4), "int8", 0.1, 0),
    "p": ((-1, 6, 6, 4), "int8", 1 / 256, -128), "y": ((-1, 6, 6, 4), "float32"),
}  # fmt: skip


H = ["layers", 1, 6]
LSTM_WEIGHTS = {"lw": np.zeros((1, 24, 4), np.float32), "lr": np.zeros((1, 24, 6), np.float32)}


def lstm(old: str = "h0 c0", new: str = "h1 c1") -> list[onnx.NodeProto]:
    return [node("LSTM", f"x lw lr - - {old}", f"all {new}", hidden_size=6)]


def with_state(
    nodes: list[onnx.NodeProto], states: dict[str, str], weights: dict[str, np.ndarray], shape: Any = H
) -> onnx.ModelProto:
    inputs = [value("x", [1, 1, 4]), *(value(name, shape) for name in states)]
    return onnx_file(nodes, inputs, [value("all", None), *(value(name, shape) for name in states.values())], weights)


def inside_if() -> onnx.ModelProto:
    """The layer in both branches of an If, which read the state from outside."""
    branches = [
        onnx.helper.make_graph(lstm(new=f"{side}h {side}c"), side, [], [value(f"{side}h", None), value(f"{side}c", None)])
        for side in ("then", "else")
    ]
    chosen = node("If", "which", "h1 c1", then_branch=branches[0], else_branch=branches[1])
    nodes = [node("Identity", "h0", "h0copy"), chosen, node("Identity", "x", "all")]
    return with_state(nodes, {"h0": "h1", "c0": "c1"}, LSTM_WEIGHTS | {"which": np.array(True)})
