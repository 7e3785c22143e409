"""Sends the outbox to the hub, the most valuable rows first, within the budget of the day."""

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
    """Send rows until `deadline`; returns how many arrived. A batch that is cut off is sent again; the hub stores each row once.

    `released`: recordings whose context samples are no longer held back; the hub is told.
    Raises NetworkError; rows that arrived before it are deleted already. Events are sent even without budget.
    """
    if settings.send != "samples":
        outbox.withdraw()  # they were kept while sending was still allowed
    done, most_rows, bare = 0, BATCH_ROWS, ""  # bare: the key of a sample that goes without its answer
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
                    sample = redacted_again(msgspec.msgpack.decode(row.body, type=Sample), settings)
                    samples.append(msgspec.structs.replace(sample, answer=None) if row.key == bare else sample)
            except msgspec.MsgspecError:  # written by an earlier release, and no longer valid: counted as refused
                outbox.drop(row)
        body = msgspec.msgpack.encode(Samples(samples=samples, events=events, released=list(released)))
        try:
            hub.samples(body)
        except Refused:
            if len(rows) > 1:
                most_rows = 1  # one row is wrong: find out which
                continue
            if samples and samples[0].answer is not None:
                bare = rows[0].key  # an earlier hub may not know all that an answer says
                continue
            if rows:
                outbox.drop(rows[0])  # it would block all others for ever
            released = ()
            continue
        outbox.sent([row.key for row in rows], len(body))
        if rows and rows[0].key == bare:
            outbox.count_bare()
        released = ()
        done += len(samples) + len(events)
    return done
