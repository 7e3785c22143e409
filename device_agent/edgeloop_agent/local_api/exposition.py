"""The counts in Prometheus' words, put together only when someone asks for /metrics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from edgeloop_agent.metrics import BUCKETS, Counts, Latencies, resident_bytes
from edgeloop_agent.models import Models

if TYPE_CHECKING:
    from edgeloop_agent.tracking.following import Following

# Label values that are there from the start, beside those that a bundle brings, by metric.
KNOWN = {
    "refused": ["unreadable", "does_not_fit", "runtime_failed", "window"], "inferences_skipped": ["near_duplicate"],
    "dropped": ["queue_full", "overrun", "output", "outbox", "picture"],
    "outbox_rows": ["labelled", "uncertain", "drifted", "random", "rest", "event"],
}  # fmt: skip
FILES = [("deleted", "answered"), ("kept", "refused"), ("kept", "failed"), ("kept", "unwritten"), ("kept", "dropped")]
STATUSES = ["200", "400", "403", "404", "413", "500", "503"]


class MetricsCollector:
    """A collector of prometheus_client over the counts."""

    def __init__(self, counts: Counts, models: Models) -> None:
        self.counts, self.models = counts, models

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counts = self.counts
        yield CounterMetricFamily("edgeloop_agent_samples_answered", "samples answered from the source", value=counts.answered)
        for name, label, help_text, by_label in (
            ("refused", "reason", "recordings or windows refused", counts.refused),
            ("values_repaired", "step", "values that cleaning repaired", counts.repaired),
            ("inferences_skipped", "reason", "inferences skipped", counts.skipped),
            ("dropped", "reason", "recordings, answers or samples dropped", counts.dropped),
            ("outbox_rows", "kind", "samples and events put into the outbox", counts.outbox_rows),
            ("answers", "place", "answers", counts.places),
            ("frames", "outcome", "frames of a camera", counts.frames),
        ):
            family = CounterMetricFamily(f"edgeloop_agent_{name}", f"{help_text}, by {label}", labels=[label])
            for value, count in {**dict.fromkeys(self._known(name), 0), **by_label}.items():
                family.add_metric([value], count)
            yield family
        yield from self._files_and_requests(CounterMetricFamily)
        latency = HistogramMetricFamily(
            "edgeloop_agent_inference_duration_seconds", "duration of one inference in the runtime", labels=["model"]
        )
        for model, histogram in {**{name: Latencies() for name in self.models.manifests}, **counts.latencies}.items():
            latency.add_metric([model], _buckets(histogram), histogram.total)
        yield latency
        taken = HistogramMetricFamily("edgeloop_agent_capture_to_answer_seconds", "from the capture of a live source to its answer")
        taken.add_metric([], _buckets(counts.capture_to_answer), counts.capture_to_answer.total)
        yield taken
        yield GaugeMetricFamily("edgeloop_agent_queue_length", "recordings that wait for inference", value=counts.queue)
        waiting = GaugeMetricFamily("edgeloop_agent_outputs_waiting", "answers on disk that wait for an output", labels=["output"])
        for where, count in counts.outputs_waiting.items():
            waiting.add_metric([where], count)
        yield waiting
        yield CounterMetricFamily("edgeloop_agent_drift_alarms", "alarms of the drift monitor", value=counts.drift_alarms)
        if counts.drift is not None:
            yield GaugeMetricFamily(
                "edgeloop_agent_drift_score",
                "distance of the last samples from the reference; above 1 is an alarm",
                value=counts.drift,
            )
        yield GaugeMetricFamily(
            "edgeloop_agent_source_up", "1 while the source is available", value=float(not counts.source_unavailable)
        )
        yield GaugeMetricFamily(
            "edgeloop_agent_bundles_refused", "bundles of the config that are not served", value=counts.bundles_refused
        )
        yield CounterMetricFamily(
            "edgeloop_agent_worker_restarts", "restarts of the worker since the agent started", value=counts.restarts
        )
        yield GaugeMetricFamily("edgeloop_agent_resident_memory_bytes", "resident memory of the worker", value=resident_bytes())
        if counts.tracking is not None:
            yield from _counted(counts.tracking, CounterMetricFamily, GaugeMetricFamily)
        yield from self._caches(CounterMetricFamily, GaugeMetricFamily)
        yield from self._board(GaugeMetricFamily, CounterMetricFamily)

    def _files_and_requests(self, counter: Any) -> Iterator[Any]:
        files = counter("edgeloop_agent_files", "files of a watched folder", labels=["action", "outcome"])
        for (action, outcome), count in {**dict.fromkeys(FILES, 0), **self.counts.files}.items():
            files.add_metric([action, outcome], count)
        yield files
        requests = counter("edgeloop_agent_api_requests", "requests to the local API", labels=["status"])
        for status, count in {**dict.fromkeys(STATUSES, 0), **self.counts.api_requests}.items():
            requests.add_metric([status], count)
        yield requests

    def _known(self, family: str) -> list[str]:
        """Label values that are there from the start, at 0: a rate over a series that begins at 1 misses its first event."""
        manifests = self.models.manifests.values()
        cleaning = sorted({step.name for manifest in manifests for step in manifest.cleaning})
        split = ["device"] if self.models.tail_servers is not None else []
        more = {"refused": cleaning, "values_repaired": cleaning, "answers": split}
        return [*KNOWN.get(family, []), *more.get(family, [])]

    def _caches(self, counter: Any, gauge: Any) -> Iterator[Any]:
        models = self.models
        events = counter("edgeloop_agent_cache_events", "events of the caches", labels=["cache", "event"])
        for cache, hits in (("graphs", models.graphs.counts), ("results", models.results.counts), ("models", models.pool.counts)):
            for event in ("hits", "misses", "evictions"):
                events.add_metric([cache, event], getattr(hits, event))
        yield events
        used = gauge("edgeloop_agent_cache_bytes", "bytes held in memory", labels=["cache"])
        used.add_metric(["results"], models.results.used_bytes)
        used.add_metric(["models"], models.pool.used_bytes)
        yield used
        info = gauge(
            "edgeloop_agent_model_info", "1 for each loaded model", labels=["model", "version", "sha256", "variant", "runtime"]
        )
        for loaded in models.loaded():
            info.add_metric([loaded.name, str(loaded.version), loaded.sha256, loaded.variant, loaded.runtime], 1)
        yield info
        if models.builds_beside:
            built = gauge("edgeloop_agent_engines_building", "1 while a model's engines are built beside", labels=["model"])
            for name in models.manifests:
                built.add_metric([name], float(name == models.building))
            yield built

    def _board(self, gauge: Any, counter: Any) -> Iterator[Any]:
        """What the board cannot measure is left out: a gauge of 0 would be wrong."""
        reading = self.counts.reading
        state = gauge("edgeloop_agent_thermal_state", "1 for the present state", labels=["state"])
        for name in ("cool", "warm", "hot"):
            state.add_metric([name], float(name == self.counts.thermal))
        yield state
        if reading is None:
            return
        if reading.celsius is not None:
            yield gauge("edgeloop_agent_temperature_celsius", "hottest zone of the board", value=reading.celsius)
        if reading.watts is not None:
            yield gauge("edgeloop_agent_power_watts", "power of the board", value=reading.watts)
        if reading.joules is not None:
            yield counter("edgeloop_agent_energy_joules", "energy of the processor package since the start", value=reading.joules)
        if reading.battery is not None:
            yield gauge(
                "edgeloop_agent_battery_charge_ratio", "charge of the battery while it discharges, 0 to 1", value=reading.battery
            )
        if reading.throttled is not None:
            flags = gauge("edgeloop_agent_throttled", "1 for each limit that the firmware applies now", labels=["limit"])
            for limit in reading.throttled:
                flags.add_metric([limit], 1)
            yield flags


def _buckets(histogram: Latencies) -> list[tuple[str, int]]:
    """Counts up to each bound, as Prometheus wants them."""
    return list(zip((*map(str, BUCKETS), "+Inf"), accumulate(histogram.counts), strict=True))


def _counted(tracking: Following, counter: Any, gauge: Any) -> Iterator[Any]:
    """Tracks, lines and zones: from 0 on, or from what was counted before a restart."""
    yield gauge("edgeloop_agent_tracks", "objects that are followed now", value=tracking.active)
    counted = tracking.counted
    crossings = counter("edgeloop_agent_line_crossings", "objects that crossed a line", labels=["line", "direction"])
    for line in counted.lines:
        crossings.add_metric([line.line, "to_right"], line.to_right)
        crossings.add_metric([line.line, "to_left"], line.to_left)
    yield crossings
    inside = gauge("edgeloop_agent_zone_objects", "objects in a zone now", labels=["zone"])
    entries = counter("edgeloop_agent_zone_entries", "objects that entered a zone, or were found in it first", labels=["zone"])
    for zone in counted.zones:
        inside.add_metric([zone.zone], zone.now)
        entries.add_metric([zone.zone], zone.entries)
    yield inside
    yield entries
