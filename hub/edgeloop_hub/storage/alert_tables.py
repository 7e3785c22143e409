"""Alerts, the messages about them, and devices whose samples were refused. None of these tables is of a revision."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, Text

from edgeloop_hub.storage.fleet_tables import NAME, SHA, TARGET, metadata

alerts = Table(  # one row a cause, from its beginning to its end
    "alerts",
    metadata,
    Column("id", SHA, primary_key=True),
    Column("cause", TARGET, nullable=False),
    Column("rule", NAME, nullable=False),
    Column("severity", String(10), nullable=False),
    Column("text", Text, nullable=False),
    Column("count", BigInteger, nullable=False),  # devices, or 1
    Column("level", Integer, nullable=False),  # how near the end of a time is; higher is nearer
    Column("began", Float, nullable=False),
    Column("seen", Float, nullable=False),  # when the cause was there for the last time
    Column("told", Float),  # when people were told for the last time
    Column("told_count", BigInteger, nullable=False),
    Column("told_level", Integer, nullable=False),
    Column("told_severity", String(10), nullable=False),
    Column("ended", Float),
    Index(None, "ended"),
    Index(None, "cause"),
)
alert_messages = Table(  # the outbox: one row a message and channel
    "alert_messages",
    metadata,
    Column("id", SHA, primary_key=True),
    Column("alert", SHA, nullable=False),
    Column("channel", NAME, nullable=False),
    Column("what", String(10), nullable=False),
    Column("body", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("due", Float, nullable=False),  # not before
    Column("tries", Integer, nullable=False),
    Column("state", String(10), nullable=False),  # waiting, sent, failed
    Column("done", Float),
    Column("reason", Text, nullable=False),
    Index(None, "state", "due"),
    Index(None, "alert"),
    Index(None, "at"),
)
quota_refusals = Table(  # when a device's samples were refused for its quota, the last time
    "quota_refusals",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("at", Float, nullable=False),
    Index(None, "at"),
)
ALERT_TABLES = (alerts, alert_messages, quota_refusals)
