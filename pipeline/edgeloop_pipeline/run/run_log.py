"""Collects what a run prints, bounded, for its log file."""

from __future__ import annotations

import time
from collections import deque

from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.run.listener import Listener

MAX_HEAD_LINES = MAX_TAIL_LINES = 2000
MAX_LINE_CHARACTERS = 2000


class RunLog(Listener):
    """Passes the progress of a run on to `inner` and keeps its lines: the first 2000 and the last 2000."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner
        self._start = time.perf_counter()
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=MAX_TAIL_LINES)
        self._count = 0

    def cached(self, name: str, entry: Entry) -> None:
        self.add(f"{name}: cached")
        self._inner.cached(name, entry)

    def starts(self, name: str, reasons: list[str]) -> None:
        self.add(f"{name}: runs: {'; '.join(reasons)}")
        self._inner.starts(name, reasons)

    def log(self, name: str, text: str) -> None:
        self.add(f"{name}: {text}")
        self._inner.log(name, text)

    def done(self, name: str, entry: Entry) -> None:
        self.add(f"{name}: done in {entry.seconds:.1f} s")
        self._inner.done(name, entry)

    def epoch(self, name: str, epoch: int, metric: float, parameters: int) -> None:
        self._inner.epoch(name, epoch, metric, parameters)

    def add(self, text: str) -> None:
        """Keep one line, with the seconds since the start of the run."""
        line = f"{time.perf_counter() - self._start:8.1f} s  {text}"[:MAX_LINE_CHARACTERS]
        self._count += 1
        if len(self._head) < MAX_HEAD_LINES:
            self._head.append(line)
        else:
            self._tail.append(line)

    def text(self) -> str:
        """The kept lines; a line says how many are missing between them."""
        missing = self._count - len(self._head) - len(self._tail)
        between = [f"… {missing} lines left out …"] if missing else []
        return "\n".join([*self._head, *between, *self._tail]) + "\n"
