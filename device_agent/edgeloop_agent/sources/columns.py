"""Columns of a table by their names: one reading of header lines for training and the agent."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.tables import as_text, delimiter_of, number
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError


def cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header's names, made unique, and the rows below it; no names where the first line is numbers. Raises DataError."""
    text = as_text(path.read_bytes())
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text)) if row]
    except csv.Error as error:
        raise DataError(str(error)) from error
    if not rows or all(number(cell) is not None for cell in rows[0]):
        return [], rows
    return names_of(rows[0]), rows[1:]


def names_of(header: Sequence[str]) -> list[str]:
    """Unique names without white space: a repeated name becomes NAME.2, an empty one 'column 3'."""
    names: list[str] = []
    taken = {cell.strip() for cell in header}
    for i, cell in enumerate(header):
        name = first = cell.strip() or f"column {i + 1}"
        count = 1
        while name in names or (count > 1 and name in taken):
            count += 1
            name = f"{first}.{count}"
        names.append(name)
    return names


def read_columns(path: Path, wanted: Sequence[str]) -> Array | None:
    """(T, len(wanted)): those columns of a CSV, whatever else it holds. None where its header line knows none of them.

    Raises DataError where only some are there, or where a cell is not a number.
    """
    try:
        names, rows = cells(path)
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error
    lacking = [name for name in wanted if name not in names]
    if len(lacking) == len(wanted):
        return None
    if lacking:
        raise DataError(f"no column {lacking[0]!r}; it has {', '.join(names)[:200]}")
    if not rows:
        raise DataError("no rows below its header line")
    places = [names.index(name) for name in wanted]
    return np.array([_picked(row, i + 2, len(names), places, names) for i, row in enumerate(rows)], dtype=np.float64)


def _picked(row: list[str], line: int, width: int, places: list[int], names: list[str]) -> list[float]:
    if len(row) != width:
        raise DataError(f"row {line} has {len(row)} columns, the header has {width}")
    values = []
    for place in places:
        value = number(row[place])
        if value is None:
            raise DataError(f"row {line}, column {names[place]!r}: {row[place][:40]!r} is not a number")
        values.append(value)
    return values
