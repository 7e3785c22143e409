"""Weights that a TFLite file keeps sparse, made dense."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["dense"]

MAX_VALUES = 1 << 28


def dense(values: Array, sparsity: Any, shape: Sequence[int]) -> Array:
    """`values`: those that are kept, one behind the other; `sparsity`: the schema's. Raises ValueError where they do not fit.

    The format goes through the axes in its own order, each dense or as compressed rows; an axis can be cut into blocks, whose inner
    part is one more axis behind the others.
    """
    order, blocked = (
        [int(v) for v in sparsity.traversalOrder],
        [int(v) for v in sparsity.blockMap] if sparsity.blockMap is not None else [],
    )
    if (
        prod(shape) > MAX_VALUES
        or sorted(order) != list(range(len(shape) + len(blocked)))
        or len(sparsity.dimMetadata) != len(order)
    ):
        raise ValueError("its sparse weights have no whole description")
    place, along = np.zeros(1, np.int64), np.zeros((0, 1), np.int64)  # among what is kept so far; (axes so far, places)
    for level in sparsity.dimMetadata:
        if level.arraySegments is None:
            size = int(level.denseSize)
            own = np.tile(np.arange(size), len(place))
            place, along = np.repeat(place, size) * size + own, np.repeat(along, size, axis=1)
        else:
            ends, indices = np.asarray(level.arraySegments.values, np.int64), np.asarray(level.arrayIndices.values, np.int64)
            first, count = ends[place], ends[place + 1] - ends[place]
            along = np.repeat(along, count, axis=1)
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            place = np.repeat(first, count) + within
            own = indices[place]
        along = np.concatenate([along, own[None]])
        if len(place) > MAX_VALUES:
            raise ValueError("its sparse weights are too many")
    axes = {axis: along[i] for i, axis in enumerate(order)}
    sizes = {axis: int(level.denseSize) for axis, level in zip(order, sparsity.dimMetadata, strict=True)}
    for block, axis in enumerate(blocked):
        inner = len(shape) + block
        axes[axis] = axes[axis] * sizes[inner] + axes[inner]
    found = np.zeros(shape, values.dtype)
    found[tuple(axes[axis] for axis in range(len(shape)))] = values.reshape(-1)[place]
    return found
