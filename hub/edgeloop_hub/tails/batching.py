"""Rows of several devices, run together: as many as there are, or as come within a short wait; never a queue without end."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import EdgeloopError

WEIGHT = 0.2  # of the last batch, in the mean time a row takes


class Busy(EdgeloopError):
    """More than can be answered in time: come again after `seconds`."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


@dataclass(frozen=True)
class BatchResult:
    """One request's scores; seconds that its rows waited, and that their batch computed."""

    scores: Array
    waited: float
    computed: float


@dataclass
class _Waiting:
    rows: Array
    future: asyncio.Future[BatchResult]
    since: float
    until: float


@dataclass
class Batcher:
    """One model's queue. `run`: (N, ...) → (N, ...), called in `pool`; `max_rows` of a batch.

    `delay_seconds`: that a batch may wait for more rows, which it does only while several requests come at a time.
    `max_waiting_rows`, or more than `max_wait_seconds` of them: then the next request is told to come again.
    """

    run: Callable[[Array], Array]
    pool: Executor
    max_rows: int
    delay_seconds: float
    max_waiting_rows: int
    max_wait_seconds: float
    requests: int = 0
    batches: int = 0
    row_seconds: float = 0.0
    _queue: deque[_Waiting] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None
    _several: bool = False

    @property
    def waiting(self) -> int:
        return sum(len(w.rows) for w in self._queue)

    async def submit(self, rows: Array, seconds: float) -> BatchResult:
        """Raises Busy where the answer would come too late: after `seconds`, or because too many wait."""
        ahead = self.waiting * self.row_seconds
        if self.waiting + len(rows) > self.max_waiting_rows or ahead > min(self.max_wait_seconds, seconds):
            raise Busy(f"{self.waiting} rows wait", max(0.05, ahead))
        now = time.monotonic()
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future(), now, now + seconds)
        self._queue.append(waiting)
        self.requests += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await waiting.future

    async def _work(self) -> None:
        while self._queue:
            if self._several and self.waiting < self.max_rows:
                await asyncio.sleep(max(0.0, self._queue[0].since + self.delay_seconds - time.monotonic()))
            batch = self._take()
            if batch:
                await self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """The oldest requests of one shape, up to `max_rows` rows; those nobody waits for any more are told so."""
        taken: list[_Waiting] = []
        now = time.monotonic()
        while self._queue and (not taken or sum(len(w.rows) for w in taken) + len(self._queue[0].rows) <= self.max_rows):
            waiting = self._queue.popleft()
            if waiting.future.done():  # nobody waits for it any more
                continue
            if waiting.until < now:
                waiting.future.set_exception(Busy("the time for this request is over", self.row_seconds))
            else:
                taken.append(waiting)
        self._several = len(taken) > 1
        return taken

    async def _answer(self, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([w.rows for w in batch])
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self.pool, self.run, rows)
        except Exception as error:  # a runtime's own types: the request hears of it
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(EdgeloopError(f"the runtime failed: {type(error).__name__}: {error}"))
            return
        took = time.monotonic() - start
        self.batches += 1
        self.row_seconds += (WEIGHT if self.row_seconds else 1.0) * (took / len(rows) - self.row_seconds)
        place = 0
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_result(BatchResult(scores[place : place + len(waiting.rows)], start - waiting.since, took))
            place += len(waiting.rows)
