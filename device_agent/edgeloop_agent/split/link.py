"""What the way to one tail costs, learned from what crosses it; and whether it is worth trying at all."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

WEIGHT = 0.4  # of the last observation
SIGNIFICANT = 0.3  # a transfer longer than this share of the round trip tells the bandwidth
FAILURES_TO_OPEN = 2  # in a row
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0


@dataclass
class Link:
    """Round trip in seconds and bandwidth in bytes a second; None until something was sent."""

    round_trip: float | None = None
    rate: float | None = None

    def saw_probe(self, seconds: float) -> None:
        """An exchange of a few bytes. A shorter one than thought is believed at once: nothing makes a wire too fast."""
        known = self.round_trip
        self.round_trip = seconds if known is None or seconds < known else known + WEIGHT * (seconds - known)

    def saw(self, size: int, seconds: float) -> None:
        """`size` bytes crossed (both ways together) in `seconds`, the server's own time left out."""
        seconds = max(seconds, 1e-6)
        if self.round_trip is None or seconds < self.round_trip:
            self.round_trip = seconds
        over = seconds - self.round_trip
        if over > SIGNIFICANT * self.round_trip or self.rate is None:
            rate = size / max(over, 0.1 * seconds)
            self.rate = rate if self.rate is None else 1 / (1 / self.rate + WEIGHT * (1 / rate - 1 / self.rate))
        elif size / max(over, 0.05 * self.round_trip) > self.rate:
            self.rate = size / max(over, 0.05 * self.round_trip)  # it went faster than was thought possible
        if over < SIGNIFICANT * self.round_trip:
            self.saw_probe(max(seconds - size / self.rate, 1e-6))

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
