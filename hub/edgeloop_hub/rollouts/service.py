"""Rollouts as they go: started, paused, advanced by `tick`, stopped by a gate. Every decision is an event with its reason."""

from __future__ import annotations

import json
import logging
import time

import msgspec
from securesystemslib.signer import CryptoSigner
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from tuf.api.metadata import Metadata, Targets

from edgeloop_contract.errors import DataError, EdgeloopError, UsageError
from edgeloop_hub import event_log
from edgeloop_hub.rollouts import evidence, stored
from edgeloop_hub.rollouts.gates import Finding, judge
from edgeloop_hub.rollouts.policy import OPEN, Move, Plan, Rollout
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.schema import bundles, released, rollouts
from edgeloop_hub.updates import registry, signing

LOG = logging.getLogger("edgeloop_hub")
VERBS = {"pause": ("running", "paused"), "resume": ("paused halted", "running"), "abort": ("running paused halted", "aborted")}


def start(connection: Connection, target: str, plan: Plan, fallback: bytes | None) -> int:
    """Raises UsageError or DataError; one rollout of a model in a channel at a time."""
    row = connection.execute(select(bundles).where(bundles.c.target == target)).first()
    if row is None or row.withdrawn is not None:
        raise UsageError(f"{target} is {'withdrawn' if row else 'not published'}; publish it first")
    for other in stored.open_rollouts(connection):
        if (other.model, other.channel) == (row.model, row.channel):
            raise UsageError(f"rollout {other.id} of {other.target} is {other.state}; abort it, or let it end")
    if plan.on_breach == "return":
        _check_fallback(connection, target, fallback)
    now = time.time()
    made = connection.execute(
        insert(rollouts).values(
            channel=row.channel,
            model=row.model,
            target=target,
            plan=msgspec.json.encode(plan).decode(),
            state="running",
            step=0,
            step_began=now,
            began=now,
            reason="",
            fallback=fallback,
        )
    )
    assert made.inserted_primary_key is not None
    number = int(made.inserted_primary_key[0])
    event_log.record(
        connection, "rollout started", f"steps {'; '.join(map(str, plan.steps))}, soak {plan.soak_seconds:g} s", target, number
    )
    return number


def _check_fallback(connection: Connection, target: str, fallback: bytes | None) -> None:
    """What the workstation signed in advance, so that the hub can send a cohort back without the targets key."""
    root, now = signing.trusted_root(connection), signing.latest(connection, "targets")
    if fallback is None or root is None or now is None:
        raise DataError("to send a cohort back, the workstation signs targets without the new bundle in advance")
    signed = signing.verified(Metadata[Targets], fallback, "targets", root)
    if signed.version != now[0] + 1 or target in signed.targets:
        raise DataError(f"the fallback must be targets version {now[0] + 1}, without {target}")


def change(connection: Connection, number: int, verb: str, who: str) -> None:
    """Pause, resume or abort. Raises UsageError."""
    rollout = connection.execute(select(rollouts.c.state, rollouts.c.target).where(rollouts.c.id == number)).first()
    if rollout is None:
        raise UsageError(f"there is no rollout {number}")
    allowed, state = VERBS[verb]
    if rollout.state not in allowed.split():
        raise UsageError(f"rollout {number} is {rollout.state}; it cannot {verb}")
    connection.execute(
        update(rollouts).where(rollouts.c.id == number).values(state=state, step_began=time.time(), reason=f"{verb} by {who}")
    )
    event_log.record(connection, f"rollout {state}", f"{verb} by {who}", rollout.target, number)


def assess(connection: Connection, rollout: Rollout) -> tuple[list[Finding], int, int, int]:
    """Findings, and the cohort's devices, those that answered with the new bundle, and those that failed."""
    inside, outside = evidence.members(connection, rollout)
    names = {d.name for d in inside}
    failed = evidence.failures(connection, rollout, names)
    began = connection.execute(select(rollouts.c.began).where(rollouts.c.id == rollout.id)).scalar_one()
    new = evidence.seen_since(connection, names, {rollout.target_sha256}, began)
    old_sha256s = {d.sha256 for d in outside if d.sha256 and d.sha256 != rollout.target_sha256}
    old = evidence.seen_since(connection, {d.name for d in outside}, old_sha256s, began)
    failed -= {d.name for d in inside if d.sha256 == rollout.target_sha256}
    working = {name for name, seen in new.items() if seen.worked} - failed
    findings = judge(rollout.plan.gates, new, old, len(failed), len(new.keys() - failed))
    return findings, len(inside), len(working), len(failed)


def carry_out(connection: Connection, rollout: Rollout, move: Move, signer: CryptoSigner, blobs: Blobs, settings: Settings) -> str:
    """What a move comes to, in words. Nothing where somebody changed the rollout meanwhile."""
    as_judged = (rollouts.c.id == rollout.id, rollouts.c.state == rollout.state, rollouts.c.step == rollout.step)
    mine, now = update(rollouts).where(*as_judged), time.time()
    if connection.execute(select(rollouts.c.id).where(*as_judged)).first() is None:
        return "was changed meanwhile"
    if move.what == "wait":
        connection.execute(mine.values(reason=move.why))
        return "waits"
    if move.what == "advance":
        connection.execute(mine.values(step=rollout.step + 1, step_began=now, reason=move.why))
        said = f"step {rollout.step + 2} begins"
    elif move.what == "finish":
        connection.execute(mine.values(state="done", reason=move.why))
        same = (released.c.channel == rollout.channel, released.c.model == rollout.model)
        connection.execute(delete(released).where(*same))
        connection.execute(insert(released).values(channel=rollout.channel, model=rollout.model, target=rollout.target))
        said = "done"
    else:
        said = _breached(connection, rollout, move, signer, blobs, settings)
    event_log.record(connection, f"rollout {said}", move.why, rollout.target, rollout.id)
    return said


def halt(connection: Connection, number: int, target: str, why: str) -> None:
    """A rollout that cannot be judged goes no further, whatever the reason."""
    running = update(rollouts).where(rollouts.c.id == number, rollouts.c.state == "running")
    if connection.execute(running.values(state="halted", reason=why)).rowcount:
        event_log.record(connection, "rollout halted", why, target, number)


def _breached(connection: Connection, rollout: Rollout, move: Move, signer: CryptoSigner, blobs: Blobs, settings: Settings) -> str:
    mine = update(rollouts).where(rollouts.c.id == rollout.id)
    fallback = connection.execute(select(rollouts.c.fallback).where(rollouts.c.id == rollout.id)).scalar()
    if rollout.plan.on_breach == "return" and fallback is not None:
        targets = signing.accept(connection, [], fallback, signer, settings)
        assert targets is not None
        registry.complete(connection, blobs, targets)
        connection.execute(mine.values(state="returned", reason=move.why))
        return "returned: the cohort goes back"
    connection.execute(mine.values(state="halted", reason=move.why))
    return "halted"


def guard_fallbacks(connection: Connection) -> None:
    """New targets would make the version of a fallback that waits wrong. Raises DataError."""
    row = connection.execute(
        select(rollouts.c.id).where(rollouts.c.state.in_((*OPEN, "halted")), rollouts.c.fallback.is_not(None))
    ).first()
    if row is not None:
        raise DataError(f"rollout {row.id} holds a signed way back; publish when it is over, or abort it")


def described(connection: Connection, number: int) -> dict[str, object]:
    """A rollout with its gates as they stand, for status and the page. One that cannot be judged is described, and says so."""
    row = connection.execute(select(rollouts).where(rollouts.c.id == number)).first()
    if row is None:
        raise UsageError(f"there is no rollout {number}")
    told = {
        "id": number, "target": row.target, "model": row.model, "channel": row.channel, "state": row.state,
        "step": row.step + 1, "reason": row.reason, "began": row.began, "step_began": row.step_began,
        "steps": [], "soak_seconds": 0.0, "on_breach": "halt", "cohort": 0, "reported": 0, "failed": 0,
    }  # fmt: skip
    try:
        rollout = stored.find(connection, number)
        plan = rollout.plan
        told |= {"steps": [str(s) for s in plan.steps], "soak_seconds": plan.soak_seconds, "on_breach": plan.on_breach}
        findings, told["cohort"], told["reported"], told["failed"] = assess(connection, rollout)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:  # whatever devices sent: it must be seen, and can still be aborted
        LOG.error("rollout %d cannot be judged", number, exc_info=error)
        findings = [Finding("all gates", None, cannot_be_judged(error))]
    return {**told, "gates": [{"gate": f.gate, "breached": f.breached, "text": f.text} for f in findings]}


def cannot_be_judged(error: Exception) -> str:
    said = str(error) if isinstance(error, EdgeloopError) else f"{type(error).__name__}: {error}"
    return f"it cannot be judged ({said[:300]}): abort it, or resume it when that is mended"


def listed(connection: Connection) -> list[dict[str, object]]:
    columns = (
        rollouts.c.id,
        rollouts.c.target,
        rollouts.c.state,
        rollouts.c.step,
        rollouts.c.plan,
        rollouts.c.reason,
        rollouts.c.began,
    )
    found = []
    for row in connection.execute(select(*columns).order_by(rollouts.c.id.desc()).limit(100)):
        steps = _steps(row.plan)
        told = {"id": row.id, "target": row.target, "state": row.state, "step": row.step + 1, "steps": steps}
        found.append({**told, "reason": row.reason, "began": row.began})
    return found


def _steps(plan: str) -> int:
    """How many there are; 0 in a plan that cannot be read."""
    try:
        return len(json.loads(plan)["steps"])
    except (ValueError, KeyError, TypeError):
        return 0
