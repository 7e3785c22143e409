"""What devices report, and what they are told to run."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.messages import Assignment, Event, Heartbeat, Job, Report, too_deep
from edgeloop_hub import drift
from edgeloop_hub.auth.accounts import Device
from edgeloop_hub.rollouts.policy import OPEN, Plan, Rollout, assigned
from edgeloop_hub.samples import label_queue
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import bundles, devices, events, heartbeats, jobs, released, rollouts

HOUR = 3600.0
MOST_LISTED, SHOWN_LABELS = 10_000, 20
HUB = "hub"  # the source of the hub's own events; no device can be called so


def store(connection: Connection, device: Device, report: Report, settings: Settings) -> bool:
    """Keep a report, once. False: over the device's quota. What it says of other devices or times to come is not believed."""
    now = time.time()
    if report.job is not None and too_deep(report.job.measured):
        raise DataError("a measurement is nested too deeply")
    beat = report.heartbeat or Heartbeat()
    body = msgspec.json.encode(beat).decode()
    size = len(body) + bytes_of(report.events) + bytes_of([report.drift, report.job])
    if not count(connection, device, settings, now, rows=len(report.events), size=size):
        return False
    mine = update(devices).where(devices.c.name == device.name)
    known = connection.execute(
        select(heartbeats.c.key).where(heartbeats.c.device == device.name, heartbeats.c.key == report.key)
    ).first()
    if known is not None:
        return True
    used: dict[str, Any] = {}
    connection.execute(
        insert(heartbeats).values(device=device.name, key=report.key, at=_when(report.at, now), sha256=beat.sha256[:64], body=body)
    )
    if report.heartbeat is not None:
        used = {
            "model": beat.model,
            "version": beat.version,
            "sha256": beat.sha256[:64],
            "heartbeat": body,
        }
        if beat.machine:
            used["machine"] = beat.machine
    connection.execute(mine.values(last_seen=now, **used))
    for event in report.events:
        note_of_device(connection, device.name, event, now)
    if report.drift is not None:
        drift.keep(connection, device.name, report.key, report.drift, _when(report.at, now))
    if report.job is not None:
        answer = {
            "state": "refused" if report.job.refused else "done",
            "result": msgspec.json.encode(report.job).decode(),
            "at": now,
        }
        connection.execute(
            update(jobs).where(jobs.c.id == report.job.id, jobs.c.device == device.name, jobs.c.state == "waiting").values(**answer)
        )
    return True


def count(connection: Connection, device: Device, settings: Settings, now: float, rows: int, size: int) -> bool:
    """One message more of the device's in this hour, with so many rows and bytes. False: over its quota."""
    quota = (devices.c.quota_from, devices.c.quota_used, devices.c.quota_rows, devices.c.quota_bytes)
    row = connection.execute(select(*quota).where(devices.c.name == device.name)).first()
    if row is None:
        return True
    fresh = not row.quota_from <= now <= row.quota_from + HOUR
    used, has_rows, has_bytes = (0, 0, 0) if fresh else (row.quota_used, row.quota_rows, row.quota_bytes)
    over = has_rows + rows > settings.report_rows_per_hour or has_bytes + size > settings.report_bytes_per_hour
    if used >= settings.report_quota_per_hour or over:
        return False
    values = {"quota_used": used + 1, "quota_rows": has_rows + rows, "quota_bytes": has_bytes + size}
    values |= {"quota_from": now} if fresh else {}
    connection.execute(update(devices).where(devices.c.name == device.name).values(**values))
    return True


def bytes_of(parts: Sequence[msgspec.Struct | None]) -> int:
    return sum(len(msgspec.json.encode(part)) for part in parts if part is not None)


def _when(told: float, now: float) -> float:
    """A device's time, where it can be: a report may have waited for hours, and a board may have no battery for its clock."""
    return min(told, now) if told > now - 30 * 86400 else now


def note_of_device(connection: Connection, device: str, event: Event, now: float) -> None:
    """A device's event, once."""
    there = connection.execute(select(events.c.key).where(events.c.source == device, events.c.key == event.key)).first()
    if there is None:
        rollout = rollout_of(connection, event.target)
        values = {"kind": event.kind, "target": event.target, "text": event.text, "rollout": rollout}
        connection.execute(insert(events).values(source=device, key=event.key, at=_when(event.at, now), **values))


def note(connection: Connection, kind: str, text: str, target: str = "", rollout: int | None = None) -> None:
    """An event of the hub's own."""
    values = {"kind": kind, "target": target, "text": text[:2000], "rollout": rollout, "at": time.time()}
    connection.execute(insert(events).values(source=HUB, key=secrets.token_hex(16), **values))


def rollout_of(connection: Connection, target: str) -> int | None:
    if not target:
        return None
    return connection.execute(select(func.max(rollouts.c.id)).where(rollouts.c.target == target)).scalar()


def open_rollouts(connection: Connection, *states: str) -> list[Rollout]:
    """Those that are not over: running, paused or halted. One whose plan cannot be read offers nothing to anybody."""
    found = []
    for row in connection.execute(_ROLLOUTS.where(rollouts.c.state.in_(states or (*OPEN, "halted"))).order_by(rollouts.c.id)):
        with contextlib.suppress(DataError):
            found.append(_rollout(row))
    return found


def open_numbers(connection: Connection, *states: str) -> list[int]:
    wanted = states or (*OPEN, "halted")
    return list(connection.execute(select(rollouts.c.id).where(rollouts.c.state.in_(wanted)).order_by(rollouts.c.id)).scalars())


def find_rollout(connection: Connection, number: int) -> Rollout:
    """Raises UsageError when there is none, DataError for a plan that cannot be read."""
    row = connection.execute(_ROLLOUTS.where(rollouts.c.id == number)).first()
    if row is None:
        raise UsageError(f"there is no rollout {number}")
    return _rollout(row)


_ROLLOUTS = select(rollouts, bundles.c.sha256).join(bundles, bundles.c.target == rollouts.c.target)


def _rollout(row: Any) -> Rollout:
    try:
        plan = _plan(row.plan)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"rollout {row.id}: its plan cannot be read ({error}); abort it, and start another") from error
    return Rollout(row.id, row.channel, row.model, row.target, row.sha256, plan, row.state, row.step, row.step_began)


@lru_cache(64)
def _plan(text: str) -> Plan:
    return msgspec.json.decode(text, type=Plan)


def assignment(connection: Connection, device: Device, settings: Settings) -> Assignment:
    """What this device should run, and measure; and of which recordings it should send the rest."""
    target = target_for(connection, device, device.model) if device.model else ""
    waiting = select(jobs).where(jobs.c.device == device.name, jobs.c.state == "waiting").order_by(jobs.c.at).limit(1)
    job = connection.execute(waiting).first()
    wanted = label_queue.wanted(connection, device.name, settings)
    return Assignment(target=target, job=Job(id=job.id, target=job.target) if job else None, recordings=wanted)


def target_for(connection: Connection, device: Device, model: str) -> str:
    done = select(released.c.target).where(released.c.channel == device.channel, released.c.model == model)
    default = connection.execute(done).scalar() or ""
    rollout = next((r for r in reversed(open_rollouts(connection)) if r.model == model and r.channel == device.channel), None)
    return assigned(device.name, device.labels, device.sha256, default, rollout)


def may_fetch(connection: Connection, device: Device, target: str) -> bool:
    """A device reads the bundle that it is to run, and one that it is to measure; no other."""
    row = connection.execute(select(bundles.c.model).where(bundles.c.target == target, bundles.c.withdrawn.is_(None))).first()
    if row is None:
        return False
    if target_for(connection, device, row.model) == target:
        return True
    job = select(jobs.c.id).where(jobs.c.device == device.name, jobs.c.target == target, jobs.c.state == "waiting")
    return connection.execute(job).first() is not None


def forget_old(connection: Connection, settings: Settings) -> None:
    before = time.time() - settings.history_seconds
    connection.execute(delete(heartbeats).where(heartbeats.c.at < before))
    connection.execute(delete(events).where(events.c.at < before))
    drift.forget_old(connection, before)
    label_queue.forget_old(connection, before, time.time() - settings.sample_seconds)


def counted(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(devices)).scalar_one())


def listed(connection: Connection, after: str = "", limit: int = MOST_LISTED, name: str = "") -> list[dict[str, Any]]:
    """Devices with their last heartbeats, by name, those behind `after`; no credential. `name`: that one alone."""
    columns = ("name", "channel", "enrolled", "revoked", "machine", "last_seen", "model", "version", "sha256")
    rows = select(devices).where(devices.c.name == name if name else devices.c.name > after).order_by(devices.c.name).limit(limit)
    told = []
    for row in connection.execute(rows):
        more = {"labels": json.loads(row.labels), "heartbeat": _shown(row.heartbeat)}
        told.append({**{c: getattr(row, c) for c in columns}, **more})
    return told


def _shown(heartbeat: str) -> dict[str, Any]:
    """A heartbeat with its most frequent labels alone: a list of devices is read by people."""
    found: dict[str, Any] = json.loads(heartbeat)
    if len(found.get("labels", {})) > SHOWN_LABELS:
        found["labels"] = dict(Counter(found["labels"]).most_common(SHOWN_LABELS))
    return found
