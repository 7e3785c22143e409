"""Sums of a device's reports by bundle and hour, then by day: what is kept of it for long. No table of a revision."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, Table

from edgeloop_hub.storage.fleet_tables import NAME, SHA, TARGET, metadata

device_history = Table(
    "device_history",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("span", Integer, primary_key=True, autoincrement=False),  # seconds: an hour or a day
    Column("begins", BigInteger, primary_key=True, autoincrement=False),  # since 1970, a multiple of `span`
    Column("sha256", SHA, primary_key=True),
    Column("model", TARGET, nullable=False),
    Column("score", Float, nullable=False),  # of drift, the highest
    Column("beats", LargeBinary, nullable=False),  # MessagePack of `BeatSums`; empty: no heartbeat
    Column("drifts", LargeBinary, nullable=False),  # and of `DriftSums`
    Index(None, "model", "begins"),
)
HISTORY_TABLES = (device_history,)
