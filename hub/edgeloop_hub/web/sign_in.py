"""Signing in by a password: a session for the right one, a wait after wrong ones. And signing out."""

from __future__ import annotations

import math
import threading
from typing import Any

from litestar import Response, get, post
from litestar.datastructures import Cookie, State
from litestar.exceptions import PermissionDeniedException
from litestar.response import Redirect
from sqlalchemy import Connection, select

from edgeloop_hub.auth import accounts, audit, passwords, people
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.storage.schema import users
from edgeloop_hub.web.page import (
    COOKIE,
    ERROR_PAGES,
    MAX_NEXT,
    Form,
    PageRequest,
    check_form,
    is_person,
    local_path,
    page,
    same_origin,
    session_of,
)

HASHING_SECONDS = 5.0
HASHING = threading.BoundedSemaphore(4)  # passwords that are checked at a time: each takes 64 MiB


def sign_in_form(state: State, status: int = 200, failed: str = "", following: str = "/", left: str = "") -> Response[bytes]:
    """`failed`: why the last try did not work. `following`: the page that comes then. `left`: "here", after signing out, or
    "provider" where one can sign out of the provider too.
    """
    oidc = state.sign_in.oidc
    return page(
        "sign-in.html.j2", "Sign in", None, status, failed=failed, following=following, left=left,
        provider=oidc.shown_name if oidc else "", emergency=bool(state.sign_in.password_only_for),
    )  # fmt: skip


def too_many(state: State, following: str) -> Response[bytes]:
    minutes = math.ceil(state.hub.settings.sign_in_wait_seconds / 60)
    return sign_in_form(state, 429, f"Too many tries from your address. Wait {minutes} minutes.", following)


def session_cookie(database: Connection, state: State, name: str) -> Cookie:
    """Of a session that begins now."""
    settings = state.hub.settings
    return Cookie(
        key=COOKIE,
        value=accounts.open_session(database, name, settings),
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
        path="/",
        max_age=int(settings.session_seconds),
    )


@get("/sign-in", sync_to_thread=False, include_in_schema=False)
def sign_in_page(state: State, request: PageRequest) -> Response[bytes]:
    """`next`: the page that comes then; `left`: what somebody signed out of."""
    asked = request.query_params
    return sign_in_form(state, following=local_path(asked.get("next", "/")[:MAX_NEXT]), left=asked.get("left", "")[:20])


@post("/sign-in", sync_to_thread=True, include_in_schema=False)
def sign_in(data: Form, state: State, request: PageRequest) -> Response[Any]:
    """A new session for the right password; a wait after some wrong ones."""
    hub, name = state.hub, data.get("name", "")[:63]
    address, following = client_of(request), local_path(data.get("next", "/"))
    if not same_origin(request):
        raise PermissionDeniedException("this form is not from here")
    with hub.database.writing() as database:
        may = accounts.may_sign_in(database, name, address, hub.settings)
        stored = database.execute(select(users.c.password).where(users.c.name == name)).scalar()
    if not may:
        return too_many(state, following)
    if stored == people.NO_PASSWORD or not state.sign_in.may_use_password(name):
        stored = None  # takes as long as a wrong password, and says the same
    if not HASHING.acquire(timeout=HASHING_SECONDS):
        return sign_in_form(state, 503, "Many people sign in just now. Try again.", following)
    try:
        right = passwords.password_is_right(stored, data.get("password", "")[:1000])
    finally:
        HASHING.release()
    if not right:
        return sign_in_form(state, 401, "Name or password is wrong.", following)
    with hub.database.writing() as database:
        accounts.forget_tries(database, accounts.tried(name, address), accounts.from_address(address))
        cookie = session_cookie(database, state, name)
        audit.append(database, name, "signed in", address=address)  # wrong tries are counted: strangers cannot fill the log
    return Redirect(following, status_code=303, cookies=[cookie])


@post("/sign-out", guards=[is_person], role="viewer", sync_to_thread=True, include_in_schema=False, exception_handlers=ERROR_PAGES)
def sign_out(data: Form, state: State, request: PageRequest) -> Response[Any]:
    check_form(request, data)
    with state.hub.database.writing() as database:
        accounts.close_session(database, request.cookies.get(COOKIE, ""))
        by_provider = people.is_by_provider(database, session_of(request).user)
    return Redirect(f"/sign-in?left={'provider' if by_provider else 'here'}", status_code=303)


HANDLERS = (sign_in_page, sign_in, sign_out)
