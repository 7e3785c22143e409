"""The counts in Prometheus' words, put together only when someone asks for /metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeloop_agent.metrics import BUCKETS, Counts, Latencies, resident_bytes
from edgeloop_agent.models import Models

# Labels of what is counted, beside those that a bundle brings.
KNOWN = {
    "refused": ["unreadable", "does_not_fit", "runtime_failed", "window"], "skipped": ["near_duplicate"],
    "dropped": ["queue_full", "output", "outbox"], "kept": ["labelled", "uncertain", "drifted", "random", "rest", "event"],
}  # fmt: skip
FILES = [("deleted", "answered"), ("kept", "refused"), ("kept", "failed"), ("kept", "unwritten"), ("kept", "dropped")]
STATUSES = ["200", "400", "403", "404", "413", "500", "503"]


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
