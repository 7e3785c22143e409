"""How a detector's joined scores (N, total) are cells of grids: distances and scores of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Distances
from edgeloop_contract.errors import ModelError

__all__ = ["BOXES", "SCORES", "Cells", "cells_of"]

BOXES, SCORES = "boxes", "scores"  # names of a network's outputs
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
    """The grids of a network on samples of `height` × `width` pixels, with `labels` scores a cell."""

    strides: tuple[int, ...]
    height: int
    width: int
    labels: int

    @property
    def count(self) -> int:
        return sum(-(-self.height // s) * -(-self.width // s) for s in self.strides)

    @property
    def layout(self) -> Distances:
        """As the manifest declares it."""
        return Distances(strides=list(self.strides), exponential=True, boxes=BOXES, scores=SCORES)

    def separate(self, scores: Array) -> dict[str, Array]:
        """Joined scores (N, total) as outputs by name: boxes (N, cells, 4) and scores (N, cells, labels)."""
        rows, ends = scores.reshape(len(scores), -1), self.count * SIDES
        return {
            BOXES: rows[:, :ends].reshape(len(rows), self.count, SIDES),
            SCORES: rows[:, ends:].reshape(len(rows), self.count, self.labels),
        }


def cells_of(total: int, height: int, width: int, labels: int) -> Cells:
    """The grids of a network whose joined outputs have `total` values. Raises ModelError where no known grids have so many."""
    found = _fitting(total, height, width, labels)
    if found is None:
        raise ModelError(wanted(height, width, labels) + f"; the network gives {total} values")
    return found


@lru_cache(maxsize=64)
def _fitting(total: int, height: int, width: int, labels: int) -> Cells | None:
    for strides in STRIDES:
        cells = Cells(strides, height, width, labels)
        if cells.count * (SIDES + labels) == total:
            return cells
    return None


def wanted(height: int, width: int, labels: int) -> str:
    """What a network must return, in words."""
    usual = Cells(STRIDES[0], height, width, labels)
    return (
        f"{{'{BOXES}': (1, cells, {SIDES}), '{SCORES}': (1, cells, {labels})}}, with the logarithms of distances in strides, and"
        f" cells of strides {', '.join('/'.join(map(str, s)) for s in STRIDES[:4])} or others (8/16: {usual.count} cells)"
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
