"""Raw outputs of a detector to boxes in pixels of its input, by the declared layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.finished import finished_rows
from edgeloop_contract.boxes.grids import cells_of_anchors, cells_of_grids
from edgeloop_contract.boxes.layouts import (
    Boxed,
    Centres,
    Distances,
    Final,
    Grid,
    Heatmap,
    Layout,
    Pose,
    Priors,
    Rows,
)
from edgeloop_contract.boxes.outputs import NamedOutputs, outputs_of
from edgeloop_contract.boxes.poses import find_poses
from edgeloop_contract.boxes.suppression import suppress
from edgeloop_contract.errors import DataError

__all__ = ["Found", "find_boxes", "places_of"]

CANDIDATES = 1000  # the best ones, that are compared with each other: time and memory are bounded
TINY = 1e-6
LARGE = 1e30
FARTHEST = np.float32(1e6)  # pixels: where an edge of a box counts at most
WHOLE = Rows, Grid  # whose makers compare boxes before they cut them off at the picture's edges (YOLO's); others do it after


class Found(NamedTuple):
    """Boxes (n, 4) float32 in pixels of the model's input, best first; their scores (n,), 0 to 1; numbers of their labels (n,).

    `rows`: the numbers of their places (n,) in the outputs. `points` (n, points, 3): of a layout of poses, where that reads them.
    """

    boxes: Array
    scores: Array
    labels: Array
    rows: Array | None = None
    points: Array | None = None

    def chosen(self, which: Array) -> Found:
        """Those alone (k,), by number."""
        return Found(*(None if part is None else part[which] for part in self))  # type: ignore[arg-type]


class _Candidates(NamedTuple):
    """`rows`: the numbers of places above the threshold, with their best label and its score."""

    rows: Array
    scores: Array
    labels: Array


def places_of(layout: Layout, height: int, width: int) -> int | None:
    """How many rows a layout with grids has on samples of `height` × `width` pixels; None for one without."""
    if isinstance(layout, Distances | Centres):
        return sum(-(-height // stride) * -(-width // stride) for stride in layout.strides)
    if isinstance(layout, Grid | Priors):
        return sum(-(-height // one.stride) * -(-width // one.stride) * len(one.sizes) for one in layout.levels)
    return None


def find_boxes(
    layout: Layout,
    outputs: Mapping[str, Array],
    height: int,
    width: int,
    *,
    score_threshold: float,
    iou_threshold: float,
    most: int,
) -> Found:
    """The boxes of one sample of `height` × `width` pixels, cut off at its edges: after boxes were compared, for YOLO's rows.

    `outputs`: real values by name, one sample each, with or without a leading 1. Each place answers its best label. Boxes below
    `score_threshold` and without area are left out, and of boxes of one label that overlap by more than `iou_threshold` the best
    one stays; at most `most` are given. Raises DataError where an output is missing or does not fit the layout.
    """
    if isinstance(layout, Pose):
        return _posed(layout, NamedOutputs(outputs), height, width, score_threshold, most)
    boxes, found = _decoded(layout, NamedOutputs(outputs), height, width, score_threshold)
    cut = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    real = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    # A box that is not finite has no area either.
    compared = np.clip(boxes, -FARTHEST, FARTHEST) if isinstance(layout, WHOLE) else cut
    cut, compared, scores, labels, places = cut[real], compared[real], found.scores[real], found.labels[real], found.rows[real]
    if isinstance(layout, Final):
        rows = np.argsort(-scores, kind="stable")[:most]
    else:
        rows = suppress(compared, scores, labels, iou_threshold, most)
    kept, sure = (values[rows].astype(np.float32, copy=False) for values in (cut, scores))
    return Found(kept, sure, labels[rows], places[rows])


def _posed(layout: Pose, get: NamedOutputs, height: int, width: int, least: float, most: int) -> Found:
    """Poses are finished: nothing is suppressed, and a box is where its points are."""
    poses = find_poses(layout, get.whole, height, width)
    boxes = np.clip(poses.boxes, 0, np.array([width, height, width, height], np.float32))
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (poses.scores >= least)
    rows = np.flatnonzero(real)
    rows = rows[np.argsort(-poses.scores[rows], kind="stable")[:most]]
    kept, sure = boxes[rows].astype(np.float32), poses.scores[rows].astype(np.float32)
    return Found(kept, sure, np.zeros(len(rows), np.intp), rows, poses.points[rows])


def _decoded(layout: Boxed, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    if isinstance(layout, Distances):
        return _distances(layout, get, height, width, least)
    if isinstance(layout, Rows):
        return _rows(layout, get, height, width, least)
    if isinstance(layout, Grid):
        return _grid(layout, get, height, width, least)
    if isinstance(layout, Centres):
        return _centres(layout, get, height, width, least)
    if isinstance(layout, Priors):
        return _priors(layout, get, height, width, least)
    if isinstance(layout, Heatmap):
        return _heatmap(layout, get, height, width, least)
    return _final(layout, get, height, width, least)


def _distances(layout: Distances, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    values, scores = _sides(layout, get)
    points, strides = cells_of_grids(tuple(layout.strides), layout.offset, height, width)
    if len(values) != len(points):
        raise DataError(f"{len(values)} cells; strides {layout.strides} make {len(points)} of {height} × {width} pixels")
    found = _best(scores, layout.activation, least)
    chosen = values[found.rows].astype(np.float32)
    if layout.bins:
        shares = _softmax(chosen.reshape(-1, 4, layout.bins))
        chosen = shares @ np.arange(layout.bins, dtype=np.float32)
    if layout.exponential:
        chosen = np.exp(np.clip(chosen, -20, 20))
    reach = chosen * strides[found.rows, None]
    at = points[found.rows]
    return np.concatenate([at - reach[:, :2], at + reach[:, 2:]], 1), found


def _sides(layout: Distances, get: NamedOutputs) -> tuple[Array, Array]:
    """Distances (cells, 4 × bins) and scores (cells, labels), whichever way the file gives them."""
    count = 4 * max(1, layout.bins)
    if layout.boxes == layout.scores:
        both = _last(get(layout.boxes, 2), layout.channels)
        if both.shape[1] <= count:
            raise DataError(f"rows of {both.shape[1]} values; {count} of them are a box, and none is left for scores")
        return (both[:, -count:], both[:, :-count]) if layout.scores_first else (both[:, :count], both[:, count:])
    values, scores = _last(get(layout.boxes, 2), layout.channels), _last(get(layout.scores, 2), layout.channels)
    if values.shape[1] != count or len(values) != len(scores):
        raise DataError(f"boxes of shape {values.shape} and scores of shape {scores.shape}; {count} values a box are needed")
    return values, scores


def _rows(layout: Rows, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    rows = _last(get(layout.rows, 2), layout.channels)
    first = 5 if layout.objectness else 4
    behind = layout.points * layout.point_values + layout.coefficients
    if layout.scores:
        scores = _last(get(layout.scores, 2), layout.scores_channels)
        if rows.shape[1] != first + behind or len(scores) != len(rows) or not scores.shape[1]:
            raise DataError(
                f"boxes of shape {rows.shape} and scores of shape {scores.shape}; {first + behind} values a box are needed"
            )
        rows = np.concatenate([rows[:, :first], scores, rows[:, first:]], 1)
    if rows.shape[1] <= first + behind:
        kind = "a mask" if layout.coefficients else "points"
        what = f"{first} are box{' and objectness' * layout.objectness}, then scores{f', then {behind} of {kind}' * (behind > 0)}"
        raise DataError(f"rows of {rows.shape[1]} values; {what}")
    sure = _activated(rows[:, 4:5], layout.activation) if layout.objectness else None
    found = _best(rows[:, first : rows.shape[1] - behind], layout.activation, least, sure)
    boxes = rows[found.rows, :4].astype(np.float32)
    if layout.normalised:
        boxes = boxes * np.array([width, height, width, height], np.float32)
    return boxes if layout.corners else _corners(boxes[:, :2], boxes[:, 2:]), found


def _grid(layout: Grid, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    rows = get(layout.rows, 2)
    cells, strides, sizes = cells_of_anchors(layout.levels, height, width, grid_by_grid=True)
    if len(rows) != len(cells) or rows.shape[1] < 6:
        raise DataError(f"rows of shape {rows.shape}; the anchors make {len(cells)} of 6 values or more")
    found = _best(rows[:, 5:], "sigmoid", least, _activated(rows[:, 4:5], "sigmoid"))
    near = 2 * _activated(rows[found.rows, :4].astype(np.float32), "sigmoid")
    middle = (near[:, :2] - 0.5 + cells[found.rows]) * strides[found.rows, None]
    return _corners(middle, near[:, 2:] ** 2 * sizes[found.rows]), found


def _centres(layout: Centres, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    rows = get(layout.rows, 2)
    corners, strides = cells_of_grids(tuple(layout.strides), 0.0, height, width)
    if len(rows) != len(corners) or rows.shape[1] < 6:
        raise DataError(f"rows of shape {rows.shape}; strides {layout.strides} make {len(corners)} of 6 values or more")
    found = _best(rows[:, 5:], layout.activation, least, _activated(rows[:, 4:5], layout.activation))
    said, each = rows[found.rows, :4].astype(np.float32), strides[found.rows, None]
    return _corners(corners[found.rows] + said[:, :2] * each, np.exp(np.clip(said[:, 2:], -20, 20)) * each), found


def _priors(layout: Priors, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    values, scores = get(layout.boxes, 2), get(layout.scores, 2)
    cells, strides, sizes = cells_of_anchors(layout.levels, height, width, grid_by_grid=False)
    if values.shape != (len(cells), layout.columns) or len(scores) != len(cells) or scores.shape[1] <= layout.background:
        raise DataError(f"boxes of shape {values.shape} and scores of shape {scores.shape}; there are {len(cells)} priors")
    shares = _activated(scores.astype(np.float32), layout.activation)
    found = _best(shares[:, 1:] if layout.background else shares, "none", least)
    moved = values[found.rows, :4].astype(np.float32)
    moved = (moved[:, [1, 0, 3, 2]] if layout.y_first else moved) * np.asarray(layout.variances, np.float32)
    size = sizes[found.rows]
    middle = (cells[found.rows] + 0.5) * strides[found.rows, None] + moved[:, :2] * size
    return _corners(middle, size * (np.exp(np.clip(moved[:, 2:], -20, 20)) if layout.exponential else moved[:, 2:])), found


def _final(layout: Final, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    edges, scores, labels = finished_rows(layout, get)
    above = np.flatnonzero((scores >= least) & (labels >= -1 + (layout.first_label > 0)))  # a number that nobody named stays a box
    boxes = edges[above].astype(np.float32)
    if layout.normalised:
        boxes = boxes * np.array([width, height, width, height], np.float32)
    return boxes, _Candidates(above, scores[above], labels[above])


def _heatmap(layout: Heatmap, get: NamedOutputs, height: int, width: int, least: float) -> tuple[Array, _Candidates]:
    maps = {name: get(name, 3) for name in outputs_of(layout)}
    scores, sizes, *rest = (m if layout.channels == "first" else np.moveaxis(m, -1, 0) for m in maps.values())
    count, rows, columns = scores.shape
    if (rows, columns) != (-(-height // layout.stride), -(-width // layout.stride)):
        raise DataError(f"a map of {rows} × {columns} cells; stride {layout.stride} makes another of {height} × {width} pixels")
    if any(m.shape != (2, rows, columns) for m in (sizes, *rest)):
        raise DataError(f"sizes of shape {sizes.shape} for a map of {rows} × {columns}; two values a cell are needed")
    shares = _activated(scores.astype(np.float32), layout.activation)
    peaks = np.where(shares >= _neighbours(shares), shares, 0)
    found = _best(peaks.reshape(count, -1).T, "none", max(least, TINY))
    y, x = np.divmod(found.rows, columns)
    middle = np.stack([x, y], 1).astype(np.float32)
    middle += rest[0].reshape(2, -1).T[found.rows] if rest else 0.5
    return _corners(middle * layout.stride, sizes.reshape(2, -1).T[found.rows] * layout.stride), found


def _neighbours(maps: Array) -> Array:
    """The largest value of each cell and its eight neighbours, (labels, rows, columns)."""
    edge = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = maps.shape[1:]
    found = maps
    for part in _shifted(edge, rows, columns):
        found = np.maximum(found, part)
    return found


def _shifted(edge: Array, rows: int, columns: int) -> Iterator[Array]:
    return (edge[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3))


def _best(scores: Array, activation: str, least: float, sure: Array | None = None) -> _Candidates:
    """The places (n, labels) whose best label reaches `least`, at most CANDIDATES. `sure` (n, 1): multiplies every score."""
    if sure is not None:  # probabilities are 1 at most, so a place that is less sure than `least` has no score that reaches it
        most = float(scores.max(initial=1.0)) if activation == "none" else 1.0
        most = LARGE if np.isnan(most) else most  # NaN at one place hides what the others reach
        rows = np.flatnonzero(sure[:, 0] * most >= least)
        shares = _activated(scores[rows].astype(np.float32), activation) * sure[rows]
    elif activation != "softmax":  # few places pass, so only their scores become probabilities
        floor = least if activation == "none" else np.log(max(least, TINY) / max(1 - least, TINY))
        rows = np.flatnonzero(scores.max(1) >= floor)
        shares = _activated(scores[rows].astype(np.float32), activation)
    else:
        rows, shares = np.arange(len(scores)), _activated(scores.astype(np.float32), activation)
    labels = shares.argmax(1)
    best = shares[np.arange(len(labels)), labels]
    keep = np.flatnonzero(best >= least)
    if len(keep) > CANDIDATES:
        keep = np.sort(keep[np.argpartition(-best[keep], CANDIDATES)[:CANDIDATES]])
    return _Candidates(rows[keep], best[keep], labels[keep])


def _activated(scores: Array, activation: str) -> Array:
    if activation == "softmax":
        return _softmax(scores)
    if activation == "none":
        return scores
    return np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))))


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _corners(middle: Array, size: Array) -> Array:
    return np.concatenate([middle - size / 2, middle + size / 2], 1)


def _last(values: Array, channels: str) -> Array:
    return values if channels == "last" else values.T
