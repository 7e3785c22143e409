"""Arrays as every package names them: the type, the dtypes that a bundle may hold, and rows chosen evenly."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

__all__ = ["DTYPES", "Array", "DtypeName", "evenly_spaced_rows"]

Array = np.ndarray[Any, np.dtype[Any]]
DtypeName = Literal["uint8", "int8", "int16", "float32", "float16", "float64", "int32", "int64", "uint16", "uint32", "bool"]
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in get_args(DtypeName)}


def evenly_spaced_rows(count: int, most: int) -> Array:
    """Numbers of at most `most` of `count` rows, evenly spaced, the first and the last among them: (n,) int64, rising."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
