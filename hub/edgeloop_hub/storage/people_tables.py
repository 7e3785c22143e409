"""Roles of people, scopes of tokens, and the audit log. None of these tables is of a revision."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table, Text

from edgeloop_hub.storage.fleet_tables import NAME, SHA, TARGET, metadata

user_roles = Table(
    "user_roles",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("role", String(10), nullable=False),
)
token_scopes = Table(  # a token without a row may do everything, as one of an earlier release
    "token_scopes",
    metadata,
    Column("hash", SHA, primary_key=True),
    Column("scopes", TARGET, nullable=False),
)
audit_log = Table(  # each entry's digest is of itself and of the digest before it; no code changes or deletes one
    "audit_log",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("who", TARGET, nullable=False),
    Column("address", TARGET, nullable=False),
    Column("action", TARGET, nullable=False),
    Column("subject", TARGET, nullable=False),
    Column("detail", Text, nullable=False),
    Column("digest", SHA, nullable=False),
    Index(None, "who"),
)
PEOPLE_TABLES = (user_roles, token_scopes, audit_log)
