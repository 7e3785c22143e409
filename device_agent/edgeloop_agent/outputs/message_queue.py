"""Messages on disk that could not be delivered yet: first in, first out, with a ceiling of bytes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from edgeloop_agent.outputs.messages import Message
from edgeloop_agent.state_database import StateDatabase

__all__ = ["MessageQueue"]

ROW_BYTES = 200  # of a row beside its message
SPARE = 0.8  # of the ceiling that messages may fill; the rest is pages in part, and SQLite's own
SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, body BLOB NOT NULL, picture BLOB NOT NULL,
    bytes INTEGER NOT NULL
);
"""


class MessageQueue(StateDatabase):
    """The queue of one output. May be used by several threads. Where the disk refuses at the start, it is empty until it does not.

    Its calls raise StorageError then.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.count = self._bytes = 0
        self._max, self._lock = int(max_bytes * SPARE), threading.Lock()
        super().__init__(path, SCHEMA, max_bytes, at_once=False)

    def _opened(self) -> sqlite3.Connection:
        connection = super()._opened()
        self._count(connection)
        return connection

    def put(self, messages: Sequence[Message]) -> int:
        """Store all of them, or none after an error. Returns how many of the oldest had to go, or are not stored, for others."""
        sizes = [m.size + ROW_BYTES for m in messages]
        skipped = 0
        while sum(sizes[skipped:]) > self._max:
            skipped += 1
        rows = [(m.id, m.time, m.body, m.picture, size) for m, size in zip(messages, sizes, strict=True)][skipped:]
        with self._lock, self.writing() as connection:  # room first: SQLite's own ceiling holds for what is written between, too
            over, gone = self._bytes + sum(sizes[skipped:]) - self._max, 0
            for n, size in connection.execute("SELECT n, bytes FROM messages ORDER BY n").fetchall() if over > 0 else ():
                connection.execute("DELETE FROM messages WHERE n = ?", (n,))
                gone, over = gone + 1, over - size
                if over <= 0:
                    break
            connection.executemany("INSERT OR IGNORE INTO messages (id, at, body, picture, bytes) VALUES (?, ?, ?, ?, ?)", rows)
            self._count(connection)
        return gone + skipped

    def _count(self, connection: sqlite3.Connection) -> None:
        self.count, self._bytes = connection.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM messages").fetchone()

    def first(self, count: int) -> list[Message]:
        with self._lock, self.reading() as connection:
            rows = connection.execute("SELECT id, at, body, picture FROM messages ORDER BY n LIMIT ?", (count,)).fetchall()
        return [Message(*row) for row in rows]

    def remove(self, messages: Sequence[Message]) -> None:
        """These are delivered, or will never be."""
        with self._lock, self.writing() as connection:
            connection.executemany("DELETE FROM messages WHERE id = ?", [(m.id,) for m in messages])
            connection.execute("PRAGMA incremental_vacuum(64)").fetchall()
            self._count(connection)
