"""Removes from samples what must not leave the device: when they are kept and, because the rules may change, when they are sent."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from edgeloop_agent.config import Samples as Settings
from edgeloop_contract.arrays import Array
from edgeloop_contract.messages import NamedArray, Sample


def packed(values: Array, level: int) -> bytes:
    """An array as `Sample.data`."""
    return zlib.compress(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes(), level)


def redacted_again(sample: Sample, settings: Settings) -> Sample:
    """Apply the present rules to a kept sample; without rules it is returned as it is."""
    if not settings.drop_channels and settings.blur <= 1:
        return sample
    first, *others = (msgspec.structs.replace(each, data=packed(redacted(_unpacked(each), settings), 6)) for each in sample.inputs)
    return msgspec.structs.replace(sample, data=first.data, others=others)


def _unpacked(array: NamedArray) -> Array:
    kind = np.dtype(array.dtype)
    return np.frombuffer(zlib.decompress(array.data), kind.newbyteorder("<")).reshape(array.shape).astype(kind)


def redacted(values: Array, settings: Settings) -> Array:
    """A copy of one input of a sample (*sample) with `drop_channels` zeroed and images blurred. A number alone is a row of one."""
    out = np.array(values, ndmin=1)
    for channel in settings.drop_channels:
        if channel < out.shape[-1]:
            out[..., channel] = 0
    if settings.blur > 1 and out.ndim == 3:
        out = blurred(out, settings.blur)
    return out


def blurred(image: Array, size: int) -> Array:
    """(H, W, C) with each field of `size` × `size` at its mean."""
    h, w, _ = image.shape
    rows, columns = np.arange(0, h, size), np.arange(0, w, size)
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, axis=0), columns, axis=1)
    area = np.outer(np.diff([*rows, h]), np.diff([*columns, w]))[..., None]
    mean = np.repeat(np.repeat(sums / area, np.diff([*rows, h]), axis=0), np.diff([*columns, w]), axis=1)
    return np.asarray(np.rint(mean).astype(image.dtype) if image.dtype.kind in "iu" else mean.astype(image.dtype))
