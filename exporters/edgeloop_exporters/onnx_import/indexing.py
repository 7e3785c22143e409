"""Operators that pick and place values by index."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import BATCHES, Builder, Unsupported, Value, alike

REDUCTIONS = {"none": "", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@handles("Gather")
def _gather(node: Node) -> Value:
    x, index, axis, build = node[0], node[1], int(node.get("axis", 0)) % max(node[0].rank, 1), node.build
    if x.is_constant and not index.is_static and axis == 0 and x.rank == 2 and x.dtype.is_floating_point:
        layer = torch.nn.Embedding(x.shape[0], x.shape[1], _weight=x.a.clone())
        return build.layer(node.name, layer, index)
    if index.is_static:
        if index.a.shape != index.b.shape:
            return _of_each_sample(build, x, index, axis)
        flat = [int(v) for v in index.a.reshape(-1).tolist()]
        if index.rank == 0:
            return build.call(torch.select, x, axis, flat[0]) if index.is_constant else _size_of(build, x, index, axis)
        length = x.shape[axis]
        whole = build.tensor(torch.tensor([v % length for v in flat]))
        if x.is_static or index.rank == 1:
            found = build.call(torch.index_select, x, axis, whole)
        else:
            found = build.call(torch.index_select, x, axis, whole)
        return found if index.rank == 1 else build.call(torch.unflatten, found, axis, list(index.shape))
    wrapped = build.call(_wrapped, index, x.shape[axis])
    picked = build.call(torch.index_select, x, axis, build.call(torch.reshape, wrapped, [-1]))
    sizes = [build.size(p, q) for p, q in zip(index.a.shape, index.b.shape, strict=True)]
    before, after = [list(s) for s in (x.shape[:axis], x.shape[axis + 1 :])]
    return build.call(torch.reshape, picked, [*before, *sizes, *after]) if index.rank != 1 else picked


def _of_each_sample(build: Builder, x: Value, index: Value, axis: int) -> Value:
    """Places that the batch counts: sample b reads b × length + place, the same places for each. Or the same rows for each."""
    if x.is_constant and (same := alike(index)) is not None:  # such as positions
        a, b = (torch.index_select(x.a, axis, same.reshape(-1)).unflatten(axis, side.shape) for side in (index.a[:1], index.b[:1]))
        if axis == 0:
            return Value(a.expand(len(index.a), *a.shape[1:]), b.expand(len(index.b), *b.shape[1:]))
    length = x.a.shape[0] // BATCHES[0] if x.rank and axis == 0 else 0
    if not length or (x.a.shape[0], x.b.shape[0]) != (BATCHES[0] * length, BATCHES[1] * length):
        raise Unsupported("of as many places as the batch")
    own = [side - torch.arange(len(side)).reshape(-1, *[1] * (side.dim() - 1)) * length for side in (index.a, index.b)]
    same = alike(Value(*own))
    if same is None or same.min() < 0 or same.max() >= length:
        raise Unsupported("of other places for each sample")
    samples = build.call(torch.reshape, x, [-1, length, *x.shape[1:]])
    return _places(build, samples, same, 1)


def _places(build: Builder, x: Value, places: Tensor, axis: int) -> Value:
    """x at these places along an axis, whose place the axes of `places` take."""
    whole = torch.equal(places.reshape(-1), torch.arange(x.shape[axis]))
    picked = x if whole else build.call(torch.index_select, x, axis, build.tensor(places.reshape(-1).long()))
    return picked if places.dim() == 1 else build.call(torch.unflatten, picked, axis, list(places.shape))


def _size_of(build: Builder, x: Value, index: Value, axis: int) -> Value:
    if not x.is_static:
        raise Unsupported("of a place that the batch decides")
    return Value(x.a.select(axis, int(index.a)), x.b.select(axis, int(index.b)))


def _wrapped(index: Tensor, length: int) -> Tensor:
    return torch.where(index < 0, index + length, index).long()


@handles("GatherElements")
def _gather_elements(node: Node) -> Value:
    axis = int(node.get("axis", 0))
    return node.build.call(torch.gather, node[0], axis, node.build.call(_wrapped, node[1], node[0].shape[axis]))


@handles("GatherND")
def _gather_nd(node: Node) -> Value:
    x, index, shared = node[0], node[1], int(node.get("batch_dims", 0))
    if not shared and (picked := _of_own_sample(node.build, x, index)) is not None:
        return picked
    if index.is_constant and not shared and not (x.batched() and not x.is_static):
        return node.build.call(torch.ops.aten.index.Tensor, x, [node.build.tensor(part) for part in index.a.unbind(-1)])
    if not shared and x.batched() and not x.is_static:
        raise Unsupported("along the batch")
    return node.build.call(_gathered, x, index, shared)


def _gathered(x: Tensor, index: Tensor, shared: int) -> Tensor:
    """As ONNX defines it: the last axis of `index` says places after the first `shared` axes."""
    lead = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1 if i == axis else 1 for i in range(index.dim() - 1)])
        for axis in range(shared)
    ]
    places = [_wrapped(part, x.shape[shared + i]) for i, part in enumerate(index.unbind(-1))]
    return torch.ops.aten.index.Tensor(x, [*lead, *places])  # type: ignore[no-any-return]


def _of_own_sample(build: Builder, x: Value, index: Value) -> Value | None:
    """x[b, place] where each sample b reads its own row at places that are the same for all; None for others."""
    if not index.is_static or index.is_constant or not index.rank or index.shape[-1] != 2 or not x.batched():
        return None
    samples, places = (Value(index.a[..., i], index.b[..., i]) for i in (0, 1))
    own = [torch.equal(side, _numbers(len(side), side.dim()).expand(side.shape)) for side in (samples.a, samples.b)]
    same = alike(places)
    return _places(build, x, same, 1) if all(own) and same is not None and same.dim() else None


def _numbers(count: int, rank: int) -> Tensor:
    return torch.arange(count).reshape(-1, *[1] * (rank - 1))


@handles("OneHot")
def _one_hot(node: Node) -> Value:
    depth, call = int(node.build.number(node[1])), node.build.call
    index, axis = node[0], int(node.get("axis", -1))
    if not node[2].is_constant:
        raise Unsupported("with values that the data decide")
    index = call(Tensor.to, index, torch.int64) if index.dtype.is_floating_point else index
    off, on = node[2].a
    places = node.build.tensor(torch.arange(depth))
    hot = call(torch.eq, call(torch.unsqueeze, call(_wrapped, index, depth), -1), places)
    made = call(torch.where, hot, node.build.tensor(on.clone()), node.build.tensor(off.clone()))
    rank = index.rank + 1
    return made if axis % rank == rank - 1 else call(torch.movedim, made, -1, axis)


@handles("ScatterND", "ScatterElements", "Scatter")
def _scatter(node: Node) -> Value:
    x, index, new, how = node[0], node[1], node[2], node.get("reduction", "none")
    if how not in REDUCTIONS:
        raise Unsupported(f"with reduction {how}")
    if node.op != "ScatterND":
        axis = int(node.get("axis", 0))
        wrapped = node.build.call(_wrapped, index, x.shape[axis])
        if how == "none":
            return node.build.call(torch.scatter, x, axis, wrapped, new)
        return node.build.call(_reduced, x, axis, wrapped, new, REDUCTIONS[how])
    if index.is_constant and how in ("none", "add"):
        places = [node.build.tensor(part.contiguous()) for part in index.a.unbind(-1)]
        return node.build.call(torch.index_put, x, tuple(places), new, how == "add")
    if not index.is_static and x.batched() and not x.is_static:
        raise Unsupported("at places that the data or the batch decide")
    return node.build.call(_scattered_nd, x, index, new, REDUCTIONS[how])


def _reduced(x: Tensor, axis: int, index: Tensor, new: Tensor, how: str) -> Tensor:
    return torch.scatter_reduce(x, axis, index, new, how)


def _scattered_nd(x: Tensor, index: Tensor, new: Tensor, how: str) -> Tensor:
    """Slices as rows of a matrix: one place for each."""
    depth = index.shape[-1]
    place = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for i in range(depth):
        place = place * x.shape[i] + _wrapped(index[..., i], x.shape[i])
    rows = 1
    for size in x.shape[:depth]:
        rows *= size
    flat, given = x.reshape(rows, -1), new.reshape(place.numel(), -1)
    where = place.reshape(-1, 1).expand(-1, flat.shape[1])
    made = torch.scatter(flat, 0, where, given) if not how else torch.scatter_reduce(flat, 0, where, given, how)
    return made.reshape(x.shape)


@handles("Compress")
def _compress(node: Node) -> Value:
    x, kept, axis = node[0], node[1], node.get("axis")
    if not kept.is_constant:
        raise Unsupported("its result's shape is decided by the data; end the model before it, with --output")
    places = node.build.tensor(torch.nonzero(kept.a.reshape(-1)).reshape(-1))
    if axis is None:
        if x.batched() and not x.is_static:
            raise Unsupported("along the batch")
        return node.build.call(torch.index_select, node.build.call(torch.reshape, x, [-1]), 0, places)
    if x.batched(int(axis) % x.rank) and not x.is_static:
        raise Unsupported("along the batch")
    return node.build.call(torch.index_select, x, int(axis), places)


@handles("NonZero")
def _non_zero(node: Node) -> Value:
    if not node[0].is_constant:
        raise Unsupported("its result's shape is decided by the data; end the model before it, with --output")
    return node.build.tensor(torch.nonzero(node[0].a).T.contiguous())


@handles("ReverseSequence")
def _reverse_sequence(node: Node) -> Value:
    x, lengths = node[0], node.build.ints(node[1])
    time, batch = int(node.get("time_axis", 0)), int(node.get("batch_axis", 1))
    if not x.batched(batch) or x.is_static:
        return _reversed_each(node, x, lengths, time, batch)
    if len(set(lengths)) > 1:
        raise Unsupported("with one length for each sample of the batch")
    return _reversed_first(node, x, lengths[0], time)


def _reversed_each(node: Node, x: Value, lengths: list[int], time: int, batch: int) -> Value:
    rows = [_reversed_first(node, node.build.call(torch.narrow, x, batch, i, 1), n, time) for i, n in enumerate(lengths)]
    return node.build.call(torch.cat, rows, batch)


def _reversed_first(node: Node, x: Value, length: int, axis: int) -> Value:
    places = [*range(length - 1, -1, -1), *range(length, x.shape[axis])]
    return node.build.call(torch.index_select, x, axis, node.build.tensor(torch.tensor(places)))


@handles("TensorScatter")
def _tensor_scatter(node: Node) -> Value:
    """New keys or values at each sample's own place in a cache."""
    cache, new, first = node[0], node[1], node.maybe(2)
    axis, circular = int(node.get("axis", -2)) % cache.rank, node.get("mode", "linear") == "circular"
    start = first if first is not None else node.build.tensor(torch.zeros(1, dtype=torch.int64))
    return node.build.call(_cached, cache, new, start, axis, circular)


def _cached(cache: Tensor, new: Tensor, first: Tensor, axis: int, circular: bool) -> Tensor:
    along = torch.arange(new.shape[axis], device=cache.device).reshape([-1 if i == axis else 1 for i in range(cache.dim())])
    places = along + first.reshape([-1, *[1] * (cache.dim() - 1)])
    places = places % cache.shape[axis] if circular else places
    return torch.scatter(cache, axis, places.expand(new.shape), new)


@handles("Unique", "NonMaxSuppression", "StringNormalizer")
def _by_data(node: Node) -> Value:
    raise Unsupported("its result's shape is decided by the data; end the model before it, with --output")
