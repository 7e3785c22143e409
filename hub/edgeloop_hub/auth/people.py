"""People and what they may do: viewer, labeller, operator, admin. Each role may do what those before it may."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

from sqlalchemy import Connection, Select, and_, delete, func, insert, select, update

from edgeloop_contract.errors import UsageError
from edgeloop_hub.storage.people_tables import oidc_accounts, user_roles
from edgeloop_hub.storage.schema import sessions, users

Role = Literal["viewer", "labeller", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "labeller", "operator", "admin")
BY_PROVIDER = "provider"  # in place of a role: by the provider's groups, from the next sign-in on
NO_PASSWORD = "!"  # no hash: an earlier release refuses it too


class Person(NamedTuple):
    name: str
    role: Role
    created: float
    sessions: int  # that are open
    issuer: str = ""  # of the provider that the account came by; empty: a password
    role_from: str = ""  # of such an account: provider, or hub


def is_at_least(role: Role, needed: Role) -> bool:
    return ROLES.index(role) >= ROLES.index(needed)


def adopt(connection: Connection) -> None:
    """An earlier release knew no roles, and everybody could do everything: so may those people, until somebody says otherwise."""
    if connection.execute(select(user_roles.c.name).limit(1)).first() is None:
        names = list(connection.execute(select(users.c.name)).scalars())
        if names:
            connection.execute(insert(user_roles), [{"name": name, "role": "admin"} for name in names])


def role_of(connection: Connection, name: str) -> Role:
    found = connection.execute(select(user_roles.c.role).where(user_roles.c.name == name)).scalar()
    return found if found in ROLES else "viewer"


def choose_role(connection: Connection, name: str, asked: str | None) -> Role:
    """For somebody who is added with a password: the role that was asked for, else the one that he or she has; the first person
    with a password is an admin.
    """
    adopt(connection)
    others = select(users.c.name).where(users.c.name != name, users.c.name.not_in(_by_provider()))
    if connection.execute(others.limit(1)).first() is None:
        chosen = asked or "admin"
    elif connection.execute(select(users.c.name).where(users.c.name == name)).first() is not None:
        chosen = asked or role_of(connection, name)
    else:
        chosen = asked or "viewer"
    keep_role(connection, name, chosen)
    return role_of(connection, name)


def set_role(connection: Connection, name: str, role: str, break_glass: str = "") -> None:
    """A role that holds, also where a provider's groups say another one; BY_PROVIDER gives it back to them.

    Raises UsageError for nobody, an unknown role, and where no admin with a password would be left.
    """
    _known(connection, name)
    came_by_provider = is_by_provider(connection, name)
    if role == BY_PROVIDER and came_by_provider:
        _role_from(connection, name, "provider")
        return
    if role not in ROLES:
        raise UsageError(f"there is no role {role[:40]!r}; roles: {', '.join(ROLES)}")
    if role != "admin":
        _guard_last_admin(connection, name, break_glass)
    keep_role(connection, name, role)
    if came_by_provider:
        _role_from(connection, name, "hub")


def remove(connection: Connection, name: str, break_glass: str = "") -> None:
    """Sessions end at once. What the person did stays under the name. One that came by a provider cannot come again, until
    `readmit`. Raises UsageError for nobody, and for the last admin with a password.
    """
    _known(connection, name)
    _guard_last_admin(connection, name, break_glass)
    connection.execute(delete(sessions).where(sessions.c.user == name))
    connection.execute(delete(user_roles).where(user_roles.c.name == name))
    connection.execute(delete(users).where(users.c.name == name))
    connection.execute(update(oidc_accounts).where(oidc_accounts.c.name == name).values(deleted=time.time()))


def readmit(connection: Connection, name: str) -> None:
    """Whoever was deleted may come by the provider again, as somebody new. Raises UsageError for others."""
    gone = delete(oidc_accounts).where(oidc_accounts.c.name == name, oidc_accounts.c.deleted.is_not(None))
    if connection.execute(gone).rowcount != 1:
        raise UsageError(f"there is no deleted account {name[:80]!r} of a provider; edgeloop-hub user list shows them")


def kept_out(connection: Connection) -> list[str]:
    """Names of the deleted accounts that came by a provider."""
    gone = select(oidc_accounts.c.name).where(oidc_accounts.c.deleted.is_not(None))
    return list(connection.execute(gone.order_by(oidc_accounts.c.name)).scalars())


def is_by_provider(connection: Connection, name: str) -> bool:
    return connection.execute(_by_provider().where(oidc_accounts.c.name == name)).first() is not None


def listed(connection: Connection) -> list[Person]:
    """By name."""
    by_user = connection.execute(select(sessions.c.user, func.count().label("many")).group_by(sessions.c.user))
    opened = {row.user: int(row.many) for row in by_user}
    came = select(users.c.name, users.c.created, oidc_accounts.c.issuer, oidc_accounts.c.role_from)
    here = and_(oidc_accounts.c.name == users.c.name, oidc_accounts.c.deleted.is_(None))
    rows = connection.execute(came.join(oidc_accounts, here, isouter=True).order_by(users.c.name))
    return [
        Person(row.name, role_of(connection, row.name), row.created, opened.get(row.name, 0), row.issuer or "", row.role_from or "")
        for row in rows.all()
    ]


def guard_break_glass(connection: Connection, name: str) -> None:
    """Raises UsageError unless this account of the settings can sign in by its password, as an admin."""
    there = connection.execute(select(users.c.name).where(users.c.name == name)).first()
    if there is None or role_of(connection, name) != "admin" or is_by_provider(connection, name):
        raise UsageError(f"password_only_for: {name!r} is no admin with a password; run: edgeloop-hub user add {name} --role admin")


def _by_provider() -> Select[tuple[str]]:
    return select(oidc_accounts.c.name).where(oidc_accounts.c.deleted.is_(None))


def _role_from(connection: Connection, name: str, where: str) -> None:
    connection.execute(update(oidc_accounts).where(oidc_accounts.c.name == name).values(role_from=where))


def _known(connection: Connection, name: str) -> None:
    adopt(connection)
    if connection.execute(select(users.c.name).where(users.c.name == name)).first() is None:
        raise UsageError(f"there is no user {name[:80]!r}; edgeloop-hub user list shows them")


def _guard_last_admin(connection: Connection, name: str, break_glass: str) -> None:
    """An admin with a password has to stay: a provider may be away, or take all its people's groups."""
    if name == break_glass:
        raise UsageError(f"{name} is the only account with a password (password_only_for of sign-in.toml), and stays an admin")
    others = select(user_roles.c.name).join(users, users.c.name == user_roles.c.name)
    others = others.where(user_roles.c.role == "admin", user_roles.c.name != name, user_roles.c.name.not_in(_by_provider()))
    is_last = role_of(connection, name) == "admin" and not is_by_provider(connection, name)
    if is_last and connection.execute(others.limit(1)).first() is None:
        raise UsageError(f"{name} is the only admin with a password; make another one first: edgeloop-hub user role NAME admin")


def keep_role(connection: Connection, name: str, role: str) -> None:
    connection.execute(delete(user_roles).where(user_roles.c.name == name))
    connection.execute(insert(user_roles).values(name=name, role=role))
