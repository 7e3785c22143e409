"""A stored sample's values as arrays."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.messages import NamedArray


def array_of(row: Any) -> Array:
    """The first input of a table's row, (*sample)."""
    return _array(row.dtype, json.loads(row.shape), row.data)


def arrays_of(row: Any) -> dict[str, Array]:
    """Each input of a table's row by its name; "" is the name of a model's only one."""
    others = {other.name: _array(other.dtype, other.shape, other.data) for other in others_of(row)}
    return {row.input or "": array_of(row), **others}


def others_of(row: Any) -> list[NamedArray]:
    """The inputs beside the first, as they were sent."""
    return msgspec.msgpack.decode(row.others, type=list[NamedArray]) if row.others else []


def _array(dtype: str, shape: list[int], data: bytes) -> Array:
    return np.frombuffer(zlib.decompress(data), np.dtype(dtype).newbyteorder("<")).reshape(shape)
