"""A plain HTTP/1.1 connection that stays open: a load should measure the hub, not its own client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import urllib.parse
from dataclasses import dataclass

from edgeloop_contract.errors import NetworkError, UsageError

SECONDS = 30.0  # for an answer
MAX_HEAD, MAX_BODY = 65_536, 64 << 20


class NoAnswer(Exception):
    """The connection broke, or took too long."""


@dataclass(frozen=True)
class Address:
    """A hub's. `prefix`: of its paths, behind a proxy."""

    host: str
    port: int
    tls: bool
    prefix: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Raises UsageError."""
        try:
            parts = urllib.parse.urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{text!r}: no address of a hub ({error}); write https://hub.example.com") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise UsageError(f"{text[:100]!r}: no address of a hub; write https://hub.example.com")
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True)
class Reply:
    """`etag`: as it came."""

    status: int
    body: bytes
    etag: str


class Connection:
    """Opens itself when it is used. One request at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._host = str(address).split("://")[1].partition("/")[0]
        self._wire: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, secret: str, body: bytes | None = None, etag: str = "") -> Reply:
        """Raises NoAnswer; the next request opens the connection again."""
        try:
            return await asyncio.wait_for(self._ask(method, path, secret, body, etag), SECONDS)
        except (TimeoutError, asyncio.TimeoutError) as error:
            await self.close()
            raise NoAnswer(f"nothing in {SECONDS:.0f} s") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            await self.close()
            raise NoAnswer(_words(error)) from error

    async def _ask(self, method: str, path: str, secret: str, body: bytes | None, etag: str) -> Reply:
        if self._wire is None:
            context = ssl.create_default_context() if self._address.tls else None
            self._wire = await asyncio.open_connection(self._address.host, self._address.port, ssl=context, limit=MAX_HEAD)
        reader, writer = self._wire
        lines = [f"{method} {self._address.prefix}{path} HTTP/1.1", f"Host: {self._host}", "User-Agent: edgeloop-hub-load"]
        lines += [f"Authorization: Bearer {secret}"] if secret else []
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body is not None else []
        lines += [f"If-None-Match: {etag}"] if etag else []
        writer.write("\r\n".join([*lines, "Edgeloop-Reads: 1000000", "\r\n"]).encode() + (body or b""))
        status_line, *head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1]) if status_line.startswith("HTTP/1.") else 0
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head)}
        answer = await _body(reader, status, headers)
        if headers.get("connection", "").lower() == "close" or not 200 <= status < 600:
            await self.close()
        return Reply(status, answer, headers.get("etag", ""))

    async def close(self) -> None:
        if self._wire is not None:
            writer, self._wire = self._wire[1], None
            writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)


async def _body(reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> bytes:
    if status in (204, 304):
        return b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        found = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if len(found) + size > MAX_BODY:
                raise ValueError("an answer without an end")
            found += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return found
    size = int(headers.get("content-length", "0"))
    if size > MAX_BODY:
        raise ValueError("an answer without an end")
    return await reader.readexactly(size)


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not fit: {error.verify_message}; name your authority in SSL_CERT_FILE"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, EOFError):
        return "the connection was closed"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def failure(address: Address, error: NoAnswer) -> NetworkError:
    return NetworkError(f"{address}: {error}; does the hub run there?")
