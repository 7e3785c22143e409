"""Test devices of a load: enrolled before it, and removed after it. Their names and label say what they are."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from edgeloop_contract.enrolment_tokens import MAX_AT_ONCE, EnrolmentTokens, EnrolmentTokensRequest
from edgeloop_contract.errors import NetworkError, UsageError
from edgeloop_contract.messages import Enrolled, Enrolment
from edgeloop_hub.load.connection import Address, Connection, NoAnswer, Reply, failure

LABEL = "load-test"
NAME = re.compile(r"load-[0-9a-f]{8}-[0-9]{6}")
LISTED = 500
AT_ONCE, GIVE_UP = 8, 24  # enrolments and removals under way; failed removals after which no other is tried
T = TypeVar("T")


class _Listed(msgspec.Struct):
    name: str
    labels: list[str] = []

    @property
    def is_test(self) -> bool:
        return NAME.fullmatch(self.name) is not None and LABEL in self.labels


class _Problem(msgspec.Struct):
    detail: str = ""


@dataclass
class Operator:
    """An operator's token at a hub, and connections that stay open."""

    address: Address
    token: str
    _connections: list[Connection] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: object = None, secret: str = "") -> Reply:
        """Raises NetworkError with what the hub said."""
        connection = self._connections.pop() if self._connections else Connection(self.address)
        encoded = msgspec.json.encode(body) if body is not None else None
        try:
            reply = await connection.ask(method, path, secret or self.token, encoded)
        except NoAnswer as error:
            raise failure(self.address, error) from error
        self._connections.append(connection)
        if reply.status >= 300:
            raise NetworkError(f"{self.address}{path}: {_detail(reply)}")
        return reply

    async def get(self, path: str, kind: type[T]) -> T:
        return self._decoded(path, await self.ask("GET", path), kind)

    async def post(self, path: str, body: object, kind: type[T]) -> T:
        return self._decoded(path, await self.ask("POST", path, body), kind)

    def _decoded(self, path: str, reply: Reply, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(reply.body, type=kind)
        except msgspec.MsgspecError as error:
            what = f"an answer of another form ({error}); is it a hub of this release?"
            raise NetworkError(f"{self.address}{path}: {what}") from error

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        self._connections.clear()


def _detail(reply: Reply) -> str:
    try:
        said = msgspec.json.decode(reply.body, type=_Problem).detail
    except msgspec.MsgspecError:
        said = ""
    return said or f"status {reply.status}; is this a hub, or what does the proxy before it say?"


async def check_empty(operator: Operator) -> None:
    """Raises UsageError where there are devices that are no test devices."""
    async for one in _listed(operator):
        if not one.is_test:
            raise UsageError(
                f"{operator.address}: this hub has devices, such as {one.name}, which would wait for the load; "
                "take another hub, or say why you load this one: --despite-devices WHY"
            )


async def left_over(operator: Operator) -> list[str]:
    """Test devices that earlier loads left."""
    return [one.name async for one in _listed(operator) if one.is_test]


async def _listed(operator: Operator) -> AsyncIterator[_Listed]:
    """All devices, a page at a time."""
    after = ""
    while True:
        page = await operator.get(f"/api/v1/devices?limit={LISTED}&after={after}", list[_Listed])
        for one in page:
            yield one
        if len(page) < LISTED:
            return
        after = page[-1].name


async def enrol(operator: Operator, count: int, why: str, made: dict[str, str], stop: asyncio.Event) -> None:
    """So many test devices: their credentials by name into `made`, as they come."""
    run = secrets.token_hex(4)
    names = [f"load-{run}-{i:06}" for i in range(count)]
    for begin in range(0, count, MAX_AT_ONCE):
        some = names[begin : begin + MAX_AT_ONCE]
        asked = EnrolmentTokensRequest(some, why, [LABEL])
        tokens = (await operator.post("/api/v1/tokens/enrol", asked, EnrolmentTokens)).tokens

        async def one(pair: tuple[str, str]) -> None:
            name, token = pair
            if not stop.is_set():
                enrolled = await operator.post("/api/v1/enrol", Enrolment(token=token, device=name), Enrolled)
                made[name] = enrolled.credential

        await _each(list(zip(some, tokens, strict=True)), one)


async def remove(operator: Operator, names: Sequence[str]) -> list[str]:
    """Delete these devices; returns those that are still there."""
    left: list[str] = []

    async def one(name: str) -> None:
        if len(left) >= GIVE_UP:  # nobody waits half a minute for each of thousands
            left.append(name)
            return
        try:
            await operator.ask("DELETE", f"/api/v1/devices/{name}")
        except NetworkError:
            left.append(name)

    await _each(names, one)
    return left


async def _each(waiting: Sequence[T], act: Callable[[T], Awaitable[None]]) -> None:
    """Act on each, some at once. The first failure ends it, after what is under way."""
    rest, failed = iter(waiting), list[Exception]()

    async def work() -> None:
        for one in rest:
            if failed:
                return
            try:
                await act(one)
            except Exception as error:  # said below
                failed.append(error)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    if failed:
        raise failed[0]
