"""Where the peak of a map of scores lies within its highest cell: the Taylor expansion of the smoothed map's logarithm.

Distribution-aware coordinates (DARK), Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", 2020.
"""

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["peak_moves"]

REACH = 2  # cells around the highest one whose smoothed values are read
TINY = 1e-10
FLAT = 1e-12  # a determinant below it says no peak
MOST = 1.0  # cells: a peak that is farther away is none of this cell


def peak_moves(maps: Array, y: Array, x: Array, blur: int, activation: str = "none") -> Array:
    """How far each map's peak is from its highest cell (2, n), as x and y, in cells, at most 1.

    `maps` (n, rows, columns): scores, or with `activation` "sigmoid" their logits. `y`, `x` (n,): the highest cells. `blur`: the
    width in cells of the Gaussian that smooths them. A map whose highest cell lies at the edge, or without a peak, has none.
    """
    rows, columns = maps.shape[1:]
    around = np.arange(-REACH - blur // 2, REACH + blur // 2 + 1)
    down, across = y[:, None] + around, x[:, None] + around
    seen = maps[
        np.arange(len(maps))[:, None, None], np.clip(down, 0, rows - 1)[:, :, None], np.clip(across, 0, columns - 1)[:, None]
    ].astype(np.float64)  # fmt: skip
    if activation == "sigmoid":
        seen = 1 / (1 + np.exp(-np.clip(seen, -60, 60)))
    seen *= ((down >= 0) & (down < rows))[:, :, None] & ((across >= 0) & (across < columns))[:, None]
    moves = _peaks(np.log(np.maximum(_smoothed(seen, _gaussian(blur)), TINY)))
    inner = (y >= REACH) & (y < rows - REACH) & (x >= REACH) & (x < columns - REACH)
    return np.where(inner, moves, 0).astype(np.float32)


def _gaussian(width: int) -> Array:
    deviation = 0.3 * ((width - 1) * 0.5 - 1) + 0.8  # as OpenCV's for kernels of this width
    far = np.arange(width) - width // 2
    values = np.exp(-(far**2) / (2 * deviation**2))
    return np.asarray(values / values.sum())


def _smoothed(parts: Array, kernel: Array) -> Array:
    """The middles (n, 5, 5) of parts of maps, smoothed along both axes."""
    side = 2 * REACH + 1
    down = sum(weight * parts[:, i : i + side] for i, weight in enumerate(kernel))
    return np.asarray(sum(weight * down[:, :, i : i + side] for i, weight in enumerate(kernel)))


def _peaks(p: Array) -> Array:
    """x and y (2, n) of the maxima of the parabolas through logarithms (n, 5, 5); 0 where there is none."""
    dx, dy = (p[:, 2, 3] - p[:, 2, 1]) / 2, (p[:, 3, 2] - p[:, 1, 2]) / 2
    dxx, dyy = (p[:, 2, 4] - 2 * p[:, 2, 2] + p[:, 2, 0]) / 4, (p[:, 4, 2] - 2 * p[:, 2, 2] + p[:, 0, 2]) / 4
    dxy = (p[:, 3, 3] - p[:, 1, 3] - p[:, 3, 1] + p[:, 1, 1]) / 4
    determinant = dxx * dyy - dxy**2
    there = (dxx < 0) & (determinant > FLAT)
    divisor = np.where(there, determinant, 1)
    found = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy]) / divisor
    return np.where(there, np.clip(found, -MOST, MOST), 0)
