"""Lighter float files, made from the float ones: half precision for GPUs, and int8 weights with float arithmetic."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

from edgeloop_exporters.quantizers import WEIGHT_MAX
from edgeloop_exporters.quiet import quiet

__all__ = ["half_onnx", "half_tflite", "int8_weights_onnx", "int8_weights_tflite"]

# Where the weight stands, and which of its axes are the outputs.
WEIGHT_INPUT = {"Conv": (1, 0), "ConvTranspose": (1, 1), "Gemm": (1, 1), "MatMul": (1, -1)}
WORTH_VALUES = 256  # a scale and a node cost more than smaller weights save


def half_onnx(source: Path, target: Path) -> None:
    """Weights and arithmetic in float16; inputs and outputs as they were."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that float16 cannot hold are clipped: epsilons
        model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    _write(target, model.SerializeToString(deterministic=True))


def int8_weights_onnx(source: Path, target: Path) -> None:
    """Weights as int8 with a scale per output channel, made float again before each layer."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    places: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in WEIGHT_INPUT and node.input[WEIGHT_INPUT[node.op_type][0]] in weights:
            place, axis = WEIGHT_INPUT[node.op_type]
            transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            places[node.input[place]] = 0 if transposed else axis
    dequantizers = []
    for name, axis in places.items():
        value = numpy_helper.to_array(weights[name])
        if value.dtype != np.float32 or value.size < WORTH_VALUES:
            continue
        axis %= value.ndim
        others = tuple(i for i in range(value.ndim) if i != axis)
        scale = np.maximum(np.abs(value).max(axis=others), 1e-12).astype(np.float32) / np.float32(WEIGHT_MAX)
        shape = [-1 if i == axis else 1 for i in range(value.ndim)]
        integers = np.rint(value / scale.reshape(shape)).clip(-WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)
        graph.initializer.remove(weights[name])
        made_of = ((integers, f"{name}_int8"), (scale, f"{name}_scale"))
        graph.initializer.extend([numpy_helper.from_array(array, called) for array, called in made_of])
        dequantizers.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis))
    nodes = [*dequantizers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    _write(target, model.SerializeToString(deterministic=True))


def half_tflite(source: Path, target: Path) -> None:
    """Weights in float16, made float32 by the interpreter, or used as they are by a GPU delegate."""
    _tflite(source, target, 16)


def int8_weights_tflite(source: Path, target: Path) -> None:
    """Weights as int8, made float again before each layer."""
    _tflite(source, target, 8)


def _tflite(source: Path, target: Path, bits: int) -> None:
    with quiet():
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer.qtyping import TFLOperationName
        from ai_edge_quantizer.recipe import AlgorithmName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        recipes = RecipeManager()
        how = AlgorithmName.FLOAT_CASTING if bits == 16 else AlgorithmName.MIN_MAX_UNIFORM_QUANT
        recipes.add_weight_only_config(".*", TFLOperationName.ALL_SUPPORTED, bits, algorithm_key=how)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "float.tflite"
            path.write_bytes(source.read_bytes())
            quantized = quantizer.Quantizer(str(path), recipes.get_quantization_recipe()).quantize(enable_progress_report=False)
    _write(target, bytes(quantized.quantized_model))


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
