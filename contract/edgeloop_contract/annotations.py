"""What a person says of one sample beyond a single label: boxes, masks, quantities, several labels; in pixels of the sample."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgeloop_contract.field_types import Number, Short

__all__ = [
    "MAX_ANNOTATED_BOXES",
    "MAX_ANNOTATED_POINTS",
    "MAX_RUNS",
    "AnnotatedBox",
    "AnnotatedMask",
    "AnnotatedPoint",
    "Annotation",
    "BoxMask",
]

MAX_ANNOTATED_BOXES = 1000
MAX_ANNOTATED_POINTS = 1000  # of one box
MAX_MASK_LABELS = 255
MAX_RUNS = 200_000  # run lengths of one mask
MAX_VALUES = 1000
Run = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


AnnotatedPoint = tuple[Number, Number, Literal[0, 1, 2]]  # x, y, and 0 (not known: x and y say nothing), 1 (hidden) or 2 (visible)


class BoxMask(_Part, frozen=True):
    """The pixels of a box's thing: COCO's uncompressed run lengths over a sample of `size` = height, width (`masks.mask_of`)."""

    size: tuple[Run, Run]
    counts: Annotated[list[Run], msgspec.Meta(max_length=MAX_RUNS)]

    def __post_init__(self) -> None:
        _check_filled(self.size, self.counts)


class AnnotatedBox(_Part, frozen=True, omit_defaults=True):
    """`box`: left, top, right and bottom edge. `score`: of a model's answer; None: a person drew it.

    `points`: all of them in the model's order, of a model that finds points; None: nothing is said of them. `mask`: of a model that
    finds masks of things; None: nothing is said of it.
    """

    label: Short
    box: tuple[Number, Number, Number, Number]
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    points: Annotated[list[AnnotatedPoint], msgspec.Meta(max_length=MAX_ANNOTATED_POINTS)] | None = None
    mask: BoxMask | None = None

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (left < right and top < bottom):
            raise ValueError("a box has its left edge before its right one, and its top above its bottom, in pixels")


class AnnotatedMask(_Part, frozen=True):
    """The pixels of one label: COCO's uncompressed run lengths over a sample of `size` = height, width (`masks.mask_of`)."""

    label: Short
    size: tuple[Run, Run]
    counts: Annotated[list[Run], msgspec.Meta(max_length=MAX_RUNS)]

    def __post_init__(self) -> None:
        _check_filled(self.size, self.counts)


def _check_filled(size: tuple[int, int], counts: list[int]) -> None:
    if sum(counts) != size[0] * size[1]:
        raise ValueError("run lengths must fill the mask: their sum is its height times its width")


class Annotation(_Part, frozen=True, omit_defaults=True):
    """Exactly one of these, by the model's task; an empty list says that there is nothing.

    `boxes`: detection, keypoints and instances. `masks`: segmentation; pixels in no mask have the background's label, or none.
    `values`: regression, one for each quantity, in its unit. `labels`: multilabel, those that hold.
    """

    boxes: Annotated[list[AnnotatedBox], msgspec.Meta(max_length=MAX_ANNOTATED_BOXES)] | None = None
    masks: Annotated[list[AnnotatedMask], msgspec.Meta(max_length=MAX_MASK_LABELS)] | None = None
    values: Annotated[list[Number], msgspec.Meta(max_length=MAX_VALUES)] | None = None
    labels: Annotated[list[Short], msgspec.Meta(max_length=MAX_VALUES)] | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.boxes, self.masks, self.values, self.labels)) != 1:
            raise ValueError("an annotation is one of boxes, masks, values and labels")
