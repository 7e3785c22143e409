"""A stored sample's values as an array."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array


def array_of(row: Any) -> Array:
    """The sample of a table's row, (*sample)."""
    kind = np.dtype(row.dtype).newbyteorder("<")
    return np.frombuffer(zlib.decompress(row.data), kind).reshape(json.loads(row.shape))
