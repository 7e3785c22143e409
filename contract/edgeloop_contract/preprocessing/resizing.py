"""Resizing of pictures, one implementation for training and device. Memory is bounded, however large the picture is.

Without antialiasing as OpenCV, torch and TensorFlow do it (half-pixel centres; few input pixels count); with it as Pillow does it
(every input pixel counts): in its fixed-point arithmetic, so that 8-bit pictures are equal to Pillow's.
"""

from typing import Literal

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["Method", "OutputDtype", "resized"]

Method = Literal["bilinear", "nearest", "bicubic"]
OutputDtype = Literal["uint8", "float32"]
Taps = list[tuple[Array, Array]]  # for each tap: the input index, and the weight (float32), of every output position

BLOCK_VALUES = 1 << 21  # of a picture in floats at a time
CACHED_VALUES = 1 << 16  # of a picture at a time: they stay in the processor's cache, and malloc gives them without new pages
GROUP = 8  # output positions of one matrix product
PRECISION_BITS = 22  # of Pillow's weights: 32 less 8 of a pixel and 2 for what overshoots


def resized(x: Array, height: int, width: int, method: Method, antialias: bool, dtype: OutputDtype) -> Array:
    """(N, h, w, C) → (N, height, width, C) of `dtype`; uint8 values are rounded and saturate."""
    if x.shape[1:3] == (height, width):
        return x if dtype == "uint8" else x.astype(np.float32)
    if method == "nearest":
        chosen = x[:, _nearest(x.shape[1], height)][:, :, _nearest(x.shape[2], width)]
        return _rounded(chosen) if dtype == "uint8" else chosen.astype(np.float32)
    if antialias:
        return _filtered(x, height, width, method, dtype)
    if method == "bilinear" and dtype == "uint8" == x.dtype and x.shape[1] % (2 * height) == x.shape[2] % (2 * width) == 0:
        return _means_of_four(x, height, width)
    taps = _linear_taps if method == "bilinear" else _cubic_taps
    return _gathered(x, taps(x.shape[1], height), taps(x.shape[2], width), dtype)


def _rounded(values: Array) -> Array:
    return values if values.dtype == np.uint8 else np.asarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _nearest(size: int, wanted: int) -> Array:
    """The input position at each output's centre, by sums of the step as Pillow adds it up: ties fall as they fall there."""
    step = size / wanted
    steps = np.full(wanted, step)
    steps[0] = step * 0.5
    return np.minimum(np.cumsum(steps).astype(np.intp), size - 1)


def _gathered(x: Array, rows: Taps, columns: Taps, dtype: OutputDtype) -> Array:
    """Few pixels for each output: only the rows that are needed become floats, a block of them at a time."""
    height, width = len(rows[0][0]), len(columns[0][0])
    made = np.empty((len(x), height, width, x.shape[3]), dtype)
    block = max(1, CACHED_VALUES // (len(x) * x.shape[2] * x.shape[3]))
    for start in range(0, height, block):
        part = slice(start, start + block)
        image = _weighed([(_taken(x, index[part], 1), weight[part, None, None]) for index, weight in rows])
        image = _weighed([(_taken(image, index, 2), weight[:, None]) for index, weight in columns])
        made[:, part] = _rounded(image) if dtype == "uint8" else image
    return made


def _means_of_four(x: Array, height: int, width: int) -> Array:
    """Where both sides are divided by an even number: of each output the four pixels in its middle, each a quarter.

    In whole numbers: halves go to the even neighbour, as `rint` rounds them. Lines are added as wholes, and neighbours on a line a
    channel at a time: numpy takes twice as long for pixels of three values that lie apart.
    """
    count, tall, wide, channels = x.shape
    down, across = tall // height, wide // width
    made = np.empty((count, height, width, channels), np.uint8)
    block = min(height, max(1, CACHED_VALUES // (count * wide * channels)))
    pairs = np.empty((count, block, wide * channels), np.uint16)  # once for all blocks: new pages cost more than the sums
    fours, odd = (np.empty((count, block, width * channels), np.uint16) for _ in range(2))
    for start in range(0, height, block):
        rows = min(block, height - start)
        first = start * down + down // 2 - 1
        last = first + (rows - 1) * down + 1
        upper, lower = (x[:, at : at + last - first : down].reshape(count, rows, -1) for at in (first, first + 1))
        two, four, one = pairs[:, :rows], fours[:, :rows], odd[:, :rows]
        np.add(upper, lower, out=two, dtype=np.uint16)
        columns, sums = two.reshape(count, rows, width, -1), four.reshape(count, rows, width, channels)
        for left in range((across // 2 - 1) * channels, across // 2 * channels):
            np.add(columns[..., left], columns[..., left + channels], out=sums[..., left % channels])
        np.right_shift(four, 2, out=one)
        one &= 1
        four += one
        four += 1
        np.right_shift(four, 2, out=made[:, start : start + rows].reshape(count, rows, -1), casting="unsafe")
    return made


def _taken(x: Array, index: Array, axis: int) -> Array:
    """These places of an axis: a view where they are evenly spaced, as in half of a side, which copies nothing."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step < 1 or (np.diff(index) != step).any():
        return x.take(index, axis)
    places = [slice(None)] * x.ndim
    places[axis] = slice(int(index[0]), int(index[-1]) + 1, step)
    return x[tuple(places)]


def _weighed(parts: list[tuple[Array, Array]]) -> Array:
    total = parts[0][0].astype(np.float32) * parts[0][1]
    for values, weight in parts[1:]:
        total += values.astype(np.float32) * weight
    return np.asarray(total)


def _linear_taps(size: int, wanted: int) -> Taps:
    position = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    share = (position - low).astype(np.float32)
    return [(low, 1 - share), (np.minimum(low + 1, size - 1), share)]


def _cubic_taps(size: int, wanted: int) -> Taps:
    """Four neighbours by Keys' cubic with a = −0.75; beyond the edge the edge's pixel is repeated."""
    position = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    low = np.floor(position).astype(np.intp)
    offsets = range(-1, 3)
    weights = [_cubic(position - low - offset, -0.75).astype(np.float32) for offset in offsets]
    return [(np.clip(low + offset, 0, size - 1), weight) for offset, weight in zip(offsets, weights, strict=True)]


def _cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel (1981)."""
    d = np.abs(distance)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, (((d - 5) * d + 8) * d - 4) * a
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _filtered(x: Array, height: int, width: int, method: Method, dtype: OutputDtype) -> Array:
    """Both passes of Pillow, columns first, then rows; an 8-bit picture is rounded after each.

    So does every Pillow up to 12. Pillow 13 takes the rows first where height − new height > 2 × (width − new width).
    """
    exact = dtype == "uint8"
    if exact:
        x = _rounded(x)
    if x.shape[2] != width:
        x = _columns(x, *_window_taps(x.shape[2], width, method, exact), exact)
    if x.shape[1] != height:
        x = _rows(x, *_window_taps(x.shape[1], height, method, exact), exact)
    return x


def _window_taps(size: int, wanted: int, method: Method, exact: bool) -> tuple[Array, Array]:
    """(wanted,) first input positions and (wanted, taps) weights, 0 behind the last: whole numbers where `exact`."""
    scale = size / wanted
    spread = max(scale, 1.0)
    support = (1.0 if method == "bilinear" else 2.0) * spread
    centre = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), size)
    place = first[:, None] + np.arange(int((last - first).max()))
    distance = (place - centre[:, None] + 0.5) / spread
    weights = np.maximum(1 - np.abs(distance), 0) if method == "bilinear" else _cubic(distance, -0.5)
    weights[place >= last[:, None]] = 0
    weights /= weights.cumsum(axis=1)[:, -1:]  # one after the other, as Pillow adds them up
    if exact:
        scaled = weights * (1 << PRECISION_BITS)
        weights = np.trunc(scaled + np.copysign(0.5, scaled))
    return first, weights


def _groups(first: Array, weights: Array, size: int) -> list[tuple[slice, slice, Array]]:
    """For each group of neighbouring outputs: the outputs, the inputs they need, and the (inputs, outputs) weights."""
    made = []
    for start in range(0, len(first), GROUP):
        outputs = slice(start, min(start + GROUP, len(first)))
        low, high = int(first[outputs.start]), min(int(first[outputs.stop - 1]) + weights.shape[1], size)
        matrix = np.zeros((high - low, outputs.stop - outputs.start))
        for column, output in enumerate(range(outputs.start, outputs.stop)):
            begin = int(first[output]) - low
            count = min(weights.shape[1], high - low - begin)
            matrix[begin : begin + count, column] = weights[output, :count]
        made.append((outputs, slice(low, high), matrix))
    return made


def _settled(sums: Array, exact: bool) -> Array:
    """Pillow's rounding: half a unit added, the fraction cut off, limited to 8 bits. The sums are whole and exact in float64."""
    if not exact:
        return sums.astype(np.float32)
    half = 1 << (PRECISION_BITS - 1)
    return np.asarray(np.clip(np.floor((sums + half) / (1 << PRECISION_BITS)), 0, 255).astype(np.uint8))


def _columns(x: Array, first: Array, weights: Array, exact: bool) -> Array:
    count, height, size, channels = x.shape
    groups = _groups(first, weights, size)
    made = np.empty((count, height, len(first), channels), np.uint8 if exact else np.float32)
    block = max(1, BLOCK_VALUES // (size * channels))
    for picture in range(count):
        for start in range(0, height, block):
            lines = np.ascontiguousarray(x[picture, start : start + block].transpose(0, 2, 1), dtype=np.float64)
            lines = lines.reshape(-1, size)
            sums = np.empty((len(lines), len(first)))
            for outputs, inputs, matrix in groups:
                sums[:, outputs] = lines[:, inputs] @ matrix
            settled = _settled(sums, exact).reshape(-1, channels, len(first))
            made[picture, start : start + block] = settled.transpose(0, 2, 1)
    return made


def _rows(x: Array, first: Array, weights: Array, exact: bool) -> Array:
    count, size, width, channels = x.shape
    made = np.empty((count, len(first), width, channels), np.uint8 if exact else np.float32)
    lines, target = x.reshape(count, size, -1), made.reshape(count, len(first), -1)
    for picture in range(count):
        for outputs, inputs, matrix in _groups(first, weights, size):
            block = max(1, BLOCK_VALUES // len(matrix))
            for start in range(0, lines.shape[2], block):
                part = slice(start, start + block)
                target[picture, outputs, part] = _settled(matrix.T @ lines[picture, inputs, part].astype(np.float64), exact)
    return made
