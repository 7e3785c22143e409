"""Operators that read between places: GridSample, DeformConv; and Col2Im, which adds windows up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgeloop_exporters.onnx_import.convolution import listed, padding
from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value

MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


@handles("GridSample")
def _grid_sample(node: Node) -> Value:
    x, grid = node[0], node[1]
    mode = MODES.get(node.get("mode", "linear"))
    if mode is None or x.rank not in (4, 5) or (mode == "bicubic" and x.rank == 5):
        raise Unsupported(f"with mode {node.get('mode')} of {x.rank} axes")
    if grid.is_static and not x.is_static and x.batched() and not grid.batched():
        if grid.shape[0] != 1:
            raise Unsupported("with another grid for each sample of the batch")
        grid = node.build.call(Tensor.expand, grid, [node.build.batch, *[-1] * (grid.rank - 1)])
    around = node.get("padding_mode", "zeros")
    return node.build.call(F.grid_sample, x, grid, mode, around, bool(node.get("align_corners", 0)))


@handles("Col2Im")
def _col2im(node: Node) -> Value:
    x, image, block = node[0], node.build.ints(node[1]), node.build.ints(node[2])
    places = len(image)
    strides, dilations = listed(node, "strides", places), listed(node, "dilations", places)
    pads = [int(p) for p in node.get("pads", [0] * 2 * places)]
    sizes = [n + pads[i] + pads[places + i] for i, n in enumerate(image)]
    target = torch.zeros(1, 1, dtype=torch.int64)  # (block's places, windows), row by row
    for size, k, s, d in zip(sizes, block, strides, dilations, strict=True):
        count = (size - d * (k - 1) - 1) // s + 1
        own = torch.arange(k).reshape(-1, 1) * d + torch.arange(count) * s
        target = (target[:, None, :, None] * size + own[None, :, None, :]).reshape(target.shape[0] * k, target.shape[1] * count)
    if list(x.shape[1:]) != [x.shape[1] // target.shape[0] * target.shape[0], target.shape[1]]:
        raise Unsupported(f"of {x.shape[2]} windows, where the image has {target.shape[1]}")
    made = node.build.call(_added, x, node.build.tensor(target.reshape(-1)), target.shape[0], sizes)
    for i, n in enumerate(image):
        if n != sizes[i]:
            made = node.build.call(torch.narrow, made, 2 + i, pads[i], n)
    return made


def _added(x: Tensor, target: Tensor, block: int, sizes: list[int]) -> Tensor:
    total = 1
    for size in sizes:
        total *= size
    channels = x.shape[1] // block
    plane = torch.zeros((x.shape[0], channels, total), dtype=x.dtype, device=x.device)
    return plane.index_add(2, target, x.reshape(x.shape[0], channels, -1)).reshape(x.shape[0], channels, *sizes)


@handles("DeformConv")
def _deform_conv(node: Node) -> Value:
    x, weight, offset, bias, mask = node[0], node[1], node[2], node.maybe(3), node.maybe(4)
    if x.rank != 4:
        raise Unsupported(f"of {x.rank} axes")
    kernel = list(weight.shape[2:])
    strides, dilations = listed(node, "strides", 2), listed(node, "dilations", 2)
    pads, groups = padding(node, x, kernel, strides, dilations), int(node.get("group", 1))
    sets, (high, wide) = int(node.get("offset_group", 1)), offset.shape[2:]
    rows, columns = (
        torch.arange(k).reshape(-1, 1) * d + torch.arange(n) * s - before
        for k, n, s, d, (before, _) in zip(kernel, (high, wide), strides, dilations, pads, strict=True)
    )  # (kernel, places) each
    shape = (kernel[0], kernel[1], high, wide)
    first = torch.stack([rows[:, None, :, None].expand(shape), columns[None, :, None, :].expand(shape)], -1)
    base = node.build.tensor(first.reshape(-1, high, wide, 2).to(torch.float32))  # (kernel's places, high, wide, y and x)
    sampled = node.build.call(_deformed, x, offset, base, sets)  # (N, channels, kernel's places, high, wide)
    if mask is not None:
        sampled = node.build.call(_masked, sampled, mask, sets)
    made = node.build.call(_weighted, sampled, weight, groups)
    if bias is None:
        return made
    return node.build.call(torch.add, made, node.build.call(torch.reshape, bias, [1, -1, 1, 1]))


def _deformed(x: Tensor, offset: Tensor, base: Tensor, sets: int) -> Tensor:
    batch, channels, height, width = x.shape
    taps, high, wide = base.shape[:3]
    moved = offset.reshape(batch * sets, taps, 2, high, wide).permute(0, 1, 3, 4, 2) + base
    # grid_sample counts from -1 to 1, x first
    y, across = moved.unbind(-1)
    grid = torch.stack([(across * 2.0 + 1.0) / width - 1.0, (y * 2.0 + 1.0) / height - 1.0], -1)
    found = F.grid_sample(
        x.reshape(batch * sets, channels // sets, height, width), grid.reshape(batch * sets, taps * high, wide, 2),
        "bilinear", "zeros", False,
    )  # fmt: skip
    return found.reshape(batch, channels, taps, high, wide)


def deforms(network: torch.nn.Module) -> bool:
    """Whether an imported network has a DeformConv: where it reads, the data decide, so no channel can be followed through it."""
    graphs = (module.graph for module in network.modules() if isinstance(module, fx.GraphModule))
    return any(node.target is _deformed for graph in graphs for node in graph.nodes)


def _masked(sampled: Tensor, mask: Tensor, sets: int) -> Tensor:
    batch, channels, taps, high, wide = sampled.shape
    by_set = sampled.reshape(batch, sets, channels // sets, taps, high, wide)
    return (by_set * mask.reshape(batch, sets, 1, taps, high, wide)).reshape(sampled.shape)


def _weighted(sampled: Tensor, weight: Tensor, groups: int) -> Tensor:
    batch, channels, taps, high, wide = sampled.shape
    columns = sampled.reshape(batch, groups, channels // groups * taps, high * wide)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    return torch.matmul(rows, columns).reshape(batch, weight.shape[0], high, wide)
