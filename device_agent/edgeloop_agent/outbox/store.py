"""The outbox's file: SQLite that syncs its log at every commit, so that stored rows survive a power cut."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.state_database import StateDatabase

FILE = "outbox.sqlite"
ROW_BYTES = 200  # of a row beside its body
SPARE = 0.8  # of the ceiling that rows may fill; the rest is pages in part, and SQLite's own
DAY = 86400
SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, value REAL NOT NULL, at REAL NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_value ON waiting (value, at);
CREATE TABLE IF NOT EXISTS rest (
    n INTEGER PRIMARY KEY, recording TEXT NOT NULL, key TEXT NOT NULL, value REAL NOT NULL, bytes INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS rest_by_recording ON rest (recording, bytes);
CREATE TABLE IF NOT EXISTS sent (day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counted (what TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""


def outbox_path(state: Path) -> Path:
    """Where a state folder has its outbox."""
    return state / "outbox" / FILE


@dataclass(frozen=True)
class Row:
    """`value`: the higher, the longer it is kept and the sooner it is sent. `recording`: by which context samples are found.

    The kind "rest" and the table `rest` hold context samples: samples that were not chosen, sent if their recording is asked for.
    """

    key: str
    kind: str
    value: float
    body: bytes
    recording: str = ""


class Outbox(StateDatabase):
    """Samples and events that wait for the hub.

    `max_bytes`: of waiting rows; `context_bytes`: of context samples, which are held back until their recording is asked for.
    Raises StorageError where the disk refuses.
    """

    def __init__(self, path: Path, max_bytes: int, check: bool = True, context_bytes: int = 0, at_once: bool = True) -> None:
        self.max_bytes, self.context_bytes = max_bytes, context_bytes
        super().__init__(path, SCHEMA, max_bytes + context_bytes, check, at_once)

    def put(self, rows: Iterable[Row]) -> None:
        """Store rows: all of them, or none after an error. The least valuable and oldest rows make room, and are counted.

        Of context samples the oldest make room.
        """
        with self.writing() as connection:
            for row in rows:
                size = len(row.body) + ROW_BYTES
                if row.kind == "rest":
                    connection.execute(
                        "INSERT INTO rest (recording, key, value, bytes, body) VALUES (?, ?, ?, ?, ?)",
                        (row.recording, row.key, row.value, size, row.body),
                    )
                    continue
                connection.execute(
                    "INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?, ?, ?)",
                    (row.key, row.kind, row.value, time.time(), size, row.body),
                )
            self._trim_context(connection)
            self._evict(connection)

    def release(self, recordings: Iterable[str]) -> int:
        """Move the context samples of these recordings to the waiting rows; returns their number."""
        released = 0
        with self.writing() as connection:
            for recording in recordings:
                released += connection.execute(
                    "INSERT OR IGNORE INTO waiting SELECT key, 'rest', value, ?, bytes, body FROM rest WHERE recording = ?",
                    (time.time(), recording),
                ).rowcount
                connection.execute("DELETE FROM rest WHERE recording = ?", (recording,))
            self._evict(connection)
        return released

    def _trim_context(self, connection: sqlite3.Connection) -> None:
        used = connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM rest").fetchone()[0]
        over = used - int(self.context_bytes * SPARE)
        if over <= 0:
            return
        for n, size in connection.execute("SELECT n, bytes FROM rest ORDER BY n"):
            over -= size
            if over <= 0:
                connection.execute("DELETE FROM rest WHERE n <= ?", (n,))
                return

    def _evict(self, connection: sqlite3.Connection) -> None:
        used = connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM waiting").fetchone()[0]
        spare, gone = used - int(self.max_bytes * SPARE), Counter[str]()
        if spare <= 0:
            return
        victims = []
        for key, kind, size in connection.execute("SELECT key, kind, bytes FROM waiting ORDER BY value, at"):
            victims.append((key,))
            gone[kind] += 1
            spare -= size
            if spare <= 0:
                break
        connection.executemany("DELETE FROM waiting WHERE key = ?", victims)
        for kind, n in gone.items():
            self._count(connection, f"evicted {kind}", n)

    def batch(self, max_bytes: int, max_rows: int, min_value: float = 0.0) -> list[Row]:
        """The most valuable rows that fit into `max_bytes` together, oldest first among equals; at least one."""
        chosen: list[Row] = []
        used = 0
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT key, kind, value, body FROM waiting WHERE value >= ? ORDER BY value DESC, at LIMIT ?",
                (min_value, max_rows),
            )
            for row in rows:
                used += len(row[3])
                if chosen and used > max_bytes:
                    break
                chosen.append(Row(*row))
        return chosen

    def sent(self, keys: Iterable[str], bytes_sent: int) -> None:
        """Delete rows that arrived. `bytes_sent` counts against the budget of the day."""
        day = int(time.time() // DAY)
        with self.writing() as connection:
            connection.executemany("DELETE FROM waiting WHERE key = ?", [(key,) for key in keys])
            connection.execute("DELETE FROM sent WHERE day < ?", (day - 7,))
            connection.execute(
                "INSERT INTO sent VALUES (?, ?) ON CONFLICT(day) DO UPDATE SET bytes = bytes + excluded.bytes", (day, bytes_sent)
            )
            connection.execute("PRAGMA incremental_vacuum(64)").fetchall()

    def drop(self, row: Row) -> None:
        """Delete a row that the hub refuses, and count it."""
        with self.writing() as connection:
            connection.execute("DELETE FROM waiting WHERE key = ?", (row.key,))
            self._count(connection, f"refused {row.kind}", 1)

    def count_bare(self) -> None:
        """Count a sample that arrives without its answer, which this hub does not take."""
        with self.writing() as connection:
            self._count(connection, "refused answers", 1)

    def withdraw(self) -> None:
        """Delete and count every sample. Events stay."""
        with self.writing() as connection:
            for kind, n in connection.execute("SELECT kind, COUNT(*) FROM waiting WHERE kind != 'event' GROUP BY kind").fetchall():
                self._count(connection, f"withdrawn {kind}", n)
            connection.execute("DELETE FROM waiting WHERE kind != 'event'")
            connection.execute("DELETE FROM rest")

    def bytes_sent_today(self) -> int:
        with self.reading() as connection:
            row = connection.execute("SELECT bytes FROM sent WHERE day = ?", (int(time.time() // DAY),)).fetchone()
        return int(row[0]) if row else 0

    def context_count(self) -> int:
        """Number of context samples that are held back."""
        with self.reading() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM rest").fetchone()[0])

    def waiting(self) -> dict[str, int]:
        """Rows by kind."""
        with self.reading() as connection:
            return dict(connection.execute("SELECT kind, COUNT(*) FROM waiting GROUP BY kind"))

    def counts(self) -> dict[str, int]:
        """What was evicted, refused or withdrawn, by kind, and refused answers of samples, since the file was made."""
        with self.reading() as connection:
            return dict(connection.execute("SELECT what, n FROM counted"))

    @staticmethod
    def _count(connection: sqlite3.Connection, what: str, n: int) -> None:
        connection.execute("INSERT INTO counted VALUES (?, ?) ON CONFLICT(what) DO UPDATE SET n = n + excluded.n", (what, n))
