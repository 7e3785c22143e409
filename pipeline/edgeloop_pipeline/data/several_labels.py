"""Several labels a recording: rows of 1 and 0 for each label, and 255 where nobody knows whether a recording has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.settings import nearest
from edgeloop_contract.tasks import NOT_KNOWN

__all__ = ["label_rows", "unlearnt_labels"]

MAX_NAMED = 10


def label_rows(given: Any, names: Sequence[str], split: str) -> Array:
    """(N, labels) uint8 of N recordings: rows of numbers for each label, or the names of those that each has. Raises DataError.

    Numbers are 1, 0, and 255 or NaN for what is not known.
    """
    if _is_names(given):
        at = {name: i for i, name in enumerate(names)}
        made = np.zeros((len(given), len(names)), np.uint8)
        for i, row in enumerate(given):
            for name in row:
                if str(name) not in at:
                    raise DataError(f"{split} recording {i}: the label {str(name)!r} is not declared{nearest(str(name), names)}")
                made[i, at[str(name)]] = 1
        return made
    try:
        values = np.asarray(given)
    except ValueError as error:
        raise DataError(f"{split}: labels are rows of different lengths; give a number for each label, or names") from error
    values = values[:, None] if values.ndim == 1 and len(names) == 1 else values
    if values.ndim != 2 or values.shape[1] != len(names) or values.dtype.kind not in "biuf":
        raise DataError(
            f"{split}: labels have shape {values.shape}; give each recording a row of {len(names)} numbers, or the names of those"
            " that it has"
        )
    numbers = np.where(np.isnan(values), NOT_KNOWN, values) if values.dtype.kind == "f" else values
    odd = numbers[~np.isin(numbers, [0, 1, NOT_KNOWN])]
    if len(odd):
        raise DataError(f"{split}: the label {odd[0]:g}; a label is 1 or 0, and {NOT_KNOWN} where it is not known")
    return numbers.astype(np.uint8)


def _is_names(given: Any) -> bool:
    """Whether these are names (texts) of each recording's labels, not numbers; a recording may have none."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        return False
    rows = [row for row in given if isinstance(row, (list, tuple, set, frozenset))]
    return len(rows) == len(given) and all(isinstance(name, str) for row in rows for name in row)


def unlearnt_labels(labels: dict[str, Array], names: Sequence[str]) -> list[str]:
    """Notes on labels that a split lacks. Raises DataError where training lacks one, or a split has none at all."""
    notes = []
    for split, rows in labels.items():
        lacking = [name for name, there in zip(names, (rows == 1).any(0), strict=True) if not there]
        shown = ", ".join(lacking[:MAX_NAMED]) + (f" and {len(lacking) - MAX_NAMED} more" if len(lacking) > MAX_NAMED else "")
        if len(lacking) == len(names):
            raise DataError(f"{split}: none of {len(rows)} samples has a label; divide the data in another way, or label some")
        if lacking and split == "train":
            raise DataError(f"train: no sample has {shown}; move some with it to train, or leave the label out")
        if lacking:
            notes.append(f"{split}: no sample has {shown}, which does not count there")
        if split == "train" and (always := [n for n, lacks in zip(names, ~(rows == 0).any(0), strict=True) if lacks]):
            notes.append(f"train: no sample is without {', '.join(always[:MAX_NAMED])}: there is nothing to tell apart")
    return notes
