"""Labels of pictures with boxes: arrays (N, boxes, 5) of label, x1, y1, x2, y2 in pixels; a label of −1 is no box.

Boxes with points have three values more for each: x, y, and above 0 where the point is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import POINT_VALUES, VALUES, Placement
from edgeloop_contract.errors import DataError

__all__ = ["MAX_BOXES", "NONE", "POINT_VALUES", "VALUES", "WITH_BOXES", "boxes_of", "moved", "padded", "values_of"]

NONE = -1.0
WITH_BOXES = ("detection", "keypoints")  # tasks
MAX_BOXES = 1000  # in one picture
LEAST_LEFT = 0.2  # of a box's area: what a crop cuts off more of is not asked for
LEAST_PIXELS = 1.0


def values_of(points: int) -> int:
    """How many values a box with so many points has."""
    return VALUES + POINT_VALUES * points


def boxes_of(given: Any, where: str, labels: int, points: int = 0) -> Array:
    """The boxes (n, 5 + 3 × points) of one picture, checked. Raises DataError that names it."""
    values = values_of(points)
    try:
        found = np.asarray(given, np.float32).reshape(-1, values) if np.size(given) else np.zeros((0, values), np.float32)
    except (TypeError, ValueError) as error:
        what = f", and x, y and 0 to 2 for each of {points} points" if points else ""
        raise DataError(f"{where}: its boxes are no rows of label, x1, y1, x2, y2{what} ({error})") from error
    found = found[found[:, 0] != NONE]
    if not np.isfinite(found).all() or (found[:, 0] % 1 != 0).any() or not ((found[:, 0] >= 0) & (found[:, 0] < labels)).all():
        raise DataError(f"{where}: a box's label must be a number from 0 to {labels - 1}, and its edges finite")
    if (found[:, 3] <= found[:, 1]).any() or (found[:, 4] <= found[:, 2]).any():
        raise DataError(f"{where}: a box has no area; leave it out")
    if len(found) > MAX_BOXES:
        raise DataError(f"{where}: {len(found)} boxes; at most {MAX_BOXES} are taken: cut the picture into tiles")
    return np.asarray(found)


def padded(rows: Sequence[Array], size: int) -> Array:
    """Boxes of pictures, (n, values) each, as one array (N, size, values) float32."""
    made = np.full((len(rows), size, rows[0].shape[1] if len(rows) else VALUES), NONE, np.float32)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return made


def moved(boxes: Array, place: Placement, height: int, width: int) -> Array:
    """The boxes (n, 5 or more) of a picture in its sample of `height` × `width` pixels; those that a crop mostly cuts off are gone.

    The same form again, where a box that is gone is −1. Points outside of the sample are not known.
    """
    made = np.full_like(boxes, NONE)
    rows = np.flatnonzero(boxes[:, 0] != NONE)
    if not len(rows):
        return made
    whole = place.to_sample(boxes[rows, 1:VALUES].astype(np.float64))
    cut = np.clip(whole, 0, [width, height, width, height])
    area, left = (_area(part) for part in (whole, cut))
    there = (left >= LEAST_LEFT * area) & (cut[:, 2] - cut[:, 0] >= LEAST_PIXELS) & (cut[:, 3] - cut[:, 1] >= LEAST_PIXELS)
    count = int(there.sum())
    made[:count, 0], made[:count, 1:VALUES] = boxes[rows[there], 0], cut[there]
    points = boxes[rows[there], VALUES:].reshape(count, (boxes.shape[1] - VALUES) // POINT_VALUES, POINT_VALUES)
    at = place.points_to_sample(points[..., :2].astype(np.float64))
    known = (points[..., 2] > 0) & (at >= 0).all(-1) & (at <= [width, height]).all(-1)
    placed = np.where(known[..., None], np.concatenate([at, points[..., 2:]], -1), 0)
    made[:count, VALUES:] = placed.reshape(count, boxes.shape[1] - VALUES)
    return made


def _area(boxes: Array) -> Array:
    return np.asarray(np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0))
