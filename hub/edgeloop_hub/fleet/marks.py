"""What people say of a device: its tags, the bundle that it is pinned to, a note. Each change is an event."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub import event_log
from edgeloop_hub.auth.accounts import checked_name
from edgeloop_hub.groups import store
from edgeloop_hub.storage.fleet_tables import device_group_pins, device_notes, device_pins, device_tags
from edgeloop_hub.storage.schema import bundles, devices

MAX_TAGS = 20
MAX_NOTE = 2000


def pinned(connection: Connection, device: str) -> Row[Any] | None:
    """The device's pin: its target, who set it, and when."""
    return connection.execute(select(device_pins).where(device_pins.c.device == device)).first()


def pinned_target(connection: Connection, device: str, model: str) -> str | None:
    """The bundle of this model that it is pinned to, itself or by a group; "" where that was withdrawn: the device stays as it is.

    None: not pinned.
    """
    joined = select(device_pins.c.target, bundles.c.withdrawn).join(bundles, bundles.c.target == device_pins.c.target)
    row = connection.execute(joined.where(device_pins.c.device == device, bundles.c.model == model)).first()
    if row is None:
        g = device_group_pins.c
        by_group = select(g.target, bundles.c.withdrawn).outerjoin(bundles, bundles.c.target == g.target)
        row = connection.execute(by_group.where(g.device == device, g.model == model)).first()
    return None if row is None else "" if row.withdrawn is not None else str(row.target)


def pin(connection: Connection, device: str, target: str, who: str) -> None:
    """The device is offered this bundle and no other, whatever is rolled out. Raises UsageError."""
    model = _model(connection, device)
    row = connection.execute(select(bundles.c.model, bundles.c.withdrawn).where(bundles.c.target == target)).first()
    if row is None or row.withdrawn is not None:
        raise UsageError(f"{target[:200]} is {'withdrawn' if row else 'not published'}; edgeloop publish brings a bundle")
    if model and row.model != model:
        raise UsageError(f"{device} runs {model}, and {target} is of {row.model}; pin it to a bundle of its own model")
    connection.execute(delete(device_pins).where(device_pins.c.device == device))
    connection.execute(insert(device_pins).values(device=device, target=target, who=who[:63], at=time.time()))
    event_log.record(connection, "pinned", f"{device} by {who}", target)


def unpin(connection: Connection, device: str, who: str) -> None:
    """The device follows releases and rollouts again. Raises UsageError."""
    _model(connection, device)
    row = pinned(connection, device)
    if row is None:
        raise UsageError(f"{device} is not pinned")
    connection.execute(delete(device_pins).where(device_pins.c.device == device))
    event_log.record(connection, "unpinned", f"{device} by {who}", row.target)


def tag(connection: Connection, device: str, names: Iterable[str], who: str) -> list[str]:
    """These tags instead of the ones before; returns all that it has now. Labels of the enrolment stay. Raises UsageError."""
    _model(connection, device)
    wanted = list(dict.fromkeys(checked_name(name, "tag") for name in names))
    if len(wanted) > MAX_TAGS:
        raise UsageError(f"{device}: {len(wanted)} tags; a device has up to {MAX_TAGS}")
    mine = device_tags.c.device == device
    fixed = set(connection.execute(select(device_tags.c.tag).where(mine, device_tags.c.fixed == 1)).scalars())
    connection.execute(delete(device_tags).where(mine, device_tags.c.fixed == 0))
    rows = [{"device": device, "tag": name, "fixed": 0} for name in wanted if name not in fixed]
    if rows:
        connection.execute(insert(device_tags), rows)
    store.apply(connection, device)
    event_log.record(connection, "tagged", f"{device} by {who}: {', '.join(wanted) or 'no tags'}")
    return sorted(fixed | set(wanted))


def note_of(connection: Connection, device: str) -> Row[Any] | None:
    return connection.execute(select(device_notes).where(device_notes.c.device == device)).first()


def note(connection: Connection, device: str, text: str, who: str) -> None:
    """This text instead of the one before; an empty one deletes it. Raises UsageError."""
    _model(connection, device)
    text = text.strip()
    if len(text) > MAX_NOTE:
        raise UsageError(f"{device}: the note has {len(text)} characters; write up to {MAX_NOTE}")
    connection.execute(delete(device_notes).where(device_notes.c.device == device))
    if text:
        connection.execute(insert(device_notes).values(device=device, text=text, who=who[:63], at=time.time()))
    event_log.record(connection, "noted", f"{device} by {who}: {text[:200] or 'the note was deleted'}")


def is_device(connection: Connection, device: str) -> bool:
    return connection.execute(select(devices.c.name).where(devices.c.name == device)).first() is not None


def _model(connection: Connection, device: str) -> str:
    row = connection.execute(select(devices.c.model).where(devices.c.name == device)).first()
    if row is None:
        raise UsageError(f"there is no device {device[:80]!r}")
    return str(row.model)
