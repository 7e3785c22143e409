"""`edgeloop-hub tick`: sign what is due, advance each rollout by itself, forget what is old. What fails stops nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from securesystemslib.signer import CryptoSigner

from edgeloop_contract.errors import StorageError, UsageError
from edgeloop_hub import event_log, health
from edgeloop_hub.alerts import cycle, outbox
from edgeloop_hub.alerts import settings as alert_settings
from edgeloop_hub.alerts.sender import Sender
from edgeloop_hub.auth import accounts
from edgeloop_hub.drift import reports as drift_reports
from edgeloop_hub.fleet import reports, signed_jobs
from edgeloop_hub.history import roll_up
from edgeloop_hub.rollouts import evidence, rollout_store, service
from edgeloop_hub.rollouts.policy import next_move
from edgeloop_hub.samples import sample_store
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.deletion import delete_in_parts
from edgeloop_hub.updates import clock, signing, uploads

LOG = logging.getLogger("edgeloop_hub")
CLEAN_UP_SECONDS = 10.0  # of one tick; a backlog is deleted over several
ROLL_UP_SECONDS = 2.0  # of one tick, that old reports are summed, and
BACKLOG_SECONDS = 5.0  # where the last hour was not done when the next one came
BEHIND_SECONDS = 2 * 86400.0  # of which a tick complains; the first days after an upgrade have a month to sum
SEND_SECONDS = 20.0  # that a tick by cron waits for alerts to be sent, and
SERVICE_SEND_SECONDS = 2.0  # a service, which sends beside its next tick
MAX_PROBLEMS = 20  # problems that the page of the last tick has room for


@dataclass
class TickOutcome:
    """What a tick did, and what it could not do, in words."""

    actions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def tick(
    database: Database, blobs: Blobs, signer: CryptoSigner, settings: Settings, accept_clock: bool = False,
    sender: Sender | None = None,
) -> TickOutcome:  # fmt: skip
    """Advance everything that is due. Several at once are safe, and so is one that is killed: each part is a transaction.

    `sender`: of a service, which goes on sending alerts after the tick.

    Raises UsageError, and does nothing, where the clock has leapt."""
    began, watch, outcome = time.time(), time.monotonic(), TickOutcome()
    database.longest_write_seconds = 0.0
    if accept_clock:
        with database.writing() as connection:
            clock.believe(connection, began)
    with database.reading() as connection:
        numbers = rollout_store.open_ids(connection, ("running",))
    rollouts = {f"rollout {n}": partial(_advance, database, n, blobs, signer, settings, outcome) for n in numbers}
    parts: dict[str, Callable[[], None]] = {
        "signing": partial(_sign, database, signer, settings, outcome), **rollouts,
        "history": partial(_roll_up, database, settings, outcome), "clean-up": partial(_forget, database, blobs, settings),
    }  # fmt: skip
    for what, action in parts.items():
        _check_clock(database, began, settings, sender)  # which may leap while a tick runs, too
        _apart(outcome, what, action)
    with database.writing() as connection:
        clock.believe(connection, began)
        health.keep(connection, "tick", began, _record(began, watch, outcome.problems, database.longest_write_seconds))
    if not _alert(database, settings, sender, outcome):
        with database.writing() as connection:
            health.keep(connection, "tick", began, _record(began, watch, outcome.problems, database.longest_write_seconds))
    return outcome


def _alert(database: Database, settings: Settings, sender: Sender | None, outcome: TickOutcome, only: tuple[str, ...] = ()) -> bool:
    """Tell people, at the end: nothing of a tick waits for it. False: it failed, and the outcome says how."""
    before = len(outcome.problems)

    def tell() -> None:
        told = alert_settings.load(settings.data)
        outcome.actions.extend(cycle.update_alerts(database, settings, told, only))
        (sender or Sender(database, settings.data)).send_due(told, SERVICE_SEND_SECONDS if sender else SEND_SECONDS)

    _apart(outcome, "alerts", tell)
    return len(outcome.problems) == before


def _record(began: float, watch: float, problems: list[str], longest_write: float = 0.0) -> health.TickRecord:
    return health.TickRecord(began, time.monotonic() - watch, [p[:500] for p in problems[:MAX_PROBLEMS]], longest_write)


def _check_clock(database: Database, began: float, settings: Settings, sender: Sender | None) -> None:
    watch = time.monotonic()
    try:
        with database.reading() as connection:
            clock.check(connection, time.time(), settings)
    except UsageError as error:  # seen on the pages too; the time that is believed stays
        with database.writing() as connection:
            health.keep(connection, "tick", began, _record(began, watch, [str(error)]))
        _alert(database, settings, sender, TickOutcome(), ("tick",))  # by this clock every device is silent
        raise


def _apart(outcome: TickOutcome, what: str, action: Callable[[], None]) -> None:
    """Run one part of a tick. Its failure becomes a problem of the outcome, and the other parts go on."""
    try:
        action()
    except Exception as error:  # whatever it is: what comes next must not wait for it
        LOG.debug("tick: %s", what, exc_info=error)
        outcome.problems.append(f"{what}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")


def _sign(database: Database, signer: CryptoSigner, settings: Settings, outcome: TickOutcome) -> None:
    with database.writing() as connection:
        if signing.renew(connection, signer, settings):
            outcome.actions.append("timestamp signed anew")


def _advance(database: Database, number: int, blobs: Blobs, signer: CryptoSigner, settings: Settings, outcome: TickOutcome) -> None:
    """Judged while others may write; carried out only if nobody changed it meanwhile."""
    target = ""
    try:
        with database.reading() as connection:
            rollout = rollout_store.find(connection, number)
            target = rollout.target
            assessment = None if service.is_withdrawn(connection, target) else service.assess(connection, rollout)
        if assessment is None:
            with database.writing() as connection:
                service.halt(connection, number, target, service.WITHDRAWN)
            outcome.actions.append(f"rollout {number} of {target}: halted: {service.WITHDRAWN}")
            return
        move = next_move(rollout, time.time(), assessment)
        with database.writing() as connection:
            action = service.carry_out(connection, rollout, assessment, move, signer, blobs, settings)
        outcome.actions.append(f"rollout {number} of {target}: {action}: {move.reason}")
    except StorageError:
        raise  # the disk or the database: no fault of the rollout's, which is judged again at the next tick
    except Exception as error:  # whatever devices sent, or a mistake of ours: this one stops, with a reason, and no other
        LOG.debug("rollout %d cannot be judged", number, exc_info=error)
        reason = service.cannot_be_judged(error)
        with database.writing() as connection:
            service.halt(connection, number, target, reason)
        outcome.problems.append(f"rollout {number} halted: {reason}")


def _roll_up(database: Database, settings: Settings, outcome: TickOutcome) -> None:
    with database.reading() as connection:
        needed = evidence.unsummed_since(connection)
    done = roll_up.roll_up(database, settings, ROLL_UP_SECONDS, needed, BACKLOG_SECONDS)
    if done.rows:
        outcome.actions.append(f"history: {done.rows} old rows became sums")
    if done.behind > BEHIND_SECONDS:
        outcome.problems.append(
            f"history: reports of {done.behind / 3600:.0f} hours wait to be summed, and more come than ticks sum: tick more often "
            "(--every 10), or let devices poll less often"
        )


def _forget(database: Database, blobs: Blobs, settings: Settings) -> None:
    now = time.time()
    uploads.forget_stale_parts(database, blobs)
    before = now - settings.history_seconds
    unsummed = min(before, now - settings.day_history_seconds)  # what no tick came to
    rows = (
        *accounts.old(settings), reports.old(unsummed), event_log.old(before), evidence.old(before), drift_reports.old(unsummed),
        *sample_store.old(before, now - settings.sample_seconds), *outbox.old(before),
        *signed_jobs.old(before),
    )  # fmt: skip
    delete_in_parts(database, rows, CLEAN_UP_SECONDS)
