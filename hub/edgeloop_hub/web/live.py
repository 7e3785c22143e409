"""A stream of server-sent events that says when something changed; pages then read themselves again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.response import Stream
from sqlalchemy import func, select

from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.schema import events, facts, rollouts
from edgeloop_hub.web.page import ERROR_PAGES, asset, is_person

LOOK_SECONDS = 5.0  # between two looks of a worker, however many people look
STREAM_SECONDS = 300.0  # then the browser asks again, and its session is checked again
MAX_STREAMS = 100  # of a worker; more people reload by hand


@get("/live.js", sync_to_thread=False, include_in_schema=False)
def script() -> Response[bytes]:
    return asset("live.js", "text/javascript")


class Changes:
    """What the last look saw, shared by the streams of a worker."""

    def __init__(self) -> None:
        self.streams = 0
        self._seen, self._looked, self._lock = "", 0.0, asyncio.Lock()

    async def seen(self, database: Database) -> str:
        """A text that differs whenever something on the pages does."""
        async with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS - 0.5:
                self._seen = await asyncio.to_thread(look, database)
                self._looked = time.monotonic()
            return self._seen


def look(database: Database) -> str:
    times = (device_states.c.seen, events.c.at, facts.c.at)
    states = select(rollouts.c.id, rollouts.c.state, rollouts.c.step, rollouts.c.reason).order_by(rollouts.c.id.desc()).limit(20)
    with database.reading() as connection:
        newest = [connection.execute(select(func.max(column))).scalar() for column in times]
        return repr((newest, connection.execute(states).all()))


async def stream(changes: Changes, database: Database) -> AsyncIterator[str]:
    changes.streams += 1
    try:
        last, ends = await changes.seen(database), time.monotonic() + STREAM_SECONDS
        yield "retry: 3000\n\n"
        while time.monotonic() < ends:
            await asyncio.sleep(LOOK_SECONDS)
            now = await changes.seen(database)
            yield "event: changed\ndata: \n\n" if now != last else ": nothing new\n\n"
            last = now
    finally:
        changes.streams -= 1


class Live(Controller):
    """Behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/live")
    async def live(self, state: State) -> Response[None] | Stream:
        changes: Changes = state.changes
        if changes.streams >= MAX_STREAMS:
            return Response(None, status_code=204)  # the browser asks no more
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(stream(changes, state.hub.database), media_type="text/event-stream", headers=headers)


HANDLERS = (script, Live)
