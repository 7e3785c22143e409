"""Chooses the window and the counts for sensor recordings: no recording is refused, and no precision is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array

LONGEST, SHORTEST = 128, 8  # points of a window
MARGIN, WIDE_MARGIN = 1.25, 16.0  # times the observed range
MIN_COUNTS = 4096  # over that range
FULL = 32767
FAR = 50  # times the range of nearly all values: an outlier


@dataclass(frozen=True)
class Seen:
    """Facts about all recordings together, per channel: least and greatest values; and the longest run of missing ones."""

    low: Array
    high: Array
    gap: int = 0
    inner_low: Array | None = None  # the range of nearly all values, in the recording with the widest one
    inner_high: Array | None = None

    @classmethod
    def of(cls, recordings: Sequence[Array]) -> Seen:
        """The facts about these recordings; a channel without values has the range 0 to 0."""
        columns = recordings[0].shape[1]
        low, high, gap = np.full(columns, np.inf), np.full(columns, -np.inf), 0
        for values in recordings:
            good = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
            low = np.minimum(low, np.where(good, values, np.inf).min(axis=0, initial=np.inf))
            high = np.maximum(high, np.where(good, values, -np.inf).max(axis=0, initial=-np.inf))
            gap = max(gap, longest_gap(good))
        none = ~np.isfinite(low)
        inner = [_inner(values) for values in recordings]
        return cls(
            np.where(none, 0.0, low), np.where(none, 0.0, high), gap,
            np.min([a for a, _ in inner], axis=0), np.max([b for _, b in inner], axis=0),
        )  # fmt: skip

    @classmethod
    def all(cls, parts: Sequence[Seen]) -> Seen:
        lows, highs = ([getattr(p, name) for p in parts] for name in ("inner_low", "inner_high"))
        return cls(
            np.min([p.low for p in parts], axis=0), np.max([p.high for p in parts], axis=0), max((p.gap for p in parts), default=0),
            np.min(lows, axis=0), np.max(highs, axis=0),
        )  # fmt: skip

    @property
    def far(self) -> list[bool]:
        """For each channel, whether a few values lie far outside all others."""
        if self.inner_low is None or self.inner_high is None:
            return [False] * len(self.low)
        inner = self.inner_high - self.inner_low
        return [bool(r > FAR * i > 0) for r, i in zip(self.high - self.low, inner, strict=True)]


def _inner(values: Array) -> tuple[Array, Array]:
    """The 10 % and the 90 % quantile of each channel; 0 without values."""
    found = np.zeros((2, values.shape[1]))
    for i, channel in enumerate(values.T):
        good = channel[np.isfinite(channel)] if channel.dtype.kind == "f" else channel
        if len(good):
            found[:, i] = np.quantile(good, (0.1, 0.9))
    return found[0], found[1]


def longest_gap(good: Array) -> int:
    """The largest number of successive rows in which one channel is missing."""
    longest = 0
    for channel in (~good).T:
        if channel.any():
            edges = np.diff(np.concatenate([[0], channel.astype(np.int8), [0]]))
            longest = max(longest, int((np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).max()))
    return longest


def window(lengths: Sequence[int]) -> tuple[int, bool]:
    """The points of a window that refuses no recording, and whether shorter recordings are padded."""
    shortest, longest, middle = min(lengths), max(lengths), int(np.median(lengths))
    if longest <= LONGEST:  # about one example per recording
        length = shortest if 2 * shortest >= longest else longest
    else:
        length = min(LONGEST, shortest) if shortest >= LONGEST // 2 else min(LONGEST, middle)
    length = max(SHORTEST, length)
    return length, shortest < length


def steps(length: int, pads: bool, seen: Seen) -> tuple[str, ...]:
    """The steps for window and counts. If a channel's range is small relative to its offset, zero is the middle of the range."""
    lsb, zero = zip(*(counts(float(a), float(b)) for a, b in zip(seen.low, seen.high, strict=True)), strict=True)
    zeros = f", zero: {list(zero)}" if any(zero) else ""
    short = ", short: pad" if pads else ""
    return (f"{{step: window, length: {length}, hop: {max(1, length // 2)}{short}}}", f"{{step: counts, lsb: {list(lsb)}{zeros}}}")


def counts(low: float, high: float) -> tuple[float, float]:
    """The step size and the zero (lsb, zero) of one channel."""
    greatest, half = max(abs(low), abs(high)), (high - low) / 2
    lsb = MARGIN * greatest / FULL
    if half > 0 and 2 * half < MIN_COUNTS * lsb:
        middle = (low + high) / 2
        zero = float(f"{middle:.6g}")
        return _rounded((WIDE_MARGIN * half + abs(middle - zero)) / FULL), zero
    return _rounded(lsb), 0.0


def _rounded(lsb: float) -> float:
    return float(f"{max(1e-12, lsb):.3g}")


def ranges(names: Sequence[str], seen: Seen) -> str:
    """The text with each channel's range, and a note if it is unusual."""
    shown = []
    for name, a, b, far in zip(names, seen.low, seen.high, seen.far, strict=True):
        _, zero = counts(float(a), float(b))
        about = " (never changes)" if a == b else f" (counted from {zero:g})" if zero else ""
        about += (
            " (nearly all values are in a much smaller range: if the outermost one means a missing value, empty these cells)"
            if far
            else ""
        )
        shown.append(f"{name} {a:.6g} to {b:.6g}{about}")
    return ", ".join(shown[:40]) + (" …" if len(shown) > 40 else "")


def filling(gap: int, length: int) -> tuple[tuple[str, ...], int]:
    """The cleaning step that fills gaps, and the longest gap that it fills; no step if nothing is missing."""
    most = min(gap, max(5, length // 2))
    return ((f"{{step: fill_missing, max_gap: {most}}}",), most) if gap else ((), 0)
