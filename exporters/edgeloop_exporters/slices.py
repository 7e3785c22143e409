"""A slice of what was joined is one of the parts: a detector joins boxes and scores, and takes them apart again.

Joined, both would share a scale. Apart, each has its own, and two copies are saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from edgeloop_exporters.graph import aten
from edgeloop_exporters.rewrites import call

__all__ = ["parts_of_joined"]

FAR = 2**31  # an end beyond every size
SHAPED = (aten.reshape.default, aten.view.default)


def parts_of_joined(module: fx.GraphModule) -> None:
    """Every slice of a concatenation, moved in between or not, that is whole parts of it, reads these parts."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.slice.Tensor or len(node.args) < 4 or (len(node.args) > 4 and node.args[4] != 1):
            continue
        source, axis, start, end = node.args[:4]
        size = source.meta["val"].shape[axis]
        if not all(isinstance(number, int) for number in (axis, start, end, size)) or axis == 0:
            continue
        start, end = (min(place + size if place < 0 else place, size) for place in (start, end))
        with graph.inserting_before(node):
            found = _taken(graph, source, axis % source.meta["val"].dim(), start, end)
        if found is not None:
            node.replace_all_uses_with(found)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _taken(graph: fx.Graph, node: Any, axis: int, start: int, end: int) -> fx.Node | None:
    """What makes these places of the axis without a slice; None where nothing does."""
    value = node.meta["val"]
    if (start, end) == (0, value.shape[axis]):
        return node  # type: ignore[no-any-return]
    if node.target is aten.cat.default:
        along = int(node.args[1]) % value.dim() if len(node.args) > 1 else 0
        return _of_parts(graph, node, along, axis, start, end)
    if node.target in SHAPED:
        return _reshaped(graph, node, axis, start, end)
    return None


def _of_parts(graph: fx.Graph, node: Any, along: int, axis: int, start: int, end: int) -> fx.Node | None:
    parts: Sequence[Any] = node.args[0]
    chosen = []
    if along != axis:
        chosen = [_taken(graph, part, axis, start, end) for part in parts]
    else:
        at = 0
        for part in parts:
            begin, at = at, at + part.meta["val"].shape[axis]
            if begin >= start and at <= end:
                chosen.append(part)
            elif begin < end and at > start:
                return None  # the slice cuts through this part
    if not chosen or None in chosen:
        return None
    if len(chosen) == 1:
        return chosen[0]
    value = node.meta["val"].narrow(axis, start, end - start)
    return call(graph, node, aten.cat.default, (chosen, along), value)


def _reshaped(graph: fx.Graph, node: Any, axis: int, start: int, end: int) -> fx.Node | None:
    """Of a reshape that leaves this axis and those before it as they are."""
    source, shape = node.args[0], list(node.args[1])
    before, after = source.meta["val"].shape, node.meta["val"].shape
    kept = len(before) > axis and all(a == b for a, b in zip(before[1 : axis + 1], after[1 : axis + 1], strict=True))
    if not kept or any(size == -1 for size in shape[1:]) or not isinstance(shape[axis], int):
        return None
    inner = _taken(graph, source, axis, start, end)
    if inner is None:
        return None
    shape[axis] = end - start
    return call(graph, node, node.target, (inner, shape), node.meta["val"].narrow(axis, start, end - start))
