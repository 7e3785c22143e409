"""The points of a detector's boxes, from the output beside its distances and scores."""

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.decoding import cells_of_grids
from edgeloop_contract.boxes.layouts import Distances
from edgeloop_contract.errors import DataError

__all__ = ["find_points"]


def find_points(layout: Distances, values: Array, rows: Array, height: int, width: int) -> Array:
    """The points (n, points, 3) of the cells `rows` (n,): x and y in pixels of the sample, and the score, 0 to 1.

    `values`: one sample's (cells, 3 × points), with or without a leading 1: distances from the middle of the cell to the right and
    downward in strides, and a logit. Raises DataError where they do not fit the layout.
    """
    given = values[0] if values.ndim == 3 and len(values) == 1 else values
    given = given if layout.channels == "last" or given.ndim != 2 else given.T
    middles, strides = cells_of_grids(tuple(layout.strides), layout.offset, height, width)
    if given.ndim != 2 or len(given) != len(middles) or given.shape[1] % 3:
        raise DataError(f"points of shape {values.shape}; {len(middles)} cells of three values for each point are needed")
    found = given[rows].astype(np.float32).reshape(len(rows), given.shape[1] // 3, 3)
    found[..., :2] = middles[rows, None] + found[..., :2] * strides[rows, None, None]
    found[..., 2] = 1 / (1 + np.exp(-np.clip(found[..., 2], -60, 60)))
    return found
