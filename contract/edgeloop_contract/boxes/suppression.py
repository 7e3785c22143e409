"""Non-maximum suppression: of boxes with one label that overlap, the one with the highest score stays."""

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["iou_matrix", "suppress"]

BLOCK = 256  # candidates that are compared with each other at a time: memory is bounded, and matrices stay in the cache


def iou_matrix(a: Array, b: Array) -> Array:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4); 0 where both have no area."""
    wide = np.minimum(a[:, None, 2], b[None, :, 2])
    wide -= np.maximum(a[:, None, 0], b[None, :, 0])
    np.maximum(wide, 0, out=wide)
    tall = np.minimum(a[:, None, 3], b[None, :, 3])
    tall -= np.maximum(a[:, None, 1], b[None, :, 1])
    np.maximum(tall, 0, out=tall)
    wide *= tall
    areas = _areas(a)[:, None] + _areas(b)[None, :]
    areas -= wide
    return np.asarray(np.divide(wide, areas, out=np.zeros_like(wide), where=areas > 0))


def _areas(boxes: Array) -> Array:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def suppress(boxes: Array, scores: Array, labels: Array, iou_threshold: float, most: int) -> Array:
    """The rows (k,) that stay, best first, at most `most`. Boxes (n, 4) with other labels do not suppress each other.

    Greedy: a box is out where a better one of its label, that stays, overlaps it by more than `iou_threshold` (0 to 1). Ties keep
    the order of the rows.
    """
    order = np.argsort(-scores, kind="stable")
    x = np.ascontiguousarray(boxes[order].T, dtype=np.float32)
    kinds = labels[order]
    several = len(kinds) > 0 and bool((kinds != kinds[0]).any())
    area = (x[2] - x[0]) * (x[3] - x[1])
    out = np.zeros(len(order), bool)
    kept: list[int] = []
    for start in range(0, len(order), BLOCK):
        mine = np.flatnonzero(~out[start : start + BLOCK]) + start
        over = _overlapping(x, area, kinds if several else None, mine, mine, iou_threshold)
        gone, stay = np.zeros(len(mine), bool), []
        for i in range(len(mine)):
            if not gone[i]:
                stay.append(i)
                if len(kept) + len(stay) >= most:
                    return np.asarray(order[kept + mine[stay].tolist()])
                gone |= over[i]
        kept += mine[stay].tolist()
        rest = np.flatnonzero(~out[start + BLOCK :]) + start + BLOCK
        if len(rest) and stay:
            out[rest] = _overlapping(x, area, kinds if several else None, mine[stay], rest, iou_threshold).any(0)
    return np.asarray(order[kept], dtype=np.intp)


def _overlapping(x: Array, area: Array, kinds: Array | None, a: Array, b: Array, iou_threshold: float) -> Array:
    """Whether the boxes `a` overlap the boxes `b` too much, (len(a), len(b)); rows of coordinates (4, n), without a division."""
    p, q = x[:, a, None], x[:, None, b]
    wide = np.minimum(p[2], q[2])
    wide -= np.maximum(p[0], q[0])
    np.maximum(wide, 0, out=wide)
    tall = np.minimum(p[3], q[3])
    tall -= np.maximum(p[1], q[1])
    np.maximum(tall, 0, out=tall)
    wide *= tall
    # intersection / (sum − intersection) > t is the same as intersection × (1 + t) > t × sum
    wide *= 1 + iou_threshold
    scaled = area * np.float32(iou_threshold)
    found = wide > scaled[a, None] + scaled[None, b]
    if kinds is not None:
        found &= kinds[a, None] == kinds[None, b]
    return np.asarray(found)
