"""Start, change, assess and advance rollouts. Every decision is recorded as an event with its reason."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from securesystemslib.signer import CryptoSigner
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from tuf.api.metadata import Metadata, Targets

from edgeloop_contract.errors import DataError, EdgeloopError, UsageError
from edgeloop_contract.gate_messages import GatePower
from edgeloop_contract.hub_messages import RolloutStatus, RolloutSummary
from edgeloop_contract.rollout import RolloutPlan, RolloutState
from edgeloop_hub import event_log
from edgeloop_hub.auth.accounts import checked_name
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import cohort, evidence, gate_views, rollout_store
from edgeloop_hub.rollouts.device_evidence import ByDevice
from edgeloop_hub.rollouts.gates import Finding, judge
from edgeloop_hub.rollouts.looks import Moment
from edgeloop_hub.rollouts.policy import OPEN, Assessment, Move, Rollout, lacks_answers, seconds_left
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.schema import bundles, released, rollouts
from edgeloop_hub.updates import registry, signing

LOG = logging.getLogger("edgeloop_hub")
WITHDRAWN = "it was withdrawn, and is offered to nobody: abort this rollout"


@dataclass(frozen=True)
class Verb:
    """What a person may do to a rollout in some states, and the state that it comes to."""

    allowed: tuple[RolloutState, ...]
    state: RolloutState


VERBS = {
    "pause": Verb(("running",), "paused"),
    "resume": Verb(("paused", "halted"), "running"),
    "abort": Verb(OPEN, "aborted"),
}


def start(
    connection: Connection, target: str, plan: RolloutPlan, fallback: bytes | None, power: Sequence[GatePower] = (),
    channel: str = "",
) -> int:  # fmt: skip
    """Begin a rollout; returns its number. One rollout of a model in a channel at a time. `power`: what is said of its gates.

    `channel`: another one than the bundle was published for.

    Raises UsageError for a target that is not published or has a rollout, DataError for a wrong fallback.
    """
    row = connection.execute(select(bundles).where(bundles.c.target == target)).first()
    if row is None or row.withdrawn is not None:
        raise UsageError(f"{target} is {'withdrawn' if row else 'not published'}; publish it first")
    channel = checked_name(channel, "channel") if channel else row.channel
    for step in plan.steps:
        if step.label.startswith(store.MARK):
            store.find(connection, step.label.removeprefix(store.MARK))
    for other in rollout_store.open_rollouts(connection):
        if (other.model, other.channel) == (row.model, channel):
            raise UsageError(f"rollout {other.id} of {other.target} is {other.state}; abort it, or let it end")
    if plan.on_breach == "return":
        _check_fallback(connection, target, fallback)
    now = time.time()
    inserted = connection.execute(
        insert(rollouts).values(
            channel=channel, model=row.model, target=target, plan=msgspec.json.encode(plan).decode(), state="running", step=0,
            step_began=now, began=now, reason="", fallback=fallback,
        )
    )  # fmt: skip
    assert inserted.inserted_primary_key is not None
    number = int(inserted.inserted_primary_key[0])
    evidence.begin(connection, number)
    rollout_store.keep_power(connection, number, now, power)
    steps = "; ".join(map(str, plan.steps))
    despite = f", despite maintenance windows: {plan.despite_windows}" if plan.despite_windows else ""
    event_log.record(connection, "rollout started", f"steps {steps}, soak {plan.soak_seconds:g} s{despite}", target, number)
    return number


def _check_fallback(connection: Connection, target: str, fallback: bytes | None) -> None:
    """The fallback is what the workstation signed in advance: with it the hub sends a cohort back without the targets key."""
    root, newest = signing.trusted_root(connection), signing.latest(connection, "targets")
    if fallback is None or root is None or newest is None:
        raise DataError("to send a cohort back, the workstation signs targets without the new bundle in advance")
    signed = signing.verified(Metadata[Targets], fallback, "targets", root)
    if signed.version != newest.version + 1 or target in signed.targets:
        raise DataError(f"the fallback must be targets version {newest.version + 1}, without {target}")


def change(connection: Connection, number: int, verb: str, who: str) -> None:
    """Pause, resume or abort. Raises UsageError."""
    rollout = connection.execute(select(rollouts.c.state, rollouts.c.target).where(rollouts.c.id == number)).first()
    if rollout is None:
        raise UsageError(f"there is no rollout {number}")
    allowed, state = VERBS[verb].allowed, VERBS[verb].state
    if rollout.state not in allowed:
        raise UsageError(f"rollout {number} is {rollout.state}; it cannot {verb}")
    connection.execute(
        update(rollouts).where(rollouts.c.id == number).values(state=state, step_began=time.time(), reason=f"{verb} by {who}")
    )
    event_log.record(connection, f"rollout {state}", f"{verb} by {who}", rollout.target, number)


def assess(connection: Connection, rollout: Rollout, may_look: bool = True) -> Assessment:
    """A rollout's gates over what its devices reported since it began. Looks that are due are made; `carry_out` keeps them.

    Without `may_look` gates stand as their last looks left them: nothing is tested, and nothing is spent.
    """
    inside, outside, need_upgrade, pinned = cohort.members(connection, rollout)
    names = {d.name for d in inside}
    failed = evidence.failures(connection, rollout, names)
    began = connection.execute(select(rollouts.c.began).where(rollouts.c.id == rollout.id)).scalar_one()
    sums = evidence.kept(connection, rollout)

    def reported(names: set[str], sha256s: set[str]) -> ByDevice:
        if sums is None:
            return evidence.since(connection, names, sha256s, began)
        return evidence.of_devices(connection, sums, names, sha256s, began)

    new = reported(names, {rollout.target_sha256})
    old_sha256s = {d.sha256 for d in outside if d.sha256} if sums is None else set(sums)
    # Who is in the cohort now gave reports of the old bundle before: at the last step there are no others.
    before = {d.name for d in outside} if sums is None else {d.name for d in (*inside, *outside)}
    old = reported(before, old_sha256s - {rollout.target_sha256})
    failed -= {d.name for d in inside if d.sha256 == rollout.target_sha256}
    working = {name for name, device in new.items() if device.worked} - failed
    now = time.time()
    ends = seconds_left(rollout, now) <= 0 and not lacks_answers(rollout.plan, len(inside), len(working), len(failed))
    past = rollout_store.past_looks(connection, rollout.id)
    moment = Moment(now, rollout.step_began, ends, may_look)
    alone = not outside and all(d.sha256 == rollout.target_sha256 for d in inside)
    findings = judge(rollout.plan.gates, new, old, len(failed), len(new.keys() - failed), past, moment, alone)
    return Assessment(findings, len(inside), len(working), len(failed), need_upgrade, pinned)


def carry_out(
    connection: Connection, rollout: Rollout, assessment: Assessment, move: Move, signer: CryptoSigner, blobs: Blobs,
    settings: Settings,
) -> str:  # fmt: skip
    """Do what a move says; returns what was done, in words. Nothing is done where somebody changed the rollout meanwhile."""
    as_judged = (
        rollouts.c.id == rollout.id, rollouts.c.state == rollout.state, rollouts.c.step == rollout.step,
        rollouts.c.step_began == rollout.step_began,  # paused and resumed meanwhile: it soaks anew
    )  # fmt: skip
    row, now = update(rollouts).where(*as_judged), time.time()
    if connection.execute(select(rollouts.c.id).where(*as_judged)).first() is None:
        return "was changed meanwhile"
    looks = {finding.gate: finding.look for finding in assessment.findings if finding.look is not None}
    if not rollout_store.keep_looks(connection, rollout.id, looks):
        return "was looked at meanwhile"
    if move.action == "wait":
        connection.execute(row.values(reason=move.reason))
        return "waits"
    if move.action == "advance":
        connection.execute(row.values(step=rollout.step + 1, step_began=now, reason=move.reason))
        outcome = f"step {rollout.step + 2} begins"
    elif move.action == "finish":
        connection.execute(row.values(state="done", reason=move.reason))
        same = (released.c.channel == rollout.channel, released.c.model == rollout.model)
        connection.execute(delete(released).where(*same))
        connection.execute(insert(released).values(channel=rollout.channel, model=rollout.model, target=rollout.target))
        outcome = "done"
    elif move.action == "halt":
        connection.execute(row.values(state="halted", reason=move.reason))
        outcome = "halted"
    else:
        outcome = _breached(connection, rollout, move, signer, blobs, settings)
    event_log.record(connection, f"rollout {outcome}", move.reason, rollout.target, rollout.id)
    return outcome


def is_withdrawn(connection: Connection, target: str) -> bool:
    return connection.execute(select(bundles.c.withdrawn).where(bundles.c.target == target)).scalar() is not None


def halt(connection: Connection, number: int, target: str, reason: str) -> None:
    """Stop a running rollout that cannot be judged, or whose target was withdrawn."""
    running = update(rollouts).where(rollouts.c.id == number, rollouts.c.state == "running")
    if connection.execute(running.values(state="halted", reason=reason)).rowcount:
        event_log.record(connection, "rollout halted", reason, target, number)


def _breached(connection: Connection, rollout: Rollout, move: Move, signer: CryptoSigner, blobs: Blobs, settings: Settings) -> str:
    row = update(rollouts).where(rollouts.c.id == rollout.id)
    fallback = connection.execute(select(rollouts.c.fallback).where(rollouts.c.id == rollout.id)).scalar()
    if rollout.plan.on_breach == "return" and fallback is not None:
        targets = signing.accept(connection, [], fallback, signer, settings)
        assert targets is not None
        registry.complete(connection, blobs, targets)
        connection.execute(row.values(state="returned", reason=move.reason))
        return "returned: the cohort goes back"
    connection.execute(row.values(state="halted", reason=move.reason))
    return "halted"


def guard_fallbacks(connection: Connection) -> None:
    """Raises DataError where an open rollout has a fallback: new targets would make the version of that wrong."""
    row = connection.execute(select(rollouts.c.id).where(rollouts.c.state.in_(OPEN), rollouts.c.fallback.is_not(None))).first()
    if row is not None:
        raise DataError(f"rollout {row.id} holds a signed way back; publish when it is over, or abort it")


def status(connection: Connection, number: int) -> RolloutStatus:
    """A rollout with its gates as they stand. One that cannot be judged has its reason as a gate. Raises UsageError."""
    row = connection.execute(select(rollouts).where(rollouts.c.id == number)).first()
    if row is None:
        raise UsageError(f"there is no rollout {number}")
    summary = RolloutStatus(
        id=number, target=row.target, model=row.model, channel=row.channel, state=row.state, step=row.step + 1, reason=row.reason,
        began=row.began, step_began=row.step_began,
    )  # fmt: skip
    try:
        rollout = rollout_store.find(connection, number)
        plan = rollout.plan
        summary = msgspec.structs.replace(
            summary, steps=[str(s) for s in plan.steps], soak_seconds=plan.soak_seconds, on_breach=plan.on_breach
        )
        assessment = assess(connection, rollout, may_look=False)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:  # whatever devices sent: people must see the rollout, and can still abort it
        LOG.error("rollout %d cannot be judged", number, exc_info=error)
        assessment = Assessment([Finding("all gates", None, cannot_be_judged(error))], 0, 0, 0)
    return msgspec.structs.replace(
        summary, cohort=assessment.cohort, reported=assessment.reported, failed=assessment.failed,
        need_upgrade=assessment.need_upgrade, pinned=assessment.pinned,
        gates=gate_views.of(connection, number, row.step + 1, assessment.findings),
    )  # fmt: skip


def cannot_be_judged(error: Exception) -> str:
    text = str(error) if isinstance(error, EdgeloopError) else f"{type(error).__name__}: {error}"
    return f"it cannot be judged ({text[:300]}): abort it, or resume it when that is mended"


def summaries(connection: Connection) -> list[RolloutSummary]:
    """The newest hundred rollouts, the newest first."""
    rows = connection.execute(select(rollouts).order_by(rollouts.c.id.desc()).limit(100))
    return [
        RolloutSummary(
            id=row.id, target=row.target, state=row.state, step=row.step + 1, steps=_step_count(row.plan), reason=row.reason,
            began=row.began,
        )
        for row in rows
    ]  # fmt: skip


def _step_count(plan: str) -> int:
    """How many steps there are; 0 in a plan that cannot be read."""
    try:
        return len(rollout_store.plan_of(plan).steps)
    except (msgspec.MsgspecError, RecursionError):
        return 0
