"""/metrics in Prometheus' words: the fleet by version, rollouts, what is signed. Behind a token, as it names models."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from litestar import Response, get
from litestar.datastructures import State
from sqlalchemy import func, select

from edgeloop_hub import health
from edgeloop_hub.auth.guards import is_workstation
from edgeloop_hub.http.error_responses import problems
from edgeloop_hub.rollouts import rollout_store
from edgeloop_hub.storage.schema import devices, events, signed
from edgeloop_hub.updates import signing

AWAY_SECONDS = 3600.0
MAX_SERIES = 100


@get(
    "/metrics", guards=[is_workstation], sync_to_thread=True, tags=["health"], media_type="text/plain", responses=problems(401, 503)
)
def metrics(state: State) -> Response[bytes]:
    """Devices by model and version, silent ones, events by kind, seconds until the timestamp expires."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposition(state.hub))
    return Response(bytes(generate_latest(registry)), media_type="text/plain; version=0.0.4; charset=utf-8")


def _most(counted: Iterable[tuple[Any, int]], other: Any) -> list[tuple[Any, int]]:
    """The most frequent, and the rest as one: devices may name models and events as they like, and each is a series for ever."""
    rows = sorted(counted, key=lambda row: -row[1])
    rest = sum(number for _, number in rows[MAX_SERIES:])
    return [*rows[:MAX_SERIES], *([(other, rest)] if rest else [])]


class _Exposition:
    def __init__(self, hub: Any) -> None:
        self.hub = hub

    def collect(self) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        now = time.time()
        with self.hub.database.reading() as database:
            count = func.count().label("devices")
            rows = database.execute(
                select(devices.c.model, devices.c.version, count).group_by(devices.c.model, devices.c.version)
            ).all()
            away = database.execute(select(count).where(devices.c.last_seen < now - AWAY_SECONDS)).scalar()
            kinds = database.execute(select(events.c.kind, count).group_by(events.c.kind)).all()
            expires = database.execute(select(func.max(signed.c.expires)).where(signed.c.role == "timestamp")).scalar()
            running = len(rollout_store.open_ids(database))
            last, expiring = health.last_tick(database), signing.expiries(database)
        by_version = GaugeMetricFamily("edgeloop_hub_devices", "enrolled devices", labels=["model", "version"])
        for (model, version), number in _most((((row[0], str(row[1])), row[2]) for row in rows), ("other", "")):
            by_version.add_metric([model, version], number)
        by_kind = GaugeMetricFamily("edgeloop_hub_events", "events kept", labels=["kind"])
        for kind, number in _most(((row[0], row[1]) for row in kinds), "other"):
            by_kind.add_metric([kind], number)
        yield by_version
        yield by_kind
        yield GaugeMetricFamily("edgeloop_hub_devices_away", "devices silent for an hour", value=away or 0)
        yield GaugeMetricFamily("edgeloop_hub_rollouts_open", "rollouts that are not over", value=running)
        if expires is not None:
            yield GaugeMetricFamily("edgeloop_hub_timestamp_seconds", "seconds until the timestamp expires", value=expires - now)
        for role in ("targets", "root"):
            if role in expiring:
                text = f"seconds until {role} metadata expire, which the workstation renews"
                yield GaugeMetricFamily(f"edgeloop_hub_{role}_seconds", text, value=expiring[role] - now)
        at, seconds, fine = (last.at, last.seconds, float(last.fine)) if last else (0.0, 0.0, 0.0)
        yield GaugeMetricFamily("edgeloop_hub_tick_time_seconds", "when the last tick began, since 1970; 0: never", value=at)
        yield GaugeMetricFamily("edgeloop_hub_tick_duration_seconds", "how long the last tick took", value=seconds)
        yield GaugeMetricFamily("edgeloop_hub_tick_success", "1: the last tick did all that was due", value=fine)
