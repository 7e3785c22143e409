"""Recordings as a model's preprocessing takes them: sound at its rate, grey pictures in three channels where it wants colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.preprocessing import Grayscale
from edgeloop_contract.preprocessing.base import StepBase
from edgeloop_contract.resampling import to_model_rate

__all__ = ["fitted"]


def fitted(steps: Sequence[StepBase], shape: Sequence[int], values: Array, rate_hz: int | None = None) -> Array:
    """`shape`: of the model's sample."""
    sound = to_model_rate(steps, values, rate_hz)
    if sound is not values:
        return sound
    is_grey = values.dtype == np.uint8 and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 1))
    if is_grey and len(shape) == 3 and shape[2] == 3 and not any(isinstance(step, Grayscale) for step in steps):
        return np.repeat(values.reshape(*values.shape[:2], 1), 3, axis=2)
    return values
