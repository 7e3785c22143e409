"""Beside `serve`: where ticks are late nobody else would say so. Then each of these looks does what a tick does for alerts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from edgeloop_contract.errors import EdgeloopError
from edgeloop_hub import health
from edgeloop_hub.alerts import cycle
from edgeloop_hub.alerts import settings as alert_settings
from edgeloop_hub.alerts.sender import Sender
from edgeloop_hub.hub import Hub

LOG = logging.getLogger("edgeloop_hub")
SEND_SECONDS = 5.0


@asynccontextmanager
async def beside(hub: Hub, _: Any) -> AsyncIterator[None]:
    """A thread of this worker, as long as it serves."""
    stop, sender = threading.Event(), Sender(hub.database, hub.settings.data)

    def watch() -> None:
        while not stop.wait(hub.settings.watch_seconds):
            try:
                look(hub, sender)
            except Exception as error:  # the next look tries again: nothing of this may end the worker
                LOG.warning("alerts: %s", error, exc_info=not isinstance(error, EdgeloopError))

    threading.Thread(target=watch, daemon=True, name="alerts").start()
    try:
        yield
    finally:
        stop.set()


def look(hub: Hub, sender: Sender) -> bool:
    """Whether the tick was late, and this look stood in for it. Several workers at once are safe."""
    with hub.database.reading() as connection:
        last = health.last_tick(connection)
    if last is None or time.time() - last.at <= health.LATE_SECONDS:
        return False
    told = alert_settings.load(hub.settings.data)
    if not told.channel:
        return False
    cycle.update_alerts(hub.database, hub.settings, told)
    sender.send_due(told, SEND_SECONDS)
    return True
