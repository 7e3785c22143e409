"""One array in the .npy format, read without running its header: numpy's own reader evaluates it, and trusts the shape.

Source: numpy's NEP 1. Versions 1 to 3; numbers and booleans only.
"""

from __future__ import annotations

import math
import re

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["decode"]

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 4096
MAX_DIMENSIONS = 32
HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<>|=]?(?:[iu][1248]|f[248]|b1))', 'fortran_order': (?P<fortran>True|False),"
    rb" 'shape': \((?P<shape>(?:\d{1,18}(?:, ?\d{1,18})*,?)?)\),? ?\}[ ]*\n"
)


def decode(data: bytes) -> Array:
    """The array in `data`. Raises ValueError if it is not a plain array, or its shape and its bytes disagree."""
    if data[:6] != MAGIC or len(data) < 12 or data[6] not in (1, 2, 3):
        raise ValueError("does not begin as an .npy file does")
    width = 2 if data[6] == 1 else 4
    start = 8 + width
    end = start + int.from_bytes(data[8:start], "little")
    header = HEADER.fullmatch(data[start:end]) if end <= min(len(data), start + MAX_HEADER_BYTES) else None
    if header is None:
        raise ValueError("its header does not describe a plain array of numbers")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    count = math.prod(shape)
    if len(shape) > MAX_DIMENSIONS or count * dtype.itemsize != len(data) - end:
        raise ValueError(f"shape {shape} of {dtype} needs {count * dtype.itemsize} bytes, and {len(data) - end} follow the header")
    flat = np.frombuffer(data, dtype, count, end)
    return flat.reshape(shape, order="F" if header["fortran"] == b"True" else "C").astype(dtype.newbyteorder("="))
