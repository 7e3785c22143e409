"""Which of the hub's sessions began by which session at the provider, and their end when that one ends."""

from __future__ import annotations

import time
from collections import Counter

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select

from edgeloop_hub.auth import audit, secret_digests
from edgeloop_hub.auth.oidc.id_token import LEEWAY_SECONDS
from edgeloop_hub.auth.oidc.logout_token import MAX_AGE_SECONDS, Ended
from edgeloop_hub.auth.oidc.requests import SignInRefused
from edgeloop_hub.auth.sign_in_settings import Oidc
from edgeloop_hub.storage.many_rows import insert_new
from edgeloop_hub.storage.people_tables import oidc_accounts, oidc_logouts, oidc_sessions
from edgeloop_hub.storage.schema import sessions


def remember(connection: Connection, oidc: Oidc, secret: str, sid: str, seconds: float) -> None:
    """A session of the hub began, for so many seconds. `sid`: the provider's; empty: it says none."""
    if sid:
        values = {"hash": secret_digests.digest(secret), "sid": _digest(oidc, sid), "expires": time.time() + seconds}
        connection.execute(insert(oidc_sessions).values(**values))


def end(connection: Connection, oidc: Oidc, ended: Ended, address: str) -> int:
    """End the sessions that a logout token means; returns how many. The audit log has whose. In an ordered transaction.

    Raises SignInRefused for a token that counted before.
    """
    row = {"token": _digest(oidc, ended.number), "expires": time.time() + MAX_AGE_SECONDS + 2 * LEEWAY_SECONDS}
    if not insert_new(connection, oidc_logouts, [row]):
        raise SignInRefused("this logout token counted already (jti)")
    rows = connection.execute(select(sessions.c.hash, sessions.c.user).where(_meant(oidc, ended))).all()
    gone = [row.hash for row in rows]
    for table in (sessions, oidc_sessions):
        connection.execute(delete(table).where(table.c.hash.in_(gone)))
    for name, count in Counter(row.user for row in rows).items():
        told = f"{count} session{'s' if count != 1 else ''} ended, as {oidc.shown_name} says"
        audit.append(connection, oidc.shown_name, "signed out", name, told, address)
    return len(gone)


def _meant(oidc: Oidc, ended: Ended) -> ColumnElement[bool]:
    """With a session's name that one alone, and those of this person of which no name is known."""
    accounts = select(oidc_accounts.c.name).where(oidc_accounts.c.issuer == oidc.issuer, oidc_accounts.c.subject == ended.subject)
    theirs = sessions.c.user.in_(accounts)
    if not ended.sid:
        return theirs
    of_sid = sessions.c.hash.in_(select(oidc_sessions.c.hash).where(oidc_sessions.c.sid == _digest(oidc, ended.sid)))
    if not ended.subject:
        return of_sid
    return and_(theirs, or_(of_sid, sessions.c.hash.not_in(select(oidc_sessions.c.hash))))


def _digest(oidc: Oidc, text: str) -> str:
    return secret_digests.digest(f"{oidc.issuer} {text}")
