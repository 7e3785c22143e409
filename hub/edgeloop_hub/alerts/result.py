"""Why a channel did not take a message."""

from __future__ import annotations


class Unsent(Exception):
    """A later try may help. `wait`: seconds that the receiver asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(Unsent):
    """The receiver will never take this message; others may pass."""
