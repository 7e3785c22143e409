"""MediaPipe's own operators that are a built-in one by another name: LiteRT runs the file then, and can be compared with."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from edgeloop_exporters.model_files.tflite_writing import packed

__all__ = ["with_built_ins"]

# (name → of TfLiteTransposeConvParams: padding, 1 is SAME; stride of columns; stride of rows)
TRANSPOSED = b"Convolution2DTransposeBias"
PARAMETERS = struct.Struct("<3i")
SAME = 1
BIAS_SINCE = 3  # version of TRANSPOSE_CONV


def with_built_ins(content: bytes, schema: Any) -> bytes:
    """The same file without such operators; `content` itself where there is none.

    A transposed convolution with a bias (inputs: tensor, weights, bias) becomes TRANSPOSE_CONV (the result's shape, weights,
    tensor, bias). Only of float files: the others are refused later.
    """
    if TRANSPOSED not in content:
        return content
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph, codes = model.subgraphs[0], model.operatorCodes
    for operator in graph.operators:
        if codes[operator.opcodeIndex].customCode != TRANSPOSED or len(operator.inputs) != 3:
            continue
        padding, columns, rows = PARAMETERS.unpack_from(bytes([] if operator.customOptions is None else operator.customOptions))
        options = schema.TransposeConvOptionsT()
        options.padding = schema.Padding.SAME if padding == SAME else schema.Padding.VALID
        options.strideW, options.strideH = columns, rows
        x, weights, bias = (int(i) for i in operator.inputs)
        goal = [int(size) for size in graph.tensors[int(operator.outputs[0])].shape]
        operator.inputs = np.array([_constant(model, graph, schema, goal), weights, x, bias], np.int32)
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.TransposeConvOptions, options
        operator.customOptions = None
        operator.opcodeIndex = _code(model, schema)
    return packed(model)


def _constant(model: Any, graph: Any, schema: Any, values: list[int]) -> int:
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
    tensor.name, tensor.shape = f"shape_{len(graph.tensors)}", np.array([len(values)], np.int32)
    tensor.type = schema.TensorType.INT32
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _code(model: Any, schema: Any) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE_CONV
    code.version = BIAS_SINCE
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
