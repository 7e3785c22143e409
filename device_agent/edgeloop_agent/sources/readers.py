"""Readers of recordings in files, by ending: tables, arrays, sound, pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.sources import Recording
from edgeloop_agent.sources.pictures import read_image
from edgeloop_agent.sources.sounds import read_sound, read_wav
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, EdgeloopError
from edgeloop_contract.preprocessing import TextOrArray, text_or_array

__all__ = ["ENDINGS", "READERS", "SOUND", "read", "read_csv", "read_image", "read_npy", "read_sound", "read_wav"]

MAX_FILE_BYTES = 256 << 20


def read_csv(path: Path) -> Array:
    """A time series: one row a point, one column a channel (`tables.read_csv`)."""
    from edgeloop_agent.sources import tables  # each reader imports its library on first use, for a quick start

    return tables.read_csv(path)


def read_npy(path: Path) -> Array:
    """One array of numbers."""
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise DataError("several arrays in one file; save one with numpy.save")
    return array


def read_npz(path: Path) -> Recording:
    """An array for each input of a model, by its name; the only array by itself."""
    with np.load(path, allow_pickle=False) as arrays:
        named = {name: _member(arrays, name) for name in arrays.files}
    if not named:
        raise DataError("no array in it; save one for each input by numpy.savez")
    if len(named) == 1 and not isinstance(only := next(iter(named.values())), str):
        return Recording(path.name, only)
    return Recording(path.name, None, inputs=named)


def _member(arrays: Any, name: str) -> TextOrArray:
    """An array of numbers or texts, one text as itself. Raises DataError for Python objects: they are a pickle and can run code."""
    try:
        return text_or_array(arrays[name])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        what = f"{name}: holds Python objects (a pickle), which are never loaded"
        raise DataError(f"{what}; save texts by numpy.array(texts, dtype=str), and numbers as numbers") from error


READERS: dict[str, Callable[[Path], Array]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".npy": read_npy,
    ".wav": read_wav,
    ".flac": read_wav,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp"), read_image),
}
ENDINGS = frozenset((*READERS, ".npz"))
TABLES = frozenset((".csv", ".tsv"))
SOUND = frozenset((".wav", ".flac"))


def read(path: Path) -> Recording:
    """Read one file. Any error, of whatever library, becomes `refused`; the stream goes on."""
    try:
        size, ending = path.stat().st_size, path.suffix.lower()
        if not size:
            raise DataError("the file is empty")
        if size > MAX_FILE_BYTES:
            raise DataError(f"larger than {MAX_FILE_BYTES} bytes")
        if ending in SOUND:
            values, rate = read_sound(path)
            return Recording(path.name, values, rate_hz=rate)
        if ending == ".npz":
            return read_npz(path)
        if ending in TABLES:
            return _table(path)
        if ending not in READERS:
            raise DataError(f"none of the files that are read as recordings ({', '.join(sorted(ENDINGS))})")
        return Recording(path.name, READERS[ending](path))
    except EdgeloopError as error:
        return Recording(path.name, None, str(error))
    except MemoryError:
        return Recording(path.name, None, "it needs more memory than there is")
    except OSError as error:
        return Recording(path.name, None, error.strerror or str(error) or type(error).__name__)
    except Exception as error:  # csv, numpy, Pillow, struct …: no list of their errors is complete
        return Recording(path.name, None, f"cannot be read ({type(error).__name__}: {error})"[:500])


def _table(path: Path) -> Recording:
    """A table's numbers, and access to its columns by name: a table may hold text columns beside those that a model takes."""
    from edgeloop_agent.sources.columns import read_columns
    from edgeloop_agent.sources.input_tables import rows_of_table

    by_name, by_input = partial(read_columns, path), partial(rows_of_table, path, read)
    try:
        return Recording(path.name, READERS[path.suffix.lower()](path), by_name=by_name, by_input=by_input)
    except DataError as error:
        return Recording(path.name, None, str(error), by_name=by_name, by_input=by_input)
