"""What a device runs beside its first bundle: every further one is followed by its model's name."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from edgeloop_contract.messages import Heartbeat
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.rollouts import evidence
from edgeloop_hub.storage.schema import device_bundles


def keep(connection: Connection, device: EnrolledDevice, first: str, beats: Sequence[Heartbeat], now: float) -> None:
    """Keep what a report says of the others. The first report of a model counts; what is no longer said is forgotten."""
    said = {beat.model: beat for beat in reversed(beats) if beat.model and beat.model != first}
    for each in said.values():
        evidence.keep(connection, device.name, device.channel, each)
    mine = device_bundles.c.device == device.name
    known = {row.model: row for row in connection.execute(select(device_bundles).where(mine))}
    for model in known.keys() | said.keys():
        row, beat = known.get(model), said.get(model)
        if row is not None and beat is not None and (row.version, row.sha256) == (beat.version, beat.sha256[:64]):
            continue
        if row is not None:
            connection.execute(delete(device_bundles).where(mine, device_bundles.c.model == model))
        if beat is not None:
            values = {"device": device.name, "model": model, "version": beat.version, "sha256": beat.sha256[:64], "at": now}
            connection.execute(insert(device_bundles).values(**values))


def running(connection: Connection, device: EnrolledDevice) -> dict[str, str]:
    """The digest of what the device runs, by model, the first one first."""
    rows = select(device_bundles.c.model, device_bundles.c.sha256).where(device_bundles.c.device == device.name)
    others = {row.model: row.sha256 for row in connection.execute(rows.order_by(device_bundles.c.model))}
    return {device.model: device.sha256, **{model: sha256 for model, sha256 in others.items() if model != device.model}}
