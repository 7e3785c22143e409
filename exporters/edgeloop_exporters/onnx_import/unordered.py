"""Rows that a graph sorts by their score: where two scores are nearly equal, either may come first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_exporters.model_files.reading import read

__all__ = ["chooses_rows", "difference_of_rows"]

MAX_ROWS = 1000
LEFT_OUT = 0.02  # of the rows: the last ones that are chosen have neighbours that are not


def chooses_rows(path: Path) -> bool:
    """Whether the file chooses the best of something, as end-to-end detectors do."""
    return "TopK" in read(path).operators


def difference_of_rows(found: Array, wanted: Array) -> float | None:
    """The largest difference of rows (N, rows, values) to those of the other that are nearest, but for a few.

    None for arrays that are no such rows.
    """
    if found.ndim != 3 or found.shape != wanted.shape or not 1 < found.shape[1] <= MAX_ROWS:
        return None
    kept = max(1, round(found.shape[1] * (1 - LEFT_OUT)))
    worst = 0.0
    for a, b in zip(found.astype(np.float32), wanted.astype(np.float32), strict=True):
        far = np.stack([np.abs(b - row).max(1) for row in a])
        worst = max(worst, *(float(np.sort(far.min(axis))[kept - 1]) for axis in (0, 1)))
    return worst
