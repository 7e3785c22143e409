"""A part of each picture that the model sees, and which pictures changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeloop_agent.config import Camera
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["MotionGate", "Region", "region_in"]

Region = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the whole picture
CELLS, SAMPLES = 64, 4  # squares along the longer side that are compared; points along a side of each that are averaged
ADAPT_SECONDS = 4.0  # in which the background takes on most of a change


def region_in(region: Sequence[float], height: int, width: int) -> Region | None:
    """The region in pixels of a picture; None where none is asked for. Raises DataError where none of it lies in the picture."""
    if not region:
        return None
    left, top, right, bottom = region
    if max(region) <= 1:
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
    found = (math.floor(left), math.floor(top), min(math.ceil(right), width), min(math.ceil(bottom), height))
    if found[0] >= found[2] or found[1] >= found[3]:
        where = ", ".join(f"{edge:g}" for edge in region)
        raise DataError(f"source.camera.region [{where}] lies outside of a picture of {width}×{height} pixels")
    return found


class MotionGate:
    """Compares a small grey picture of each frame with a running background, and with the frame that was answered last.

    With the second, because a thing that leaves may leave behind exactly the background, and the last answer would still have it.
    """

    def __init__(self, settings: Camera) -> None:
        self._settings = settings
        self._background: Array | None = None
        self._answered: Array | None = None
        self._answered_at = self._seen_at = 0.0

    def is_still(self, picture: Array, now: float) -> bool:
        """Whether the last answer holds. `picture`: (H, W) or (H, W, C) uint8; `now`: seconds of its capture."""
        if not self._settings.min_motion:
            return False
        small = _small(picture)
        if self._background is None or self._answered is None or small.shape != self._background.shape:
            self._background = small.copy()
        else:
            moved = max(self._changed(small, self._background), self._changed(small, self._answered))
            self._background += (small - self._background) * -math.expm1(-max(0.0, now - self._seen_at) / ADAPT_SECONDS)
            if moved < self._settings.min_motion and now - self._answered_at < self._settings.max_silence_seconds:
                self._seen_at = now
                return True
        self._answered, self._answered_at, self._seen_at = small, now, now
        return False

    def _changed(self, small: Array, other: Array) -> float:
        return float((np.abs(small - other) > self._settings.motion_levels).mean())


def _small(picture: Array) -> Array:
    """Brightness of squares (float32), averaged over a few points of each, so that noise is not motion."""
    grey = picture if picture.ndim == 2 else picture[..., min(1, picture.shape[2] - 1)]  # green is most of brightness
    step = max(1, max(grey.shape) // (CELLS * SAMPLES))
    points = grey[::step, ::step]
    rows, columns = points.shape[0] // SAMPLES, points.shape[1] // SAMPLES
    if not rows or not columns:
        return points.astype(np.float32)
    squares = points[: rows * SAMPLES, : columns * SAMPLES].reshape(rows, SAMPLES, columns, SAMPLES)
    return np.asarray(squares.mean(axis=(1, 3), dtype=np.float32))
