"""Resizing and pooling whose edges a runtime or a converter computes differently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import aten
from edgeloop_exporters.rewrites import call


def uneven_nearest(module: fx.GraphModule) -> None:
    """Nearest resizing by no whole factor picks rows and columns by index: the runtimes round the places differently."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.upsample_nearest2d.vec:
            continue
        before, after = node.args[0].meta["val"], node.meta["val"]
        sizes = [(int(before.shape[axis]), int(after.shape[axis])) for axis in (2, 3)]
        if all(new % old == 0 for old, new in sizes):
            continue
        with torch.no_grad():
            ramps = [torch.arange(old, dtype=torch.float32) for old, _ in sizes]
            grid = ramps[0][:, None] * sizes[1][0] + ramps[1]
            picked = aten.upsample_nearest2d.vec(grid[None, None], node.args[1], node.args[2])[0, 0].long()
        rows, columns = picked[:, 0] // sizes[1][0], picked[0] % sizes[1][0]
        resized = node.args[0]
        for axis, places in ((2, rows), (3, columns)):
            name = f"{node.name}_places_{axis}"
            module.register_buffer(name, places)
            with graph.inserting_before(node):
                index = graph.get_attr(name)
                index.meta = {"val": places}
                value = resized.meta["val"].index_select(axis, places)
                resized = call(graph, node, aten.index_select.default, (resized, axis, index), value)
        node.replace_all_uses_with(resized)
        graph.erase_node(node)


def uneven_average_pools(module: fx.GraphModule) -> None:
    """Average pooling with ceil_mode as one over whole windows, times what each place has too few of.

    ONNX Runtime's integer kernel divides the cut windows at the edge by a whole window's size (10 steps off).
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.avg_pool2d.default or len(node.args) < 5 or not node.args[4]:
            continue
        x, kernel, stride, padding = node.args[0], *(_pair(a) for a in node.args[1:4])
        stride = stride or kernel
        shape, out = x.meta["val"].shape, node.meta["val"].shape
        more = [max(0, (int(out[2 + i]) - 1) * stride[i] + kernel[i] - int(shape[2 + i]) - padding[i]) for i in (0, 1)]
        with torch.no_grad():
            ones = torch.ones(1, 1, int(shape[2]), int(shape[3]))
            share = aten.avg_pool2d(ones, *node.args[1:])
            padded = torch.nn.functional.pad(ones, (padding[1], more[1], padding[0], more[0]))
            factor = share / aten.avg_pool2d(padded, kernel, stride)
        name = f"{node.name}_share"
        module.register_buffer(name, factor)
        with graph.inserting_before(node):
            sides = [padding[1], more[1], padding[0], more[0]]
            wide = call(graph, node, aten.constant_pad_nd.default, (x, sides, 0.0), _padded(x.meta["val"], sides))
            pooled = call(graph, node, aten.avg_pool2d.default, (wide, kernel, stride), node.meta["val"])
            constant = graph.get_attr(name)
            constant.meta = {"val": factor}
            whole = call(graph, node, aten.mul.Tensor, (pooled, constant), node.meta["val"])
        node.replace_all_uses_with(whole)
        graph.erase_node(node)


def _pair(value: Any) -> list[int]:
    given = [value] if isinstance(value, int) else list(value)
    return given * 2 if len(given) == 1 else given


def _padded(value: Tensor, sides: list[int]) -> Tensor:
    return torch.nn.functional.pad(value, sides)
