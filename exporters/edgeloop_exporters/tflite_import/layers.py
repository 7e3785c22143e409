"""Layers with weights, and pools."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeloop_exporters.tflite_import.table import Step, Unsupported, rule

SAME = 0


def _sides(sizes: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int], padding: int) -> list[int]:
    """Both sides' padding, as ONNX orders them."""
    befores, afters = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0) if padding == SAME else 0
        befores.append(total // 2)
        afters.append(total - total // 2)
    return [*befores, *afters]


def _strides(step: Step) -> list[int]:
    return [int(step.option("strideH", 1)), int(step.option("strideW", 1))]


@rule("CONV_2D", "DEPTHWISE_CONV_2D")
def _conv(step: Step) -> None:
    weights, (_, height, width, channels) = step.constant(1), step.shape(0)
    if step.op == "CONV_2D":
        weights = weights.transpose(0, 3, 1, 2)
        groups = channels // weights.shape[1]
    else:
        weights, groups = weights.transpose(3, 0, 1, 2), channels
    kernel, strides = [int(k) for k in weights.shape[2:]], _strides(step)
    dilations = [int(step.option("dilationHFactor", 1)), int(step.option("dilationWFactor", 1))]
    given = [step.write.get(step.inputs[0], True), step.write.constant(weights)]
    if step.has(2):
        given.append(step.write.constant(step.constant(2)))
    pads = _sides((height, width), kernel, strides, dilations, int(step.option("padding")))
    made = step.write.node(
        "Conv", given, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads, group=groups
    )  # fmt: skip
    step.put(made, True)


@rule("TRANSPOSE_CONV")
def _transpose_conv(step: Step) -> None:
    """Inputs: the result's shape, weights (outputs, height, width, inputs), the tensor, and a bias perhaps."""
    weights, strides = step.constant(1).transpose(3, 0, 1, 2), _strides(step)
    sizes, goal = step.shape(2)[1:3], step.goal()[1:3]
    befores, afters, extra = [], [], []
    for size, to, k, s in zip(sizes, goal, weights.shape[2:], strides, strict=True):
        total = (size - 1) * s + int(k) - to
        befores.append(max(total, 0) // 2)
        afters.append(max(total, 0) - max(total, 0) // 2)
        extra.append(max(-total, 0))
    given = [step.write.get(step.inputs[2], True), step.write.constant(weights)]
    if step.has(3):
        given.append(step.write.constant(step.constant(3)))
    made = step.write.node("ConvTranspose", given, strides=strides, pads=[*befores, *afters], output_padding=extra)
    step.put(made, True)


@rule("FULLY_CONNECTED")
def _dense(step: Step) -> None:
    shape, write = step.shape(0), step.write
    x = write.get(step.inputs[0])
    if step.inputs[1] in write.constants:
        weights = step.constant(1)
        if int(step.option("weightsFormat")):
            raise Unsupported("with shuffled weights")
        if not step.option("keepNumDims", False) and (len(shape) != 2 or shape[1] != weights.shape[1]):
            x, shape = write.node("Reshape", [x, write.ints(-1, int(weights.shape[1]))]), (0, int(weights.shape[1]))
        kernel = write.constant(weights.T)
    else:
        kernel = write.node("Transpose", [write.get(step.inputs[1])], perm=[1, 0])
    if len(shape) == 2 and step.has(2) and step.inputs[2] in write.constants:
        made = write.node("Gemm", [x, kernel, write.constant(step.constant(2))])
    else:
        made = write.node("MatMul", [x, kernel])
        if step.has(2):
            made = write.node("Add", [made, write.get(step.inputs[2])])
    step.put(made, False)


@rule("BATCH_MATMUL")
def _matmul(step: Step) -> None:
    given = []
    for i, name in ((0, "adjX"), (1, "adjY")):
        value, rank = step.write.get(step.inputs[i]), len(step.shape(i))
        if step.option(name, False):
            value = step.write.node("Transpose", [value], perm=[*range(rank - 2), rank - 1, rank - 2])
        given.append(value)
    step.put(step.write.node("MatMul", given), False)


@rule("MAX_POOL_2D", "AVERAGE_POOL_2D")
def _pool(step: Step) -> None:
    kernel, strides = [int(step.option("filterHeight", 1)), int(step.option("filterWidth", 1))], _strides(step)
    pads = _sides(step.shape(0)[1:3], kernel, strides, [1, 1], int(step.option("padding")))
    more: dict[str, Any] = {} if step.op == "MAX_POOL_2D" else {"count_include_pad": 0}
    kind = "MaxPool" if step.op == "MAX_POOL_2D" else "AveragePool"
    x = step.write.get(step.inputs[0], True)
    step.put(step.write.node(kind, [x], kernel_shape=kernel, strides=strides, pads=pads, **more), True)


@rule("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(step: Step) -> None:
    corners, half = bool(step.option("alignCorners", False)), bool(step.option("halfPixelCenters", False))
    how = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    linear = step.op == "RESIZE_BILINEAR"
    # TFLite rounds half up with aligned corners and takes the place below otherwise, half a place further with half_pixel
    rounding: dict[str, Any] = {} if linear else {"nearest_mode": "round_prefer_ceil" if corners or half else "floor"}
    height, width = step.goal()[1:3]
    batch, _, _, channels = step.shape(0)
    sizes = step.write.ints(batch, channels, height, width)
    x = step.write.get(step.inputs[0], True)
    made = step.write.node(
        "Resize", [x, "", "", sizes], mode="linear" if linear else "nearest", coordinate_transformation_mode=how, **rounding
    )  # fmt: skip
    step.put(made, True)


@rule("L2_NORMALIZATION")
def _l2(step: Step) -> None:
    axis = 1 if step.first else len(step.shape(0)) - 1
    x = step.write.get(step.inputs[0], step.first)
    step.put(step.write.node("LpNormalization", [x], axis=axis, p=2), step.first)


@rule("DEQUANTIZE", "DENSIFY")
def _half(step: Step) -> None:
    """Weights that are kept with 16 bits, or sparse; they were made whole when they were read."""
    values = step.write.constants.get(step.inputs[0])
    if values is None or not np.issubdtype(values.dtype, np.floating):
        raise Unsupported("the model is already quantized")
    step.write.constants[step.outputs[0]] = values.astype(np.float32)
