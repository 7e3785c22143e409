"""Events by severity, a page at a time, the newest first."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Select, select, tuple_, union_all

from edgeloop_hub.storage.schema import events

Severity = Literal["error", "warning", "info"]
BY_SEVERITY: dict[Severity, tuple[str, ...]] = {
    "error": ("failed", "rolled-back", "damaged", "untrusted", "rollout halted", "rollout returned: the cohort goes back"),
    "warning": ("refused", "no-room", "stale", "revoked", "token revoked", "rollout paused", "rollout aborted"),
}
PAGE = 100
Place = tuple[float, str, str]  # (time, source, key) of an event


class EventRow(NamedTuple):
    severity: Severity
    source: str
    at: float
    kind: str
    target: str
    rollout: int | None
    text: str


def severity_of(kind: str) -> Severity:
    return next((severity for severity, kinds in BY_SEVERITY.items() if kind in kinds), "info")


def listed(
    connection: Connection, severity: str = "", source: str = "", kind: str = "", rollout: int | None = None,
    before: Place | None = None, limit: int = PAGE,
) -> tuple[list[EventRow], Place | None]:  # fmt: skip
    """Events behind the place `before`, and the place of the last one where there are more. Empty filters filter nothing."""
    rows = select(events).order_by(events.c.at.desc(), events.c.source.desc(), events.c.key.desc()).limit(limit + 1)
    rows = rows.where(events.c.source == source) if source else rows
    rows = rows.where(events.c.rollout == rollout) if rollout is not None else rows
    rows = rows.where(tuple_(events.c.at, events.c.source, events.c.key) < tuple_(*before)) if before else rows
    query: Any = rows
    kinds = (kind,) if kind else next((kinds for name, kinds in BY_SEVERITY.items() if name == severity), ())
    if kinds:
        query = _of_kinds(rows, kinds, limit)
    elif severity == "info":
        query = rows.where(events.c.kind.not_in([name for kinds in BY_SEVERITY.values() for name in kinds]))
    found = connection.execute(query).all()
    page = [EventRow(severity_of(r.kind), r.source, r.at, r.kind, r.target, r.rollout, r.text) for r in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    return page, (last.at, last.source, last.key) if last is not None else None


def _of_kinds(rows: Select[Any], kinds: tuple[str, ...], limit: int) -> Select[Any]:
    """The newest of each kind by its index, then the newest of those: rare kinds are found without reading the others."""
    newest = union_all(*(select(rows.where(events.c.kind == kind).subquery()) for kind in kinds)).subquery()
    return select(newest).order_by(newest.c.at.desc(), newest.c.source.desc(), newest.c.key.desc()).limit(limit + 1)


def place_of(text: str) -> Place | None:
    """A place as a link has it: time~source~key; None for anything else."""
    parts = text.split("~", 2)
    try:
        return (float(parts[0]), parts[1], parts[2]) if len(parts) == 3 else None
    except ValueError:
        return None
