"""Tables of numbers: CSV as spreadsheets, loggers and scripts write it."""

from __future__ import annotations

import codecs
import csv
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?|[+-]?\d+,")
SAMPLED_LINES = 20  # lines that decide the delimiter


def read_csv(path: Path) -> Array:
    """A time series: one row a point, one column a channel, an optional header line; an empty cell or NA is a missing value.

    Columns are parted by commas, semicolons or tabs (with the latter two, a comma in a number is its decimal point); text is UTF-8,
    UTF-16 or Latin-1.
    """
    text = as_text(path.read_bytes())
    numbers, width, count, has_header = array("d"), 0, 0, False  # converted row by row: as text they take twenty times the memory
    try:
        for row in csv.reader(_lines(text), delimiter=delimiter_of(text)):
            if not row:
                continue
            if not has_header and not count and any(number(cell) is None for cell in row):
                has_header = True
                continue
            count += 1
            width = width or len(row)
            if len(row) != width:
                raise DataError(f"row {count} has {len(row)} columns, the first has {width}")
            numbers.extend(_numbers(row, count))
    except csv.Error as error:
        raise DataError(str(error)) from error
    if not count:
        raise DataError("no rows of numbers")
    return np.frombuffer(numbers, np.float64).reshape(count, width)


def _lines(text: str) -> Iterator[str]:
    """One at a time, with its end; \r alone is one where there is no other."""
    end = "\n" if "\n" in text else "\r"
    start = 0
    while start < len(text):
        stop = text.find(end, start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def as_text(data: bytes) -> str:
    """Decode text: by its byte order mark, else as UTF-8 if valid, else as Latin-1."""
    for mark, coding in BOMS:
        if data.startswith(mark):
            try:
                return data.decode(coding)
            except UnicodeDecodeError as error:
                raise DataError(f"not whole {coding[:6].upper()} text ({error.reason}); save it as UTF-8") from error
    if b"\0" in data[:1000]:
        raise DataError("holds zero bytes: not text, or UTF-16 without its mark; save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def delimiter_of(text: str) -> str:
    """The delimiter that occurs equally often in each of the first lines: ; or a tab or (without commas) |, else a comma."""
    lines = [line for line in text[: 1 << 16].splitlines()[: SAMPLED_LINES + 1] if line.strip()]
    lines = lines[:SAMPLED_LINES] or [""]
    for sign in (";", "\t", "|"):
        if sign == "|" and any("," in line for line in lines):
            break
        counts = {line.count(sign) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return sign
    return ","


def number(cell: str) -> float | None:
    """NaN for a missing value; None for what is not a number."""
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        text = cell.strip()
        if text.lower() in MISSING:
            return float("nan")
        return float(text.replace(",", ".")) if DECIMAL_COMMA.fullmatch(text) else None


def _numbers(row: list[str], at: int) -> list[float]:
    numbers = [number(cell) for cell in row]
    if None in numbers:
        column = numbers.index(None)
        raise DataError(f"row {at}, column {column + 1}: {row[column][:40]!r} is not a number")
    return numbers  # type: ignore[return-value]
