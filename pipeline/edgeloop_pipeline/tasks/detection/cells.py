"""How a detector's joined scores (N, total) are cells of grids: distances and scores of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Distances
from edgeloop_contract.errors import ModelError

__all__ = ["BOXES", "POINTS", "SCORES", "Cells", "cells_of"]

BOXES, SCORES, POINTS = "boxes", "scores", "points"  # names of a network's outputs
SIDES = 4
# Grids that a network may have. Its outputs' size says which: no two of these have the same number of cells but for tiny pictures.
STRIDES = (
    (8, 16),
    (8, 16, 32),
    (16, 32),
    (4, 8),
    (4, 8, 16),
    (4, 8, 16, 32),
    (8,),
    (16,),
    (4,),
    (16, 32, 64),
    (8, 16, 32, 64),
    (32,),
)


@dataclass(frozen=True)
class Cells:
    """The grids of a network on samples of `height` × `width` pixels, with `labels` scores a cell, and `more` values of points."""

    strides: tuple[int, ...]
    height: int
    width: int
    labels: int
    more: int = 0

    @property
    def count(self) -> int:
        return sum(-(-self.height // s) * -(-self.width // s) for s in self.strides)

    @property
    def layout(self) -> Distances:
        """As the manifest declares it."""
        return Distances(strides=list(self.strides), exponential=True, boxes=BOXES, scores=SCORES)

    def separate(self, scores: Array) -> dict[str, Array]:
        """Joined scores (N, total) as outputs by name: boxes (N, cells, 4), scores (N, cells, labels), and points."""
        rows, ends = scores.reshape(len(scores), -1), self.count * SIDES
        last = ends + self.count * self.labels
        found = {
            BOXES: rows[:, :ends].reshape(len(rows), self.count, SIDES),
            SCORES: rows[:, ends:last].reshape(len(rows), self.count, self.labels),
        }
        return found | ({POINTS: rows[:, last:].reshape(len(rows), self.count, self.more)} if self.more else {})


def cells_of(total: int, height: int, width: int, labels: int, more: int = 0) -> Cells:
    """The grids of a network whose joined outputs have `total` values. Raises ModelError where no known grids have so many."""
    found = _fitting(total, height, width, labels, more)
    if found is None:
        raise ModelError(wanted(height, width, labels, more) + f"; the network gives {total} values")
    return found


@lru_cache(maxsize=64)
def _fitting(total: int, height: int, width: int, labels: int, more: int) -> Cells | None:
    for strides in STRIDES:
        cells = Cells(strides, height, width, labels, more)
        if cells.count * (SIDES + labels + more) == total:
            return cells
    return None


def wanted(height: int, width: int, labels: int, more: int = 0) -> str:
    """What a network must return, in words."""
    usual = Cells(STRIDES[0], height, width, labels)
    points = f", '{POINTS}': (1, cells, {more})" if more else ""
    return (
        f"{{'{BOXES}': (1, cells, {SIDES}), '{SCORES}': (1, cells, {labels}){points}}}, with the logarithms of distances in"
        f" strides, and cells of strides {', '.join('/'.join(map(str, s)) for s in STRIDES[:4])} or others"
        f" (8/16: {usual.count} cells)"
    )


def points(cells: Cells) -> tuple[Array, Array]:
    """Each cell's middle (cells, 2) as x and y in pixels, and its stride (cells,), float32."""
    made, sizes = [], []
    for stride in cells.strides:
        rows, columns = -(-cells.height // stride), -(-cells.width // stride)
        y, x = np.divmod(np.arange(rows * columns), columns)
        made.append((np.stack([x, y], 1) + 0.5) * stride)
        sizes.append(np.full(rows * columns, stride))
    return np.concatenate(made).astype(np.float32), np.concatenate(sizes).astype(np.float32)
