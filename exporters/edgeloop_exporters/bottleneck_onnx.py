"""What is learned at a cut, as ONNX: both halves of a bottleneck codec (after a head, before a tail), a head's early scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeloop_contract.arrays import Array
from edgeloop_contract.splitting import EXIT

__all__ = ["decoder", "with_encoder", "with_exit"]

Grid = tuple[float, int]  # scale and zero point of a uint8 tensor


def with_encoder(head: bytes, tensor: str, name: str, boundary: Grid, weight: Array, bias: Array, crossing: Grid) -> bytes:
    """`head` ending in `name` (uint8) instead of `tensor`. `weight` (few, channels), `bias` (few,)."""
    model = onnx.load_from_string(head)
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim[1:]]
    nodes, constants = _mixing(tensor, name, boundary, weight, bias, crossing, len(shape) - 1)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    del model.graph.output[:]
    model.graph.output.append(_uint8(name, [len(weight), *shape[1:]]))
    return _checked(model)


def decoder(
    like: bytes, tensor: str, name: str, shape: list[int], crossing: Grid, weight: Array, bias: Array, boundary: Grid
) -> bytes:
    """From `name`, uint8 (N, *`shape`), to `tensor`. `weight` (channels, few); `like`: a model whose operator set is to be had."""
    nodes, constants = _mixing(name, tensor, crossing, weight, bias, boundary, len(shape) - 1)
    whole = onnx.load_from_string(like)
    graph = helper.make_graph(
        nodes, "decoder", [_uint8(name, shape)], [_uint8(tensor, [len(weight), *shape[1:]])], initializer=constants
    )
    return _checked(helper.make_model(graph, opset_imports=list(whole.opset_import), ir_version=whole.ir_version))


def with_exit(head: bytes, weight: Array, bias: Array) -> bytes:
    """`head` with early scores as a second output: of the mean of each channel of its boundary, as that crosses.

    `weight` (classes, channels), `bias` (classes,).
    """
    model = onnx.load_from_string(head)
    tensor = model.graph.output[0].name
    spatial_dims = list(range(2, len(model.graph.output[0].type.tensor_type.shape.dim)))
    arrays = {f"{EXIT}.weight": weight.astype(np.float32), f"{EXIT}.bias": bias.astype(np.float32)}
    nodes = [helper.make_node("Cast", [tensor], [f"{EXIT}.real"], f"{EXIT}.cast", to=TensorProto.FLOAT)]
    if spatial_dims:
        arrays[f"{EXIT}.places"] = np.array(spatial_dims, np.int64)
        nodes.append(
            helper.make_node("ReduceMean", [f"{EXIT}.real", f"{EXIT}.places"], [f"{EXIT}.means"], f"{EXIT}.mean", keepdims=0)
        )
    last = f"{EXIT}.means" if spatial_dims else f"{EXIT}.real"
    nodes.append(helper.make_node("Gemm", [last, f"{EXIT}.weight", f"{EXIT}.bias"], [EXIT], f"{EXIT}.gemm", transB=1))
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    model.graph.output.append(helper.make_tensor_value_info(EXIT, TensorProto.FLOAT, ["batch", len(weight)]))
    return _checked(model)


def _mixing(
    source: str, target: str, before: Grid, weight: Array, bias: Array, after: Grid, spatial_dims: int
) -> tuple[list[Any], list[Any]]:
    """uint8 in, a 1 × 1 convolution over so many dimensions, uint8 out."""
    p = f"{target}.bottleneck"
    arrays = {
        f"{p}.in_scale": np.float32(before[0]), f"{p}.in_zero": np.uint8(before[1]), f"{p}.bias": bias.astype(np.float32),
        f"{p}.weight": weight.astype(np.float32).reshape(*weight.shape, *[1] * spatial_dims),
        f"{p}.out_scale": np.float32(after[0]), f"{p}.out_zero": np.uint8(after[1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", [source, f"{p}.in_scale", f"{p}.in_zero"], [f"{p}.real"], f"{p}.dequantize"),
        helper.make_node("Conv", [f"{p}.real", f"{p}.weight", f"{p}.bias"], [f"{p}.mixed"], f"{p}.conv"),
        helper.make_node("QuantizeLinear", [f"{p}.mixed", f"{p}.out_scale", f"{p}.out_zero"], [target], f"{p}.quantize"),
    ]
    return nodes, [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def _uint8(name: str, shape: list[int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, ["batch", *shape])


def _checked(model: Any) -> bytes:
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
