"""A list of steps, run over one recording."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.base import Sizes, StepBase
from edgeloop_contract.preprocessing.series import Window

__all__ = ["Prepared", "prepare", "sizes_after"]


class Prepared(msgspec.Struct, frozen=True):
    """Samples ready for a model: `values` (N, *sample); `indices` says which window each row is; `refused` why others are not."""

    values: Array
    indices: list[int]
    refused: dict[int, str]


def prepare(steps: Sequence[StepBase], recording: Array) -> Prepared:
    """Apply the list to one recording.

    A window with a missing or infinite value is refused by itself, and so is one that a step makes infinite. (T,) numbers are a
    series of one channel. Raises DataError where the whole recording does not fit (too short, wrong number of channels).
    """
    if recording.dtype == object or recording.dtype.kind not in "fiu":
        raise DataError(f"values of type {recording.dtype}; send numbers")
    x = recording[None] if recording.ndim != 1 else recording[None, :, None]
    refused: dict[int, str] = {}
    indices: list[int] | None = None
    for step in (*steps, None):
        if indices is None and not isinstance(step, Window):
            x, indices, refused = _finite(x)
        if step is None or not len(x):
            continue
        with np.errstate(all="ignore"):  # what becomes infinite is refused below
            x = step(x)
        if indices is not None:
            if isinstance(step, Window):
                indices = list(range(len(x)))  # windows of what earlier steps made of the whole recording
            x, rows, overflowed = _finite(x)
            if overflowed:
                refused = refused | {indices[row]: why for row, why in overflowed.items()}
                indices = [indices[row] for row in rows]
    assert indices is not None
    return Prepared(x, indices, refused)


def sizes_after(steps: Sequence[StepBase]) -> Sizes:
    """Sizes that the steps alone decide, by axis of a sample."""
    sizes: Sizes = {}
    for step in steps:
        sizes = step.sizes(sizes)
    return sizes


def _finite(x: Array) -> tuple[Array, list[int], dict[int, str]]:
    """The rows without NaN or infinity, their numbers, and a reason for each other row."""
    if x.dtype.kind != "f" or (finite := np.isfinite(x)).all():
        return x, list(range(len(x))), {}
    bad = ~finite.reshape(len(x), -1)
    refused = {int(i): f"{int(bad[i].sum())} of {bad[i].size} values are NaN or infinite" for i in np.flatnonzero(bad.any(1))}
    return x[~bad.any(1)], [i for i in range(len(x)) if i not in refused], refused
