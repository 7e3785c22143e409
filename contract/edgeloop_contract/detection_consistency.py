"""Whether a detector's layout can be read from every model file of a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgeloop_contract.boxes import Distances, Final, Pose, Priors, Rows, find_boxes, outputs_of, places_of
from edgeloop_contract.errors import DataError
from edgeloop_contract.instances import without_ones
from edgeloop_contract.manifest import Detection, Manifest
from edgeloop_contract.tasks import Instances, Keypoints

__all__ = ["detection_problems"]

MAX_VALUES = 1 << 22  # of an output that is tried


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
        if isinstance(layout, Rows | Final) and all(name in shapes for name in wanted):
            yield from _readable(layout, {name: shapes[name] for name in wanted}, manifest, variant.name)
        if isinstance(layout, Distances | Priors):
            yield from _labels(layout, shapes, len(task.labels), variant.name)


def _labels(layout: Distances | Priors, shapes: dict[str, list[int]], wanted: int, variant: str) -> Iterator[str]:
    """Whether an output of scores alone has one for each label."""
    if layout.scores == layout.boxes or len(shapes.get(layout.scores, ())) != 2:
        return
    last = not isinstance(layout, Distances) or layout.channels == "last"
    labels = shapes[layout.scores][1 if last else 0] - (isinstance(layout, Priors) and layout.background)
    if labels != wanted:
        yield f"variant {variant} gives scores of {labels} labels, the task has {wanted}"


def _readable(layout: Rows | Final, shapes: dict[str, list[int]], manifest: Manifest, variant: str) -> Iterator[str]:
    """Whether outputs of these shapes can be read as rows at all: zeros of them are."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    if len(manifest.sample.shape) != 3 or not 0 < min(sizes) <= max(sizes) <= MAX_VALUES:
        return
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    try:
        find_boxes(layout, zeros, *manifest.sample.shape[:2], score_threshold=1.0, iou_threshold=1.0, most=1)
    except DataError as error:
        yield f"variant {variant}: {error}"


def _box_values(layout: object, name: str) -> int | None:
    """How many values a box has in this output; None where it is not of boxes alone."""
    if not isinstance(layout, Distances | Priors) or name != layout.boxes or layout.boxes == layout.scores:
        return None
    return 4 * max(1, layout.bins) if isinstance(layout, Distances) else layout.columns


def _points(manifest: Manifest, task: Keypoints) -> Iterator[str]:
    """Whether every model file says three values for each point of a cell, or as many in each row as the layout says."""
    layout = task.decode
    if isinstance(layout, Rows | Final):
        least = _row_values(layout, task)
        for variant in manifest.variants:
            shapes = [spec.shape for spec in variant.outputs if spec.name == layout.rows or len(variant.outputs) == 1]
            shape = shapes[0] if shapes else []
            last = isinstance(layout, Final) or layout.channels == "last"
            found = shape[1:] if len(shape) == 3 else shape
            if len(found) == 2 and found[1 if last else 0] != least:
                yield f"variant {variant.name} gives rows of {found[1 if last else 0]} values; box, scores and points are {least}"
        return
    if isinstance(layout, Priors):  # their boxes' output has them, and is looked at as a whole
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


def _row_values(layout: Rows | Final, task: Detection) -> int:
    """How many values a row has."""
    if isinstance(layout, Final):
        return layout.columns
    scores = 0 if layout.scores else len(task.labels)
    return 4 + layout.objectness + scores + layout.points * layout.point_values + layout.coefficients


def _prototypes(manifest: Manifest, task: Instances) -> Iterator[str]:
    """Whether every model file gives as many prototypes as a row has coefficients, and rows of the right length."""
    layout = task.decode
    least = _row_values(layout, task)
    last = isinstance(layout, Final) or layout.channels == "last"
    for variant in manifest.variants:
        shapes = {spec.name: spec.shape for spec in variant.outputs}
        rows = _of_one(shapes.get(layout.rows, []))
        if len(rows) == 2 and rows[1 if last else 0] != least:
            yield f"variant {variant.name} gives rows of {rows[1 if last else 0]} values; box, scores and coefficients are {least}"
        maps = shapes.get(task.prototypes)
        maps = list(without_ones(tuple(maps))) if maps is not None else None
        count = layout.coefficients or (rows[0 if last else 1] if len(rows) == 2 else 0)
        if maps is None or len(maps) != 3 or maps[0 if task.prototype_channels == "first" else 2] != count:
            given = "does not give" if maps is None else f"gives with shape {maps}"
            why = f"{count} maps are needed, channels {task.prototype_channels}"
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
        if any(min(spec.shape, default=1) < 1 or math.prod(spec.shape) > MAX_VALUES for spec in read):
            yield f"variant {variant.name}: poses are read from outputs of 1 to {MAX_VALUES:,} values"
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
