"""Round trip and bandwidth of the link to one tail server, estimated from transfers, and a circuit breaker."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MAX_TRANSFERS = 32
MIN_WEIGHT = 1e-6
DECAY = 0.93  # weight of each observation against the one after it …
HALF_LIFE_SECONDS = 2.0  # … and of its age: networks move with whoever carries them
SPREAD = 3.0  # largest size against the smallest, for a line through them
CHANGED = 1.6  # times longer or shorter than expected …
OUTLIERS_FOR_CHANGE = 2  # … so often in a row: one alone may be chance, unless nothing was seen for …
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
    _outliers: int = 0  # transfers in a row that took quite another time: above 0 longer, below 0 shorter

    @property
    def ambiguous(self) -> bool:
        """Whether too few different sizes were seen to tell round trip and bandwidth apart."""
        sizes = [size for size, _, _ in self._seen]
        return len(sizes) < 3 or max(sizes) < SPREAD * min(sizes)

    def observe_probe(self, seconds: float) -> None:
        """An exchange of a few bytes, the least that a request can take."""
        if self.round_trip is None or seconds > self.round_trip:
            self.round_trip = seconds

    def observe(self, size: float, seconds: float, now: float) -> None:
        """`size` bytes crossed (both directions together) in `seconds`, without the server's own time. `now`: monotonic seconds."""
        expected = self.expected(size)
        odd = 0 if expected is None else int(seconds > expected * CHANGED) - int(seconds < expected / CHANGED)
        self._outliers = self._outliers + odd if odd * self._outliers > 0 else odd
        stale = not self._seen or now - self._seen[-1][2] > STALE_SECONDS
        if abs(self._outliers) >= (1 if stale else OUTLIERS_FOR_CHANGE):
            self._seen = [] if stale else self._seen[1 - OUTLIERS_FOR_CHANGE :]
        self._seen = [*self._seen[1 - MAX_TRANSFERS :], (size, max(seconds, 1e-6), now)]
        if self.ambiguous:
            self._fit_one_size()
        else:
            self._fit_line()

    def _weights(self) -> list[float]:
        newest, count = self._seen[-1][2], len(self._seen)
        ages = [(newest - at) / HALF_LIFE_SECONDS for _, _, at in self._seen]
        return [max(MIN_WEIGHT, DECAY ** (count - 1 - i) * 0.5**age) for i, age in enumerate(ages)]

    def _fit_line(self) -> None:
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

    def _fit_one_size(self) -> None:
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
    """Closed: the tail is used. Open: it failed, and is not used until `retry_at`; each failure doubles the pause up to a limit."""

    failures: int = 0
    retry_at: float = 0.0  # monotonic seconds
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
            self.retry_at = now + max(pause, self._pause * self._random.uniform(0.8, 1.2))
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def succeeded(self) -> None:
        self.failures, self.is_open, self.why, self._pause = 0, False, "", FIRST_PAUSE_SECONDS
