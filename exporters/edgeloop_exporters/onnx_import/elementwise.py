"""Operators that work value by value: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_exporters.onnx_import.table import DTYPES, Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value

BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Pow": torch.pow, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "And": torch.logical_and, "Or": torch.logical_or,
    "Xor": torch.logical_xor, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip
# With the operands in the other order: numbers come second.
MIRRORED = {
    "Add": "Add", "Mul": "Mul", "Equal": "Equal", "Greater": "Less", "GreaterOrEqual": "LessOrEqual", "Less": "Greater",
    "LessOrEqual": "GreaterOrEqual",
}  # fmt: skip
UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "IsNaN": torch.isnan, "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
    "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "HardSwish": F.hardswish, "Mish": F.mish, "BitwiseNot": torch.bitwise_not,
}  # fmt: skip


@handles(*BINARY)
def _binary(node: Node) -> Value:
    if node.version < 7 and node.get("broadcast"):
        raise Unsupported("with the broadcast of operator sets before 7")
    a, b = node[0], node[1]
    if node.op == "Pow" and a.dtype != b.dtype:
        b = node.build.call(Tensor.to, b, a.dtype)
    if node.op == "Pow" and b.is_constant and b.a.numel() == 1 and node.build.number(b) == 2.0:
        return node.build.call(torch.mul, a, a)
    second = node.build.operand(b, a)
    first = node.build.operand(a, b) if isinstance(second, Value) else a
    if isinstance(first, Value) and isinstance(second, Value):
        node.build.along_channels(first, second)
        node.build.along_channels(second, first)
    if isinstance(first, Value):
        return node.build.call(BINARY[node.op], first, second)
    if node.op == "Sub":  # a number minus a tensor goes wrong in TFLite's converter
        return node.build.call(torch.add, node.build.call(torch.neg, second), first)
    if node.op in MIRRORED:
        return node.build.call(BINARY[MIRRORED[node.op]], second, first)
    return node.build.call(BINARY[node.op], a, b)


@handles("Div")
def _divide(node: Node) -> Value:
    a, b = node[0], node[1]
    second = node.build.operand(b, a)
    if not a.dtype.is_floating_point:
        return node.build.call(torch.div, a, second, rounding_mode="trunc")
    if not isinstance(second, Value) and second:  # integer kernels know products
        return node.build.call(torch.mul, a, 1.0 / second)
    first = node.build.operand(a, b) if isinstance(second, Value) else a
    if isinstance(second, Value):
        node.build.along_channels(second, a)
    return node.build.call(torch.div, first, second) if isinstance(first, Value) else node.build.call(_divided_by, first, second)


def _divided_by(number: float, x: Tensor) -> Tensor:
    return torch.mul(torch.reciprocal(x), number)


@handles("Mod")
def _mod(node: Node) -> Value:
    return node.build.call(torch.fmod if node.get("fmod", 0) else torch.remainder, node[0], node.build.operand(node[1], node[0]))


@handles("BitShift")
def _shift(node: Node) -> Value:
    left = node.get("direction") == "LEFT"
    return node.build.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, node[0], node[1])


@handles(*UNARY)
def _unary(node: Node) -> Value:
    return node.build.call(UNARY[node.op], node[0])


@handles("Identity", "Dropout")
def _identity(node: Node) -> Value | list[Value]:
    if node.op == "Dropout" and node.outputs > 1:
        return [node[0], node.build.call(torch.ones_like, node[0], dtype=torch.bool)]
    return node[0]


@handles("Sum", "Mean", "Max", "Min")
def _variadic(node: Node) -> Value:
    function = {"Max": torch.maximum, "Min": torch.minimum}.get(node.op, torch.add)
    result = node[0]
    for i in range(1, len(node.inputs)):
        result = node.build.call(function, result, node[i])
    return node.build.call(torch.mul, result, 1.0 / len(node.inputs)) if node.op == "Mean" and len(node.inputs) > 1 else result


@handles("Clip")
def _clip(node: Node) -> Value:
    low, high = (_bound(node, i, name) for i, name in ((1, "min"), (2, "max")))
    x = node[0]
    if not x.dtype.is_floating_point:
        low, high = (None if v is None else int(v) for v in (low, high))
    elif (low, high) == (0.0, 6.0):
        return node.build.call(F.relu6, x)
    elif low == 0.0 and (high is None or high >= 3.4e38):
        return node.build.call(torch.relu, x)
    return x if low is None and high is None else node.build.call(torch.clamp, x, low, high)


def _bound(node: Node, i: int, name: str) -> float | None:
    value = node.maybe(i)
    if value is not None:
        return node.build.number(value)
    found = node.get(name)
    return None if found is None or abs(found) >= 3.4e38 else float(found)


@handles("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "Shrink", "Selu", "Swish", "Gelu", "HardSigmoid")
def _activation(node: Node) -> Value:
    x, call = node[0], node.build.call
    alpha = node.get("alpha")
    if node.op == "LeakyRelu":
        return call(F.leaky_relu, x, 0.01 if alpha is None else float(alpha))
    if node.op == "Elu":
        return call(F.elu, x, 1.0 if alpha is None else float(alpha))
    if node.op == "Celu":
        return call(F.celu, x, 1.0 if alpha is None else float(alpha))
    if node.op == "ThresholdedRelu":
        return call(F.threshold, x, 1.0 if alpha is None else float(alpha), 0.0)
    if node.op == "Shrink":
        lambd, bias = float(node.get("lambd", 0.5)), float(node.get("bias", 0.0))
        if bias not in (0.0, lambd) or not x.dtype.is_floating_point:
            return call(_shrunk, x, lambd, bias)
        return call(F.softshrink if bias else F.hardshrink, x, lambd)
    if node.op == "Selu":
        return _selu(node, x)
    if node.op == "Swish":
        scaled = x if alpha in (None, 1.0) else call(torch.mul, x, float(alpha))
        return call(torch.mul, x, call(torch.sigmoid, scaled))
    if node.op == "Gelu":
        return call(F.gelu, x, approximate=node.get("approximate", "none"))
    alpha, beta = (0.2 if alpha is None else float(alpha)), float(node.get("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return call(F.hardsigmoid, x)
    return call(torch.clamp, call(torch.add, call(torch.mul, x, alpha), beta), 0.0, 1.0)


def _shrunk(x: Tensor, lambd: float, bias: float) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


def _selu(node: Node, x: Value) -> Value:
    alpha, gamma = float(node.get("alpha", 1.6732632423543772)), float(node.get("gamma", 1.0507009873554805))
    return node.build.call(torch.mul, node.build.call(F.elu, x, alpha), gamma)


@handles("PRelu")
def _prelu(node: Node) -> Value:
    x, slope = node[0], node[1]
    if slope.is_constant and x.rank > 1 and slope.a.numel() in (1, x.shape[1]) and slope.a.numel() == max(slope.shape, default=1):
        along = slope.rank == 0 or slope.a.numel() == 1 or (slope.rank == x.rank - 1 and slope.shape[0] == x.shape[1])
        if along or (slope.rank == 1 and x.rank == 2):
            layer = torch.nn.PReLU(slope.a.numel())
            layer.weight = torch.nn.Parameter(slope.a.reshape(-1).clone())
            return node.build.layer(node.name, layer, x)
    call = node.build.call
    low = call(torch.mul, call(torch.minimum, x, node.build.tensor(torch.zeros((), dtype=x.dtype))), slope)
    return call(torch.add, call(torch.relu, x), low)


@handles("Where")
def _where(node: Node) -> Value:
    return node.build.call(torch.where, node[0], node[1], node[2])


@handles("IsInf")
def _is_inf(node: Node) -> Value:
    negative, positive = bool(node.get("detect_negative", 1)), bool(node.get("detect_positive", 1))
    if not (negative or positive):
        return node.build.call(torch.zeros_like, node[0], dtype=torch.bool)
    function = torch.isinf if negative and positive else torch.isposinf if positive else torch.isneginf
    return node.build.call(function, node[0])


@handles("BitCast")
def _bit_cast(node: Node) -> Value:
    x, dtype = node[0], DTYPES.get(node.get("to"))
    if dtype is None or x.dtype.itemsize != dtype.itemsize or node.get("to") in (10, 11, 16):
        raise Unsupported(f"to type {node.get('to')}")
    return node.build.call(Tensor.view, x, dtype)


@handles("Cast", "CastLike")
def _cast(node: Node) -> Value:
    dtype = node[1].dtype if node.op == "CastLike" else DTYPES.get(node.get("to"))
    if dtype is None:
        raise Unsupported(f"to type {node.get('to')}")
    x = node[0]
    if x.dtype == dtype:
        return x
    return node.build.call(Tensor.to, x, dtype)


@handles("Constant")
def _constant(node: Node) -> Value:
    raise AssertionError("constants are read by the reader")
