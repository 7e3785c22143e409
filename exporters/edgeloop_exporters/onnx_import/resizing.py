"""Resize and Upsample: as torch's own where that is exact, else axis by axis as a choice of rows or a product with a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from edgeloop_contract.arrays import Array
from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

MAX_MATRIX = 1 << 24  # values


@dataclass(frozen=True)
class _Axis:
    """`size` places become `to`; `region`: where they begin and end (tf_crop_and_resize)."""

    axis: int
    size: int
    to: int
    scale: float
    region: tuple[float, float]


@dataclass(frozen=True)
class _How:
    mode: str
    coordinates: str
    rounding: str
    cubic: float
    antialias: bool
    exclude: bool
    outside: float


@handles("Resize", "Upsample")
def _resize(node: Node) -> Value:
    x, legacy = node[0], node.op == "Upsample" or node.version < 11
    axes = _axes(node, x, legacy)
    how = _how(node, legacy)
    crops = how.coordinates == "tf_crop_and_resize"
    if how.mode not in ("nearest", "linear", "cubic"):
        raise Unsupported(f"with mode {how.mode}")
    if not crops and all(axis.to == axis.size and axis.scale == 1 for axis in axes):
        return x
    made = None if crops else _by_torch(node.build, x, axes, how)
    return _by_axes(node.build, x, axes, how) if made is None else made


def _how(node: Node, legacy: bool) -> _How:
    return _How(
        mode=node.get("mode", "nearest"),
        coordinates="asymmetric" if legacy else node.get("coordinate_transformation_mode", "half_pixel"),
        rounding="floor" if legacy else node.get("nearest_mode", "round_prefer_floor"),
        cubic=float(node.get("cubic_coeff_a", -0.75)),
        antialias=bool(node.get("antialias", 0)),
        exclude=bool(node.get("exclude_outside", 0)),
        outside=float(node.get("extrapolation_value", 0.0)),
    )


def _axes(node: Node, x: Value, legacy: bool) -> list[_Axis]:
    given = node.get("axes")
    axes = [int(a) % x.rank for a in given] if given is not None else list(range(x.rank))
    sizes = None if legacy else node.maybe(3)
    regions = _regions(node, len(axes), legacy)
    if sizes is not None and sizes.a.numel():
        if not sizes.is_static:
            raise Unsupported("to sizes that the data decide; export the model with fixed sizes")
        wanted = list(zip(sizes.a.reshape(-1).tolist(), sizes.b.reshape(-1).tolist(), strict=True))
        return _by_sizes(node, x, axes, wanted, regions)
    scales = _scales(node, legacy)
    if len(scales) != len(axes):
        raise Unsupported(f"with {len(scales)} scales for {len(axes)} axes")
    found = []
    for axis, scale, region in zip(axes, scales, regions, strict=True):
        if axis == 0 and x.batched() and not x.is_static:
            if scale != 1:
                raise Unsupported("of the batch")
            continue
        to = int(np.float32(x.shape[axis]) * np.float32(scale))  # the runtime's own precision: 10 · 0.7 is 7
        found.append(_Axis(axis, x.shape[axis], to, scale, region))
    return found


def _by_sizes(
    node: Node, x: Value, axes: list[int], wanted: list[tuple[int, int]], regions: list[tuple[float, float]]
) -> list[_Axis]:  # fmt: skip
    policy, found = node.get("keep_aspect_ratio_policy", "stretch"), []
    for axis, (a, b), region in zip(axes, wanted, regions, strict=True):
        if axis == 0 and x.batched() and not x.is_static:
            if (a, b) != (x.a.shape[0], x.b.shape[0]) and a != node.build.fixed_batch:
                raise Unsupported("of the batch")
            continue
        if a != b:
            raise Unsupported("to sizes that the batch decides")
        found.append(_Axis(axis, x.shape[axis], a, a / x.shape[axis], region))
    if policy == "stretch":
        return found
    scale = (min if policy == "not_larger" else max)(axis.scale for axis in found)
    return [_Axis(v.axis, v.size, int(np.floor(v.size * scale + 0.5)), scale, v.region) for v in found]


def _scales(node: Node, legacy: bool) -> list[float]:
    value = node.maybe(1) if legacy else node.maybe(2)
    if value is None:
        return [float(s) for s in node.get("scales", [])]
    if not value.is_constant:
        raise Unsupported("by scales that the data decide")
    return [float(s) for s in value.a.reshape(-1).tolist()]


def _regions(node: Node, count: int, legacy: bool) -> list[tuple[float, float]]:
    value = None if legacy or node.get("coordinate_transformation_mode") != "tf_crop_and_resize" else node.maybe(1)
    if value is None or not value.a.numel():
        return [(0.0, 1.0)] * count
    if not value.is_constant:
        raise Unsupported("of a region that the data decide")
    ends = [float(v) for v in value.a.reshape(-1).tolist()]
    return list(zip(ends[:count], ends[count:], strict=True))


def _by_torch(build: Builder, x: Value, axes: list[_Axis], how: _How) -> Value | None:
    """Where torch's interpolation is the same: the exporters and their kernels know it. Else None."""
    changed = [axis for axis in axes if axis.to != axis.size]
    if x.rank not in (3, 4) or any(axis.axis < 2 for axis in changed) or how.antialias or how.exclude:
        return None
    goal = list(x.shape[2:])
    for axis in axes:
        if axis.axis >= 2:
            goal[axis.axis - 2] = axis.to
    exact = all(abs(axis.size * axis.scale - axis.to) < 1e-3 for axis in axes)
    middle = how.coordinates in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
    if how.mode == "nearest":
        whole = all(axis.to % axis.size == 0 for axis in axes if axis.axis >= 2)
        first = how.coordinates == "asymmetric" and how.rounding == "floor"
        same = whole and exact and (first or (middle and how.rounding in ("round_prefer_floor", "round_prefer_ceil")))
        return build.call(F.interpolate, x, goal, None, "nearest") if same else None
    if how.mode != "linear" or x.rank != 4 or not exact or (1 in goal and how.coordinates != "half_pixel"):
        return None
    if how.coordinates == "align_corners" or middle:
        return build.call(F.interpolate, x, goal, None, "bilinear", how.coordinates == "align_corners")
    return None


def _by_axes(build: Builder, x: Value, axes: list[_Axis], how: _How) -> Value:
    outside = torch.zeros([1] * x.rank, dtype=torch.bool)
    for axis in axes:
        if axis.size * axis.to > MAX_MATRIX:
            raise Unsupported(f"of {axis.size} to {axis.to} places")
        places, lost = _coordinates(axis, how.coordinates)
        outside = outside | torch.from_numpy(lost).reshape([-1 if i == axis.axis else 1 for i in range(x.rank)])
        matrix = torch.from_numpy(_matrix(axis, places, how)).to(torch.float32)
        x = _along(build, x, axis.axis, matrix, how.mode == "nearest")
    if bool(outside.any()):
        value = build.tensor(torch.tensor(how.outside, dtype=x.dtype))
        x = build.call(torch.where, build.tensor(outside), value, x)
    return x


def _along(build: Builder, x: Value, axis: int, matrix: torch.Tensor, chooses: bool) -> Value:
    to, size = matrix.shape
    if to == size and bool(torch.equal(matrix, torch.eye(size))):
        return x
    if chooses:
        return build.call(torch.index_select, x, axis, build.tensor(matrix.argmax(1)))
    if not x.dtype.is_floating_point:
        raise Unsupported("of integers")
    if axis == x.rank - 1:
        return build.call(torch.matmul, x, build.tensor(matrix.T.contiguous()))
    if axis == x.rank - 2:
        return build.call(torch.matmul, build.tensor(matrix), x)
    moved = build.call(torch.matmul, build.call(torch.movedim, x, axis, -1), build.tensor(matrix.T.contiguous()))
    return build.call(torch.movedim, moved, -1, axis)


def _coordinates(axis: _Axis, how: str) -> tuple[Array, Array]:
    """Where each new place lies among the old ones, and which lie outside."""
    places, size = np.arange(axis.to, dtype=np.float64), axis.size
    width = axis.scale * size
    if how == "asymmetric":
        found = places / axis.scale
    elif how == "align_corners":
        found = places * 0 if width == 1 else places * (size - 1) / (width - 1)
    elif how == "tf_crop_and_resize":
        start, end = axis.region
        span = (end - start) * (size - 1)
        found = places * 0 + span / 2 if width == 1 else places * span / (width - 1)
        found = found + start * (size - 1)
        return found, (found < 0) | (found > size - 1)
    elif how == "tf_half_pixel_for_nn":
        found = (places + 0.5) / axis.scale
    elif how in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
        found = (places + 0.5) / axis.scale - 0.5
        if how == "half_pixel_symmetric":
            found = found + size / 2 * (1 - axis.to / width)
        elif how == "pytorch_half_pixel" and width == 1:
            found = places * 0 - 0.5
    else:
        raise Unsupported(f"with coordinates {how}")
    return found, np.zeros(len(places), bool)


def _matrix(axis: _Axis, places: Array, how: _How) -> Array:
    """(to, size): how much of each old place a new one takes."""
    rows, size = np.zeros((axis.to, axis.size)), axis.size
    if how.mode == "nearest":
        rounded = {
            "floor": np.floor(places), "ceil": np.ceil(places), "round_prefer_ceil": np.floor(places + 0.5),
            "round_prefer_floor": np.ceil(places - 0.5),
        }[how.rounding]  # fmt: skip
        rows[np.arange(axis.to), np.clip(rounded, 0, size - 1).astype(int)] = 1
        return rows
    shrink = min(axis.scale, 1.0) if how.antialias else 1.0
    reach = (1 if how.mode == "linear" else 2) / shrink
    for row, place in enumerate(places):
        near = np.arange(int(np.floor(place - reach)), int(np.ceil(place + reach)) + 1)
        distance = np.abs(near - place) * shrink
        weights = np.clip(1 - distance, 0, 1) if how.mode == "linear" else _cubic(distance, how.cubic)
        if how.exclude:
            weights = np.where((near < 0) | (near >= size), 0.0, weights)
        total = weights.sum()
        if how.antialias or how.exclude:
            weights = weights / total
        np.add.at(rows[row], np.clip(near, 0, size - 1), weights)
    return rows


def _cubic(x: Array, a: float) -> Array:
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
