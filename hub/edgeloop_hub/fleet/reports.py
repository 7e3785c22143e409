"""Reports of devices: heartbeats, events, drift, results of jobs. Those of several devices are stored together."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, exists, select, update

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
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.fleet_tables import device_bundles, device_states
from edgeloop_hub.storage.many_rows import Changes, insert_new, update_rows
from edgeloop_hub.storage.schema import devices, heartbeats, jobs

_ROWS = (
    select(
        devices.c.name, devices.c.machine, devices.c.channel, devices.c.credential, devices.c.revoked, *quota.COLUMNS,
        *states.COLUMNS,
        exists().where(device_bundles.c.device == devices.c.name).label("has_others"),
    )
    .outerjoin(device_states, device_states.c.device == devices.c.name)
    .where(devices.c.name.in_(bindparam("names", expanding=True)))
    .order_by(devices.c.name)
    .with_for_update(of=devices)
)  # fmt: skip
MAX_EVENTS, MAX_OTHERS = 5, 3  # of a report that is stored with those of other devices


class Came(NamedTuple):
    """A report, and whose it is. `credential`: the digest by which the device is known, where nobody has asked for it yet."""

    device: EnrolledDevice
    report: Report
    credential: str = ""


class _Believed(NamedTuple):
    """A report as it is stored. `beat`: its heartbeat, or an empty one; `body`: that as JSON."""

    device: EnrolledDevice
    report: Report
    beat: Heartbeat
    body: str
    at: float


def is_short(report: Report) -> bool:
    """Whether other devices' reports may wait for this one: it takes about a millisecond."""
    return report.job is None and len(report.events) <= MAX_EVENTS and len(report.others) <= MAX_OTHERS


def store_together(database: Database, came: Sequence[Came], settings: Settings) -> list[bool]:
    """Reports of any devices, in one transaction; as `store` of each, in order. False too: no device has the credential."""
    results: dict[int, bool] = {}
    waiting = list(enumerate(came))
    with database.writing(ordered=False) as connection:
        while waiting:  # a device's second report sees what the first one changed
            turn = {one.device.name: (number, one) for number, one in reversed(waiting)}
            stored = store_all(connection, [one for _, one in turn.values()], settings)
            results |= {number: good for (number, _), good in zip(turn.values(), stored, strict=True)}
            waiting = [(number, one) for number, one in waiting if number not in results]
    return [results[number] for number in range(len(came))]


def store(connection: Connection, device: EnrolledDevice, report: Report, settings: Settings) -> bool:
    """Store a report, once. False: over the device's quota. Claims about other devices or about the future are not believed."""
    return store_all(connection, [Came(device, report)], settings)[0]


def store_all(connection: Connection, came: Sequence[Came], settings: Settings) -> list[bool]:
    """Store reports of different devices, as `store` does."""
    now = time.time()
    rows = _locked(connection, (one.device.name for one in came))
    stored, counted, believed = [], dict[str, dict[str, Any]](), list[_Believed]()
    for device, report, credential in came:
        row = rows.get(device.name)
        if credential and not _is_of(credential, row):
            stored.append(False)
            continue
        one = _believed(device, report, now)
        charged = quota.charged(row, settings, now, len(report.events), _size(one)) if row is not None else None
        stored.append(row is None or charged is not None)
        if charged is not None:
            counted[device.name] = charged
            believed.append(one)
    beats = [
        {"device": one.device.name, "key": one.report.key, "at": one.at, "sha256": one.beat.sha256[:64], "body": one.body}
        for one in believed
    ]
    inserted = insert_new(connection, heartbeats, beats)
    new = [one for one in believed if (one.device.name, one.report.key) in inserted]
    of_states = states.changes(connection, {one.device.name: one.report for one in new}, rows, now)  # what was reported before
    for one in new:
        counted[one.device.name] |= _changes(one, rows[one.device.name], now)
    of_devices = Changes(devices, ("name",), [{"name": name, **counted[name]} for name in sorted(counted)])
    update_rows(connection, of_states, of_devices)
    _keep(connection, new, rows, now)
    return stored


def _is_of(credential: str, row: Any) -> bool:
    """Of the locked row, so that a revocation holds for the next report."""
    return row is not None and row.revoked is None and hmac.compare_digest(row.credential, credential)


def _locked(connection: Connection, names: Iterable[str]) -> dict[str, Any]:
    """Devices' rows, which nobody else changes meanwhile; locked in one order, so that no two transactions wait for each other."""
    return {row.name: row for row in connection.execute(_ROWS, {"names": list(names)})}


def _believed(device: EnrolledDevice, report: Report, now: float) -> _Believed:
    if report.job is not None and too_deep(report.job.measured):
        raise DataError("a measurement is nested too deeply")
    beat = plausible(report.heartbeat or Heartbeat(), now)
    believed = msgspec.structs.replace(report, heartbeat=beat if report.heartbeat is not None else None)
    return _Believed(device, believed, beat, msgspec.json.encode(beat).decode(), event_log.believed_time(report.at, now))


def _size(one: _Believed) -> int:
    """Bytes that count against the quota."""
    report = one.report
    size = len(one.body) + sum(map(len, report.log)) + quota.encoded_bytes(report.events)
    return size + quota.encoded_bytes([report.drift, report.job, *report.others])


def _changes(one: _Believed, row: Any, now: float) -> dict[str, Any]:
    """Of the device's row."""
    if one.report.heartbeat is None:
        return {"last_seen": now}
    beat = one.beat
    return {
        "last_seen": now, "model": beat.model, "version": beat.version, "sha256": beat.sha256[:64], "heartbeat": one.body,
        "machine": beat.machine or row.machine,
    }  # fmt: skip


def _keep(connection: Connection, new: Sequence[_Believed], rows: Mapping[str, Any], now: float) -> None:
    """What reports say, where it belongs."""
    told = list[evidence.Told]()
    others = dict[str, dict[str, Heartbeat]]()
    for one in sorted(new, key=lambda one: one.device.name):
        if one.report.heartbeat is not None:
            said = other_bundles.said(one.beat.model, [plausible(other, now) for other in one.report.others])
            if said or rows[one.device.name].has_others:
                others[one.device.name] = said
            channel = rows[one.device.name].channel
            told += [evidence.Told(one.device.name, channel, beat) for beat in (one.beat, *said.values())]
    evidence.keep(connection, told)
    if others:
        other_bundles.keep(connection, others, now)
    drifts = [
        drift_reports.Told(one.device.name, one.report.key, one.report.drift, one.at) for one in new if one.report.drift is not None
    ]
    if drifts:
        drift_reports.keep(connection, drifts)
        kept.keep(connection, {told.device: told.report for told in drifts}, now)
    for one in new:
        _keep_rest(connection, one, now)


def _keep_rest(connection: Connection, one: _Believed, now: float) -> None:
    device, report = one.device.name, one.report
    if report.log:
        logs.keep(connection, device, report.log, now)
    event_log.record_of_device(connection, device, report.events, now)
    if report.job is not None:
        signed_jobs.answer(connection, device, report.job, now)
        _answered(connection, device, report.job, now)


def _answered(connection: Connection, device: str, result: JobResult, now: float) -> None:
    mine = (jobs.c.id == result.id, jobs.c.device == device, jobs.c.state == "waiting")
    state = "refused" if result.refused else "done"
    connection.execute(update(jobs).where(*mine).values(state=state, result=msgspec.json.encode(result).decode(), at=now))


def old(before: float) -> Old:
    return Old(heartbeats, heartbeats.c.at < before)
