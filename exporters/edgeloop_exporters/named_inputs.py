"""Named inputs of a network whose sample is one array: each input flattened, one behind the other. Needs numpy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, ModelError

__all__ = ["MOST_EXACT", "NamedInput", "feeds_of", "put_together", "samples_of", "take_apart"]

MOST_EXACT = 1 << 24  # whole numbers beyond it have no float32 of their own


@dataclass(frozen=True)
class NamedInput:
    """One input of a network. `shape`: of one sample at the file, where its channels may be `first`.

    `output`: of a state, the output that it is at the next call.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    output: str = ""
    first: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def door(self) -> str:
        """The type in our files: TFLite's converter knows no int64, and both files take the same sample."""
        return "int32" if self.dtype == "int64" else self.dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of a prepared sample: channels last."""
        return (*self.shape[1:], self.shape[0]) if self.first else self.shape


def put_together(samples: Mapping[str, Array], inputs: Sequence[NamedInput]) -> Array:
    """Prepared samples (N, *shape) by input as one array (N, total, 1) float32; a state that is not among them begins as zeros.

    Raises DataError for whole numbers that a float32 does not hold.
    """
    count, rows = len(next(iter(samples.values()))), []
    for entry in inputs:
        values = np.asarray(samples[entry.name]) if entry.name in samples else np.zeros((count, entry.size))
        if values.dtype.kind in "iu" and values.size and max(int(values.max()), -int(values.min())) > MOST_EXACT:
            raise DataError(f"{entry.name}: has whole numbers beyond {MOST_EXACT}, which are not taken")
        values = np.moveaxis(values, -1, 1) if entry.first else values
        rows.append(values.reshape(count, entry.size).astype(np.float32))
    return np.concatenate(rows, 1)[..., None]


def take_apart(values: Array, inputs: Sequence[NamedInput]) -> dict[str, Array]:
    """Samples (N, total, 1) by input, as the file takes them: each (N, *shape) in its type. Raises ModelError for another total."""
    total = sum(entry.size for entry in inputs)
    rows = np.asarray(values).reshape(len(values), -1)
    if rows.shape[1] != total:
        raise ModelError(f"a sample has {rows.shape[1]} values; the network's inputs have {total}")
    found, start = {}, 0
    for entry in inputs:
        part = rows[:, start : start + entry.size].reshape(len(rows), *entry.shape)
        found[entry.name] = part != 0 if entry.dtype == "bool" else part.astype(entry.dtype)
        start += entry.size
    return found


def feeds_of(values: Array, inputs: Sequence[NamedInput]) -> dict[str, Array]:
    """As `take_apart`, in the types of our files."""
    parts = take_apart(values, inputs)
    return {entry.name: parts[entry.name].astype(entry.door, copy=False) for entry in inputs}


def samples_of(values: Array, inputs: Sequence[NamedInput]) -> dict[str, Array]:
    """Samples (N, total, 1) by input, as a device prepares them: channels last, without the states."""
    parts = feeds_of(values, inputs)
    return {e.name: np.moveaxis(parts[e.name], 1, -1) if e.first else parts[e.name] for e in inputs if not e.output}
