"""The rows that are kept of each device: made when it enrols, and for devices that an earlier release enrolled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.fleet_tables import device_states, device_tags
from edgeloop_hub.storage.many_rows import delete_rows, insert_new
from edgeloop_hub.storage.schema import devices, drifts

SILENT_SECONDS = 3600.0  # at least
ROWS = 200  # devices that one transaction adopts
COLUMNS = ("name", "channel", "revoked", "last_seen", "enrolled", "model", "version", "sha256", "labels", "heartbeat")
NOTHING = {
    "crashes": 0, "crashes_of_day": 0, "refused": 0.0, "refused_target": "", "refused_why": "", "drifting": 0, "cause": "",
    "agent": "",
}  # fmt: skip


def add(connection: Connection, device: str, channel: str, labels: list[str], now: float) -> None:
    """A device enrolled, perhaps again: nothing of what it reported before holds."""
    connection.execute(delete(device_states).where(device_states.c.device == device))
    values = {"model": "", "version": 0, "sha256": "", "silent_after": now + SILENT_SECONDS}
    connection.execute(insert(device_states).values(device=device, channel=channel, **values, **NOTHING))
    connection.execute(delete(device_tags).where(device_tags.c.device == device, device_tags.c.fixed == 1))
    _add_labels(connection, device, labels)


def _add_labels(connection: Connection, device: str, labels: list[str]) -> None:
    connection.execute(delete(device_tags).where(device_tags.c.device == device, device_tags.c.tag.in_(labels)))
    if labels:
        connection.execute(insert(device_tags), [{"device": device, "tag": name, "fixed": 1} for name in dict.fromkeys(labels)])


def adopt(database: Database) -> int:
    """Rows for devices that have none, as an earlier release enrolled them; returns how many. Also brings revocations over.

    Some hundred devices a transaction, read before it begins: a hub that serves meanwhile waits for no more than that.
    """
    _bring_revocations(database)
    mine = select(device_states.c.device).where(device_states.c.device == devices.c.name)
    newest = select(drifts.c.body).where(drifts.c.device == devices.c.name).order_by(drifts.c.at.desc(), drifts.c.key).limit(1)
    query = select(*(devices.c[name] for name in COLUMNS), newest.correlate(devices).scalar_subquery().label("drift"))
    query = query.where(~mine.exists()).order_by(devices.c.name).limit(ROWS)
    count, last = 0, ""
    while True:
        with database.reading() as connection:
            rows = connection.execute(query.where(devices.c.name > last)).all()
        if rows:
            with database.writing(durable=False) as connection:  # what a power cut undoes is done again
                count += _adopt_some(connection, rows)
            last = rows[-1].name
        if len(rows) < ROWS:
            return count


def _adopt_some(connection: Connection, rows: Sequence[Any]) -> int:
    """Those of these devices that are still there, and that nobody gave a row meanwhile."""
    here = set(connection.execute(select(devices.c.name).where(devices.c.name.in_([row.name for row in rows]))).scalars())
    states = [row_of(row) | _drifting(row.drift or "{}") for row in rows if row.name in here]
    new = {name for (name,) in insert_new(connection, device_states, states)}
    labels = {row.name: dict.fromkeys(json.loads(row.labels)) for row in rows if row.name in new}
    tags = [{"device": device, "tag": name, "fixed": 1} for device, names in labels.items() for name in names]
    delete_rows(connection, device_tags, tags)  # a tag that people gave, and that is a label too
    insert_new(connection, device_tags, tags)
    return len(new)


def _bring_revocations(database: Database) -> None:
    """An earlier release revoked devices, and did not see their rows."""
    gone = select(devices.c.name).where(devices.c.revoked.is_not(None))
    late = device_states.c.revoked.is_(None) & device_states.c.device.in_(gone)
    while True:
        with database.reading() as connection:
            names = list(connection.execute(select(device_states.c.device).where(late).limit(ROWS)).scalars())
        if names:
            revoked = update(device_states).where(device_states.c.device.in_(names), late)
            with database.writing() as connection:
                connection.execute(revoked.values(revoked=func.coalesce(device_states.c.seen, 0.0)))
        if len(names) < ROWS:
            return


def row_of(row: Any) -> dict[str, Any]:
    """The kept row of a device that has none. `row`: of the table `devices`."""
    return {
        "device": row.name, "channel": row.channel, "revoked": row.revoked, "seen": row.last_seen, "model": row.model,
        "version": row.version, "sha256": row.sha256, "silent_after": (row.last_seen or row.enrolled) + SILENT_SECONDS, **NOTHING,
        "crashes": _crashes(row.heartbeat),
    }  # fmt: skip


class _Drifting(msgspec.Struct):
    drifting: bool = False
    cause: str = ""


def _drifting(report: str) -> dict[str, Any]:
    """What the newest drift report said."""
    try:
        last = msgspec.json.decode(report, type=_Drifting)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    return {"drifting": int(last.drifting), "cause": last.cause[:200] if last.drifting else ""}


class _Counted(msgspec.Struct):
    crashes: int = 0


def _crashes(heartbeat: str) -> int:
    """That the last heartbeat counted: those are no news."""
    try:
        return min(max(0, msgspec.json.decode(heartbeat, type=_Counted).crashes), 2**53)
    except (msgspec.MsgspecError, RecursionError):
        return 0
