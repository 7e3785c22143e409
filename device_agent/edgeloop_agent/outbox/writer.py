"""Writes chosen samples and events to the outbox in a thread of its own: a slow disk must not stop inference."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.drift.monitor import DriftObservation
from edgeloop_agent.logs import Recurring
from edgeloop_agent.outbox.redaction import packed, redacted
from edgeloop_agent.outbox.selection import PRIORITY, Doubt, SampleChoice, SampleSelector
from edgeloop_agent.outbox.store import FILE, Outbox, Row, outbox_path
from edgeloop_contract.annotations import Annotation
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import StorageError
from edgeloop_contract.messages import Event, NamedArray, Sample

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts

MAX_QUEUED, MAX_QUEUED_BYTES = 64, 16 << 20  # in memory; context samples may use half of it, so that chosen samples find room
CONTEXT_BATCH, CONTEXT_SECONDS = 32, 5.0  # so many context samples, or those of that time, are one commit: commits wear out flash


class OutboxWriter:
    """`sample` and `event` return at once; what finds no room in the queue is counted and lost."""

    def __init__(self, settings: Settings, state: Path, counts: Counts, log: Log) -> None:
        self.settings, self.counts, self.log = settings, counts, log
        generator = random.Random()
        self._choose = SampleSelector(
            settings.random_share, settings.uncertain_share, settings.max_per_hour, generator.random, time.monotonic
        )  # fmt: skip
        self._writing = Recurring(log, "samples are lost", "samples are kept again")
        self.outbox = Outbox(outbox_path(state), settings.max_bytes, context_bytes=settings.context_bytes, at_once=False)
        self._tell_damage()
        if self.outbox.failed:
            self._writing.fails(self.outbox.failed)
        self._queue: deque[Event | tuple[Sample, list[Array]]] = deque()
        self._context: deque[tuple[Sample, list[Array]]] = deque()
        self._bytes = 0  # of samples in both
        self._changed, self._stopped = threading.Condition(), False
        self._thread = threading.Thread(target=self._write, name="outbox", daemon=True)
        self._thread.start()

    def use_reliability(self, reliability: Sequence[Sequence[float]]) -> None:
        """Choose by another bundle's reliability from now on."""
        self._choose.start_from(reliability)

    def sample(
        self,
        recording: str,
        window: int,
        sample: Array | Mapping[str, Array],
        prediction: str,
        observation: DriftObservation,
        truth: str,
        model: str,
        sha256: str,
        doubt: Doubt | None = None,
        answer: Callable[[], Annotation | None] = lambda: None,
    ) -> None:
        """Consider one answered sample (1, *sample), by input where there are several.

        `doubt`: where it is not 1 - the confidence. `answer`: asked for where a person may correct it.
        """
        if self.settings.send != "samples":
            return
        sure, total = (observation.confidence, None) if doubt is None else (1 - doubt.most, doubt.total)
        choice = self._choose(observation.features, sure, observation.drifting, truth == prediction if truth else None, total)
        if choice is None:
            if not self.settings.context_bytes:
                return
            choice = SampleChoice("rest", PRIORITY["rest"], False)
        given = sample if isinstance(sample, Mapping) else {"": sample}
        arrays = {name: redacted(values[0], self.settings) for name, values in given.items()}
        first, *others = (
            NamedArray(name=name[:200], dtype=str(values.dtype), shape=list(values.shape))  # type: ignore[arg-type]
            for name, values in arrays.items()
        )
        answered = None if choice.kind == "rest" else answer()
        size = sum(values.nbytes for values in arrays.values()) + _memory_of(answered)
        key = secrets.token_hex(16)
        kept = Sample(
            key=key, at=time.time(), kind=choice.kind, model=model, sha256=sha256, recording=recording[:200], window=window,  # type: ignore[arg-type]
            random=choice.random, guess=prediction[:200], confidence=round(min(max(observation.confidence, 0.0), 1.0), 6),
            features=[round(float(f), 3) for f in np.clip(observation.features[:100], -99, 99)], value=round(choice.value, 4),
            truth=truth[:200], dtype=first.dtype, shape=first.shape, input=first.name, others=others,
            answer=answered,
        )  # fmt: skip
        with self._changed:
            queue, share = (self._context, 0.5) if choice.kind == "rest" else (self._queue, 1.0)
            if len(queue) >= MAX_QUEUED or (self._bytes and self._bytes + size > share * MAX_QUEUED_BYTES):
                self.counts.dropped["outbox"] += 1
                return
            queue.append((kept, list(arrays.values())))
            self._bytes += size
            self._changed.notify_all()

    def event(self, event: Event) -> None:
        with self._changed:
            if len(self._queue) >= MAX_QUEUED:
                self.counts.dropped["outbox"] += 1
                return
            self._queue.append(event)
            self._changed.notify_all()

    def stop(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(5)

    def _write(self) -> None:
        due = 0.0  # when context samples must be written
        while True:
            with self._changed:
                while not self._queue and not self._stopped and len(self._context) < CONTEXT_BATCH:
                    left = due - time.monotonic() if self._context else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                taken = [*self._queue, *self._context]
                if not taken:
                    return
                self._queue.clear()
                self._context.clear()
                self._bytes = 0
                due = time.monotonic() + CONTEXT_SECONDS
            rows = [_row(one) for one in taken]
            try:
                self.outbox.put(rows)
                self.counts.outbox_rows.update(row.kind for row in rows)
                self._writing.works()
                self._tell_damage()
            except StorageError as error:
                self.counts.dropped["outbox"] += len(rows)
                self._writing.fails(error)

    def _tell_damage(self) -> None:
        if self.outbox.quarantined:
            why, self.outbox.quarantined = self.outbox.quarantined, ""
            self.log("error", "outbox damaged", why=why, kept_as=f"{FILE}.damaged")


def _memory_of(answer: Annotation | None) -> int:
    """About how many bytes the answer takes while it waits."""
    if answer is None:
        return 0
    runs = [mask.counts for mask in answer.masks or []] + [box.mask.counts for box in answer.boxes or [] if box.mask is not None]
    return 300 * len(answer.boxes or []) + 36 * sum(map(len, runs)) + 32 * len(answer.values or [])


def _row(one: Event | tuple[Sample, list[Array]]) -> Row:
    if isinstance(one, Event):
        return Row(one.key, "event", PRIORITY["event"], msgspec.msgpack.encode(one))
    sample, arrays = one
    level = 1 if sample.kind == "rest" else 6  # most samples are context samples, and seldom sent
    first, *others = (packed(values, level) for values in arrays)
    named = [msgspec.structs.replace(each, data=data) for each, data in zip(sample.others, others, strict=True)]
    body = msgspec.msgpack.encode(msgspec.structs.replace(sample, data=first, others=named))
    return Row(sample.key, sample.kind, sample.value, body, sample.recording)
