"""A watched folder: every readable file in it, and every new one. No file is deleted that was not answered."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event

import msgspec

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.in_flight import InFlight
from edgeloop_agent.sources import Outcome, Recording, ReportUnavailable, acknowledge_nothing
from edgeloop_agent.sources.files import LEADS_OUT, NOT_TRACKED, leads_out, read_tracked
from edgeloop_agent.sources.readers import ENDINGS
from edgeloop_agent.sources.texts import TEXT_ENDINGS

MAX_RETRY_SECONDS = 30.0  # between two attempts to answer what could not be written
State = tuple[int, int, int]  # of a file: time, size, inode


class WatchedFolder:
    """Each file once, by name, after it did not change for `settle_seconds` and no process has it open for writing.

    With `after = "delete"` a file is deleted once it was answered as a whole. A file that was dropped, or whose answer could not be
    written, is read again when no new file comes. Other files stay and are not read again before a restart. If the folder vanishes
    (a stick pulled out), the source waits for it.
    """

    def __init__(self, settings: Settings, in_flight: InFlight = NOT_TRACKED) -> None:
        self.settings, self.folder, self.in_flight = settings, Path(settings.where), in_flight
        self.seen: dict[str, State] = {}
        self.texts = False  # the model takes texts: .txt files are recordings too
        self.retry_later: deque[str] = deque()  # filled by the thread that settles
        self._unwritten, self._retry_at, self._delay = False, 0.0, 0.0  # of answers that could not be written

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        unchanged_since: dict[str, tuple[State, float]] = {}
        while not stop.is_set():
            now, listed_at = self._listing(report_unavailable), time.monotonic()
            self.seen = {name: state for name, state in self.seen.items() if name in now}
            unchanged_since = {
                name: unchanged_since[name] if unchanged_since.get(name, ((), 0))[0] == state else (state, listed_at)
                for name, state in now.items()
            }
            none = True
            for name in sorted(now):
                if stop.is_set():
                    return
                if self.seen.get(name) == now[name] or listed_at - unchanged_since[name][1] < self.settings.settle_seconds:
                    continue
                recording = self._read(name, now[name])
                if recording is not None:
                    none = False
                    yield recording
            if none:
                self._requeue()
            stop.wait(self.settings.poll_seconds)

    def _read(self, name: str, state: State) -> Recording | None:
        """None where the file is being written or was replaced: it is read in a later round."""
        path = self.folder / name
        if being_written(path) or _state_at(path) != state:
            return None
        recording = Recording(name, None, LEADS_OUT) if leads_out(path) else read_tracked(path, self.in_flight)
        if _state_at(path) != state:
            return None
        self.seen[name] = state
        acknowledge = acknowledge_nothing if self.settings.after == "keep" else partial(self._acknowledged, name, state)
        return msgspec.structs.replace(recording, acknowledge=acknowledge)

    def _acknowledged(self, name: str, state: State, outcome: Outcome) -> str:
        """Raises OSError where the file cannot be deleted."""
        path = self.folder / name
        if outcome == "answered" or self.settings.after == "delete-all":
            if _state_at(path) not in (state, None) or being_written(path):
                return "kept"  # it was written meanwhile, and is read again
            path.unlink(missing_ok=True)
            return "deleted"
        if outcome in ("dropped", "unwritten"):
            self._unwritten = self._unwritten or outcome == "unwritten"
            self.retry_later.append(name)
        return "kept"

    def _requeue(self) -> None:
        """Read again as many as the queue holds; each of them may be returned once more. Later and later while a disk is full."""
        if time.monotonic() < self._retry_at:
            return
        if self.retry_later:
            self._delay = min(MAX_RETRY_SECONDS, max(1.0, 2 * self._delay)) if self._unwritten else 0.0
            self._unwritten, self._retry_at = False, time.monotonic() + self._delay
        for _ in range(min(len(self.retry_later), self.settings.queue)):
            self.seen.pop(self.retry_later.popleft(), None)

    def _listing(self, report_unavailable: ReportUnavailable) -> dict[str, State]:
        states, endings = {}, ENDINGS | TEXT_ENDINGS if self.texts else ENDINGS
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # deleted while listing, or a circular link
                        if Path(entry.name).suffix.lower() in endings and entry.is_file():
                            states[entry.name] = _state_of(entry.stat())
        except OSError as error:
            report_unavailable(f"{self.folder}: {error.strerror}")
            return {}
        report_unavailable("")
        return states


def being_written(path: Path) -> bool:
    """Whether any process has the file open for writing: the system refuses a lease for reading then (fcntl(2)).

    This works for files of the same user, or as root; for other files only `settle_seconds` protects.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # reading it will say why
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # if a writer comes now: the one signal that is ignored by default
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _state_of(state: os.stat_result) -> State:
    return state.st_mtime_ns, state.st_size, state.st_ino


def _state_at(path: Path) -> State | None:
    try:
        return _state_of(path.stat())
    except OSError:
        return None
