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
# A device's drift reports of the last half day to day, added up: what the page of drift shows and tests.
device_drifts = Table(
    "device_drifts",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("model", TARGET, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("at", Float, nullable=False),
    Column("samples", BigInteger, nullable=False),
    Column("alarms", BigInteger, nullable=False),
    Column("score", Float, nullable=False),  # the highest
    Column("drifting", Integer, nullable=False),
    Column("since", Float),
    Column("cause", TARGET, nullable=False),
    Column("text", Text, nullable=False),
    Column("tests", Integer, nullable=False),  # features that were tested
    Column("body", Text, nullable=False),
    *(Column(f"bin_{number}", BigInteger, nullable=False) for number in range(10)),  # answers by confidence
    Index(None, "model"),
)
drift_shifts = Table(  # features of a device that may be discoveries: those with the smallest p
    "drift_shifts",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("feature", TARGET, primary_key=True),
    Column("model", TARGET, nullable=False),
    Column("at", Float, nullable=False),
    Column("shift", Float, nullable=False),
    Column("samples", BigInteger, nullable=False),
    Column("p", Float, nullable=False),
    Index(None, "model", "p"),
)
device_logs = Table(  # the last warnings and errors of a device's log, as JSON
    "device_logs",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("at", Float, nullable=False),
    Column("lines", Text, nullable=False),
)
# What a device runs beside its first bundle, as its last report said.
device_bundles = Table(
    "device_bundles",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("model", TARGET, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("at", Float, nullable=False),
    Index(None, "model"),
)
device_groups = Table(  # `tags`: an expression; `windows`: JSON; empty: the group says nothing of it
    "device_groups",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("tags", Text, nullable=False),
    Column("channel", NAME, nullable=False),
    Column("windows", Text, nullable=False),
    Column("time_zone", NAME, nullable=False),
    Column("who", NAME, nullable=False),
    Column("at", Float, nullable=False),
)
group_pins = Table(  # bundles that a group's devices stay with, whatever is rolled out: one of each model
    "group_pins",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("model", TARGET, primary_key=True),
    Column("target", TARGET, nullable=False),
    Column("who", NAME, nullable=False),
    Column("at", Float, nullable=False),
)
device_group_pins = Table(  # those pins for each device; `name`: of the group
    "device_group_pins",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("model", TARGET, primary_key=True),
    Column("target", TARGET, nullable=False),
    Column("name", NAME, nullable=False),
    Index(None, "name"),
)
group_devices = Table(  # devices that a group names
    "group_devices",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("device", NAME, primary_key=True),
    Index(None, "device"),
)
device_channels = Table(  # channels that people gave to single devices
    "device_channels",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("channel", NAME, nullable=False),
    Column("who", NAME, nullable=False),
    Column("at", Float, nullable=False),
)
# Deltas between two published bundles; their bytes lie beside the bundles'.
deltas = Table(
    "deltas",
    metadata,
    Column("target", TARGET, primary_key=True),
    Column("sha256", SHA, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("from_sha256", SHA, nullable=False),
    Column("to_target", TARGET, nullable=False),
    Column("withdrawn", Float),
)
FLEET_TABLES = (
    device_logs,
    device_drifts,
    drift_shifts,
    device_states,
    device_tags,
    device_pins,
    device_notes,
    device_bundles,
    deltas,
    device_groups,
    group_devices,
    group_pins,
    device_group_pins,
    device_channels,
)
