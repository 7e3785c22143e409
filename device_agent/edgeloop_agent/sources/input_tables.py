"""Samples of a model with several inputs in tables: a row a sample, a column an input. One reading for training and the agent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edgeloop_agent.sources import Recording, Wanted
from edgeloop_agent.sources.columns import names_of
from edgeloop_agent.sources.json_records import inputs_of, label_text
from edgeloop_agent.sources.tables import delimiter_of, number
from edgeloop_agent.sources.texts import decoded
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import TextOrArray

__all__ = ["LABEL", "Cells", "cells_of", "file_beside", "named_file", "row_of", "rows_of_table"]

LABEL = "label"  # the column of the truth, where it is no input
SEPARATE = (".wav", ".flac", ".csv", ".tsv", ".npz")  # files that a cell cannot name: sound has a rate, the others are tables
Reader = Callable[[Path], Recording]


class Cells(NamedTuple):
    """One row: its values by column. `typed`: they have types, as JSON's have; a table's are texts."""

    name: str
    values: Mapping[str, Any]
    typed: bool


def rows_of_table(path: Path, read: Reader, wanted: Wanted) -> Iterator[Recording]:
    """A recording for each row of a .csv or .tsv file; `refused` says what is wrong with one. `read`: reads files that cells name.

    Raises DataError where the table cannot be read, or has not each of the columns.
    """
    for cells in cells_of(path, wanted):
        name, label = f"{path.name} {cells.name}", "" if LABEL in wanted else label_text(cells.values.get(LABEL))
        try:
            yield Recording(name, None, label=label, inputs=row_of(cells, wanted, path.parent, read))
        except DataError as error:
            yield Recording(name, None, str(error))


def cells_of(path: Path, wanted: Wanted = {}) -> Iterator[Cells]:  # noqa: B006 never written
    """The rows of a .csv, .tsv, .jsonl or .ndjson file. Raises DataError with the line of what cannot be read."""
    try:
        content = decoded(path.read_bytes())
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error
    yield from _objects(content) if path.suffix.lower() in (".jsonl", ".ndjson") else _table(path, content, wanted)


def _table(path: Path, content: str, wanted: Wanted) -> Iterator[Cells]:
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator(content, wanted)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        names = names_of(header)
        if twice := next((name for name in wanted if header.count(name) > 1), ""):
            raise DataError(f"the column {twice!r} is there twice; rename one")
        if lacking := [name for name in wanted if name not in names]:
            shown = ", ".join(names)[:200] or "no header line"
            raise DataError(f"no column {lacking[0]!r}; it has {shown}: the first line names a column for each input")
        for row in reader:
            if row and len(row) != len(names):
                raise DataError(f"line {reader.line_num} has {len(row)} columns, the header has {len(names)}")
            if row:
                yield Cells(f"line {reader.line_num}", dict(zip(names, row, strict=True)), False)
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}") from error


def _separator(content: str, wanted: Wanted) -> str:
    """The one by which the first line names the inputs: texts may have any of them inside."""
    first, usual = content.lstrip("\n").split("\n", 1)[0], delimiter_of(content)
    for sign in (usual, ",", ";", "\t", "|"):
        if set(wanted) <= set(names_of(next(csv.reader([first], delimiter=sign), []))):
            return sign
    return usual


def _objects(content: str) -> Iterator[Cells]:
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {line}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"line {line}: not an object with a value for each input")
        inputs = row.get("inputs")
        yield Cells(f"line {line}", {**row, **inputs} if isinstance(inputs, dict) else row, True)


def row_of(cells: Cells, wanted: Wanted, folder: Path, read: Reader) -> dict[str, TextOrArray]:
    """The row's value for each input; cells may name files in `folder`. Raises DataError naming the input."""
    values = cells.values
    if not cells.typed:
        values = {name: cell if wanted.get(name, True) else _typed(name, cell) for name, cell in values.items()}
    return inputs_of(values, wanted, partial(file_beside, folder, read))


def _typed(name: str, cell: str) -> Any:
    """A cell as JSON would have it: a number, a list, or a text."""
    if (figure := number(cell)) is not None:
        return figure
    if not cell.lstrip().startswith("["):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: {cell[:40]!r} is no list of numbers ({error})") from error


def file_beside(folder: Path, read: Reader, name: str, cell: str) -> Array:
    """The array of a picture or .npy file that a cell names. Raises DataError."""
    path = named_file(folder, cell)
    if path is None:
        raise DataError(f"{name}: {cell[:80]!r} is no number, no list of numbers, and no picture or .npy file beside the table")
    given = read(path)
    if given.values is None:
        raise DataError(f"{name}: {cell[:80]}: {given.refused or 'has several arrays'}")
    return given.values


def named_file(folder: Path, cell: str) -> Path | None:
    """The file in `folder` that a cell names: who writes a table must not be able to read others."""
    try:
        path = (folder / cell.strip()).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if inside and path.suffix.lower() not in SEPARATE else None
