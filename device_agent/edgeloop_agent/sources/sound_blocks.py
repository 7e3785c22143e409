"""What all live sound shares: the channels that are wanted, the bundle's rate, and recordings of so many seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording
from edgeloop_agent.sources.resampler import Resampler
from edgeloop_contract.arrays import Array

__all__ = ["SoundBlocks"]


class SoundBlocks:
    """Of one opened microphone at `rate_hz`. `model_hz`: the bundle's rate; None: it does not say one, nothing is resampled."""

    def __init__(self, settings: Settings, rate_hz: int, model_hz: int | None) -> None:
        self._channel, self._mixes = settings.channel, model_hz is not None
        self.rate_hz = model_hz or rate_hz
        self._resampler = Resampler(rate_hz, self.rate_hz)
        self._points = max(1, round(settings.seconds * self.rate_hz))
        self._waiting: list[Array] = []
        self._count = 0

    def add(self, sound: Array, number: int) -> Iterator[Recording]:
        """`sound`: (T, channels) int16. `number`: of the last recording before. Captured: when its last point was there."""
        captured = time.monotonic()
        block = self._resampler.feed(self._chosen(sound))
        self._waiting.append(block)
        self._count += len(block)
        if self._count < self._points:
            return
        whole = np.concatenate(self._waiting)
        for start in range(0, len(whole) - self._points + 1, self._points):
            number += 1
            part = whole[start : start + self._points]
            yield Recording(f"sound {number}", part, rate_hz=self.rate_hz, captured=captured)
        rest = whole[len(whole) // self._points * self._points :]
        self._waiting, self._count = [rest], len(rest)

    def _chosen(self, sound: Array) -> Array:
        if self._channel:
            column = min(self._channel, sound.shape[1]) - 1
            return sound[:, column : column + 1]
        if self._mixes and sound.shape[1] > 1:  # a model of sound takes one channel
            return np.asarray(np.rint(sound.mean(axis=1, keepdims=True, dtype=np.float32)).astype(np.int16))
        return sound
