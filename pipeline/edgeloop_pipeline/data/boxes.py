"""Labels of pictures with boxes: arrays (N, boxes, 5) of label, x1, y1, x2, y2 in pixels; a label of −1 is no box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Placement
from edgeloop_contract.errors import DataError

__all__ = ["MAX_BOXES", "NONE", "VALUES", "boxes_of", "moved", "padded"]

NONE = -1.0
VALUES = 5
MAX_BOXES = 1000  # in one picture
LEAST_LEFT = 0.2  # of a box's area: what a crop cuts off more of is not asked for
LEAST_PIXELS = 1.0


def boxes_of(given: Any, where: str, labels: int) -> Array:
    """The boxes (n, 5) of one picture, checked. Raises DataError that names it."""
    try:
        found = np.asarray(given, np.float32).reshape(-1, VALUES) if np.size(given) else np.zeros((0, VALUES), np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: its boxes are no rows of label, x1, y1, x2, y2 ({error})") from error
    found = found[found[:, 0] != NONE]
    if not np.isfinite(found).all() or (found[:, 0] % 1 != 0).any() or not ((found[:, 0] >= 0) & (found[:, 0] < labels)).all():
        raise DataError(f"{where}: a box's label must be a number from 0 to {labels - 1}, and its edges finite")
    if (found[:, 3] <= found[:, 1]).any() or (found[:, 4] <= found[:, 2]).any():
        raise DataError(f"{where}: a box has no area; leave it out")
    if len(found) > MAX_BOXES:
        raise DataError(f"{where}: {len(found)} boxes; at most {MAX_BOXES} are taken: cut the picture into tiles")
    return np.asarray(found)


def padded(rows: Sequence[Array], size: int) -> Array:
    """Boxes of pictures, (n, 5) each, as one array (N, size, 5) float32."""
    made = np.full((len(rows), size, VALUES), NONE, np.float32)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return made


def moved(boxes: Array, place: Placement, height: int, width: int) -> Array:
    """The boxes (n, 5) of a picture in its sample of `height` × `width` pixels; those that a crop mostly cuts off are gone.

    (n, 5) again, where a box that is gone is −1.
    """
    made = np.full_like(boxes, NONE)
    rows = np.flatnonzero(boxes[:, 0] != NONE)
    if not len(rows):
        return made
    whole = place.to_sample(boxes[rows, 1:].astype(np.float64))
    cut = np.clip(whole, 0, [width, height, width, height])
    area, left = (_area(part) for part in (whole, cut))
    there = (left >= LEAST_LEFT * area) & (cut[:, 2] - cut[:, 0] >= LEAST_PIXELS) & (cut[:, 3] - cut[:, 1] >= LEAST_PIXELS)
    made[: there.sum(), 0], made[: there.sum(), 1:] = boxes[rows[there], 0], cut[there]
    return made


def _area(boxes: Array) -> Array:
    return np.asarray(np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0))
