"""Events: what happened on devices and at the hub, each stored once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from sqlalchemy import Connection, func, insert, select

from edgeloop_contract.hub_messages import EventRecord
from edgeloop_contract.messages import Event
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.many_rows import insert_new
from edgeloop_hub.storage.schema import events, rollouts

HUB = "hub"  # the source of the hub's own events; no device can have this name


def record(connection: Connection, kind: str, text: str, target: str = "", rollout: int | None = None) -> None:
    """Store an event of the hub itself."""
    values = {"kind": kind, "target": target, "text": text[:2000], "rollout": rollout, "at": time.time()}
    connection.execute(insert(events).values(source=HUB, key=secrets.token_hex(16), **values))


def record_of_device(connection: Connection, device: str, told: Sequence[Event], now: float) -> None:
    """Store events of a device, each once: two statements, however many they are."""
    if not told:
        return
    numbers = _rollouts_of(connection, {event.target for event in told if event.target})
    rows = {
        event.key: {
            "source": device, "key": event.key, "at": believed_time(event.at, now), "kind": event.kind, "target": event.target,
            "rollout": numbers.get(event.target), "text": event.text,
        }
        for event in reversed(told)  # of two with one key the first one counts
    }  # fmt: skip
    insert_new(connection, events, list(rows.values())[::-1])


def believed_time(stated: float, now: float) -> float:
    """A device's time where it is plausible, else the hub's.

    A report may wait for hours, and a board may have no battery for its clock.
    """
    return min(stated, now) if stated > now - 30 * 86400 else now


def _rollouts_of(connection: Connection, targets: set[str]) -> dict[str, int]:
    """The newest rollout of each target."""
    if not targets:
        return {}
    rows = select(rollouts.c.target, func.max(rollouts.c.id).label("number")).where(rollouts.c.target.in_(targets))
    return {row.target: row.number for row in connection.execute(rows.group_by(rollouts.c.target))}


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
