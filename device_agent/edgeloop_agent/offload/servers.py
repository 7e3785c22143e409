"""What a router needs of its surroundings: the tail servers, and the weight of the device's own time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from edgeloop_agent.config import Split
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.offload.tails import Tail

__all__ = ["Servers", "device_weight"]


class Servers(Protocol):
    """What a router needs of the tail servers (`tail_servers.TailServers`)."""

    settings: Split
    counts: Counts
    log: Log
    tails: list[Tail]

    def submit(self, tail: Tail, work: Callable[[], Any]) -> Future[Any] | None: ...
    def busy(self, number: int) -> bool: ...
    def count_bytes(self, size: int) -> None: ...
    def bytes_left(self) -> float: ...
    def replan(self) -> None: ...


def device_weight(settings: Split, counts: Counts) -> float:
    """Of the device's own seconds: more while it is hot, or its battery is low."""
    battery = counts.reading.battery if counts.reading else None
    low = battery is not None and battery < settings.low_battery
    return max(settings.hot_weight if counts.thermal == "hot" else 1.0, settings.low_battery_weight if low else 1.0)
