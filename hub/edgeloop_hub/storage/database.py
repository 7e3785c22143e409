"""SQLite or PostgreSQL behind one door: short transactions, one writer at a time where order matters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import DisconnectionError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from edgeloop_contract.errors import StorageError
from edgeloop_hub.storage.schema import ADDED, ADDED_INDEXES, metadata

MIGRATIONS = Path(__file__).parent / "migrations"
ORDER_LOCK = 0xED6E  # PostgreSQL's advisory lock for what must happen one after the other
AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)  # internal: such as read only, while it changes over
BUSY_SECONDS = 20
CONNECT_SECONDS, GONE_SECONDS, POOL_SECONDS = 5, 15, 10  # of PostgreSQL: to connect, without a sign of it, for a free connection
IDLE_SECONDS = 5  # of a pooled connection, after which the server may be another one


class Database:
    """An engine, opened at the newest schema. Raises StorageError when it cannot be reached."""

    def __init__(self, url: str) -> None:
        url = url.replace("postgresql://", "postgresql+psycopg://", 1).replace("postgres://", "postgresql+psycopg://", 1)
        self.longest_write_seconds = 0.0  # that a transaction of this process kept other writers waiting
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}} if self.is_sqlite else _postgresql_options()
        try:
            self.engine = create_engine(url, **options)
            if self.is_sqlite:
                event.listen(self.engine, "connect", _sqlite)
            else:
                event.listen(self.engine, "checkin", _used)
                event.listen(self.engine, "checkout", partial(_alive, self.engine.dialect))
            # Each statement sees what is committed, as in PostgreSQL's own transactions: BEGIN and ROLLBACK would be two more
            # round trips a poll.
            self.reads = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self.upgrade()
            self._add_tables()
        except (SQLAlchemyError, OSError, ModuleNotFoundError) as error:
            raise StorageError(f"database: {str(error).splitlines()[0]}; check the address, and that it runs") from error

    def upgrade(self) -> None:
        """To the newest schema, from whichever release made it; safe when several workers start at once."""
        if self._is_newest():
            return
        from alembic import command  # 0.4 s of every command, and the writer's lock: only where there is something to do
        from alembic.config import Config
        from alembic.util.exc import CommandError

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.writing() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise StorageError(f"database: {error}; did a later release make it? use that one") from error

    def _add_tables(self) -> None:
        """Tables and indexes that are no revision of their own: an earlier release goes on with the database, after a step back."""
        with self.reads.connect() as connection:
            there = inspect(connection)
            missing = [table for table in ADDED if not there.has_table(table.name)]
            known = {index["name"] for index in there.get_indexes("events")}
            unindexed = [index for index in ADDED_INDEXES if index.name not in known]
        if missing or unindexed:
            with self.writing() as connection:
                metadata.create_all(connection, tables=missing)
                for index in unindexed:
                    index.create(connection, checkfirst=True)

    def _is_newest(self) -> bool:
        """Whether the schema is that of the newest migration; no for a database without tables."""
        newest = max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]
        try:
            with self.reads.connect() as connection:
                return bool(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest)
        except SQLAlchemyError:
            return False  # no table yet, or no database: the upgrade says which

    @contextmanager
    def reading(self, whole: bool = False) -> Iterator[Connection]:
        """`whole`: in one transaction, as PostgreSQL needs it for rows that are read piece by piece (`yield_per`)."""
        with _translated(), (self.engine if whole else self.reads).connect() as connection:
            yield connection

    @contextmanager
    def writing(self, ordered: bool = True, durable: bool = True) -> Iterator[Connection]:
        """A transaction. `ordered`: no other such one runs meanwhile, in any process.

        Not `durable`: it does not wait for PostgreSQL's disk. A power cut may undo it as a whole: for what is then done again.
        """
        with _translated(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.begin()
                if not durable:
                    connection.execute(text("SET LOCAL synchronous_commit TO off"))
                if ordered:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ORDER_LOCK})
            begun = time.monotonic()
            yield connection
            connection.commit()
            self.longest_write_seconds = max(self.longest_write_seconds, time.monotonic() - begun)

    def after_restore(self, connection: Connection, table: str) -> None:
        """PostgreSQL counts numbered rows beside the table: its counter goes behind the restored ones."""
        if not self.is_sqlite and table == "rollouts":
            connection.execute(text("SELECT setval('rollouts_id_seq', (SELECT MAX(id) FROM rollouts))"))

    def is_there(self) -> bool:
        try:
            with self.reading() as connection:
                connection.execute(text("SELECT 1"))
        except StorageError:
            return False
        return True


@contextmanager
def _translated() -> Iterator[None]:
    """A database that is away, full or held too long by another is said as such; a wrong statement is a mistake of ours."""
    try:
        yield
    except AWAY as error:
        raise StorageError(f"database: {str(error).splitlines()[0]}; make room, see that it runs, or try again") from error


def _postgresql_options() -> dict[str, Any]:
    """A server that is gone without a word (a power cut, a network that drops everything) is noticed, and nobody waits for long."""
    gone = {"connect_timeout": CONNECT_SECONDS, "keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2}
    gone["tcp_user_timeout"] = GONE_SECONDS * 1000
    return {"pool_size": 10, "pool_timeout": POOL_SECONDS, "connect_args": gone}


def _used(_: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _alive(dialect: Any, connection: Any, record: Any, _: Any) -> None:
    """A connection that lay idle is asked whether it still stands; one that was just used is not: a round trip less a request."""
    if time.monotonic() - record.info.get("used", 0.0) < IDLE_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}").close()
