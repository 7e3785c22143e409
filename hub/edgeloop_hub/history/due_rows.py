"""Which devices have reports or sums that are old enough to be summed: some hundred devices with one statement."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Table, func, select

from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.history_tables import device_history
from edgeloop_hub.storage.schema import drifts, heartbeats

AT_ONCE = 400  # devices that one statement looks at: some milliseconds, most of which find nothing
HOUR, DAY = 3600, 86400


class Due(NamedTuple):
    """A device, and before which time its heartbeats and its drift reports are to be summed; 0: it has none such."""

    name: str
    beats: float = 0.0
    drifts: float = 0.0


def reports(database: Database, after: str, cutoff: float) -> tuple[list[str], list[Due]]:
    """The next devices behind the name `after` that have reports, and those of them with reports before `cutoff`.

    The newest report of each kind is not one of them: it stays.
    """
    found = _names(heartbeats, after)
    ends = [_end(table, end, found) for table in (heartbeats, drifts) for end in (func.min, func.max)]
    with database.reading() as connection:
        rows: Any = connection.execute(select(found.c.device, *ends)).all()
    due = [Due(name, _until(beat, last, cutoff), _until(drift, last_drift, cutoff)) for name, beat, last, drift, last_drift in rows]
    return [one.name for one in due], [one for one in due if one.beats or one.drifts]


def hours(database: Database, after: str, cutoff: float, before: float) -> tuple[list[str], list[Due]]:
    """The next devices that have sums, and those of them with hours before `cutoff`, or days that ended before `before`."""
    found = _names(device_history, after)
    h = device_history.c
    ends = [
        select(func.min(h.begins)).where(h.device == found.c.device, h.span == span).correlate(found).scalar_subquery()
        for span in (HOUR, DAY)
    ]
    with database.reading() as connection:
        rows = connection.execute(select(found.c.device, *ends)).all()
    due = [
        Due(name) for name, hour, day in rows
        if (hour is not None and hour < cutoff) or (day is not None and day < before - DAY)
    ]  # fmt: skip
    return [row[0] for row in rows], due


def _until(first: float | None, last: float | None, cutoff: float) -> float:
    if first is None or last is None:
        return 0.0
    until = min(last, cutoff)
    return until if first < until else 0.0


def _names(table: Table, after: str) -> Any:
    """The next devices that have rows: one look into the index for each, whatever the number of their rows."""
    first = select(func.min(table.c.device).label("device")).where(table.c.device > after)
    found = first.cte("found", recursive=True)
    further = select(func.min(table.c.device)).where(table.c.device > found.c.device).scalar_subquery()
    found = found.union_all(select(further).where(found.c.device.is_not(None)))
    return select(found.c.device).where(found.c.device.is_not(None)).limit(AT_ONCE).subquery("names")


def _end(table: Table, end: Any, found: Any) -> Any:
    """The oldest or the newest time of a device's rows."""
    return select(end(table.c.at)).where(table.c.device == found.c.device).correlate(found).scalar_subquery()
