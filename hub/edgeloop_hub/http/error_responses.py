"""What an error looks like on the wire: {"status_code", "detail"}, or {"error"} on /v2, as the inference protocol has it."""

from __future__ import annotations

import logging
import time
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from sqlalchemy.exc import DataError as ValuesError

from edgeloop_contract.errors import EdgeloopError, StorageError

LOG = logging.getLogger("edgeloop_hub")
AWAY_SECONDS = 10  # after which to ask again, where the database or the storage does not answer (Retry-After)
DRIVER, LOG_SECONDS = "(psycopg", 60.0
_logged: dict[str, float] = {}  # when, by the clock that only goes on
UNREADABLE = (RecursionError, OverflowError, UnicodeError, ValuesError)  # which only the request can cause
PROTOCOL = "/v2"
C = TypeVar("C", bound=type)
DESCRIPTIONS = {
    400: "what was asked is wrong, and the text says what", 401: "no such credential or token",
    403: "this token has no scope for it", 404: "there is no such thing",
    413: "more bytes than the hub takes at once", 429: "too much or too often: come again later",
    503: "the database or the storage does not answer, or too much waits: come again later",
}  # fmt: skip


class Problem(msgspec.Struct):
    """`extra`: each mistake by itself, where there are several."""

    status_code: int
    detail: str
    extra: Any = None


class ProtocolProblem(msgspec.Struct):
    """An error of the Open Inference Protocol."""

    error: str


def documents_errors(*statuses: int) -> Any:
    """A decorator of a controller: the OpenAPI document says that each of its operations may answer with these statuses as well.

    404 is added where the path names something, 413 where a body is sent.
    """

    def document(controller: C) -> C:
        kind = ProtocolProblem if str(getattr(controller, "path", "")).startswith(PROTOCOL) else Problem
        for handler in vars(controller).values():
            if isinstance(handler, HTTPRouteHandler):
                named = {404} if any("{" in path for path in handler.paths) else set()
                sent = {413} if handler.http_methods & {"POST", "PUT"} else set()
                handler.responses = {**problems(*statuses, *named, *sent, kind=kind), **(handler.responses or {})}
        return controller

    return document


def problems(*statuses: int, kind: type = Problem) -> dict[int, ResponseSpec]:
    return {s: ResponseSpec(kind, generate_examples=False, description=DESCRIPTIONS[s]) for s in sorted(set(statuses))}


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Errors of the framework, and those that guards and handlers raise."""
    return _response(request, error.status_code, f"{error.detail}{_first_mistake(error.extra)}", error.headers, error.extra or None)


def _first_mistake(extra: Any) -> str:
    """What does not fit of a request: "validation failed" alone tells nobody what to mend."""
    first = extra[0] if isinstance(extra, list) and extra else None
    return f": {str(first['message'])[:500]}" if isinstance(first, dict) and "message" in first else ""


def _expected_error(request: Request[Any, Any, Any], error: EdgeloopError) -> Response[Any]:
    """The client has to mend what our own errors say, except those of our disk or database."""
    return _response(request, 503 if error.exit_code == StorageError.exit_code else 400, public_words(error))


def public_words(error: EdgeloopError) -> str:
    """What is said over the network: PostgreSQL's driver names the server's address, port and user, and strangers ask too.

    The log has all of it, once a minute.
    """
    text = str(error)
    if DRIVER not in text:
        return text
    if time.monotonic() - _logged.get(DRIVER, -LOG_SECONDS) >= LOG_SECONDS:
        _logged[DRIVER] = time.monotonic()
        LOG.error("%s", text)
    return "the database does not answer, or has no room; the hub's log says more. Try again later"


def _unreadable(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    return _response(request, 400, unreadable_words(error))


def _internal_error(request: Request[Any, Any, Any], _: Exception) -> Response[Any]:
    """A mistake of the hub: it is in the log."""
    return _response(request, 500, "the hub made a mistake; its log says which")


def unreadable_words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "what was sent is nested too deeply"
    if isinstance(error, OverflowError):
        return "a number in what was sent is too large"
    return "what was sent has text or numbers that no table can hold (a zero byte, half of a character, a number out of range)"


def _response(
    request: Request[Any, Any, Any], status: int, detail: str, headers: dict[str, str] | None = None, extra: Any = None
) -> Response[Any]:
    content: dict[str, Any] = {"status_code": status, "detail": detail, **({"extra": extra} if extra is not None else {})}
    if request.url.path.startswith(f"{PROTOCOL}/") or request.url.path == PROTOCOL:
        content = {"error": detail}
    kept = {name: value for name, value in (headers or {}).items() if name.lower() != "content-type"}
    return Response(content, status_code=status, headers=kept, media_type="application/json")


HANDLERS: dict[Any, Any] = {
    HTTPException: http_error,
    EdgeloopError: _expected_error,
    **dict.fromkeys(UNREADABLE, _unreadable),
    500: _internal_error,
}
