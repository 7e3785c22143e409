"""Writes answers as JSON lines to standard output or to a bounded file, by a thread: inference waits for no disk and no reader.

Lines that cannot be written are counted and dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeloop_agent.config import Output as Settings
from edgeloop_agent.logs import Log, Recurring
from edgeloop_agent.metrics import Counts
from edgeloop_agent.outputs.ticket import Ticket
from edgeloop_contract.files import remedy_of

MAX_WAITING_BYTES = 16 << 20  # of lines that a disk or a reader did not take yet
PART_BYTES = 1_024  # what one recording's lines take besides themselves, in memory
WAIT_SECONDS = 0.2
STDOUT = 1


class _Part(NamedTuple):
    """Lines of one recording. `last`: no more of them come."""

    data: bytes
    lines: int
    ticket: Ticket | None
    last: bool

    @property
    def size(self) -> int:
        return len(self.data) + PART_BYTES


class LineOutput:
    """Writes lines; a file that reaches its ceiling becomes `NAME.1`, and a new one begins."""

    def __init__(self, settings: Settings, counts: Counts, log: Log) -> None:
        self._settings, self._counts = settings, counts
        where: dict[str, object] = {"where": settings.where}
        self._writing = Recurring(log, "answers are lost", "answers are written again", where)
        self._behind = Recurring(log, "answers are lost", "answers find room again", where)
        self._syncing = Recurring(log, "answers may be lost", "answers reach the disk again", where)
        self._path = None if settings.where in ("-", "none") else Path(settings.where)
        self._file: int | None = None
        self._using_file, self._unsafe = threading.Lock(), False  # unsafe: lines of the file before may not be on the disk
        self._waiting: deque[_Part] = deque()
        self._bytes = self._parts = 0  # of what waits and what is being written
        self._changed, self._stopped = threading.Condition(), False
        self._thread: threading.Thread | None = None

    def put(
        self, lines: Sequence[object], ticket: Ticket | None = None, last: bool = False, go_on: Callable[[], bool] | None = None
    ) -> None:
        """Have `lines` written as JSON. Where too many wait already, the oldest go, unless `go_on` says to wait for room."""
        part = _Part(b"" if self._settings.where == "none" else self._encoded(lines, ticket), len(lines), ticket, last)
        if not part.data and (not last or self._thread is None):
            return self._end(part)
        with self._changed:
            while self._is_full(part) and go_on is not None and go_on():
                self._changed.wait(WAIT_SECONDS)
            while self._is_full(part) and self._waiting:
                self._drop(self._waiting.popleft())
            if not self._waiting:
                self._behind.works()
            self._waiting.append(part)
            self._bytes += part.size
            self._parts += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return None

    def sync(self) -> bool:
        """Sync what was written to a file; False if that fails. Pipes and terminals need no sync."""
        try:
            with self._using_file:
                file = None if self._file is None else os.dup(self._file)
                safe, self._unsafe = not self._unsafe, False
            if file is not None:
                try:
                    os.fdatasync(file)
                finally:
                    os.close(file)
            self._syncing.works()
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or a terminal
                self._syncing.fails(f"{error}; {remedy_of(error)}")
                return False
        return safe

    def flush(self, go_on: Callable[[], bool]) -> bool:
        """Wait until all is written, as long as `go_on` says so; whether it is."""
        with self._changed:
            while self._parts and go_on():
                self._changed.wait(WAIT_SECONDS)
            return not self._parts

    def close(self, deadline: float) -> None:
        """Write what waits until `deadline` (`time.monotonic`); the rest is lost, and said."""
        self.flush(lambda: time.monotonic() < deadline)
        with self._changed:
            self._stopped = True
            left = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for part in left:
                self._lose(part)
            if left:
                self._behind.fails(f"{sum(part.lines for part in left)} lines were not taken before the end")
            self._changed.notify_all()

    def _encoded(self, lines: Sequence[object], ticket: Ticket | None) -> bytes:
        try:
            return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        except ValueError as error:
            self._fail(len(lines), ticket, error)
            return b""

    def _is_full(self, more: _Part) -> bool:
        return bool(self._bytes) and self._bytes + more.size > MAX_WAITING_BYTES

    def _drop(self, part: _Part) -> None:
        self._behind.fails(f"{MAX_WAITING_BYTES >> 20} MiB wait for a disk or a reader that does not take them; the oldest go")
        self._lose(part)

    def _lose(self, part: _Part) -> None:
        self._bytes -= part.size
        self._parts -= 1
        self._counts.dropped["output"] += part.lines
        if part.ticket is not None:
            part.ticket.written = False
        self._end(part)

    def _end(self, part: _Part) -> None:
        if part.last and part.ticket is not None:
            part.ticket.ended()

    def _fail(self, lines: int, ticket: Ticket | None, error: Exception) -> None:
        self._counts.dropped["output"] += lines
        if ticket is not None:
            ticket.written = False
        self._writing.fails(f"{error}; {remedy_of(error)}" if self._path is not None and isinstance(error, OSError) else error)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if not self._waiting:
                    return
                part = self._waiting.popleft()
            try:
                if part.data:
                    if self._path is None:
                        _write_all(STDOUT, part.data)
                    else:
                        with self._using_file:
                            self._to_file(self._path, part.data)
                    self._writing.works()
            except Exception as error:  # a disk's, or a fault of our own: the next lines are written
                self._fail(part.lines, part.ticket, error)
            try:
                self._end(part)
            except Exception as error:
                self._writing.fails(error)
            with self._changed:
                self._bytes -= part.size
                self._parts -= 1
                self._changed.notify_all()

    def _to_file(self, path: Path, data: bytes) -> None:
        if self._file is None:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        if size + len(data) > self._settings.max_bytes:
            self._begin_another(path, self._file)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = 0
        if os.write(self._file, data) < len(data):  # the disk is full: leave no half line
            os.ftruncate(self._file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _begin_another(self, path: Path, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._unsafe = True
                self._syncing.fails(f"{error}; {remedy_of(error)}")
        self._file = None
        os.close(file)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, path.with_name(path.name + ".1"))


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(file, left) :]
        except BlockingIOError:  # a pipe that somebody else made so
            select.select([], [file], [], WAIT_SECONDS)
