"""Operators that move, cut and join values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_exporters.onnx_import.table import DTYPES, Node, handles
from edgeloop_exporters.onnx_import.values import BATCHES, Builder, Unsupported, Value

LAST = 1 << 40


@handles("Shape")
def _shape(node: Node) -> Value:
    x, start, end = node[0], int(node.get("start", 0)), node.get("end")
    a, b = (torch.tensor(list(side.shape)[start:end], dtype=torch.int64) for side in (x.a, x.b))
    return Value(a, b)


@handles("Size")
def _size(node: Node) -> Value:
    return Value(torch.tensor(node[0].a.numel()), torch.tensor(node[0].b.numel()))


@handles("Reshape")
def _reshape(node: Node) -> Value:
    x, target = node[0], node[1]
    if not target.is_static:
        raise Unsupported("to a shape that the data decide; export the model with fixed sizes")
    zero = bool(node.get("allowzero", 0))
    wanted = [_wanted(side, goal, zero) for side, goal in ((x.a, target.a), (x.b, target.b))]
    return reshaped(node.build, x, _with_batch(node.build, x, wanted[0], wanted[1], target))


def _wanted(x: Tensor, target: Tensor, zero: bool) -> list[int]:
    goal = [int(v) for v in target.reshape(-1).tolist()]
    return [x.shape[i] if size == 0 and not zero and i < x.dim() else size for i, size in enumerate(goal)]


def _with_batch(build: Builder, x: Value, a: list[int], b: list[int], target: Value) -> tuple[list[int], list[int]]:
    """The target at both batches, where a file with a fixed batch has that number in it."""
    fixed = build.fixed_batch
    if fixed is None or not target.is_constant or not a or x.is_static or not x.batched():
        return a, b
    if a[0] != fixed and a[0] % fixed == 0 and x.rank > 1 and -1 not in a and _product(a) * BATCHES[0] == x.a.numel() * fixed:
        factor = a[0] // fixed
        return [factor * BATCHES[0], *a[1:]], [factor * BATCHES[1], *b[1:]]
    if a[0] not in (fixed, -1):
        return a, b
    if a[0] == -1 and _product(a[1:]) * fixed != x.a.numel() // BATCHES[0] * fixed:
        return a, b
    return [BATCHES[0], *a[1:]], [BATCHES[1], *b[1:]]


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def reshaped(build: Builder, x: Value, targets: tuple[list[int], list[int]]) -> Value:
    """The reshape with one free size where the batch decides one, and integers elsewhere."""
    full = [_filled(side.numel(), goal) for side, goal in zip((x.a, x.b), targets, strict=True)]
    if len(full[0]) != len(full[1]):
        raise Unsupported("to a shape whose length the batch decides")
    free = [i for i, (p, q) in enumerate(zip(*full, strict=True)) if p != q]
    if x.is_static and not free:
        return build.call(torch.reshape, x, full[0])
    if list(x.a.shape) == full[0] and list(x.b.shape) == full[1]:
        return x
    if x.batched() and x.rank > 1 and len(full[0]) == 2 and (full[0][0], full[1][0]) == BATCHES:
        return build.call(torch.flatten, x, 1)  # without its number of channels, which pruning changes
    if len(free) > 1:
        return build.call(torch.reshape, x, [build.size(p, q) for p, q in zip(*full, strict=True)])
    sizes = [-1 if i in free else size for i, size in enumerate(full[0])]
    return build.call(torch.reshape, x, sizes)


def _filled(count: int, goal: list[int]) -> list[int]:
    if -1 not in goal:
        return goal
    known = _product([size for size in goal if size != -1])
    if goal.count(-1) > 1 or not known or count % known:
        raise Unsupported(f"of {count} values to {goal}")
    return [count // known if size == -1 else size for size in goal]


@handles("Flatten")
def _flatten(node: Node) -> Value:
    x, axis = node[0], int(node.get("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    targets = tuple([_product(list(s.shape[:axis])), _product(list(s.shape[axis:]))] for s in (x.a, x.b))
    return reshaped(node.build, x, (targets[0], targets[1]))


@handles("Squeeze")
def _squeeze(node: Node) -> Value:
    x = node[0]
    axes = node.ints(1, "axes")
    if axes is None:
        axes = [i for i, (p, q) in enumerate(zip(x.a.shape, x.b.shape, strict=True)) if p == q == 1]
    drop = {axis % max(x.rank, 1) for axis in axes}
    if not x.is_static and any(x.batched(axis) for axis in drop) and node.build.fixed_batch == 1:
        raise Unsupported("takes the batch away, which is 1 in this file; export the model with a free batch")
    for axis in sorted(drop, reverse=True):
        x = node.build.call(torch.squeeze, x, axis)
    return x


@handles("Unsqueeze")
def _unsqueeze(node: Node) -> Value:
    x, axes = node[0], node.ints(1, "axes") or []
    rank = x.rank + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = node.build.call(torch.unsqueeze, x, axis)
    return x


@handles("Transpose")
def _transpose(node: Node) -> Value:
    x = node[0]
    order = [int(v) for v in node.get("perm", list(range(x.rank))[::-1])]
    return x if order == list(range(x.rank)) else node.build.call(torch.permute, x, order)


@handles("Concat")
def _concat(node: Node) -> Value:
    parts = [part for part in node.inputs if part is not None]
    axis = int(node.get("axis"))
    some = [part for part in parts if part.rank != 1 or part.a.numel() or part.b.numel()] or parts[:1]
    some = [_batched_like(node.build, part, some, axis) for part in some]
    return some[0] if len(some) == 1 else node.build.call(torch.cat, some, axis)


def _batched_like(build: Builder, part: Value, others: list[Value], axis: int) -> Value:
    """A constant with the file's fixed batch, such as a class token, for every batch."""
    other = next((o for o in others if not o.is_static and o.batched()), None)
    if build.fixed_batch is None or other is None or not part.is_constant or not part.rank or axis % part.rank == 0:
        return part
    if part.shape[0] != build.fixed_batch or part.shape[0] != 1:
        return part
    return build.call(Tensor.expand, part, [build.batch, *part.shape[1:]])


@handles("Split")
def _split(node: Node) -> list[Value]:
    x, axis = node[0], int(node.get("axis", 0)) % node[0].rank
    sizes = node.ints(1, "split")
    length = x.shape[axis]
    if sizes is None:
        each = -(-length // node.outputs)
        sizes = [min(each, length - i * each) for i in range(node.outputs)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_sliced(node.build, x, axis, start, start + size, 1) for start, size in zip(starts, sizes, strict=True)]


def _sliced(build: Builder, x: Value, axis: int, start: Any, end: Any, step: int) -> Value:
    if x.is_static:
        return build.call(torch.ops.aten.slice.Tensor, x, axis, start, end, step)
    if start == 0 and step == 1 and not isinstance(end, Value) and end >= max(x.a.shape[axis], x.b.shape[axis]):
        return x
    return build.call(torch.ops.aten.slice.Tensor, x, axis, start, end, step)


@handles("Slice")
def _slice(node: Node) -> Value:
    x, build = node[0], node.build
    starts, ends = node.ints(1, "starts") or [], _ends(node)
    axes, steps = node.ints(3, "axes"), node.ints(4, "steps")
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        axis = axis % x.rank
        length = x.shape[axis]
        if step < 0:
            if x.batched(axis) and not x.is_static:
                raise Unsupported("backwards along the batch")
            first = min(start + length if start < 0 else start, length - 1)
            last = -1 if end < -length else (end + length if end < 0 else end)
            x = build.call(torch.flip, x, [axis])
            x = _sliced(build, x, axis, length - 1 - first, max(length - 1 - last, 0), -step)
            continue
        if not x.is_static and x.batched(axis) and build.fixed_batch is not None and (start, end) == (0, build.fixed_batch):
            continue
        x = _sliced(build, x, axis, start, end if isinstance(end, Value) else min(end, LAST), step)
    return x


def _ends(node: Node) -> list[Any]:
    value = node.maybe(2)
    return node.build.sizes(value) if value is not None else [int(v) for v in node.get("ends")]


@handles("Expand")
def _expand(node: Node) -> Value:
    x, build = node[0], node.build
    if x.is_static and node[1].is_static:
        return Value(_expanded(x.a, node[1].a), _expanded(x.b, node[1].b))
    goal = build.sizes(node[1])
    shapes = [list(side.shape) for side in (x.a, x.b)]
    lead = len(goal) - x.rank
    if lead < 0:
        goal = [*[1] * -lead, *goal]
        lead = 0
    sizes: list[Any] = []
    for i, size in enumerate(goal):
        own = (shapes[0][i - lead], shapes[1][i - lead]) if i >= lead else None
        keeps = own is not None and (own != (1, 1) or size == 1)
        sizes.append(-1 if keeps else size)
    if build.fixed_batch is not None and not x.is_static and lead == 0:
        return x if all(size == -1 for size in sizes) else build.call(Tensor.expand, x, sizes)
    return x if lead == 0 and all(size == -1 for size in sizes) else build.call(Tensor.expand, x, sizes)


def _expanded(x: Tensor, goal: Tensor) -> Tensor:
    try:
        return x.expand(torch.broadcast_shapes(x.shape, torch.Size(goal.reshape(-1).tolist())))
    except RuntimeError as error:
        raise Unsupported(f"its operands do not fit ({error})") from error


@handles("Tile")
def _tile(node: Node) -> Value:
    repeats = node.build.sizes(node[1])
    return node.build.call(Tensor.repeat, node[0], repeats)


@handles("ConstantOfShape")
def _constant_of_shape(node: Node) -> Value:
    value = node.get("value")
    fill = torch.zeros(1) if value is None else value
    goal = node[0]
    if not goal.is_static:
        raise Unsupported("a size that the data decide; export the model with fixed sizes")
    if goal.is_constant:
        return node.build.tensor(torch.full(node.build.ints(goal), fill.item(), dtype=fill.dtype))
    a, b = (torch.full([], fill.item(), dtype=fill.dtype).expand(side.reshape(-1).tolist()) for side in (goal.a, goal.b))
    return Value(a, b)


@handles("Range")
def _range(node: Node) -> Value:
    if not all(value.is_static for value in (node[0], node[1], node[2])):
        raise Unsupported("whose end the data decide")
    sides = []
    for pick in ("a", "b"):
        start, end, step = (getattr(node[i], pick).item() for i in range(3))
        sides.append(torch.arange(start, end, step, dtype=node[0].dtype))
    return Value(sides[0], sides[1])


@handles("DepthToSpace", "SpaceToDepth")
def _depth(node: Node) -> Value:
    x, block, call = node[0], int(node.get("blocksize")), node.build.call
    _, channels, height, width = x.shape
    if node.op == "DepthToSpace":
        if node.get("mode", "DCR") == "CRD":
            return call(F.pixel_shuffle, x, block)
        x = call(torch.reshape, x, [-1, block, block, channels // block**2, height, width])
        return call(
            torch.reshape, call(torch.permute, x, [0, 3, 4, 1, 5, 2]), [-1, channels // block**2, height * block, width * block]
        )
    if node.get("mode", "DCR") == "CRD":
        return call(F.pixel_unshuffle, x, block)
    x = call(torch.reshape, x, [-1, channels, height // block, block, width // block, block])
    return call(
        torch.reshape, call(torch.permute, x, [0, 3, 5, 1, 2, 4]), [-1, channels * block**2, height // block, width // block]
    )


@handles("Trilu")
def _trilu(node: Node) -> Value:
    offset = node.maybe(1)
    k = int(node.build.number(offset)) if offset is not None else 0
    return node.build.call(torch.triu if node.get("upper", 1) else torch.tril, node[0], k)


@handles("EyeLike")
def _eye(node: Node) -> Value:
    x, dtype = node[0], DTYPES[node.get("dtype", 1)]
    if x.batched():
        raise Unsupported("as long as the batch")
    k = int(node.get("k", 0))
    full = torch.zeros(x.shape, dtype=dtype)
    full.diagonal(k).fill_(1)
    return node.build.tensor(full)
