"""The types of data: a project's `data.py` returns `Splits`; the shared preprocessing makes `Samples` from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.tasks import Detection, Segmentation
from edgeloop_exporters.named_inputs import NamedInput
from edgeloop_exporters.named_outputs import Output
from edgeloop_pipeline.data.sequence_labels import SequenceLabels

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Raw recordings with their labels. `recordings`: one array each, or one array of all (first axis).

    `labels`: (N,) indices of the names, or the names; regression: (N,) or (N, quantities) numbers; anomaly: 0 (normal) or 1;
    detection: rows (n, 5) of each picture's boxes, as label's index, x1, y1, x2, y2 in pixels of the picture;
    multilabel: names of each recording's labels, or rows (labels,) of 1, 0 and 255 (not known);
    keypoints: such rows (n, 5 + 3 × points), with x, y and 0 (not known), 1 (hidden) or 2 (visible) for each point;
    segmentation: (height, width) numbers of the labels of each picture's pixels, 255 where the label is not known.
    `groups`: (N,) names of who or what was recorded, for intervals by group.
    """

    recordings: Sequence[Array] | Array
    labels: Any
    groups: Any = None
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Splits:
    """The data in three splits. `labels`: names of classes or quantities, or {number: name}. Nothing is chosen on `test`."""

    labels: Any
    train: Split
    validation: Split
    test: Split
    channels: tuple[str, ...] = field(default=(), kw_only=True)  # names of the recordings' channels: a device reads tables by them
    rate_hz: int = field(default=0, kw_only=True)  # of sound, if known
    points: tuple[str, ...] = field(default=(), kw_only=True)  # names of the points of a box, of the task keypoints
    notes: tuple[str, ...] = field(default=(), kw_only=True)  # what was left out, and what else a person should know


class Data(Protocol):
    """The interface of the object that the recipe's `data: file.py:callable` returns."""

    def files(self) -> Sequence[Path]:
        """Every file that `load` reads: their digests are part of each stage's cache key."""

    def load(self) -> Splits:
        """Read the data."""


@dataclass(frozen=True)
class Samples:
    """Model inputs: `values` (N, *sample) raw counts, channels last; `recording`: the number of each sample's recording.

    `truth`: (N,) the recording's label, where `labels` are the original's answers and the data have labels too; else (0,).
    """

    values: Array
    labels: Array
    recording: Array
    groups: Array
    truth: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, rows: Array) -> Samples:
        """The samples of these rows (a mask or numbers)."""
        truth = self.truth[rows] if len(self.truth) else self.truth
        return Samples(self.values[rows], self.labels[rows], self.recording[rows], self.groups[rows], truth)


@dataclass(frozen=True)
class Statistics:
    """Mean, deviation and range per channel, over samples and positions; float64."""

    mean: Array
    std: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array, rows: int = 4096) -> Statistics:
        """The statistics of (N, ..., C), computed by blocks of rows: mapped samples may be larger than memory."""
        parts = (values[i : i + rows].reshape(-1, values.shape[-1]).astype(np.float64) for i in range(0, len(values), rows))
        shift = (
            values[:rows].reshape(-1, values.shape[-1]).astype(np.float64).mean(0)
        )  # a value near the mean, so that the squares lose no precision
        count, total, squares = 0, np.zeros_like(shift), np.zeros_like(shift)
        low, high = np.full_like(shift, np.inf), np.full_like(shift, -np.inf)
        for part in parts:
            count += len(part)
            total += (part - shift).sum(0)
            squares += ((part - shift) ** 2).sum(0)
            low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
        mean = total / count
        return cls(shift + mean, np.sqrt(np.maximum(squares / count - mean**2, 0)), low, high)


@dataclass(frozen=True)
class PreparedSplits:
    labels: tuple[str, ...]
    train: Samples
    validation: Samples
    test: Samples
    task: str = "classification"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # the recipe's mean and std
    channels: tuple[str, ...] = ()
    measure: str = ""  # what the labels are where they are an imported model's own answers; "": the data's labels
    boxes: Detection | None = None  # the task of an imported detector
    masks: Segmentation | None = None  # of an imported model that says a label for each pixel
    outputs: tuple[Output, ...] = ()  # where the labels are several outputs' answers, joined: (N, total)
    points: tuple[str, ...] = ()  # names of the points of a box
    sequence: SequenceLabels | None = None  # of an imported model that keeps state: what a recording's label says
    inputs: tuple[NamedInput, ...] = ()  # of a model with several: a sample (total, 1) has them flattened, one behind the other
    notes: tuple[str, ...] = ()  # the effects of cleaning on the recordings, in words

    @property
    def is_labelled(self) -> bool:
        """Whether somebody labelled the data, so that the metric is accuracy and not what is kept of an original."""
        return not self.measure or self.sequence is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, channels last."""
        return tuple(self.train.values.shape[1:])

    @property
    def dtype(self) -> Literal["uint8", "int16", "int32", "float32"]:
        return cast(Literal["uint8", "int16", "int32", "float32"], str(self.train.values.dtype))
