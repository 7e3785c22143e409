"""Pools of every form, their inverse, and padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_exporters.onnx_import.convolution import listed, padded, padding
from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value

MAX: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVERAGE: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
CONVOLVE: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True)
class _Windows:
    """`pads`: (before, after) by the node; `extra`: what the last windows reach beyond them (ceil_mode)."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[tuple[int, int]]
    extra: list[int]

    @property
    def is_even(self) -> bool:
        """Whether torch's own padding and ceil_mode say the same."""
        return all(b == e and 2 * b <= k for (b, e), k in zip(self.pads, self.kernel, strict=True))

    @property
    def full(self) -> list[tuple[int, int]]:
        return [(b, e + more) for (b, e), more in zip(self.pads, self.extra, strict=True)]


def _windows(node: Node, x: Value) -> _Windows:
    kernel = [int(k) for k in node.get("kernel_shape")]
    places = len(kernel)
    if places > 3 or x.rank != places + 2:
        raise Unsupported(f"over {places} places")
    strides, dilations = listed(node, "strides", places), listed(node, "dilations", places)
    pads, ceil = padding(node, x, kernel, strides, dilations), bool(node.get("ceil_mode", 0))
    extra = []
    for n, (b, e), k, s, d in zip(x.shape[2:], pads, kernel, strides, dilations, strict=True):
        reach = d * (k - 1) + 1
        room = n + b + e - reach
        if room < 0 and not ceil:
            raise Unsupported(f"windows of {reach} in {n + b + e} places")
        count = -(-room // s) + 1 if ceil else room // s + 1
        if ceil and (count - 1) * s >= n + b:  # no window begins in the padding behind
            count -= 1
        extra.append(max((count - 1) * s + reach - (n + b + e), 0))
    return _Windows(kernel, strides, dilations, pads, extra)


@handles("MaxPool")
def _max_pool(node: Node) -> Value | list[Value]:
    x, w, call = node[0], _windows(node, node[0]), node.build.call
    function = MAX[len(w.kernel) - 1]
    if node.outputs > 1:
        return _with_places(node, x, w)
    if w.is_even:
        return call(function, x, w.kernel, w.strides, [b for b, _ in w.pads], w.dilations, any(w.extra))
    return call(function, padded(node, x, w.full, _least(x)), w.kernel, w.strides, 0, w.dilations, False)


def _least(x: Value) -> float:
    return float("-inf") if x.dtype.is_floating_point else float(torch.iinfo(x.dtype).min)


def _with_places(node: Node, x: Value, w: _Windows) -> list[Value]:
    """The maxima, and where each is in the whole tensor, as ONNX counts."""
    call = node.build.call
    taken = padded(node, x, w.full, _least(x))
    best = call(MAX[len(w.kernel) - 1], taken, w.kernel, w.strides, 0, w.dilations, False)
    places = call(_places, taken, w.kernel, w.strides, w.dilations)
    befores = [b for b, _ in w.pads]
    places = call(_unpadded, places, list(taken.shape[2:]), list(x.shape[2:]), befores, bool(node.get("storage_order", 0)))
    return [best, call(_whole, places, _product(x.shape[2:]))]


def _places(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    functions: tuple[Any, ...] = (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices)
    found: Tensor = functions[len(kernel) - 1](x, kernel, strides, 0, dilations, False)[1]
    return found


def _unpadded(places: Tensor, padded_sizes: list[int], sizes: list[int], befores: list[int], by_columns: bool) -> Tensor:
    """Places in padded planes as places in planes."""
    parts = []
    for size in reversed(padded_sizes):
        parts.append(places % size)
        places = places // size
    axes = list(zip([p - b for p, b in zip(reversed(parts), befores, strict=True)], sizes, strict=True))
    found = torch.zeros_like(places)
    for part, size in reversed(axes) if by_columns else axes:
        found = found * size + part
    return found


def _whole(places: Tensor, plane: int) -> Tensor:
    first = torch.arange(places.shape[0] * places.shape[1], device=places.device) * plane
    return places + first.reshape(places.shape[0], places.shape[1], *[1] * (places.dim() - 2))


@handles("MaxUnpool")
def _max_unpool(node: Node) -> Value:
    x, places, wanted = node[0], node[1], node.maybe(2)
    kernel = [int(k) for k in node.get("kernel_shape")]
    strides, pads = listed(node, "strides", len(kernel)), [int(p) for p in node.get("pads", [0] * 2 * len(kernel))]
    inferred = [
        (n - 1) * s + k - b - e
        for n, s, k, b, e in zip(x.shape[2:], strides, kernel, pads[: len(kernel)], pads[len(kernel) :], strict=True)
    ]
    if wanted is not None and node.build.ints(wanted)[-len(kernel) :] != inferred:
        raise Unsupported("to another size than its windows give, which ONNX and ONNX Runtime read differently")
    return node.build.call(_placed, x, places, inferred)


def _placed(x: Tensor, places: Tensor, goal: list[int]) -> Tensor:
    plane = _product(goal)
    empty = torch.zeros((x.shape[0], x.shape[1], plane), dtype=x.dtype, device=x.device)
    return torch.scatter(empty, 2, (places % plane).flatten(2), x.flatten(2)).reshape(x.shape[0], x.shape[1], *goal)


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= int(size)
    return total


@handles("AveragePool")
def _average_pool(node: Node) -> Value:
    x, w = node[0], _windows(node, node[0])
    counts_padding = bool(node.get("count_include_pad", 0))
    if w.is_even and all(d == 1 for d in w.dilations) and not (any(w.extra) and counts_padding):
        function = AVERAGE[len(w.kernel) - 1]
        return node.build.call(function, x, w.kernel, w.strides, [b for b, _ in w.pads], any(w.extra), counts_padding)
    return _averaged(node, x, w, counts_padding)


def _averaged(node: Node, x: Value, w: _Windows, counts_padding: bool) -> Value:
    """The mean of windows with zeros around, over the share of each that counts."""
    summed = _mean_of_windows(node, padded(node, x, w.full, 0.0), w)
    ones = F.pad(torch.ones((1, 1, *x.shape[2:])), _flat(w.pads), value=float(counts_padding))
    inside = F.pad(ones, _flat([(0, more) for more in w.extra]))
    share = _mean_of_windows(node, node.build.tensor(inside), w).a
    if not bool((share > 0).all()):
        raise Unsupported("with windows of padding alone")
    if bool((share - 1).abs().max() < 1e-6):
        return summed
    return node.build.call(torch.mul, summed, node.build.tensor(1.0 / share))


def _mean_of_windows(node: Node, x: Value, w: _Windows) -> Value:
    places = len(w.kernel)
    if all(d == 1 for d in w.dilations):
        return node.build.call(AVERAGE[places - 1], x, w.kernel, w.strides)
    weight = torch.full((x.shape[1], 1, *w.kernel), 1.0 / _product(w.kernel))
    return node.build.call(CONVOLVE[places - 1], x, node.build.tensor(weight), None, w.strides, 0, w.dilations, x.shape[1])


def _flat(pads: list[tuple[int, int]]) -> list[int]:
    return [side for pair in reversed(pads) for side in pair]


@handles("LpPool")
def _lp_pool(node: Node) -> Value:
    x, w, p, call = node[0], _windows(node, node[0]), int(node.get("p", 2)), node.build.call
    mean = _mean_of_windows(node, padded(node, call(_power, x, p), w.full, 0.0), w)
    total = call(torch.mul, mean, float(_product(w.kernel)))
    return total if p == 1 else call(torch.sqrt, total) if p == 2 else call(torch.pow, total, 1.0 / p)


@handles("GlobalLpPool")
def _global_lp_pool(node: Node) -> Value:
    x, p, call = node[0], int(node.get("p", 2)), node.build.call
    total = call(torch.sum, call(_power, x, p), list(range(2, x.rank)), True)
    return total if p == 1 else call(torch.sqrt, total) if p == 2 else call(torch.pow, total, 1.0 / p)


def _power(x: Tensor, p: int) -> Tensor:
    return torch.abs(x) if p == 1 else x * x if p == 2 else torch.pow(torch.abs(x), p)


@handles("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node) -> Value:
    x = node[0]
    places = x.rank - 2
    if node.op == "GlobalMaxPool":
        return node.build.call(torch.amax, x, list(range(2, x.rank)), True)
    if places in (1, 2, 3):
        function: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[places - 1]
        return node.build.call(function, x, 1 if places == 1 else [1] * places)
    return node.build.call(torch.mean, x, list(range(2, x.rank)), True)


@handles("Pad")
def _pad(node: Node) -> Value:
    x, mode = node[0], node.get("mode", "constant")
    pads = node.ints(1, "pads" if node.version >= 2 else "paddings") or []
    given, fill = node.maybe(2), float(node.get("value", 0.0))
    if given is not None and given.a.numel():
        fill = node.build.number(given)
    axes = node.ints(3, "axes")
    axes = list(range(x.rank)) if axes is None else [a % x.rank for a in axes]
    both = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if x.batched() and both.get(0, (0, 0)) != (0, 0) and not x.is_static:
        raise Unsupported("of the batch")
    low = min((axis for axis, pair in both.items() if pair != (0, 0)), default=x.rank)
    flat = [side for axis in range(x.rank - 1, low - 1, -1) for side in both.get(axis, (0, 0))]
    if not any(flat):
        return x
    if mode == "constant":
        return node.build.call(F.pad, x, flat, "constant", fill if x.dtype.is_floating_point else int(fill))
    if mode not in ("reflect", "edge", "wrap"):
        raise Unsupported(f"with mode {mode}")
    if mode == "wrap" or any(side < 0 for side in flat) or len(flat) // 2 > x.rank - 2 or not x.dtype.is_floating_point:
        return _by_choice(node, x, both, mode)
    flat += [0] * (2 * (x.rank - 2) - len(flat)) if x.rank - 2 > 1 and len(flat) < 2 * (x.rank - 2) else []
    if mode == "reflect" and any(max(both.get(axis, (0, 0))) >= x.shape[axis] for axis in range(2, x.rank)):
        return _by_choice(node, x, both, mode)
    return node.build.call(F.pad, x, flat, "reflect" if mode == "reflect" else "replicate")


def _by_choice(node: Node, x: Value, both: dict[int, tuple[int, int]], mode: str) -> Value:
    """Axis by axis, as a choice of rows."""
    for axis, (before, after) in both.items():
        size = x.shape[axis]
        if (before, after) == (0, 0):
            continue
        if size == 0:
            raise Unsupported(f"with mode {mode} of no values")
        places = torch.arange(-before, size + after)
        if mode == "wrap":
            places = places % size
        elif mode == "edge":
            places = places.clamp(0, size - 1)
        else:
            around = places % max(2 * size - 2, 1)
            places = torch.minimum(around, (2 * size - 2 - around).abs()) if size > 1 else around
        x = node.build.call(torch.index_select, x, axis, node.build.tensor(places))
    return x
