"""Requests that wait at the same time are served by one call in a thread: one round trip to the database, and one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Together(Generic[A, B]):
    """`act`: answers a list of questions, as many answers in the same order. At most `most` of them at once.

    One call at a time, or so many `calls`: where a call mostly waits for a disk, what comes meanwhile need not wait for that too.
    A call that fails is repeated for each question by itself, so that one that cannot be answered spoils no other; an error of
    the kinds `common` is everybody's at once. For one event loop.
    """

    def __init__(
        self, act: Callable[[Sequence[A]], Sequence[B]], most: int, common: tuple[type[Exception], ...] = (), calls: int = 1
    ) -> None:  # fmt: skip
        self._act, self._most, self._common, self._calls = act, most, common, calls
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._running, self._tasks = 0, set[asyncio.Task[None]]()

    async def __call__(self, question: A) -> B:
        future: asyncio.Future[B] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._running < self._calls:
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _run(self) -> None:
        try:
            await self._serve()
        finally:  # before anybody else has a turn: who comes now begins a call
            self._running -= 1

    async def _serve(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                await self._answer(now)
            except Exception as error:
                if len(now) == 1 or isinstance(error, self._common):
                    _fail(now, error)
                    continue
                for one in now:
                    try:
                        await self._answer([one])
                    except Exception as its_own:
                        _fail([one], its_own)

    async def _answer(self, asked: list[tuple[A, asyncio.Future[B]]]) -> None:
        answers = await asyncio.to_thread(self._act, [question for question, _ in asked])
        for (_, future), answer in zip(asked, answers, strict=True):
            if not future.done():  # whoever asked is still there
                future.set_result(answer)


def _fail(asked: list[tuple[A, asyncio.Future[B]]], error: Exception) -> None:
    for _, future in asked:
        if not future.done():
            future.set_exception(error)
