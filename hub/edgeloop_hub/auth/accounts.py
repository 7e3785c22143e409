"""Who may do what: people with passwords and sessions, tokens for cron, devices with a credential of their own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.hub_messages import TokenSummary
from edgeloop_contract.messages import Enrolled, Enrolment
from edgeloop_hub.auth import secret_digests
from edgeloop_hub.auth.passwords import HASHER
from edgeloop_hub.auth.people import Role, is_by_provider, role_of
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage import device_rows
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.people_tables import oidc_logouts, oidc_sessions, oidc_sign_ins, token_scopes
from edgeloop_hub.storage.schema import devices, sessions, tokens, tries, users

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MIN_PASSWORD = 10
ID_LETTERS, MAX_TOKENS = 12, 10_000
RESERVED = ("hub", "device", "any", "token", "import")  # names under which the hub writes; no device and no person has one


@dataclass(frozen=True)
class EnrolledDevice:
    """An enrolled device, as its credential identifies it. `model`, `sha256`: of the bundle that it runs."""

    name: str
    labels: list[str]
    channel: str
    model: str
    sha256: str


def checked_name(name: str, what: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{what} {name[:80]!r}: use a-z, 0-9 and -, up to 63 of them")
    return name


def own_name(name: str, what: str) -> str:
    """A name for a device or a person. Raises UsageError for a wrong one, and for one that the hub uses itself."""
    if checked_name(name, what) in RESERVED:
        raise UsageError(f"{what} {name!r}: the hub uses this name itself; choose another")
    return name


def add_user(connection: Connection, name: str, password: str) -> None:
    """Add a user, or change the password of one; sessions under the old password end."""
    if is_by_provider(connection, name):
        raise UsageError(f"{name} signs in by a provider, and has no password here; choose another name")
    if len(password) < MIN_PASSWORD:
        raise UsageError(f"the password has {len(password)} characters; use {MIN_PASSWORD} or more")
    connection.execute(delete(users).where(users.c.name == own_name(name, "user")))
    connection.execute(delete(sessions).where(sessions.c.user == name))
    connection.execute(insert(users).values(name=name, password=HASHER.hash(password), created=time.time()))


def may_sign_in(connection: Connection, name: str, address: str, settings: Settings) -> bool:
    """Counts tries by name and address together, so that nobody elsewhere can lock a person out; and by address alone."""
    if not may_try(connection, from_address(address), settings.sign_in_tries_per_address, settings):
        return False
    return may_try(connection, tried(name, address), settings.sign_in_tries, settings)


def from_address(address: str) -> str:
    return f"from {address}"[:200]


def tried(name: str, address: str) -> str:
    return f"user {name} from {address}"[:200]


def may_try(connection: Connection, who: str, most: int, settings: Settings) -> bool:
    """Whether one more try is allowed. It is counted before it is checked, so that simultaneous tries count too."""
    now = time.time()
    row = connection.execute(select(tries.c.count.label("done"), tries.c.since).where(tries.c.who == who)).first()
    if row is None or not 0 <= now - row.since <= settings.sign_in_wait_seconds:  # before now: the clock was set back
        connection.execute(delete(tries).where(tries.c.who == who))
        connection.execute(insert(tries).values(who=who, count=1, since=now))
        return True
    connection.execute(update(tries).where(tries.c.who == who).values(count=tries.c.count + 1))
    return bool(row.done < most)


def old(settings: Settings) -> list[Old]:
    """Expired sessions, sign-ins that nobody finished, and tries that count no more."""
    now = time.time()
    return [
        Old(sessions, sessions.c.expires < now),
        Old(tries, tries.c.since < now - settings.sign_in_wait_seconds),
        *(Old(table, table.c.expires < now) for table in (oidc_sign_ins, oidc_sessions, oidc_logouts)),
    ]


def forget_tries(connection: Connection, *who: str) -> None:
    connection.execute(delete(tries).where(tries.c.who.in_(who)))


def open_session(connection: Connection, user: str, settings: Settings) -> str:
    """Start a session; returns its secret. It is new at every sign-in, so that a planted session is worth nothing."""
    secret, digest = secret_digests.make("session")
    connection.execute(
        insert(sessions).values(
            hash=digest, user=user, csrf=secret_digests.make("form")[1], expires=time.time() + settings.session_seconds
        )
    )
    return secret


@dataclass(frozen=True)
class Session:
    """Who signed in. `csrf`: the token that the session's forms carry."""

    user: str
    csrf: str
    role: Role = "viewer"


def session_of(connection: Connection, secret: str) -> Session | None:
    query = select(sessions.c.user, sessions.c.csrf).where(
        sessions.c.hash == secret_digests.digest(secret), sessions.c.expires > time.time()
    )
    row = connection.execute(query).first()
    return Session(row.user, row.csrf, role_of(connection, row.user)) if row else None


def close_session(connection: Connection, secret: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.hash == secret_digests.digest(secret)))


def make_token(
    connection: Connection, kind: str, name: str, labels: list[str], seconds: float | None, scopes: Sequence[str] = ()
) -> str:  # fmt: skip
    """Make a token; returns its secret. `kind`: "api" for the workstation and cron, "enrol" for one device. No scopes: all."""
    secret, digest = secret_digests.make(kind)
    for label in labels:
        checked_name(label, "label")
    named = checked_name(name, kind) if kind == "api" or name == "any" else own_name(name, "device")
    values = {"kind": kind, "name": named, "labels": json.dumps(labels), "created": time.time()}
    connection.execute(insert(tokens).values(hash=digest, expires=time.time() + seconds if seconds else None, **values))
    if scopes:
        connection.execute(insert(token_scopes).values(hash=digest, scopes=" ".join(scopes)))
    return secret


def token_summaries(connection: Connection) -> list[TokenSummary]:
    """Every token without its secret, oldest first. `id`: the beginning of the digest, enough to name a token."""
    with_scopes = select(tokens, token_scopes.c.scopes).join(token_scopes, token_scopes.c.hash == tokens.c.hash, isouter=True)
    rows = connection.execute(with_scopes.order_by(tokens.c.created).limit(MAX_TOKENS))
    return [
        TokenSummary(
            id=row.hash[:ID_LETTERS],
            kind=row.kind,
            name=row.name,
            created=row.created,
            expires=row.expires,
            used=row.used,
            scopes=(row.scopes or "").split(),
        )
        for row in rows
    ]


def revoke_tokens(connection: Connection, which: str) -> int:
    """Revoke tokens by id, or by name; returns how many. Raises UsageError when there is none."""
    by_id = re.fullmatch(rf"[0-9a-f]{{{ID_LETTERS}}}", which) is not None
    named = tokens.c.hash.startswith(which) if by_id else tokens.c.name == which
    if by_id and connection.execute(select(tokens.c.hash).where(named)).first() is None:
        named = tokens.c.name == which
    connection.execute(delete(token_scopes).where(token_scopes.c.hash.in_(select(tokens.c.hash).where(named))))
    count = connection.execute(delete(tokens).where(named)).rowcount
    if not count:
        raise UsageError(f"there is no token {which[:80]!r}; edgeloop-hub token list shows them")
    return int(count)


@dataclass(frozen=True)
class Token:
    """A valid token of the workstation or of cron. `scopes`: empty: everything."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whoever may do something at the interface may also read, and whoever reads may read the metrics."""
        allowed = set(self.scopes)
        allowed |= {"read"} if allowed & {"label", "publish", "operate", "admin"} else set()
        allowed |= {"metrics"} if "read" in allowed else set()
        return not self.scopes or scope in allowed


def token_of(connection: Connection, secret: str) -> Token | None:
    """None for one that is unknown, revoked or too old."""
    query = select(tokens.c.name, tokens.c.expires, token_scopes.c.scopes)
    query = query.join(token_scopes, token_scopes.c.hash == tokens.c.hash, isouter=True)
    row = connection.execute(query.where(tokens.c.hash == secret_digests.digest(secret), tokens.c.kind == "api")).first()
    if row is None or (row.expires is not None and row.expires <= time.time()):
        return None
    return Token(row.name, frozenset((row.scopes or "").split()))


def is_enrolment(connection: Connection, secret: str) -> bool:
    """Whether it is an enrolment token that nobody used, and that is not too old."""
    row = connection.execute(
        select(tokens.c.expires, tokens.c.used).where(tokens.c.hash == secret_digests.digest(secret), tokens.c.kind == "enrol")
    ).first()
    return row is not None and row.used is None and (row.expires is None or row.expires > time.time())


def enrol(connection: Connection, asked: Enrolment, root: bytes) -> Enrolled | None:
    """Enrol a device; None when the token is not valid. A device that enrols again gets a new credential, and its old one ends.

    Raises DataError for a name or a token that does not fit.
    """
    if asked.device in RESERVED:
        raise DataError(f"a device cannot be called {asked.device}: the hub uses this name itself; choose another")
    digest, now = secret_digests.digest(asked.token), time.time()
    row = connection.execute(select(tokens).where(tokens.c.hash == digest, tokens.c.kind == "enrol")).first()
    if row is None or row.used is not None or (row.expires is not None and row.expires < now):
        return None
    if row.name not in ("any", asked.device):
        raise DataError(f"this token is for device {row.name}")
    taken = connection.execute(select(devices.c.name).where(devices.c.name == asked.device)).first()
    if taken is not None and row.name == "any":
        raise DataError(f"there is a device {asked.device} already; a token made for that name can enrol it again")
    used = connection.execute(update(tokens).where(tokens.c.hash == digest, tokens.c.used.is_(None)).values(used=now))
    if used.rowcount != 1:
        return None
    secret, credential = secret_digests.make("device")
    connection.execute(delete(devices).where(devices.c.name == asked.device))
    connection.execute(
        insert(devices).values(
            name=asked.device,
            credential=credential,
            labels=row.labels,
            channel="stable",
            enrolled=now,
            machine=asked.machine,
            model="",
            version=0,
            sha256="",
            heartbeat="{}",
            quota_from=now,
            quota_used=0,
        )
    )
    device_rows.add(connection, asked.device, "stable", json.loads(row.labels), now)
    return Enrolled(device=asked.device, credential=secret, root=root.decode())


IDENTITY = (devices.c.name, devices.c.labels, devices.c.channel, devices.c.model, devices.c.sha256)
_BY_CREDENTIALS = select(devices.c.credential, *IDENTITY).where(
    devices.c.credential.in_(bindparam("digests", expanding=True)), devices.c.revoked.is_(None)
)


def device_of(connection: Connection, secret: str) -> EnrolledDevice | None:
    return devices_of(connection, [secret])[0]


def devices_of(connection: Connection, secrets: Sequence[str]) -> list[EnrolledDevice | None]:
    """The device of each credential; None where there is none, or it was revoked."""
    digests = [secret_digests.digest(secret) for secret in secrets]
    rows = {row.credential: row for row in connection.execute(_BY_CREDENTIALS, {"digests": digests})}
    return [identified(rows[digest]) if digest in rows else None for digest in digests]


def identified(row: Any) -> EnrolledDevice | None:
    """`row`: with the columns of IDENTITY."""
    if row.name in RESERVED or not NAME.fullmatch(row.name):  # an earlier release may have let it in
        return None
    return EnrolledDevice(row.name, json.loads(row.labels), row.channel, row.model, row.sha256)


def revoke(connection: Connection, device: str) -> None:
    """Revoke a device's credential. Raises UsageError when there is no such device."""
    if connection.execute(update(devices).where(devices.c.name == device).values(revoked=time.time())).rowcount != 1:
        raise UsageError(f"there is no device {device!r}")
    connection.execute(update(device_states).where(device_states.c.device == device).values(revoked=time.time()))
