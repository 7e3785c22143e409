"""How much one device may send in an hour: messages, rows and bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.alert_tables import quota_refusals
from edgeloop_hub.storage.schema import devices

HOUR = 3600.0


COLUMNS = (devices.c.quota_from, devices.c.quota_used, devices.c.quota_rows, devices.c.quota_bytes)


def charge(connection: Connection, device: EnrolledDevice, settings: Settings, now: float, rows: int, size: int) -> bool:
    """Count a message with so many rows and bytes against the device's quota of this hour. False: over the quota."""
    row = connection.execute(select(*COLUMNS).where(devices.c.name == device.name)).first()
    if row is None:
        return True
    values = charged(row, settings, now, rows, size)
    if values is not None:
        connection.execute(update(devices).where(devices.c.name == device.name).values(**values))
    return values is not None


def charged(row: Any, settings: Settings, now: float, rows: int, size: int) -> dict[str, Any] | None:
    """The device's COLUMNS with one more message; None: over the quota."""
    fresh = not row.quota_from <= now <= row.quota_from + HOUR
    used, has_rows, has_bytes = (0, 0, 0) if fresh else (row.quota_used, row.quota_rows, row.quota_bytes)
    over = has_rows + rows > settings.report_rows_per_hour or has_bytes + size > settings.report_bytes_per_hour
    if used >= settings.report_quota_per_hour or over:
        return None
    return {
        "quota_from": now if fresh else row.quota_from, "quota_used": used + 1, "quota_rows": has_rows + rows,
        "quota_bytes": has_bytes + size,
    }  # fmt: skip


def encoded_bytes(parts: Sequence[msgspec.Struct | None]) -> int:
    return sum(len(msgspec.json.encode(part)) for part in parts if part is not None)


def note_refusal(connection: Connection, device: str) -> None:
    """That samples of a device were refused for its quota: people are told of it (alerts)."""
    connection.execute(delete(quota_refusals).where(quota_refusals.c.device == device))
    connection.execute(insert(quota_refusals).values(device=device, at=time.time()))
