"""A list of steps, run over one recording."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.base import Sizes, StepBase
from edgeloop_contract.preprocessing.series import Counts, Window

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
    for step in steps:
        if isinstance(step, Window):
            x = step(x) if len(x) else x
            if indices is not None:  # windows of what earlier steps made of the whole recording
                indices = list(range(len(x)))
                x, indices, refused = _finite_of(x, indices, refused)
            continue
        if indices is None:
            x, indices, refused = _finite(x)
        if not len(x):
            continue
        if x.dtype == np.int16 and isinstance(step, Counts):
            x = step(x)  # counts already; the block below costs more than that
        else:
            with np.errstate(all="ignore"):  # what becomes infinite is refused below
                x = step(x)
            x, indices, refused = _finite_of(x, indices, refused)
    if indices is None:
        x, indices, refused = _finite(x)
    return Prepared(x, indices, refused)


def sizes_after(steps: Sequence[StepBase]) -> Sizes:
    """Sizes that the steps alone decide, by axis of a sample."""
    sizes: Sizes = {}
    for step in steps:
        sizes = step.sizes(sizes)
    return sizes


def dtype_after(steps: Sequence[StepBase]) -> str:
    """The type that the last step which decides it makes; "" where the recording's own stays."""
    decided = [getattr(step, "dtype", "") or step.makes for step in steps]
    return next((name for name in reversed(decided) if name), "")


def _finite_of(x: Array, indices: list[int], refused: dict[int, str]) -> tuple[Array, list[int], dict[int, str]]:
    """What is left of numbered rows after a step, and the reasons for all that are not."""
    if x.dtype.kind != "f":
        return x, indices, refused
    x, rows, overflowed = _finite(x)
    if not overflowed:
        return x, indices, refused
    return x, [indices[row] for row in rows], refused | {indices[row]: why for row, why in overflowed.items()}


def _finite(x: Array) -> tuple[Array, list[int], dict[int, str]]:
    """The rows without NaN or infinity, their numbers, and a reason for each other row."""
    if x.dtype.kind != "f" or (finite := np.isfinite(x)).all():
        return x, list(range(len(x))), {}
    bad = ~finite.reshape(len(x), -1)
    refused = {int(i): f"{int(bad[i].sum())} of {bad[i].size} values are NaN or infinite" for i in np.flatnonzero(bad.any(1))}
    return x[~bad.any(1)], [i for i in range(len(x)) if i not in refused], refused
