"""Whether a model's outputs are boxes, as widely used exporters write them, and by which layout they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from edgeloop_contract.boxes import Distances, Final, Grid, Heatmap, Layout, Pose, Priors, Rows
from edgeloop_contract.errors import UsageError
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.finished_boxes import finished_boxes, raw_rows
from edgeloop_exporters.model_files.poses import USUAL_NAMES, USUAL_SUBJECTS, pose_of
from edgeloop_exporters.model_files.properties import is_detr

__all__ = ["POSE_TASKS", "Detector", "detector_of", "labels_of", "point_names", "subjects_of"]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (8, 16), (16,))
ANCHORS = (3, 1)  # of one cell
MOST_FINAL = 1000  # rows of finished answers
DETECTS = ("detect", "detection", "object-detection", "object_detection")  # what metadata call the task
POSE_TASKS = ("pose", "keypoints", "keypoint-detection")
MASKS = ("segment", "instance-segmentation")
SIDES, PERSON_POINTS = 4, 17
ULTRALYTICS, ULTRALYTICS_IOU = "Ultralytics", 0.7  # its metadata's author; from which overlap on its `predict` suppresses
NEVER = 1.0  # of models that say each thing once
OWN = 0.5  # the threshold of masks that each box has to itself: probabilities


@dataclass(frozen=True)
class Detector:
    """`labels`: how many scores a box has, 0 where it has the number of one. `sure`: the file says that it detects; else its shapes
    alone do. `why`: in words.
    """

    layout: Layout
    labels: int
    sure: bool
    why: str
    prototypes: str = ""  # the output that masks of things are made of
    prototype_channels: Literal["first", "last"] = "first"
    mask_threshold: float = 0.0
    iou_threshold: float = 0.5


def detector_of(model: ModelFile, shapes: Mapping[str, tuple[int, ...]], height: int, width: int) -> Detector | None:
    """`shapes`: of one sample's outputs that count. None where they are no boxes that are known here."""
    found = _detector(model, shapes, height, width)
    if found is None or model.metadata.author != ULTRALYTICS:
        return found
    return replace(found, iou_threshold=NEVER if is_detr(model.metadata) else ULTRALYTICS_IOU)


def _detector(model: ModelFile, shapes: Mapping[str, tuple[int, ...]], height: int, width: int) -> Detector | None:
    (points, _), said = model.metadata.points, model.metadata.task.lower()
    posed = pose_of(model, shapes, height, width, said in POSE_TASKS) if said not in DETECTS and not points else None
    if posed is not None:
        return Detector(posed.layout, 1, posed.sure, posed.why)
    if said in POSE_TASKS and not points:  # its points would be taken for scores
        return None
    sure = said in DETECTS + POSE_TASKS + MASKS
    if len(shapes) == 1:
        return _single(model, shapes, height, width, sure)
    finished = finished_boxes(model, shapes, height, width) if len(shapes) > 1 else None
    if finished is not None:
        return Detector(finished.layout, finished.labels, finished.sure, finished.why, finished.masks, mask_threshold=OWN)
    if len(shapes) == 2 and said in MASKS:
        return _with_masks(model, shapes, height, width, len(model.metadata.labels))
    if len(shapes) == 2:
        return _two(shapes, _places(height, width), sure)
    return None


def _single(
    model: ModelFile, shapes: Mapping[str, tuple[int, ...]], height: int, width: int, sure: bool
) -> Detector | None:  # fmt: skip
    """Everything in one output, decoded or not."""
    (points, values), named = model.metadata.points, len(model.metadata.labels)
    ((output, shape),) = shapes.items()
    name, said, places = output if len(model.outputs) > 1 else "", f"{output} {list(shape)}", _places(height, width)
    if sure and is_detr(model.metadata):
        return _detr(name, said, shape, named)
    plain = _without(shape, points * values, places)
    found = _one(name, said, plain, places, named, sure)
    if found is None:
        strides, anchors = places.get(shape[0], ((), 0)) if shape else ((), 0)
        raw = raw_rows(model, name, said, shape, strides, named) if anchors == 1 and not points else None
        return None if raw is None else Detector(raw.layout, raw.labels, raw.sure, raw.why)
    if points and isinstance(found.layout, Rows | Final):
        layout = msgspec.structs.replace(found.layout, points=points, point_values=2 if values == 2 else 3)
        found = replace(found, layout=layout, why=f"{found.why}, {points} points")
    if model.runtime == "tflite" and isinstance(found.layout, Rows | Final):
        # Such exporters divide boxes by the picture's size in TFLite files.
        why = found.why.replace("in pixels", "from 0 to 1")
        return replace(found, layout=msgspec.structs.replace(found.layout, normalised=True), why=why)
    return found


def _detr(name: str, said: str, shape: tuple[int, ...], named: int) -> Detector | None:
    """RT-DETR by ultralytics: shares by their middle; finished, or by earlier versions with a score for each label."""
    if len(shape) == 2 and shape[1] == SIDES + 2 and named != 2:
        layout = Final(rows=name, middles=True, normalised=True)
        return Detector(layout, 0, True, f"{said} holds finished boxes: middle, width and height from 0 to 1, score, label")
    if len(shape) == 2 and shape[1] == SIDES + named:
        what = f"{said} holds rows: middle, width and height from 0 to 1, scores"
        return Detector(Rows(rows=name, normalised=True), named, True, what)
    return None


def point_names(layout: Layout, model: ModelFile, given: Sequence[str]) -> tuple[list[str], str]:
    """The names of a box's points, as given, as the file has them, or usual; [] without points. And whose they are, in words.

    Raises UsageError where another number of them is given.
    """
    count = layout.points if isinstance(layout, Rows | Final | Priors | Pose) else 0
    if given and len(given) != count:
        raise UsageError(f"--points: {len(given)} names, and boxes of this layout have {count} points; give as many")
    if given or not count:
        return list(given), "as said"
    if len(model.metadata.point_names) == count:
        return list(model.metadata.point_names), "from the file"
    if count in USUAL_NAMES:
        whose = "person's, as COCO orders them" if count == PERSON_POINTS else f"{USUAL_SUBJECTS[count]}'s in the usual order"
        return list(USUAL_NAMES[count]), f"taken as a {whose} (--points names them)"
    return [f"point {number}" for number in range(1, count + 1)], "without names (--points names them)"


def subjects_of(layout: Layout) -> list[str]:
    """The usual label of poses with so many points; [] of boxes, and where none is usual."""
    return [USUAL_SUBJECTS[layout.points]] if isinstance(layout, Pose) and layout.points in USUAL_SUBJECTS else []


def labels_of(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many labels the layout finds in outputs of these shapes; None where it has numbers of labels, or does not fit at all."""

    def last(name: str, channels: str = "last") -> int | None:
        shape = shapes.get(name) or (next(iter(shapes.values())) if not name and len(shapes) == 1 else None)
        return None if shape is None or len(shape) < 2 else shape[-1] if channels == "last" else shape[0]

    taken = 0
    if isinstance(layout, Pose):
        return 1
    if isinstance(layout, Rows):
        taken = SIDES + layout.objectness + layout.points * layout.point_values + layout.coefficients
        width = last(layout.rows, layout.channels)
    elif isinstance(layout, Distances):
        width = last(layout.scores, layout.channels)
        taken = SIDES * max(1, layout.bins) if layout.boxes == layout.scores else 0
    elif isinstance(layout, Grid):
        width, taken = last(layout.rows), SIDES + 1
    elif isinstance(layout, Priors):
        width, taken = last(layout.scores), int(layout.background)
    elif isinstance(layout, Heatmap):
        width = last(layout.scores, layout.channels)
    else:
        return None
    return None if width is None or width <= taken else width - taken


def _places(height: int, width: int) -> dict[int, tuple[tuple[int, ...], int]]:
    """Number of rows → strides and anchors of a cell that make so many."""
    found: dict[int, tuple[tuple[int, ...], int]] = {}
    for strides in STRIDES:
        cells = sum(-(-height // stride) * -(-width // stride) for stride in strides)
        for anchors in ANCHORS:
            found.setdefault(cells * anchors, (strides, anchors))
    return found


def _without(
    shape: tuple[int, ...], behind: int, places: Mapping[int, tuple[tuple[int, ...], int]]
) -> tuple[int, ...]:  # fmt: skip
    """The shape of rows without the values of their points."""
    if not behind or len(shape) != 2:
        return shape
    first, last = shape
    columns = last in places and places[last][1] == 1 and first > behind
    return (first - behind, last) if columns else (first, last - behind)


def _one(
    name: str, said: str, shape: tuple[int, ...], places: Mapping[int, tuple[tuple[int, ...], int]], named: int, sure: bool
) -> Detector | None:
    if len(shape) != 2:
        return None
    first, last = shape
    if last == 6 and first <= MOST_FINAL and sure:
        return Detector(Final(rows=name), 0, sure, f"{said} holds finished boxes: corners, score, label")
    if last in places and first > SIDES and places[last][1] == 1 and (first - SIDES == named or not named or sure):
        what = f"{said} holds a column for each of {last} places: middle, width and height in pixels, scores"
        return Detector(Rows(rows=name, channels="first"), first - SIDES, sure, what)
    if first in places and last > SIDES + 1 and places[first][1] == 3 and (last - SIDES - 1 == named or not named or sure):
        what = f"{said} holds {first} rows: middle, width and height in pixels, objectness, scores"
        return Detector(Rows(rows=name, objectness=True), last - SIDES - 1, sure, what)
    return None


def _with_masks(
    model: ModelFile, shapes: Mapping[str, tuple[int, ...]], height: int, width: int, named: int
) -> Detector | None:  # fmt: skip
    """Rows that end in coefficients, and as many maps, which are first or last in the other output (YOLO's segmentation)."""
    rows = next((name for name, shape in shapes.items() if len(shape) == 2), None)
    maps = next((name for name, shape in shapes.items() if len(shape) == 3), None)
    if rows is None or maps is None:
        return None
    channels: Literal["first", "last"] = "first" if shapes[maps][0] == min(shapes[maps]) else "last"
    count, places = min(shapes[maps]), _places(height, width)
    found = _one(rows, f"{rows} {list(shapes[rows])}", _without(shapes[rows], count, places), places, named, True)
    if found is None or not isinstance(found.layout, Rows | Final):
        return None
    shares = model.runtime == "tflite"
    layout = msgspec.structs.replace(found.layout, coefficients=count, normalised=shares)
    inside = " (boxes from 0 to 1)" if shares else ""
    why = f"{found.why}{inside}, and {count} coefficients of a mask's prototypes, {maps} {list(shapes[maps])}"
    return replace(found, layout=layout, why=why, prototypes=maps, prototype_channels=channels)


def _two(shapes: Mapping[str, tuple[int, ...]], places: Mapping[int, tuple[tuple[int, ...], int]], sure: bool) -> Detector | None:
    """Distances and scores of cells, where the names say so: numbers alone could be anything."""
    boxes = next((n for n, s in shapes.items() if len(s) == 2 and s[1] == SIDES and s[0] in places and places[s[0]][1] == 1), "")
    scores = next((n for n, s in shapes.items() if n != boxes and len(s) == 2 and boxes and s[0] == shapes[boxes][0]), "")
    if not scores or "dist" not in boxes.lower():
        return None
    strides, _ = places[shapes[boxes][0]]
    what = f"{boxes} {list(shapes[boxes])} holds distances to the four sides in strides, {scores} scores"
    return Detector(Distances(strides=list(strides), boxes=boxes, scores=scores), shapes[scores][1], sure, what)
