"""Devices by what is wrong with them: counted, filtered, the worst first, a page of them. All by the database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Case, ColumnElement, Connection, Select, and_, case, func, or_, select, true

from edgeloop_hub.groups import store
from edgeloop_hub.storage.fleet_tables import device_group_pins, device_pins, device_states, device_tags
from edgeloop_hub.storage.schema import bundles, device_bundles, released

State = Literal["crashing", "silent", "refusing", "drifting", "behind"]
STATES: tuple[State, ...] = ("crashing", "silent", "refusing", "drifting", "behind")  # the worst first
CRASH_SECONDS = 86_400.0  # since the last crash, then the device is crashing no more
REFUSAL_SECONDS = 3 * 86_400.0  # since a bundle was refused
AHEAD_SECONDS = 3600.0  # that a time may lie ahead; beyond, the hub's clock was wrong when it was written
FURTHEST = 86_400.0 + AHEAD_SECONDS  # from now to when a device counts as silent, at most
REFUSED_SHARE = 0.05  # of the samples since the last report
PAGE = 100
MAX_TAGS = 40
SORTS: dict[str, Any] = {
    "name": (device_states.c.device,), "seen": (device_states.c.seen.desc(), device_states.c.device),
    "version": (device_states.c.model, device_states.c.version, device_states.c.device),
    "latency": (func.coalesce(device_states.c.latency_us, -1).desc(), device_states.c.device),
    "memory": (func.coalesce(device_states.c.memory_bytes, -1).desc(), device_states.c.device),
    "heat": (func.coalesce(device_states.c.celsius, -300).desc(), device_states.c.device),
    "drift": (func.coalesce(device_states.c.drift, -1).desc(), device_states.c.device),
}  # fmt: skip
s = device_states.c


@dataclass(frozen=True)
class Filter:
    """Empty fields filter nothing. `show`: a state, "fine" or "revoked"; `q`: part of a name; `bundle`: a digest's beginning."""

    show: str = ""
    q: str = ""
    tag: str = ""
    model: str = ""
    bundle: str = ""
    group: str = ""


@dataclass(frozen=True)
class FoundDevice:
    """A line of the fleet page. `states`: what is wrong, the worst first. `wanted`: the version that is released for it."""

    row: Any
    states: list[State]
    wanted: int | None
    pinned: str | None
    tags: list[tuple[str, bool]] = field(default_factory=list)  # (name, is a label of the enrolment)

    @property
    def name(self) -> str:
        return str(self.row.device)


@dataclass(frozen=True)
class FleetCounts:
    """Devices that pass the filter, its state apart; by state, and those with nothing wrong. Revoked devices are counted apart."""

    devices: int
    fine: int
    revoked: int
    by_state: dict[State, int]


def _wanted() -> Any:
    """The version that is released for a device's model and channel."""
    mine = and_(released.c.channel == s.channel, released.c.model == s.model)
    return select(bundles.c.version).join(released, released.c.target == bundles.c.target).where(mine).limit(1).scalar_subquery()


def _pinned() -> Any:
    """By itself, or of its model by a group."""
    own = select(device_pins.c.target).where(device_pins.c.device == s.device).scalar_subquery()
    by_group = select(device_group_pins.c.target).where(
        device_group_pins.c.device == s.device, device_group_pins.c.model == s.model
    )
    return func.coalesce(own, by_group.scalar_subquery())


# The same of all devices: a join, as a subquery for each of 100,000 rows is slow on PostgreSQL.
_RELEASED = (
    select(released.c.channel, released.c.model, bundles.c.version)
    .join(bundles, bundles.c.target == released.c.target)
    .subquery("released_versions")
)
_WITH_BOTH = device_states.outerjoin(
    _RELEASED, and_(_RELEASED.c.channel == s.channel, _RELEASED.c.model == s.model)
).outerjoin(device_pins, device_pins.c.device == s.device).outerjoin(
    device_group_pins, and_(device_group_pins.c.device == s.device, device_group_pins.c.model == s.model)
)  # fmt: skip
_JOINED = (_RELEASED.c.version, func.coalesce(device_pins.c.target, device_group_pins.c.target))


def since(column: Any, now: float, seconds: float) -> ColumnElement[bool]:
    """Whether it was in the last so many seconds."""
    return and_(column > now - seconds, column <= now + AHEAD_SECONDS)


def conditions(now: float, wanted: Any = None, pinned: Any = None) -> dict[State, ColumnElement[bool]]:
    """What each state means. `wanted`, `pinned`: where a query has them joined."""
    wanted, pinned = (_wanted(), _pinned()) if wanted is None else (wanted, pinned)
    active = s.revoked.is_(None)
    refuses = or_(s.refused >= REFUSED_SHARE, and_(s.refused_target != "", since(s.refused_at, now, REFUSAL_SECONDS)))
    return {
        "crashing": and_(active, since(s.crashed, now, CRASH_SECONDS)),
        "silent": and_(active, or_(s.silent_after < now, s.silent_after > now + FURTHEST)),
        "refusing": and_(active, refuses),
        "drifting": and_(active, s.drifting == 1),
        "behind": and_(active, s.sha256 != "", s.version < wanted, pinned.is_(None)),
    }  # fmt: skip


def rank(now: float, *joined: Any) -> ColumnElement[int]:
    """What is wrong as one number: the worst state is the highest bit. `joined`: as `conditions`."""
    bits = [_bit(condition, 1 << place) for place, condition in enumerate(reversed(list(conditions(now, *joined).values())))]
    return sum(bits[1:], start=bits[0])


def _bit(condition: ColumnElement[bool], value: int) -> Case[int]:
    return case((condition, value), else_=0)


def states_of(number: int) -> list[State]:
    return [state for place, state in enumerate(reversed(STATES)) if number >> place & 1][::-1]


def _filtered(connection: Connection, query: Select[Any], asked: Filter) -> Select[Any]:
    if asked.q:
        query = query.where(s.device.contains(asked.q.lower(), autoescape=True))
    if asked.tag:
        query = query.where(s.device.in_(select(device_tags.c.device).where(device_tags.c.tag == asked.tag)))
    if asked.model:
        query = query.where(s.model == asked.model)
    if asked.group:
        query = query.where(store.marked_condition(connection, asked.group, s.device))
    if asked.bundle:
        beside = and_(device_bundles.c.device == s.device, device_bundles.c.sha256.startswith(asked.bundle, autoescape=True))
        runs = s.sha256.startswith(asked.bundle, autoescape=True)
        query = query.where(or_(runs, select(device_bundles.c.device).where(beside).exists()))
    return query


def counts(connection: Connection, asked: Filter, now: float) -> FleetCounts:
    """One pass over the narrow rows."""
    both = select(rank(now, *_JOINED).label("rank"), s.revoked).select_from(_WITH_BOTH)
    ranked = _filtered(connection, both, asked).subquery()
    by_rank = select(ranked.c.rank, ranked.c.revoked.is_not(None).label("gone"), func.count().label("many"))
    rows = connection.execute(by_rank.group_by(ranked.c.rank, ranked.c.revoked.is_not(None))).all()
    active = [row for row in rows if not row.gone]
    by_state = {state: sum(row.many for row in active if state in states_of(row.rank)) for state in STATES}
    return FleetCounts(
        sum(row.many for row in active), sum(row.many for row in active if row.rank == 0),
        sum(row.many for row in rows if row.gone), by_state,
    )  # fmt: skip


def found(connection: Connection, asked: Filter, sort: str, page: int, now: float) -> list[FoundDevice]:
    """The lines of page `page`, from 1; by what is wrong, or by a column of SORTS."""
    number, (wanted, pinned) = rank(now, *_JOINED).label("rank"), _JOINED
    query = select(device_states, number, wanted.label("wanted"), pinned.label("pinned")).select_from(_WITH_BOTH)
    query = _filtered(connection, query, asked)
    order = SORTS.get(sort, (s.revoked.is_not(None), number.desc(), s.device))
    query = query.where(_in_state(asked.show, now)).order_by(*order)
    rows = connection.execute(query.offset((page - 1) * PAGE).limit(PAGE)).all()
    tags = tags_of(connection, [row.device for row in rows])
    return [FoundDevice(row, states_of(row.rank), row.wanted, row.pinned, tags.get(row.device, [])) for row in rows]


def _in_state(state: str, now: float) -> ColumnElement[bool]:
    """In a query from `_WITH_BOTH`."""
    if state == "fine":
        return and_(s.revoked.is_(None), rank(now, *_JOINED) == 0)
    if state == "revoked":
        return s.revoked.is_not(None)
    return next((condition for name, condition in conditions(now, *_JOINED).items() if name == state), true())


def one(connection: Connection, device: str, now: float) -> FoundDevice | None:
    columns = (device_states, rank(now).label("rank"), _wanted().label("wanted"), _pinned().label("pinned"))
    row = connection.execute(select(*columns).where(s.device == device)).first()
    if row is None:
        return None
    return FoundDevice(row, states_of(row.rank), row.wanted, row.pinned, tags_of(connection, [device]).get(device, []))


def tags_of(connection: Connection, names: list[str]) -> dict[str, list[tuple[str, bool]]]:
    """By device, labels of the enrolment first."""
    rows = select(device_tags).where(device_tags.c.device.in_(names)).order_by(device_tags.c.fixed.desc(), device_tags.c.tag)
    by_device: dict[str, list[tuple[str, bool]]] = {}
    for row in connection.execute(rows):
        by_device.setdefault(row.device, []).append((row.tag, bool(row.fixed)))
    return by_device


def tags(connection: Connection) -> list[tuple[str, int]]:
    """The most frequent tags, with how many devices have each."""
    many = func.count().label("many")
    rows = select(device_tags.c.tag, many).group_by(device_tags.c.tag).order_by(many.desc(), device_tags.c.tag).limit(MAX_TAGS)
    return [(row.tag, row.many) for row in connection.execute(rows)]


def running(connection: Connection) -> dict[str, int]:
    """How many devices run each bundle, config and agent, by its digest."""
    rows = select(s.sha256, func.count().label("many")).where(s.revoked.is_(None), s.sha256 != "").group_by(s.sha256)
    found = Counter({row.sha256: row.many for row in connection.execute(rows)})
    b = device_bundles.c
    beside = select(b.sha256, func.count().label("many")).join(device_states, and_(s.device == b.device, s.model != b.model))
    beside = beside.where(s.revoked.is_(None), b.sha256 != "").group_by(b.sha256)
    found.update({row.sha256: row.many for row in connection.execute(beside)})
    return dict(found)
