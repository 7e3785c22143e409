"""Signed jobs, what each device made of them, and what people asked for. None of these tables is of a revision."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, String, Table, Text

from edgeloop_hub.storage.fleet_tables import NAME, TARGET, metadata

signed_jobs = Table(
    "signed_jobs",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(10), nullable=False),
    Column("target", TARGET, nullable=False),
    Column("expires", Float, nullable=False),
    Column("who", NAME, nullable=False),
    Column("document", Text, nullable=False),
    Index(None, "expires"),
)
signed_job_devices = Table(
    "signed_job_devices",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("device", NAME, primary_key=True),
    Column("state", String(10), nullable=False),  # waiting, done, refused
    Column("expires", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("result", Text, nullable=False),
    Index(None, "device", "state"),
    Index(None, "expires"),
)
job_wishes = Table(  # asked for on pages; they wait for the key
    "job_wishes",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("target", TARGET, nullable=False),
    Column("devices", Text, nullable=False),
    Column("of_group", NAME, nullable=False),
    Column("who", NAME, nullable=False),
    Column("at", Float, nullable=False),
)
JOB_TABLES = (signed_jobs, signed_job_devices, job_wishes)
