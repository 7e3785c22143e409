"""edgeloop's own spectrogram of sound, in 8 bits."""

from functools import lru_cache
from typing import ClassVar

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.base import Sizes, StepBase
from edgeloop_contract.settings import NonNegativeFloat, PositiveFloat, PositiveInt

__all__ = ["LogMel"]

SILENCE_DB = -100.0


class LogMel(StepBase, frozen=True, tag="log_mel"):
    """Sound to a log-mel spectrogram: (T, 1) int16 → (frames, bands, 1) uint8.

    Hann windows of `window` points every `hop`, power spectrum, triangular bands evenly spaced on the mel scale (HTK's
    2595·log10(1 + f/700)) from `low_hz` to `high_hz`, decibels below the recording's loudest value, 255 counts for `range_db`.
    """

    makes: ClassVar[str] = "uint8"

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

    def sizes(self, before: Sizes) -> Sizes:
        frames = {0: (before[0] - self.window) // self.hop + 1} if 0 in before else {}
        return {**frames, 1: self.bands, 2: 1}


@lru_cache(maxsize=8)
def _mel_bands(step: LogMel) -> Array:
    """(window // 2 + 1, bands): each band's triangle over the spectrum's bins."""
    low, high = (2595 * float(np.log10(1 + f / 700)) for f in (step.low_hz, step.high_hz))
    edges = np.linspace(low, high, step.bands + 2)
    hz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.arange(step.window // 2 + 1)[:, None] * step.rate_hz / step.window
    rising, falling = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2]), (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))
