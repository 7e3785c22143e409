"""What a device is to run, to measure and to send."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, Select, and_, bindparam, exists, func, or_, select

from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import MAX_OTHER_BUNDLES, Assignment, Job
from edgeloop_hub.auth import accounts, secret_digests
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.fleet import marks, other_bundles, signed_jobs
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import rollout_store
from edgeloop_hub.rollouts.policy import OPEN, Rollout, assigned
from edgeloop_hub.samples import labelling
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.fleet_tables import device_group_pins, device_pins
from edgeloop_hub.storage.job_tables import signed_job_devices
from edgeloop_hub.storage.schema import bundles, device_bundles, devices, jobs, recordings, released, rollouts, signed
from edgeloop_hub.updates.registry import schema_of

CLOSED = -1.0


@dataclass(frozen=True)
class Offered:
    """`despite_windows`: it comes outside of maintenance windows too."""

    target: str
    despite_windows: bool = False


def assignment(
    connection: Connection, device: EnrolledDevice, settings: Settings, reads: int = 1, now: float | None = None
) -> Assignment:  # fmt: skip
    """What this device should run and measure, and of which recordings it should send the other samples.

    `reads`: the newest schema that its agent reads. A bundle of a later one is never offered. Outside of the device's maintenance
    windows nothing is, but by a rollout that says that it may.
    """
    now = time.time() if now is None else now
    groups = store.of_device(connection, device.name)
    device, until = marked(device, groups), _until(groups, now)
    running = other_bundles.running(connection, device) if device.model else {}
    offers = [_offer_for(connection, device, model, sha256) for model, sha256 in running.items()]
    targets = [_now(offer, until) for offer in offers]
    target, others = (targets[0], [t for t in targets[1:] if t]) if targets else ("", [])
    waiting = select(jobs).where(jobs.c.device == device.name, jobs.c.state == "waiting").order_by(jobs.c.at).limit(20)
    job = next((row for row in connection.execute(waiting) if _may_read(connection, row.target, reads)), None)
    wanted = labelling.wanted_recordings(connection, device.name, settings)
    later = [t for t in targets if t and not _may_read(connection, t, reads)]
    return Assignment(
        target="" if target in later else target, others=[t for t in others if t not in later][:MAX_OTHER_BUNDLES],
        needs_upgrade=later[0] if later else "", job=Job(id=job.id, target=job.target) if job else None,
        recordings=wanted, until=max(until, 0.0),
        signed_job=order.document if (order := signed_jobs.waiting(connection, device.name, now)) is not None else "",
    )  # fmt: skip


def marked(device: EnrolledDevice, groups: Sequence[store.Group]) -> EnrolledDevice:
    """With its groups among its labels, so that steps of rollouts find it by them."""
    return replace(device, labels=[*device.labels, *(store.MARK + group.name for group in groups)]) if groups else device


def _until(groups: Sequence[store.Group], now: float) -> float:
    """When the maintenance window that is open closes; 0 where updates may come at any time, CLOSED where none is open."""
    group = store.with_windows(groups)
    return 0.0 if group is None else group.closes_at(now) or CLOSED


def _now(offer: Offered, until: float) -> str:
    return "" if until == CLOSED and not offer.despite_windows else offer.target


class Poll(NamedTuple):
    """What a few queries say of devices that poll together. `target`: what it is to run; None: only `assignment` can tell.

    `targets_version`: of the newest signed targets. `until`: as the assignment's.
    """

    device: EnrolledDevice
    targets_version: int
    target: str | None
    until: float = 0.0


_ROLLOUT = (rollouts.c.plan, rollouts.c.state, rollouts.c.step, rollouts.c.step_began)
_OPEN, _BUNDLES, _PINNED = rollouts.alias(), bundles.alias(), bundles.alias()
_NEWEST_OPEN = (
    select(func.max(_OPEN.c.id))
    .where(_OPEN.c.state.in_(OPEN), _OPEN.c.channel == devices.c.channel, _OPEN.c.model == devices.c.model)
    .correlate(devices)
    .scalar_subquery()
)
_NOT_WITHDRAWN = select(_BUNDLES.c.target).where(_BUNDLES.c.withdrawn.is_(None))
_POLLS = (
    select(
        devices.c.credential, *accounts.IDENTITY,
        select(func.max(signed.c.version)).where(signed.c.role == "targets").scalar_subquery().label("targets_version"),
        or_(
            exists().where(device_bundles.c.device == devices.c.name), exists().where(device_pins.c.device == devices.c.name),
            exists().where(jobs.c.device == devices.c.name, jobs.c.state == "waiting"),
            exists().where(recordings.c.device == devices.c.name, recordings.c.released.is_(None)),
            exists().where(signed_job_devices.c.device == devices.c.name, signed_job_devices.c.state == "waiting"),
        ).label("special"),
        *store.OF_A_DEVICE,
        released.c.target.label("released"), rollouts.c.id.label("rollout"), rollouts.c.target, *_ROLLOUT,
        bundles.c.sha256.label("target_sha256"), device_group_pins.c.target.label("pin"),
        _PINNED.c.withdrawn.label("pin_withdrawn"),
    )
    .select_from(devices)
    .outerjoin(
        released,
        and_(
            released.c.channel == devices.c.channel, released.c.model == devices.c.model, released.c.target.in_(_NOT_WITHDRAWN),
        ),
    )
    .outerjoin(
        device_group_pins,
        and_(device_group_pins.c.device == devices.c.name, device_group_pins.c.model == devices.c.model),
    )
    .outerjoin(_PINNED, _PINNED.c.target == device_group_pins.c.target)
    .outerjoin(rollouts, rollouts.c.id == _NEWEST_OPEN)
    .outerjoin(bundles, and_(bundles.c.target == rollouts.c.target, bundles.c.withdrawn.is_(None)))
    .where(devices.c.credential.in_(bindparam("digests", expanding=True)), devices.c.revoked.is_(None))
)  # fmt: skip


def polls(connection: Connection, secrets: Sequence[str], now: float | None = None) -> list[Poll | None]:
    """Of the device of each credential; None where there is none, or it was revoked."""
    now = time.time() if now is None else now
    digests = [secret_digests.digest(secret) for secret in secrets]
    rows = {row.credential: row for row in connection.execute(_POLLS, {"digests": digests})}
    groups = store.listed(connection) if any(row.has_groups for row in rows.values()) else []
    return [_poll(rows[digest], groups, now) if digest in rows else None for digest in digests]


def _poll(row: Row[Any], every: Sequence[store.Group], now: float) -> Poll | None:
    device = accounts.identified(row)
    if device is None:
        return None
    groups = store.chosen(every, (row.named or "").split(), (row.tags or "").split()) if every else []
    version, until = row.targets_version or 0, _until(groups, now)
    offer = None if row.special else _offer(marked(device, groups), row) if device.model else Offered("")
    return Poll(device, version, None) if offer is None else Poll(device, version, _now(offer, until), max(until, 0.0))


def _offer(device: EnrolledDevice, row: Row[Any]) -> Offered | None:
    """As `_offer_for` of a device without a pin of its own. None: the newest rollout cannot be read, or was withdrawn."""
    if row.pin is not None:
        return Offered(row.pin if row.pin_withdrawn is None else "")
    if row.rollout is None:
        return Offered(row.released or "")
    try:
        plan = rollout_store.plan_of(row.plan)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if row.target_sha256 is None:
        return None
    rollout = Rollout(
        row.rollout, device.channel, device.model, row.target, row.target_sha256, plan, row.state, row.step, row.step_began
    )
    return _offered(device, device.sha256, row.released or "", rollout)


def _offered(device: EnrolledDevice, sha256: str, released: str, rollout: Rollout | None) -> Offered:
    target = assigned(device.name, device.labels, sha256, released, rollout)
    return Offered(target, rollout is not None and target == rollout.target and bool(rollout.plan.despite_windows))


def _may_read(connection: Connection, target: str, reads: int) -> bool:
    """Whether an agent reads this bundle. A hub holds none that it could not read itself: most polls need no query."""
    return reads >= SCHEMA or schema_of(connection, target) <= reads


def _offer_for(connection: Connection, device: EnrolledDevice, model: str, sha256: str) -> Offered:
    """What a device is to run of a model: the bundle that it is pinned to, else what is rolled out or released.

    `sha256`: of the model's bundle that the device runs.
    """
    pinned = marks.pinned_target(connection, device.name, model)
    if pinned is not None:
        return Offered(pinned)
    done = select(released.c.target).where(released.c.channel == device.channel, released.c.model == model)
    default = connection.execute(done.where(released.c.target.in_(_not_withdrawn(model)))).scalar() or ""
    rollout = next(
        (r for r in reversed(rollout_store.open_rollouts(connection)) if r.model == model and r.channel == device.channel), None
    )
    if rollout is not None and connection.execute(_not_withdrawn(model).where(bundles.c.target == rollout.target)).first() is None:
        rollout = None  # a device would refuse it at each poll
    return _offered(device, sha256, default, rollout)


def _not_withdrawn(model: str) -> Select[tuple[str]]:
    return select(bundles.c.target).where(bundles.c.model == model, bundles.c.withdrawn.is_(None))


def may_fetch(connection: Connection, device: EnrolledDevice, target: str) -> bool:
    """Whether a device may fetch a bundle: the one that it is to run, or one that it is to measure; no other.

    Outside of its windows too: a download that began inside may end.
    """
    row = connection.execute(select(bundles.c.model).where(bundles.c.target == target, bundles.c.withdrawn.is_(None))).first()
    if row is None:
        return False
    running = other_bundles.running(connection, device).get(row.model, "")
    device = marked(device, store.of_device(connection, device.name))
    if _offer_for(connection, device, row.model, running).target == target:
        return True
    order = signed_jobs.waiting(connection, device.name, time.time())
    if order is not None and order.target == target:
        return True
    job = select(jobs.c.id).where(jobs.c.device == device.name, jobs.c.target == target, jobs.c.state == "waiting")
    return connection.execute(job).first() is not None
