"""Deletes a device: what is kept of it goes, but for what people made of its samples, and what happened."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub import event_log
from edgeloop_hub.history import roll_up
from edgeloop_hub.storage.alert_tables import quota_refusals
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.deletion import Old, delete_in_parts
from edgeloop_hub.storage.fleet_tables import (
    device_bundles,
    device_channels,
    device_drifts,
    device_group_pins,
    device_logs,
    device_notes,
    device_pins,
    device_states,
    device_tags,
    drift_shifts,
    group_devices,
)
from edgeloop_hub.storage.job_tables import signed_job_devices
from edgeloop_hub.storage.schema import devices, drifts, heartbeats, jobs

KEPT_OF_DEVICES = (
    device_bundles, device_channels, device_drifts, device_group_pins, device_logs, device_notes, device_pins, device_states,
    device_tags, drift_shifts, group_devices, jobs, quota_refusals, signed_job_devices,
)  # fmt: skip
SECONDS = 10.0  # for its reports; what is left then goes when it is old


def remove(connection: Connection, name: str, who: str) -> None:
    """Its credential ends. Samples, labels, events and the audit log stay under its name. Raises UsageError."""
    if connection.execute(select(devices.c.name).where(devices.c.name == name)).first() is None:
        raise UsageError(f"there is no device {name[:80]!r}")
    connection.execute(delete(devices).where(devices.c.name == name))
    for table in KEPT_OF_DEVICES:
        connection.execute(delete(table).where(table.c.device == name))
    event_log.record(connection, "device deleted", f"{name} by {who}")


def forget_reports(database: Database, name: str) -> None:
    """Its reports, some hundred at a time: others may write meanwhile. Not those of a device that enrolled under the name since."""
    with database.reading() as connection:
        if connection.execute(select(devices.c.name).where(devices.c.name == name)).first() is not None:
            return
    rows = (Old(heartbeats, heartbeats.c.device == name), Old(drifts, drifts.c.device == name), roll_up.of_device(name))
    delete_in_parts(database, rows, SECONDS)
