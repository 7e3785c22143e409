"""The last warnings and errors of a device's log: a few lines, the newest ones."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, insert, select

from edgeloop_hub.storage.fleet_tables import device_logs

KEPT_LINES = 40


def keep(connection: Connection, device: str, lines: list[str], now: float) -> None:
    """Add lines, and forget the oldest."""
    kept = [*last(connection, device), *lines][-KEPT_LINES:]
    connection.execute(delete(device_logs).where(device_logs.c.device == device))
    connection.execute(insert(device_logs).values(device=device, at=now, lines=json.dumps(kept)))


def last(connection: Connection, device: str) -> list[str]:
    """Oldest first."""
    text = connection.execute(select(device_logs.c.lines).where(device_logs.c.device == device)).scalar()
    return [str(line) for line in json.loads(text)] if text else []
