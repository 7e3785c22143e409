"""Watchers of a training: called after each epoch, they may end it."""

from __future__ import annotations

from collections.abc import Callable

# The run's name (project/stage), epoch, validation metric, parameters. An exception from it ends the training.
Watcher = Callable[[str, int, float, int], None]


def unwatched(name: str, epoch: int, metric: float, parameters: int) -> None:
    """The default watcher: does nothing."""
