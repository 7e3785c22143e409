"""Signing in: a session for the right password, a wait after wrong ones."""

from __future__ import annotations

import math
import threading
from typing import Any

from litestar import Response, get, post
from litestar.datastructures import Cookie, State
from litestar.exceptions import PermissionDeniedException
from litestar.response import Redirect
from sqlalchemy import select

from edgeloop_hub.auth import accounts, audit
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.storage.schema import users
from edgeloop_hub.web.page import COOKIE, Form, PageRequest, page, same_origin

HASHING_SECONDS = 5.0
HASHING = threading.BoundedSemaphore(4)  # passwords that are checked at a time: each takes 64 MiB


@get("/sign-in", sync_to_thread=False, include_in_schema=False)
def sign_in_page() -> Response[bytes]:
    return page("sign-in.html.j2", "Sign in", None, failed="")


@post("/sign-in", sync_to_thread=True, include_in_schema=False)
def sign_in(data: Form, state: State, request: PageRequest) -> Response[Any]:
    """A new session for the right password; a wait after some wrong ones."""
    hub, name = state.hub, data.get("name", "")[:63]
    address = client_of(request)
    if not same_origin(request):
        raise PermissionDeniedException("this form is not from here")
    with hub.database.writing() as database:
        may = accounts.may_sign_in(database, name, address, hub.settings)
        stored = database.execute(select(users.c.password).where(users.c.name == name)).scalar()
    if not may:
        minutes = math.ceil(hub.settings.sign_in_wait_seconds / 60)
        return page("sign-in.html.j2", "Sign in", None, 429, failed=f"Too many tries from your address. Wait {minutes} minutes.")
    if not HASHING.acquire(timeout=HASHING_SECONDS):
        return page("sign-in.html.j2", "Sign in", None, 503, failed="Many people sign in just now. Try again.")
    try:
        right = accounts.password_is_right(stored, data.get("password", "")[:1000])
    finally:
        HASHING.release()
    if not right:
        return page("sign-in.html.j2", "Sign in", None, 401, failed="Name or password is wrong.")
    with hub.database.writing() as database:
        accounts.forget_tries(database, accounts.tried(name, address), accounts.from_address(address))
        session = accounts.open_session(database, name, hub.settings)
        audit.append(database, name, "signed in", address=address)  # wrong tries are counted: strangers cannot fill the log
    cookie = Cookie(
        key=COOKIE,
        value=session,
        httponly=True,
        samesite="lax",
        secure=hub.settings.secure_cookies,
        path="/",
        max_age=int(hub.settings.session_seconds),
    )
    return Redirect("/", status_code=303, cookies=[cookie])


HANDLERS = (sign_in_page, sign_in)
