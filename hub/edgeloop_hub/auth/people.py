"""People and what they may do: viewer, labeller, operator, admin. Each role may do what those before it may."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub.storage.people_tables import user_roles
from edgeloop_hub.storage.schema import sessions, users

Role = Literal["viewer", "labeller", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "labeller", "operator", "admin")


class Person(NamedTuple):
    name: str
    role: Role
    created: float
    sessions: int  # that are open


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
    """For somebody who is added: the role that was asked for, else the one that he or she has; the first person is an admin."""
    adopt(connection)
    if connection.execute(select(users.c.name).where(users.c.name != name).limit(1)).first() is None:
        chosen = asked or "admin"
    elif connection.execute(select(users.c.name).where(users.c.name == name)).first() is not None:
        chosen = asked or role_of(connection, name)
    else:
        chosen = asked or "viewer"
    _keep(connection, name, chosen)
    return role_of(connection, name)


def set_role(connection: Connection, name: str, role: str) -> None:
    """Raises UsageError for nobody, an unknown role, and where no admin would be left."""
    _known(connection, name)
    if role not in ROLES:
        raise UsageError(f"there is no role {role[:40]!r}; roles: {', '.join(ROLES)}")
    if role != "admin":
        _guard_last_admin(connection, name)
    _keep(connection, name, role)


def remove(connection: Connection, name: str) -> None:
    """Sessions end at once. What the person did stays under the name. Raises UsageError for nobody, and for the last admin."""
    _known(connection, name)
    _guard_last_admin(connection, name)
    connection.execute(delete(sessions).where(sessions.c.user == name))
    connection.execute(delete(user_roles).where(user_roles.c.name == name))
    connection.execute(delete(users).where(users.c.name == name))


def listed(connection: Connection) -> list[Person]:
    """By name."""
    by_user = connection.execute(select(sessions.c.user, func.count().label("many")).group_by(sessions.c.user))
    opened = {row.user: int(row.many) for row in by_user}
    rows = connection.execute(select(users.c.name, users.c.created).order_by(users.c.name)).all()
    return [Person(row.name, role_of(connection, row.name), row.created, opened.get(row.name, 0)) for row in rows]


def _known(connection: Connection, name: str) -> None:
    adopt(connection)
    if connection.execute(select(users.c.name).where(users.c.name == name)).first() is None:
        raise UsageError(f"there is no user {name[:80]!r}; edgeloop-hub user list shows them")


def _guard_last_admin(connection: Connection, name: str) -> None:
    others = select(user_roles.c.name).join(users, users.c.name == user_roles.c.name)
    others = others.where(user_roles.c.role == "admin", user_roles.c.name != name)
    if role_of(connection, name) == "admin" and connection.execute(others.limit(1)).first() is None:
        raise UsageError(f"{name} is the only admin; make another one first: edgeloop-hub user role NAME admin")


def _keep(connection: Connection, name: str, role: str) -> None:
    connection.execute(delete(user_roles).where(user_roles.c.name == name))
    connection.execute(insert(user_roles).values(name=name, role=role))
