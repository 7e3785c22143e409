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
# Accounts that came by an OpenID Connect provider. One that was deleted stays here, so that it does not come again by itself.
oidc_accounts = Table(
    "oidc_accounts",
    metadata,
    Column("issuer", TARGET, primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("role_from", String(10), nullable=False),  # provider; hub: an admin gave the role, and it holds
    Column("seen", Float, nullable=False),
    Column("deleted", Float),
)
oidc_sign_ins = Table(  # that a provider was asked for, and that are not finished
    "oidc_sign_ins",
    metadata,
    Column("state", SHA, primary_key=True),
    Column("browser", SHA, nullable=False),
    Column("nonce", SHA, nullable=False),
    Column("verifier", SHA, nullable=False),
    Column("following", Text, nullable=False),
    Column("expires", Float, nullable=False),
    Index(None, "expires"),
)
oidc_sessions = Table(  # the provider's session (`sid`, as a digest) by which one of the hub's began
    "oidc_sessions",
    metadata,
    Column("hash", SHA, primary_key=True),
    Column("sid", SHA, nullable=False),
    Column("expires", Float, nullable=False),
    Index(None, "sid"),
    Index(None, "expires"),
)
oidc_logouts = Table(  # logout tokens that counted, so that none counts twice
    "oidc_logouts",
    metadata,
    Column("token", SHA, primary_key=True),
    Column("expires", Float, nullable=False),
    Index(None, "expires"),
)
PEOPLE_TABLES = (user_roles, token_scopes, audit_log, oidc_accounts, oidc_sign_ins, oidc_sessions, oidc_logouts)
