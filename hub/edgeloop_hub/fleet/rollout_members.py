"""Who runs a rollout's bundle, who should and does not yet, who did not take it: a page of each, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, select

from edgeloop_hub.groups import pins
from edgeloop_hub.groups.store import MARK, marked_condition
from edgeloop_hub.rollouts.policy import Rollout
from edgeloop_hub.storage.fleet_tables import device_states, device_tags
from edgeloop_hub.storage.many_rows import read_in_parts
from edgeloop_hub.storage.schema import device_bundles

Who = Literal["in", "late", "failed"]
PAGE = 50
CHUNK = 10_000  # rows that are read at a time while late devices are looked for
s = device_states.c


@dataclass(frozen=True)
class Member:
    """`why`: of a device that did not take the bundle."""

    name: str
    seen: float | None
    version: int
    why: str


class Cohort(NamedTuple):
    """How many devices are in the steps so far, and of those run the bundle, and are late. `pinned`: elsewhere, and not of them."""

    size: int
    running: int
    late: int
    pinned: int


def counts(connection: Connection, rollout: Rollout) -> dict[str, int]:
    """Devices that run the bundle, in the cohort or not, and that did not take it."""
    conditions = {"in": _runs(rollout), "failed": _failed(rollout)}
    return {
        name: int(connection.execute(select(func.count()).select_from(device_states).where(condition)).scalar_one())
        for name, condition in conditions.items()
    }


def members(connection: Connection, rollout: Rollout, who: Who, after: str) -> tuple[list[Member], str]:
    """Those behind the name `after`, and where the next page begins; "" where this is the last."""
    query = (
        select(s.device, s.seen, _of_model(rollout, "version").label("version"), s.refused_why)
        .where(s.device > after)
        .order_by(s.device)
    )
    if who == "late":
        late = _late(connection, rollout, query)
        rows = [row for row, _ in zip(late, range(PAGE + 1), strict=False)]
    else:
        rows = list(connection.execute(query.where(_runs(rollout) if who == "in" else _failed(rollout)).limit(PAGE + 1)))
    page = [Member(row.device, row.seen, row.version, row.refused_why if who == "failed" else "") for row in rows[:PAGE]]
    return page, page[-1].name if len(rows) > PAGE else ""


def _of_model(rollout: Rollout, column: Literal["sha256", "version"]) -> ColumnElement[Any]:
    """Of what a device runs of the rollout's model: its first bundle, one beside it, its config or its agent. NULL: nothing."""
    beside = and_(device_bundles.c.device == s.device, device_bundles.c.model == rollout.model)
    there = select(device_bundles.c[column]).where(beside).scalar_subquery()
    return case((s.model == rollout.model, s[column]), else_=there)


def _mine(rollout: Rollout) -> ColumnElement[bool]:
    return and_(s.channel == rollout.channel, _of_model(rollout, "sha256").is_not(None), s.revoked.is_(None))


def _runs(rollout: Rollout) -> ColumnElement[bool]:
    return and_(_mine(rollout), _of_model(rollout, "sha256") == rollout.target_sha256)


def _failed(rollout: Rollout) -> ColumnElement[bool]:
    return and_(_mine(rollout), s.refused_target == rollout.target, _of_model(rollout, "sha256") != rollout.target_sha256)


def cohort(connection: Connection, rollout: Rollout) -> Cohort:
    """Devices of the steps so far; read a chunk at a time."""
    size = running = late = elsewhere = 0
    pinned = pins.elsewhere(connection, rollout.model, rollout.target)
    query = select(s.device, _of_model(rollout, "sha256").label("sha256"), _waits(rollout).label("waits")).where(_mine(rollout))
    for row in _inside(connection, rollout, query):
        if row.device in pinned:
            elsewhere += 1
            continue
        size += 1
        running += row.sha256 == rollout.target_sha256
        late += bool(row.waits)
    return Cohort(size, running, late, elsewhere)


def _late(connection: Connection, rollout: Rollout, query: Select[Any]) -> Iterator[Any]:
    pinned = pins.elsewhere(connection, rollout.model, rollout.target)
    rows = _inside(connection, rollout, query.where(_mine(rollout), _waits(rollout)))
    return (row for row in rows if row.device not in pinned)


def _waits(rollout: Rollout) -> ColumnElement[bool]:
    """A device that could run the bundle, and does not yet."""
    return and_(_of_model(rollout, "sha256") != rollout.target_sha256, s.refused_target != rollout.target)


def _has(connection: Connection, label: str) -> ColumnElement[bool]:
    if label.startswith(MARK):
        return marked_condition(connection, label, s.device)
    mine = (device_tags.c.device == s.device, device_tags.c.tag == label, device_tags.c.fixed == 1)
    return select(device_tags.c.tag).where(*mine).exists()


def _inside(connection: Connection, rollout: Rollout, query: Select[Any]) -> Iterator[Any]:
    """Rows of the cohort's devices, as they are read: databases lack the hash of shares."""
    labels = sorted({step.label for step in rollout.plan.steps if step.label})
    has = [_has(connection, label).label(f"has_{number}") for number, label in enumerate(labels)]
    for row in read_in_parts(connection, query.add_columns(*has), [s.device], CHUNK):
        if rollout.cohort_has(row.device, [label for number, label in enumerate(labels) if row._mapping[f"has_{number}"]]):
            yield row
