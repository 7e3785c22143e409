"""Pauses between attempts at something that is away: longer each time, bounded, and different on each device."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """`first`, `longest`: seconds."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest, self._next = first, max(first, longest), first

    def reset(self) -> None:
        self._next = self._first

    def seconds(self) -> float:
        """Half to all of the pause, at random: after a power cut not all devices ask a recorder at once."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause * random.uniform(0.5, 1.0)
