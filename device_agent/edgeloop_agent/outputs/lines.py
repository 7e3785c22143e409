"""Writes answers as JSON lines to standard output or to a bounded file. Lines that cannot be written are counted and dropped."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_agent.config import Output as Settings
from edgeloop_agent.logs import Log, Recurring
from edgeloop_agent.metrics import Counts
from edgeloop_contract.files import remedy_of


class LineOutput:
    """Writes lines; a file that reaches its ceiling becomes `NAME.1`, and a new one begins."""

    def __init__(self, settings: Settings, counts: Counts, log: Log) -> None:
        self._settings, self._counts = settings, counts
        where: dict[str, object] = {"where": settings.where}
        self._writing = Recurring(log, "answers are lost", "answers are written again", where)
        self._syncing = Recurring(log, "answers may be lost", "answers reach the disk again", where)
        self._path = None if settings.where in ("-", "none") else Path(settings.where)
        self._file: Any = None

    def write(self, lines: Sequence[object]) -> bool:
        """Write `lines` as JSON. True where they are written, or where the output is "none"."""
        if self._settings.where == "none" or not lines:
            return True
        try:
            data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
            if self._path is None:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            else:
                self._to_file(self._path, data)
            self._writing.works()
            return True
        except (OSError, ValueError) as error:
            self._counts.dropped["output"] += len(lines)
            self._writing.fails(error if self._path is None else f"{error}; {remedy_of(error)}")
            return False

    def sync(self) -> bool:
        """Sync the file; False if that fails. Pipes and terminals need no sync."""
        try:
            if self._file is not None:
                os.fdatasync(self._file)
            self._syncing.works()
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or a terminal
                self._syncing.fails(f"{error}; {remedy_of(error)}")
                return False
        return True

    def _to_file(self, path: Path, data: bytes) -> None:
        if self._file is None:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        if size + len(data) > self._settings.max_bytes:
            self.sync()
            os.close(self._file)
            self._file = None
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, path.with_name(path.name + ".1"))
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = 0
        if os.write(self._file, data) < len(data):  # the disk is full: leave no half line
            os.ftruncate(self._file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
