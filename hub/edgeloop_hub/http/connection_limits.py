"""HTTP without the wait, and without those who keep others waiting: deadlines for each request, and a ceiling of connections."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import OrderedDict
from dataclasses import dataclass

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeloop_hub.auth.client_network import network_of

ENVIRONMENT = "EDGELOOP_HUB_SETTINGS"


@dataclass(frozen=True)
class Bounds:
    """Of one worker's connections. `head`, `body`, `stall`: seconds for a request's head, its body, and a reader that stopped."""

    head: float = 15.0
    body: float = 300.0
    stall: float = 120.0
    at_once: int = 900
    at_once_of_one: int = 200


class _ConnectionSettings(msgspec.Struct):
    """The part of the hub's settings that limits connections, as serve left it in $EDGELOOP_HUB_SETTINGS."""

    request_head_seconds: float = Bounds.head
    request_body_seconds: float = Bounds.body
    answer_stall_seconds: float = Bounds.stall
    connections: int = Bounds.at_once
    connections_per_address: int = Bounds.at_once_of_one
    trusted_proxies: list[str] = []


class Prompt(H11Protocol):
    """uvicorn's protocol, with the deadlines that it lacks.

    A connection that has not sent a whole request is closed at the deadline; before it, when there are too many, the oldest such
    one makes room: whoever does send a request is answered.
    asyncio turns Nagle's algorithm off for sockets that it opens itself, not for those that uvicorn shares among workers; there
    each small answer, head and body, would wait 40 ms for the client's delayed ACK.
    """

    open_ones: OrderedDict[int, Prompt] = OrderedDict()  # of this process, in the order in which they began to wait for a request
    by_address: dict[str, int] = {}
    _bounds: Bounds | None = None
    _proxies: frozenset[str] = frozenset()
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _phase: str = ""
    _address: str = ""

    @classmethod
    def bounds(cls) -> Bounds:
        if Prompt._bounds is None:
            settings = msgspec.json.decode(os.environ.get(ENVIRONMENT, "{}"), type=_ConnectionSettings)
            Prompt._proxies = frozenset(map(network_of, settings.trusted_proxies))
            Prompt._bounds = Bounds(
                settings.request_head_seconds, settings.request_body_seconds, settings.answer_stall_seconds, settings.connections,
                settings.connections_per_address,
            )  # fmt: skip
        return Prompt._bounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        wire = transport.get_extra_info("socket")
        if wire is not None and wire.family in (socket.AF_INET, socket.AF_INET6):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        bounds = self.bounds()
        self._address = network_of(self.client[0] if self.client else "")
        many = self.by_address.get(self._address, 0)
        self.by_address[self._address] = many + 1
        self.open_ones[id(self)] = self
        if many >= bounds.at_once_of_one and self._address not in self._proxies:
            self._make_room(self._address)
        elif len(self.connections) > bounds.at_once:
            self._make_room("")
        self._wait_for("head", bounds.head)

    def _make_room(self, address: str) -> None:
        """The one that waits longest for the rest of a request goes; where all are being answered, this one."""
        waiting = (p for p in self.open_ones.values() if p.is_unfinished and (not address or p._address == address))
        (next(waiting, self)).cut()

    @property
    def is_unfinished(self) -> bool:
        return self._phase in ("head", "body", "idle")

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for("", 0)
        self._resumed()
        if self.open_ones.pop(id(self), None) is not None:
            left = self.by_address.get(self._address, 1) - 1
            if left > 0:
                self.by_address[self._address] = left
            else:
                self.by_address.pop(self._address, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        """Where this connection's request stands; each part of it has one deadline, however slowly it drips."""
        state, bounds = self.conn.their_state, self.bounds()
        if state is h11.SEND_BODY:
            self._wait_for("body", bounds.body)
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._wait_for("head", bounds.head)
        elif state is h11.IDLE:
            self._wait_for("idle", 0)  # uvicorn's own deadline holds here
        else:
            self._wait_for("", 0)

    def _wait_for(self, phase: str, seconds: float) -> None:
        if phase == self._phase and phase:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._phase = phase
        if phase and id(self) in self.open_ones:
            self.open_ones.move_to_end(id(self))
        if seconds:
            self._deadline = self.loop.call_later(seconds, self.cut)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self.bounds().stall, self.cut)

    def resume_writing(self) -> None:
        self._resumed()
        super().resume_writing()

    def _resumed(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def cut(self) -> None:
        """End it at once; nobody on the other side has a whole request on the way."""
        self._phase = ""
        if not self.transport.is_closing():
            self.transport.abort()
