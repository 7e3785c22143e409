"""The databases that a hub is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import NotRun, Row, each
from test_hub_stores import postgres, postgres_folder

__all__ = ["on_each", "postgresql"]


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a server of its own. Raises NotRun where there is none."""
    if not postgres_folder():
        raise NotRun("PostgreSQL is not installed (apt install postgresql)")
    with postgres() as address:
        yield address


def on_each(quick: bool, part: Callable[[str, str], Iterator[Row]]) -> Iterator[Row]:
    """The rows of `part(database, address)` with SQLite and with PostgreSQL."""

    def on_sqlite(_: bool) -> Iterator[Row]:
        yield from part("SQLite", "")

    def on_postgresql(_: bool) -> Iterator[Row]:
        with postgresql() as address:
            yield from part("PostgreSQL", address)

    yield from each(quick, on_sqlite, on_postgresql)
