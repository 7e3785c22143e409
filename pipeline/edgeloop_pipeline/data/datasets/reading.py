"""Reads tables from files: column name → its cells, as text and as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.sources.columns import cells
from edgeloop_agent.sources.tables import MISSING, number
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

NAMELESS = ("", "nan", "na", "n/a")  # of a label or a group; "none" can be the name of a class
ENDINGS = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Column:
    """A column of a table. `texts`: the cells of the file without surrounding white space; a missing value is ''."""

    name: str
    texts: Array
    found: Array | None = None  # numbers, if the file itself stores numbers

    @cached_property
    def numbers(self) -> Array:
        """The cells as float64; NaN for missing values and for texts."""
        if self.found is not None:
            return self.found
        try:
            return self.texts.astype(np.float64)
        except ValueError:
            values = [number(text) for text in self.texts.tolist()]
            return np.array([np.nan if value is None else value for value in values])

    @cached_property
    def missing(self) -> Array:
        if self.found is not None:
            return ~np.isfinite(self.found)
        found = np.zeros(len(self.texts), bool)
        asked = np.flatnonzero(~np.isfinite(self.numbers))
        found[asked] = [text.lower() in MISSING for text in self.texts[asked].tolist()]
        return found

    @cached_property
    def nameless(self) -> Array:
        """The rows without a name, for a column of names."""
        return np.array([text.lower() in NAMELESS for text in self.texts.tolist()], bool)

    @cached_property
    def odd(self) -> Array:
        """The rows whose cell is neither a number nor missing."""
        return np.flatnonzero(~np.isfinite(self.numbers) & ~self.missing)

    def __len__(self) -> int:
        return len(self.texts)


def table_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; correct the path in data.py")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file())
    if not found:
        raise DataError(f"{path}: has no table (.csv, .parquet) and no class folders with files; correct the path")
    return found


def read_table(file: Path) -> dict[str, Column]:
    """Read a table: column name → column. A second column of the same name becomes NAME.2. Raises DataError."""
    if file.suffix.lower() == ".parquet":
        return _parquet(file)
    try:
        names, rows = cells(file)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    if not names and rows:
        raise DataError(f"{file}: no header line: its first line has numbers; add a line with the columns' names")
    if not rows:
        raise DataError(f"{file}: no rows below a header line")
    width = len(names)
    ragged = [(i, len(row)) for i, row in enumerate(rows) if len(row) != width]
    if ragged:
        more = f" ({len(ragged)} rows differ)" if len(ragged) > 1 else ""
        raise DataError(f"{file}: row {ragged[0][0] + 2} has {ragged[0][1]} columns, the header has {width}{more}")
    return {name: Column(name, np.array([row[i].strip() for row in rows])) for i, name in enumerate(names)}


def _parquet(file: Path) -> dict[str, Column]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{file}: reading Parquet needs pyarrow: pip install 'edgeloop[tables]'") from error
    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a Parquet file ({error})") from error
    if not table.num_rows:
        raise DataError(f"{file}: no rows")
    names = [str(name) for name in table.column_names]
    if len(set(names)) != len(names):
        raise DataError(f"{file}: two columns have one name; give each its own name")
    return {name: _typed(name, table.column(i)) for i, name in enumerate(names)}


def _typed(name: str, column: Any) -> Column:
    """A typed column: numbers stay numbers, other types become texts."""
    import pyarrow.types as kinds

    values = column.to_pylist()
    texts = np.array([_text(value) for value in values])
    if kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_decimal(column.type):
        return Column(name, texts, np.array([np.nan if value is None else float(value) for value in values]))
    return Column(name, texts)


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
