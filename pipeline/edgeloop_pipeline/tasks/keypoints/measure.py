"""What a keypoints metric asks beside the similarity of points: how many answers, and which truths."""

from __future__ import annotations

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_pipeline.data.boxes import POINT_VALUES, VALUES

__all__ = ["MOST", "without_points"]

MOST = 20  # answers of a label in a picture that are judged


def without_points(truth: Array) -> Array:
    """Which truths (m, 5 + 3 × points) have no known point: they are not asked for."""
    return np.asarray(~(truth[:, VALUES + 2 :: POINT_VALUES] > 0).any(1))
