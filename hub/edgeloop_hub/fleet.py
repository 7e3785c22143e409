"""What devices report, and what they are told to run."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, func, insert, select, update

from edgeloop_contract.errors import UsageError
from edgeloop_contract.messages import Assignment, Event, Heartbeat, Job, Report
from edgeloop_hub import drift, estimating, labelling
from edgeloop_hub.gates import Seen
from edgeloop_hub.people import Device
from edgeloop_hub.plans import OPEN, Plan, Rollout, assigned
from edgeloop_hub.schema import bundles, devices, events, heartbeats, jobs, released, rollouts
from edgeloop_hub.settings import Settings

HOUR = 3600.0
HUB = "hub"  # the source of the hub's own events; no device can be called so
FAILED = ("failed", "rolled-back")


def store(connection: Connection, device: Device, report: Report, settings: Settings) -> bool:
    """Keep a report, once. False: over the device's quota. What it says of other devices or times to come is not believed."""
    now = time.time()
    row = connection.execute(select(devices.c.quota_from, devices.c.quota_used).where(devices.c.name == device.name)).one()
    fresh = now - row.quota_from > HOUR
    if not fresh and row.quota_used >= settings.report_quota_per_hour:
        return False
    used: dict[str, Any] = {"quota_from": now, "quota_used": 1} if fresh else {"quota_used": row.quota_used + 1}
    mine = update(devices).where(devices.c.name == device.name)
    known = connection.execute(
        select(heartbeats.c.key).where(heartbeats.c.device == device.name, heartbeats.c.key == report.key)
    ).first()
    if known is not None:
        connection.execute(mine.values(**used))
        return True
    beat = report.heartbeat or Heartbeat()
    body = msgspec.json.encode(beat).decode()
    connection.execute(
        insert(heartbeats).values(device=device.name, key=report.key, at=_when(report.at, now), sha256=beat.sha256, body=body)
    )
    if report.heartbeat is not None:
        used |= {
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
    """Those that are not over: running, paused or halted."""
    wanted = states or (*OPEN, "halted")
    rows = (
        select(rollouts, bundles.c.sha256).join(bundles, bundles.c.target == rollouts.c.target).where(rollouts.c.state.in_(wanted))
    )
    return [_rollout(row) for row in connection.execute(rows.order_by(rollouts.c.id))]


def _rollout(row: Any) -> Rollout:
    plan = msgspec.json.decode(row.plan, type=Plan)
    return Rollout(row.id, row.channel, row.model, row.target, row.sha256, plan, row.state, row.step, row.step_began)


def find_rollout(connection: Connection, number: int) -> Rollout:
    rows = select(rollouts, bundles.c.sha256).join(bundles, bundles.c.target == rollouts.c.target).where(rollouts.c.id == number)
    row = connection.execute(rows).first()
    if row is None:
        raise UsageError(f"there is no rollout {number}")
    return _rollout(row)


def assignment(connection: Connection, device: Device, settings: Settings) -> Assignment:
    """What this device should run, and measure; and of which recordings it should send the rest."""
    target = target_for(connection, device, device.model) if device.model else ""
    waiting = select(jobs).where(jobs.c.device == device.name, jobs.c.state == "waiting").order_by(jobs.c.at).limit(1)
    job = connection.execute(waiting).first()
    wanted = labelling.wanted(connection, device.name, settings)
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


def members(connection: Connection, rollout: Rollout) -> tuple[list[Device], list[Device]]:
    """Devices of this channel and model: those of the cohort so far, and the others."""
    rows = select(devices).where(
        devices.c.channel == rollout.channel, devices.c.model == rollout.model, devices.c.revoked.is_(None)
    )
    found = [Device(r.name, json.loads(r.labels), r.channel, r.model, r.sha256) for r in connection.execute(rows)]
    inside = [d for d in found if rollout.cohort_has(d.name, d.labels)]
    names = {d.name for d in inside}
    return inside, [d for d in found if d.name not in names]


def failures(connection: Connection, rollout: Rollout, names: Iterable[str]) -> set[str]:
    """Devices that refused the bundle or gave it back since the rollout began."""
    began = select(rollouts.c.began).where(rollouts.c.id == rollout.id).scalar_subquery()
    rows = select(events.c.source).where(events.c.target == rollout.target, events.c.kind.in_(FAILED), events.c.at >= began - 1)
    return {row.source for row in connection.execute(rows)} & set(names)


def seen_since(connection: Connection, names: set[str], sha256s: set[str] | None, since: float) -> dict[str, Seen]:
    """Reports of these devices from these bundles, added up by device."""
    rows = select(heartbeats.c.device, heartbeats.c.body).where(and_(heartbeats.c.at >= since, heartbeats.c.sha256 != ""))
    if sha256s is not None:
        rows = rows.where(heartbeats.c.sha256.in_(sha256s))
    found: dict[str, Seen] = {}
    crashes: dict[str, int] = {}
    for name, body in connection.execute(rows.order_by(heartbeats.c.at)):
        if name not in names:
            continue
        beat, seen = msgspec.json.decode(body, type=Heartbeat), found.setdefault(name, Seen())
        seen.hours += beat.seconds / HOUR
        seen.crashes += max(0, beat.crashes - crashes.get(name, beat.crashes))
        crashes[name] = beat.crashes
        if beat.latency_us_p95 is not None:
            seen.latency_us_p95.append(beat.latency_us_p95)
        count, mean = beat.confidence.count, beat.confidence.mean
        seen.answers += count
        seen.confidence_sum += count * mean
        seen.confidence_squares += count * (beat.confidence.variance + mean * mean)
        seen.labels.update(beat.labels)
        if beat.drift is not None:
            seen.drift.append(beat.drift)
        seen.right += beat.right
        seen.labelled += beat.labelled
    for row in estimating.drawn(connection, sha256s, since, drift.faulty(connection)):
        if row.device in found:
            found[row.device].labelled += 1
            found[row.device].right += row.guess == row.label
    return found


def forget_old(connection: Connection, settings: Settings) -> None:
    before = time.time() - settings.history_seconds
    connection.execute(delete(heartbeats).where(heartbeats.c.at < before))
    connection.execute(delete(events).where(events.c.at < before))
    drift.forget_old(connection, before)
    labelling.forget_old(connection, before, time.time() - settings.sample_seconds)


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Every device with its last heartbeat; no credential."""
    columns = ("name", "channel", "enrolled", "revoked", "machine", "last_seen", "model", "version", "sha256")
    rows = connection.execute(select(devices).order_by(devices.c.name))
    told = []
    for row in rows:
        more = {"labels": json.loads(row.labels), "heartbeat": json.loads(row.heartbeat)}
        told.append({**{c: getattr(row, c) for c in columns}, **more})
    return told
