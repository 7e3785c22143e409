"""Accounts that came by a provider: whom it names is one of them, by issuer and subject, never by a name alone."""

from __future__ import annotations

import re
import time

from sqlalchemy import Connection, insert, select, update

from edgeloop_hub.auth import audit, people
from edgeloop_hub.auth.accounts import RESERVED
from edgeloop_hub.auth.oidc.id_token import Identity
from edgeloop_hub.auth.oidc.requests import SignInRefused
from edgeloop_hub.auth.people import NO_PASSWORD, Role
from edgeloop_hub.auth.sign_in_settings import Oidc
from edgeloop_hub.storage.people_tables import oidc_accounts
from edgeloop_hub.storage.schema import users

NAME = re.compile(r"\w[\w.@+|:~-]{0,62}")
o = oidc_accounts.c


def admit(connection: Connection, oidc: Oidc, identity: Identity, address: str) -> str:
    """The account's name; a first sign-in makes it. What changed is in the audit log. Raises SignInRefused."""
    mine = (o.issuer == oidc.issuer, o.subject == identity.subject)
    row = connection.execute(select(o.name, o.role_from, o.deleted).where(*mine)).first()
    if row is not None and row.deleted is not None:
        raise SignInRefused(f"an admin of this hub deleted the account {row.name}")
    if identity.role is None:
        raise SignInRefused(f"your account at {oidc.shown_name} has no role at this hub; an admin of {oidc.shown_name} gives one")
    if row is None:
        _add(connection, oidc, identity, identity.role, address)
        return identity.name
    connection.execute(update(oidc_accounts).where(*mine).values(seen=time.time()))
    if row.role_from == "provider" and people.role_of(connection, row.name) != identity.role:
        people.keep_role(connection, row.name, identity.role)
        audit.append(connection, oidc.shown_name, "role changed", row.name, identity.role, address)
    return str(row.name)


def _add(connection: Connection, oidc: Oidc, identity: Identity, role: Role, address: str) -> None:
    name = identity.name
    if not NAME.fullmatch(name) or name in RESERVED:
        raise SignInRefused(f"{name!r} cannot be an account's name; the hub's admin may choose another claim (account_claim)")
    taken = connection.execute(select(users.c.name).where(users.c.name == name)).first()
    if taken or connection.execute(select(o.name).where(o.name == name)).first():
        raise SignInRefused(f"the account {name} of this hub belongs to somebody else, or to another way to sign in; ask an admin")
    people.adopt(connection)
    now = time.time()
    connection.execute(insert(users).values(name=name, password=NO_PASSWORD, created=now))
    people.keep_role(connection, name, role)
    who = {"issuer": oidc.issuer, "subject": identity.subject, "name": name}
    connection.execute(insert(oidc_accounts).values(**who, role_from="provider", seen=now))
    audit.append(connection, oidc.shown_name, "user added", name, f"role {role}, subject {identity.subject}", address)
