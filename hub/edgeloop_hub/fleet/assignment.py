"""What a device is to run, to measure and to send."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Select, select

from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import MAX_OTHER_BUNDLES, Assignment, Job
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.fleet import marks, other_bundles, signed_jobs
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import rollout_store
from edgeloop_hub.rollouts.policy import assigned
from edgeloop_hub.samples import labelling
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import bundles, jobs, released
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
    targets = ["" if until == CLOSED and not offer.despite_windows else offer.target for offer in offers]
    target, others = (targets[0], [t for t in targets[1:] if t]) if targets else ("", [])
    waiting = select(jobs).where(jobs.c.device == device.name, jobs.c.state == "waiting").order_by(jobs.c.at).limit(20)
    job = next((row for row in connection.execute(waiting) if _may_read(connection, row.target, reads)), None)
    wanted = labelling.wanted_recordings(connection, device.name, settings)
    later = [t for t in targets if t and not _may_read(connection, t, reads)]
    return Assignment(
        target="" if target in later else target, others=[t for t in others if t not in later][:MAX_OTHER_BUNDLES],
        needs_upgrade=later[0] if later else "", job=Job(id=job.id, target=job.target) if job else None,
        recordings=wanted, until=max(until, 0.0),
        signed_job=signed.document if (signed := signed_jobs.waiting(connection, device.name, now)) is not None else "",
    )  # fmt: skip


def marked(device: EnrolledDevice, groups: Sequence[store.Group]) -> EnrolledDevice:
    """With its groups among its labels, so that steps of rollouts find it by them."""
    return replace(device, labels=[*device.labels, *(store.MARK + group.name for group in groups)]) if groups else device


def _until(groups: Sequence[store.Group], now: float) -> float:
    """When the maintenance window that is open closes; 0 where updates may come at any time, CLOSED where none is open."""
    group = store.with_windows(groups)
    return 0.0 if group is None else group.closes_at(now) or CLOSED


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
    target = assigned(device.name, device.labels, sha256, default, rollout)
    return Offered(target, rollout is not None and target == rollout.target and bool(rollout.plan.despite_windows))


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
    signed = signed_jobs.waiting(connection, device.name, time.time())
    if signed is not None and signed.target == target:
        return True
    job = select(jobs.c.id).where(jobs.c.device == device.name, jobs.c.target == target, jobs.c.state == "waiting")
    return connection.execute(job).first() is not None
