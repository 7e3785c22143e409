"""`edgeloop-hub tick --every SECONDS`: ticks until it is told to stop. Beside cron's ticks, or another service's, it is safe."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from edgeloop_contract.errors import EdgeloopError
from edgeloop_hub.tick import TickOutcome


def stop_event() -> threading.Event:
    """Set by SIGTERM or SIGINT: the tick that runs ends, and no other begins."""
    stop = threading.Event()

    def told(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    return stop


def run_every(seconds: float, once: Callable[[], TickOutcome], stop: threading.Event, say: Callable[[str], None]) -> None:
    """Tick, and again so many seconds after the last one began; at once where that took longer, and never twice for a missed one.

    What a tick cannot do is said when it is new. The next tick tries again: a database that is away for an hour ends nothing.
    """
    said: list[str] = []
    while not stop.is_set():
        began = time.monotonic()
        try:
            outcome = once()
            lines, problems = outcome.actions, outcome.problems
        except EdgeloopError as error:
            lines, problems = [], [str(error)]
        for line in [*lines, *(f"problem: {problem}" for problem in problems if problem not in said)]:
            say(line)
        said = problems
        stop.wait(max(0.0, began + seconds - time.monotonic()))
