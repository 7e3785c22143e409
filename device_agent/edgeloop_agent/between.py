"""Changes that one thread prepares, and the inference loop makes between two recordings."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Between"]

T = TypeVar("T")


class Between:
    """Call it with a change: the loop makes it, or the caller at once where no loop runs. Returns, and raises, as the change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: int | None = None
        self._waiting: deque[Callable[[], None]] = deque()

    def __call__(self, change: Callable[[], T]) -> T:
        made, done = list[T](), threading.Event()
        failed: list[Exception] = []

        def make() -> None:
            try:
                made.append(change())
            except Exception as error:
                failed.append(error)
            done.set()

        with self._lock:
            at_once = self._loop in (None, threading.get_ident())
            if not at_once:
                self._waiting.append(make)
        if at_once:
            return change()
        done.wait()
        if failed:
            raise failed[0]
        return made[0]

    def begin(self) -> None:
        """The calling thread is the loop from now on."""
        with self._lock:
            self._loop = threading.get_ident()

    def make(self) -> None:
        """Make what waits. Called by the loop."""
        while self._waiting:
            self._waiting.popleft()()

    def end(self) -> None:
        """No loop runs any more."""
        with self._lock:
            self._loop = None
        self.make()
