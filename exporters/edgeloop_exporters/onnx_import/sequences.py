"""Sequences of tensors, as exporters write them around splits: their length is known, so nothing of them is left."""

from __future__ import annotations

import torch

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Items, Unsupported, Value


def _items(node: Node, i: int = 0) -> list[Value]:
    found = node[i]
    if not isinstance(found, Items):
        raise Unsupported("of no sequence")
    return list(found.items)


def _place(node: Node, i: int, count: int) -> int:
    """Which item an input names; the last place where it is left out."""
    value = node.maybe(i)
    place = count - 1 if value is None else int(node.build.number(value))
    if not -count <= place < count:
        raise Unsupported(f"of item {place} of {count}")
    return place % count


@handles("SplitToSequence")
def _split(node: Node) -> Value:
    x, axis, given = node[0], int(node.get("axis", 0)) % node[0].rank, node.maybe(1)
    if x.batched(axis) and not x.is_static:
        raise Unsupported("of the batch")
    length, call = x.shape[axis], node.build.call
    if given is None:
        if node.get("keepdims", 1):
            return Items.of([call(torch.narrow, x, axis, i, 1) for i in range(length)])
        return Items.of([call(torch.select, x, axis, i) for i in range(length)])
    sizes = node.build.ints(given)
    if given.rank == 0:
        sizes = [min(sizes[0], length - start) for start in range(0, length, sizes[0])]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return Items.of([call(torch.narrow, x, axis, start, size) for start, size in zip(starts, sizes, strict=True)])


@handles("SequenceConstruct")
def _construct(node: Node) -> Value:
    return Items.of([value for value in node.inputs if value is not None])


@handles("SequenceEmpty")
def _empty(node: Node) -> Value:
    return Items.of([])


@handles("SequenceInsert")
def _insert(node: Node) -> Value:
    items = _items(node)
    place = _place(node, 2, len(items) + 1)
    return Items.of([*items[:place], node[1], *items[place:]])


@handles("SequenceErase")
def _erase(node: Node) -> Value:
    items = _items(node)
    place = _place(node, 1, len(items))
    return Items.of([*items[:place], *items[place + 1 :]])


@handles("SequenceAt")
def _at(node: Node) -> Value:
    items = _items(node)
    return items[_place(node, 1, len(items))]


@handles("SequenceLength")
def _length(node: Node) -> Value:
    return node.build.tensor(torch.tensor(len(_items(node))))


@handles("ConcatFromSequence")
def _concat(node: Node) -> Value:
    axis = int(node.get("axis"))
    return node.build.call(torch.stack if node.get("new_axis", 0) else torch.cat, _items(node), axis)
