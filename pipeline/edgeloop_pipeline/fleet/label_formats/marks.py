"""What a file of another tool says of a sample, and what the hub is told of it: in pixels of the sample, whatever the tool uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, AnnotatedPoint, Annotation, BoxMask
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE, run_lengths
from edgeloop_contract.sample_messages import LabelAssignment, SampleAnnotations

DIGITS = 4  # of a pixel
MAX_EDGE = 1e9
MAX_PIXELS = 1 << 26  # of a mask: a file may state any size
ROUNDING = 1.0  # pixels by which a tool's rounding may put an edge outside


@dataclass(frozen=True)
class Mark:
    """One thing that somebody marked: a label, with a box, polygons (x, y, x, y, …), a mask (height, width) bool, or none of these.

    `side`: width and height of the picture in the units of box and polygons: its pixels, (100, 100) for percent, (1, 1) for shares;
    None: they are in pixels of the sample. `points`: of a box, x, y (in these units) and 0, 1 or 2 as of `AnnotatedBox`,
    by the names `point_names`, or in the model's order.
    """

    label: str
    side: tuple[float, float] | None = (1.0, 1.0)
    box: tuple[float, float, float, float] | None = None
    polygons: Sequence[Sequence[float]] = ()
    mask: Array | None = None
    points: Sequence[tuple[float, float, float]] | None = None
    point_names: Sequence[str] = ()


@dataclass(frozen=True)
class Marks:
    """Everything that a file says of one sample by one person. `values`: of a regression, by quantity, or as value_0 and so on."""

    device: str
    key: str
    marks: list[Mark] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)


def assignments(said: Marks, known: SampleAnnotations, left_out: Counter[str]) -> list[LabelAssignment]:
    """What to tell the hub; [] where nothing that was marked is left. `left_out`: counts what says nothing, in words.

    Raises DataError for what does not fit the sample.
    """
    where = f"{said.device}-{said.key}"
    if not known.part:
        return [LabelAssignment(said.device, said.key, mark.label) for mark in said.marks]
    if known.part == "values":
        given = [said.values.get(name, said.values.get(f"value_{number}")) for number, name in enumerate(known.names)]
        values = [value for value in given if value is not None]
        if len(values) < len(given):
            missing = known.names[given.index(None)]
            raise DataError(f"{where}: no number for {missing!r}; {known.model} has {', '.join(known.names)}")
        annotation = Annotation(values=values)
        return [LabelAssignment(said.device, said.key, annotation=annotation)]
    if len(known.shape) < 2:
        raise DataError(f"{where}: a sample of shape {known.shape} is no picture")
    height, width = known.shape[:2]
    names = set(known.names) | ({known.background} if known.background else set())
    for mark in said.marks:
        if mark.label not in names:
            raise DataError(f"{where}: {known.model} knows no label {mark.label[:100]!r}; there is {', '.join(known.names[:50])}")
    if known.part == "labels":
        annotation = Annotation(labels=list(dict.fromkeys(mark.label for mark in said.marks)))
    elif known.part == "boxes":
        boxes = [_box(mark, height, width, where) for mark in said.marks]
        left_out["boxes without area: left out"] += boxes.count(None)
        placed = [
            msgspec.structs.replace(box, points=_placed(mark, known, where), mask=_box_mask(mark, known, where))
            for box, mark in zip(boxes, said.marks, strict=True) if box is not None
        ]  # fmt: skip
        if known.points:
            left_out["boxes without points: kept, their points are not known"] += sum(box.points is None for box in placed)
        annotation = Annotation(boxes=placed)
    else:
        annotation = Annotation(masks=_masks(said.marks, known, where))
    things = any(mark.label != known.background for mark in said.marks)
    if things and not (annotation.labels or annotation.boxes or annotation.masks):  # somebody saw something there
        left_out["pictures in which no mark has an area: they stay open"] += 1
        return []
    return [LabelAssignment(said.device, said.key, annotation=annotation)]


def _box(mark: Mark, height: int, width: int, where: str) -> AnnotatedBox | None:
    """In pixels of the sample; of a polygon or a mask what encloses it. None: it has no area."""
    edges = mark.box
    (wide, tall) = mark.side or (width, height)
    if mark.polygons:
        points = np.concatenate([_points(polygon, where) for polygon in mark.polygons])
        edges = (*points.min(0).tolist(), *points.max(0).tolist())
    elif edges is None and mark.mask is not None:
        rows, columns = np.flatnonzero(mark.mask.any(1)), np.flatnonzero(mark.mask.any(0))
        if not len(rows):
            return None
        edges, (tall, wide) = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), mark.mask.shape
    if edges is None:
        raise DataError(f"{where}: {mark.label!r} has no box")
    scaled = np.array(edges, float) / [wide, tall, wide, tall] * [width, height, width, height]
    inside = np.clip(scaled, 0, [width, height, width, height])
    if not np.isfinite(scaled).all() or np.abs(scaled - inside).max() > ROUNDING:
        edges_text = ", ".join(f"{edge:g}" for edge in scaled)
        raise DataError(f"{where}: a box of {mark.label!r} ({edges_text}) reaches out of the sample of {width} × {height} pixels")
    left, top, right, bottom = (float(edge) for edge in inside.round(DIGITS))
    return AnnotatedBox(mark.label, (left, top, right, bottom)) if left < right and top < bottom else None


def _placed(mark: Mark, known: SampleAnnotations, where: str) -> list[AnnotatedPoint] | None:
    """The points of a box in the model's order, in pixels of the sample. Raises DataError."""
    if mark.points is None or not known.points:
        return None
    names = mark.point_names or known.points
    if len(names) != len(mark.points):
        raise DataError(f"{where}: {mark.label!r} has {len(mark.points)} points; there are {', '.join(names[:50])}")
    if other := next((name for name in names if name not in known.points), ""):
        raise DataError(f"{where}: {known.model} has no point {other[:100]!r}; it has {', '.join(known.points[:50])}")
    height, width = known.shape[:2]
    wide, tall = mark.side or (width, height)
    found: dict[str, AnnotatedPoint] = {}
    for name, (x, y, state) in zip(names, mark.points, strict=True):
        at = np.array([x / wide * width, y / tall * height])
        inside = np.clip(at, 0, [width, height])
        if state not in (0, 1, 2):
            raise DataError(f"{where}: the point {name!r} is {state:g}; it is 0 (not known), 1 (hidden) or 2 (visible)")
        if state and not np.abs(at - inside).max() <= ROUNDING:
            raise DataError(
                f"{where}: the point {name!r} ({at[0]:g}, {at[1]:g}) lies outside of the sample of {width} × {height} pixels"
            )
        left, top = inside.round(DIGITS).tolist()
        if state:
            found[name] = (left, top, 1 if state == 1 else 2)
    return [found.get(name, (0.0, 0.0, 0)) for name in known.points]


def _box_mask(mark: Mark, known: SampleAnnotations, where: str) -> BoxMask | None:
    """The pixels of a box's thing in the sample, where model and mark have some; a mask of another size by the nearest pixel."""
    height, width = known.shape[:2]
    pixels = _pixels(mark, height, width, where) if known.masks_of_boxes else None
    if pixels is None or not pixels.any():
        return None
    if pixels.shape != (height, width):
        rows, columns = ((np.arange(side) * have) // side for side, have in zip((height, width), pixels.shape, strict=True))
        pixels = pixels[rows[:, None], columns]
    return BoxMask((height, width), run_lengths(pixels))


def _pixels(mark: Mark, height: int, width: int, where: str) -> Array | None:
    """The pixels of polygons in the sample, or the mask as it is; None of a mark without them."""
    if not mark.polygons:
        return mark.mask
    polygons = [_points(polygon, where) / (mark.side or (width, height)) * [width, height] for polygon in mark.polygons]
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        raise DataError(f"{where}: a polygon of {mark.label!r} in a picture whose size is no number")
    return filled(polygons, height, width)


def _masks(marks: Sequence[Mark], known: SampleAnnotations, where: str) -> list[AnnotatedMask]:
    """Each pixel has one label: where marks overlap, the later one's."""
    height, width = known.shape[:2]
    numbers = np.full((height, width), NOWHERE, np.uint8)
    for mark in marks:
        pixels = _pixels(mark, height, width, where)
        if pixels is None:
            raise DataError(f"{where}: {mark.label!r} has a box alone; {known.model} needs masks: draw polygons, or paint")
        if pixels.shape != (height, width):
            raise DataError(
                f"{where}: a mask of {pixels.shape[1]} × {pixels.shape[0]} pixels; the sample has {width} × {height}: "
                "export it in the picture's own size"
            )
        numbers[pixels] = known.names.index(mark.label) if mark.label in known.names else NOWHERE
    return [
        AnnotatedMask(name, (height, width), run_lengths(numbers == number))
        for number, name in enumerate(known.names) if (numbers == number).any()
    ]  # fmt: skip


def _points(polygon: Sequence[float], where: str) -> Array:
    """The corners (n, 2) of a polygon. Raises DataError."""
    try:
        numbers = np.asarray(polygon, float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a polygon that is not of numbers ({error})") from error
    if numbers.ndim != 1 or len(numbers) < 6 or len(numbers) % 2 or not (np.abs(numbers) < MAX_EDGE).all():
        raise DataError(f"{where}: a polygon of {numbers.size} numbers; it needs x and y of three corners or more")
    return numbers.reshape(-1, 2)


def filled(polygons: Sequence[Array], height: int, width: int) -> Array:
    """The pixels (height, width) whose middle lies inside one of these polygons (n, 2), in pixels."""
    union = np.zeros((height, width), bool)
    for polygon in polygons:
        left, top = np.clip(np.floor(polygon.min(0)), 0, [width, height]).astype(int).tolist()
        right, bottom = np.clip(np.ceil(polygon.max(0)), 0, [width, height]).astype(int).tolist()
        rows, columns = np.arange(top, bottom) + 0.5, np.arange(left, right) + 0.5
        inside = np.zeros((len(rows), len(columns)), bool)
        for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y1 != y2:
                crosses = (rows >= min(y1, y2)) & (rows < max(y1, y2))
                at = x1 + (rows - y1) * (x2 - x1) / (y2 - y1)
                inside ^= crosses[:, None] & (columns[None, :] >= at[:, None])
        union[top:bottom, left:right] |= inside
    return union
