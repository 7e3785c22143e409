"""The points of a detector's boxes: from the output beside its distances and scores, or behind the scores of its rows."""

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.grids import cells_of_anchors, cells_of_grids
from edgeloop_contract.boxes.layouts import Distances, Final, Pose, Priors, Rows
from edgeloop_contract.errors import DataError

__all__ = ["find_points", "has_points"]


def has_points(layout: object, points: int) -> bool:
    """Whether boxes of this layout can have so many points."""
    if isinstance(layout, Distances):
        return True
    return isinstance(layout, Rows | Final | Priors | Pose) and layout.points == points


def find_points(layout: Distances | Rows | Final | Priors, values: Array, rows: Array, height: int, width: int) -> Array:
    """The points (n, points, 3) of the places `rows` (n,): x and y in pixels of the sample, and the score, 0 to 1.

    `values`: one sample's output, with or without a leading 1. Beside distances it is (cells, 3 × points): how far from the middle
    of the cell to the right and downward in strides, and a logit. Of rows and priors the last values are points; without a score of
    their own they count as sure. Raises DataError where they do not fit the layout.
    """
    given = values[0] if values.ndim == 3 and len(values) == 1 else values
    if isinstance(layout, Priors):
        return _beside_priors(layout, given, rows, height, width)
    given = given if isinstance(layout, Final) or layout.channels == "last" or given.ndim != 2 else given.T
    if isinstance(layout, Rows | Final):
        return _behind(layout, given, rows, height, width)
    middles, strides = cells_of_grids(tuple(layout.strides), layout.offset, height, width)
    if given.ndim != 2 or len(given) != len(middles) or given.shape[1] % 3:
        raise DataError(f"points of shape {values.shape}; {len(middles)} cells of three values for each point are needed")
    found = given[rows].astype(np.float32).reshape(len(rows), given.shape[1] // 3, 3)
    found[..., :2] = middles[rows, None] + found[..., :2] * strides[rows, None, None]
    found[..., 2] = 1 / (1 + np.exp(-np.clip(found[..., 2], -60, 60)))
    return found


def _beside_priors(layout: Priors, given: Array, rows: Array, height: int, width: int) -> Array:
    """Points are said as the middles of boxes are."""
    cells, strides, sizes = cells_of_anchors(layout.levels, height, width, grid_by_grid=False)
    if given.shape != (len(cells), layout.columns):
        raise DataError(f"boxes of shape {given.shape}; {len(cells)} priors of {layout.columns} values are needed")
    moved = given[rows, 4:].astype(np.float32).reshape(len(rows), layout.points, 2)
    moved = (moved[..., ::-1] if layout.y_first else moved) * np.asarray(layout.variances[:2], np.float32)
    found = np.ones((len(rows), layout.points, 3), np.float32)
    found[..., :2] = ((cells[rows] + 0.5) * strides[rows, None])[:, None] + moved * sizes[rows, None]
    return found


def _behind(layout: Rows | Final, given: Array, rows: Array, height: int, width: int) -> Array:
    count = layout.points * layout.point_values
    if given.ndim != 2 or not 0 < count < given.shape[1]:
        raise DataError(f"rows of shape {given.shape}; {layout.points} points of {layout.point_values} values are behind each box")
    read = given[rows, given.shape[1] - count :].astype(np.float32).reshape(len(rows), layout.points, layout.point_values)
    found = np.ones((len(rows), layout.points, 3), np.float32)
    found[..., : layout.point_values] = read
    found[..., 2] = np.clip(found[..., 2], 0, 1)
    if layout.normalised:
        found[..., :2] *= np.array([width, height], np.float32)
    return found
