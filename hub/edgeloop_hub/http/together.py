"""Requests that wait at the same time are served by one call in a thread: one round trip to the database, and one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Together(Generic[A, B]):
    """`act`: answers a list of questions, as many answers in the same order. At most `most` of them at once, one call at a time.

    A call that fails is repeated for each question by itself, so that one that cannot be answered spoils no other; an error of
    the kinds `common` is everybody's at once. For one event loop.
    """

    def __init__(
        self, act: Callable[[Sequence[A]], Sequence[B]], most: int, common: tuple[type[Exception], ...] = ()
    ) -> None:  # fmt: skip
        self._act, self._most, self._common = act, most, common
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, question: A) -> B:
        future: asyncio.Future[B] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
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
