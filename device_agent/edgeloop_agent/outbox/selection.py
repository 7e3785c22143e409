"""Which samples to send: the most informative ones, and a few at random for unbiased estimates. Rules, without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edgeloop_contract.arrays import Array

PRIORITY = {"random": 0.0, "rest": 0.9, "drifted": 1.0, "uncertain": 2.0, "labelled": 3.0, "event": 4.0}
MAX_COMPARED = 256  # kept samples that a new one is compared with
MIN_NOVELTY = 0.35  # root mean square distance, in standard deviations, below which a sample is not new
MANY = 10.0  # things that are wholly doubtful, which give a sample half of what doubt can give
QUANTILE_STEP = 0.02  # of the running quantile of confidence


class Doubt(NamedTuple):
    """Of an answer with several things. `most`: of the most doubtful one, 0 to 1; `total`: the sum over all of them."""

    most: float
    total: float


@dataclass(frozen=True)
class SampleChoice:
    """`kind`: as in `messages.Sample`. `random`: drawn without regard to its content, whatever its kind."""

    kind: str
    value: float
    random: bool


@dataclass
class SampleSelector:
    """`share`s of all samples; `max_per_hour`: at most so many that are neither random nor labelled. `draw`: uniform in [0, 1)."""

    random_share: float
    uncertain_share: float
    max_per_hour: float
    draw: Callable[[], float]
    clock: Callable[[], float]
    confidence_limit: float = 0.5  # confidence below which a sample counts as uncertain; follows the stream
    allowance: float = 0.0
    _last: float = 0.0
    _kept: deque[Array] = field(default_factory=lambda: deque(maxlen=MAX_COMPARED))

    def __post_init__(self) -> None:
        self.allowance, self._last = min(self.max_per_hour, 20.0), self.clock()

    def start_from(self, reliability: Sequence[Sequence[float]]) -> None:
        """Start at the `uncertain_share` quantile of validation confidences. `reliability`: (bins, 2), as in the bundle."""
        counts = np.array([row[1] for row in reliability])
        if counts.sum() > 0:
            edges = np.linspace(0, 1, len(counts) + 1)
            self.confidence_limit = float(
                np.interp(self.uncertain_share, np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]), edges)
            )

    def __call__(
        self, features: Array, confidence: float, drifting: bool, right: bool | None, doubtful: float | None = None
    ) -> SampleChoice | None:
        """The choice for one sample; None: do not keep it. `right`: whether the answer was right, where the truth is known.

        `doubtful`: how many doubtful things the answer has, each as far as it is so; a person who looks at such a sample settles
        all of them. None: the answer is one thing.
        """
        random = self.draw() < self.random_share
        uncertain = confidence < self.confidence_limit
        self.confidence_limit += (
            QUANTILE_STEP * (self.uncertain_share - uncertain) * (0.1 + self.confidence_limit * (1 - self.confidence_limit))
        )
        self.confidence_limit = min(max(self.confidence_limit, 0.01), 0.999)
        now = self.clock()
        self.allowance = min(max(20.0, self.max_per_hour / 6), self.allowance + (now - self._last) * self.max_per_hour / 3600)
        self._last = now
        if right is not None:
            return self._chosen("labelled", 0.5 if right else 0.9, features, random)
        if self.allowance >= 1 and (uncertain or drifting):
            novelty = self._novelty(features)
            if novelty >= MIN_NOVELTY:
                self.allowance -= 1
                doubt = 1 - confidence if doubtful is None else doubtful / (doubtful + MANY)
                worth = doubt * 0.7 + min(novelty, 4.0) / 4.0 * 0.29
                return self._chosen("uncertain" if uncertain else "drifted", worth, features, random)
        return self._chosen("random", 0.5, features, True) if random else None

    def _novelty(self, features: Array) -> float:
        """Distance to the nearest kept sample."""
        if not self._kept:
            return 4.0
        return float(np.sqrt(((np.stack(self._kept) - features) ** 2).mean(axis=1).min()))

    def _chosen(self, kind: str, worth: float, features: Array, random: bool) -> SampleChoice:
        self._kept.append(features)
        return SampleChoice(kind, PRIORITY[kind] + min(max(worth, 0.0), 0.999), random)
