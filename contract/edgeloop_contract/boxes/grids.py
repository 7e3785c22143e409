"""The cells of a detector's grids, and the anchors in them."""

from functools import lru_cache

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.layouts import AnchorLevel

__all__ = ["cells_of_anchors", "cells_of_grids"]


@lru_cache(maxsize=8)  # the same for every picture
def cells_of_grids(strides: tuple[int, ...], offset: float, height: int, width: int) -> tuple[Array, Array]:
    """Points (cells, 2) as x and y, and the stride of each, for grids that cover the sample."""
    points, sizes = [], []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.divmod(np.arange(rows * columns), columns)
        points.append(np.stack([x + offset, y + offset], 1) * stride)
        sizes.append(np.full(rows * columns, stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def cells_of_anchors(levels: list[AnchorLevel], height: int, width: int, *, grid_by_grid: bool) -> tuple[Array, Array, Array]:
    """Cells (n, 2) as column and row, strides (n,) and sizes (n, 2) of all anchors."""
    cells, strides, sizes = [], [], []
    for level in levels:
        rows, columns, count = -(-height // level.stride), -(-width // level.stride), len(level.sizes)
        y, x = np.divmod(np.arange(rows * columns), columns)
        grid, own = np.stack([x, y], 1), np.asarray(level.sizes)
        cells.append(np.tile(grid, (count, 1)) if grid_by_grid else np.repeat(grid, count, 0))
        sizes.append(np.repeat(own, len(grid), 0) if grid_by_grid else np.tile(own, (len(grid), 1)))
        strides.append(np.full(count * len(grid), level.stride))
    cells_, strides_, sizes_ = (np.concatenate(part).astype(np.float32) for part in (cells, strides, sizes))
    return cells_, strides_, sizes_
