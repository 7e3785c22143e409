"""Reads a TFLite file operator by operator, and writes ONNX nodes by the table."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# They fill the table of rules. By their own names: the package itself imports this module.
import edgeloop_exporters.tflite_import.layers
import edgeloop_exporters.tflite_import.spectra
import edgeloop_exporters.tflite_import.values  # noqa: F401
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.model_files.tflite_graph import schema_module
from edgeloop_exporters.tflite_import.customs import with_built_ins
from edgeloop_exporters.tflite_import.folding import folded
from edgeloop_exporters.tflite_import.sparse import dense
from edgeloop_exporters.tflite_import.table import RULES, Step, Unsupported
from edgeloop_exporters.tflite_import.writing import Writer

__all__ = ["PACK", "Translated", "translated"]

OPSET = 20  # the first with Gelu
PACK = "pack the file as it is (edgeloop pack)"
TYPES = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
    "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16,
}  # fmt: skip
FLOATS = ("FLOAT32",)
WHOLE = ("INT32", "INT64", "BOOL")  # places and shapes
# What a rule or flatbuffers' reader meets in a damaged file.
WRONG = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Translated:
    """`model`: an onnx.ModelProto. `made`: number of a TFLite tensor → its name there, and whether it is channels first.

    `content`: the file that LiteRT runs, with built-in operators in place of those that it lacks.
    """

    model: Any
    made: dict[int, tuple[str, bool]]
    content: bytes


def translated(path: Path) -> Translated:
    """The file's graph in ONNX, not compared yet. Raises ModelError naming the operator that is not known."""
    described = read(path)  # refuses what is no whole model
    if described.runtime != "tflite":
        raise ModelError(f"{path}: is not a TFLite file")
    content, schema = path.read_bytes(), schema_module(str(path))
    try:
        content = with_built_ins(content, schema)
        return _model(schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0)), content, schema, path)
    except Unsupported as error:
        raise ModelError(f"{path}: {error}, which cannot be imported; {PACK}") from error
    except WRONG as error:
        raise ModelError(f"{path} is damaged or cut off: convert or download it again") from error


def _model(model: Any, content: bytes, schema: Any, where: Path) -> Translated:
    from onnx import helper

    graph = model.subgraphs[0]
    types = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    kind_of = [_kind(kinds.get(max(c.builtinCode, c.deprecatedBuiltinCode), "?"), c.customCode) for c in model.operatorCodes]
    _check(graph, types, where)
    shapes = {i: tuple(int(n) for n in (t.shape if t.shape is not None else ())) for i, t in enumerate(graph.tensors)}
    constants = _constants(model, graph, content, types)
    kinds_of = [kind_of[operator.opcodeIndex] for operator in graph.operators]
    fixed, known = folded(graph.operators, kinds_of, shapes, constants, content)
    constants, shapes = constants | fixed, shapes | known
    write = Writer(shapes, constants)
    names = [_name(t) for t in graph.tensors]
    for i in graph.inputs:
        write.put(int(i), names[i])
    for number, operator in enumerate(graph.operators):
        kind = kinds_of[number]
        if all(int(i) in constants for i in operator.outputs):
            continue
        write.where = f"{kind.lower()}_{number}"
        _operator(write, kind, operator, f"{where}: {kind} {names[int(operator.outputs[0])]!r}")
    write.where = "end"
    for i in graph.outputs:
        write.nodes.append(helper.make_node("Identity", [write.get(int(i))], [names[i]], name=f"output_{i}"))
    inputs, outputs = ([_port(graph.tensors[i], names[i], types) for i in side] for side in (graph.inputs, graph.outputs))
    made = helper.make_graph(write.nodes, "tflite", inputs, outputs, write.initializers)
    sets = [helper.make_opsetid("", OPSET)]
    return Translated(helper.make_model(made, opset_imports=sets, ir_version=9, producer_name="edgeloop"), write.made, content)


def _kind(kind: str, custom: bytes | str | None) -> str:
    """The operator's name; of a custom one its own."""
    name = custom.decode("utf-8", "replace") if isinstance(custom, bytes) else custom
    return f"CUSTOM {name[:60]}" if kind == "CUSTOM" and name else kind


def _operator(write: Writer, kind: str, operator: Any, where: str) -> None:
    inputs = [int(i) for i in operator.inputs]
    try:
        if kind not in RULES:
            raise Unsupported("there is no rule for it")
        missing = [i for i in inputs if i >= 0 and not write.is_known(i)]
        if missing:
            raise Unsupported("nothing makes one of its inputs")
        RULES[kind](Step(write, kind, inputs, [int(i) for i in operator.outputs], operator.builtinOptions))
    except Unsupported as error:
        raise ModelError(f"{where}: cannot be imported, {error}; {PACK}") from error
    except WRONG as error:
        raise ModelError(f"{where}: cannot be imported, its inputs or options are not what it takes; {PACK}") from error


def _check(graph: Any, types: dict[int, str], where: Path) -> None:
    """Raises ModelError for quantized files, for state, and for open sizes."""
    for tensor in graph.tensors:
        name, kind = _name(tensor), types.get(tensor.type, "?")
        scaled = tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale)
        if scaled and kind in ("INT8", "UINT8", "INT16", "INT32"):
            raise ModelError(f"{where}: its tensor {name!r} is quantized to {kind.lower()}; only float files are imported: {PACK}")
        if tensor.isVariable:
            raise ModelError(f"{where}: keeps state from one call to the next in {name!r}, which cannot be imported; {PACK}")
    for i in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[i]
        signature = tensor.shapeSignature if tensor.shapeSignature is not None else []
        if tensor.shape is None or not len(tensor.shape) or -1 in list(signature)[1:]:
            raise ModelError(f"{where}: leaves the shape of {_name(tensor)!r} open; convert it with fixed sizes, or {PACK}")


def _constants(model: Any, graph: Any, content: bytes, types: dict[int, str]) -> dict[int, Array]:
    found: dict[int, Array] = {}
    given = {int(i) for i in graph.inputs}
    for i, tensor in enumerate(graph.tensors):
        buffer = model.buffers[tensor.buffer]
        data = buffer.data
        if data is None and buffer.offset > 1:
            data = np.frombuffer(content[buffer.offset : buffer.offset + buffer.size], np.uint8)
        shape = [int(n) for n in (tensor.shape if tensor.shape is not None else ())]
        if i in given or ((data is None or not len(data)) and 0 not in shape):
            continue
        kind = TYPES.get(types.get(tensor.type, "?"))
        if kind is None:
            continue  # what reads it has no rule for it
        kept: Array = np.frombuffer(b"" if data is None else np.asarray(data, np.uint8).tobytes(), kind)
        read_in = kept.reshape(shape) if tensor.sparsity is None else dense(kept, tensor.sparsity, shape)
        found[i] = read_in.astype(np.float32) if read_in.dtype in (np.float16, np.float64) else read_in
    return found


def _name(tensor: Any) -> str:
    return tensor.name.decode("utf-8", "replace") if isinstance(tensor.name, bytes) else str(tensor.name)


def _port(tensor: Any, name: str, types: dict[int, str]) -> Any:
    from onnx import helper

    kind = types.get(tensor.type, "?")
    if kind not in (*FLOATS, *WHOLE):
        raise Unsupported(f"its tensor {name!r} takes {kind.lower()}")
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[kind])), [int(n) for n in tensor.shape]
    )  # fmt: skip
