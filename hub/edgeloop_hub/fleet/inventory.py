"""The devices of the fleet, each with its last heartbeat."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sqlalchemy import Connection, func, select

from edgeloop_hub.storage.schema import devices

MOST_LISTED, SHOWN_LABELS = 10_000, 20


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(devices)).scalar_one())


def listed(connection: Connection, after: str = "", limit: int = MOST_LISTED, name: str = "") -> list[dict[str, Any]]:
    """Devices with their last heartbeats, by name, those behind `after`; no credential. `name`: that one alone."""
    columns = ("name", "channel", "enrolled", "revoked", "machine", "last_seen", "model", "version", "sha256")
    rows = select(devices).where(devices.c.name == name if name else devices.c.name > after).order_by(devices.c.name).limit(limit)
    told = []
    for row in connection.execute(rows):
        more = {"labels": json.loads(row.labels), "heartbeat": _shown(row.heartbeat)}
        told.append({**{c: getattr(row, c) for c in columns}, **more})
    return told


def _shown(heartbeat: str) -> dict[str, Any]:
    """A heartbeat with its most frequent labels alone: a list of devices is read by people."""
    found: dict[str, Any] = json.loads(heartbeat)
    if len(found.get("labels", {})) > SHOWN_LABELS:
        found["labels"] = dict(Counter(found["labels"]).most_common(SHOWN_LABELS))
    return found
