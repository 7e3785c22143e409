"""The cells of a detector's grids, and the anchors in them."""

from functools import lru_cache

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.layouts import AnchorLevel

__all__ = ["cells_of_anchors", "cells_of_grids"]

Levels = tuple[tuple[int, tuple[tuple[float, float], ...]], ...]  # of each level the stride, and the sizes of its anchors


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
    said = tuple((level.stride, tuple((wide, tall) for wide, tall in level.sizes)) for level in levels)
    return _cells_of_anchors(said, height, width, grid_by_grid)


@lru_cache(maxsize=8)  # 25,200 anchors of a picture of 640 × 640 would take longer than what reads them
def _cells_of_anchors(levels: Levels, height: int, width: int, grid_by_grid: bool) -> tuple[Array, Array, Array]:
    cells, strides, sizes = [], [], []
    for stride, each in levels:
        rows, columns, count = -(-height // stride), -(-width // stride), len(each)
        y, x = np.divmod(np.arange(rows * columns), columns)
        grid, own = np.stack([x, y], 1), np.asarray(each)
        cells.append(np.tile(grid, (count, 1)) if grid_by_grid else np.repeat(grid, count, 0))
        sizes.append(np.repeat(own, len(grid), 0) if grid_by_grid else np.tile(own, (len(grid), 1)))
        strides.append(np.full(count * len(grid), stride))
    cells_, strides_, sizes_ = (np.concatenate(part).astype(np.float32) for part in (cells, strides, sizes))
    return cells_, strides_, sizes_
