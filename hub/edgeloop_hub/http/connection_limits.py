"""Deadlines for each part of a request, and a ceiling of connections, so that no client keeps others waiting."""

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

STREAM = "/live"  # the path of a stream of events
ENVIRONMENT = "EDGELOOP_HUB_SETTINGS"


@dataclass(frozen=True)
class ConnectionLimits:
    """Of one worker's connections. `head`, `body`, `stall`: seconds for a request's head, its body, and a reader that stopped."""

    head: float = 15.0
    body: float = 300.0
    stall: float = 120.0
    at_once: int = 900
    at_once_of_one: int = 200


class _ConnectionSettings(msgspec.Struct):
    """The part of the hub's settings that limits connections, as serve left it in $EDGELOOP_HUB_SETTINGS."""

    request_head_seconds: float = ConnectionLimits.head
    request_body_seconds: float = ConnectionLimits.body
    answer_stall_seconds: float = ConnectionLimits.stall
    connections: int = ConnectionLimits.at_once
    connections_per_address: int = ConnectionLimits.at_once_of_one
    trusted_proxies: list[str] = []


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol, with the deadlines that it lacks.

    A connection that has not sent a whole request is closed at the deadline; before it, when there are too many, the oldest such
    one makes room: whoever does send a request is answered.
    asyncio turns Nagle's algorithm off for sockets that it opens itself, not for those that uvicorn shares among workers; there
    each small answer, head and body, would wait 40 ms for the client's delayed ACK.
    """

    open_connections: OrderedDict[int, LimitedProtocol] = OrderedDict()  # of this process, by how long they wait
    by_address: dict[str, int] = {}
    _limits: ConnectionLimits | None = None
    _proxies: frozenset[str] = frozenset()
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _phase: str = ""
    _address: str = ""

    @classmethod
    def limits(cls) -> ConnectionLimits:
        if LimitedProtocol._limits is None:
            settings = msgspec.json.decode(os.environ.get(ENVIRONMENT, "{}"), type=_ConnectionSettings)
            LimitedProtocol._proxies = frozenset(map(network_of, settings.trusted_proxies))
            LimitedProtocol._limits = ConnectionLimits(
                settings.request_head_seconds, settings.request_body_seconds, settings.answer_stall_seconds, settings.connections,
                settings.connections_per_address,
            )  # fmt: skip
        return LimitedProtocol._limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        wire = transport.get_extra_info("socket")
        if wire is not None and wire.family in (socket.AF_INET, socket.AF_INET6):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        limits = self.limits()
        self._address = network_of(self.client[0] if self.client else "")
        many = self.by_address.get(self._address, 0)
        self.by_address[self._address] = many + 1
        self.open_connections[id(self)] = self
        if many >= limits.at_once_of_one and self._address not in self._proxies:
            self._make_room(self._address)
        elif len(self.connections) > limits.at_once:
            self._make_room("")
        self._wait_for("head", limits.head)

    def _make_room(self, address: str) -> None:
        """Close the connection that waits longest for the rest of its request; where all are being answered, this one."""
        waiting = (p for p in self.open_connections.values() if p.is_unfinished and (not address or p._address == address))
        (next(waiting, self)).cut()

    @property
    def is_unfinished(self) -> bool:
        return self._phase in ("head", "body", "idle")

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for("", 0)
        self._resumed()
        if self.open_connections.pop(id(self), None) is not None:
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
        """Set the deadline for the part of the request that this connection waits for, however slowly its bytes come."""
        state, limits = self.conn.their_state, self.limits()
        if state is h11.SEND_BODY:
            self._wait_for("body", limits.body)
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._wait_for("head", limits.head)
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
        if phase and id(self) in self.open_connections:
            self.open_connections.move_to_end(id(self))
        if seconds:
            self._deadline = self.loop.call_later(seconds, self.cut)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self.limits().stall, self.cut)

    def resume_writing(self) -> None:
        self._resumed()
        super().resume_writing()

    def _resumed(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def shutdown(self) -> None:
        """The hub stops: a stream of events would never end by itself."""
        super().shutdown()
        if self.cycle is not None and self.cycle.scope["path"] == STREAM and not self.cycle.response_complete:
            self.cut()

    def cut(self) -> None:
        """Close the connection at once; no whole request is on the way."""
        self._phase = ""
        if not self.transport.is_closing():
            self.transport.abort()
