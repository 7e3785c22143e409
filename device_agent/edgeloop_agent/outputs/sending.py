"""What delivers messages: one small protocol, for MQTT and HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgeloop_agent.outputs.messages import Message
from edgeloop_contract.manifest import Manifest

__all__ = ["Delivered", "Sender"]


class Delivered(msgspec.Struct, frozen=True):
    """`count`: messages from the first on that are settled, of these `refused` ones that the other side will never take.

    `why`: what kept the next one; "": nothing. `wait_seconds`: that the other side asked to wait. `reason`: of the refusals.
    """

    count: int
    refused: int = 0
    why: str = ""
    wait_seconds: float = 0.0
    reason: str = ""


class Sender(Protocol):
    """One connection to elsewhere. Called by one thread; every call ends in bounded time."""

    where: str  # as the log says it

    def send(self, messages: Sequence[Message]) -> Delivered: ...

    def use(self, manifest: Manifest) -> None:
        """Another model answers from now on."""

    def close(self) -> None: ...
