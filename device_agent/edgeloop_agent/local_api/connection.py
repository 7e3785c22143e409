"""Connections of the local API: requests, responses and refusals, and bounded reading of their bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_LINE_BYTES = 8192
REASONS = {
    200: "OK", 303: "See Other", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 409: "Conflict", 411: "Length Required", 413: "Content Too Large", 415: "Unsupported Media Type",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}  # fmt: skip
JSON = "application/json"
RETRY_AFTER_SECONDS = 1
SMALL_BYTES = 64 << 10  # bodies that are not counted
LINGER_SECONDS, LINGER_BYTES = 2.0, 256 << 20  # read from a refused client, so that it receives the reason


class Refusal(Exception):
    """A response other than 200. `close`: the connection must be closed, because its position is unknown."""

    def __init__(self, status: int, text: str, close: bool = False, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.close, self.headers = status, close, headers or {}


@dataclass(frozen=True)
class Request:
    """`headers` by their names in lower case. `peer`: the address that asks."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | bytearray = b""
    peer: str = ""


@dataclass(frozen=True)
class Response:
    """`stream`: instead of `content`, pieces that are sent as they come, until the client leaves."""

    content: bytes = b""
    content_type: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None


def too_busy() -> Refusal:
    return Refusal(503, "too many connections; try again later", close=True, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class BodyBudget:
    """Limit of the bytes of all bodies in memory."""

    def __init__(self, most: int) -> None:
        self._left, self._changed = most, threading.Condition()

    @contextlib.contextmanager
    def reserve(self, size: int, deadline: float) -> Iterator[None]:
        """Wait until other bodies leave enough room. Raises Refusal when that takes too long."""
        size = size if size > SMALL_BYTES else 0
        with self._changed:
            if not self._changed.wait_for(lambda: self._left >= size, max(0.0, deadline - time.monotonic())):
                raise too_busy()
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


class Reader:
    """Reads a socket until a deadline, however slowly bytes come. Raises TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest, self.deadline = connection, bytearray(), 0.0

    def _wait(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)

    def line(self) -> bytes:
        """One line, or MAX_LINE_BYTES + 1 bytes of it; b"" when the client closed the connection."""
        while (end := self._rest.find(b"\n", 0, MAX_LINE_BYTES + 1)) < 0 and len(self._rest) <= MAX_LINE_BYTES:
            self._wait()
            if not (some := self._connection.recv(1 << 14)):
                end = len(self._rest) - 1
                break
            self._rest += some
        size = end + 1 if end >= 0 else min(len(self._rest), MAX_LINE_BYTES + 1)
        line = bytes(self._rest[:size])
        del self._rest[:size]
        return line

    def body(self, size: int) -> bytearray:
        content = bytearray(size)
        at = min(size, len(self._rest))
        content[:at] = self._rest[:at]
        del self._rest[:at]
        view = memoryview(content)
        while at < size:
            self._wait()
            if not (got := self._connection.recv_into(view[at:])):
                raise ConnectionError("the client left")
            at += got
        return content

    def linger(self) -> None:
        """Read and discard what still comes."""
        self.deadline, reserve = time.monotonic() + LINGER_SECONDS, 0
        while reserve < LINGER_BYTES:
            self._wait()
            if not (got := len(self._connection.recv(1 << 16))):
                return
            reserve += got


def content_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refusal(411, "send Content-Length; chunked bodies are not supported", close=True)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Refusal(411, f"Content-Length {length[:50]!r} is not a number", close=True)
    return int(length[:18]) if len(length) <= 18 else 10**18


def response_head(response: Response, close: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}",
        f"Content-Type: {response.content_type}",
        *([f"Content-Length: {len(response.content)}"] if response.stream is None else []),
        *(f"{name}: {value}" for name, value in response.headers.items()),
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
