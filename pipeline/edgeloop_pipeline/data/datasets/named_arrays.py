"""Recordings of a model with several inputs: an array for each, by name, in .npz files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from edgeloop_agent.sources.readers import read
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["NamedFiles", "digest_of", "named_rows"]

Named = Mapping[str, Array]


@dataclass(frozen=True)
class NamedFiles(Sequence[Named]):
    """Recordings in .npz files that are read on access, one at a time."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Named: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Named]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return NamedFiles(self.paths[i])
        found = read(self.paths[i])
        if found.inputs is None:
            raise DataError(
                f"{self.paths[i]}: {found.refused or 'has one array; the model has several inputs'}; repair or remove it"
            )
        _check(self.paths[i], found.inputs)
        return found.inputs


def named_rows(path: Path, arrays: Named) -> list[Named]:
    """The samples along the first axes of a file's arrays. Raises DataError where their numbers differ."""
    counts = {name: len(values) if values.ndim else 0 for name, values in arrays.items()}
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise DataError(f"{path}: the first axis of each array counts samples; {shown}")
    _check(path, arrays)
    return [{name: values[row] for name, values in arrays.items()} for row in range(next(iter(counts.values())))]


def digest_of(sample: Named) -> str:
    """Equal samples have equal ones."""
    digest = hashlib.sha256()
    for name in sorted(sample):
        digest.update(f"{name} {sample[name].shape} {sample[name].dtype}".encode() + sample[name].tobytes())
    return digest.hexdigest()


def _check(path: Path, arrays: Named) -> None:
    """Raises DataError for an array of something else than finite numbers."""
    for name, values in arrays.items():
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise DataError(f"{path}: {name} has values that are no finite numbers; repair or remove them")
