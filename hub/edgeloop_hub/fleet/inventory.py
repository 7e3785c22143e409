"""The devices of the fleet, each with its last heartbeat."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from edgeloop_contract.hub_messages import DeviceStatus, OtherBundle
from edgeloop_contract.messages import Heartbeat
from edgeloop_hub.rollouts.evidence import beat_of
from edgeloop_hub.storage.schema import device_bundles, devices

MAX_LISTED, SHOWN_LABELS = 10_000, 20


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(devices)).scalar_one())


def listed(connection: Connection, after: str = "", limit: int = MAX_LISTED, name: str = "") -> list[DeviceStatus]:
    """Devices with their last heartbeats, by name, those behind the name `after`. `name`: that device alone."""
    rows = select(devices).where(devices.c.name == name if name else devices.c.name > after).order_by(devices.c.name).limit(limit)
    found = connection.execute(rows).all()
    others: dict[str, list[OtherBundle]] = {}
    if found:
        first, last = found[0].name, found[-1].name
        beside = select(device_bundles).where(device_bundles.c.device.between(first, last)).order_by(device_bundles.c.model)
        for row in connection.execute(beside):
            others.setdefault(row.device, []).append(OtherBundle(row.model, row.version, row.sha256))
    return [_status(row, others.get(row.name, [])) for row in found]


def _status(row: Any, others: list[OtherBundle]) -> DeviceStatus:
    """Without the credential."""
    return DeviceStatus(
        name=row.name, channel=row.channel, enrolled=row.enrolled, revoked=row.revoked, machine=row.machine,
        last_seen=row.last_seen, model=row.model, version=row.version, sha256=row.sha256, labels=json.loads(row.labels),
        heartbeat=_short(beat_of(row.heartbeat) or Heartbeat()), others=[o for o in others if o.model != row.model],
    )  # fmt: skip


def _short(heartbeat: Heartbeat) -> Heartbeat:
    """With its most frequent labels alone: people read lists of devices."""
    if len(heartbeat.labels) <= SHOWN_LABELS:
        return heartbeat
    return msgspec.structs.replace(heartbeat, labels=dict(Counter(heartbeat.labels).most_common(SHOWN_LABELS)))
