"""An SQLite file of the agent's state: bounded, synced at every commit, and put aside where it is damaged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgeloop_contract.errors import StorageError

__all__ = ["PAGE", "StateDatabase"]

PAGE = 4096
BUSY_SECONDS = 5.0


class StateDatabase:
    """May be opened by several processes. A damaged file is renamed; `quarantined` says why. `check`: look for damage first.

    Raises StorageError where the disk refuses.
    """

    def __init__(self, path: Path, schema: str, max_bytes: int, check: bool = True) -> None:
        self.path, self._schema, self._check = path, schema, check
        self._pages = max(64, max_bytes // PAGE)
        self.quarantined = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._connection = self._opened()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._quarantine(str(error))
                self._connection = self._opened()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: cannot be opened ({error}); make room or check the path") from error

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
        self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}; make room") from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error
