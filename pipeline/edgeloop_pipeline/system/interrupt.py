"""Makes sure that no Ctrl-C is lost.

Python raises KeyboardInterrupt wherever the main thread is at that moment. In a callback of a C library, a destructor or a
collected generator, it is printed or dropped, and the run would continue to its end. So this module also remembers the signal,
and the run checks it at every line of progress.
"""

from __future__ import annotations

import signal
from types import FrameType

_seen = False


def listen() -> None:
    """Remember SIGINT from now on, unless this process was started with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if a SIGINT came and its exception was lost."""
    if _seen:
        raise KeyboardInterrupt


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    signal.default_int_handler(signum, frame)
