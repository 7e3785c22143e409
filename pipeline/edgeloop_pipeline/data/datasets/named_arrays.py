"""Recordings of a model with several inputs: an array or a text for each, by name, in .npz files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from edgeloop_agent.sources.readers import read
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import TextOrArray, text_or_array

__all__ = ["Named", "NamedFiles", "check_values", "digest_of", "named_rows"]

Named = Mapping[str, TextOrArray]


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
        check_values(self.paths[i], found.inputs)
        return found.inputs


def named_rows(path: Path, arrays: Named) -> list[Named]:
    """The samples along the first axes of a file's arrays. Raises DataError where their numbers differ."""
    counts = {name: 0 if isinstance(values, str) or not values.ndim else len(values) for name, values in arrays.items()}
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise DataError(f"{path}: the first axis of each array counts samples; {shown}")
    check_values(path, arrays)
    return [{name: text_or_array(values[row]) for name, values in arrays.items()} for row in range(next(iter(counts.values())))]


def digest_of(sample: Named) -> str:
    """Equal samples have equal ones."""
    digest = hashlib.sha256()
    for name in sorted(sample):
        values = np.asarray(sample[name])
        digest.update(f"{name} {values.shape} {values.dtype}".encode() + values.tobytes())
    return digest.hexdigest()


def check_values(where: Path | str, arrays: Named) -> None:
    """Raises DataError for an array of something else than finite numbers or texts."""
    for name, values in arrays.items():
        if isinstance(values, str) or values.dtype.kind == "U":
            continue
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise DataError(f"{where}: {name} has values that are no finite numbers; repair or remove them")
