"""HTTP without the wait: small answers go out at once."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol


class Prompt(H11Protocol):
    """asyncio turns Nagle's algorithm off for sockets that it opens itself, not for those that uvicorn shares among workers.

    There each small answer, head and body, would wait 40 ms for the client's delayed ACK.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        wire = transport.get_extra_info("socket")
        if wire is not None and wire.family in (socket.AF_INET, socket.AF_INET6):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
