"""Pins of groups: bundles that a group's devices stay with, one of each model.

As channels are, they are kept in a row for each device (`store.apply`). A device's own pin of a model counts before its groups'.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub import event_log
from edgeloop_hub.groups import store
from edgeloop_hub.storage.fleet_tables import device_group_pins, device_pins, group_pins
from edgeloop_hub.storage.schema import bundles


class GroupPin(NamedTuple):
    """`withdrawn`: the bundle was, and the devices stay as they are."""

    group: str
    model: str
    target: str
    who: str
    at: float
    withdrawn: bool


def listed(connection: Connection, group: str = "") -> list[GroupPin]:
    """All, or those of a group; by group and model."""
    query = select(group_pins, bundles.c.withdrawn).outerjoin(bundles, bundles.c.target == group_pins.c.target)
    query = query.where(group_pins.c.name == group) if group else query
    rows = connection.execute(query.order_by(group_pins.c.name, group_pins.c.model))
    return [GroupPin(r.name, r.model, r.target, r.who, r.at, r.withdrawn is not None) for r in rows]


def pin(connection: Connection, group: str, target: str, who: str) -> str:
    """The group's devices of the bundle's model are offered it and no other; returns the model. Raises UsageError."""
    store.find(connection, group)
    row = connection.execute(select(bundles.c.model, bundles.c.withdrawn).where(bundles.c.target == target)).first()
    if row is None or row.withdrawn is not None:
        raise UsageError(f"{target[:200]!r} is {'withdrawn' if row else 'not published'}; edgeloop publish brings a bundle")
    connection.execute(delete(group_pins).where(group_pins.c.name == group, group_pins.c.model == row.model))
    connection.execute(insert(group_pins).values(name=group, model=row.model, target=target, who=who[:63], at=time.time()))
    store.apply(connection)
    event_log.record(connection, "group pinned", f"{group} by {who}", target)
    return str(row.model)


def unpin(connection: Connection, group: str, model: str, who: str) -> str:
    """Its devices follow releases and rollouts of this model again; returns the bundle. Raises UsageError."""
    store.find(connection, group)
    mine = and_(group_pins.c.name == group, group_pins.c.model == model)
    target = connection.execute(select(group_pins.c.target).where(mine)).scalar()
    if target is None:
        raise UsageError(f"group {group} has no pin of {model[:200]!r}")
    connection.execute(delete(group_pins).where(mine))
    store.apply(connection)
    event_log.record(connection, "group unpinned", f"{group} by {who}", target)
    return str(target)


def of_device(connection: Connection, device: str) -> list[Any]:
    """Rows of the pins that a device has by its groups: `model`, `target`, and the group's `name`."""
    rows = select(device_group_pins).where(device_group_pins.c.device == device).order_by(device_group_pins.c.model)
    return list(connection.execute(rows))


def elsewhere(connection: Connection, model: str, target: str) -> set[str]:
    """Devices that are pinned to another bundle of this model than `target`: no rollout of it reaches them."""
    own = select(device_pins.c.device, device_pins.c.target).join(bundles, bundles.c.target == device_pins.c.target)
    by_person = {row.device: row.target for row in connection.execute(own.where(bundles.c.model == model))}
    g = device_group_pins.c
    by_group = connection.execute(select(g.device).where(g.model == model, g.target != target)).scalars()
    return {name for name, pinned in by_person.items() if pinned != target} | (set(by_group) - by_person.keys())
