"""Live sound at another rate, block by block without seams, with a sharper filter than that for recordings."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["Resampler"]

CROSSINGS = 64  # of the windowed sinc, on each side, at the lower of the two rates
BETA = 8.0  # of its Kaiser window: 80 dB
PASSED = 0.96  # of half of the lower rate, where the filter is at half; it has ended before the whole of it
MAX_TABLE = 1 << 20  # weights that are kept: of rates without a common measure they are computed each time
STEP = 4096  # outputs at a time
MIN_HZ, MAX_HZ = 100, 768_000


class Resampler:
    """Polyphase: what lies above half of the lower rate is damped by 80 dB, what lies below 0.92 of it is kept (J. O. Smith,
    Digital Audio Resampling). The outputs lag by CROSSINGS points of the lower rate: 4 ms at 16 kHz.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Raises DataError for a rate that no sound has."""
        for rate in (from_hz, to_hz):
            if not MIN_HZ <= rate <= MAX_HZ:
                raise DataError(f"sound at {rate} Hz; rates from {MIN_HZ} to {MAX_HZ} Hz are read")
        common = gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        self._reach = ceil(CROSSINGS * max(self._up, self._down) / self._up) + 1  # points of the input before and after
        self._waiting: Array | None = None  # (T, channels) float32
        self._ahead = 0  # of the next output, in 1/up of an input point after the first one that waits with its reach

    def feed(self, block: Array) -> Array:
        """(T, channels) int16 to as many points as are certain now, (N, channels) int16; N may be 0."""
        if self._up == self._down:
            return block
        before = np.zeros((self._reach, block.shape[1]), np.float32) if self._waiting is None else self._waiting
        points = np.concatenate([before, block.astype(np.float32)])
        span = 2 * self._reach + 1
        if len(points) < span:
            self._waiting = points
            return np.empty((0, block.shape[1]), np.int16)
        count = max(0, -(-((len(points) - span + 1) * self._up - self._ahead) // self._down))
        found = np.empty((count, block.shape[1]), np.int16)
        windows = np.lib.stride_tricks.sliding_window_view(points, span, axis=0)  # (T, channels, span)
        for start in range(0, count, STEP):
            places = self._ahead + self._down * np.arange(start, min(start + STEP, count))
            weights = self._weights(places % self._up)
            some = np.einsum("nct,nt->nc", windows[places // self._up], weights)
            found[start : start + len(places)] = np.clip(np.rint(some), -32768, 32767).astype(np.int16)
        gone, self._ahead = divmod(self._ahead + self._down * count, self._up)
        self._waiting = points[gone:]
        return found

    def _weights(self, phases: Array) -> Array:
        if self._up * (2 * self._reach + 1) <= MAX_TABLE:
            return np.asarray(_table(self._up, self._down, self._reach)[phases])
        return weights_of(self._up, self._down, self._reach, phases)


@lru_cache(maxsize=2)
def _table(up: int, down: int, reach: int) -> Array:
    return weights_of(up, down, reach, np.arange(up))


def weights_of(up: int, down: int, reach: int, phases: Array) -> Array:
    """(N, 2 × reach + 1) float32, each row of sum 1: a constant stays one."""
    lowest = max(up, down) / up  # input points in one of the lower rate
    distance = (phases[:, None] / up - np.arange(-reach, reach + 1)) / lowest
    within = np.clip(1 - (distance / CROSSINGS) ** 2, 0, None)
    weights = np.sinc(distance * PASSED) * np.where(np.abs(distance) <= CROSSINGS, np.i0(BETA * np.sqrt(within)), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
