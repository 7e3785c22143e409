"""Who looks on while a network is trained, and may end it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

# Run's name (project/stage), epoch, validation measure, parameters. What it raises ends the training.
Watcher = Callable[[str, int, float, int], None]
watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
