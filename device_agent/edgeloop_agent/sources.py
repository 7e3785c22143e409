"""Where recordings come from: a folder, one file, or JSON lines on standard input."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgeloop_contract.errors import DataError, DeviceError

Array = npt.NDArray[Any]
MAX_FILE_BYTES = 256 << 20
MAX_LINE_CHARACTERS = 16 << 20


@dataclass(frozen=True)
class Recording:
    """One input: its values, or why it could not be read."""

    name: str
    values: Array | None
    refused: str = ""


def read_csv(path: Path) -> Array:
    """A time series: one row a point, one column a channel, an optional header line; an empty cell is a missing value."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_numbers(rows[0]):
        rows = rows[1:]
    if not rows:
        raise DataError("no rows of numbers")
    width = len(rows[0])
    ragged = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if ragged is not None:
        raise DataError(f"row {ragged + 1} has {len(rows[ragged])} columns, the first has {width}")
    return np.array([[float(cell) if cell.strip() else np.nan for cell in row] for row in rows], dtype=np.float64)


def _is_numbers(cells: list[str]) -> bool:
    try:
        [float(cell) for cell in cells if cell.strip()]
    except ValueError:
        return False
    return True


def read_npy(path: Path) -> Array:
    """One array of numbers."""
    return np.asarray(np.load(path, allow_pickle=False))


def read_wav(path: Path) -> Array:
    """16-bit PCM: (T, channels) int16."""
    with wave.open(str(path), "rb") as file:
        if file.getsampwidth() != 2:
            raise DataError(f"{8 * file.getsampwidth()}-bit sound; only 16-bit PCM is read")
        data = file.readframes(file.getnframes())
        return np.frombuffer(data, dtype="<i2").astype(np.int16).reshape(-1, file.getnchannels())


def read_image(path: Path) -> Array:
    """(H, W) or (H, W, 3) uint8."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DeviceError("reading images needs Pillow: pip install 'edgeloop[images]'") from error
    with Image.open(path) as image:
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


READERS: dict[str, Callable[[Path], Array]] = {
    ".csv": read_csv,
    ".npy": read_npy,
    ".wav": read_wav,
    ".png": read_image,
    ".jpg": read_image,
    ".jpeg": read_image,
    ".bmp": read_image,
    ".pgm": read_image,
}


def read(path: Path) -> Recording:
    """One file. What is wrong with its content is reported in `refused`; the stream goes on."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return Recording(path.name, None, f"larger than {MAX_FILE_BYTES} bytes")
        return Recording(path.name, READERS[path.suffix.lower()](path))
    except (DataError, OSError, ValueError, EOFError, wave.Error, csv.Error) as error:
        return Recording(path.name, None, str(error) or type(error).__name__)


def folder(path: Path) -> Iterator[Recording]:
    """Every readable file of a folder, by name. Raises DataError when there is none."""
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in READERS and p.is_file())
    if not files:
        raise DataError(f"{path}: no recordings; put {', '.join(sorted(READERS))} files there")
    for file in files:
        yield read(file)


def json_lines(stream: IO[str]) -> Iterator[Recording]:
    """One JSON object a line: {"name": …, "values": [[…], …]}, null for a missing value."""
    number = 0
    while line := stream.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        name = f"line {number}"
        if len(line) > MAX_LINE_CHARACTERS:
            while line and not line.endswith("\n"):
                line = stream.readline(MAX_LINE_CHARACTERS)
            yield Recording(name, None, f"longer than {MAX_LINE_CHARACTERS} characters")
        elif line.strip():
            yield _json_line(line, name)


def _json_line(line: str, name: str) -> Recording:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Recording(name, None, f"not JSON: {error}")
    if isinstance(record, dict):
        name = str(record.get("name", name))
    if not isinstance(record, dict) or "values" not in record:
        return Recording(name, None, 'not an object with "values"')
    try:
        values = np.array(record["values"])
        if values.dtype == object:  # a null among the numbers
            values = np.array(record["values"], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return Recording(name, None, '"values" is not a regular array of numbers')
    if values.ndim < 2 or values.dtype.kind not in "fiu":
        return Recording(name, None, f'"values" has shape {values.shape} of {values.dtype}; send rows of channels')
    return Recording(name, values)


def open_source(where: str, stdin: IO[str]) -> Iterator[Recording]:
    """`where`: a folder, a file, or '-' for JSON lines on standard input."""
    if where == "-":
        return json_lines(stdin)
    path = Path(where)
    if path.is_dir():
        return folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give a folder of recordings, a file, or - for standard input")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_file(path)
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(sorted(READERS))}")
    return iter([read(path)])


def _json_file(path: Path) -> Iterator[Recording]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from json_lines(stream)
