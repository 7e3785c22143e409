"""A model's answer to a kept sample as a person will correct it, boxes and masks in pixels of the sample; and its doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edgeloop_agent.box_answers import SCORE_DIGITS, found_boxes, found_points, label_name
from edgeloop_agent.engine import Answer
from edgeloop_agent.mask_answers import mask_answers
from edgeloop_agent.outbox.selection import Doubt
from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, AnnotatedPoint, Annotation, BoxMask
from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Found, Placement
from edgeloop_contract.instances import masks_in_picture, run_lengths_at
from edgeloop_contract.tasks import Detection, Instances, Keypoints, Multilabel, Regression, Segmentation, Task

__all__ = ["annotation_of", "doubt_of"]

PIXEL_DIGITS = 2
MAX_RUNS = 20_000  # run lengths of all masks of one answer: more is noise, which nobody corrects
THERE = 0.5  # the score of a point that is rather there than not
NOT_KNOWN: Final = 0
VISIBLE: Final = 2
DOUBTED = 0.05  # scores down to this one may be a box


def annotation_of(task: Task, answer: Answer) -> Annotation | None:
    """The answer as an annotation; None where one label says it, or where it is too large or not finite."""
    if isinstance(task, Regression):
        values = list((answer.values or {}).values())
        return Annotation(values=values) if len(values) == len(task.quantities) and np.isfinite(values).all() else None
    if isinstance(task, Multilabel):
        return Annotation(labels=[label.label for label in answer.labels or []])
    if not isinstance(task, Detection | Segmentation) or not isinstance(answer.scores, Mapping):
        return None
    height, width = _picture(answer).shape[1:3]
    if isinstance(task, Segmentation):
        masks = mask_answers(task, answer.scores, height, width, None)
        if sum(len(mask.mask.counts) for mask in masks) > MAX_RUNS:
            return None
        return Annotation(masks=[AnnotatedMask(mask.label, (height, width), mask.mask.counts) for mask in masks])
    found = found_boxes(task, answer.scores, height, width)
    edges = np.clip(found.boxes.astype(np.float64), 0, [width, height, width, height]).round(PIXEL_DIGITS)
    points = _points(task, answer.scores, found, height, width)
    things = _masks(task, answer.scores, found, height, width)
    rows = zip(edges.tolist(), found.scores.tolist(), found.labels.tolist(), points, things, strict=True)
    return Annotation(
        boxes=[
            AnnotatedBox(label_name(task, label), (x1, y1, x2, y2), min(max(round(score, SCORE_DIGITS), 0.0), 1.0), of_box, mask)
            for (x1, y1, x2, y2), score, label, of_box, mask in rows
            if x1 < x2 and y1 < y2
        ]
    )


def _masks(
    task: Detection, outputs: Mapping[str, Array], found: Found, height: int, width: int
) -> Sequence[BoxMask | None]:  # fmt: skip
    """Of each box, best first, the pixels of its thing in the sample, up to `MAX_RUNS` run lengths; None of the others."""
    masks: list[BoxMask | None] = [None] * len(found.scores)
    if not isinstance(task, Instances):
        return masks
    left = MAX_RUNS
    place = Placement(height, width)
    for number, part in enumerate(masks_in_picture(task, outputs, found, found.boxes, height, width, place)):
        runs = run_lengths_at(*part, height, width)
        left -= len(runs)
        if left < 0:
            break
        if len(runs) > 1:  # else it has no pixel
            masks[number] = BoxMask((height, width), runs)
    return masks


def _points(
    task: Detection, outputs: Mapping[str, Array], found: Found, height: int, width: int
) -> Sequence[list[AnnotatedPoint] | None]:
    """Of each box: its points that are likelier there than not, and not known elsewhere; None of a model without points."""
    if not isinstance(task, Keypoints):
        return [None] * len(found.scores)
    values = found_points(task, outputs, found, height, width).astype(np.float64)
    there = (values[..., 2] >= THERE) & (values[..., :2] >= 0).all(-1) & (values[..., :2] <= [width, height]).all(-1)
    at = np.where(there[..., None], values[..., :2], 0).round(PIXEL_DIGITS).tolist()
    return [
        [(x, y, VISIBLE if known else NOT_KNOWN) for (x, y), known in zip(places, knowns, strict=True)]
        for places, knowns in zip(at, there.tolist(), strict=True)
    ]


def doubt_of(task: Task, answer: Answer) -> Doubt | None:
    """How near boxes are to the score threshold, each from 0 (not near it) to 1 (on it); None for other tasks.

    A frame with ten sure boxes and one doubtful one teaches something: the mean of the scores would hide it; one with ten doubtful
    ones teaches more. Where an object that was followed has no box any more, the model missed it, or nearly so: 1 more.
    """
    if not isinstance(task, Detection) or not isinstance(answer.scores, Mapping):
        return None
    height, width = _picture(answer).shape[1:3]
    threshold = task.score_threshold
    scores = found_boxes(task, answer.scores, height, width, min(DOUBTED, threshold)).scores
    above, below = max(1.0 - threshold, 1e-6), max(threshold, 1e-6)
    far = np.where(scores >= threshold, (scores - threshold) / above, (threshold - scores) / below)
    near = [*(1 - np.clip(far, 0, 1)).tolist(), *[1.0] * bool(answer.lost)]
    return Doubt(max(near, default=0.0), sum(near))


def _picture(answer: Answer) -> Array:
    """The first input (1, height, width, channels)."""
    sample = answer.sample
    return next(iter(sample.values())) if isinstance(sample, Mapping) else np.asarray(sample)
