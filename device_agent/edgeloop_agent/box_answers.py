"""Boxes as the agent answers them, in pixels of the picture that came, and what the drift monitor watches of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.mask_answers import Mask
from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Distances, Final, Found, Placement, Priors, Rows, find_boxes, find_points, iou_matrix
from edgeloop_contract.drift import MAX_ANSWERS
from edgeloop_contract.errors import DataError
from edgeloop_contract.instances import masks_in_picture, run_lengths_at
from edgeloop_contract.masks import RunLengths
from edgeloop_contract.tasks import Detection, Instances, Keypoints

__all__ = [
    "Box", "Part", "Point", "box_answers", "box_feature_names", "box_features", "count_found", "found_boxes", "found_points",
    "label_name",
]  # fmt: skip

DOUBTED = 0.05  # scores down to this one are looked at, to say how sure it is that there is nothing more
SCORE_DIGITS, PIXEL_DIGITS = 4, 2
LEAST_SIDE = 0.01  # pixels of a box in the picture
HALF = 0.5


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another model of a chain says of a box; fields as in an answer. `labels`: with their scores. `refused`: why nothing."""

    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: dict[str, float] | None = None
    score: float | None = None
    labels: dict[str, float] | None = None
    boxes: list[Box] | None = None
    tensors: dict[str, Any] | None = None
    refused: str | None = None
    masks: list[Mask] | None = None


class Point(msgspec.Struct, frozen=True):
    """One named point of a box. `score`: how sure it is that the point is there, 0 to 1. `point`: x, y in the picture's pixels."""

    label: str
    score: float
    point: list[float]


class Box(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was found. `score`: 0 to 1. `box`: x1, y1, x2, y2, in pixels of the picture as it is shown upright.

    `track`: the number of its track, where frames are followed; boxes of one object in several frames have the same one.
    `then`: what the models of chains say of it, by their names. `points`: all of them in the model's order, of a model that finds
    points. `mask`: its pixels, of a model that finds those.
    """

    label: str
    score: float
    box: list[float]
    track: int | None = None
    then: dict[str, Part] | None = None
    points: list[Point] | None = None
    mask: RunLengths | None = None


def found_boxes(task: Detection, outputs: Mapping[str, Array], height: int, width: int, least: float | None = None) -> Found:
    """Boxes in pixels of a prepared sample of `height` × `width`. `least`: another threshold than the task's. Raises DataError."""
    return find_boxes(
        task.decode, outputs, height, width, score_threshold=task.score_threshold if least is None else least,
        iou_threshold=task.iou_threshold, most=task.max_boxes,
    )  # fmt: skip


def box_answers(task: Detection, outputs: Mapping[str, Array], height: int, width: int, place: Placement | None) -> list[Box]:
    """The answer to one sample of `height` × `width` pixels, best first. `place`: where the picture lies in it; None: it is it."""
    found = found_boxes(task, outputs, height, width)
    boxes = found.boxes.astype(np.float64) if place is None else place.to_picture(found.boxes)
    # A box without area lies in the border of a letterbox.
    inside = np.flatnonzero((boxes[:, 2] - boxes[:, 0] > LEAST_SIDE) & (boxes[:, 3] - boxes[:, 1] > LEAST_SIDE))
    found, boxes = found.chosen(inside), boxes[inside]
    points = _points(task, outputs, found, height, width, place)
    masks = _masks(task, outputs, found, boxes, height, width, place or Placement(height, width))
    return [
        Box(
            label_name(task, int(found.labels[i])), round(float(found.scores[i]), SCORE_DIGITS),
            [round(edge, PIXEL_DIGITS) for edge in boxes[i].tolist()], points=None if points is None else points[i],
            mask=None if masks is None else masks[i],
        )
        for i in range(len(boxes)) if masks is None or len(masks[i].counts) > 1
    ]  # fmt: skip


def _masks(
    task: Detection, outputs: Mapping[str, Array], found: Found, boxes: Array, height: int, width: int, place: Placement
) -> list[RunLengths] | None:  # fmt: skip
    """The pixels of each box's thing, in the picture; None of a model without masks. One without a pixel is one run."""
    if not isinstance(task, Instances):
        return None
    size = [place.height, place.width]
    each = masks_in_picture(task, outputs, found, boxes, height, width, place)
    return [RunLengths(size, run_lengths_at(mask, top, left, *size)) for mask, top, left in each]


def _points(
    task: Detection, outputs: Mapping[str, Array], found: Found, height: int, width: int, place: Placement | None
) -> list[list[Point]] | None:
    """The points of each box, in the picture's pixels; None of a model without points."""
    if not isinstance(task, Keypoints):
        return None
    values = found_points(task, outputs, found, height, width)
    if place is not None:
        values[..., :2] = place.points_to_picture(values[..., :2].astype(np.float64))
    return [
        [
            Point(name, round(score, SCORE_DIGITS), [round(x, PIXEL_DIGITS), round(y, PIXEL_DIGITS)])
            for name, (x, y, score) in zip(task.points, rows, strict=True)
        ]
        for rows in values.tolist()
    ]


def found_points(task: Keypoints, outputs: Mapping[str, Array], found: Found, height: int, width: int) -> Array:
    """The points (n, points, 3) of boxes that were found: x and y in pixels of the sample, and score. Raises DataError."""
    if found.points is not None:
        return found.points
    layout = task.decode
    assert found.rows is not None and isinstance(layout, Distances | Rows | Final | Priors)
    beside = task.points_output if isinstance(layout, Distances) else layout.boxes if isinstance(layout, Priors) else layout.rows
    name = beside or next(iter(outputs))
    if name not in outputs:
        raise DataError(f"points need the output {name!r}; the model gives {', '.join(outputs)}")
    return find_points(layout, outputs[name], found.rows, height, width)


def label_name(task: Detection, label: int) -> str:
    """An end-to-end file may answer numbers that nobody named."""
    return task.labels[label] if 0 <= label < len(task.labels) else f"label {label}"


def count_found(found: Found, truth: Array) -> int:
    """How many labelled boxes (n, 5 or more), as label, x1, y1, x2, y2, an answer of the same label overlaps by half or more."""
    if not len(truth) or not len(found.boxes):
        return 0
    near = (iou_matrix(found.boxes, truth[:, 1:5]) >= HALF) & (found.labels[:, None] == truth[None, :, 0])
    return int(near.any(0).sum())


def box_feature_names(task: Detection) -> list[str]:
    """Names of the features that `box_features` returns."""
    mix = [f"share of {name}" for name in task.labels] if 1 < len(task.labels) <= MAX_ANSWERS else []
    return ["log boxes", "score of boxes", "log size of boxes", "x of boxes", "y of boxes", *mix, "confidence"]


def box_features(task: Detection, outputs: Mapping[str, Array], sample: Array) -> tuple[Array, float]:
    """Features of the boxes in one sample (1, height, width, channels), and the confidence in them (0 to 1).

    Number, mean score, mean size (a share of the sample's side), mean place (0 to 1) and mix of labels. The confidence is the mean
    score; where nothing was found, how far the best candidate is from being something.
    """
    height, width = sample.shape[1:3]
    found = found_boxes(task, outputs, height, width, min(DOUBTED, task.score_threshold))
    sure = found.scores >= task.score_threshold
    boxes, scores, labels = found.boxes[sure].astype(np.float64), found.scores[sure], found.labels[sure]
    doubt = float(found.scores[~sure].max()) if (~sure).any() else 0.0
    if not len(boxes):  # nothing lies in the middle and has no size
        mix = [0.0] * (len(box_feature_names(task)) - 6)
        return np.array([0.0, 0.0, 0.0, 0.5, 0.5, *mix, 1 - doubt]), 1 - doubt
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (height * width))
    middle = (boxes[:, :2] + boxes[:, 2:]).mean(0) / 2 / [width, height]
    named = 1 < len(task.labels) <= MAX_ANSWERS
    known = labels[(labels >= 0) & (labels < len(task.labels))]  # an end-to-end file may answer others
    mix = (np.bincount(known, minlength=len(task.labels)) / len(labels)).tolist() if named else []
    mean = float(scores.mean())
    return np.array([np.log1p(len(boxes)), mean, float(np.log1p(sides.mean())), *middle, *mix, mean]), mean
