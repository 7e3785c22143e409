"""Repeats, expansions, turns and parts of an unbind, in forms that TFLite's converter moves to channels last."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from edgeloop_exporters.graph import aten
from edgeloop_exporters.rewrites import call

__all__ = ["broadcasts", "flips_apart", "parts_apart", "quarter_turns", "repeated"]


# Where each has its axis among its arguments.
PARTED = {
    aten.unbind.int: 1, aten.chunk.default: 2, aten.split.Tensor: 2, aten.split_with_sizes.default: 2, aten.split.sizes: 2,
    aten.tensor_split.sections: 2, aten.tensor_split.indices: 2,
}  # fmt: skip


def parts_apart(module: fx.GraphModule) -> None:
    """Each part of an unbind, a chunk or a split as a choice of its own: it keeps the whole's scale, and TFLite's converter sees
    its reader's layout.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if n.target in PARTED]:
        place = PARTED[node.target]
        axis = node.args[place] if len(node.args) > place else 0
        ends = [int(part.shape[axis]) for part in node.meta["val"]] if place == 2 and axis else []
        for part in [user for user in node.users if user.target is operator.getitem]:
            number = part.args[1]
            if place == 1:
                part.target, part.args = aten.select.int, (node.args[0], axis, number)
            elif ends:
                start = sum(ends[:number])
                part.target, part.args = aten.slice.Tensor, (node.args[0], axis, start, start + ends[number])
    graph.eliminate_dead_code()


def quarter_turns(module: fx.GraphModule) -> None:
    """rot90 as a change of axes and a turn, which keep a scale."""
    for node in [n for n in module.graph.nodes if n.target is aten.rot90.default]:
        given: list[Any] = [*node.args, *(1, [0, 1])[len(node.args) - 1 :]]
        source, times, axes = given
        turned = {1: axes[:1], 2: axes, 3: axes[1:]}.get(times % 4)
        with module.graph.inserting_before(node):
            if times % 2:
                source = call(module.graph, node, aten.transpose.int, (source, *axes), node.meta["val"])
            made = call(module.graph, node, aten.flip.default, (source, turned), node.meta["val"]) if turned else source
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)


def flips_apart(module: fx.GraphModule) -> None:
    """A turn of several axes, one after the other: LiteRT turns neighbours only, and the converter parts them."""
    for node in [n for n in module.graph.nodes if n.target is aten.flip.default]:
        source, axes = node.args
        with module.graph.inserting_before(node):
            for axis in axes[:-1]:
                source = call(module.graph, node, aten.flip.default, (source, [axis]), node.meta["val"])
        node.args = (source, axes[-1:])


def repeated(module: fx.GraphModule) -> None:
    """Repeats along an axis as copies side by side, or as a resize where the axis has one place: TFLite's converter repeats the
    axes of another layout.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if n.target in (aten.repeat.default, aten.tile.default)]:
        made, value = node.args[0], node.args[0].meta["val"]
        times = [1] * (value.dim() - len(node.args[1])) + list(node.args[1])
        if len(times) > value.dim() or times[0] != 1 or not all(isinstance(size, int) for size in (*times, *value.shape[1:])):
            continue
        with graph.inserting_before(node):
            for axis, count in enumerate(times):
                if count > 1 and value.shape[axis] > 1:
                    value = torch.cat([value] * count, axis)
                    made = call(graph, node, aten.cat.default, ([made] * count, axis), value)
            if node.meta["val"].shape != value.shape:
                made = _spread(graph, node, made)
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _spread(graph: fx.Graph, node: fx.Node, source: fx.Node) -> fx.Node:
    """`source` in the shape of `node`, batch apart: rows and columns of a picture as a resize, its channels side by side.

    A product with ones would do, but the converter leaves it out of float files.
    """
    value, wanted = source.meta["val"], node.meta["val"].shape
    if value.dim() != 4:
        return call(graph, node, aten.expand.default, (source, [-1, *wanted[1:]]), node.meta["val"])
    made = source
    if value.shape[2:] != wanted[2:]:
        value = value.expand(-1, -1, *wanted[2:])
        made = call(graph, node, aten.upsample_nearest2d.vec, (made, list(wanted[2:]), None), value)
    if value.shape[1] != wanted[1]:
        made = call(graph, node, aten.cat.default, ([made] * wanted[1], 1), node.meta["val"])
    return made


def broadcasts(module: fx.GraphModule) -> None:
    """An expand whose readers broadcast anyway is left out, any other of a picture is a resize and copies: TFLite's converter
    cannot move it to channels last.
    """
    joining = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.expand.default, aten.expand_as.default) or not node.users:
            continue
        source = node.args[0].meta["val"]
        whole = [u for u in node.users if u.target in joining and _others_as_large(u, node)]
        if len(whole) == len(node.users) and source.dim() == node.meta["val"].dim():
            made = node.args[0]
        elif _is_picture(source, node.meta["val"]) and all(isinstance(size, int) for size in node.meta["val"].shape[1:]):
            with graph.inserting_before(node):
                made = _spread(graph, node, node.args[0])
        else:
            continue
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _is_picture(source: torch.Tensor, wanted: torch.Tensor) -> bool:
    return source.dim() == wanted.dim() == 4 and source.is_floating_point() and source.shape[0] == wanted.shape[0]


def _others_as_large(user: fx.Node, node: fx.Node) -> bool:
    others = [a for a in user.args[:2] if isinstance(a, fx.Node) and a is not node]
    return len(others) == 1 and "val" in others[0].meta and others[0].meta["val"].shape == node.meta["val"].shape
