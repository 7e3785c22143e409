"""/metrics for Prometheus: the fleet by version, rollouts, signed metadata, the tick. Behind a token, as it names models."""

from __future__ import annotations

import shutil
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from litestar import Response, get
from litestar.datastructures import State
from sqlalchemy import Connection, func, select

from edgeloop_contract.rollout import RolloutState
from edgeloop_hub import health
from edgeloop_hub.auth.guards import is_workstation
from edgeloop_hub.event_list import BY_SEVERITY
from edgeloop_hub.fleet import finding
from edgeloop_hub.http.error_responses import problems
from edgeloop_hub.hub import Hub
from edgeloop_hub.rollouts import rollout_store
from edgeloop_hub.storage.alert_tables import alert_messages, alerts
from edgeloop_hub.storage.schema import bundles, devices, events, rollouts
from edgeloop_hub.updates import signing

if TYPE_CHECKING:  # loaded at the first request
    from prometheus_client import Metric

MAX_SERIES = 100
# Kinds of events that the hub knows: each has a series, however rare it is.
USUAL = {"installed", "committed", "enrolled", "published", "restored", "rollout started", "rollout done"}
KINDS = USUAL.union(*BY_SEVERITY.values())
K = TypeVar("K")


@get(
    "/metrics", scope="metrics", guards=[is_workstation], sync_to_thread=True, tags=["health"], media_type="text/plain",
    responses=problems(401, 403, 503),
)  # fmt: skip
def metrics(state: State) -> Response[bytes]:
    """Devices by version and by what is wrong, events, rollouts, expiry of metadata, the last tick, alerts, the disk."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(state.hub))
    return Response(bytes(generate_latest(registry)), media_type="text/plain; version=0.0.4; charset=utf-8")


def _named(counts: Iterable[tuple[K, int]], known: Container[K], other: K) -> list[tuple[K, int]]:
    """Those that the hub knows, or that are one in MAX_SERIES at least, the most frequent ones; and the rest as one.

    Devices name models and events, and each name is a series for ever: who makes up another one with each report makes none.
    """
    rows = sorted(counts, key=lambda row: -row[1])
    total = sum(number for _, number in rows)
    shown = [row for row in rows if row[0] in known or row[1] * MAX_SERIES >= total][:MAX_SERIES]
    rest = total - sum(number for _, number in shown)
    return [*shown, *([(other, rest)] if rest else [])]


class _Collector:
    def __init__(self, hub: Hub) -> None:
        self._database, self._folder = hub.database, hub.settings.data

    def collect(self) -> Iterator[Metric]:
        now = time.time()
        with self._database.reading() as connection:
            yield from _fleet(connection, now)
            yield from _metadata(connection, now)
            yield from _tick(connection)
            yield from _alerts(connection)
        yield from _disk(self._folder)


def _fleet(connection: Connection, now: float) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    count = func.count().label("count")
    versions = connection.execute(select(devices.c.model, devices.c.version, count).group_by(devices.c.model, devices.c.version))
    by_version = GaugeMetricFamily("edgeloop_hub_devices", "enrolled devices", labels=["model", "version"])
    published = {(row.model, str(row.version)) for row in connection.execute(select(bundles.c.model, bundles.c.version))}
    for (model, version), number in _named((((row[0], str(row[1])), row[2]) for row in versions), published, ("other", "")):
        by_version.add_metric([model, version], number)
    yield by_version
    kinds = connection.execute(select(events.c.kind, count).group_by(events.c.kind))
    by_kind = GaugeMetricFamily("edgeloop_hub_stored_events", "events in the database, by kind", labels=["kind"])
    for kind, number in _named(((row[0], row[1]) for row in kinds), KINDS, "other"):
        by_kind.add_metric([kind], number)
    yield by_kind
    states = finding.counts(connection, finding.Filter(), now).by_state
    by_state = GaugeMetricFamily(
        "edgeloop_hub_devices_in_state", "devices by what is wrong, as the fleet page says", labels=["state"]
    )
    for state, number in states.items():
        by_state.add_metric([state], number)
    yield by_state
    yield GaugeMetricFamily(
        "edgeloop_hub_silent_devices", "devices that are silent, as the fleet page counts them", value=states["silent"]
    )
    by_row = connection.execute(select(rollouts.c.state, count).group_by(rollouts.c.state))
    stored = {row.state: row[1] for row in by_row}
    by_end = GaugeMetricFamily("edgeloop_hub_rollouts", "rollouts by state", labels=["state"])
    for name in get_args(RolloutState):
        by_end.add_metric([name], stored.get(name, 0))
    yield by_end
    running = len(rollout_store.open_ids(connection))
    yield GaugeMetricFamily("edgeloop_hub_open_rollouts", "rollouts that are running, paused or halted", value=running)


def _metadata(connection: Connection, now: float) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    remaining = GaugeMetricFamily(
        "edgeloop_hub_metadata_remaining_seconds",
        "seconds until signed metadata expire; the hub renews timestamp and snapshot, the workstation targets and root",
        labels=["role"],
    )
    ends = GaugeMetricFamily(
        "edgeloop_hub_metadata_expiry_timestamp_seconds", "when signed metadata expire, since 1970", labels=["role"]
    )
    for role, expires in sorted(signing.expiries(connection).items()):
        remaining.add_metric([role], expires - now)
        ends.add_metric([role], expires)
    yield remaining
    yield ends


def _tick(connection: Connection) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    last = health.last_tick(connection)
    last = last or health.TickRecord(0.0, problems=["no tick yet"])
    at, seconds, success = last.at, last.seconds, float(last.fine)
    yield GaugeMetricFamily("edgeloop_hub_last_tick_timestamp_seconds", "when the last tick began, since 1970; 0: never", value=at)
    yield GaugeMetricFamily("edgeloop_hub_last_tick_duration_seconds", "how long the last tick took", value=seconds)
    yield GaugeMetricFamily(
        "edgeloop_hub_last_tick_longest_write_seconds", "how long the last tick held other writers at most",
        value=last.longest_write_seconds,
    )  # fmt: skip
    yield GaugeMetricFamily("edgeloop_hub_last_tick_success", "1: the last tick did all that was due", value=success)


def _alerts(connection: Connection) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    count = func.count()
    there = (
        select(alerts.c.rule, alerts.c.severity, count).where(alerts.c.ended.is_(None)).group_by(alerts.c.rule, alerts.c.severity)
    )
    open_alerts = GaugeMetricFamily("edgeloop_hub_open_alerts", "alerts that have not ended", labels=["rule", "severity"])
    for rule, severity, number in connection.execute(there):
        open_alerts.add_metric([rule, severity], number)
    yield open_alerts
    by = (alert_messages.c.channel, alert_messages.c.state)
    stored = GaugeMetricFamily("edgeloop_hub_alert_messages", "stored messages of alerts", labels=["channel", "state"])
    for channel, state, number in connection.execute(select(*by, count).group_by(*by)):
        stored.add_metric([channel, state], number)
    yield stored


def _disk(folder: Path) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    usage = shutil.disk_usage(folder)
    yield GaugeMetricFamily("edgeloop_hub_disk_free_bytes", "of the disk with the hub's folder", value=usage.free)
    yield GaugeMetricFamily("edgeloop_hub_disk_size_bytes", "of the disk with the hub's folder", value=usage.total)
