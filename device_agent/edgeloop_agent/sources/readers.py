"""What is in one file of a recording, by its ending: tables, arrays, sound, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeloop_agent.runtimes import Array
from edgeloop_agent.sources import Recording
from edgeloop_contract.errors import DataError, DeviceError

MAX_FILE_BYTES = 256 << 20


def read_csv(path: Path) -> Array:
    """A time series: one row a point, one column a channel, an optional header line; an empty cell is a missing value."""
    import csv  # each reader's own library is imported where it reads: start is felt, and most devices have one kind of file

    with path.open(newline="", encoding="utf-8") as file:
        try:
            rows = [row for row in csv.reader(file) if row]
        except csv.Error as error:
            raise DataError(str(error)) from error
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
    import wave

    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2:
                raise DataError(f"{8 * file.getsampwidth()}-bit sound; only 16-bit PCM is read")
            data = file.readframes(file.getnframes())
            return np.frombuffer(data, dtype="<i2").astype(np.int16).reshape(-1, file.getnchannels())
    except wave.Error as error:
        raise DataError(str(error)) from error


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
    except (DataError, OSError, ValueError, EOFError) as error:
        return Recording(path.name, None, str(error) or type(error).__name__)
