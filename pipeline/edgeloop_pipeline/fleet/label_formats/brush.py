"""Label Studio's run lengths of a painted mask: a stream of bits over the picture as red, green, blue and alpha, row by row.

A header says the number of values (32 bits), the bits of a value − 1 (5) and four sizes of lengths − 1 (4 each). Then runs follow:
a bit (1: one value repeated, 0: values one by one), which of the sizes (2 bits), the length − 1, and the value or the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

VALUE_BITS, LENGTH_BITS = 8, 16
SIZES = (3, 4, 8, LENGTH_BITS)
CHANNELS, ALPHA = 4, 3
PAINTED = 255


def packed(mask: Array) -> list[int]:
    """The bytes of a mask (height, width) bool."""
    flat = np.repeat(mask.reshape(-1), CHANNELS)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, len(flat))
    bits = [f"{len(flat):032b}", f"{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    start = 0
    for end in ends.tolist():
        value = PAINTED if flat[start] else 0
        while start < end:
            length = min(end - start, 1 << LENGTH_BITS)
            bits.append(f"111{length - 1:0{LENGTH_BITS}b}{value:0{VALUE_BITS}b}")
            start += length
    text = "".join(bits)
    return list(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big"))


def unpacked(content: Sequence[int], height: int, width: int) -> Array:
    """The mask (height, width) bool. Raises DataError for what is no such mask of this size."""
    text = "".join(f"{byte:08b}" for byte in bytes(content))
    at = 0

    def read(bits: int) -> int:
        nonlocal at
        at += bits
        if at > len(text):
            raise DataError("a painted mask ends too early")
        return int(text[at - bits : at], 2)

    count, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in SIZES]
    if count != height * width * CHANNELS:
        raise DataError(f"a painted mask of {count // CHANNELS} pixels for a picture of {width} × {height}")
    values, start = np.zeros(count, np.uint32), 0
    while start < count:
        repeated = read(1)
        end = min(start + 1 + read(sizes[read(2)]), count)
        if repeated:
            values[start:end] = read(value_bits)
        else:
            values[start:end] = [read(value_bits) for _ in range(start, end)]
        start = end
    return np.asarray(values.reshape(height, width, CHANNELS)[..., ALPHA] > 0)
