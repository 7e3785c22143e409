"""Brings what waits to the hub: the most valuable first, within the day's budget, until done or the other side says no."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.hub_client import Refused
from edgeloop_agent.outbox.redaction import redacted_again
from edgeloop_agent.outbox.selection import PRIORITY
from edgeloop_agent.outbox.store import Outbox
from edgeloop_contract.messages import Event, Sample, Samples

BATCH_BYTES, BATCH_ROWS = 256 << 10, 100


class Receiver(Protocol):
    def samples(self, body: bytes) -> None:
        """Deliver an upload; it is safe with the hub when this returns. Raises NetworkError."""


def send(outbox: Outbox, hub: Receiver, settings: Settings, deadline: float, released: Sequence[str] = ()) -> int:
    """How many rows arrived. A batch that is cut off comes again at the next turn, and the hub stores each row once.

    `released`: recordings of which nothing is held back any more; the hub is told.
    Raises NetworkError; what arrived before it is forgotten already. Events go even when the day's budget is spent.
    """
    if settings.send != "samples":
        outbox.withdraw()  # kept when they were still allowed to leave
    done, most_rows = 0, BATCH_ROWS
    while time.monotonic() < deadline:
        left = settings.max_upload_bytes_per_day - outbox.bytes_sent_today()
        rows = outbox.batch(min(BATCH_BYTES, max(left, 1)), most_rows, 0.0 if left > 0 else PRIORITY["event"])
        if not rows and not released:
            return done
        samples, events = [], []
        for row in rows:
            try:
                if row.kind == "event":
                    events.append(msgspec.msgpack.decode(row.body, type=Event))
                else:
                    samples.append(redacted_again(msgspec.msgpack.decode(row.body, type=Sample), settings))
            except msgspec.MsgspecError:  # kept by an earlier release, beyond what a hub takes today: counted as refused
                outbox.drop(row)
        body = msgspec.msgpack.encode(Samples(samples=samples, events=events, released=list(released)))
        try:
            hub.samples(body)
        except Refused:
            if len(rows) > 1:
                most_rows = 1  # one of them is wrong: find out which
                continue
            if rows:
                outbox.drop(rows[0])  # it would stand in the way of all others for ever
            released = ()
            continue
        outbox.sent([row.key for row in rows], len(body))
        released = ()
        done += len(samples) + len(events)
    return done
