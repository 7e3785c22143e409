"""What the agent counts as it works: plain numbers, put into Prometheus' words only when someone asks (/metrics)."""

from __future__ import annotations

import resource
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeloop_agent.hardware import machine
from edgeloop_contract.messages import MAX_LABELS, Heartbeat, Moments

if TYPE_CHECKING:
    from edgeloop_agent.models import Models
    from edgeloop_agent.sensors import Reading

BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds


# Labels of what is counted, beside those that a bundle brings.
KNOWN = {
    "refused": ["unreadable", "does_not_fit", "runtime_failed", "window"], "skipped": ["near_duplicate"],
    "dropped": ["queue_full", "output", "outbox"], "kept": ["labelled", "uncertain", "drifted", "random", "rest", "event"],
}  # fmt: skip
FILES = [("deleted", "answered"), ("kept", "refused"), ("kept", "failed"), ("kept", "unwritten"), ("kept", "dropped")]
STATUSES = ["200", "400", "403", "404", "413", "500", "503"]


class Latencies(msgspec.Struct):
    """A histogram of seconds; one writer at a time (a model's lock), readers may be a count behind."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Recent(msgspec.Struct):
    """What was seen since the last report to a hub."""

    since: float = msgspec.field(default_factory=time.monotonic)
    labels: Counter[str] = msgspec.field(default_factory=Counter)
    confident: int = 0  # answers that have a confidence, and tell how the device's own model does
    confidence_sum: float = 0.0
    confidence_squares: float = 0.0
    milliseconds: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=1024))
    labelled: int = 0  # answers whose truth came with the recording
    right: int = 0

    def saw(self, label: str | None, confidence: float | None, milliseconds: float) -> None:
        if label is not None:
            self.labels[label] += 1
        if confidence is not None:
            self.confident += 1
            self.confidence_sum += confidence
            self.confidence_squares += confidence * confidence
        self.milliseconds.append(milliseconds)


class Counts(msgspec.Struct):
    """`refused`, `repaired`, `skipped`, `dropped`: by reason."""

    started: float = msgspec.field(default_factory=time.time)
    restarts: int = 0
    answered: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    repaired: Counter[str] = msgspec.field(default_factory=Counter)
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    files: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)  # of a watched folder: what was done with one, and why
    kept: Counter[str] = msgspec.field(default_factory=Counter)  # samples put into the outbox, by kind
    places: Counter[str] = msgspec.field(default_factory=Counter)  # of answers, where work can be split
    drift: float | None = None  # the score of the last sample, 1 being an alarm
    drift_alarms: int = 0
    latencies: dict[str, Latencies] = msgspec.field(default_factory=dict)  # by model
    queue: int = 0
    source_away: str = ""
    bundles_refused: int = 0  # of the config, that are not served
    thermal: str = "cool"
    reading: Reading | None = None
    api_requests: Counter[str] = msgspec.field(default_factory=Counter)  # by status
    recent: Recent = msgspec.field(default_factory=Recent)
    _reported: tuple[int, int, int] = (0, 0, 0)  # answered, refused and dropped at the last report
    _lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    def heartbeat(self, model: str, version: int, sha256: str, target: str, runtime: str) -> Heartbeat:
        """What happened since the last one, which ends here."""
        seen, self.recent = self.recent, Recent()
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
            memory_bytes=resident_bytes(), machine=machine(), runtime=runtime,
        )  # fmt: skip

    def latency_of(self, model: str) -> Latencies:
        with self._lock:
            return self.latencies.setdefault(model, Latencies())


def kind_of(place: str) -> str:
    """A place without the address: few enough to count by."""
    return place.partition("@")[0]


def resident_bytes() -> int:
    """Of this process, now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


class Exposition:
    """A prometheus-client collector over the counts."""

    def __init__(self, counts: Counts, models: Models) -> None:
        self.counts, self.models = counts, models

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counts = self.counts
        yield CounterMetricFamily("edgeloop_answered", "samples answered from the source", value=counts.answered)
        for name, help_text, by_reason in (
            ("refused", "recordings or samples refused", counts.refused),
            ("repaired", "values repaired by cleaning", counts.repaired),
            ("skipped", "inferences skipped", counts.skipped),
            ("dropped", "recordings dropped", counts.dropped),
            ("kept", "samples put into the outbox", counts.kept),
            ("places", "answers", counts.places),
        ):
            label = "place" if name == "places" else "reason"
            family = CounterMetricFamily(f"edgeloop_{name}", f"{help_text}, by {label}", labels=[label])
            for reason, count in {**dict.fromkeys(self._known(name), 0), **by_reason}.items():
                family.add_metric([reason], count)
            yield family
        files = CounterMetricFamily("edgeloop_files", "files of a watched folder", labels=["action", "outcome"])
        for (action, outcome), count in {**dict.fromkeys(FILES, 0), **counts.files}.items():
            files.add_metric([action, outcome], count)
        yield files
        requests = CounterMetricFamily("edgeloop_api_requests", "requests to the local API", labels=["status"])
        for status, count in {**dict.fromkeys(STATUSES, 0), **counts.api_requests}.items():
            requests.add_metric([status], count)
        yield requests
        latency = HistogramMetricFamily("edgeloop_inference_seconds", "time of one inference in the runtime", labels=["model"])
        for model, found in {**{name: Latencies() for name in self.models.manifests}, **counts.latencies}.items():
            summed, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), found.counts, strict=True):
                summed += count
                buckets.append((bound, summed))
            latency.add_metric([model], buckets, found.total)
        yield latency
        yield GaugeMetricFamily("edgeloop_queue_depth", "recordings that wait", value=counts.queue)
        yield CounterMetricFamily("edgeloop_drift_alarms", "alarms of the drift monitor", value=counts.drift_alarms)
        if counts.drift is not None:
            yield GaugeMetricFamily("edgeloop_drift_score", "how far samples are off; above 1 is an alarm", value=counts.drift)
        yield GaugeMetricFamily("edgeloop_source_up", "1 while the source is there", value=float(not counts.source_away))
        yield GaugeMetricFamily(
            "edgeloop_bundles_refused", "bundles of the config that are not served", value=counts.bundles_refused
        )
        yield CounterMetricFamily("edgeloop_restarts", "restarts of the worker since the agent started", value=counts.restarts)
        yield GaugeMetricFamily("edgeloop_resident_bytes", "resident memory of the worker", value=resident_bytes())
        yield from self._caches(CounterMetricFamily, GaugeMetricFamily)
        yield from self._board(GaugeMetricFamily, CounterMetricFamily)

    def _known(self, family: str) -> list[str]:
        """Reasons that are there from the start, at 0: a rate over a series that comes into being at 1 misses its first event."""
        manifests = self.models.manifests.values()
        cleaning = sorted({step.name for manifest in manifests for step in manifest.cleaning})
        split = ["device"] if self.models.edge is not None else []
        more = {"refused": cleaning, "repaired": cleaning, "places": split}
        return [*KNOWN.get(family, []), *more.get(family, [])]

    def _caches(self, counter: Any, gauge: Any) -> Iterator[Any]:
        models = self.models
        events = counter("edgeloop_cache_events", "what the caches did", labels=["cache", "event"])
        for cache, hits in (("graphs", models.graphs.counts), ("results", models.results.counts), ("models", models.pool.counts)):
            for event in ("hits", "misses", "evictions"):
                events.add_metric([cache, event], getattr(hits, event))
        yield events
        used = gauge("edgeloop_cache_bytes", "bytes held in memory", labels=["cache"])
        used.add_metric(["results"], models.results.used_bytes)
        used.add_metric(["models"], models.pool.used_bytes)
        yield used
        info = gauge("edgeloop_model_info", "1, with what is loaded", labels=["model", "version", "sha256", "variant", "runtime"])
        for loaded in models.loaded():
            info.add_metric([loaded.name, str(loaded.version), loaded.sha256, loaded.variant, loaded.runtime], 1)
        yield info

    def _board(self, gauge: Any, counter: Any) -> Iterator[Any]:
        """What cannot be measured here is left out: a gauge of 0 would be a lie."""
        reading = self.counts.reading
        state = gauge("edgeloop_thermal_state", "1 for the state that holds", labels=["state"])
        for name in ("cool", "warm", "hot"):
            state.add_metric([name], float(name == self.counts.thermal))
        yield state
        if reading is None:
            return
        if reading.celsius is not None:
            yield gauge("edgeloop_temperature_celsius", "hottest zone of the board", value=reading.celsius)
        if reading.watts is not None:
            yield gauge("edgeloop_power_watts", "power of the board", value=reading.watts)
        if reading.joules is not None:
            yield counter("edgeloop_energy_joules", "energy of the processor package since the start", value=reading.joules)
        if reading.battery is not None:
            yield gauge("edgeloop_battery_share", "charge of the battery that is discharging", value=reading.battery)
        if reading.throttled is not None:
            flags = gauge("edgeloop_throttled", "1 for what the firmware says it does now", labels=["what"])
            for what in reading.throttled:
                flags.add_metric([what], 1)
            yield flags
