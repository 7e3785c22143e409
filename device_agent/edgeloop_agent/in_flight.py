"""The recordings in work, visible to the supervisor after the worker's death: a file that kills the worker is excluded.

Two pieces of memory that live as long as the supervisor: one holds what is being read and answered now, and what the next
worker must not touch; the other holds what was finished, so that the next worker continues there. No disk is written.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

ENVIRONMENT = "EDGELOOP_IN_FLIGHT"
READING, ANSWERING, EXCLUDED_SLOT = 0, 1, 2
EXCLUDED = "it ended the agent's worker each time it was read or answered and is excluded now; repair or remove it"
SLOT_BYTES = 1 << 16
DIGEST_BYTES, MAX_FINISHED = 8, 1 << 17
READING_DEATHS, ANSWERING_DEATHS = (
    2,
    4,
)  # deaths: of a reader it is the file; a runtime is given another variant first (models.CRASHES_A_VARIANT)
MAX_KEYS = 32
WAIT_SECONDS = 0.2


class InFlight:
    """The worker's side. A key is a file's path, size and time; "" is not tracked. Without shared memory nothing is tracked.

    `careful`: a worker died before this one. It reads nothing while it answers, so that the next death has one cause.
    """

    def __init__(self, memory: int = -1, finished: int = -1, careful: bool = False) -> None:
        self._exclusive = threading.Lock() if careful else None
        self._memory, self._log = memory, finished
        self._excluded = frozenset(_keys(memory, EXCLUDED_SLOT)) if memory >= 0 else frozenset()
        data = os.pread(finished, MAX_FINISHED * DIGEST_BYTES, 0) if finished >= 0 else b""
        self._finished = {data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES)}
        self._written: dict[int, list[str]] = {READING: [], ANSWERING: []}
        self._failed: list[str] = []  # recordings that the runtime raised for, in a row

    @classmethod
    def from_environment(cls) -> InFlight:
        memory, _, finished = os.environ.get(ENVIRONMENT, "").partition(",")
        careful = os.environ.get("EDGELOOP_RESTARTS", "0") != "0"
        return cls(int(memory), int(finished), careful) if memory else cls()

    def is_excluded(self, key: str) -> bool:
        """Whether it ended workers repeatedly."""
        return key in self._excluded

    def is_finished(self, key: str) -> bool:
        """Whether a worker before this one, of the same supervisor, was done with it."""
        return bool(key) and _digest(key) in self._finished

    @contextmanager
    def reading(self, key: str) -> Iterator[None]:
        with self._exclusive or nullcontext():
            self._hold(READING, [key])
            yield
            self._hold(READING, [])

    @contextmanager
    def answering(self, key: str, progress: Callable[[], None] = lambda: None) -> Iterator[None]:
        """`progress` is called while it has to wait: a file that takes long to read is no hung runtime."""
        while self._exclusive is not None and not self._exclusive.acquire(timeout=WAIT_SECONDS):
            progress()
        try:
            self._hold(ANSWERING, [*self._failed, key])
            yield
            self._hold(ANSWERING, self._failed)
        finally:
            if self._exclusive is not None:
                self._exclusive.release()

    def failed(self, key: str) -> None:
        """The runtime raised for it. Too many in a row end the worker; then all of them count as in flight."""
        self._failed = [*self._failed, key][-MAX_KEYS:]

    def answered(self) -> None:
        self._failed = []

    def finish(self, key: str) -> None:
        if key and self._log >= 0 and os.lseek(self._log, 0, os.SEEK_END) < MAX_FINISHED * DIGEST_BYTES:
            os.write(self._log, _digest(key))

    def _hold(self, slot: int, keys: list[str]) -> None:
        read_tracked = [key for key in keys if key]
        if self._memory >= 0 and read_tracked != self._written.get(slot):
            _write(self._memory, slot, read_tracked)
            self._written[slot] = read_tracked


class DeathRecord:
    """The supervisor's side."""

    def __init__(self) -> None:
        self._memory, self._log = _anonymous(), _anonymous()
        self._while: dict[int, Counter[str]] = {READING: Counter(), ANSWERING: Counter()}
        self._excluded: list[str] = []

    @property
    def descriptors(self) -> tuple[int, int]:
        return self._memory, self._log

    @property
    def environment(self) -> dict[str, str]:
        return {ENVIRONMENT: f"{self._memory},{self._log}"}

    def blame(self, certain: bool) -> list[str]:
        """A worker died: the keys that are excluded from now on. `certain`: only the recording can have caused the death.

        If one recording was being read and another answered, either may be the cause; the next worker does one at a time.
        """
        newly_excluded: list[str] = []
        if all(_keys(self._memory, slot) for slot in (READING, ANSWERING)):
            for slot in (READING, ANSWERING):
                _write(self._memory, slot, [])
            return newly_excluded
        for slot, most in ((READING, 1 if certain else READING_DEATHS), (ANSWERING, ANSWERING_DEATHS)):
            for key in _keys(self._memory, slot):
                self._while[slot][key] += 1
                if self._while[slot][key] >= most and key not in self._excluded:
                    newly_excluded.append(key)
            _write(self._memory, slot, [])
        self._excluded = [*self._excluded, *newly_excluded][-MAX_KEYS:]
        _write(self._memory, EXCLUDED_SLOT, self._excluded)
        return newly_excluded

    def forget(self) -> None:
        """Forget everything, because a new config is in use."""
        os.ftruncate(self._log, 0)
        self._while = {READING: Counter(), ANSWERING: Counter()}
        self._excluded = []
        for slot in (READING, ANSWERING, EXCLUDED_SLOT):
            _write(self._memory, slot, [])


def _anonymous() -> int:
    """A descriptor of memory, or of a file without a name where the system has no such memory."""
    try:
        return os.memfd_create("edgeloop-agent")
    except (AttributeError, OSError):
        import tempfile

        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _digest(key: str) -> bytes:
    import hashlib  # the supervisor does without: it brings OpenSSL

    return hashlib.blake2b(os.fsencode(key), digest_size=DIGEST_BYTES).digest()


def _keys(memory: int, slot: int) -> list[str]:
    length = int.from_bytes(os.pread(memory, 4, slot * SLOT_BYTES), "little")
    data = os.pread(memory, length, slot * SLOT_BYTES + 4)
    return [os.fsdecode(part) for part in data.split(b"\0") if part]


def _write(memory: int, slot: int, keys: list[str]) -> None:
    """Write with a single call: the worker may die at any moment."""
    data = b"\0".join(os.fsencode(key) for key in keys)
    while len(data) > SLOT_BYTES - 4:
        keys = keys[1:]
        data = b"\0".join(os.fsencode(key) for key in keys)
    os.pwrite(memory, len(data).to_bytes(4, "little") + data, slot * SLOT_BYTES)
