"""Finished answers of a detector: edges, scores and numbers of labels, in one output or in several."""

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.layouts import Final
from edgeloop_contract.boxes.outputs import NamedOutputs
from edgeloop_contract.errors import DataError

__all__ = ["finished_rows"]

NONE = -1  # the number of no label
MOST = 1 << 31


def finished_rows(layout: Final, get: NamedOutputs) -> tuple[Array, Array, Array]:
    """Edges (n, 4) as x1, y1, x2, y2, scores (n,) float32 and labels (n,) from 0 on, below it for nothing. Raises DataError."""
    rows = get(layout.rows, 2)
    if rows.shape[1] != layout.columns:
        what = "edges, score and label" if not (layout.scores or layout.labels) else "edges" if layout.scores else "edges and score"
        more = f", and {'a mask' if layout.coefficients else 'points'}" if layout.coefficients or layout.points else ""
        raise DataError(f"rows of {rows.shape[1]} values; {what}{more} are {layout.columns}")
    edges = rows[:, 2:6] if layout.label_first else rows[:, :4]
    scores = get(layout.scores, 1) if layout.scores else rows[:, 1 if layout.label_first else 4]
    if layout.labels:
        labels = get(layout.labels, 1)
    elif layout.scores:
        labels = np.full(len(rows), layout.first_label)
    else:
        labels = rows[:, 0 if layout.label_first else 5]
    if len(scores) != len(rows) or len(labels) != len(rows):
        raise DataError(f"{len(rows)} boxes, {len(scores)} scores and {len(labels)} labels; one of each belongs to a box")
    numbers = np.nan_to_num(labels.astype(np.float64), nan=NONE).round().clip(NONE, MOST).astype(np.intp) - layout.first_label
    edges = edges[:, [1, 0, 3, 2]] if layout.y_first else edges
    if layout.middles:
        middle, half = edges[:, :2].astype(np.float32), edges[:, 2:].astype(np.float32) / 2
        edges = np.concatenate([middle - half, middle + half], 1)
    return edges, scores.astype(np.float32), numbers
