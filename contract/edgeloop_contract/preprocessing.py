"""Preprocessing that cannot be in the graph: a declarative list, with one implementation for training and device.

A recording is one array: (T, C) for a time series, (H, W, C) or (H, W) for an image. The steps make samples of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.settings import NonNegativeFloat, PositiveFloat, PositiveInt

__all__ = ["Colour", "Counts", "Grayscale", "LogMel", "Pad", "Prepared", "Resize", "Step", "Window", "prepare"]

INT16 = np.iinfo(np.int16)
SILENCE_DB = -100.0


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="step"):
    pass


class Window(_Step, frozen=True, tag="window"):
    """Cut a series into windows of `length` points, `hop` points apart; a remainder at the end is left out.

    A `short` recording is refused, or padded: its first and last point are repeated on both sides.
    """

    length: PositiveInt
    hop: PositiveInt
    short: Literal["refuse", "pad"] = "refuse"

    def __call__(self, x: Array) -> Array:
        series = x[0]
        spare = self.length - len(series)
        if spare > 0 and self.short == "pad" and len(series):
            return np.pad(x, [(0, 0), (spare // 2, spare - spare // 2), *[(0, 0)] * (x.ndim - 2)], mode="edge")
        if spare > 0:
            raise DataError(f"{len(series)} points; a window needs {self.length}: send a longer recording")
        if len(series) < self.length + self.hop:
            return x[:, : self.length]
        starts = range(0, len(series) - self.length + 1, self.hop)
        return np.stack([series[s : s + self.length] for s in starts])


class Pad(_Step, frozen=True, tag="pad"):
    """Exactly `length` points: zeros on both sides of a shorter recording, the middle of a longer one."""

    length: PositiveInt

    def __call__(self, x: Array) -> Array:
        spare = self.length - x.shape[1]
        if spare <= 0:
            return x[:, -spare // 2 : -spare // 2 + self.length]
        sides = [(0, 0)] * x.ndim
        sides[1] = (spare // 2, spare - spare // 2)
        return np.pad(x, sides)


class LogMel(_Step, frozen=True, tag="log_mel"):
    """Sound to a log-mel spectrogram: (T, 1) int16 → (frames, bands, 1) uint8.

    Hann windows of `window` points every `hop`, power spectrum, triangular bands evenly spaced on the mel scale (HTK's
    2595·log10(1 + f/700)) from `low_hz` to `high_hz`, decibels below the recording's loudest value, 255 counts for `range_db`.
    """

    rate_hz: PositiveInt
    window: PositiveInt
    hop: PositiveInt
    bands: PositiveInt
    low_hz: NonNegativeFloat = 20.0
    high_hz: PositiveFloat = 4000.0
    range_db: PositiveFloat = 80.0

    def __call__(self, x: Array) -> Array:
        if x.ndim != 3 or x.shape[-1] != 1 or x.dtype != np.int16:
            raise DataError(f"sound of shape {x.shape[1:]} and type {x.dtype}; log_mel takes one channel of 16-bit samples")
        if x.shape[1] < self.window:
            raise DataError(f"{x.shape[1]} points; log_mel needs {self.window}: send a longer recording, or pad")
        frames = np.lib.stride_tricks.sliding_window_view(x[..., 0], self.window, axis=1)[:, :: self.hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        power = np.abs(np.fft.rfft(frames * (hann / 32768.0))) ** 2
        level = 10 * np.log10(np.maximum(power @ _mel_bands(self), 10 ** (SILENCE_DB / 10)))
        loudest = level.max(axis=(1, 2), keepdims=True)
        loudest = np.where(loudest > SILENCE_DB, loudest, SILENCE_DB + self.range_db)  # silence is 0 counts throughout
        below = np.maximum(level - loudest, -self.range_db)
        return np.asarray(np.rint((below / self.range_db + 1) * 255).astype(np.uint8)[..., None])


@cache
def _mel_bands(step: LogMel) -> Array:
    """(window // 2 + 1, bands): each band's triangle over the spectrum's bins."""
    low, high = (2595 * float(np.log10(1 + f / 700)) for f in (step.low_hz, step.high_hz))
    edges = np.linspace(low, high, step.bands + 2)
    hz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.arange(step.window // 2 + 1)[:, None] * step.rate_hz / step.window
    rising, falling = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2]), (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


class Counts(_Step, frozen=True, tag="counts"):
    """Physical values to int16 counts: round((value - zero) / lsb) per channel, saturating; int16 values are counts already.

    `zero`: per channel, 0 where it is left out; a sensor with a large offset (air pressure) keeps its resolution by it.
    """

    lsb: list[float]
    zero: list[float] = []

    def __post_init__(self) -> None:
        if not all(np.isfinite([*self.lsb, *self.zero])) or 0 in self.lsb:
            raise ValueError("lsb and zero must be finite numbers, and no lsb 0")
        if self.zero and len(self.zero) != len(self.lsb):
            raise ValueError(f"zero has {len(self.zero)} channels, lsb {len(self.lsb)}; give each one of both")

    def __call__(self, x: Array) -> Array:
        if x.shape[-1] != len(self.lsb):
            raise DataError(f"{x.shape[-1]} channels; counts need {len(self.lsb)}: send every channel, in order")
        if x.dtype == np.int16:
            return x
        above = x - np.asarray(self.zero) if self.zero else x
        return np.asarray(np.clip(np.rint(above / np.asarray(self.lsb)), INT16.min, INT16.max).astype(np.int16))


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


class Colour(_Step, frozen=True, tag="colour"):
    """Three channels: a grey picture three times over, of one with transparency the colours; colour pictures pass."""

    def __call__(self, x: Array) -> Array:
        image = x[..., None] if x.ndim == 3 else x
        if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
            raise DataError(f"an array of shape {x.shape[1:]}; colour takes pictures of 1, 3 (RGB) or 4 (RGBA) channels")
        return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


class Resize(_Step, frozen=True, tag="resize"):
    """Bilinear resize with half-pixel centres and no antialiasing; uint8 in, uint8 out."""

    height: PositiveInt
    width: PositiveInt

    def __call__(self, x: Array) -> Array:
        if x.ndim != 4:
            raise DataError(f"an array of shape {x.shape[1:]}; resize takes images of shape (height, width, channels)")
        if x.shape[1:3] == (self.height, self.width):
            return x
        rows, row_share = _taps(x.shape[1], self.height)
        columns, column_share = _taps(x.shape[2], self.width)
        share = row_share[:, None, None]  # only the rows that are needed become floats: a large picture has many others
        image = x[:, rows[0]].astype(np.float32) * (1 - share) + x[:, rows[1]].astype(np.float32) * share
        share = column_share[:, None]
        image = image[:, :, columns[0]] * (1 - share) + image[:, :, columns[1]] * share
        return np.asarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))


def _taps(size: int, wanted: int) -> tuple[tuple[Array, Array], Array]:
    """Both neighbours of each output position, and the share of the second."""
    position = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    return (low, np.minimum(low + 1, size - 1)), (position - low).astype(np.float32)


Step = Window | Pad | Counts | LogMel | Grayscale | Colour | Resize


class Prepared(msgspec.Struct, frozen=True):
    """Samples ready for a model: `values` (N, *sample); `indices` says which window each row is; `refused` why others are not."""

    values: Array
    indices: list[int]
    refused: dict[int, str]


def prepare(steps: Sequence[Step], recording: Array) -> Prepared:
    """Apply the list to one recording.

    A window with a missing or infinite value is refused by itself. (T,) numbers are a series of one channel. Raises DataError where
    the whole recording does not fit (too short, wrong number of channels).
    """
    if recording.dtype == object or recording.dtype.kind not in "fiu":
        raise DataError(f"values of type {recording.dtype}; send numbers")
    x = recording[None] if recording.ndim != 1 else recording[None, :, None]
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
    """The rows without NaN or infinity, their numbers, and a reason for each other row."""
    if x.dtype.kind != "f" or (finite := np.isfinite(x)).all():
        return x, list(range(len(x))), {}
    bad = ~finite.reshape(len(x), -1)
    refused = {int(i): f"{int(bad[i].sum())} of {bad[i].size} values are NaN or infinite" for i in np.flatnonzero(bad.any(1))}
    return x[~bad.any(1)], [i for i in range(len(x)) if i not in refused], refused
