"""Work for a disk that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Errand"]


class Errand:
    """`ask` returns at once, and a thread does it. What is asked for while it is done is one more time, at the end."""

    def __init__(self, name: str, do: Callable[[], object]) -> None:
        """What `do` raises ends this errand, and the next one is done."""
        self._name, self._do = name, do
        self._lock, self._idle = threading.Lock(), threading.Event()
        self._asked = False
        self._idle.set()

    def ask(self) -> None:
        with self._lock:
            self._asked = True
            if not self._idle.is_set():
                return
            self._idle.clear()
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether all that was asked for is done, after at most `seconds`."""
        return self._idle.wait(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._asked:
                    self._idle.set()
                    return
                self._asked = False
            try:
                self._do()
            except BaseException:
                with self._lock:
                    self._idle.set()
                raise
