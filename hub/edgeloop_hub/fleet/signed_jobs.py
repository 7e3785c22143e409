"""Jobs that the holder of the targets key signed: the hub passes them on, keeps what devices answer, and can make none itself."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import msgspec
from securesystemslib.signer import Signature
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy import delete as delete_rows
from tuf.api.exceptions import RepositoryError

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.hub_messages import JobOutcome
from edgeloop_contract.messages import JobResult
from edgeloop_contract.signed_jobs import (
    JobAsked,
    JobOrder,
    JobWish,
    SignedJob,
    SignedJobDevice,
    SignedJobStatus,
    SignedJobSummary,
    order_of,
    signed_bytes,
)
from edgeloop_hub import event_log
from edgeloop_hub.groups import store
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.job_tables import job_wishes, signed_job_devices, signed_jobs
from edgeloop_hub.storage.schema import bundles, devices
from edgeloop_hub.updates import signing

MAX_WISHES, WISH_SECONDS, SHOWN = 200, 7 * 86400.0, 100
AHEAD_SECONDS = 300.0  # that the workstation's clock may be ahead
j, d = signed_jobs.c, signed_job_devices.c


def accept(connection: Connection, job: SignedJob, who: str) -> JobOrder:
    """Keep a signed job for its devices. Raises DataError for one that devices would not take, UsageError for unknown devices."""
    order, root = order_of(job), signing.trusted_root(connection)
    if root is None:
        raise UsageError("this hub has no keys yet; run edgeloop keys init on the workstation")
    try:
        signatures = {each.keyid: Signature(each.keyid, each.sig) for each in job.signatures}
        root.verify_delegate("targets", signed_bytes(job.order), signatures)
    except (RepositoryError, ValueError) as error:
        raise DataError(f"job {order.number}: the targets key did not sign it ({error})") from error
    if order.expires <= time.time():
        raise DataError(f"job {order.number}: it has expired")
    if order.number / 1000 > time.time() + AHEAD_SECONDS:
        raise DataError(f"job {order.number}: it was signed in the future; are both clocks right?")
    if order.number <= int(connection.execute(select(func.max(j.number))).scalar() or 0):
        raise DataError(f"job {order.number}: there is a job of this number or a later one; sign it again")
    names = set(order.devices)
    known = set(connection.execute(select(devices.c.name).where(devices.c.name.in_(names), devices.c.revoked.is_(None))).scalars())
    if unknown := sorted(names - known):
        raise UsageError(f"job {order.number}: there is no device {unknown[0]}, or it was revoked")
    if order.target:
        _check_published(connection, order.target)
    values = {"number": order.number, "kind": order.kind, "target": order.target, "expires": order.expires, "who": who[:63]}
    connection.execute(insert(signed_jobs).values(**values, document=msgspec.json.encode(job).decode()))
    row = {"number": order.number, "state": "waiting", "expires": order.expires, "at": time.time(), "result": "{}"}
    connection.execute(insert(signed_job_devices), [{**row, "device": name} for name in sorted(names)])
    event_log.record(connection, "job signed", f"{order.kind} for {', '.join(sorted(names))[:300]} by {who}", order.target)
    return order


def _check_published(connection: Connection, target: str) -> None:
    if connection.execute(select(bundles.c.target).where(bundles.c.target == target)).first() is None:
        raise UsageError(f"{target[:200]!r} is not published")


def waiting(connection: Connection, device: str, now: float) -> Any:
    """The job of the lowest number that this device has not answered: `number`, `document`, `target`."""
    mine = (d.device == device, d.state == "waiting", d.expires > now)
    query = select(j.number, j.document, j.target).join(signed_job_devices, d.number == j.number)
    return connection.execute(query.where(*mine).order_by(j.number).limit(1)).first()


def answer(connection: Connection, device: str, result: JobResult, now: float) -> None:
    """Keep what a device made of a job, once, and only of one that it was given."""
    if not (result.id.isascii() and result.id.isdigit() and len(result.id) < 17):
        return
    mine = (d.number == int(result.id), d.device == device, d.state == "waiting")
    state = "refused" if result.refused else "done"
    kept = msgspec.json.encode(result).decode()
    connection.execute(update(signed_job_devices).where(*mine).values(state=state, at=now, result=kept))


def status(connection: Connection, number: int) -> SignedJobStatus:
    """Raises UsageError where there is none."""
    row = connection.execute(select(j.kind, j.expires).where(j.number == number)).first()
    if row is None:
        raise UsageError(f"there is no job {number}")
    rows = connection.execute(select(signed_job_devices).where(d.number == number).order_by(d.device))
    return SignedJobStatus(number, row.kind, row.expires, [_of_device(each, time.time()) for each in rows])


def _of_device(row: Any, now: float) -> SignedJobDevice:
    result = msgspec.json.decode(row.result, type=JobOutcome)
    state = "expired" if row.state == "waiting" and row.expires <= now else row.state
    return SignedJobDevice(row.device, state, row.at, result.refused, result.lines, result.measured)


def summaries(connection: Connection) -> list[SignedJobSummary]:
    """The newest, the newest first."""
    left = select(func.count()).where(d.number == j.number, d.state == "waiting").scalar_subquery()
    many = select(func.count()).where(d.number == j.number).scalar_subquery()
    rows = connection.execute(select(signed_jobs, many.label("many"), left.label("left")).order_by(j.number.desc()).limit(SHOWN))
    return [SignedJobSummary(r.number, r.kind, r.target, r.expires, r.who, r.many, r.left) for r in rows]


def of_device(connection: Connection, device: str, limit: int) -> list[tuple[str, SignedJobDevice]]:
    """A device's jobs with their kinds, the newest first."""
    query = select(signed_job_devices, j.kind).join(signed_jobs, j.number == d.number).where(d.device == device)
    now = time.time()
    return [(row.kind, _of_device(row, now)) for row in connection.execute(query.order_by(d.number.desc()).limit(limit))]


def wish(connection: Connection, asked: JobWish, who: str) -> str:
    """Keep what somebody asks for until it is signed; returns its id. Raises UsageError."""
    if bool(asked.devices) == bool(asked.group):
        raise UsageError("a job is for devices, or for a group")
    if asked.group:
        store.find(connection, asked.group)
    known = set(connection.execute(select(devices.c.name).where(devices.c.name.in_(asked.devices))).scalars())
    if unknown := sorted(set(asked.devices) - known):
        raise UsageError(f"there is no device {unknown[0]}")
    if (asked.kind == "bench") != bool(asked.target):
        raise UsageError("a measurement names its bundle, and no other job does")
    if asked.target:
        _check_published(connection, asked.target)
    connection.execute(delete_rows(job_wishes).where(job_wishes.c.at < time.time() - WISH_SECONDS))
    if int(connection.execute(select(func.count()).select_from(job_wishes)).scalar_one()) >= MAX_WISHES:
        raise UsageError(f"{MAX_WISHES} jobs wait to be signed; run edgeloop jobs sign first")
    made = secrets.token_hex(8)
    values = {"kind": asked.kind, "target": asked.target, "devices": json.dumps(asked.devices), "of_group": asked.group}
    connection.execute(insert(job_wishes).values(id=made, who=who[:63], at=time.time(), **values))
    event_log.record(
        connection, "job asked", f"{asked.kind} for {asked.group or ', '.join(asked.devices)[:300]} by {who}", asked.target
    )
    return made


def wishes(connection: Connection, device: str = "") -> list[JobAsked]:
    """What waits to be signed, the oldest first. `device`: only what names this one."""
    fresh = job_wishes.c.at >= time.time() - WISH_SECONDS
    rows = connection.execute(select(job_wishes).where(fresh).order_by(job_wishes.c.at))
    found = [JobAsked(r.id, r.kind, json.loads(r.devices), r.of_group, r.target, r.who, r.at) for r in rows]
    return [one for one in found if not device or device in one.devices]


def forget_wish(connection: Connection, which: str) -> None:
    """It was signed, or nobody wants it any more. Raises UsageError."""
    if connection.execute(delete_rows(job_wishes).where(job_wishes.c.id == which)).rowcount != 1:
        raise UsageError(f"nothing of the id {which[:20]!r} waits to be signed")


def old(before: float) -> list[Old]:
    """Jobs that ended long ago."""
    return [Old(signed_job_devices, d.expires < before), Old(signed_jobs, j.expires < before)]
