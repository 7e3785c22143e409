"""The hub's own health: its last tick, and when signed metadata expire; with warnings in time."""

from __future__ import annotations

import time

import msgspec
from sqlalchemy import Connection, delete, insert, select

from edgeloop_contract.hub_messages import Health, HealthWarning, TickReport
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import facts, rollouts
from edgeloop_hub.time_text import when
from edgeloop_hub.updates import clock, signing

DAY = 86400.0
LATE_SECONDS = 600.0  # without a tick, then there is a warning
WARN_DAYS = (90, 30, 7)  # before targets or root metadata expire: soon, urgent, urgent with what follows
RENEW = "edgeloop keys renew"


class TickRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last one: when it began, how long it took, what it could not do, how long one of its transactions held other writers."""

    at: float
    seconds: float = 0.0
    problems: list[str] = []
    longest_write_seconds: float = 0.0

    @property
    def fine(self) -> bool:
        return not self.problems


def keep(connection: Connection, name: str, at: float, body: object) -> None:
    connection.execute(delete(facts).where(facts.c.name == name))
    connection.execute(insert(facts).values(name=name, at=at, body=msgspec.json.encode(body).decode()))


def last_tick(connection: Connection) -> TickRecord | None:
    body = connection.execute(select(facts.c.body).where(facts.c.name == "tick")).scalar()
    return msgspec.json.decode(body, type=TickRecord) if body else None


def expiring(expires: dict[str, float], now: float) -> list[HealthWarning]:
    """Warnings of metadata that the workstation signs, and the hub cannot renew. `expires`: by role."""
    warnings = []
    for role in ("targets", "root"):
        if role not in expires:
            continue
        days, date = (expires[role] - now) / DAY, when(expires[role])
        remedy = f"{RENEW} {role} (on the workstation) signs them anew"
        if days < 0:
            text = f"{role} metadata expired on {date}: devices take nothing any more; {remedy}"
            warnings.append(HealthWarning(level="over", text=text))
        elif days < WARN_DAYS[0]:
            last = "; then devices take nothing any more" if days < WARN_DAYS[2] else ""
            text = f"{role} metadata expire in {days:.0f} days, on {date}{last}: {remedy}"
            warnings.append(HealthWarning(level="soon" if days >= WARN_DAYS[1] else "urgent", text=text))
    return warnings


def ticking(last: TickRecord | None, needed: bool, now: float) -> list[HealthWarning]:
    """Warnings of the tick. `needed`: something is signed or rolled out, and so waits for ticks."""
    if last is None:
        text = "no tick yet: nothing advances without edgeloop-hub tick, every minute by cron, or as a service (tick --every 60)"
        return [HealthWarning(level="urgent", text=text)] if needed else []
    if now - last.at > LATE_SECONDS:
        text = f"the last tick was on {when(last.at)}; does cron run edgeloop-hub tick (or a service) on this very hub?"
        return [HealthWarning(level="over" if now - last.at > DAY else "urgent", text=text)]
    return [HealthWarning(level="urgent", text=f"the last tick: {problem}") for problem in last.problems]


def leapt(connection: Connection, settings: Settings, now: float) -> list[HealthWarning]:
    """A warning where the clock is not believed, at once and not with the next tick."""
    said = clock.problem(connection, now, settings)
    return [HealthWarning(level="over", text=said)] if said else []


def current(connection: Connection, settings: Settings) -> Health:
    """For pages, the API and the commands."""
    now, last, expires = time.time(), last_tick(connection), signing.expiries(connection)
    needed = bool(expires) or connection.execute(select(rollouts.c.id).limit(1)).first() is not None
    tick = None
    if last is not None:
        tick = TickReport(
            at=last.at,
            seconds=last.seconds,
            fine=last.fine,
            problems=last.problems,
            longest_write_seconds=last.longest_write_seconds,
        )
    warnings = [*(leapt(connection, settings, now) or ticking(last, needed, now)), *expiring(expires, now)]
    return Health(tick=tick, expires=expires, warnings=warnings)
