"""The short way of a usual report: past the framework, which takes as long for it as everything else together.

It takes a request only where all is as an agent sends it, and answers only that the report is stored. Whatever else there is goes
to the application with the same bytes: each mistake has one place that says it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Litestar
from litestar.types import Message, Receive, Scope, Send

from edgeloop_contract.errors import StorageError
from edgeloop_contract.messages import Report
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.auth.known_credentials import KnownCredentials
from edgeloop_hub.fleet import reports
from edgeloop_hub.http.error_responses import AWAY_SECONDS, public_words

PATH = "/api/v1/report"
MAX_BYTES = 65_536  # of a report that goes the short way
BEARER = b"Bearer "
JSON = b"application/json"
_decode = msgspec.json.Decoder(Report).decode


class ShortReports:
    """An ASGI application around the hub's. `headers`: of each answer."""

    def __init__(self, app: Litestar, headers: dict[str, str]) -> None:
        self._app, self._state = app, app.state
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        came = self._who(scope)
        if came is None:
            await self._app(scope, receive, send)
            return
        messages, body = await _read(receive)
        if body is None:
            return
        status, answer = await self._store(*came, body)
        if not status:
            await self._app(scope, _again(messages, receive), send)
            return
        length = str(len(answer)).encode()
        headers = [(b"content-type", JSON), (b"content-length", length), *self._headers]
        headers += [(b"retry-after", str(AWAY_SECONDS).encode())] if status == 503 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    def _who(self, scope: Any) -> tuple[str, str] | None:
        """The digest of the credential, and the device that had it a while ago; None for what goes the long way."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            return None
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        usual = len(headers) == len(scope["headers"]) and b"transfer-encoding" not in headers and b"content-encoding" not in headers
        if not usual or headers.get(b"content-type") != JSON or not length.isdigit() or int(length) > MAX_BYTES:
            return None
        secret = headers.get(b"authorization", b"")
        known: KnownCredentials = self._state.known
        return known.name_of(secret[len(BEARER) :].decode("latin-1")) if secret.startswith(BEARER) else None

    async def _store(self, digest: str, name: str, body: bytes) -> tuple[int, bytes]:
        """The answer; (0, b""): the application is to give one. A credential that was revoked meanwhile stores nothing."""
        try:
            report = _decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return 0, b""
        if not reports.is_short(report):
            return 0, b""
        try:
            stored = await self._state.reports(reports.Came(EnrolledDevice(name, [], "", "", ""), report, digest))
        except StorageError as error:  # a second try would wait as long again
            return 503, msgspec.json.encode({"status_code": 503, "detail": public_words(error)})
        except Exception:  # a report that cannot be stored: the application says why
            return 0, b""
        return (200, b"null") if stored else (0, b"")


async def _read(receive: Receive) -> tuple[list[Message], bytes | None]:
    """A request's messages, and its body; None where the client went away."""
    messages: list[Any] = []
    while True:
        message: Any = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return messages, None
        if not message.get("more_body"):
            return messages, b"".join(part.get("body", b"") for part in messages)


def _again(messages: list[Message], receive: Receive) -> Receive:
    """The same messages once more, then what comes after them."""
    waiting = iter(messages)

    async def next_one() -> Any:
        found = next(waiting, None)
        return found if found is not None else await receive()

    return next_one
