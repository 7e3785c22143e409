"""A small HTTP/1.1 server for the local API: bodies of known length, persistent connections.

The standard library's server takes 3 MB of memory and half of a small model's time to parse headers as mail headers. This one
parses by RFC 9112 and refuses the rest. Threads, connections and bytes are bounded; each request has a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import select
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from edgeloop_agent.local_api.connection import (  # fmt: skip
    MAX_LINE_BYTES,
    BodyBudget,
    Reader,
    Refusal,
    Request,
    Response,
    content_length,
    response_head,
    too_busy,
)

MAX_HEADERS = 100
METHODS = ("GET", "HEAD", "POST")
KNOWN_METHODS = frozenset((*METHODS, "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"))
RESERVED = 4  # connections beside the bounded ones: for health checks, and to refuse other requests
RESERVED_PATIENCE_SECONDS = 0.1  # a health check is one small packet
PATIENCE_SECONDS = 1.0  # a slower client loses its slot if a new one needs it
OWN_FILES = 48  # that the agent itself may have open beside connections: models, queues, sources
FULL_SECONDS = 0.1  # before another attempt to accept, where the system has no file to spare
MAX_BODIES = 1  # of the largest size, in memory at once


@dataclass(frozen=True)
class Bounds:
    max_body_bytes: int
    connections: int
    timeout_seconds: float


@dataclass(frozen=True)
class Handlers:
    """What the server serves.

    `admit`: returns how many bytes a request's body may have. It and `answer` may raise Refusal, which `render_refusal` makes a
    response of. `is_health_path`: whether a path is a health check. `count_status`: called with every response's status.
    """

    admit: Callable[[Request], int]
    answer: Callable[[Request], Response]
    render_refusal: Callable[[Refusal], Response]
    is_health_path: Callable[[str], bool]
    count_status: Callable[[int], None]


def affordable(connections: int) -> int:
    """As many connections as the process may have beside its own files (`ulimit -n`): no caller takes files from the source."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if soft == resource.RLIM_INFINITY else max(1, min(connections, soft - OWN_FILES - RESERVED))


class Server(socketserver.ThreadingTCPServer):
    """Answers in threads. When all slots are used, a new connection replaces one that keeps us waiting, or is refused with 503."""

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], bounds: Bounds, handlers: Handlers) -> None:
        """Raises OSError when the address is taken."""
        self.bounds, self.handlers = bounds, handlers
        self._slots = threading.BoundedSemaphore(bounds.connections)
        self._reserved = threading.BoundedSemaphore(RESERVED)
        self.open: set[_Connection] = set()
        self.stopping = False
        self.bodies = BodyBudget(MAX_BODIES * bounds.max_body_bytes)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)  # type: ignore[arg-type]

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.5}, name="api", daemon=True).start()

    def shutdown(self) -> None:
        self.stopping = True
        super().shutdown()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(FULL_SECONDS)  # it would be tried again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        slot = self._slots if self._take_slot(reserved=False) else self._reserved if self._take_slot(reserved=True) else None
        if slot is None:
            self._refuse_busy(request)
            return
        threading.Thread(target=self._serve, args=(request, client_address, slot), daemon=True).start()

    def _serve(self, request: Any, client_address: Any, slot: threading.Semaphore) -> None:
        try:
            _Connection(request, client_address, self, slot is self._reserved)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)
            slot.release()

    def _take_slot(self, reserved: bool) -> bool:
        """Take a slot; if none is free, close the connection that has kept us waiting longest, if that is long enough."""
        slots, patience = (self._reserved, RESERVED_PATIENCE_SECONDS) if reserved else (self._slots, PATIENCE_SECONDS)
        if slots.acquire(blocking=False):
            return True
        long_ago = time.monotonic() - patience
        waiting = [(c.waits_since, c) for c in list(self.open) if c.reserved == reserved and c.waits_since < long_ago]
        if not waiting:
            return False
        with contextlib.suppress(OSError):
            min(waiting, key=lambda each: each[0])[1].connection.shutdown(socket.SHUT_RDWR)
        return slots.acquire(timeout=0.2)

    def _refuse_busy(self, request: Any) -> None:
        busy = self.handlers.render_refusal(too_busy())
        self.handlers.count_status(busy.status)
        with contextlib.suppress(OSError):
            request.settimeout(1)
            request.sendall(response_head(busy, close=True) + busy.content)
        self.shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore broken connections; anything else is a bug here."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(socketserver.BaseRequestHandler):
    server: Server

    def __init__(self, request: Any, client_address: Any, server: Server, reserved: bool) -> None:
        self.connection, self.reserved = request, reserved
        self.waits_since = time.monotonic()  # since when we wait for the client; infinity while it waits for us
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        """Serve requests until the client leaves, is silent for too long, or sends something malformed."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.reader = Reader(self.connection)
        self.server.open.add(self)
        try:
            with contextlib.suppress(OSError):
                while self._serve_one() and not self.reserved:
                    pass
        finally:
            self.server.open.discard(self)

    def _serve_one(self) -> bool:
        """Serve one request; whether another may follow."""
        seconds = PATIENCE_SECONDS if self.reserved else self.server.bounds.timeout_seconds
        self.waits_since = time.monotonic()
        self.reader.deadline = self.waits_since + seconds
        line = self.reader.line()
        if not line:
            return False
        self.reader.deadline = time.monotonic() + seconds  # of the whole request, from its first line on
        keep, method, render_refusal = False, "", False
        try:
            method, path, keep, headers = self._head(line)
            keep = keep and headers.get("connection", "").lower() != "close"
            if self.reserved and not self.server.handlers.is_health_path(path):
                raise too_busy()
            response = self._answer(Request(method, path, headers, peer=str(self.client_address[0])))
        except Refusal as refusal:
            response, keep, render_refusal = self.server.handlers.render_refusal(refusal), keep and not refusal.close, refusal.close
        self.server.handlers.count_status(response.status)
        self.waits_since = time.monotonic()  # until it takes the response
        self.connection.settimeout(self.server.bounds.timeout_seconds)
        if response.stream is not None:
            self._send_stream(response, response.stream, method)
            return False
        self.connection.sendall(
            response_head(response, close=not keep or self.reserved) + (b"" if method == "HEAD" else response.content)
        )
        if render_refusal:
            self.connection.shutdown(socket.SHUT_WR)
            self.reader.linger()
        return keep

    def _send_stream(self, response: Response, stream: Iterator[bytes], method: str) -> None:
        """Send pieces as they come; empty ones only look whether the client is still there.

        A client that does not take them for `timeout_seconds` is left.
        """
        with contextlib.closing(stream):  # type: ignore[type-var]
            piece = next(stream, None)  # before anything can fail: only a stream that has begun gives back what it holds
            self.connection.sendall(response_head(response, close=True))
            while piece is not None and method != "HEAD" and not self.server.stopping:
                if piece:
                    self.waits_since = time.monotonic()
                    self.connection.sendall(piece)
                elif self._has_left():
                    return
                self.waits_since = float("inf")
                piece = next(stream, None)

    def _has_left(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)  # recv waits for its timeout, whatever its flags say
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _answer(self, request: Request) -> Response:
        size, most = content_length(request.headers), self.server.bounds.max_body_bytes
        try:
            most = min(most, self.server.handlers.admit(request))
        except Refusal as refusal:  # its body is not read
            refusal.close = refusal.close or size > 0
            raise
        if size > most:
            raise Refusal(413, f"a body of {size} bytes; at most {most} are read here", close=True)
        with self.server.bodies.reserve(size, self.reader.deadline):
            if size and request.headers.get("expect", "").lower() == "100-continue":
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = self.reader.body(size)
            self.waits_since = float("inf")
            return self.server.handlers.answer(replace(request, body=body))

    def _head(self, line: bytes) -> tuple[str, str, bool, dict[str, str]]:
        """Method, path, whether the protocol keeps the connection, and the headers."""
        words = line.decode("latin-1").rstrip("\r\n").split(" ")
        if len(line) > MAX_LINE_BYTES or len(words) != 3 or not words[2].startswith("HTTP/"):
            raise Refusal(400, "not an HTTP request", close=True)
        method, path, protocol = words
        if protocol not in ("HTTP/1.1", "HTTP/1.0"):
            raise Refusal(505, f"{protocol[:20]}: only HTTP/1.1 and 1.0 are supported", close=True)
        headers = self._headers()
        if method not in KNOWN_METHODS:
            raise Refusal(501, f"{method[:20]}: only {', '.join(METHODS)} are supported", close=True)
        if "host" not in headers and protocol == "HTTP/1.1":
            raise Refusal(400, "the header Host is missing; HTTP/1.1 needs it", close=True)
        return method, path.partition("?")[0], protocol == "HTTP/1.1", headers

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            line = self.reader.line()
            if len(line) > MAX_LINE_BYTES:
                raise Refusal(431, f"a header line of more than {MAX_LINE_BYTES} bytes", close=True)
            if line in (b"\r\n", b"\n"):
                return headers
            name, colon, value = line.decode("latin-1").partition(":")
            name = name.lower()
            if not colon or not name or name != name.strip():
                raise Refusal(400, "malformed header line", close=True)
            if name in headers and name in ("content-length", "host", "origin", "transfer-encoding", "content-encoding"):
                raise Refusal(400, f"the header {name} occurs twice", close=True)
            headers[name] = value.strip()
        raise Refusal(431, f"more than {MAX_HEADERS} headers", close=True)
