"""Devices' kept rows: what its last report says of it, in the words of the fleet page."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, insert, select

from edgeloop_contract.messages import DriftReport, Event, Heartbeat, Report
from edgeloop_hub.storage.device_rows import SILENT_SECONDS, row_of
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.many_rows import Changes
from edgeloop_hub.storage.schema import devices

DAY = 86400.0
MISSED_REPORTS = 3  # of the device's own interval, then it is silent
NOT_TAKEN = ("refused", "failed", "rolled-back", "untrusted", "no-room")  # events: a bundle was not taken, or was given back
TAKEN = ("committed",)


CHANGING = (  # columns that reports change
    "seen", "silent_after", "model", "version", "sha256", "latency_us", "memory_bytes", "celsius", "crashes", "crashed",
    "crashes_of_day", "refused", "refused_target", "refused_why", "refused_at", "drift", "drifting", "cause", "agent",
)  # fmt: skip


COLUMNS = tuple(device_states.c[name].label(f"state_{name}") for name in CHANGING)


def changes(connection: Connection, reports: Mapping[str, Report], rows: Mapping[str, Any], now: float) -> Changes:
    """What brings the rows of these devices up to date, where their reports are stored. `rows`: with COLUMNS, by device."""
    changed = []
    for name in sorted(reports):
        kept = {column: rows[name]._mapping[f"state_{column}"] for column in CHANGING}
        if kept["silent_after"] is None:  # there is no row: enrolled by an earlier release
            kept = _adopted(connection, name)
        changed.append({"device": name, **kept, **_values(SimpleNamespace(**kept), reports[name], now)})
    return Changes(device_states, ("device",), changed)


def _adopted(connection: Connection, name: str) -> dict[str, Any]:
    source = connection.execute(select(devices).where(devices.c.name == name)).one()
    connection.execute(insert(device_states).values(**row_of(source)))
    row = connection.execute(select(device_states).where(device_states.c.device == name)).one()
    return {column: row._mapping[column] for column in CHANGING}


def _values(row: SimpleNamespace, report: Report, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {"seen": now, "silent_after": max(row.silent_after, now + SILENT_SECONDS)}
    if report.heartbeat is not None:
        values |= _of_beat(row, report.heartbeat, now)
    for event in report.events:
        values |= _of_event(event, now)
    if report.drift is not None:
        values |= _of_drift(report.drift)
    return values


def _of_beat(row: SimpleNamespace, beat: Heartbeat, now: float) -> dict[str, Any]:
    """The interval is believed up to a day: a device cannot say that it will report in a year."""
    new = beat.crashes - row.crashes if beat.crashes >= row.crashes else beat.crashes  # the count begins again with the agent
    same = row.sha256 in ("", beat.sha256[:64])  # else another bundle crashed: this one is not blamed for it
    recent = same and row.crashed is not None and now - row.crashed < DAY
    samples = beat.answered + beat.refused + beat.dropped
    values = {
        "silent_after": now + max(SILENT_SECONDS, min(MISSED_REPORTS * beat.seconds, DAY)), "model": beat.model,
        "version": beat.version, "sha256": beat.sha256[:64], "latency_us": beat.latency_us_p95, "celsius": beat.celsius,
        "memory_bytes": beat.memory_bytes, "crashes": beat.crashes, "agent": beat.agent,
        "refused": (beat.refused + beat.dropped) / samples if samples else 0.0,
    }  # fmt: skip
    if not same:
        values |= {"crashed": None, "crashes_of_day": 0}
    if new:
        values |= {"crashed": now, "crashes_of_day": min((row.crashes_of_day if recent else 0) + new, 2**53)}
    if beat.drift is not None:
        values["drift"] = beat.drift
    return values


def _of_event(event: Event, now: float) -> dict[str, Any]:
    if event.kind in NOT_TAKEN:
        return {"refused_target": event.target or "a bundle", "refused_why": f"{event.kind}: {event.text}"[:200], "refused_at": now}
    return {"refused_target": "", "refused_why": ""} if event.kind in TAKEN else {}


def _of_drift(report: DriftReport) -> dict[str, Any]:
    return {"drift": report.score, "drifting": int(report.drifting), "cause": report.cause if report.drifting else ""}
