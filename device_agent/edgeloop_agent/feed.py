"""A bounded queue between source and loop, filled by a thread. When it is full, the source waits, or the oldest are dropped.

Of cameras nothing waits in it: a frame is taken from the camera when the loop asks for one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.config.source_kinds import SOURCES
from edgeloop_agent.in_flight import EXCLUDED, InFlight
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.sources import Outcome, Recording, Source, waits_when_full
from edgeloop_contract.errors import EdgeloopError

WAIT_SECONDS = 0.5
MAX_WAITING_BYTES = 128 << 20
LOG_SECONDS = 60.0  # between two lines of what was dropped


class Feed:
    """Recordings of one source, in order."""

    def __init__(self, source: Source, settings: Settings, counts: Counts, log: Log, in_flight: InFlight | None = None) -> None:
        self._source, self._settings, self._counts, self._log = source, settings, counts, log
        self._in_flight = in_flight or InFlight()
        self._waits = waits_when_full(settings)
        self._newest = settings.kind in SOURCES and SOURCES[settings.kind].newest
        self._asked = False  # whether the loop waits for a recording
        self._described = ""
        counts.frames = getattr(source, "frames", None) or counts.frames
        self._waiting: deque[Recording] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="source", daemon=True)
        self._dropped, self._logged_at = 0, float("-inf")
        self._kept, self._kept_at = 0, float("-inf")
        self._seen_lost: Counter[str] = Counter()
        self.failure: EdgeloopError | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; recordings in the queue can still be taken."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        """Whether the queue is empty and no more recordings will come."""
        return not self._waiting and not self._thread.is_alive()

    def take(self, timeout_seconds: float) -> Recording | None:
        """The oldest recording of the queue; None if none comes in time."""
        with self._changed:
            if not self._waiting:
                self._asked = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting, timeout_seconds)
            if not self._waiting:
                return None
            self._asked = False
            recording = self._waiting.popleft()
            self._counts.queue = len(self._waiting)
            self._changed.notify_all()
            return recording

    def settle(self, recording: Recording, outcome: Outcome) -> None:
        """Tell the source the outcome of a recording. May wait for the disk where the source keeps files."""
        try:
            did = recording.acknowledge(outcome)
        except OSError as error:
            did = "undeletable"
            self._log("warning", "file cannot be deleted", recording=recording.name, why=error.strerror)
        if did:
            self._counts.files[did, outcome] += 1
        if did == "kept":
            self._say_kept(recording.name, outcome)
        if outcome in ("answered", "refused"):  # else another worker may succeed
            self._in_flight.finish(recording.key)

    def _say_kept(self, name: str, outcome: Outcome) -> None:
        """Each file that stays as it is; those that are read again, as on a full disk, once a minute."""
        self._kept += 1
        again, now = outcome in ("dropped", "unwritten"), time.monotonic()
        if not again or now >= self._kept_at + LOG_SECONDS:
            self._log("warning", "file kept", recording=name, why=outcome, **({"count": self._kept} if again else {}))
            self._kept, self._kept_at = 0, now if again else self._kept_at

    def _fill(self) -> None:
        while not self._stop.is_set():
            try:
                for recording in self._source.recordings(self._stop, self._set_source_state):
                    self._count_lost("queue_full", getattr(self._source, "lost", 0))
                    self._count_lost("overrun", getattr(self._source, "overruns", 0))
                    if self._in_flight.is_finished(recording.key):
                        continue
                    excluded = self._in_flight.is_excluded(recording.key) and recording.is_read
                    self._put(Recording(recording.name, None, EXCLUDED, key=recording.key) if excluded else recording)
                    if self._newest:
                        self._wait_until_asked()
                return
            except EdgeloopError as error:  # the user must act: a missing file, a wrong password
                self.failure = error
                self._log("error", "source ended", why=error)
                return
            except Exception as error:  # a driver or a library of the source, which must not end the agent
                self._set_source_state(f"{type(error).__name__}: {error}")
                self._stop.wait(self._settings.poll_seconds)

    def _put(self, recording: Recording) -> None:
        dropped = []
        with self._changed:
            while not self._waits and self._is_full(recording):
                dropped.append(self._waiting.popleft())
            while self._is_full(recording) and not self._stop.is_set():
                self._changed.wait(WAIT_SECONDS)
            self._waiting.append(recording)
            self._counts.queue = len(self._waiting)
            self._changed.notify_all()
        for each in dropped:  # without the lock: it may delete a file, and inference does not wait for that
            self._log_dropped(1, each.name)
            self.settle(each, "dropped")

    def _wait_until_asked(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: (self._asked and not self._waiting) or self._stop.is_set())

    def _is_full(self, more: Recording) -> bool:
        """Whether the queue holds too many recordings, or too many bytes (a few large pictures)."""
        held = sum(map(_bytes_of, self._waiting))
        return len(self._waiting) >= self._settings.queue or bool(held and held + _bytes_of(more) > MAX_WAITING_BYTES)

    def _count_lost(self, reason: str, count: int) -> None:
        """Count what the source itself, or its device, dropped."""
        if count > self._seen_lost[reason]:
            self._log_dropped(count - self._seen_lost[reason], "in the source", reason)
            self._seen_lost[reason] = count

    def _log_dropped(self, count: int, last: str, reason: str = "queue_full") -> None:
        self._counts.dropped[reason] += count
        self._dropped += count
        if (now := time.monotonic()) >= self._logged_at + LOG_SECONDS:
            self._log("warning", "queue full: recordings are dropped", count=self._dropped, last=last)
            self._dropped, self._logged_at = 0, now

    def _set_source_state(self, why: str) -> None:
        described = getattr(self._source, "described", "")
        if not why and described != self._described:
            self._described = self._counts.source_opened = described
            self._log("info", "source opened", what=described)
        if why != self._counts.source_unavailable:
            self._counts.source_unavailable = why
            self._log(
                "warning" if why else "info", "source unavailable" if why else "source available", **({"why": why} if why else {})
            )


def _bytes_of(recording: Recording) -> int:
    parts = [recording.values, recording.text, *(recording.inputs or {}).values()]
    return sum(len(part) if isinstance(part, str) else int(part.nbytes) for part in parts if part is not None)
