"""Samples of a model with several inputs in a table: a row a sample, a column an input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from edgeloop_agent.sources.input_tables import Cells, cells_of, named_file, row_of
from edgeloop_agent.sources.json_records import label_text
from edgeloop_agent.sources.readers import read
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.named_arrays import check_values

__all__ = ["TABLES", "InputRows", "input_rows"]

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class InputRows(Sequence[Any]):
    """The rows of a table, whose files are read on access."""

    path: Path
    rows: list[Cells]
    wanted: Mapping[str, bool]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return InputRows(self.path, self.rows[i], self.wanted)
        try:
            found = row_of(self.rows[i], self.wanted, self.path.parent, read)
        except DataError as error:
            raise DataError(f"{self.path}, {self.rows[i].name}: {error}") from error
        check_values(f"{self.path}, {self.rows[i].name}", found)
        return found

    def of(self, places: Sequence[int]) -> InputRows:
        return InputRows(self.path, [self.rows[i] for i in places], self.wanted)

    def files(self) -> list[Path]:
        """The pictures and arrays that cells name, each once."""
        numbers = [name for name, is_text in self.wanted.items() if not is_text]
        given = dict.fromkeys(row.values[name] for row in self.rows for name in numbers if isinstance(row.values.get(name), str))
        return [path for cell in given if (path := named_file(self.path.parent, cell)) is not None]

    def labels(self, column: str) -> list[str]:
        """The column's values as texts. Raises DataError where a row has none, or no plain value."""
        found = []
        for row in self.rows:
            value = row.values.get(column)
            if value is None or isinstance(value, list | dict):
                has = "is no label" if column in row.values else f"is missing; it has {', '.join(map(str, row.values))[:200]}"
                raise DataError(f"{self.path}, {row.name}: its {column!r} {has}")
            found.append(label_text(value).strip())
        return found


def input_rows(path: Path, wanted: Mapping[str, bool]) -> InputRows:
    """The distinct rows of a table, by what they give the model. Raises DataError for a table that cannot be read."""
    distinct: dict[str, Cells] = {}
    try:
        for cells in cells_of(path, wanted):
            distinct.setdefault(json.dumps([cells.values.get(name) for name in wanted]), cells)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return InputRows(path, list(distinct.values()), wanted)
