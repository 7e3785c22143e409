"""What a device reported over some time, for the plots of its page."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from edgeloop_contract.field_types import Celsius, Count, Microseconds, Seconds, Short
from edgeloop_contract.messages import DriftReport, Moments
from edgeloop_hub.history import kept
from edgeloop_hub.history.sums import BeatSums
from edgeloop_hub.rollouts import rollout_store
from edgeloop_hub.storage.schema import bundles, drifts, heartbeats, rollouts

RANGED = ("latency_us_p95", "celsius", "memory_bytes")
MAX_ROWS = 10_000  # of reports, and of sums


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
    reports: Count = 1  # that these are the figures of


@dataclass(frozen=True)
class History:
    """`beats`, `scores`: oldest first, with their times; of old reports there is a mean for each hour or day.

    `ranges`: (time, lowest, highest) of each figure in those. `drift`: the last drift report that there is.
    """

    beats: list[tuple[float, Beat]]
    scores: list[tuple[float, float]]
    drift: DriftReport | None
    ranges: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

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
    old = [one for one in kept.of_device(connection, device, since, MAX_ROWS) if one.sha256]
    ranges = {name: _ranges(old, name) for name in RANGED}
    beats = sorted([*((one.at, _beat(one.sha256, one.beats)) for one in old if one.beats), *beats], key=lambda beat: beat[0])
    scores = sorted([*((one.at, one.drifts.score) for one in old if one.drifts), *scores])
    return History(beats, scores, _decoded(body, DriftReport) if body else None, ranges)


def _ranges(old: list[kept.Kept], name: str) -> list[tuple[float, float, float]]:
    """(time, lowest, highest) of a figure."""
    seen = [(one.at, getattr(one.beats, name)) for one in old if one.beats]
    return [(at, figure.low, figure.high) for at, figure in seen if figure.count]


def _beat(sha256: str, sums: BeatSums) -> Beat:
    """Several reports as one: means of what is measured, sums of what is counted."""
    memory = round(sums.memory_bytes.mean) if sums.memory_bytes.mean is not None else None
    return Beat(
        version=sums.version, sha256=sha256, seconds=sums.seconds, answered=sums.answered, refused=sums.refused,
        latency_us_p95=sums.latency_us_p95.mean, celsius=sums.celsius.mean, memory_bytes=memory,
        confidence=Moments(sums.answers, sums.confidence or 0.0), reports=sums.reports,
    )  # fmt: skip


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
    before = [
        (beat.latency_us_p95 * beat.reports, beat.reports)
        for when, beat in history.beats
        if when < at and beat.latency_us_p95 is not None
    ]
    sha256 = history.beats[-1][1].sha256
    newest = select(func.max(rollouts.c.id)).join(bundles, bundles.c.target == rollouts.c.target).where(bundles.c.sha256 == sha256)
    text = connection.execute(select(rollouts.c.plan).where(rollouts.c.id == newest.scalar_subquery())).scalar()
    if not before or not text:
        return None
    try:
        ratio = rollout_store.plan_of(text).gates.max_latency_ratio
    except (msgspec.MsgspecError, RecursionError):
        return None
    mean = sum(total for total, _ in before) / sum(count for _, count in before)
    return ratio * mean, f"{ratio:g} × the mean before {version}"
