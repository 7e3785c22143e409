"""What the agent counts while it works, as plain numbers; local_api/exposition.py turns them into Prometheus metrics."""

from __future__ import annotations

import resource
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent.hardware import machine
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import MAX_LABELS, Heartbeat, Moments

if TYPE_CHECKING:
    from edgeloop_agent.sensors import Reading
    from edgeloop_agent.tracking.following import Following

BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds


class Latencies(msgspec.Struct):
    """A histogram of seconds; one writer at a time (a model's lock), readers may be a count behind."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class RecentAnswers(msgspec.Struct):
    """Answers since the last report to a hub."""

    since: float = msgspec.field(default_factory=time.monotonic)
    labels: Counter[str] = msgspec.field(default_factory=Counter)
    confident: int = 0  # answers with a confidence of the device's own model
    confidence_sum: float = 0.0
    confidence_squares: float = 0.0
    milliseconds: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=1024))
    labelled: int = 0  # answers whose truth came with the recording
    right: int = 0

    def observe(self, label: str | None, confidence: float | None, milliseconds: float) -> None:
        if label is not None:
            self.labels[label] += 1
        if confidence is not None:
            self.confident += 1
            self.confidence_sum += confidence
            self.confidence_squares += confidence * confidence
        self.milliseconds.append(milliseconds)


class ModelCalls(msgspec.Struct):
    """What one model did, whoever asked. `failed`: calls that the runtime could not answer."""

    answered: int = 0
    failed: int = 0
    milliseconds: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=1024))
    reported: tuple[int, int, float] = msgspec.field(default_factory=lambda: (0, 0, time.monotonic()))

    def heartbeat(self, model: str, version: int, sha256: str, target: str, started: float, crashes: int) -> Heartbeat:
        """The calls since the last heartbeat; the next one begins here."""
        before, self.reported = self.reported, (self.answered, self.failed, time.monotonic())
        taken, self.milliseconds = sorted(self.milliseconds), deque(maxlen=1024)
        return Heartbeat(
            model=model, version=version, sha256=sha256, target=target, since=started, seconds=self.reported[2] - before[2],
            answered=self.answered - before[0], refused=self.failed - before[1], crashes=crashes,
            latency_us_p50=taken[len(taken) // 2] * 1e3 if taken else None,
            latency_us_p95=taken[int(len(taken) * 0.95)] * 1e3 if taken else None, reads=SCHEMA,
        )  # fmt: skip


class Counts(msgspec.Struct):
    """`refused`, `repaired`, `skipped`, `dropped`: by reason."""

    started: float = msgspec.field(default_factory=time.time)
    restarts: int = 0
    answered: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    repaired: Counter[str] = msgspec.field(default_factory=Counter)
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    files: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)  # of a watched folder, by action and outcome
    outbox_rows: Counter[str] = msgspec.field(default_factory=Counter)  # samples put into the outbox, by kind
    places: Counter[str] = msgspec.field(default_factory=Counter)  # of answers, where work can be split
    drift: float | None = None  # the score of the last sample, 1 being an alarm
    drift_alarms: int = 0
    latencies: dict[str, Latencies] = msgspec.field(default_factory=dict)  # by model
    calls: dict[str, ModelCalls] = msgspec.field(default_factory=dict)  # by model
    queue: int = 0
    outputs_waiting: dict[str, int] = msgspec.field(default_factory=dict)  # answers on disk, by where they go
    source_unavailable: str = ""
    source_opened: str = ""  # what a camera or microphone says of itself
    frames: Counter[str] = msgspec.field(default_factory=Counter)  # of a camera, by what became of them
    capture_to_answer: Latencies = msgspec.field(default_factory=Latencies)  # of a live source
    last_capture_to_answer: float | None = None  # seconds
    bundles_refused: int = 0  # of the config, that are not served
    thermal: str = "cool"
    reading: Reading | None = None
    tracking: Following | None = None  # where tracking is on
    api_requests: Counter[str] = msgspec.field(default_factory=Counter)  # by status
    recent: RecentAnswers = msgspec.field(default_factory=RecentAnswers)
    _reported: tuple[int, int, int] = (0, 0, 0)  # answered, refused and dropped at the last report
    _lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    def heartbeat(self, model: str, version: int, sha256: str, target: str, runtime: str) -> Heartbeat:
        """The counts since the last heartbeat; the next one begins here."""
        seen, self.recent = self.recent, RecentAnswers()
        totals = (self.answered, sum(self.refused.values()), sum(self.dropped.values()))
        answered, refused, dropped = (now - before for now, before in zip(totals, self._reported, strict=True))
        self._reported = totals
        taken = sorted(seen.milliseconds)
        mean = seen.confidence_sum / max(1, seen.confident)
        variance = max(0.0, seen.confidence_squares / max(1, seen.confident) - mean * mean)
        return Heartbeat(
            model=model, version=version, sha256=sha256, target=target, since=self.started,
            seconds=time.monotonic() - seen.since, answered=answered, refused=refused, dropped=dropped, crashes=self.restarts,
            latency_us_p50=taken[len(taken) // 2] * 1e3 if taken else None,
            latency_us_p95=taken[int(len(taken) * 0.95)] * 1e3 if taken else None,
            confidence=Moments(count=seen.confident, mean=mean, variance=variance),
            labels=dict(seen.labels.most_common(MAX_LABELS)), right=seen.right, labelled=seen.labelled,
            celsius=self.reading.celsius if self.reading else None,
            memory_bytes=resident_bytes(), machine=machine(), agent=agent_version(), runtime=runtime, reads=SCHEMA,
        )  # fmt: skip

    def latency_of(self, model: str) -> Latencies:
        with self._lock:
            return self.latencies.setdefault(model, Latencies())

    def calls_of(self, model: str) -> ModelCalls:
        with self._lock:
            return self.calls.setdefault(model, ModelCalls())


@cache
def agent_version() -> str:
    """Of the installed package; "" where it is not installed as one."""
    from importlib.metadata import PackageNotFoundError, version  # here: a tenth of a start, and only a hub asks for it

    try:
        return version("edgeloop")
    except PackageNotFoundError:
        return ""


def place_kind(place: str) -> str:
    """A place without its address, so that there are few values to count by."""
    return place.partition("@")[0]


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
