"""Whether an annotation fits its sample and its model: nothing that a person or a device says is taken as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation
from edgeloop_contract.hub_messages import BundleSummary

PARTS = {
    "detection": "boxes",
    "keypoints": "boxes",
    "instances": "boxes",
    "segmentation": "masks",
    "regression": "values",
    "multilabel": "labels",
}
MASKED = "instances"  # the task whose boxes have masks
EDGE = 0.01  # pixels by which rounding may put a box outside


def part_of(summary: BundleSummary, answer: Annotation | None) -> str:
    """What the model's annotations have: boxes, masks, values, labels; "": a single label.

    Of a bundle whose task an earlier hub did not keep, the device's answer says it.
    """
    if summary.task:
        return PARTS.get(summary.task, "")
    return "" if answer is None else part_in(answer)


def part_in(annotation: Annotation) -> str:
    """The part that the annotation has."""
    return next(name for name in PARTS.values() if getattr(annotation, name) is not None)


def problem(annotation: Annotation, part: str, summary: BundleSummary, shape: Sequence[int]) -> str:
    """Why the annotation does not fit a sample of this shape; "": it fits. `part`: what the model answers."""
    said = next((name for name in annotation.__struct_fields__ if getattr(annotation, name) is not None), "")
    if said != part:
        return f"an annotation has {said}; {summary.model or 'the model'} answers {part or 'one label'}"
    if annotation.values is not None:
        return _of_values(annotation.values, summary)
    if annotation.labels is not None:
        return _of_labels(annotation.labels, summary)
    if len(shape) < 2:
        return f"a sample of shape {list(shape)} is no picture"
    height, width = shape[0], shape[1]
    if annotation.boxes is not None:
        return _of_boxes(annotation.boxes, summary, height, width)
    return _of_masks(annotation.masks or [], summary, height, width)


def _unknown(labels: Sequence[str], summary: BundleSummary) -> str:
    if "" in labels:
        return "a label is empty; choose one"
    unknown = [label for label in labels if label not in summary.labels] if summary.labels else []
    return f"{summary.model} knows no label {unknown[0][:100]!r}; there is {', '.join(summary.labels[:50])}" if unknown else ""


def _of_boxes(boxes: Sequence[AnnotatedBox], summary: BundleSummary, height: int, width: int) -> str:
    if why := _unknown([box.label for box in boxes], summary):
        return why
    for box in boxes:
        left, top, right, bottom = box.box
        if left < -EDGE or top < -EDGE or right > width + EDGE or bottom > height + EDGE:
            edges = ", ".join(f"{edge:g}" for edge in box.box)
            return f"a box ({edges}) reaches out of the sample of {width} × {height} pixels; give edges in pixels of the sample"
        if why := _of_points(box, summary, height, width) or _of_mask(box, summary, height, width):
            return why
    return ""


def _of_points(box: AnnotatedBox, summary: BundleSummary, height: int, width: int) -> str:
    if box.points is None:
        return ""
    if len(box.points) != len(summary.points):
        there = f"has {', '.join(summary.points[:50])}" if summary.points else "finds no points"
        return f"a box with {len(box.points)} points; {summary.model} {there}"
    for name, (x, y, known) in zip(summary.points, box.points, strict=True):
        if known and not (-EDGE <= x <= width + EDGE and -EDGE <= y <= height + EDGE):
            return f"the point {name!r} ({x:g}, {y:g}) lies outside of the sample of {width} × {height} pixels; leave it out"
    return ""


def _of_mask(box: AnnotatedBox, summary: BundleSummary, height: int, width: int) -> str:
    if box.mask is None:
        return ""
    if summary.task != MASKED:
        return f"a box with a mask; {summary.model or 'the model'} finds no masks of things"
    return "" if box.mask.size == (height, width) else _other_size(box.mask.size, height, width)


def _other_size(size: tuple[int, int], height: int, width: int) -> str:
    return f"a mask of {size[1]} × {size[0]} pixels; the sample has {width} × {height}"


def _of_masks(masks: Sequence[AnnotatedMask], summary: BundleSummary, height: int, width: int) -> str:
    labels = [mask.label for mask in masks]
    if why := _unknown(labels, summary):
        return why
    if len(set(labels)) < len(labels):
        return "two masks have one label; join them"
    if other := next((mask for mask in masks if mask.size != (height, width)), None):
        return _other_size(other.size, height, width)
    if (twice := _overlap(masks)) is not None:
        return f"a pixel of {twice.label[:100]!r} has another label too; a pixel has one"
    return ""


def _overlap(masks: Sequence[AnnotatedMask]) -> AnnotatedMask | None:
    """The later one of two masks that share a pixel. By their runs alone: pixels are as many as a device says."""
    runs = [np.array(mask.counts, np.int64) for mask in masks]
    ends = [np.cumsum(run)[1::2] for run in runs]
    starts = [end - run[1::2] for end, run in zip(ends, runs, strict=True)]
    if not starts:
        return None
    begin, end = np.concatenate(starts), np.concatenate(ends)
    number = np.repeat(np.arange(len(masks)), [len(each) for each in starts])
    order = np.flatnonzero(end > begin)
    order = order[np.argsort(begin[order], kind="stable")]
    shared = np.flatnonzero(begin[order][1:] < end[order][:-1])
    return masks[int(max(number[order[shared[0]]], number[order[shared[0] + 1]]))] if len(shared) else None


def _of_values(values: Sequence[float], summary: BundleSummary) -> str:
    if summary.quantities and len(values) != len(summary.quantities):
        return f"{len(values)} values; {summary.model} has {len(summary.quantities)}: {', '.join(summary.quantities[:50])}"
    return "" if all(math.isfinite(value) for value in values) else "a value is not finite"


def _of_labels(labels: Sequence[str], summary: BundleSummary) -> str:
    return _unknown(labels, summary) or ("a label stands there twice" if len(set(labels)) < len(labels) else "")
