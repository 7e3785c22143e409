"""Boxes from a detector's named outputs: one implementation for training, verification and device, in numpy.

A box is (x1, y1, x2, y2): left, top, right and bottom edge in pixels, where the first pixel covers 0 to 1.
"""

from edgeloop_contract.boxes.decoding import Found, find_boxes, places_of
from edgeloop_contract.boxes.layouts import (
    MAX_POINTS,
    AnchorLevel,
    Centres,
    Distances,
    Final,
    Grid,
    Heatmap,
    Layout,
    PointAxes,
    PointMaps,
    PointRows,
    Pose,
    Priors,
    Rows,
)
from edgeloop_contract.boxes.outputs import outputs_of
from edgeloop_contract.boxes.placing import Placement, placement
from edgeloop_contract.boxes.points import find_points, has_points
from edgeloop_contract.boxes.similarity import POINT_VALUES, VALUES, sigmas_of, similarity
from edgeloop_contract.boxes.suppression import iou_matrix, suppress

__all__ = [
    "MAX_POINTS", "POINT_VALUES", "VALUES", "AnchorLevel", "Centres", "Distances", "Final", "Found", "Grid", "Heatmap", "Layout",
    "Placement", "PointAxes", "PointMaps", "PointRows", "Pose", "Priors", "Rows", "find_boxes", "find_points", "has_points",
    "iou_matrix", "outputs_of", "placement", "places_of", "sigmas_of", "similarity", "suppress",
]  # fmt: skip
