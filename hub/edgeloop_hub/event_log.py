"""Events: what happened on devices and at the hub, each stored once."""

from __future__ import annotations

import secrets
import time

from sqlalchemy import Connection, func, insert, select

from edgeloop_contract.hub_messages import EventRecord
from edgeloop_contract.messages import Event
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.schema import events, rollouts

HUB = "hub"  # the source of the hub's own events; no device can have this name


def record(connection: Connection, kind: str, text: str, target: str = "", rollout: int | None = None) -> None:
    """Store an event of the hub itself."""
    values = {"kind": kind, "target": target, "text": text[:2000], "rollout": rollout, "at": time.time()}
    connection.execute(insert(events).values(source=HUB, key=secrets.token_hex(16), **values))


def record_of_device(connection: Connection, device: str, event: Event, now: float) -> None:
    """Store an event of a device, once."""
    there = connection.execute(select(events.c.key).where(events.c.source == device, events.c.key == event.key)).first()
    if there is None:
        rollout = _rollout_of(connection, event.target)
        values = {"kind": event.kind, "target": event.target, "text": event.text, "rollout": rollout}
        connection.execute(insert(events).values(source=device, key=event.key, at=believed_time(event.at, now), **values))


def believed_time(stated: float, now: float) -> float:
    """A device's time where it is plausible, else the hub's.

    A report may wait for hours, and a board may have no battery for its clock.
    """
    return min(stated, now) if stated > now - 30 * 86400 else now


def _rollout_of(connection: Connection, target: str) -> int | None:
    if not target:
        return None
    return connection.execute(select(func.max(rollouts.c.id)).where(rollouts.c.target == target)).scalar()


def old(before: float) -> Old:
    return Old(events, events.c.at < before)


def newest(connection: Connection, limit: int, source: str | None = None, rollout: int | None = None) -> list[EventRecord]:
    """Events, the newest first: of one source or one rollout, where they are named."""
    rows = select(events).order_by(events.c.at.desc()).limit(limit)
    rows = rows if source is None else rows.where(events.c.source == source)
    rows = rows if rollout is None else rows.where(events.c.rollout == rollout)
    return [
        EventRecord(source=r.source, at=r.at, kind=r.kind, target=r.target, rollout=r.rollout, text=r.text)
        for r in connection.execute(rows)
    ]
