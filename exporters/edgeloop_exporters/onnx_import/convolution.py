"""Convolutions, dense layers and batch normalization."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value

__all__ = ["listed", "padded", "padding"]

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def padding(node: Node, x: Value, kernel: list[int], strides: list[int], dilations: list[int]) -> list[tuple[int, int]]:
    """(before, after) of each axis."""
    places, auto = len(kernel), node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = [int(p) for p in node.get("pads", [0] * 2 * places)]
        return list(zip(pads[:places], pads[places:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * places
    found = []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found


def padded(node: Node, x: Value, pads: list[tuple[int, int]], value: float) -> Value:
    flat = [side for pair in reversed(pads) for side in pair]
    return node.build.call(F.pad, x, flat, "constant", value) if any(flat) else x


def listed(node: Node, name: str, places: int) -> list[int]:
    return [int(v) for v in node.get(name, [1] * places)]


@handles("Conv")
def _conv(node: Node) -> Value:
    x, weight, bias = node[0], node[1], node.maybe(2)
    places = weight.rank - 2
    if places not in CONVOLUTIONS or x.rank != weight.rank:
        raise Unsupported(f"with {places} places")
    kernel, strides, dilations = list(weight.shape[2:]), listed(node, "strides", places), listed(node, "dilations", places)
    pads, groups = padding(node, x, kernel, strides, dilations), int(node.get("group", 1))
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        function: Any = (F.conv1d, F.conv2d, F.conv3d)[places - 1]
        return node.build.call(function, padded(node, x, pads, 0.0), weight, bias, strides, 0, dilations, groups)
    if any(before != after for before, after in pads):
        x, pads = padded(node, x, pads, 0.0), [(0, 0)] * places
    layer: Any = CONVOLUTIONS[places](
        weight.shape[1] * groups, weight.shape[0], kernel, strides, tuple(before for before, _ in pads), dilations, groups,
        bias=bias is not None,
    )  # fmt: skip
    return node.build.layer(node.name, _weights(layer, weight, bias), x)


def _weights(layer: Any, weight: Value, bias: Value | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.a.clone().contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.a.clone().reshape(-1))
    return layer  # type: ignore[no-any-return]


@handles("ConvTranspose")
def _conv_transpose(node: Node) -> Value:
    x, weight, bias = node[0], node[1], node.maybe(2)
    places = weight.rank - 2
    if places not in TRANSPOSED or not weight.is_constant or (bias is not None and not bias.is_constant):
        raise Unsupported(f"with {places} places, or with weights that the data decide")
    kernel, strides, dilations = list(weight.shape[2:]), listed(node, "strides", places), listed(node, "dilations", places)
    groups, extra = int(node.get("group", 1)), [int(v) for v in node.get("output_padding", [0] * places)]
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)]
    pads = padding(node, x, kernel, strides, dilations) if node.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") else None
    wanted = node.get("output_shape")
    if pads is None or wanted is not None:
        goal = (
            [int(v) for v in wanted][-places:] if wanted is not None else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        )
        upper = node.get("auto_pad", "NOTSET") == "SAME_UPPER"
        pads = []
        for i in range(places):
            total = full[i] + extra[i] - goal[i]
            extra[i] = extra[i] if total >= 0 else extra[i] - total
            total = max(total, 0)
            pads.append((total // 2, total - total // 2) if upper else (total - total // 2, total // 2))
    even = all(before == after for before, after in pads)
    layer: Any = TRANSPOSED[places](
        weight.shape[0], weight.shape[1] * groups, kernel, strides, tuple(before for before, _ in pads) if even else 0,
        tuple(extra), groups, bias is not None, dilations,
    )  # fmt: skip
    made = node.build.layer(node.name, _weights(layer, weight, bias), x)
    if even:
        return made
    for axis, (before, after) in enumerate(pads, 2):
        made = node.build.call(torch.ops.aten.slice.Tensor, made, axis, before, made.shape[axis] - after, 1)
    return made


@handles("Gemm")
def _gemm(node: Node) -> Value:
    a, b, c = node[0], node[1], node.maybe(2)
    alpha, beta, build = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0)), node.build
    if node.get("transA", 0):
        a = build.call(torch.t, a)
    if b.is_constant and (c is None or (c.is_constant and c.a.numel() in (1, b.shape[0 if node.get("transB", 0) else 1]))):
        weight = (b.a if node.get("transB", 0) else b.a.t()) * alpha
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=c is not None)
        layer.weight = nn.Parameter(weight.clone().contiguous())
        if c is not None:
            layer.bias = nn.Parameter((c.a.reshape(-1) * beta).expand(weight.shape[0]).clone())
        return build.layer(node.name, layer, a)
    product = build.call(torch.matmul, a, build.call(torch.t, b) if node.get("transB", 0) else b)
    product = product if alpha == 1 else build.call(torch.mul, product, alpha)
    if c is None:
        return product
    return build.call(torch.add, product, c if beta == 1 else build.call(torch.mul, c, beta))


@handles("MatMul")
def _matmul(node: Node) -> Value:
    a, b = node[0], node[1]
    if b.is_constant and b.rank == 2 and not a.is_static and a.rank >= 2:
        layer = nn.Linear(b.shape[0], b.shape[1], bias=False)
        layer.weight = nn.Parameter(b.a.t().clone().contiguous())
        return node.build.layer(node.name, layer, a)
    return node.build.call(torch.matmul, a, b)


@handles("BatchNormalization")
def _batch_norm(node: Node) -> Value | list[Value]:
    x, parts = node[0], [node[i] for i in range(1, 5)]
    if x.is_constant and node.get("training_mode", 0) and all(part.is_constant for part in parts):
        return _standardized(node, x.a, *(part.a for part in parts))
    if not all(part.is_constant for part in parts) or node.get("training_mode", 0) or node.outputs > 1:
        raise Unsupported("of training, or with statistics that the data decide")
    if x.rank not in NORMS or not node.get("spatial", 1):
        raise Unsupported(f"of {x.rank} axes")
    layer: Any = NORMS[x.rank](x.shape[1], float(node.get("epsilon", 1e-5)))
    for name, part in zip(("weight", "bias", "running_mean", "running_var"), parts, strict=True):
        getattr(layer, name).data.copy_(part.a)
    return node.build.layer(node.name, layer, x)


def _standardized(node: Node, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, *running: torch.Tensor) -> list[Value]:
    """A weight by its own statistics, as NFNets have it: the answer, and the running statistics."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    own, spread, rate = x.mean(axes), x.var(axes, unbiased=False), float(node.get("momentum", 0.9))
    answer = F.batch_norm(x, None, None, scale, shift, True, 0.0, float(node.get("epsilon", 1e-5)))
    made = [answer, running[0] * rate + own * (1 - rate), running[1] * rate + spread * (1 - rate)]
    return [node.build.tensor(value) for value in made[: node.outputs]]
