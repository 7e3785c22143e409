"""What people said of stored samples, as labels in the form of the model's task; what cannot be used is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeloop_contract.annotations import AnnotatedBox, Annotation
from edgeloop_contract.arrays import Array
from edgeloop_contract.masks import NOWHERE, mask_of
from edgeloop_contract.sample_messages import StoredSample
from edgeloop_contract.tasks import (
    Anomaly,
    Classification,
    Detection,
    Keypoints,
    Multilabel,
    Regression,
    Segmentation,
    Task,
    names_of,
)
from edgeloop_pipeline.data.boxes import LEAST_PIXELS, padded, values_of

__all__ = ["TASKS", "SampleLabels", "labels_of"]

TASKS = (
    "classification",
    "multilabel",
    "regression",
    "anomaly",
    "detection",
    "keypoints",
    "segmentation",
)  # that learn from the field
MAX_NAMED = 5


@dataclass
class _LeftOut:
    """Counts by reason, and which labels the model does not know."""

    samples: Counter[str] = field(default_factory=Counter)
    boxes: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        found = [f"{_count(count, 'labelled sample')} left out: {why}" for why, count in self.samples.most_common()]
        if self.boxes:
            found.append(f"{_count(self.boxes, 'box', 'es')} left out: outside of the sample")
        if self.unknown:
            named = ", ".join(sorted(self.unknown)[:MAX_NAMED]) + ", …" * (len(self.unknown) > MAX_NAMED)
            found.append(f"{_count(self.unknown.total(), 'label')} left out, which the model does not know: {named}")
        return found


@dataclass(frozen=True)
class SampleLabels:
    """Labels of the samples `rows` that have some, as in `field_data.Field`, whose numbers stand for `names`.

    `notes`: what was left out, a line each.
    """

    rows: list[int]
    labels: Array
    names: list[str]
    notes: list[str]


def labels_of(samples: Sequence[StoredSample], task: Task) -> SampleLabels:
    """The labels of samples of one shape. `task`: of the model that answered them."""
    left, names = _LeftOut(), names_of(task)
    if isinstance(task, Classification | Anomaly):
        rows = [i for i, sample in enumerate(samples) if sample.annotation is None or sample.label]
        left.samples.update(["it has no label, which this model needs"] * (len(samples) - len(rows)))
        texts = [str(samples[i].label) for i in rows]
        left.unknown.update(text for i, text in zip(rows, texts, strict=True) if samples[i].label and text not in names)
        return SampleLabels(rows, np.array(texts, dtype=str), [], left.lines())
    maker: Callable[[StoredSample, Annotation], Any]
    if isinstance(task, Regression):
        maker, wanted = lambda sample, said: _values(said, len(names), left), "values"
    elif isinstance(task, Multilabel):
        maker, wanted = lambda sample, said: _row(said, names, left), "labels"
    elif isinstance(task, Detection):
        points = len(task.points) if isinstance(task, Keypoints) else 0
        maker, wanted = lambda sample, said: _boxes(sample, said, names, points, left), "boxes"
    elif isinstance(task, Segmentation):
        maker, wanted = lambda sample, said: _mask(sample, said, task, left), "masks"
    else:
        raise TypeError(type(task).__name__)
    made = {}
    for i, sample in enumerate(samples):
        if sample.annotation is None or getattr(sample.annotation, wanted) is None:
            left.samples[f"it has no {wanted}, which this model needs"] += 1
        elif wanted in ("boxes", "masks") and len(sample.shape) != 3:
            left.samples["it is no picture, as this model's samples are"] += 1
        elif (label := maker(sample, sample.annotation)) is not None:
            made[i] = label
    rows = list(made)
    if isinstance(task, Detection):
        labels = padded(list(made.values()), max([1, *(len(row) for row in made.values())]))
        return SampleLabels(rows, labels, names, left.lines())
    return SampleLabels(rows, np.stack(list(made.values())) if made else np.zeros(0), names, left.lines())


def _row(said: Annotation, names: list[str], left: _LeftOut) -> Array:
    """For each label, 1 where it holds; the others do not."""
    given = said.labels or []
    left.unknown.update(label for label in given if label not in names)
    return np.array([name in given for name in names], np.uint8)


def _values(said: Annotation, count: int, left: _LeftOut) -> Array | None:
    given = said.values or []
    if len(given) != count:
        left.samples[f"it has {len(given)} values, and the model estimates {count}"] += 1
        return None
    return np.array(given, np.float64)


def _boxes(sample: StoredSample, said: Annotation, names: list[str], points: int, left: _LeftOut) -> Array:
    """Rows of label, x1, y1, x2, y2, cut off at the sample's edges, and of each point x, y, and above 0 where it is known."""
    height, width = sample.shape[:2]
    rows = []
    for box in said.boxes or []:
        if box.label not in names:
            left.unknown[box.label] += 1
            continue
        x1, x2 = np.clip(box.box[0::2], 0, width)
        y1, y2 = np.clip(box.box[1::2], 0, height)
        if x2 - x1 < LEAST_PIXELS or y2 - y1 < LEAST_PIXELS:
            left.boxes += 1
            continue
        rows.append([names.index(box.label), x1, y1, x2, y2, *_points(box, points, height, width)])
    return np.array(rows, np.float32).reshape(-1, values_of(points))


def _points(box: AnnotatedBox, count: int, height: int, width: int) -> list[float]:
    """Those of another version of the model, and those outside of the sample, are not known."""
    given = box.points if box.points and len(box.points) == count else [(0.0, 0.0, 0)] * count
    known = [state and 0 <= x <= width and 0 <= y <= height for x, y, state in given]
    return [value for there, point in zip(known, given, strict=True) for value in (point if there else (0.0, 0.0, 0.0))]


def _mask(sample: StoredSample, said: Annotation, task: Segmentation, left: _LeftOut) -> Array | None:
    """The number of each pixel's label. A pixel in no mask is background, where the model has one; later masks lie on top."""
    size = tuple(sample.shape[:2])
    if odd := next((mask for mask in said.masks or [] if tuple(mask.size) != size), None):
        left.samples[f"its mask has {odd.size[0]} × {odd.size[1]} pixels, the sample {size[0]} × {size[1]}"] += 1
        return None
    grid = np.full(size, task.labels.index(task.background) if task.background else NOWHERE, np.uint8)
    for mask in said.masks or []:
        if mask.label not in task.labels:
            left.unknown[mask.label] += 1
        grid[mask_of(mask.counts, *size)] = task.labels.index(mask.label) if mask.label in task.labels else NOWHERE
    return grid


def _count(number: int, what: str, ending: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else ending}"
