"""Convolutions whose paddings integer kernels, or a converter, do not know as they are written."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgeloop_exporters.graph import TRANSPOSED, aten, set_parameter, tensor_of
from edgeloop_exporters.rewrites import call

__all__ = ["cropped_paddings", "named_paddings"]

NAMED = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
    aten.conv3d.padding: aten.conv3d.default,
}
FUSED = (aten.relu.default, aten.relu_.default, aten.hardtanh.default)


def named_paddings(module: fx.GraphModule) -> None:
    """padding="same" and "valid" in numbers: an operation of another name, which nothing folds into and no rule rounds.

    Where the sides differ, as for an even kernel, the longer one is padded before.
    """
    for node in [n for n in module.graph.nodes if n.target in NAMED]:
        value, axes = node.args[0].meta["val"], node.meta["val"].dim() - 2
        kernel = node.args[1].meta["val"].shape[2:]
        given: list[Any] = list(node.args[3:])
        rest: list[Any] = [*given, *([1], "valid", [1], 1)[len(given) :]]
        stride, steps = (list(numbers) * (axes if len(numbers) == 1 else 1) for numbers in (rest[0], rest[2]))
        whole = [step * (size - 1) if rest[1] == "same" else 0 for step, size in zip(steps, kernel, strict=True)]
        source, more = node.args[0], [size % 2 for size in whole]
        if any(more):
            sides = [side for extra in reversed(more) for side in (0, extra)]
            with module.graph.inserting_before(node):
                padded = torch.nn.functional.pad(value, sides)
                source = call(module.graph, node, aten.constant_pad_nd.default, (source, sides, 0.0), padded)
        bias = node.args[2] if len(node.args) > 2 else None
        node.target = NAMED[node.target]
        node.args = (source, node.args[1], bias, stride, [size // 2 for size in whole], steps, rest[3])


def cropped_paddings(module: fx.GraphModule) -> None:
    """A transposed convolution with output padding, or with a padding of its own, as one without padding, cut to its size.

    TFLite's converter has no other, but for a stride of one and for paddings that make the output a stride's multiple of the input.
    Called when BatchNorm is folded; the cut goes behind the activation that fuses into the layer.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if n.target in TRANSPOSED]:
        _spread_kernel(module, node)
        padding, more, dilation, strides = (_numbers(node, place) for place in (4, 5, 7, 3))
        reach = [step * (size - 1) for step, size in zip(dilation, node.args[1].meta["val"].shape[2:], strict=True)]
        each = list(zip(padding, reach, strides, strict=True))
        if not any(more) and all(p == 0 or (p <= r and (s == 1 or 2 * p == r + 1 - s)) for p, r, s in each):
            continue
        sizes = [int(size) for size in node.meta["val"].shape[2:]]
        beyond = [max(0, -(-(m - p) // s)) for m, p, s in zip(more, padding, strides, strict=True)]
        if any(beyond):  # places that the kernel never reaches, where the bias stands alone
            sides = [side for number in reversed(beyond) for side in (0, number)]
            with graph.inserting_before(node):
                wide = torch.nn.functional.pad(node.args[0].meta["val"], sides)
                node.args = (call(graph, node, aten.constant_pad_nd.default, (node.args[0], sides, 0.0), wide), *node.args[1:])
        node.args = (*node.args[:4], [0] * len(padding), [0] * len(padding), *node.args[6:])
        places = node.args[0].meta["val"].shape[2:]
        whole = [(int(size) - 1) * s + r + 1 for size, s, r in zip(places, strides, reach, strict=True)]
        _crop(graph, node, padding, sizes, whole)
    module.recompile()


def _spread_kernel(module: fx.GraphModule, node: fx.Node) -> None:
    """A kernel with gaps as one with zeros in them, where a stride spreads the input as well: the converter knows either."""
    dilation, weight = _numbers(node, 7), tensor_of(module, node.args[1])
    if weight is None or not any(d > 1 and s > 1 for d, s in zip(dilation, _numbers(node, 3), strict=True)):
        return
    wide = weight.new_zeros((*weight.shape[:2], *(d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True))))
    places: list[Any] = [slice(None, None, d) for d in dilation]
    wide[(..., *places)] = weight.detach()
    name = f"{node.args[1].target}_spread"  # type: ignore[union-attr]
    set_parameter(module, name, wide)
    with module.graph.inserting_before(node):
        read = module.graph.get_attr(name)
    read.meta = {**node.args[1].meta, "val": wide}  # type: ignore[union-attr]
    node.args = (node.args[0], read, *node.args[2:7], [1] * len(dilation))


def _crop(graph: fx.Graph, layer: fx.Node, before: list[int], sizes: list[int], whole: list[int]) -> None:
    """Cut `sizes` places out of the `whole` ones that the layer makes now, from `before` on."""
    value = layer.meta["val"].new_empty((*layer.meta["val"].shape[:2], *whole))
    last = layer
    while len(last.users) == 1 and next(iter(last.users)).target in FUSED:
        last.meta["val"], last = value, next(iter(last.users))
    last.meta["val"], readers, cropped = value, list(last.users), last
    for axis, (start, size) in enumerate(zip(before, sizes, strict=True), 2):
        if (start, size) != (0, value.shape[axis]):
            value = value.narrow(axis, start, size)
            with graph.inserting_after(cropped):
                cropped = call(graph, last, aten.slice.Tensor, (cropped, axis, start, start + size), value)
    for reader in readers:
        reader.replace_input_with(last, cropped)


def _numbers(node: fx.Node, place: int) -> list[int]:
    """A list among a transposed convolution's arguments, one number an axis of places."""
    axes = node.meta["val"].dim() - 2
    given = list(node.args[place]) if len(node.args) > place else [int(place in (3, 7))]  # type: ignore[arg-type]
    return given * axes if len(given) == 1 else given
