"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of a C library, a destructor or a
generator being collected it is printed or dropped, and the run would go on to its end; so the signal is remembered too,
and the run asks at every line of progress.
"""

from __future__ import annotations

import signal
from types import FrameType

_seen = False


def listen() -> None:
    """Remember SIGINT from now on, unless whoever started this process had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raises KeyboardInterrupt if one was asked for and did not arrive."""
    if _seen:
        raise KeyboardInterrupt


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    signal.default_int_handler(signum, frame)
