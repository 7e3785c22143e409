"""Whether the hub's clock can be believed. One that leapt signs nothing and deletes nothing, until a person confirms it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import devices, facts, heartbeats, signed
from edgeloop_hub.time_text import when

DAY = 86400.0
BACK_SECONDS = 3600.0  # that the clock may go back
FACT = "clock"


def believe(connection: Connection, now: float) -> None:
    """The time of the last tick, or that a person confirmed."""
    connection.execute(delete(facts).where(facts.c.name == FACT))
    connection.execute(insert(facts).values(name=FACT, at=now, body="{}"))


def check(connection: Connection, now: float, settings: Settings) -> None:
    """Raises UsageError where the clock has leapt: the hub would delete everything, or sign with a wrong time."""
    if said := problem(connection, now, settings):
        raise UsageError(said)


def problem(connection: Connection, now: float, settings: Settings) -> str:
    """What is wrong with the clock, in a sentence with the remedy; empty: nothing."""
    last = connection.execute(select(facts.c.at).where(facts.c.name == FACT)).scalar()
    if last is None:
        last = _last_sign_of_life(connection, settings)
    if not last or last - BACK_SECONDS <= now <= last + settings.leap_seconds:
        return ""
    days = (now - last) / DAY
    distance = f"{days:,.1f} days after" if days > 0 else f"{-days:,.1f} days before"
    return (
        f"the clock says {when(now)}, {distance} the last tick ({when(last)}): nothing was signed, advanced or deleted. "
        "If the clock is right, say so once: edgeloop-hub tick --accept-clock; else set it"
    )


def _last_sign_of_life(connection: Connection, settings: Settings) -> float:
    """For a hub whose earlier release stored no time of a tick."""
    seen = connection.execute(select(func.max(devices.c.last_seen))).scalar() or 0.0
    beat = connection.execute(select(func.max(heartbeats.c.at))).scalar() or 0.0
    expires = connection.execute(select(func.max(signed.c.expires)).where(signed.c.role == "timestamp")).scalar() or 0.0
    return float(max(seen, beat, expires - settings.timestamp_seconds if expires else 0.0))
