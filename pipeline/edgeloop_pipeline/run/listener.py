"""The interface for the progress of a run."""

from __future__ import annotations

from edgeloop_pipeline.cache.store import Entry


class Listener:
    """The interface for the progress of a run. This base class does nothing."""

    def cached(self, name: str, entry: Entry) -> None: ...
    def starts(self, name: str, reasons: list[str]) -> None: ...
    def log(self, name: str, text: str) -> None: ...
    def done(self, name: str, entry: Entry) -> None: ...
    def epoch(self, name: str, epoch: int, metric: float, parameters: int) -> None:
        """Called after each epoch of a training; `name`: project/stage. An exception from it ends the run."""
