"""What is kept of each device for the pages, so that no page reads its history. None of these tables is of a revision."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)
NAME, SHA, TARGET = String(63), String(64), String(200)

# A narrow row a device, which each report brings up to date. Figures are those of the last heartbeat; NULL: never reported.
device_states = Table(
    "device_states",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("channel", NAME, nullable=False),
    Column("revoked", Float),
    Column("seen", Float),
    Column("silent_after", Float, nullable=False),  # without another report until then the device is silent
    Column("model", TARGET, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("latency_us", Float),  # p95
    Column("memory_bytes", BigInteger),
    Column("celsius", Float),
    Column("crashes", BigInteger, nullable=False),  # that the last heartbeat counted
    Column("crashed", Float),  # when the last crash was reported
    Column("crashes_of_day", BigInteger, nullable=False),
    Column("refused", Float, nullable=False),  # share of the samples since the last report that were refused or dropped
    Column("refused_target", TARGET, nullable=False),  # a bundle that it did not take, or gave back, and why
    Column("refused_why", TARGET, nullable=False),
    Column("refused_at", Float),
    Column("drift", Float),  # the score, 1 an alarm
    Column("drifting", Integer, nullable=False),
    Column("cause", TARGET, nullable=False),
    Column("agent", TARGET, nullable=False),
    Index(None, "sha256"),
    Index(None, "drifting"),
    Index(None, "crashed"),
)
device_tags = Table(  # names by which people find devices; `fixed`: a label of the enrolment, which also chooses cohorts
    "device_tags",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("tag", NAME, primary_key=True),
    Column("fixed", Integer, nullable=False),
    Index(None, "tag"),
)
device_pins = Table(  # devices that stay with one bundle, whatever is rolled out
    "device_pins",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("target", TARGET, nullable=False),
    Column("who", NAME, nullable=False),
    Column("at", Float, nullable=False),
)
device_notes = Table(  # what people wrote about a device
    "device_notes",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("text", Text, nullable=False),
    Column("who", NAME, nullable=False),
    Column("at", Float, nullable=False),
)
FLEET_TABLES = (device_states, device_tags, device_pins, device_notes)
