"""Tells the source what became of its recordings, by a thread: a file may be deleted then, after its answers are on the disk."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from edgeloop_agent.sources import Outcome, Recording

__all__ = ["Settling"]

ENOUGH, SETTLE_SECONDS = 64, 1.0  # recordings whose answers reach the disk together: flash wears by syncs
MAX_UNSETTLED = 1_024
WAIT_SECONDS = 0.2


class Settling:
    """`sync`: all answers that were written are on the disk; `settle`: tells the source. Both may take long.

    `failed`: is told what one of them raised. Neither ends the thread: recordings would wait for it for ever.
    """

    def __init__(
        self, sync: Callable[[], bool], settle: Callable[[Recording, Outcome], None], failed: Callable[[Exception], None]
    ) -> None:
        self._sync, self._settle, self._failed = sync, settle, failed
        self._ready: deque[tuple[Recording, Outcome]] = deque()
        self._unsettled = self._doubtful = 0  # doubtful: of those, how many may have lost lines by a sync that failed
        self._changed, self._stopped = threading.Condition(), False
        self._thread: threading.Thread | None = None

    def begin(self, go_on: Callable[[], bool]) -> None:
        """One more is to be settled. Waits while there are too many of them, as long as `go_on` says so."""
        with self._changed:
            while self._unsettled >= MAX_UNSETTLED and go_on():
                self._changed.wait(WAIT_SECONDS)
            self._unsettled += 1

    def ready(self, recording: Recording, outcome: Outcome) -> None:
        """Its answers are written, though maybe not on the disk. Does not wait."""
        with self._changed:
            self._ready.append((recording, outcome))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="settling", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, go_on: Callable[[], bool]) -> None:
        """Settle what is ready, as long as `go_on` says so. The files of the rest stay, and are answered again."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            while self._thread is not None and self._unsettled and go_on():
                self._changed.wait(WAIT_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ready:
                    self._changed.wait()
                due = time.monotonic() + SETTLE_SECONDS
                while len(self._ready) < ENOUGH and not self._stopped and (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                some = list(self._ready)  # all: a disk says once that it lost something
                self._ready.clear()
            safe = not any(outcome == "answered" for _, outcome in some) or self._synced()
            for number, (recording, outcome) in enumerate(some):
                lost = outcome == "answered" and (not safe or number < self._doubtful)
                try:
                    self._settle(recording, "unwritten" if lost else outcome)
                except Exception as error:
                    self._failed(error)
            with self._changed:
                self._unsettled -= len(some)
                # What was written of those that are not ready yet, and of the one that is being answered, went by the same sync.
                self._doubtful = max(0, self._doubtful - len(some)) if safe else self._unsettled + 1
                self._changed.notify_all()

    def _synced(self) -> bool:
        try:
            return self._sync()
        except Exception as error:
            self._failed(error)
            return False
