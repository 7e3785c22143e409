"""The detailed figures of each task on the test set."""

from __future__ import annotations

import msgspec


class ClassFigures(msgspec.Struct, frozen=True):
    """The figures of one class on the test set; shares from 0 to 1."""

    label: str
    count: int
    precision: float
    recall: float
    f1: float


class Detection(msgspec.Struct, frozen=True):
    """The effect of an anomaly task's threshold on the test set. `found`, `false_alarms`: shares."""

    threshold: float
    percentile: float
    normal: int
    anomalous: int
    false_alarms: float
    found: float


class QuantityFigures(msgspec.Struct, frozen=True):
    """The figures of one quantity on the test set, in its unit. `low`, `high`: the range of true values."""

    name: str
    mae: float
    rmse: float
    r2: float
    low: float
    high: float


class LabelBoxes(msgspec.Struct, frozen=True):
    """The boxes of one label on the test set. `ap`, `ap_half`: average precision at overlaps 0.5 to 0.95, and at 0.5; None without
    truths. `precision`, `recall`: from the threshold on, at an overlap of 0.5.
    """

    label: str
    truths: int
    ap: float | None
    ap_half: float | None
    precision: float
    recall: float


class SizeFigures(msgspec.Struct, frozen=True):
    """The boxes of one size on the test set, as COCO tells them apart, in pixels of the sample: below 32², to 96², and above.

    `ap`: mAP@0.5:0.95 of them; None without truths.
    """

    size: str
    truths: int
    ap: float | None


class BoxFigures(msgspec.Struct, frozen=True):
    """The figures of a detector on the test set. `threshold`: the score from which on a device answers, chosen on validation data.

    `strides`: of the network's grids, in pixels. `map_half`: mAP@0.5.
    """

    strides: list[int]
    threshold: float
    map_half: float
    labels: list[LabelBoxes]
    sizes: list[SizeFigures] = []


class PointFigures(msgspec.Struct, frozen=True):
    """One point of boxes that are found. `count`: how often it is known. `off`: the middle distance, as a share of the root of the
    box's area. `near`: the share that is off by less than a tenth of it. None where it is never known.
    """

    point: str
    count: int
    off: float | None
    near: float | None


class PointsFigures(msgspec.Struct, frozen=True):
    """The figures of points on the test set. `box_map`, `box_map_half`: of the boxes alone, by their overlap."""

    box_map: float
    box_map_half: float
    points: list[PointFigures]


class LabelMask(msgspec.Struct, frozen=True):
    """The pixels of one label on the test set. `share`: of all labelled pixels. `iou`, `dice`: None where it is never there.

    `precision`, `recall`: of pixels.
    """

    label: str
    share: float
    iou: float | None
    dice: float | None
    precision: float
    recall: float


class MaskFigures(msgspec.Struct, frozen=True):
    """The figures of a segmentation on the test set. `height`, `width`: of the network's grid.

    `dice`: mean over the labels except the background.
    """

    height: int
    width: int
    dice: float
    labels: list[LabelMask]


class LabelFigures(msgspec.Struct, frozen=True):
    """One of several labels on the test set. `count`: samples that have it. `ap`: average precision; None where no sample has it.

    `precision`, `recall`, `f1`: from the probability `threshold` on, which validation data chose.
    """

    label: str
    count: int
    ap: float | None
    threshold: float
    precision: float
    recall: float
    f1: float


class LabelsFigures(msgspec.Struct, frozen=True):
    """The figures of several labels a sample. `f1`: over all labels together. `exact`: share of samples whose labels are all right.

    `mean_count`: labels of a sample.
    """

    f1: float
    exact: float
    mean_count: float
    labels: list[LabelFigures]


class OutputFigures(msgspec.Struct, frozen=True):
    """One of a model's outputs on the test set. `kept`: by the measure. `largest`: magnitude of the original's answers there.

    `silent`: all are scores near 0.
    """

    name: str
    kept: float
    largest: float
    silent: bool


class TaskFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The detailed figures of each task. `confusion`: rows are true classes, columns answers."""

    confusion: list[list[int]] | None = None
    classes: list[ClassFigures] | None = None
    detection: Detection | None = None
    quantities: list[QuantityFigures] | None = None
    boxes: BoxFigures | None = None
    points: PointsFigures | None = None
    masks: MaskFigures | None = None
    multilabel: LabelsFigures | None = None
    outputs: list[OutputFigures] | None = None
