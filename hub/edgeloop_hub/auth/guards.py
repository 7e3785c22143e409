"""Who may ask what: the guards of the hub's API."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.client_network import network_of

BEARER = "Bearer "
NO_DEVICE = "no such device credential"


def bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    header = connection.headers.get("authorization", "")
    return header[len(BEARER) :] if header.startswith(BEARER) else ""


def client_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The address that limits count by: the client's own, or the one that a trusted proxy states."""
    return network_of(connection.client.host if connection.client else "")


async def is_device(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: a device with a credential that was not revoked. The application's `devices` looks for several at once."""
    device: accounts.EnrolledDevice | None = await connection.app.state.devices(bearer(connection))
    if device is None:
        raise NotAuthorizedException(NO_DEVICE)
    connection.scope["device"] = device  # type: ignore[typeddict-unknown-key]


def is_workstation(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard: a token of the workstation or of cron, with the scope that the route names. Cookies do not count, so no web page can
    make a browser send such a request.
    """
    with connection.app.state.hub.database.reading() as database:
        token = accounts.token_of(database, bearer(connection))
    if token is None:
        raise NotAuthorizedException("no such token; make one with edgeloop-hub token api")
    scope = scope_of(handler)
    if not token.may(scope):
        raise PermissionDeniedException(f"this token has no scope {scope}; make one with edgeloop-hub token api --scope {scope}")
    connection.scope["token"] = token  # type: ignore[typeddict-unknown-key]


def scope_of(handler: BaseRouteHandler) -> str:
    """What a route of the interface needs: reading is enough to read, and what names no scope needs `admin`."""
    reads = getattr(handler, "http_methods", set()) <= {"GET", "HEAD"}
    return str(handler.opt.get("scope") or ("read" if reads else "admin"))


def token_name(request: Request[Any, Any, Any]) -> str:
    """Who asks, for the audit log, at a route behind `is_workstation`."""
    token: accounts.Token = request.scope["token"]  # type: ignore[typeddict-item]
    return f"token {token.name}"


async def may_read_updates(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard: a device, or the workstation, which reads everything."""
    with connection.app.state.hub.database.reading() as database:
        token = accounts.token_of(database, bearer(connection))
        if token is not None and token.may("read"):
            connection.scope["device"] = None  # type: ignore[typeddict-unknown-key]
            return
    await is_device(connection, handler)


def asking(request: Request[Any, Any, Any]) -> accounts.EnrolledDevice:
    device: accounts.EnrolledDevice = request.scope["device"]  # type: ignore[typeddict-item]
    return device
