"""Small TFLite files, operator by operator, as their schema has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    np.float32: "FLOAT32",
    np.float16: "FLOAT16",
    np.int32: "INT32",
    np.int8: "INT8",
    np.bool_: "BOOL",
    np.complex64: "COMPLEX64",
}


@dataclass(frozen=True)
class Op:
    """`inputs`: names, "" for none; `made`: name → shape, and its type where it is not float32. `custom`: options of such a kind."""

    kind: str
    inputs: Sequence[str]
    made: Mapping[str, tuple[int, ...]]
    options: Any = None
    dtype: Any = np.float32
    custom: bytes = b""


def options(name: str, **values: Any) -> Any:
    found = getattr(schema, f"{name}OptionsT")()
    for key, value in values.items():
        assert hasattr(found, key), key
        setattr(found, key, value)
    return found


def tflite_file(
    inputs: Mapping[str, tuple[int, ...]],
    ops: Sequence[Op],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    graph.tensors, graph.operators = [], []
    names: dict[str, int] = {}

    def tensor(name: str, shape: tuple[int, ...], dtype: Any, data: np.ndarray | None = None) -> None:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), getattr(schema.TensorType, TYPES[dtype]), 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        names[name] = len(graph.tensors)
        graph.tensors.append(made)

    for name, shape in inputs.items():
        tensor(name, shape, np.float32)
    for name, values in (constants or {}).items():
        tensor(name, values.shape, values.dtype.type, values)
    for op in ops:
        for name, shape in op.made.items():
            tensor(name, shape, op.dtype)
        code, number = schema.OperatorCodeT(), getattr(schema.BuiltinOperator, "CUSTOM" if op.custom else op.kind)
        code.customCode = op.kind if op.custom else None
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), VERSIONS.get(op.kind, 1)
        model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(model.operatorCodes) - 1
        made.inputs, made.outputs = [names.get(name, -1) for name in op.inputs], [names[name] for name in op.made]
        if op.custom:
            made.customOptions = np.frombuffer(op.custom, np.uint8)
        if op.options is not None:
            made.builtinOptions = op.options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(op.options).__name__.removesuffix("T"))
        graph.operators.append(made)
    graph.inputs, graph.outputs = [names[name] for name in inputs], [names[name] for name in outputs]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def constant_file(side: int, outputs: Mapping[str, np.ndarray]) -> bytes:
    """A file of pictures (1, side, side, 3) that answers the same, whatever it sees; outputs with their batch."""
    ops = [
        Op("MEAN", ["images", "axes"], {"mean": (1, 1, 1, 3)}, options("Reducer", keepDims=True)),
        Op("MUL", ["mean", "none"], {"nothing": (1, 1, 1, 3)}, options("Mul")),
        Op("SUM", ["nothing", "three"], {"sum": (1, 1)}, options("Reducer", keepDims=False)),
        *(Op("ADD", [f"{name} values", "sum"], {name: values.shape}, options("Add")) for name, values in outputs.items()),
    ]  # fmt: skip
    axes = {"axes": np.array([1, 2], np.int32), "three": np.array([2, 3], np.int32), "none": np.zeros(1, np.float32)}
    constants = axes | {f"{name} values": values.astype(np.float32) for name, values in outputs.items()}
    return tflite_file({"images": (1, side, side, 3)}, ops, list(outputs), constants)


VERSIONS = {
    "RESIZE_BILINEAR": 3,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "DEQUANTIZE": 3,
    "TRANSPOSE_CONV": 3,
    "BATCH_MATMUL": 2,
    "FULLY_CONNECTED": 5,
}
