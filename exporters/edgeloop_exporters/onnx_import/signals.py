"""Fourier transforms as products with constant matrices, windows, mel filters, determinants."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgeloop_exporters.onnx_import.table import DTYPES, Node, handles
from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

MAX_MATRIX = 1 << 24  # values


def _angles(places: int, bins: int, length: int) -> Tensor:
    """(places, bins) of 2π·place·bin / length, exact for large products too."""
    if places * bins > MAX_MATRIX:
        raise Unsupported(f"of {places} values to {bins} frequencies")
    product = torch.arange(places).reshape(-1, 1) * torch.arange(bins)
    return (product % length).to(torch.float64) * (2 * math.pi / length)


@handles("DFT")
def _dft(node: Node) -> Value:
    x, length = node[0], node.maybe(1)
    given = node.maybe(2)
    axis = (int(node.build.number(given)) if given is not None else -2) if node.version >= 20 else int(node.get("axis", 1))
    axis = axis % x.rank
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    if axis == x.rank - 1 or x.shape[-1] not in (1, 2) or (x.batched(axis) and not x.is_static):
        raise Unsupported("along the batch or the last axis")
    have = x.shape[axis]
    n = int(node.build.number(length)) if length is not None else 2 * (have - 1) if inverse and onesided else have
    call = node.build.call
    moved = call(torch.movedim, x, axis, -2)
    parts = [call(torch.select, moved, -1, i) for i in range(x.shape[-1])]  # (..., have) each
    made = _inverse(node.build, parts, n, onesided) if inverse else _forward(node.build, parts, n, onesided)
    return call(torch.movedim, call(torch.stack, made, -1), -2, axis)


def _forward(build: Builder, parts: list[Value], n: int, onesided: bool) -> list[Value]:
    used = min(parts[0].shape[-1], n)
    angles = _angles(used, n // 2 + 1 if onesided else n, n)
    return _turned(build, parts, used, torch.cos(angles), -torch.sin(angles))


def _inverse(build: Builder, parts: list[Value], n: int, onesided: bool) -> list[Value]:
    used = min(parts[0].shape[-1], n // 2 + 1 if onesided else n)
    angles = _angles(used, n, n)
    weight = torch.full((used, 1), 1.0 / n, dtype=torch.float64)
    if onesided:  # the other half is this half's mirror image
        mirrored = [bin for bin in range(used) if bin not in (0, n - bin)]
        weight[mirrored] *= 2
    made = _turned(build, parts, used, torch.cos(angles) * weight, torch.sin(angles) * weight)
    return made[:1] if onesided else made


def _turned(build: Builder, parts: list[Value], used: int, cosines: Tensor, sines: Tensor) -> list[Value]:
    """(a + bi)(cos + sin·i) summed: the real and the imaginary part."""
    call, (cos, sin) = build.call, (build.tensor(m.to(torch.float32)) for m in (cosines, sines))
    parts = [part if part.shape[-1] == used else call(torch.narrow, part, -1, 0, used) for part in parts]
    real, imaginary = _product(build, parts[0], cos), _product(build, parts[0], sin)
    if len(parts) == 1:
        return [real, imaginary]
    return [
        call(torch.sub, real, _product(build, parts[1], sin)), call(torch.add, imaginary, _product(build, parts[1], cos)),
    ]  # fmt: skip


def _product(build: Builder, x: Value, matrix: Value) -> Value:
    """(..., n) times (n, m), those between batch and n as one: TFLite's converter refuses four axes there."""
    between = x.shape[1:-1]
    if len(between) < 2 or not x.batched():
        return build.call(torch.matmul, x, matrix)
    rows = build.call(torch.flatten, x, 1, -2)
    return build.call(torch.unflatten, build.call(torch.matmul, rows, matrix), 1, list(between))


@handles("STFT")
def _stft(node: Node) -> Value:
    """A convolution whose weights are the windowed cosines and sines."""
    x, window, given, call = node[0], node.maybe(2), node.maybe(3), node.build.call
    step = int(node.build.number(node[1]))
    if window is not None and not window.is_constant:
        raise Unsupported("with a window that the data decide")
    if window is None and given is None:
        raise Unsupported("without the length of its frames")
    length = int(node.build.number(given)) if given is not None else int(window.shape[0]) if window is not None else 0
    bins = length // 2 + 1 if node.get("onesided", 1) else length
    angles = _angles(length, bins, length)
    shape = window.a.to(torch.float64).reshape(-1, 1) if window is not None else torch.ones((length, 1), dtype=torch.float64)
    if shape.shape[0] != length:
        raise Unsupported(f"with a window of {shape.shape[0]} values for frames of {length}")
    cos, sin = (torch.cos(angles) * shape).T, (torch.sin(angles) * shape).T  # (bins, length)
    by_real = torch.cat([cos, -sin]).unsqueeze(1)
    weight = by_real if x.rank == 2 or x.shape[-1] == 1 else torch.cat([by_real, torch.cat([sin, cos]).unsqueeze(1)], 1)
    series = call(torch.unsqueeze, x, 1) if x.rank == 2 else call(torch.permute, x, [0, 2, 1])
    layer = nn.Conv1d(weight.shape[1], weight.shape[0], length, step, bias=False)
    layer.weight = nn.Parameter(weight.to(torch.float32).contiguous(), requires_grad=False)
    made = node.build.layer(node.name, layer, series)  # (N, 2·bins, frames)
    return call(torch.permute, call(torch.unflatten, made, 1, [2, bins]), [0, 3, 2, 1])


@handles("MelWeightMatrix")
def _mel(node: Node) -> Value:
    bands, length, rate, low, high = (node.build.number(node[i]) for i in range(5))
    bins = int(length) // 2 + 1

    def mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)

    bands, start = int(bands), mel(low)
    step = (mel(high) - start) / (bands + 2)
    edges = [700.0 * (10 ** ((start + i * step) / 2595.0) - 1.0) for i in range(bands + 2)]
    places = [int((length + 1) * edge // rate) for edge in edges]
    found = torch.zeros((bins, bands), dtype=torch.float32)
    for band in range(bands):
        lower, centre, upper = places[band : band + 3]
        if centre == lower:
            found[centre, band] = 1.0
        for bin in range(lower, centre + 1):
            if centre != lower:
                found[bin, band] = (bin - lower) / (centre - lower)
        for bin in range(centre, upper):
            found[bin, band] = (upper - bin) / (upper - centre)
    return node.build.tensor(found.to(DTYPES[int(node.get("output_datatype", 1))]))


@handles("Det")
def _determinant(node: Node) -> Value:
    return node.build.call(torch.linalg.det, node[0])
