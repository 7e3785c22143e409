"""Preprocessing that cannot live in the graph: a declarative list, and its only implementation, for training and device.

A recording is one array: (T, C) for a time series, (H, W, C) or (H, W) for an image. The steps make samples of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeloop_contract.errors import DataError

Array = npt.NDArray[Any]
Positive = Annotated[int, msgspec.Meta(ge=1)]
INT16 = np.iinfo(np.int16)


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="step"):
    pass


class Window(_Step, frozen=True, tag="window"):
    """Cut a series into windows of `length` points, `hop` points apart; a remainder at the end is left out."""

    length: Positive
    hop: Positive

    def __call__(self, x: Array) -> Array:
        series = x[0]
        if len(series) < self.length:
            raise DataError(f"{len(series)} points; a window needs {self.length}: send a longer recording")
        starts = range(0, len(series) - self.length + 1, self.hop)
        return np.stack([series[s : s + self.length] for s in starts])


class Counts(_Step, frozen=True, tag="counts"):
    """Physical values to the int16 counts of the sensor: round(value / lsb) per channel, saturating."""

    lsb: list[float]

    def __call__(self, x: Array) -> Array:
        if x.shape[-1] != len(self.lsb):
            raise DataError(f"{x.shape[-1]} channels; counts need {len(self.lsb)}: send every channel, in order")
        if x.dtype == np.int16:
            return x
        return np.asarray(np.clip(np.rint(x / np.asarray(self.lsb)), INT16.min, INT16.max).astype(np.int16))


class Grayscale(_Step, frozen=True, tag="grayscale"):
    """Colour to one channel with the luma weights of ITU-R BT.601, in integers; one-channel images pass."""

    def __call__(self, x: Array) -> Array:
        if x.ndim == 3:
            return x[..., None]
        if x.shape[-1] == 1:
            return x
        if x.shape[-1] not in (3, 4):
            raise DataError(f"{x.shape[-1]} channels; grayscale takes 1, 3 (RGB) or 4 (RGBA)")
        weights = np.array([299, 587, 114], dtype=np.uint32)
        return ((x[..., :3].astype(np.uint32) @ weights + 500) // 1000).astype(np.uint8)[..., None]


class Resize(_Step, frozen=True, tag="resize"):
    """Bilinear resize with half-pixel centres and no antialiasing; uint8 in, uint8 out."""

    height: Positive
    width: Positive

    def __call__(self, x: Array) -> Array:
        if x.ndim != 4:
            raise DataError(f"an array of shape {x.shape[1:]}; resize takes images of shape (height, width, channels)")
        if x.shape[1:3] == (self.height, self.width):
            return x
        rows, row_share = _taps(x.shape[1], self.height)
        columns, column_share = _taps(x.shape[2], self.width)
        image = x.astype(np.float32)
        share = row_share[:, None, None]
        image = image[:, rows[0]] * (1 - share) + image[:, rows[1]] * share
        share = column_share[:, None]
        image = image[:, :, columns[0]] * (1 - share) + image[:, :, columns[1]] * share
        return np.asarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))


def _taps(size: int, wanted: int) -> tuple[tuple[Array, Array], Array]:
    """Both neighbours of each output position, and the share of the second."""
    position = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    return (low, np.minimum(low + 1, size - 1)), (position - low).astype(np.float32)


Step = Window | Counts | Grayscale | Resize


@dataclass(frozen=True)
class Prepared:
    """Samples ready for a model: `values` (N, *sample); `indices` says which window each row is; `refused` why others are not."""

    values: Array
    indices: list[int]
    refused: dict[int, str]


def prepare(steps: Sequence[Step], recording: Array) -> Prepared:
    """Apply the list to one recording.

    A window with a missing or infinite value is refused by itself. Raises DataError where the whole recording does
    not fit (too short, wrong number of channels).
    """
    if recording.dtype == object or recording.dtype.kind not in "fiu":
        raise DataError(f"values of type {recording.dtype}; send numbers")
    x = recording[None]
    refused: dict[int, str] = {}
    indices: list[int] | None = None
    for step in (*steps, None):
        if indices is None and not isinstance(step, Window):
            x, indices, refused = _finite(x)
        if step is not None and len(x):
            x = step(x)
    assert indices is not None
    return Prepared(x, indices, refused)


def _finite(x: Array) -> tuple[Array, list[int], dict[int, str]]:
    """Only the rows without NaN or infinity, their numbers, and a reason for each of the others."""
    if x.dtype.kind != "f":
        return x, list(range(len(x))), {}
    bad = ~np.isfinite(x).reshape(len(x), -1)
    refused = {int(i): f"{int(bad[i].sum())} of {bad[i].size} values are NaN or infinite" for i in np.flatnonzero(bad.any(1))}
    return x[~bad.any(1)], [i for i in range(len(x)) if i not in refused], refused
