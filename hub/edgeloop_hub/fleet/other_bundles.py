"""What a device runs beside its first bundle: every further one is followed by its model's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from edgeloop_contract.messages import Heartbeat
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.storage.schema import device_bundles


def said(first: str, beats: Sequence[Heartbeat]) -> dict[str, Heartbeat]:
    """What a report says of the bundles beside the first, by model. The first report of a model counts."""
    return {beat.model: beat for beat in reversed(beats) if beat.model and beat.model != first}


def keep(connection: Connection, reported: Mapping[str, Mapping[str, Heartbeat]], now: float) -> None:
    """Keep what reports say of devices' other bundles (`said`), by device; what is no longer said is forgotten."""
    known: dict[str, dict[str, Row[Any]]] = {}
    rows = select(device_bundles).where(device_bundles.c.device.in_(reported.keys()))
    for row in connection.execute(rows):
        known.setdefault(row.device, {})[row.model] = row
    for device, beats in reported.items():
        _keep(connection, device, known.get(device, {}), beats, now)


def _keep(connection: Connection, device: str, known: Mapping[str, Row[Any]], beats: Mapping[str, Heartbeat], now: float) -> None:
    for model in known.keys() | beats.keys():
        row, beat = known.get(model), beats.get(model)
        if row is not None and beat is not None and (row.version, row.sha256) == (beat.version, beat.sha256[:64]):
            continue
        if row is not None:
            connection.execute(delete(device_bundles).where(device_bundles.c.device == device, device_bundles.c.model == model))
        if beat is not None:
            values = {"device": device, "model": model, "version": beat.version, "sha256": beat.sha256[:64], "at": now}
            connection.execute(insert(device_bundles).values(**values))


def running(connection: Connection, device: EnrolledDevice) -> dict[str, str]:
    """The digest of what the device runs, by model, the first one first."""
    rows = select(device_bundles.c.model, device_bundles.c.sha256).where(device_bundles.c.device == device.name)
    others = {row.model: row.sha256 for row in connection.execute(rows.order_by(device_bundles.c.model))}
    return {device.model: device.sha256, **{model: sha256 for model, sha256 in others.items() if model != device.model}}
