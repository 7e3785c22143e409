"""Sign-ins that a provider was asked for: each is finished once, by the browser that began it, within ten minutes."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from edgeloop_contract.errors import StorageError
from edgeloop_hub.auth import secret_digests
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.people_tables import oidc_sign_ins

SECONDS = 600.0
MAX_PENDING = 10_000  # strangers can begin sign-ins
p = oidc_sign_ins.c


@dataclass(frozen=True)
class Begun:
    """`state`, `nonce`, `verifier` go to the provider (the last one as a digest at first); `browser` into a cookie."""

    state: str
    browser: str
    nonce: str
    verifier: str


@dataclass(frozen=True)
class Pending:
    """`following`: the page that the person asked for."""

    nonce: str
    verifier: str
    following: str


def begin(connection: Connection, following: str) -> Begun:
    """Raises StorageError where too many are open."""
    now = time.time()
    connection.execute(delete(oidc_sign_ins).where(p.expires < now))
    if int(connection.execute(select(func.count()).select_from(oidc_sign_ins)).scalar() or 0) >= MAX_PENDING:
        raise StorageError("too many people sign in just now; try again in some minutes")
    begun = Begun(*(secrets.token_urlsafe(32) for _ in range(4)))
    digests = {"state": secret_digests.digest(begun.state), "browser": secret_digests.digest(begun.browser)}
    values = {"nonce": begun.nonce, "verifier": begun.verifier, "following": following, "expires": now + SECONDS}
    connection.execute(insert(oidc_sign_ins).values(**digests, **values))
    return begun


def take(database: Database, state: str, browser: str) -> Pending | None:
    """The sign-in of this state, once; None where this browser began none such, or too long ago. Strangers cause no writing."""
    mine = (p.state == secret_digests.digest(state), p.browser == secret_digests.digest(browser))
    with database.reading() as connection:
        row = connection.execute(select(p.nonce, p.verifier, p.following, p.expires).where(*mine)).first()
    if row is None or row.expires < time.time():
        return None
    with database.writing(ordered=False) as connection:
        was_mine = connection.execute(delete(oidc_sign_ins).where(*mine)).rowcount == 1
    return Pending(row.nonce, row.verifier, row.following) if was_mine else None
