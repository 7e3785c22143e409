"""How far answers move by themselves when their input changes in its last bits: two runtimes may differ by as much.

A relu6 behind sums of hundreds keeps values up to 6 and the rounding of hundreds; each such layer takes it further. An operator
that is wrong shows where what stands before it hardly moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["is_rounding", "several_moved"]

STEP = 2.0**-20  # a few bits of a float32
TRIES, TIMES = 3, 4.0
MOST = 0.02  # of the largest value; beyond, nothing is explained by rounding


def several_moved(given: Sequence[Array], generator: np.random.Generator) -> list[list[Array]]:
    """Some copies of a model's inputs whose values are each a little larger or smaller; whole numbers stay as they are."""
    return [[_moved(values, generator) for values in given] for _ in range(TRIES)]


def _moved(values: Array, generator: np.random.Generator) -> Array:
    if values.dtype.kind != "f":
        return values
    return np.asarray(values * (1 + STEP * generator.choice([-1, 1], values.shape)), values.dtype)


def is_rounding(difference: float, movements: Iterable[float]) -> bool:
    """Whether a difference is about what the answers to `several_moved` inputs move by, both relative to the largest value."""
    return difference <= min(MOST, TIMES * max(movements))
