"""Reads the sums of old reports. An hour or a day counts where all of it lies in the time that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from edgeloop_hub.history.sums import BeatSums, DriftSums, decoded
from edgeloop_hub.storage.history_tables import device_history


@dataclass(frozen=True)
class Kept:
    """A device's reports of one bundle in an hour or a day. `at`: its middle. None: no such report."""

    device: str
    at: float
    sha256: str
    beats: BeatSums | None
    drifts: DriftSums | None


def of_device(connection: Connection, device: str, since: float, most: int) -> list[Kept]:
    """The newest `most`, the newest first."""
    mine = (device_history.c.device == device, device_history.c.begins >= since)
    return [_kept(row) for row in connection.execute(select(device_history).where(*mine).order_by(*_NEWEST).limit(most))]


def of_model(connection: Connection, model: str, since: float, most: int) -> list[Kept]:
    """Those with drift reports of every device, as `of_device`."""
    mine = (device_history.c.model == model, device_history.c.begins >= since, device_history.c.drifts != b"")
    return [_kept(row) for row in connection.execute(select(device_history).where(*mine).order_by(*_NEWEST).limit(most))]


def scores(connection: Connection, devices: list[str], since: float) -> list[tuple[str, float, float]]:
    """(device, time, highest score of drift)."""
    mine = (device_history.c.device.in_(devices), device_history.c.begins >= since, device_history.c.drifts != b"")
    columns = (device_history.c.device, device_history.c.begins, device_history.c.span, device_history.c.score)
    rows = connection.execute(select(*columns).where(*mine))
    return [(row.device, row.begins + row.span / 2, row.score) for row in rows]


_NEWEST = (device_history.c.begins.desc(), device_history.c.span)


def _kept(row: Row[Any]) -> Kept:
    return Kept(row.device, row.begins + row.span / 2, row.sha256, decoded(row.beats, BeatSums), decoded(row.drifts, DriftSums))
