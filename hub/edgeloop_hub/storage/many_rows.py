"""Many rows of a table: changed at once, or read some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, Table, Update, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite


def update_rows(connection: Connection, table: Table, keys: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Each row names its `keys` and the columns that change, in the order in which they are locked."""
    by_columns: dict[frozenset[str], list[dict[str, Any]]] = {}
    for row in rows:
        values = {f"this_{name}" if name in keys else name: value for name, value in row.items()}
        by_columns.setdefault(frozenset(row), []).append(values)
    for values_of_some in by_columns.values():
        connection.execute(_statement(table, tuple(keys)), values_of_some)


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """Insert those rows that are not there yet; returns the primary keys of these."""
    if not rows:
        return set()
    return {tuple(row) for row in connection.execute(_insert(table, connection.dialect.name), rows)}


def read_in_parts(connection: Connection, query: Select[Any], by: Column[Any], size: int) -> Iterator[Row[Any]]:
    """Rows in the order of `by`, a unique one of the query's columns, `size` at a time.

    Without a cursor of the database: PostgreSQL has those in transactions alone, and reads take none.
    """
    part = query
    while True:
        rows = connection.execute(part.order_by(None).order_by(by).limit(size)).all()
        yield from rows
        if len(rows) < size:
            return
        part = query.where(by > rows[-1]._mapping[by])


@lru_cache(64)
def _statement(table: Table, keys: tuple[str, ...]) -> Update:
    return update(table).where(*(table.c[name] == bindparam(f"this_{name}") for name in keys))


@lru_cache(64)
def _insert(table: Table, dialect: str) -> Any:
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
