"""Data: what a project's `data.py` returns, and the samples that the shared preprocessing makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import Step, prepare
from edgeloop_pipeline.stacking import Stack
from edgeloop_pipeline.tasks import checked_labels

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """Raw recordings with their labels. `recordings`: one array each (or one array of them all, first axis).

    `labels`: (N,) integers; for regression (N,) or (N, quantities) numbers; for anomaly 0 (normal) or 1.
    `groups`: (N,) names of who or what was recorded, for intervals that respect it.
    """

    recordings: Sequence[Array] | Array
    labels: Array
    groups: Array | None = None
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Splits:
    """`labels`: the names of the classes, or of the quantities. Nothing is ever chosen on `test`."""

    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


class Data(Protocol):
    """What the recipe's `data: file.py:callable` must return."""

    def files(self) -> Sequence[Path]:
        """Every file that is read: their digests are part of each stage's cache key."""

    def load(self) -> Splits:
        """Read them."""


@dataclass(frozen=True)
class Samples:
    """Model inputs: `values` (N, *sample) raw counts, channels last; `recording`: which recording each came from."""

    values: Array
    labels: Array
    recording: Array
    groups: Array

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, rows: Array) -> Samples:
        """Those rows: a mask, or numbers."""
        return Samples(self.values[rows], self.labels[rows], self.recording[rows], self.groups[rows])


@dataclass(frozen=True)
class Statistics:
    """Per channel, over samples and places; float64."""

    mean: Array
    std: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array, rows: int = 4096) -> Statistics:
        """Of (N, ..., C), some rows at a time: the samples may be mapped from disk and larger than memory."""
        parts = (values[i : i + rows].reshape(-1, values.shape[-1]).astype(np.float64) for i in range(0, len(values), rows))
        shift = (
            values[:rows].reshape(-1, values.shape[-1]).astype(np.float64).mean(0)
        )  # near the mean, so that squares do not cancel
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
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and std as the recipe gives them

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample, channels last."""
        return tuple(self.train.values.shape[1:])

    @property
    def dtype(self) -> Literal["uint8", "int16", "float32"]:
        return cast(Literal["uint8", "int16", "float32"], str(self.train.values.dtype))


def prepare_splits(splits: Splits, steps: Sequence[Step], task: str = "classification") -> PreparedSplits:
    """Run the shared preprocessing over all splits. Raises DataError naming the split and the recording."""
    made = {name: _prepare(getattr(splits, name), steps, name, task, splits.labels) for name in ("train", "validation", "test")}
    shapes = {(m.values.shape[1:], m.values.dtype) for m in made.values()}
    if len(shapes) > 1:
        raise DataError(f"the splits give samples of different shapes: {shapes}; add a resize or window step")
    return PreparedSplits(splits.labels, made["train"], made["validation"], made["test"], task)


def _prepare(split: Split, steps: Sequence[Step], name: str, task: str, names: tuple[str, ...]) -> Samples:
    if len(split.recordings) == 0 or len(split.recordings) != len(split.labels):
        raise DataError(f"{name}: {len(split.recordings)} recordings and {len(split.labels)} labels; one label each is needed")
    labels = checked_labels(task, name, np.asarray(split.labels), names)
    stack, origin = Stack(), []
    for i, recording in enumerate(split.recordings):
        try:
            prepared = prepare(steps, np.asarray(recording))
            if len(prepared.values) and not prepared.refused:
                stack.append(prepared.values)
        except DataError as error:
            raise DataError(f"{name} recording {i}: {error}") from error
        if prepared.refused:
            window, reason = next(iter(prepared.refused.items()))
            raise DataError(f"{name} recording {i}, window {window}: {reason}; clean the data first")
        origin += [i] * len(prepared.indices)
    stacked = stack.all()
    if stacked.dtype not in (np.uint8, np.int16, np.float32) or stacked.ndim < 3:
        raise DataError(
            f"{name}: samples are {stacked.dtype} of shape {stacked.shape[1:]}; a model takes uint8, int16 or float32"
            " with channels last"
        )
    rows = np.asarray(origin)
    groups = np.asarray(split.groups)[rows] if split.groups is not None else rows
    return Samples(stacked, labels[rows], rows, groups)
