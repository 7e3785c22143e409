"""Which samples are worth sending: those that teach most, and a few at random so that estimates stay honest. Rules, without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeloop_contract.arrays import Array

CLASS = {"random": 0.0, "rest": 0.9, "drifted": 1.0, "uncertain": 2.0, "labelled": 3.0, "event": 4.0}
REMEMBERED = 256  # kept samples that a new one is compared with
NEAR = 0.35  # root mean square distance, in standard deviations, below which a sample is nothing new
STEP = 0.02  # of the running quantile of confidence


@dataclass(frozen=True)
class Choice:
    """`random`: drawn without a look at it, whatever else it is."""

    kind: str
    value: float
    random: bool


@dataclass
class Chooser:
    """`share`s of all samples; `per_hour`: at most so many that are neither random nor labelled. `draw`: uniform in [0, 1)."""

    random_share: float
    uncertain_share: float
    per_hour: float
    draw: Callable[[], float]
    clock: Callable[[], float]
    doubt: float = 0.5  # confidence below which a sample is among the least sure: begins as told, and follows the stream
    allowance: float = 0.0
    _last: float = 0.0
    _kept: deque[Array] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def __post_init__(self) -> None:
        self.allowance, self._last = min(self.per_hour, 20.0), self.clock()

    def begin_at(self, reliability: Sequence[Sequence[float]]) -> None:
        """Where validation data had their `uncertain_share` of least sure answers. `reliability`: (bins, 2), as in the bundle."""
        counts = np.array([row[1] for row in reliability])
        if counts.sum() > 0:
            edges = np.linspace(0, 1, len(counts) + 1)
            self.doubt = float(np.interp(self.uncertain_share, np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]), edges))

    def __call__(self, features: Array, confidence: float, drifting: bool, right: bool | None) -> Choice | None:
        """None: not worth it. `right`: whether the answer was, where the truth is known."""
        random = self.draw() < self.random_share
        unsure = confidence < self.doubt
        self.doubt += STEP * (self.uncertain_share - unsure) * (0.1 + self.doubt * (1 - self.doubt))
        self.doubt = min(max(self.doubt, 0.01), 0.999)
        now = self.clock()
        self.allowance = min(max(20.0, self.per_hour / 6), self.allowance + (now - self._last) * self.per_hour / 3600)
        self._last = now
        if right is not None:
            return self._taken("labelled", 0.5 if right else 0.9, features, random)
        if self.allowance >= 1 and (unsure or drifting):
            novelty = self._novelty(features)
            if novelty >= NEAR:
                self.allowance -= 1
                worth = (1 - confidence) * 0.7 + min(novelty, 4.0) / 4.0 * 0.29
                return self._taken("uncertain" if unsure else "drifted", worth, features, random)
        return self._taken("random", 0.5, features, True) if random else None

    def _novelty(self, features: Array) -> float:
        """Distance to the nearest sample that was kept."""
        if not self._kept:
            return 4.0
        return float(np.sqrt(((np.stack(self._kept) - features) ** 2).mean(axis=1).min()))

    def _taken(self, kind: str, worth: float, features: Array, random: bool) -> Choice:
        self._kept.append(features)
        return Choice(kind, CLASS[kind] + min(max(worth, 0.0), 0.999), random)
