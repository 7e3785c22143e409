"""Reports of devices: heartbeats, events, drift, results of jobs."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from edgeloop_contract.errors import DataError
from edgeloop_contract.messages import Heartbeat, JobResult, Report, too_deep
from edgeloop_hub import event_log
from edgeloop_hub.auth import quota
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.drift import kept
from edgeloop_hub.drift import reports as drift_reports
from edgeloop_hub.fleet import logs, other_bundles, signed_jobs, states
from edgeloop_hub.fleet.plausible import plausible
from edgeloop_hub.rollouts import evidence
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.schema import devices, heartbeats, jobs


def store(connection: Connection, device: EnrolledDevice, report: Report, settings: Settings) -> bool:
    """Store a report, once. False: over the device's quota. Claims about other devices or about the future are not believed."""
    now = time.time()
    if report.job is not None and too_deep(report.job.measured):
        raise DataError("a measurement is nested too deeply")
    beat = plausible(report.heartbeat or Heartbeat(), now)
    body = msgspec.json.encode(beat).decode()
    size = len(body) + sum(map(len, report.log)) + quota.encoded_bytes(report.events)
    size += quota.encoded_bytes([report.drift, report.job, *report.others])
    if not quota.charge(connection, device, settings, now, rows=len(report.events), size=size):
        return False
    at = event_log.believed_time(report.at, now)
    mine = update(devices).where(devices.c.name == device.name)
    known = connection.execute(
        select(heartbeats.c.key).where(heartbeats.c.device == device.name, heartbeats.c.key == report.key)
    ).first()
    if known is not None:
        return True
    believed = msgspec.structs.replace(report, heartbeat=beat if report.heartbeat is not None else None)
    states.keep(connection, device.name, believed, now)
    if report.log:
        logs.keep(connection, device.name, report.log, now)
    used: dict[str, Any] = {}
    connection.execute(insert(heartbeats).values(device=device.name, key=report.key, at=at, sha256=beat.sha256[:64], body=body))
    if report.heartbeat is not None:
        evidence.keep(connection, device.name, device.channel, beat)
        used = {
            "model": beat.model,
            "version": beat.version,
            "sha256": beat.sha256[:64],
            "heartbeat": body,
        }
        if beat.machine:
            used["machine"] = beat.machine
        other_bundles.keep(connection, device, beat.model, [plausible(other, now) for other in report.others], now)
    connection.execute(mine.values(last_seen=now, **used))
    for event in report.events:
        event_log.record_of_device(connection, device.name, event, now)
    if report.drift is not None:
        drift_reports.keep(connection, device.name, report.key, report.drift, at)
        kept.keep(connection, device.name, report.drift, now)
    if report.job is not None:
        signed_jobs.answer(connection, device.name, report.job, now)
        _answered(connection, device.name, report.job, now)
    return True


def _answered(connection: Connection, device: str, result: JobResult, now: float) -> None:
    mine = (jobs.c.id == result.id, jobs.c.device == device, jobs.c.state == "waiting")
    state = "refused" if result.refused else "done"
    connection.execute(update(jobs).where(*mine).values(state=state, result=msgspec.json.encode(result).decode(), at=now))


def old(before: float) -> Old:
    return Old(heartbeats, heartbeats.c.at < before)
