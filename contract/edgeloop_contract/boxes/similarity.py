"""Object keypoint similarity as COCO computes it: how near an answer's points are to a truth's, for the thing's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["POINT_VALUES", "VALUES", "sigmas_of", "similarity"]

VALUES = 5  # of a box: label, x1, y1, x2, y2
POINT_VALUES = 3  # of a point: x, y, and above 0 where it is known
SIGMA = 0.05  # of a point that is none of COCO's: how far people are apart, as a share of a thing's side
COCO = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107, "knee": 0.087,
    "ankle": 0.089,
}  # fmt: skip


def sigmas_of(points: Sequence[str]) -> Array:
    """The spread of each point (points,): COCO's where all of them are points of its persons, else 0.05."""
    parts = [name.lower().replace("left_", "").replace("right_", "") for name in points]
    known = [COCO.get(part) for part in parts]
    return np.array([SIGMA if None in known else sigma for sigma in known], np.float64)


def similarity(points: Array, truth: Array, sigmas: Array) -> Array:
    """(n, m) of answers' points (n, points, 2 or 3) and truths (m, 5 + 3 × points), both in pixels.

    The mean over known points of e^(−d² / (2 × area × (2σ)²)), where the area is that of the truth's box. Of a truth without a
    known point, d is how far a point is outside of its box, made larger by its own size on every side, as COCO does.
    """
    made = np.zeros((len(points), len(truth)))
    for j, row in enumerate(truth.astype(np.float64)):
        x1, y1, x2, y2 = row[1:VALUES]
        wanted = row[VALUES:].reshape(-1, POINT_VALUES)
        known = wanted[:, 2] > 0
        at = points[..., :2].astype(np.float64)
        if known.any():
            off = at[:, known] - wanted[known, :2]
        else:
            low, high = np.array([2 * x1 - x2, 2 * y1 - y2]), np.array([2 * x2 - x1, 2 * y2 - y1])
            off = np.maximum(0, low - at) + np.maximum(0, at - high)
            known = np.ones(len(wanted), bool)
        area = (x2 - x1) * (y2 - y1) + np.spacing(1)
        made[:, j] = np.exp(-(off**2).sum(-1) / ((2 * sigmas[known]) ** 2 * area * 2)).mean(-1)
    return made
