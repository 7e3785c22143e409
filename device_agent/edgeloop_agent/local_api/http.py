"""As much of an HTTP/1.1 server as a local API needs: bodies of known length, connections that stay open.

The standard library's takes 3 MB of memory and half of a small model's time for the mail headers of its requests; this reads them
as RFC 9112 has them and refuses what is not so. Threads, connections and bytes are bounded; a request as a whole has a deadline.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeloop_agent.local_api.connection import (  # fmt: skip
    MAX_LINE_BYTES,
    Budget,
    Reader,
    Refusal,
    Request,
    Response,
    head_of,
    length_of,
    too_busy,
)

MAX_HEADERS = 100
METHODS = ("GET", "HEAD", "POST")
KNOWN = frozenset((*METHODS, "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"))
SPARE = 4  # connections beside the bounded ones: for what only asks how the agent is, and to tell the others to come again
SPARE_PATIENCE_SECONDS = 0.1  # such a question is one small packet
PATIENCE_SECONDS = 1.0  # a client that is slower than this gives its place to one that finds none
BODIES = 2  # of the largest size, that may be in memory at once


@dataclass(frozen=True)
class Bounds:
    max_body_bytes: int
    connections: int
    timeout_seconds: float


@dataclass(frozen=True)
class Answers:
    """What is served. `admit` sees a request before its body and says how many bytes that may have; it and `answer` may raise
    Refusal, which `refused` puts into words. `idle`: whether a path only asks how the agent is. `count` hears of every status.
    """

    admit: Callable[[Request], int]
    answer: Callable[[Request], Response]
    refused: Callable[[Refusal], Response]
    idle: Callable[[str], bool]
    count: Callable[[int], None]


class Server(socketserver.ThreadingTCPServer):
    """Answers in threads. One connection too many takes the place of one that lets us wait, or is told to come again."""

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], bounds: Bounds, answers: Answers) -> None:
        """Raises OSError when the address is taken."""
        self.bounds, self.answers = bounds, answers
        self._places = threading.BoundedSemaphore(bounds.connections)
        self._spare = threading.BoundedSemaphore(SPARE)
        self.open: set[_Connection] = set()
        self.bodies = Budget(BODIES * bounds.max_body_bytes)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)  # type: ignore[arg-type]

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.5}, name="api", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        place = self._places if self._place(spare=False) else self._spare if self._place(spare=True) else None
        if place is None:
            self._come_again(request)
            return
        threading.Thread(target=self._serve, args=(request, client_address, place), daemon=True).start()

    def _serve(self, request: Any, client_address: Any, place: threading.Semaphore) -> None:
        try:
            _Connection(request, client_address, self, place is self._spare)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)
            place.release()

    def _place(self, spare: bool) -> bool:
        """One of the places is taken; if need be, that of the connection that lets us wait the longest, if that is long enough."""
        places, patience = (self._spare, SPARE_PATIENCE_SECONDS) if spare else (self._places, PATIENCE_SECONDS)
        if places.acquire(blocking=False):
            return True
        long_ago = time.monotonic() - patience
        waiting = [(c.waits_since, c) for c in list(self.open) if c.spare == spare and c.waits_since < long_ago]
        if not waiting:
            return False
        with contextlib.suppress(OSError):
            min(waiting, key=lambda each: each[0])[1].connection.shutdown(socket.SHUT_RDWR)
        return places.acquire(timeout=0.2)

    def _come_again(self, request: Any) -> None:
        busy = self.answers.refused(too_busy())
        self.answers.count(busy.status)
        with contextlib.suppress(OSError):
            request.settimeout(1)
            request.sendall(head_of(busy, close=True) + busy.content)
        self.shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is not worth a word; anything else is a mistake of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(socketserver.BaseRequestHandler):
    server: Server

    def __init__(self, request: Any, client_address: Any, server: Server, spare: bool) -> None:
        self.connection, self.spare = request, spare
        self.waits_since = time.monotonic()  # for the client; infinity while it waits for us
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        """Request after request, until the client leaves, is silent for too long, or sends what cannot be understood."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.reader = Reader(self.connection)
        self.server.open.add(self)
        try:
            with contextlib.suppress(OSError):
                while self._one() and not self.spare:
                    pass
        finally:
            self.server.open.discard(self)

    def _one(self) -> bool:
        """One request; whether another may follow."""
        seconds = PATIENCE_SECONDS if self.spare else self.server.bounds.timeout_seconds
        self.waits_since = time.monotonic()
        self.reader.deadline = self.waits_since + seconds
        line = self.reader.line()
        if not line:
            return False
        self.reader.deadline = time.monotonic() + seconds  # of the whole request, from its first line on
        keep, method, refused = False, "", False
        try:
            method, path, keep, headers = self._head(line)
            keep = keep and headers.get("connection", "").lower() != "close"
            if self.spare and not self.server.answers.idle(path):
                raise too_busy()
            response = self._answer(Request(method, path, headers))
        except Refusal as refusal:
            response, keep, refused = self.server.answers.refused(refusal), keep and not refusal.close, refusal.close
        self.server.answers.count(response.status)
        self.waits_since = time.monotonic()  # for it to take the answer
        self.connection.settimeout(self.server.bounds.timeout_seconds)
        self.connection.sendall(head_of(response, close=not keep or self.spare) + (b"" if method == "HEAD" else response.content))
        if refused:
            self.connection.shutdown(socket.SHUT_WR)
            self.reader.linger()
        return keep

    def _answer(self, request: Request) -> Response:
        size, most = length_of(request.headers), self.server.bounds.max_body_bytes
        try:
            most = min(most, self.server.answers.admit(request))
        except Refusal as refusal:  # its body stays unread
            refusal.close = refusal.close or size > 0
            raise
        if size > most:
            raise Refusal(413, f"a body of {size} bytes; at most {most} are read here", close=True)
        with self.server.bodies.taken(size, self.reader.deadline):
            if size and request.headers.get("expect", "").lower() == "100-continue":
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = self.reader.body(size)
            self.waits_since = float("inf")
            return self.server.answers.answer(Request(request.method, request.path, request.headers, body))

    def _head(self, line: bytes) -> tuple[str, str, bool, dict[str, str]]:
        """Method, path, whether the protocol keeps the connection, and the headers."""
        words = line.decode("latin-1").rstrip("\r\n").split(" ")
        if len(line) > MAX_LINE_BYTES or len(words) != 3 or not words[2].startswith("HTTP/"):
            raise Refusal(400, "not an HTTP request", close=True)
        method, path, protocol = words
        if protocol not in ("HTTP/1.1", "HTTP/1.0"):
            raise Refusal(505, f"{protocol[:20]}: only HTTP/1.1 and 1.0 are spoken", close=True)
        headers = self._headers()
        if method not in KNOWN:
            raise Refusal(501, f"{method[:20]}: only {', '.join(METHODS)} are understood", close=True)
        if "host" not in headers and protocol == "HTTP/1.1":
            raise Refusal(400, "a request without Host; HTTP/1.1 has one", close=True)
        return method, path.partition("?")[0], protocol == "HTTP/1.1", headers

    def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            line = self.reader.line()
            if len(line) > MAX_LINE_BYTES:
                raise Refusal(431, f"a header line of more than {MAX_LINE_BYTES} bytes", close=True)
            if line in (b"\r\n", b"\n"):
                return found
            name, colon, value = line.decode("latin-1").partition(":")
            name = name.lower()
            if not colon or not name or name != name.strip():
                raise Refusal(400, "a header that is none", close=True)
            if name in found and name in ("content-length", "host", "origin", "transfer-encoding", "content-encoding"):
                raise Refusal(400, f"two headers {name}", close=True)
            found[name] = value.strip()
        raise Refusal(431, f"more than {MAX_HEADERS} headers", close=True)
