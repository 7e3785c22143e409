"""What becomes of one recording's lines, in all files and on standard output."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Ticket"]


@dataclass
class Ticket:
    """`left`: outputs that have not had all of its lines; the last one calls `done`, from its thread. `written`: none is lost."""

    done: Callable[[bool], None]
    left: int
    written: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self) -> None:
        with self._lock:
            self.left -= 1
            last = not self.left
        if last:
            self.done(self.written)
