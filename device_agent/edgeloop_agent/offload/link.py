"""What the way to one tail costs, learned from what crosses it; and whether it is worth trying at all."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MOST_SEEN = 32
LEAST_WEIGHT = 1e-6
OLDER = 0.93  # weight of each observation against the one after it …
HALF_LIFE_SECONDS = 2.0  # … and of its age: networks move with whoever carries them
SPREAD = 3.0  # largest size against the smallest, for a line through them
CHANGED = 1.6  # times longer or shorter than expected …
ODD_ONES = 2  # … so often in a row: one alone may be chance, unless nothing was seen for …
STALE_SECONDS = 0.5
FAILURES_TO_OPEN = 2  # in a row
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0


@dataclass
class Link:
    """Round trip in seconds (with what each request costs anyhow) and bandwidth in bytes a second; None until it was measured.

    A line through the last transfers, newer ones counting more. Two in a row that take quite another time than was expected are a
    change, and so is one after a while without any: what came before is forgotten.
    """

    round_trip: float | None = None
    rate: float | None = None
    _seen: list[tuple[float, float, float]] = field(default_factory=list)  # bytes, seconds, and when; oldest first
    _odd: int = 0  # transfers in a row that took quite another time: above 0 longer, below 0 shorter

    @property
    def unsure(self) -> bool:
        """Were too few sizes seen to tell the two apart?"""
        sizes = [size for size, _, _ in self._seen]
        return len(sizes) < 3 or max(sizes) < SPREAD * min(sizes)

    def saw_probe(self, seconds: float) -> None:
        """An exchange of a few bytes, the least that a request can take."""
        if self.round_trip is None or seconds > self.round_trip:
            self.round_trip = seconds

    def saw(self, size: float, seconds: float, now: float) -> None:
        """`size` bytes crossed (both ways together) in `seconds`, the server's own time left out. `now`: monotonic seconds."""
        expected = self.expected(size)
        odd = 0 if expected is None else int(seconds > expected * CHANGED) - int(seconds < expected / CHANGED)
        self._odd = self._odd + odd if odd * self._odd > 0 else odd
        stale = not self._seen or now - self._seen[-1][2] > STALE_SECONDS
        if abs(self._odd) >= (1 if stale else ODD_ONES):
            self._seen = [] if stale else self._seen[1 - ODD_ONES :]
        self._seen = [*self._seen[1 - MOST_SEEN :], (size, max(seconds, 1e-6), now)]
        if self.unsure:
            self._by_one_size()
        else:
            self._by_line()

    def _weights(self) -> list[float]:
        newest, count = self._seen[-1][2], len(self._seen)
        ages = [(newest - at) / HALF_LIFE_SECONDS for _, _, at in self._seen]
        return [max(LEAST_WEIGHT, OLDER ** (count - 1 - i) * 0.5**age) for i, age in enumerate(ages)]

    def _by_line(self) -> None:
        """Weighted least squares."""
        weights = self._weights()
        total = sum(weights)
        size = sum(w * s for w, (s, _, _) in zip(weights, self._seen, strict=True)) / total
        took = sum(w * t for w, (_, t, _) in zip(weights, self._seen, strict=True)) / total
        spread = sum(w * (s - size) ** 2 for w, (s, _, _) in zip(weights, self._seen, strict=True))
        slope = sum(w * (s - size) * (t - took) for w, (s, t, _) in zip(weights, self._seen, strict=True)) / spread
        slope = min(max(slope, 0.02 * took / size), took / size)
        self.rate = 1 / slope
        self.round_trip = max(took - slope * size, 0.02 * took)

    def _by_one_size(self) -> None:
        """One equation for two unknowns: the larger part of what was expected is what changed."""
        weights = self._weights()
        size, took = (sum(w * s[i] for w, s in zip(weights, self._seen, strict=True)) / sum(weights) for i in (0, 1))
        trip = self.round_trip if self.round_trip is not None else took / 2
        if self.rate is not None and size / self.rate < trip:
            self.round_trip = max(took - size / self.rate, 0.1 * took)
            return
        self.round_trip = min(trip, 0.9 * took)
        self.rate = size / max(took - self.round_trip, 1e-6)

    def expected(self, size: float) -> float | None:
        """Seconds for `size` bytes there and back; None as long as nothing is known."""
        if self.round_trip is None or self.rate is None:
            return None
        return self.round_trip + size / self.rate


@dataclass
class Breaker:
    """Closed: the tail is used. Open: it failed, and is left alone until `again`; each failure doubles the pause, up to a limit."""

    failures: int = 0
    again: float = 0.0  # monotonic seconds
    is_open: bool = False
    why: str = ""
    _pause: float = FIRST_PAUSE_SECONDS
    _random: random.Random = field(default_factory=random.Random)

    def failed(self, now: float, why: str, pause: float = 0.0) -> None:
        """`pause`: seconds that the tail itself asked for."""
        self.failures += 1
        self.why = why
        if self.failures >= FAILURES_TO_OPEN or pause or self.is_open:
            self.is_open = True
            self.again = now + max(pause, self._pause * self._random.uniform(0.8, 1.2))
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def worked(self) -> None:
        self.failures, self.is_open, self.why, self._pause = 0, False, "", FIRST_PAUSE_SECONDS
