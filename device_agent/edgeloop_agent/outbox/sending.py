"""Brings what waits to the hub: the most valuable first, within the day's budget, until done or the other side says no."""

from __future__ import annotations

import time
from typing import Protocol

import msgspec

from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.outbox.choosing import CLASS
from edgeloop_agent.outbox.store import Outbox
from edgeloop_agent.updates.origins import Refused
from edgeloop_contract.messages import Event, Sample, Samples

BATCH_BYTES, BATCH_ROWS = 256 << 10, 100


class Receiver(Protocol):
    def samples(self, body: bytes) -> None:
        """Deliver an upload; it is safe with the hub when this returns. Raises NetworkError."""


def send(outbox: Outbox, hub: Receiver, settings: Settings, deadline: float) -> int:
    """How many rows arrived. A batch that is cut off comes again at the next turn, and the hub stores each row once.

    Raises NetworkError; what arrived before it is forgotten already. Events go even when the day's budget is spent.
    """
    done, most_rows = 0, BATCH_ROWS
    while time.monotonic() < deadline:
        left = settings.max_upload_bytes_per_day - outbox.spent_today()
        rows = outbox.batch(min(BATCH_BYTES, max(left, 1)), most_rows, 0.0 if left > 0 else CLASS["event"])
        if not rows:
            return done
        samples, events = [], []
        for row in rows:
            if row.kind == "event":
                events.append(msgspec.msgpack.decode(row.body, type=Event))
            else:
                samples.append(msgspec.msgpack.decode(row.body, type=Sample))
        body = msgspec.msgpack.encode(Samples(samples=samples, events=events))
        try:
            hub.samples(body)
        except Refused:
            if len(rows) > 1:
                most_rows = 1  # one of them is wrong: find out which
                continue
            outbox.drop(rows[0])  # it would stand in the way of all others for ever
            continue
        outbox.sent([row.key for row in rows], len(body))
        done += len(rows)
    return done
