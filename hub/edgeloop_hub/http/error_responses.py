"""What an error looks like on the wire: {"status_code", "detail"}, or {"error"} on /v2, as the inference protocol has it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from sqlalchemy.exc import DataError as ValuesError

from edgeloop_contract.errors import EdgeloopError

UNREADABLE = (RecursionError, OverflowError, UnicodeError, ValuesError)  # that only what was sent can bring about
PROTOCOL = "/v2"
C = TypeVar("C", bound=type)
SAYS = {
    400: "what was asked is wrong, and the text says what", 401: "no such credential or token", 404: "there is no such thing",
    413: "more bytes than the hub takes at once", 429: "too much or too often: come again later",
    503: "the database or the storage does not answer, or too much waits: come again later",
}  # fmt: skip


class Problem(msgspec.Struct):
    """`extra`: each mistake by itself, where there are several."""

    status_code: int
    detail: str
    extra: Any = None


class ProtocolProblem(msgspec.Struct):
    """As the Open Inference Protocol says errors."""

    error: str


def telling(*statuses: int) -> Any:
    """For a controller: each of its operations says in the OpenAPI document that it may answer with these as well.

    Who names something in the path hears 404 where there is no such thing; who sends a body may send too large a one.
    """

    def told(controller: C) -> C:
        kind = ProtocolProblem if str(getattr(controller, "path", "")).startswith(PROTOCOL) else Problem
        for handler in vars(controller).values():
            if isinstance(handler, HTTPRouteHandler):
                named = {404} if any("{" in path for path in handler.paths) else set()
                sent = {413} if handler.http_methods & {"POST", "PUT"} else set()
                handler.responses = {**problems(*statuses, *named, *sent, kind=kind), **(handler.responses or {})}
        return controller

    return told


def problems(*statuses: int, kind: type = Problem) -> dict[int, ResponseSpec]:
    return {s: ResponseSpec(kind, generate_examples=False, description=SAYS[s]) for s in sorted(set(statuses))}


def refused(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Of the framework's own, and those that guards and handlers raise."""
    return _said(request, error.status_code, error.detail, error.headers, error.extra or None)


def said(request: Request[Any, Any, Any], error: EdgeloopError) -> Response[Any]:
    """Our own errors are the asker's to mend, but for those of our disk or database."""
    return _said(request, 503 if error.exit_code == 7 else 400, str(error))


def unreadable(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    return _said(request, 400, unreadable_words(error))


def mistaken(request: Request[Any, Any, Any], _: Exception) -> Response[Any]:
    """A mistake of ours: it is in the log."""
    return _said(request, 500, "the hub made a mistake; its log says which")


def unreadable_words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "what was sent is nested too deeply"
    if isinstance(error, OverflowError):
        return "a number in what was sent is too large"
    return "what was sent has text or numbers that no table can hold (a zero byte, half of a character, a number out of range)"


def _said(
    request: Request[Any, Any, Any], status: int, detail: str, headers: dict[str, str] | None = None, extra: Any = None
) -> Response[Any]:
    content: dict[str, Any] = {"status_code": status, "detail": detail, **({"extra": extra} if extra is not None else {})}
    if request.url.path.startswith(f"{PROTOCOL}/") or request.url.path == PROTOCOL:
        content = {"error": detail}
    kept = {name: value for name, value in (headers or {}).items() if name.lower() != "content-type"}
    return Response(content, status_code=status, headers=kept, media_type="application/json")


HANDLERS: dict[Any, Any] = {HTTPException: refused, EdgeloopError: said, **dict.fromkeys(UNREADABLE, unreadable), 500: mistaken}
