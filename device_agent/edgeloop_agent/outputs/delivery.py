"""Delivers one output's messages by a thread of its own: from memory while the other side is there, else by a queue on disk.

Inference only appends to a list, and waits for no disk. What is not delivered within a moment is on the disk, so that a restart
loses nothing of it; a power cut loses what came in the last second. When the queue is full, the oldest messages go, counted.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.errand import Errand
from edgeloop_agent.logs import Log, Recurring
from edgeloop_agent.metrics import Counts
from edgeloop_agent.outputs.message_queue import MessageQueue
from edgeloop_agent.outputs.messages import Message, Speaker, as_jpeg
from edgeloop_agent.outputs.sending import Delivered, Sender
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import StorageError
from edgeloop_contract.manifest import Manifest

__all__ = ["Delivery"]

WAIT_SECONDS = 0.5
BATCH = 64
MAX_PENDING = 1_000  # answers in memory; more go to the disk, and of twice as many the oldest are lost
MAX_PENDING_BYTES = 16 << 20  # of pictures in memory that are not JPEG yet
MAX_MASKS = 1 << 20  # run lengths of masks in memory
FIRST_DELAY, MAX_DELAY = 1.0, 60.0


class Pending(msgspec.Struct):
    line: AnswerLine
    picture: Array | None


class Delivery:
    """One output's thread, queue and sender. `path`: of the queue."""

    def __init__(
        self, sender: Sender, speaker: Speaker, path: Path, max_bytes: int, counts: Counts, log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._sender, self._speaker, self._counts, self._log, self._clock = sender, speaker, counts, log, clock
        where: dict[str, object] = {"where": sender.where}
        self._keeping = Recurring(log, "answers are lost: they cannot be kept", "answers that wait are kept again", where)
        self._queue = MessageQueue(path, max_bytes)
        self._tell_damage()
        if self._queue.failed:
            self._keeping.fails(self._queue.failed)
        self._pending: deque[Pending] = deque()
        self._picture_bytes = self._runs = self._gone = 0  # gone: those that found no room in memory, and are not counted yet
        self._lost = False  # some are gone since the last `sync`, because there was no room or the disk failed
        self._sent: list[Message] = []  # and still in the queue, because the disk did not let them go
        self._changed, self._storing = threading.Condition(), threading.Lock()
        self._in_hand: list[Message] = []  # being sent; `_stored`: they are in the queue too
        self._stored = True
        self._stop, self._failures, self._next_try, self._failing = False, 0, 0.0, ""
        self._new_manifest: Manifest | None = None
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._storer = Errand("output store", self._store_soon)
        counts.outputs_waiting[sender.where] = self._queue.count

    def start(self) -> None:
        self._thread.start()

    def put(self, line: AnswerLine, picture: Array | None, go_on: Callable[[], bool] | None = None) -> None:
        """Waits neither for the other side nor for the disk. `picture`: that nobody changes any more.

        Where too many wait already, the oldest go, unless `go_on` says to wait for room.
        """
        with self._changed:
            full = len(self._pending) >= MAX_PENDING or self._runs >= MAX_MASKS // 2
            while self._is_full() and go_on is not None and go_on():
                self._storer.ask()
                self._changed.wait(WAIT_SECONDS)
            if self._is_full():
                oldest = self._pending.popleft()
                self._picture_bytes -= 0 if oldest.picture is None else oldest.picture.nbytes
                self._runs -= _runs(oldest.line)
                self._gone += 1
            if picture is not None and self._picture_bytes + picture.nbytes > MAX_PENDING_BYTES:
                self._counts.dropped["picture"] += 1
                picture = None
            self._picture_bytes += 0 if picture is None else picture.nbytes
            self._runs += _runs(line)
            self._pending.append(Pending(line, picture))
            self._changed.notify()
        if full:  # the other side holds the thread up for minutes
            self._storer.ask()

    def use(self, manifest: Manifest) -> None:
        with self._changed:
            self._new_manifest = manifest
            self._changed.notify()

    def sync(self) -> bool:
        """Everything that was put is delivered or on the disk; False where some were lost since the last time."""
        with self._storing:
            self._store()
            lost, self._lost = self._lost, False
            return not lost

    def _store_soon(self) -> None:
        with self._storing:
            self._store()

    def _store(self) -> None:
        held = [] if self._stored else self._in_hand
        self._stored = True
        self._keep([*held, *self._messages(2 * MAX_PENDING)])

    def stop(self) -> None:
        """Send no more, and keep what is not delivered on the disk for the next start. Does not wait for the network."""
        with self._changed:
            self._stop = True
            self._changed.notify()
        self.sync()

    def close(self, deadline: float) -> None:
        """After `stop`. `deadline`: of `time.monotonic`, for what is being sent to arrive."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._sender.close()

    def _run(self) -> None:
        while not self._stop:
            try:
                self._step()
            except StorageError as error:  # what is in the queue stays there
                self._note(str(error))
                time.sleep(WAIT_SECONDS)
            except Exception as error:  # a fault of our own stops no other answer
                self._note(f"{type(error).__name__}: {error}")
                time.sleep(WAIT_SECONDS)

    def _step(self) -> None:
        with self._changed:
            if not self._pending and self._new_manifest is None and not self._stop:
                catching_up = self._queue.count and self._clock() >= self._next_try
                self._changed.wait(0 if catching_up else WAIT_SECONDS)
            manifest, self._new_manifest = self._new_manifest, None
        if manifest is not None:
            self._speaker.manifest = manifest
            self._sender.use(manifest)
        with self._storing:
            batch, self._stored = self._messages(BATCH), False
            due = self._clock() >= self._next_try
            if self._queue.count or not due:
                self._keep(batch)
                self._forget(self._sent)  # nothing is sent again, though the disk kept it
                batch = self._queue.first(BATCH) if due and self._queue.count else []
                self._stored = True
            self._in_hand = batch
        if not batch:
            return
        try:
            done = self._sender.send(batch)  # without a lock: `sync` does not wait for the network
        except Exception as error:  # a library's, on what it never saw: the messages wait, as for one that is away
            done = Delivered(0, why=f"{type(error).__name__}: {error}")
        with self._storing:
            self._in_hand = []
            if self._stored:
                self._forget(batch[: done.count])
            else:
                self._keep(batch[done.count :])
        self._settle(done)

    def _forget(self, sent: list[Message]) -> None:
        """Take what was delivered out of the queue. Raises StorageError, and tries again before anything else is sent."""
        self._sent = sent
        if sent:
            self._queue.remove(sent)
            self._counts.outputs_waiting[self._sender.where] = self._queue.count
        self._sent = []

    def _is_full(self) -> bool:
        return len(self._pending) >= 2 * MAX_PENDING or (bool(self._pending) and self._runs >= MAX_MASKS)

    def _settle(self, done: Delivered) -> None:
        if done.refused:
            self._counts.dropped["output"] += done.refused
            self._log("error", "messages are refused for good", where=self._sender.where, count=done.refused, why=done.reason)
        if not done.why:
            self._failures = 0
            self._note("")
            return
        self._failures = 1 if done.count else self._failures + 1
        delay = min(MAX_DELAY, FIRST_DELAY * 2 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1.0)
        self._next_try = self._clock() + max(delay, min(done.wait_seconds, MAX_DELAY))
        self._note(done.why)

    def _note(self, why: str) -> None:
        if why != self._failing:
            self._failing = why
            self._log(
                "warning" if why else "info", "output unavailable: answers wait" if why else "output available",
                where=self._sender.where, **({"why": why} if why else {}),
            )  # fmt: skip

    def _tell_damage(self) -> None:
        if self._queue.quarantined:
            why, self._queue.quarantined = self._queue.quarantined, ""
            self._log("error", "the queue of an output was damaged and is put aside", where=self._sender.where, why=why)

    def _taken(self, most: int) -> list[Pending]:
        with self._changed:
            taken = [self._pending.popleft() for _ in range(min(most, len(self._pending)))]
            self._picture_bytes -= sum(p.picture.nbytes for p in taken if p.picture is not None)
            self._runs -= sum(_runs(p.line) for p in taken)
            gone, self._gone = self._gone, 0
            self._changed.notify_all()
        if gone:
            self._lost = True
            self._counts.dropped["output"] += gone
            why = "the disk is too slow for an output: the oldest answers are lost"
            self._log("warning", why, where=self._sender.where, count=gone)
        return taken

    def _messages(self, most: int) -> list[Message]:
        return [message for message in map(self._message, self._taken(most)) if message is not None]

    def _message(self, pending: Pending) -> Message | None:
        try:
            return self._speaker.message(pending.line, as_jpeg(pending.picture))
        except ValueError as error:
            self._counts.dropped["output"] += 1
            self._log("error", "an answer is not sent", where=self._sender.where, why=error)
            return None

    def _keep(self, messages: list[Message]) -> None:
        if not messages:
            return
        try:
            gone = self._queue.put(messages)
        except StorageError as error:
            self._lost = True
            self._counts.dropped["output"] += len(messages)
            self._keeping.fails(error)
            return
        self._keeping.works()
        self._tell_damage()
        if gone:
            self._counts.dropped["output"] += gone
            self._log("warning", "queue of an output is full: the oldest answers are lost", where=self._sender.where, count=gone)
        self._counts.outputs_waiting[self._sender.where] = self._queue.count


def _runs(line: AnswerLine) -> int:
    """Of its masks: other fields are small."""
    return sum(len(mask.mask.counts) for mask in line.masks or ())
