"""Poses without boxes, of one subject or a few: rows of points, a map for each point, or scores along both axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.gaussian_peaks import peak_moves
from edgeloop_contract.boxes.layouts import PointAxes, PointMaps, PointRows, Pose
from edgeloop_contract.errors import DataError

__all__ = ["Poses", "find_poses"]

THERE = 0.3  # points with this score are inside of the pose's box
LEAST = 1.0  # pixels of a box's side: a pose may be one point
CORNERS = 5  # values behind the points: two corners, and a score
MAX_POSES = 1000
QUARTER = 0.25


class Poses(NamedTuple):
    """Points (n, points, 3) as x, y in pixels of the sample and score; the poses' scores (n,), 0 to 1; their boxes (n, 4)."""

    points: Array
    scores: Array
    boxes: Array


def find_poses(layout: Pose, get: Callable[[str], Array], height: int, width: int) -> Poses:
    """All poses in the outputs of one sample of `height` × `width` pixels. `get`: an output by its name. Raises DataError."""
    size = np.array([width, height], np.float32)
    boxes = sure = None
    if isinstance(layout, PointRows):
        points, rest = _rows(layout, get(layout.rows), size)
        if layout.boxed:
            boxes, sure = _in_order(layout, rest[:, :4].reshape(-1, 2, 2), size).reshape(-1, 4), rest[:, 4]
        if layout.presence:
            sure = _presence(layout, get(layout.presence), len(points))
    elif isinstance(layout, PointMaps):
        points = _maps(layout, get(layout.maps), get(layout.offsets) if layout.offsets else None, size)
    else:
        points = _axes(layout, get(layout.x), get(layout.y), size)
    points[..., 2] = np.clip(points[..., 2], 0, 1)
    scores = points[..., 2].mean(1) if sure is None else np.clip(sure, 0, 1)
    return Poses(points, scores, _around(points) if boxes is None else boxes)


def _rows(layout: PointRows, given: Array, size: Array) -> tuple[Array, Array]:
    """The points, and what is behind them in each row."""
    count = layout.points * layout.values
    row = count + CORNERS * layout.boxed
    if given.size % row or not 0 < given.size <= row * MAX_POSES:
        raise DataError(f"poses of shape {given.shape}; {layout.points} points have {row} values")
    rows = given.reshape(-1, row).astype(np.float32)
    values = rows[:, :count].reshape(len(rows), layout.points, layout.values)
    at = _in_order(layout, values[..., :2], size)
    sure = _active(values[..., layout.score_at], layout.activation) if layout.score_at else np.ones(values.shape[:2], np.float32)
    return np.concatenate([at, sure[..., None]], -1), rows[:, count:]


def _in_order(layout: PointRows, places: Array, size: Array) -> Array:
    """Places (…, 2) as x and y in pixels."""
    found = places[..., ::-1] if layout.y_first else places
    return np.asarray(found * size if layout.normalised else found)


def _presence(layout: PointRows, given: Array, count: int) -> Array:
    if given.size != count:
        raise DataError(f"{layout.presence} has {given.size} values for {count} poses; one for each is needed")
    return _active(given.reshape(-1).astype(np.float32), layout.presence_activation)


def _maps(layout: PointMaps, given: Array, offsets: Array | None, size: Array) -> Array:
    maps = _first(given, layout.points, layout.channels)
    count, rows, columns = maps.shape
    flat = maps.reshape(count, -1)
    y, x = np.divmod(flat.argmax(1), columns)
    each = np.arange(count)
    found = np.empty((1, count, 3), np.float32)
    moves = _refined(layout, maps, y, x) if offsets is None else np.zeros((2, count), np.float32)
    for axis, (place, cells) in enumerate(((x, columns), (y, rows))):
        pixels = (size[axis] - 1) / max(cells - 1, 1) if layout.to_edges else size[axis] / cells
        found[0, :, axis] = (place + moves[axis]) * pixels
    if offsets is not None:
        far = _first(offsets, 2 * layout.points, layout.channels)
        if far.shape[1:] != maps.shape[1:]:
            raise DataError(f"offsets of shape {offsets.shape} for maps of shape {given.shape}; they need the same cells")
        found[0, :, 1] += far[each, y, x]
        found[0, :, 0] += far[each + count, y, x]
    found[0, :, 2] = _active(flat.max(1).astype(np.float32), layout.activation)
    return found


def _first(given: Array, count: int, channels: str) -> Array:
    """So many maps (count, rows, columns). Raises DataError."""
    maps = given[0] if given.ndim == 4 and len(given) == 1 else given
    if maps.ndim != 3 or maps.shape[0 if channels == "first" else 2] != count or min(maps.shape) < 1:
        raise DataError(f"maps of shape {given.shape}; {count} of them are needed, with two axes each")
    return maps if channels == "first" else np.moveaxis(maps, -1, 0)


def _refined(layout: PointMaps, maps: Array, y: Array, x: Array) -> Array:
    """How far each point is from the middle of its cell (2, points), as x and y, in cells."""
    if layout.refine == "dark":
        return peak_moves(maps, y, x, layout.blur, layout.activation)
    if layout.refine == "none":
        return np.zeros((2, len(maps)), np.float32)
    return np.stack([_quarter(maps, y, x, axis) for axis in (0, 1)])


def _quarter(maps: Array, y: Array, x: Array, axis: int) -> Array:
    """A quarter of a cell along one axis (0: x), to the higher neighbour; a cell at the edge has no two, and stays."""
    count, rows, columns = maps.shape
    place, cells = (y, rows) if axis else (x, columns)
    higher, lower = (
        maps[
            np.arange(count), np.clip(y + way * axis, 0, rows - 1), np.clip(x + way * (1 - axis), 0, columns - 1)
        ].astype(np.float32)
        for way in (1, -1)
    )  # fmt: skip
    return np.asarray(QUARTER * np.sign(higher - lower) * ((place > 0) & (place < cells - 1)))


def _axes(layout: PointAxes, x: Array, y: Array, size: Array) -> Array:
    found = np.empty((1, layout.points, 3), np.float32)
    best = []
    for axis, given in enumerate((x, y)):
        scores = given[0] if given.ndim == 3 and len(given) == 1 else given
        if scores.ndim != 2 or len(scores) != layout.points or abs(scores.shape[1] - size[axis] * layout.split) > layout.split:
            places = round(float(size[axis]) * layout.split)
            raise DataError(f"scores of shape {given.shape} along an axis; {layout.points} points of {places} places are needed")
        found[0, :, axis] = scores.argmax(1) / layout.split
        best.append(scores.max(1))
    found[0, :, 2] = _active(np.minimum(*best).astype(np.float32), layout.activation)
    return found


def _around(points: Array) -> Array:
    """The smallest box around a pose's points that are rather there, or around all of them where none is."""
    sure = points[..., 2] >= THERE
    sure |= ~sure.any(1, keepdims=True)
    low = np.where(sure[..., None], points[..., :2], np.inf).min(1)
    high = np.where(sure[..., None], points[..., :2], -np.inf).max(1)
    grow = np.maximum(0, LEAST - (high - low)) / 2
    return np.concatenate([low - grow, high + grow], 1)


def _active(values: Array, activation: str) -> Array:
    return values if activation == "none" else np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))
