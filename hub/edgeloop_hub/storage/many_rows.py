"""Many rows of a table: changed at once, or read some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    Row,
    Select,
    Table,
    TextClause,
    Update,
    bindparam,
    delete,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

POSTGRESQL: Any = postgresql.dialect()  # type: ignore[no-untyped-call]


class Changes(NamedTuple):
    """Each row names its `keys` and the columns that change."""

    table: Table
    keys: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]


def update_rows(connection: Connection, *changes: Changes) -> None:
    """Change rows of some tables.

    PostgreSQL gets all of it as one statement with one value for each table, which it reads as rows: it then plans and runs one
    update where it had one for each row. It locks them in any order, so the caller holds a lock on whose rows these are.
    """
    parts = [part for one in changes for part in _by_columns(one)]
    if not parts:
        return
    if connection.dialect.name == "sqlite" or any(_has_bytes(table) for table, *_ in parts):
        for table, keys, _, rows in parts:
            values = [{f"this_{name}" if name in keys else name: value for name, value in row.items()} for row in rows]
            connection.execute(_statement(table, keys), values)
        return
    shapes = tuple((table, keys, columns) for table, keys, columns, _ in parts)
    connection.execute(_together(shapes), {f"rows_{i}": _json(rows) for i, (*_, rows) in enumerate(parts)})


Part = tuple[Table, tuple[str, ...], tuple[str, ...], list[Mapping[str, Any]]]


def _by_columns(changes: Changes) -> list[Part]:
    """(table, keys, columns, rows), where all rows have the same columns."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in changes.rows:
        found.setdefault(tuple(sorted(row)), []).append(row)
    return [(changes.table, changes.keys, columns, rows) for columns, rows in found.items()]


def _has_bytes(table: Table) -> bool:
    return any(isinstance(column.type, LargeBinary) for column in table.columns)


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()


@lru_cache(64)
def _together(shapes: tuple[tuple[Table, tuple[str, ...], tuple[str, ...]], ...]) -> TextClause:
    statements = []
    for number, (table, keys, columns) in enumerate(shapes):
        changed = ", ".join(f"{name} = n.{name}" for name in columns if name not in keys)
        same = " AND ".join(f"{table.name}.{name} = n.{name}" for name in keys)
        statements.append(f"UPDATE {table.name} SET {changed} FROM {_recordset(table, columns, f'rows_{number}')} WHERE {same}")
    *first, last = statements
    ahead = ", ".join(f"change_{number} AS ({statement})" for number, statement in enumerate(first))
    return text(f"WITH {ahead} {last}" if first else last)


def _recordset(table: Table, columns: Iterable[str], parameter: str) -> str:
    """JSON as rows `n`; a number goes through it without a loss."""
    kinds = ", ".join(f"{name} {table.c[name].type.compile(POSTGRESQL)}" for name in columns)
    return f"json_to_recordset(CAST(:{parameter} AS json)) AS n({kinds})"


def delete_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Delete rows by their primary keys; how many were there."""
    if not rows:
        return 0
    if connection.dialect.name == "sqlite" or _has_bytes(table):
        keys = tuple(column.name for column in table.primary_key.columns)
        statement = delete(table).where(*(table.c[name] == bindparam(f"this_{name}") for name in keys))
        return connection.execute(statement, [{f"this_{name}": row[name] for name in keys} for row in rows]).rowcount
    return int(connection.execute(_delete_recordset(table), {"rows": _json(rows)}).rowcount)


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """Insert those rows that are not there yet; returns the primary keys of these."""
    if not rows:
        return set()
    if connection.dialect.name != "sqlite" and not _has_bytes(table):
        statement = _insert_recordset(table, tuple(sorted(rows[0])))
        return {tuple(row) for row in connection.execute(statement, {"rows": _json(rows)})}
    return {tuple(row) for row in connection.execute(_insert(table, connection.dialect.name), rows)}


def read_in_parts(connection: Connection, query: Select[Any], by: Sequence[Column[Any]], size: int) -> Iterator[Row[Any]]:
    """Rows in the order of `by`, some of the query's columns that are unique together, `size` at a time.

    Without a cursor of the database: PostgreSQL has those in transactions alone, and reads take none.
    """
    part = query
    while True:
        rows = connection.execute(part.order_by(None).order_by(*by).limit(size)).all()
        yield from rows
        if len(rows) < size:
            return
        last = rows[-1]._mapping
        part = query.where(tuple_(*by) > tuple_(*(last[column] for column in by)))


@lru_cache(64)
def _statement(table: Table, keys: tuple[str, ...]) -> Update:
    return update(table).where(*(table.c[name] == bindparam(f"this_{name}") for name in keys))


@lru_cache(64)
def _insert_recordset(table: Table, columns: tuple[str, ...]) -> TextClause:
    names, keys = ", ".join(columns), ", ".join(column.name for column in table.primary_key.columns)
    rows = f"SELECT {names} FROM {_recordset(table, columns, 'rows')}"
    return text(f"INSERT INTO {table.name} ({names}) {rows} ON CONFLICT DO NOTHING RETURNING {keys}")


@lru_cache(64)
def _delete_recordset(table: Table) -> TextClause:
    keys = [column.name for column in table.primary_key.columns]
    same = " AND ".join(f"{table.name}.{name} = n.{name}" for name in keys)
    return text(f"DELETE FROM {table.name} USING {_recordset(table, keys, 'rows')} WHERE {same}")


@lru_cache(64)
def _insert(table: Table, dialect: str) -> Any:
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
