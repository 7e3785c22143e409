"""Whether a detector's layout can be read from every model file of a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgeloop_contract.boxes import Distances, Final, Pose, Priors, Rows, find_boxes, outputs_of, places_of
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Detection, Manifest
from edgeloop_contract.tasks import Instances, Keypoints

__all__ = ["detection_problems"]

MAX_POSE_VALUES = 1 << 22  # of an output that says poses


def detection_problems(manifest: Manifest, task: Detection) -> Iterator[str]:
    """Whether the declared layout can be read from every model file."""
    if manifest.probe:
        return
    layout, wanted = task.decode, outputs_of(task.decode)
    if isinstance(layout, Pose):
        yield from _poses(manifest, task, layout)
        return
    if isinstance(task, Instances):
        yield from _prototypes(manifest, task)
    if isinstance(task, Keypoints):
        yield from _points(manifest, task)
    places = places_of(layout, *manifest.sample.shape[:2]) if len(manifest.sample.shape) == 3 else None
    for variant in manifest.variants:
        shapes = {spec.name: spec.shape for spec in variant.outputs}
        if len(wanted) == len(shapes) == 1:
            shapes = {wanted[0]: next(iter(shapes.values()))}
        for name in wanted:
            if name not in shapes:
                yield f"boxes need the output {name!r}, which variant {variant.name} does not give"
            elif places is not None:
                last = not isinstance(layout, Distances) or layout.channels == "last"
                found = _of_one(shapes[name])
                if len(found) != 2 or found[0 if last else 1] != places:
                    size = f"{manifest.sample.shape[0]} × {manifest.sample.shape[1]} pixels"
                    what = f"variant {variant.name} gives {name or 'an output'} of shape {shapes[name]}"
                    yield f"{what}; the layout {_tag(layout)} makes {places} rows of {size}"
                elif (values := found[1 if last else 0]) != (each := _box_values(layout, name) or values):
                    yield f"variant {variant.name} gives boxes of {values} values; the layout {_tag(layout)} has {each}"
        if isinstance(layout, Distances | Priors) and layout.scores != layout.boxes and len(shapes.get(layout.scores, ())) == 2:
            last = not isinstance(layout, Distances) or layout.channels == "last"
            labels = shapes[layout.scores][1 if last else 0] - (isinstance(layout, Priors) and layout.background)
            if labels != len(task.labels):
                yield f"variant {variant.name} gives scores of {labels} labels, the task has {len(task.labels)}"


def _box_values(layout: object, name: str) -> int | None:
    """How many values a box has in this output; None where it is not of boxes alone."""
    if not isinstance(layout, Distances | Priors) or name != layout.boxes or layout.boxes == layout.scores:
        return None
    return 4 * max(1, layout.bins) if isinstance(layout, Distances) else 4


def _points(manifest: Manifest, task: Keypoints) -> Iterator[str]:
    """Whether every model file says three values for each point of a cell, or as many in each row as the layout says."""
    layout = task.decode
    if isinstance(layout, Rows | Final):
        least = (6 if isinstance(layout, Final) else 4 + layout.objectness + len(task.labels)) + layout.points * layout.point_values
        for variant in manifest.variants:
            shapes = [spec.shape for spec in variant.outputs if spec.name == layout.rows or len(variant.outputs) == 1]
            shape = shapes[0] if shapes else []
            last = isinstance(layout, Final) or layout.channels == "last"
            found = shape[1:] if len(shape) == 3 else shape
            if len(found) == 2 and found[1 if last else 0] != least:
                yield f"variant {variant.name} gives rows of {found[1 if last else 0]} values; box, scores and points are {least}"
        return
    places = places_of(layout, *manifest.sample.shape[:2]) if len(manifest.sample.shape) == 3 else 0
    needed = [places or 0, 3 * len(task.points)]
    needed = needed if isinstance(layout, Distances) and layout.channels == "last" else needed[::-1]
    for variant in manifest.variants:
        named = next((spec.shape for spec in variant.outputs if spec.name == task.points_output), None)
        if named is None or _of_one(named) != needed:
            given = "does not give" if named is None else f"gives with shape {named}"
            why = f"{places} cells of {len(task.points)} points are needed, as {needed}"
            yield f"points need the output {task.points_output!r}, which variant {variant.name} {given}; {why}"


def _prototypes(manifest: Manifest, task: Instances) -> Iterator[str]:
    """Whether every model file gives as many prototypes as a row has coefficients, and rows of the right length."""
    layout = task.decode
    least = (6 if isinstance(layout, Final) else 4 + layout.objectness + len(task.labels)) + layout.coefficients
    last = isinstance(layout, Final) or layout.channels == "last"
    for variant in manifest.variants:
        shapes = {spec.name: spec.shape for spec in variant.outputs}
        rows = _of_one(shapes.get(layout.rows, []))
        if len(rows) == 2 and rows[1 if last else 0] != least:
            yield f"variant {variant.name} gives rows of {rows[1 if last else 0]} values; box, scores and coefficients are {least}"
        maps = shapes.get(task.prototypes)
        maps = maps[1:] if maps is not None and len(maps) == 4 and maps[0] == 1 else maps
        if maps is None or len(maps) != 3 or maps[0 if task.prototype_channels == "first" else 2] != layout.coefficients:
            given = "does not give" if maps is None else f"gives with shape {maps}"
            why = f"{layout.coefficients} maps are needed, channels {task.prototype_channels}"
            yield f"masks need the output {task.prototypes!r}, which variant {variant.name} {given}; {why}"


def _poses(manifest: Manifest, task: Detection, layout: Pose) -> Iterator[str]:
    """Whether every model file's outputs can be read as these poses: zeros of their shapes are."""
    if len(task.labels) != 1:
        yield f"poses without boxes have one label, and the task has {len(task.labels)}"
    if len(manifest.sample.shape) != 3 or min(manifest.sample.shape) < 1:
        return
    wanted = outputs_of(layout)
    for variant in manifest.variants:
        read = [spec for spec in variant.outputs if spec.name in wanted or len(variant.outputs) == 1]
        if any(min(spec.shape, default=1) < 1 or math.prod(spec.shape) > MAX_POSE_VALUES for spec in read):
            yield f"variant {variant.name}: poses are read from outputs of 1 to {MAX_POSE_VALUES:,} values"
            continue
        zeros = {spec.name: np.zeros(spec.shape, np.float32) for spec in read}
        try:
            find_boxes(layout, zeros, *manifest.sample.shape[:2], score_threshold=0.0, iou_threshold=1.0, most=1)
        except DataError as error:
            yield f"variant {variant.name}: {error}"


def _of_one(shape: list[int]) -> list[int]:
    """The shape of one sample's rows: a leading 1 of an output without a batch dimension says nothing."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _tag(layout: object) -> str:
    return str(layout.__struct_config__.tag)  # type: ignore[attr-defined]
