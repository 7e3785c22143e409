"""Sound at a model's rate, with one channel: one implementation for training and device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.preprocessing import LogMel, Resample, SoundFeatures
from edgeloop_contract.preprocessing.polyphase import resample

__all__ = ["model_rate_hz", "resample", "to_model_rate"]


def model_rate_hz(steps: Sequence[object]) -> int | None:
    """The rate of the sound that these preprocessing steps were made for; None where they are not for sound."""
    for step in steps:
        if isinstance(step, LogMel | SoundFeatures):
            return step.rate_hz
        if isinstance(step, Resample):
            return step.from_hz
    return None


def to_model_rate(steps: Sequence[object], values: Array, rate_hz: int | None) -> Array:
    """A recording of sound as preprocessing takes it: one channel, the mean of all, at the model's rate.

    `values`: (T, channels) or (T,); `rate_hz`: None where it is not known: then the model's is assumed. Recordings that
    are not sound are returned as they are. Raises DataError for an impossible rate.
    """
    wanted = model_rate_hz(steps)
    if wanted is None or values.ndim > 2 or values.dtype.kind not in "iuf":
        return values
    sound = values[:, None] if values.ndim == 1 else values
    if sound.shape[1] > 1:
        mixed = sound.mean(axis=1, keepdims=True, dtype=np.float32)
        sound = (np.rint(mixed) if values.dtype.kind in "iu" else mixed).astype(values.dtype)
    return sound if rate_hz is None else resample(sound, rate_hz, wanted)
