"""Old rows are deleted in small transactions: whoever wants to write meanwhile waits for some hundred rows, not for a backlog."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, delete, select, tuple_

from edgeloop_hub.storage.database import Database

ROWS = 300  # that one transaction deletes: some milliseconds


class Old(NamedTuple):
    """Rows that may go: those of a table that meet a condition."""

    table: Table
    condition: ColumnElement[bool]


def delete_in_parts(database: Database, rows: Iterable[Old], seconds: float, ordered: bool = False) -> bool:
    """Delete these rows, a few at a time, for at most so many seconds. False: some are left, for the next time.

    Rows are looked for while others may write; the condition is asked again when they are deleted.
    """
    ends = time.monotonic() + seconds
    for old in rows:
        while doomed := _some(database, old):
            with database.writing(ordered) as connection:
                connection.execute(delete(old.table).where(_key(old.table).in_(doomed), old.condition))
            if len(doomed) < ROWS:
                break
            if time.monotonic() > ends:
                return False
    return True


def _some(database: Database, old: Old) -> list[tuple[Any, ...]]:
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute(select(*old.table.primary_key.columns).where(old.condition).limit(ROWS))]


def _key(table: Table) -> Any:
    return tuple_(*table.primary_key.columns)
