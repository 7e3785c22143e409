"""Sums of heartbeats and of drift reports. Sums of sums are sums too, so hours become days. Bounded, whatever a device says."""

from __future__ import annotations

import math
from typing import TypeVar

import msgspec

from edgeloop_contract.drift import BINS
from edgeloop_contract.messages import DriftReport, Heartbeat

MAX_COUNT = 2**53
MAX_LABELS, MAX_FEATURES, MAX_FAULTS, MAX_NAME, MAX_WORDS = 100, 100, 50, 100, 200
MAX_ANSWERS = 1_000_000  # that one report is believed, of each confidence
OTHER = "others"  # labels beyond MAX_LABELS
S = TypeVar("S", "BeatSums", "DriftSums")


class Range(msgspec.Struct, array_like=True):
    """Of a figure that some reports have."""

    count: int = 0
    total: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.merge(Range(1, value, value, value))

    def merge(self, other: Range) -> None:
        if not other.count:
            return
        self.low = min(self.low, other.low) if self.count else other.low
        self.high = max(self.high, other.high) if self.count else other.high
        self.count, self.total = self.count + other.count, self.total + other.total

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


class BeatSums(msgspec.Struct, array_like=True):
    """Heartbeats of one bundle. `last`: when the newest came, whose `version` and `crashes` (a counter) are kept.

    `confidence_squares`: of the deviations from zero, so that a variance follows.
    """

    reports: int = 0
    last: float = 0.0
    version: int = 0
    crashes: int = 0
    seconds: float = 0.0
    answered: int = 0
    refused: int = 0
    dropped: int = 0
    latency_us_p50: Range = msgspec.field(default_factory=Range)
    latency_us_p95: Range = msgspec.field(default_factory=Range)
    celsius: Range = msgspec.field(default_factory=Range)
    memory_bytes: Range = msgspec.field(default_factory=Range)
    drift: Range = msgspec.field(default_factory=Range)
    answers: int = 0
    confidence_sum: float = 0.0
    confidence_squares: float = 0.0
    labels: dict[str, int] = msgspec.field(default_factory=dict)
    right: int = 0
    labelled: int = 0

    def add(self, at: float, beat: Heartbeat) -> None:
        self.reports += 1
        self._newest(at, beat.version, beat.crashes)
        self.seconds += beat.seconds
        for name in ("answered", "refused", "dropped", "right", "labelled"):
            _count(self, name, getattr(beat, name))
        for name in ("latency_us_p50", "latency_us_p95", "celsius", "memory_bytes", "drift"):
            getattr(self, name).add(getattr(beat, name))
        seen = beat.confidence
        _count(self, "answers", seen.count)
        self.confidence_sum += seen.count * seen.mean
        self.confidence_squares += seen.count * (seen.variance + seen.mean**2)
        _add_counts(self.labels, beat.labels, MAX_LABELS)

    def merge(self, other: BeatSums) -> None:
        self.reports += other.reports
        self._newest(other.last, other.version, other.crashes)
        for name in ("answered", "refused", "dropped", "right", "labelled", "answers"):
            _count(self, name, getattr(other, name))
        for name in ("latency_us_p50", "latency_us_p95", "celsius", "memory_bytes", "drift"):
            getattr(self, name).merge(getattr(other, name))
        self.seconds += other.seconds
        self.confidence_sum += other.confidence_sum
        self.confidence_squares += other.confidence_squares
        _add_counts(self.labels, other.labels, MAX_LABELS)

    def _newest(self, at: float, version: int, crashes: int) -> None:
        if at >= self.last:
            self.last, self.version, self.crashes = at, version, crashes

    @property
    def confidence(self) -> float | None:
        return min(self.confidence_sum / self.answers, 1.0) if self.answers else None


class DriftSums(msgspec.Struct, array_like=True):
    """Drift reports of one bundle. `shifts`: of each feature's shift times the samples of its report; the newest's own words."""

    reports: int = 0
    last: float = 0.0
    samples: int = 0
    alarms: int = 0
    score: float = 0.0
    shifts: dict[str, float] = msgspec.field(default_factory=dict)
    confidence: list[int] = msgspec.field(default_factory=list)
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    drifting: bool = False
    since: float | None = None
    cause: str = ""
    text: str = ""

    def add(self, at: float, report: DriftReport) -> None:
        bins = [min(count, MAX_ANSWERS) for count in report.confidence] if len(report.confidence) == BINS else []
        shifts = {name: shift * report.samples for name, shift in report.shifts.items()}
        self.merge(
            DriftSums(
                1, at, report.samples, report.alarms, report.score, shifts, bins, report.faults, report.drifting, report.since,
                report.cause[:MAX_WORDS], report.text[:MAX_WORDS],
            )
        )  # fmt: skip

    def merge(self, other: DriftSums) -> None:
        self.reports += other.reports
        _count(self, "samples", other.samples)
        _count(self, "alarms", other.alarms)
        self.score = max(self.score, other.score)
        for name, total in other.shifts.items():
            if name in self.shifts or (len(self.shifts) < MAX_FEATURES and len(name) <= MAX_NAME):
                self.shifts[name] = self.shifts.get(name, 0.0) + total
        if other.confidence:
            before = self.confidence or [0] * BINS
            self.confidence = [min(a + b, MAX_COUNT) for a, b in zip(before, other.confidence, strict=True)]
        _add_counts(self.faults, other.faults, MAX_FAULTS)
        if other.last >= self.last:
            self.last, self.drifting, self.since, self.cause, self.text = (
                other.last, other.drifting, other.since, other.cause, other.text,
            )  # fmt: skip

    def as_report(self, model: str, sha256: str) -> SummedDrift:
        """One report that weighs as much as all of them: its shifts are means over their samples."""
        means = {name: total / self.samples for name, total in self.shifts.items()} if self.samples else {}
        return SummedDrift(
            model=model, sha256=sha256, samples=self.samples, score=self.score, alarms=self.alarms, drifting=self.drifting,
            since=self.since, cause=self.cause, text=self.text, shifts=means, confidence=self.confidence, faults=self.faults,
            reports=self.reports,
        )  # fmt: skip


class SummedDrift(DriftReport, frozen=True, kw_only=True):
    """Several drift reports as one."""

    reports: int


def decoded(body: bytes, kind: type[S]) -> S | None:
    """Stored sums; None where there are none, or another release wrote them."""
    try:
        return msgspec.msgpack.decode(body, type=kind) if body else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _count(sums: msgspec.Struct, name: str, more: int) -> None:
    setattr(sums, name, min(getattr(sums, name) + more, MAX_COUNT))


def _add_counts(sums: dict[str, int], more: dict[str, int], most: int) -> None:
    for name, number in more.items():
        known = name in sums or (len(sums) < most and len(name) <= MAX_NAME)
        kept = name if known else OTHER
        sums[kept] = min(sums.get(kept, 0) + number, MAX_COUNT)


def span_begin(at: float, span: int) -> int:
    """When the hour or day of a time begins, by UTC."""
    return math.floor(at / span) * span
