"""What a device reported over some time, for the plots of its page."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from edgeloop_contract.field_types import Celsius, Count, Microseconds, Seconds, Short
from edgeloop_contract.messages import DriftReport, Moments
from edgeloop_hub.rollouts import rollout_store
from edgeloop_hub.storage.schema import bundles, drifts, heartbeats, rollouts

MAX_ROWS = 10_000  # a month of a report in five minutes


class Beat(msgspec.Struct):
    """The figures of a heartbeat that are drawn, with the bounds that a heartbeat has."""

    version: Count = 0
    sha256: Short = ""
    seconds: Seconds = 0.0
    answered: Count = 0
    refused: Count = 0
    latency_us_p95: Microseconds | None = None
    celsius: Celsius | None = None
    memory_bytes: Count | None = None
    confidence: Moments = Moments()
    runtime: Short = ""
    reads: Count = 1


@dataclass(frozen=True)
class History:
    """`beats`, `scores`: oldest first, with their times. `drift`: the last drift report that there is."""

    beats: list[tuple[float, Beat]]
    scores: list[tuple[float, float]]
    drift: DriftReport | None

    @property
    def releases(self) -> list[tuple[float, str]]:
        """When another version began to report."""
        pairs = itertools.pairwise(self.beats)
        return [(at, f"version {new.version}") for (_, old), (at, new) in pairs if new.sha256 != old.sha256]


def of_device(connection: Connection, device: str, since: float) -> History:
    """Reports of a device since a time; the newest MAX_ROWS of them. Rows that cannot be read are passed over."""
    mine = (heartbeats.c.device == device, heartbeats.c.at >= since, heartbeats.c.sha256 != "")
    rows = connection.execute(
        select(heartbeats.c.at, heartbeats.c.body).where(*mine).order_by(heartbeats.c.at.desc()).limit(MAX_ROWS)
    )
    beats = [(row.at, beat) for row in rows if (beat := _decoded(row.body, Beat)) is not None][::-1]
    query = select(drifts.c.at, drifts.c.score).where(drifts.c.device == device, drifts.c.at >= since)
    scores = [(row.at, row.score) for row in connection.execute(query.order_by(drifts.c.at.desc()).limit(MAX_ROWS))][::-1]
    newest = select(drifts.c.body).where(drifts.c.device == device).order_by(drifts.c.at.desc()).limit(1)
    body = connection.execute(newest).scalar()
    return History(beats, scores, _decoded(body, DriftReport) if body else None)


def _decoded(body: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return None


def latency_limit(connection: Connection, history: History) -> tuple[float, str] | None:
    """The gate of the rollout that brought the running version: so many times the mean before it. None: no release is in sight."""
    if not history.releases:
        return None
    at, version = history.releases[-1]
    before = [beat.latency_us_p95 for when, beat in history.beats if when < at and beat.latency_us_p95 is not None]
    sha256 = history.beats[-1][1].sha256
    newest = select(func.max(rollouts.c.id)).join(bundles, bundles.c.target == rollouts.c.target).where(bundles.c.sha256 == sha256)
    text = connection.execute(select(rollouts.c.plan).where(rollouts.c.id == newest.scalar_subquery())).scalar()
    if not before or not text:
        return None
    try:
        ratio = rollout_store.plan_of(text).gates.max_latency_ratio
    except (msgspec.MsgspecError, RecursionError):
        return None
    return ratio * sum(before) / len(before), f"{ratio:g} × the mean before {version}"
