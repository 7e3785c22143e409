"""Sound at another rate: one implementation for training and device."""

from functools import lru_cache
from math import gcd

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["resample", "resampled_length"]

MIN_HZ, MAX_HZ = 100, 768_000  # outside of these a file's header is wrong
ZERO_CROSSINGS = 10  # of the windowed sinc, on each side, at the lower of the two rates
BETA = 5.0  # of its Kaiser window
BLOCK_TAPS = 1 << 20  # products at a time: what it takes is bounded, however long the sound is


def resample(values: Array, from_hz: int, to_hz: int) -> Array:
    """(T, channels) at another rate, of the same type: ceil(T × to / from) points; integers are rounded and saturate.

    Polyphase, by a Kaiser-windowed sinc that lets through what lies below half of the lower rate, as scipy.signal.resample_poly
    does it; each phase is scaled to sum 1, so that a constant stays one. Raises DataError for a rate that no sound has.
    """
    for rate in (from_hz, to_hz):
        if not MIN_HZ <= rate <= MAX_HZ:
            raise DataError(f"sound at {rate} Hz; rates from {MIN_HZ} to {MAX_HZ} Hz are read: look at the file's head")
    if from_hz == to_hz or not len(values):
        return values
    common = gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    reach = ZERO_CROSSINGS * max(up, down) // up + 1  # points before and after
    padded = np.pad(values.reshape(len(values), -1), ((reach, reach), (0, 0)))  # not converted to float: long files are large
    count = resampled_length(len(values), from_hz, to_hz)
    resampled = np.empty((count, padded.shape[1]), values.dtype)
    limits = np.iinfo(values.dtype) if values.dtype.kind in "iu" else None
    step = max(1, BLOCK_TAPS // (2 * reach + 1))
    for start in range(0, count, step):
        places = np.arange(start, min(start + step, count), dtype=np.int64) * down
        taps = _taps(up, down, reach, places % up)
        around = (places // up)[:, None] + np.arange(2 * reach + 1)
        for channel in range(padded.shape[1]):
            some = (padded[around, channel] * taps).sum(axis=1)
            some = np.clip(np.rint(some), limits.min, limits.max) if limits else some
            resampled[start : start + len(places), channel] = some.astype(values.dtype)
    return resampled.reshape(count, *values.shape[1:])


def resampled_length(points: int, from_hz: int, to_hz: int) -> int:
    """How many points `resample` makes of `points`."""
    common = gcd(from_hz, to_hz)
    return -(-points * (to_hz // common) // (from_hz // common))


def _taps(up: int, down: int, reach: int, phases: Array) -> Array:
    """(N, 2 × reach + 1): the weights of the points around each output, by how far it lies behind its point, in 1/up."""
    if up * (2 * reach + 1) <= BLOCK_TAPS:
        return np.asarray(_table(up, down, reach)[phases])
    return _weights(up, down, reach, phases)


@lru_cache(maxsize=4)
def _table(up: int, down: int, reach: int) -> Array:
    return _weights(up, down, reach, np.arange(up))


def _weights(up: int, down: int, reach: int, phases: Array) -> Array:
    widest = max(up, down)
    distance = phases[:, None] - np.arange(-reach, reach + 1) * up  # in steps of the common rate
    within = np.clip(1 - (distance / (ZERO_CROSSINGS * widest)) ** 2, 0, None)
    window = np.where(np.abs(distance) <= ZERO_CROSSINGS * widest, np.i0(BETA * np.sqrt(within)), 0.0)
    weights = np.sinc(distance / widest) * window
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
