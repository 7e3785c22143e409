"""Operations that choose values by place, order or size, in forms that the runtimes have kernels for."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import aten, tensor_of
from edgeloop_exporters.rewrites import LOWEST, call

__all__ = ["adaptive_maxima", "extrema_alone", "fixed_gathers", "middle_values", "running_extrema"]

MAXIMA = {aten.adaptive_max_pool1d.default: 1, aten.adaptive_max_pool2d.default: 2, aten.adaptive_max_pool3d.default: 3}
RUNNING = {aten.cummax.default: 1, aten.cummin.default: -1}
EXTREMA = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
MAX_RUNNING = 256  # places; each is the largest of all before it


def fixed_gathers(module: fx.GraphModule) -> None:
    """A gather by places that are the same for every sample is an index_select: TFLite's converter makes another gather of it."""
    graph = module.graph
    for node in [n for n in graph.nodes if n.target is aten.gather.default]:
        source, axis, given = node.args[:3]
        places = _places(module, given, node.meta["val"])
        value = source.meta["val"]
        shape, axis = value.shape[1:], axis % value.dim()
        if places is None or axis == 0 or not all(isinstance(size, int) for size in shape):
            continue
        lines = places.movedim(axis - 1, 0).flatten(1) if places.dim() > 1 else places[:, None]
        others = [size for i, size in enumerate(places.shape) if i != axis - 1]
        with graph.inserting_before(node):
            if (lines == lines[:, :1]).all() and others == [size for i, size in enumerate(shape) if i != axis - 1]:
                made = _selected(module, node, source, axis, lines[:, 0])
            else:  # of a whole sample in one row
                row = torch.arange(shape.numel()).reshape(shape).gather(axis - 1, places).flatten()
                flat = call(graph, node, aten.flatten.using_ints, (source, 1), value.flatten(1))
                chosen = _selected(module, node, flat, 1, row)
                made = call(graph, node, aten.unflatten.int, (chosen, 1, list(places.shape)), node.meta["val"])
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _places(module: fx.GraphModule, given: Any, value: Tensor) -> Tensor | None:
    """Of one sample; None where samples differ, or nobody knows."""
    while given.target in (aten.expand.default, aten.expand_as.default, aten.repeat.default):
        given = given.args[0]
    known = tensor_of(module, given)
    if known is None or known.dim() != value.dim() or known.shape[0] != 1:
        return None
    return known[0].expand(value.shape[1:]) if all(isinstance(size, int) for size in value.shape[1:]) else None


def _selected(module: fx.GraphModule, node: fx.Node, source: fx.Node, axis: int, places: Tensor) -> fx.Node:
    name = f"{node.name}_places"
    module.register_buffer(name, places.clone())
    index = module.graph.get_attr(name)
    index.meta = {**node.meta, "val": places}
    value = source.meta["val"].index_select(axis, places)
    return call(module.graph, node, aten.index_select.default, (source, axis, index), value)


def extrema_alone(module: fx.GraphModule) -> None:
    """The largest or least values without their places are reductions, which keep the scale of what they read."""
    graph = module.graph
    for node in list(graph.nodes):
        both: Any = node.args[0] if node.target is operator.getitem else None
        if not isinstance(both, fx.Node):
            continue
        if both.target in EXTREMA and node.args[1] == 0:
            source, axis, keeps = (*both.args, False)[:3]
            node.target, node.args = EXTREMA[both.target], (source, [axis], keeps)
        elif both.target is aten.aminmax.default and "dim" in both.kwargs:
            node.target = (aten.amin.default, aten.amax.default)[node.args[1]]
            node.args = (both.args[0], [both.kwargs["dim"]], both.kwargs.get("keepdim", False))
    graph.eliminate_dead_code()


def middle_values(module: fx.GraphModule) -> None:
    """The k-th least value along an axis, as a median is, as the last of the k least: neither exporter knows it."""
    graph = module.graph
    for node in [n for n in graph.nodes if n.target in (aten.median.dim, aten.kthvalue.default)]:
        source, value = node.args[0], node.args[0].meta["val"]
        place, given = (1, (-1, False)) if node.target is aten.median.dim else (2, (0, -1, False))
        axis, keeps = (*node.args[1:], *given[len(node.args) - 1 :])[place - 1 : place + 1]
        size = value.shape[axis]
        if not isinstance(size, int) or axis % value.dim() == 0:
            continue
        k = (size + 1) // 2 if place == 1 else int(node.args[1])
        with graph.inserting_before(node):
            chosen = call(graph, node, aten.topk.default, (source, k, axis, False), aten.topk.default(value, k, axis, False))
            for number in (0, 1):
                part = call(graph, node, operator.getitem, (chosen, number), chosen.meta["val"][number])
                last, at = (aten.slice.Tensor, (axis, k - 1, k)) if keeps else (aten.select.int, (axis, k - 1))
                made = call(graph, node, last, (part, *at), last(part.meta["val"], *at))
                for user in [u for u in node.users if u.args[1] == number]:
                    user.replace_all_uses_with(made)
    graph.eliminate_dead_code()


def _only_values(node: Any, kinds: Collection[Any]) -> Any:
    """The operation of one of these kinds whose values `node` is, where nobody reads their places; else None."""
    if node.target is not operator.getitem or node.args[1] != 0 or len(node.args[0].users) > 1:
        return None
    return node.args[0] if node.args[0].target in kinds else None


def adaptive_maxima(module: fx.GraphModule) -> None:
    """Adaptive max pooling as a pooling where windows are alike, else as maxima of slices, axis by axis. No runtime has it."""
    graph = module.graph
    for node in list(graph.nodes):
        pooled = _only_values(node, MAXIMA)
        if pooled is None:
            continue
        made, axes = pooled.args[0], MAXIMA[pooled.target]
        for axis in range(made.meta["val"].dim() - axes, made.meta["val"].dim()):
            with graph.inserting_before(node):
                made = _maxima(graph, node, made, axis, int(node.meta["val"].shape[axis]))
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        graph.erase_node(pooled)


def _maxima(graph: fx.Graph, node: fx.Node, source: fx.Node, axis: int, count: int) -> fx.Node:
    """`count` maxima along the axis, of windows as even as can be."""
    value = source.meta["val"]
    size = int(value.shape[axis])
    if size == count:
        return source
    parts = []
    for i in range(count):
        start, end = i * size // count, -(-(i + 1) * size // count)
        window = call(graph, node, aten.slice.Tensor, (source, axis, start, end), value.narrow(axis, start, end - start))
        parts.append(call(graph, node, aten.amax.default, (window, [axis], True), value.narrow(axis, 0, 1)))
    joined = value.new_empty([count if i == axis else n for i, n in enumerate(value.shape)])
    return parts[0] if count == 1 else call(graph, node, aten.cat.default, (parts, axis), joined)


def running_extrema(module: fx.GraphModule) -> None:
    """The largest value so far along an axis as a max pooling over all places before: no exporter knows cummax.

    The least so far is that of −x, negated.
    """
    graph = module.graph
    for node in list(graph.nodes):
        running = _only_values(node, RUNNING)
        if running is None:
            continue
        source, axis = running.args
        value = source.meta["val"]
        axis, sign = axis % value.dim(), RUNNING[running.target]
        size = value.shape[axis]
        if axis == 0 or not all(isinstance(n, int) for n in value.shape[1:]) or size > MAX_RUNNING:
            continue
        steps: list[tuple[Any, tuple[Any, ...]]] = [(aten.transpose.int, (axis, -1)), (aten.flatten.using_ints, (1, -2))]
        steps = steps if value.dim() > 2 else [(aten.unsqueeze.default, (1,))]
        steps = [*([(aten.neg.default, ())] if sign < 0 else []), *steps]
        steps += [(aten.constant_pad_nd.default, ([size - 1, 0], LOWEST)), (aten.max_pool1d.default, ([size], [1]))]
        if value.dim() > 2:
            moved = list(value.transpose(axis, -1).shape[1:-1])
            steps += [(aten.unflatten.int, (1, moved)), (aten.transpose.int, (axis, -1))]
        else:
            steps += [(aten.squeeze.dims, ([1],))]
        steps += [(aten.neg.default, ())] if sign < 0 else []
        made = source
        with graph.inserting_before(node):
            for target, args in steps:
                made = call(graph, node, target, (made, *args), target(made.meta["val"], *args))
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        graph.erase_node(running)
