"""As much of an HTTP/1.1 server as a local API needs: GET and POST, bodies of known length, connections that stay open.

The standard library's takes 3 MB of memory and half of a small model's time for the mail headers of its requests; this reads them
as RFC 9112 has them and refuses what is not so. Threads and connections are bounded, and every read has a deadline.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_LINE_BYTES, MAX_HEADERS = 8192, 100
METHODS = ("GET", "POST")
REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 411: "Length Required", 413: "Content Too Large",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}  # fmt: skip
JSON = "application/json"


class Refusal(Exception):
    """An answer other than 200. `close`: what follows on the connection cannot be understood any more."""

    def __init__(self, status: int, text: str, close: bool = False) -> None:
        super().__init__(text)
        self.status, self.close = status, close


@dataclass(frozen=True)
class Request:
    """`headers` by their names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    content: bytes = b""
    kind: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    max_body_bytes: int
    connections: int
    timeout_seconds: float


class Server(socketserver.ThreadingTCPServer):
    """Answers by `answer` (which may raise Refusal) in threads; one connection too many is told to come again."""

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], bounds: Bounds, answer: Callable[[Request], Response],
        refused: Callable[[Refusal], Response], count: Callable[[int], None],
    ) -> None:  # fmt: skip
        """`refused` puts a refusal into words; `count` hears of every status. Raises OSError when the address is taken."""
        self.bounds, self.answer, self.refused, self.count = bounds, answer, refused, count
        self._places = threading.BoundedSemaphore(bounds.connections)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.5}, name="api", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        self.count(503)
        with contextlib.suppress(OSError):
            request.settimeout(1)
            request.sendall(_head(Response(status=503), close=True))
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is not worth a word; anything else is a mistake of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(socketserver.StreamRequestHandler):
    server: Server
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.bounds.timeout_seconds)

    def handle(self) -> None:
        """Request after request, until the client leaves, is silent for too long, or sends what cannot be understood."""
        with contextlib.suppress(OSError):
            while self._one():
                pass

    def _one(self) -> bool:
        """One request; whether another may follow."""
        line = self.rfile.readline(MAX_LINE_BYTES + 1)
        if not line:
            return False
        keep = False
        try:
            method, path, keep, headers = self._head(line)
            keep = keep and headers.get("connection", "").lower() != "close"
            request = Request(method, path, headers, self._body(headers))
            response = self.server.answer(request)
        except Refusal as refusal:
            response, keep = self.server.refused(refusal), keep and not refusal.close
        self.server.count(response.status)
        self.connection.sendall(_head(response, close=not keep) + response.content)
        return keep

    def _head(self, line: bytes) -> tuple[str, str, bool, dict[str, str]]:
        """Method, path, whether the protocol keeps the connection, and the headers."""
        words = line.decode("latin-1").rstrip("\r\n").split(" ")
        if len(line) > MAX_LINE_BYTES or len(words) != 3 or not words[2].startswith("HTTP/"):
            raise Refusal(400, "not an HTTP request", close=True)
        method, path, protocol = words
        if protocol not in ("HTTP/1.1", "HTTP/1.0"):
            raise Refusal(505, f"{protocol[:20]}: only HTTP/1.1 and 1.0 are spoken", close=True)
        headers = self._headers()
        if method not in METHODS:
            raise Refusal(501, f"{method[:20]}: only {' and '.join(METHODS)} are understood", close=True)
        return method, path.partition("?")[0], protocol == "HTTP/1.1", headers

    def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            line = self.rfile.readline(MAX_LINE_BYTES + 1)
            if len(line) > MAX_LINE_BYTES:
                raise Refusal(431, f"a header line of more than {MAX_LINE_BYTES} bytes", close=True)
            if line in (b"\r\n", b"\n"):
                return found
            name, colon, value = line.decode("latin-1").partition(":")
            name = name.lower()
            if not colon or not name or name != name.strip() or (name == "content-length" and name in found):
                raise Refusal(400, "a header that is none", close=True)
            found[name] = value.strip()
        raise Refusal(431, f"more than {MAX_HEADERS} headers", close=True)

    def _body(self, headers: dict[str, str]) -> bytes:
        if "transfer-encoding" in headers:
            raise Refusal(411, "send Content-Length; chunked bodies are not read", close=True)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(411, f"Content-Length {length[:50]!r} is no number", close=True)
        if len(length) > 18 or int(length) > self.server.bounds.max_body_bytes:
            raise Refusal(413, f"a body of {length[:50]} bytes; at most {self.server.bounds.max_body_bytes} are read", close=True)
        if headers.get("expect", "").lower() == "100-continue":
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client left")
        return body


def _head(response: Response, close: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}",
        f"Content-Type: {response.kind}",
        f"Content-Length: {len(response.content)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
