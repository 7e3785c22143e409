"""An SQLite file of the agent's state: bounded, synced at every commit, and put aside where it is damaged."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from edgeloop_contract.errors import StorageError
from edgeloop_contract.files import remedy_of

__all__ = ["PAGE", "StateDatabase"]

PAGE = 4096
BUSY_SECONDS = 5.0


class StateDatabase:
    """May be opened by several processes. A damaged file is renamed; `quarantined` says why. `check`: look for damage first.
    `failed`: why it was not open at the start.

    `at_once`: it must open now; else each use tries again, so that a disk that was full or read-only is used when it is neither.
    Raises StorageError where the disk refuses.
    """

    def __init__(self, path: Path, schema: str, max_bytes: int, check: bool = True, at_once: bool = True) -> None:
        self.path, self._schema, self._check = path, schema, check
        self._pages = max(64, max_bytes // PAGE)
        self.quarantined = self.failed = ""
        self._opening = threading.Lock()
        self._open: sqlite3.Connection | None = None
        try:
            self._connected()
        except StorageError as error:
            if at_once:
                raise
            self.failed = str(error)

    def _connected(self) -> sqlite3.Connection:
        with self._opening:
            if self._open is None:
                self._open = self._first_opened()
            return self._open

    def _first_opened(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                return self._opened()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._quarantine(str(error))
                return self._opened()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{self.path}: cannot be opened ({error}); {remedy_of(error)}") from error

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", f"journal_size_limit={1 << 20}",
                       "wal_autocheckpoint=128", f"max_page_count={self._pages}"):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.executescript(self._schema)
        if self._check and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            connection.close()
            raise sqlite3.DatabaseError("it is damaged")
        return connection

    def _quarantine(self, why: str) -> None:
        self.quarantined = why
        for suffix in ("", "-wal", "-shm"):
            file = Path(f"{self.path}{suffix}")
            if file.exists():
                file.replace(f"{self.path}.damaged{suffix}")

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}; {remedy_of(error)}") from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._connected()
        try:
            yield connection
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}; {remedy_of(error)}") from error
