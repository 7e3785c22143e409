"""Follows the samples of one model: alarms, what changed and since when, and the statistics of a reporting period."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from edgeloop_agent.answers import answer_features
from edgeloop_agent.drift.diagnosis import Finding, diagnose
from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import BINS, Drift, Monitor, sample_features
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.messages import DriftReport
from edgeloop_contract.preprocessing import takes_texts

HISTORY = 512  # samples that a diagnosis looks back on
ENDED_AFTER = 4  # times the longest memory without another alarm, after which the episode is over


@dataclass(frozen=True)
class DriftObservation:
    """One sample as the drift monitor saw it.

    `features`: (F,) standardised given the answer. `changed`: an episode began or ended with this sample.
    """

    features: Array
    confidence: float
    label: int
    drifting: bool
    changed: bool = False


class FollowerState(msgspec.Struct, frozen=True):
    """A follower's state, as it is kept on disk between starts."""

    averages: list[list[float]]
    seen: int
    last_alarm: int | None
    since: float | None
    worst: int
    history: list[tuple[list[float], int, float]]
    first_alarm: int | None = None


@dataclass
class _Period:
    samples: int = 0
    score: float = 0.0
    alarms: int = 0
    shift: Array | float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    faults: Counter[str] = field(default_factory=Counter)


class DriftFollower:
    """Follows one model's samples: some microseconds a sample, and memory for the features of the last `HISTORY` samples."""

    def __init__(self, manifest: Manifest, reference: Drift, per_10k: float) -> None:
        self.manifest, self.reference = manifest, reference
        self.monitor = Monitor(reference, per_10k)
        self.seen = 0
        self.first_alarm: int | None = None  # of the episode, as a sample's number
        self.last_alarm: int | None = None
        self.since: float | None = None
        self.finding: Finding | None = None
        self._worst = 0
        self._history: deque[tuple[Array, int, float]] = deque(maxlen=HISTORY)
        self._texts = {entry.name for entry in manifest.inputs if takes_texts(entry.preprocessing)}
        self._centre, self._scale = np.asarray(reference.centre), np.asarray(reference.scale)
        self._period = _Period()

    @property
    def drifting(self) -> bool:
        return self.since is not None

    def observe(self, sample: Array | Mapping[str, Array], scores: Array | Mapping[str, Array]) -> DriftObservation:
        """One answered sample (1, *sample), by input where there are several, with its scores (1, ...) or its named outputs."""
        first = next(iter(sample.values())) if isinstance(sample, Mapping) else sample
        answer_values, label, confidence = answer_features(self.manifest.task, scores, first)
        features = np.concatenate([sample_features(sample, self._texts), answer_values])
        answer = label if label < self.reference.labels else 0
        alarm = self.monitor.observe(features, answer)
        now, period = time.time(), self._period
        self.seen += 1
        self._history.append((features, answer, now))
        standard = (features - self._centre[answer]) / self._scale
        period.samples += 1
        period.shift = period.shift + standard
        period.score = max(period.score, self.monitor.score)
        period.bins[min(int(confidence * BINS), BINS - 1)] += 1
        changed = self._alarm(now) if alarm else self._episode_over()
        return DriftObservation(standard, confidence, label, self.drifting, changed)

    def observe_fault(self, reason: str) -> None:
        """Count something that cleaning refused or repaired: a fault, not drift."""
        self._period.faults[reason] += 1

    def _alarm(self, now: float) -> bool:
        began = self.since is None
        self.last_alarm = self.seen
        self._period.alarms += 1
        if began:
            self.first_alarm = self.seen
            self._worst = int(np.abs(self.monitor.largest).argmax())
        self.monitor.reset()
        if began:
            self.diagnose()
            assert self.finding is not None
            self.since = self._history[-min(self.finding.samples, len(self._history))][2] if self._history else now
        return began

    def _episode_over(self) -> bool:
        """Whether an episode is over with this sample."""
        if self.last_alarm is None or self.since is None:
            return False
        if self.seen - self.last_alarm < ENDED_AFTER * self.reference.memories[-1]:
            return False
        self.since = self.finding = None
        return True

    def diagnose(self) -> None:
        """Diagnose again: with more samples since the change, the diagnosis is better."""
        if self._history:
            features = np.stack([row for row, _, _ in self._history])
            answers = np.array([answer for _, answer, _ in self._history])
            least = 1 if self.first_alarm is None else self.seen - self.first_alarm + 1
            self.finding = diagnose(self.reference, features, answers, self._worst, least)

    def state(self) -> FollowerState:
        """The state that a restart needs to continue."""
        return FollowerState(
            self.monitor.averages.tolist(), self.seen, self.last_alarm, self.since, self._worst, self._rows(), self.first_alarm
        )

    def _rows(self) -> list[tuple[list[float], int, float]]:
        return [(row.tolist(), answer, at) for row, answer, at in self._history]

    def restore(self, memory: FollowerState) -> None:
        """Continue from a saved state. A state that does not fit this reference is ignored."""
        averages = np.asarray(memory.averages, dtype=np.float64)
        width = len(self.reference.features)
        if averages.shape != self.monitor.averages.shape or any(len(row) != width for row, _, _ in memory.history):
            return
        self.monitor.averages[...] = averages
        self.seen, self.last_alarm, self.since, self._worst = memory.seen, memory.last_alarm, memory.since, memory.worst
        self.first_alarm = memory.first_alarm
        self._history.extend((np.asarray(row), answer, at) for row, answer, at in memory.history)
        if self.drifting:
            self.diagnose()

    def report(self, model: str, sha256: str) -> DriftReport:
        """The period since the last report, which ends here."""
        period, self._period = self._period, _Period()
        if self.drifting:
            self.diagnose()
        mean = np.atleast_1d(period.shift) / max(1, period.samples)
        shifts = {n: round(float(s), 4) for n, s in zip(self.reference.features, mean, strict=False)} if period.samples else {}
        finding = self.finding
        return DriftReport(
            model=model, sha256=sha256, samples=period.samples, score=round(period.score, 4), alarms=period.alarms,
            drifting=self.drifting, since=self.since, cause=finding.cause if finding else "", text=finding.text if finding else "",
            shifts=dict(list(shifts.items())[:100]), confidence=period.bins, faults=dict(period.faults.most_common(50)),
        )  # fmt: skip
