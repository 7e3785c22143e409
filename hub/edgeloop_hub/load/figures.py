"""Times and refusals of many requests, in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

STEP = math.log(1.02)  # a bin is 2 % wide
SHORTEST = 1e-5  # seconds


@dataclass
class Figures:
    """Of one kind of request. `bins`: answers by the logarithm of their seconds. `failed`: no answer, by why."""

    answered: int = 0
    longest: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, status: int, seconds: float) -> None:
        if status in (200, 304):
            self.answered += 1
            self.bins[round(math.log(max(seconds, SHORTEST)) / STEP)] += 1
            self.longest = max(self.longest, seconds)
        else:
            self.refused[status] += 1

    def fail(self, why: str) -> None:
        self.failed[why if why in self.failed or len(self.failed) < 20 else "other failures"] += 1

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the answers came, up to 1 % off. 0.0 without an answer."""
        left = share * self.answered
        for place, count in sorted(self.bins.items()):
            left -= count
            if left <= 0:
                return min(math.exp(place * STEP), self.longest)
        return self.longest

    def lines(self, name: str, seconds: float) -> list[str]:
        """In words, for the command line."""
        times = ", ".join(f"p{100 * share:g} {1e3 * self.percentile(share):,.1f} ms" for share in (0.5, 0.95, 0.99))
        rate = self.answered / seconds if seconds else 0.0
        found = [f"{name}: {self.answered:,} answered, {rate:,.0f} a second; {times}, longest {1e3 * self.longest:,.0f} ms"]
        found += [f"{name}: {count:,} refused with status {status}" for status, count in sorted(self.refused.items())]
        found += [f"{name}: {count:,} without an answer ({why})" for why, count in sorted(self.failed.items())]
        return found
