"""Reductions, softmax, normalizations over axes, searches for extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value

REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
}  # fmt: skip


@handles(*REDUCE, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare")
def _reduce(node: Node) -> Value:
    x, call = node[0], node.build.call
    axes = node.ints(1, "axes")
    if not axes:
        if node.get("noop_with_empty_axes", 0):
            return _before(node, x) if node.op in ("ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum") else x
        axes = list(range(x.rank))
    axes = sorted(axis % max(x.rank, 1) for axis in axes)
    if 0 in axes and x.batched() and not x.is_static:
        raise Unsupported("over the batch")
    keep = bool(node.get("keepdims", 1))
    if node.op in ("ReduceMax", "ReduceMin") and any(x.shape[axis] == 0 for axis in axes):
        return _of_nothing(node, x, axes, keep)
    if node.op == "ReduceProd":
        for axis in reversed(axes):
            x = call(torch.prod, x, axis, keep)
        return x
    if node.op == "ReduceLogSumExp":
        return call(torch.logsumexp, x, axes, keep)
    found = call(REDUCE.get(node.op, torch.sum), _before(node, x), axes, keep)
    if node.op == "ReduceL2":
        return call(torch.sqrt, found)
    return call(torch.log, found) if node.op == "ReduceLogSum" else found


def _of_nothing(node: Node, x: Value, axes: list[int], keep: bool) -> Value:
    """The largest of no values is the least value that the type has, and the other way round."""
    if x.dtype == torch.bool:
        fill: float = node.op == "ReduceMin"
    elif x.dtype.is_floating_point:
        fill = float("-inf") if node.op == "ReduceMax" else float("inf")
    else:
        fill = torch.iinfo(x.dtype).min if node.op == "ReduceMax" else torch.iinfo(x.dtype).max
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
    return node.build.tensor(torch.full(shape, fill, dtype=x.dtype))


def _before(node: Node, x: Value) -> Value:
    if node.op in ("ReduceL2", "ReduceSumSquare"):
        return node.build.call(torch.mul, x, x)
    return node.build.call(torch.abs, x) if node.op == "ReduceL1" else x


@handles("Softmax", "LogSoftmax")
def _softmax(node: Node) -> Value:
    x, function = node[0], torch.softmax if node.op == "Softmax" else torch.log_softmax
    axis = int(node.get("axis", 1 if node.version < 13 else -1))
    axis = axis % max(x.rank, 1)
    if node.version >= 13 or axis == x.rank - 1:
        return node.build.call(function, x, axis)
    if all(size == 1 for size in x.shape[axis + 1 :]):  # one value a place: the old operator joined these axes
        return node.build.call(function, x, axis)
    inner = list(x.shape[axis:])
    if not x.batched() or axis != 1:
        raise Unsupported(f"of operator set {node.version} over axes {axis} to {x.rank - 1}")
    return node.build.call(torch.unflatten, node.build.call(function, node.build.call(torch.flatten, x, 1), 1), 1, inner)


@handles("Hardmax")
def _hardmax(node: Node) -> Value:
    x, axis, call = node[0], int(node.get("axis", 1 if node.version < 13 else -1)), node.build.call
    axis = axis % max(x.rank, 1)
    if node.version < 13 and axis != x.rank - 1:
        raise Unsupported(f"of operator set {node.version} over axes {axis} to {x.rank - 1}")
    places = call(torch.argmax, x, axis, True)
    along = torch.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.rank)])
    return call(Tensor.to, call(torch.eq, node.build.tensor(along), places), x.dtype)


@handles("ArgMax", "ArgMin")
def _extreme(node: Node) -> Value:
    function, x, call = torch.argmax if node.op == "ArgMax" else torch.argmin, node[0], node.build.call
    axis, keep = int(node.get("axis", 0)) % max(x.rank, 1), bool(node.get("keepdims", 1))
    if not node.get("select_last_index", 0):
        return call(function, x, axis, keep)
    found = call(function, call(torch.flip, x, [axis]), axis, keep)  # the first from behind
    return call(torch.add, call(torch.neg, found), x.shape[axis] - 1)


@handles("TopK")
def _top(node: Node) -> list[Value]:
    (count,) = node.ints(1, "k") or [1]
    axis, call = int(node.get("axis", -1)), node.build.call
    # where no order is asked for, any order is right
    largest = bool(node.get("largest", 1))
    return [call(_top_values, node[0], count, axis, largest), call(_top_places, node[0], count, axis, largest)]


def _top_values(x: Tensor, count: int, axis: int, largest: bool) -> Tensor:
    return torch.topk(x, count, axis, largest, True)[0]


def _top_places(x: Tensor, count: int, axis: int, largest: bool) -> Tensor:
    """Equal values in their own order, as ONNX says; torch's own topk has none."""
    return torch.sort(x, dim=axis, descending=largest, stable=True)[1].narrow(axis, 0, count)


@handles("CumSum", "CumProd")
def _cumulative(node: Node) -> Value:
    x, call = node[0], node.build.call
    (axis,) = node.build.ints(node[1])
    axis = axis % x.rank
    backwards, length = bool(node.get("reverse", 0)), x.shape[axis]
    if x.batched(axis) and not x.is_static:
        raise Unsupported("along the batch")
    x = call(torch.flip, x, [axis]) if backwards else x
    # torch sums small integers as int64, ONNX in their own type
    x = call(torch.cumsum if node.op == "CumSum" else torch.cumprod, x, axis, dtype=x.dtype)
    if node.get("exclusive", 0):
        first = call(torch.full_like, call(torch.narrow, x, axis, 0, 1), 0 if node.op == "CumSum" else 1)
        x = call(torch.cat, [first, call(torch.narrow, x, axis, 0, length - 1)], axis)
    return call(torch.flip, x, [axis]) if backwards else x


@handles("LpNormalization")
def _lp(node: Node) -> Value:
    p, axis, call = int(node.get("p", 2)), int(node.get("axis", -1)), node.build.call
    x = node[0]
    inner = call(torch.mul, x, x) if p == 2 else call(torch.abs, x)
    total = call(torch.sum, inner, [axis], True)
    # Zeros stay zeros.
    return call(torch.div, x, call(torch.clamp, call(torch.sqrt, total) if p == 2 else total, min=1e-12))


@handles("LayerNormalization")
def _layer_norm(node: Node) -> Value | list[Value]:
    x, axis = node[0], int(node.get("axis", -1)) % node[0].rank
    if node.outputs > 1:
        return _with_moments(node, x, axis)
    shape, bias = list(x.shape[axis:]), node.maybe(2)
    if not node[1].is_constant or (bias is not None and not bias.is_constant):
        return node.build.call(F.layer_norm, x, shape, node[1], bias, float(node.get("epsilon", 1e-5)))
    layer = torch.nn.LayerNorm(shape, float(node.get("epsilon", 1e-5)))
    layer.weight = torch.nn.Parameter(node[1].a.expand(shape).clone())
    layer.bias = torch.nn.Parameter(torch.zeros(shape) if bias is None else bias.a.expand(shape).clone())
    return node.build.layer(node.name, layer, x)


def _with_moments(node: Node, x: Value, axis: int) -> list[Value]:
    """The normalized values, the mean, and one over the deviation."""
    call, axes = node.build.call, list(range(axis, x.rank))
    mean = call(torch.mean, x, axes, True)
    centred = call(torch.sub, x, mean)
    variance = call(torch.mean, call(torch.mul, centred, centred), axes, True)
    inverse = call(torch.rsqrt, call(torch.add, variance, float(node.get("epsilon", 1e-5))))
    scaled, bias = call(torch.mul, call(torch.mul, centred, inverse), node[1]), node.maybe(2)
    return [scaled if bias is None else call(torch.add, scaled, bias), mean, inverse]


@handles("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(node: Node) -> Value:
    x, call = node[0], node.build.call
    axes = list(range(int(node.get("axis", -1)) % x.rank, x.rank))
    mean = call(torch.mean, call(torch.mul, x, x), axes, True)
    scaled = call(torch.mul, x, call(torch.rsqrt, call(torch.add, mean, float(node.get("epsilon", 1e-5)))))
    node.build.along_channels(node[1], scaled)
    return call(torch.mul, scaled, node[1])


@handles("InstanceNormalization", "GroupNormalization")
def _group_norm(node: Node) -> Value:
    x, scale, bias = node[0], node[1], node[2]
    channels = x.shape[1]
    groups = channels if node.op == "InstanceNormalization" else int(node.get("num_groups"))
    if not (scale.is_constant and bias.is_constant):
        if scale.a.numel() != channels:
            raise Unsupported("with a scale that the data decide")
        return node.build.call(F.group_norm, x, groups, scale, bias, float(node.get("epsilon", 1e-5)))
    each = channels // scale.a.numel()  # operator set 18 has one for each group
    layer = torch.nn.GroupNorm(groups, channels, float(node.get("epsilon", 1e-5)))
    layer.weight = torch.nn.Parameter(scale.a.repeat_interleave(each).clone())
    layer.bias = torch.nn.Parameter(bias.a.repeat_interleave(each).clone())
    return node.build.layer(node.name, layer, x)


@handles("LRN")
def _lrn(node: Node) -> Value:
    size, alpha, beta = int(node.get("size")), float(node.get("alpha", 1e-4)), float(node.get("beta", 0.75))
    bias, x, call = float(node.get("bias", 1.0)), node[0], node.build.call
    if size % 2:
        return call(F.local_response_norm, x, size, alpha, beta, bias)
    squares = call(torch.unsqueeze, call(torch.flatten, call(torch.mul, x, x), 2), 1)  # (N, 1, C, places)
    around = call(F.pad, squares, [0, 0, (size - 1) // 2, size // 2])
    mean = call(torch.reshape, call(F.avg_pool2d, around, [size, 1], 1), [-1, *x.shape[1:]])
    return call(torch.div, x, call(torch.pow, call(torch.add, call(torch.mul, mean, alpha), bias), beta))


@handles("MeanVarianceNormalization")
def _mvn(node: Node) -> Value:
    x, call = node[0], node.build.call
    axes = [int(a) % x.rank for a in node.get("axes", [0, 2, 3])]
    if 0 in axes and x.batched() and not x.is_static:
        raise Unsupported("over the batch")
    centred = call(torch.sub, x, call(torch.mean, x, axes, True))
    variance = call(torch.mean, call(torch.mul, centred, centred), axes, True)
    return call(torch.div, centred, call(torch.add, call(torch.sqrt, variance), 1e-9))
