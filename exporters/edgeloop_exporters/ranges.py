"""The range of an activation from what calibration saw of it: pure functions over a sample of its values."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["LEVELS", "Method", "clipped", "spread"]

Method = Literal["minmax", "percentile", "mse", "entropy"]
LEVELS = 255
HALF = 127  # levels on each side of zero
SHRINKS = torch.linspace(1.0, 0.1, 46)
BINS = 2048
# Values, evenly spread, that each of some ninety ranges is tried on; all of them would take minutes for large pictures.
SEARCHED = 131_072


def spread(values: Tensor, most: int) -> Tensor:
    """About `most` of the values (1-D), evenly spread: a view.

    The step has no factor in common with their number. Channels lie side by side, and a step of 48 over 24 channels would see
    one of them.
    """
    step = max(1, len(values) // most)
    while math.gcd(step, len(values)) > 1:
        step += 1
    return values[::step]


def clipped(values: Tensor, method: Method, percentile: float, symmetric: bool = False) -> tuple[float, float]:
    """Low and high of the range that `method` chooses for these values (1-D); never wider than theirs. `symmetric`: low is −high.

    percentile: so much of the values on each side. mse: the least squared error after rounding. entropy: the least
    Kullback-Leibler divergence of the rounded values' histogram from the values' (Migacz 2017).
    """
    if symmetric:
        peak = _peak(values.abs(), method, percentile)
        return -peak, peak
    low, high = float(values.min()), float(values.max())
    if method == "minmax" or low == high:
        return low, high
    if method == "percentile":
        tail = (100.0 - percentile) / 100.0
        ordered = values.sort().values
        last = len(ordered) - 1
        return float(ordered[round(tail * last)]), float(ordered[round((1 - tail) * last)])
    cost = _squared_error if method == "mse" else _divergence
    values = spread(values, SEARCHED)
    # One side after the other, the longer tail first: rarely are both too long.
    sides = (False, True) if abs(low) > abs(high) else (True, False)
    for upper in sides:
        candidates = [(low, high * float(s)) if upper else (low * float(s), high) for s in SHRINKS]
        if (high if upper else -low) > 0:
            low, high = min(candidates, key=lambda pair: cost(values, *pair))
    return low, high


def _peak(sizes: Tensor, method: Method, percentile: float) -> float:
    """The largest distance from zero that int8 around zero tells apart: of `sizes`, which are none below zero."""
    most = float(sizes.max())
    if method == "minmax" or most == 0:
        return most
    if method == "percentile":
        return float(sizes.sort().values[round(percentile / 100.0 * (len(sizes) - 1))])

    sizes = spread(sizes, SEARCHED)
    above = sizes[sizes > 0]  # zero is exact in every range, and half of what a relu makes: it would hide the others

    def cost(peak: float) -> float:
        if method == "entropy":
            return _divergence(above, 0.0, peak, HALF)
        scale = max(peak / HALF, 1e-8)
        return float(((sizes - (sizes / scale).round().clamp(max=HALF) * scale) ** 2).mean())

    return min((most * float(share) for share in SHRINKS), key=cost)


def rounded(values: Tensor, low: float, high: float) -> Tensor:
    """As a uint8 quantizer of this range hands them on."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / LEVELS, 1e-8)
    zero = round(-low / scale)
    return ((values / scale).round().add(zero).clamp(0, LEVELS) - zero) * scale


def _squared_error(values: Tensor, low: float, high: float) -> float:
    return float(((values - rounded(values, low, high)) ** 2).mean())


def _divergence(values: Tensor, low: float, high: float, levels: int = LEVELS) -> float:
    """KL of the histogram after clipping and rounding from the clipped one, mass outside at the edges."""
    if high <= low:
        return float("inf")
    width = (high - low) / BINS
    inside = torch.histc(values, BINS, low, high)
    outside = torch.tensor([float((values < low).sum()), float((values > high).sum())])
    wanted = inside.clone()
    wanted[0] += outside[0]
    wanted[-1] += outside[1]
    centres = low + width * (torch.arange(BINS) + 0.5)
    level = ((centres - low) / (high - low) * levels).round().long()
    mass = torch.zeros(levels + 1).index_add_(0, level, inside)
    filled = torch.zeros(levels + 1).index_add_(0, level, (inside > 0).float())
    spread = torch.where(inside > 0, mass[level] / filled[level].clamp(min=1), torch.zeros(()))
    p, q = wanted / wanted.sum(), spread / spread.sum().clamp(min=1e-12)
    some = p > 0
    return float((p[some] * (p[some] / q[some].clamp(min=1e-9)).log()).sum())
