"""Signing in by an OpenID Connect provider: to it, back from it, and out of it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from litestar import Response, get, post
from litestar.datastructures import Cookie, State
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from edgeloop_contract.errors import EdgeloopError
from edgeloop_hub.auth import accounts, audit
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.auth.oidc import pending, sessions
from edgeloop_hub.auth.oidc.accounts import admit
from edgeloop_hub.auth.oidc.provider import Provider
from edgeloop_hub.auth.oidc.requests import ProviderAway, SignInRefused
from edgeloop_hub.auth.sign_in_settings import BACK_CHANNEL, CALLBACK
from edgeloop_hub.web.page import Form, PageRequest, local_path
from edgeloop_hub.web.sign_in import session_cookie, sign_in_form, too_many

LOG = logging.getLogger("edgeloop_hub")

BROWSER = "edgeloop_sign_in"  # the cookie that says which browser began a sign-in
ASKING = threading.BoundedSemaphore(8)  # threads of a worker that wait for the provider; others answer as ever
BUSY = "Many people sign in just now. Try again."
NOT_BEGUN = (
    "This sign-in was finished already, is too old, or began in another browser or at another address of the hub. Try again."
)


def provider_of(state: State) -> Provider:
    if state.provider is None:
        raise NotFoundException("There is no such page.")
    found: Provider = state.provider
    return found


@get("/sign-in/oidc", sync_to_thread=True, include_in_schema=False)
def to_provider(state: State, request: PageRequest) -> Response[Any]:
    """Send the browser to the provider. Strangers can ask for it: it is counted by address."""
    provider, hub = provider_of(state), state.hub
    following = local_path(request.query_params.get("next", "/")[:500])
    with hub.database.writing() as database:
        counted = f"oidc {accounts.from_address(client_of(request))}"
        may = accounts.may_try(database, counted, hub.settings.sign_in_tries_per_address, hub.settings)
    if not may:
        return too_many(state, following)
    if not ASKING.acquire(blocking=False):
        return sign_in_form(state, 503, BUSY, following)
    try:
        with hub.database.writing(ordered=False) as database:
            begun = pending.begin(database, following)
        address = provider.authorization_url(begun.state, begun.nonce, begun.verifier)
    except EdgeloopError as error:
        return _failed(state, error, following)
    finally:
        ASKING.release()
    return Redirect(address, status_code=303, cookies=[_browser_cookie(state, begun.browser, int(pending.SECONDS))])


@get(CALLBACK, sync_to_thread=True, include_in_schema=False)
def back_from_provider(state: State, request: PageRequest) -> Response[Any]:
    """A session for whom the provider names, if this browser began the sign-in."""
    provider, hub, asked = provider_of(state), state.hub, request.query_params
    begun = pending.take(hub.database, asked.get("state", "")[:200], request.cookies.get(BROWSER, "")[:200])
    if begun is None:
        return sign_in_form(state, 400, NOT_BEGUN)
    if not ASKING.acquire(blocking=False):
        return sign_in_form(state, 503, BUSY, begun.following)
    address = client_of(request)
    try:
        identity = provider.identity(_code(provider, asked), begun.verifier, begun.nonce)
    except EdgeloopError as error:
        return _failed(state, error, begun.following)
    finally:
        ASKING.release()
    try:
        with hub.database.writing() as database:
            name = admit(database, provider.oidc, identity, address)
            accounts.forget_tries(database, f"oidc {accounts.from_address(address)}")
            cookie = session_cookie(database, state, name)
            sessions.remember(database, provider.oidc, str(cookie.value), identity.sid, hub.settings.session_seconds)
            audit.append(database, name, "signed in", detail=f"by {provider.oidc.shown_name}", address=address)
    except SignInRefused as error:
        with hub.database.writing() as database:  # once in a while for each person: nobody fills the log
            if accounts.may_try(database, f"refused {identity.subject}"[:200], 1, hub.settings):
                audit.append(database, provider.oidc.shown_name, "sign-in refused", identity.name, str(error), address)
        return _failed(state, error, begun.following)
    return Redirect(begun.following, status_code=303, cookies=[cookie, _browser_cookie(state, "", 0)])


@get("/sign-out/oidc", sync_to_thread=True, include_in_schema=False)
def out_of_provider(state: State) -> Response[Any]:
    """On to the provider's own page for signing out, which asks before it does."""
    provider = provider_of(state)
    if not ASKING.acquire(blocking=False):
        return sign_in_form(state, 503, BUSY)
    try:
        address = provider.end_session_url(state.sign_in.address.rstrip("/") + "/sign-in")
    except EdgeloopError as error:
        return _failed(state, error, "/")
    finally:
        ASKING.release()
    if not address:
        return sign_in_form(state, 200, f"{provider.oidc.shown_name} has no page for signing out; sign out at its own pages.")
    return Redirect(address, status_code=303)


@post(BACK_CHANNEL, sync_to_thread=True, status_code=200, include_in_schema=False)
def ended_at_provider(data: Form, state: State, request: PageRequest) -> Response[Any]:
    """The provider itself says that a session there has ended (OpenID Connect Back-Channel Logout 1.0): so have the hub's."""
    provider, hub = provider_of(state), state.hub
    if not ASKING.acquire(blocking=False):
        return Response({"error": "temporarily_unavailable"}, status_code=503, headers={"Retry-After": "1"})
    try:
        ended = provider.ended(data.get("logout_token", ""))
        with hub.database.writing() as database:
            count = sessions.end(database, provider.oidc, ended, client_of(request))
    except SignInRefused as error:
        return Response({"error": "invalid_request", "error_description": str(error)}, status_code=400)
    except ProviderAway as error:
        _log_once(provider, error)
        return Response({"error": "temporarily_unavailable"}, status_code=503, headers={"Retry-After": "10"})
    finally:
        ASKING.release()
    return Response({"sessions": count})


def _code(provider: Provider, asked: Any) -> str:
    """Raises SignInRefused where the provider sends none. `iss` (RFC 9207) has to be this provider, where it is said."""
    if asked.get("iss", provider.oidc.issuer) != provider.oidc.issuer:
        raise SignInRefused("the answer comes from another provider")
    code = asked.get("code", "")
    if not code or len(code) > 4096:
        raise SignInRefused(f"{provider.oidc.shown_name} says {asked.get('error', 'nothing')[:80]!r}")
    return str(code)


def _failed(state: State, error: EdgeloopError, following: str) -> Response[bytes]:
    if isinstance(error, ProviderAway):
        provider: Provider = state.provider
        _log_once(provider, error)
        why = f"{provider.oidc.shown_name} does not answer as it should; the hub's log has the reason"
        return sign_in_form(state, 502, f"You are not signed in: {why}. A password works meanwhile, for who has one.", following)
    return sign_in_form(state, 403 if isinstance(error, SignInRefused) else 503, f"You are not signed in: {error}.", following)


def _log_once(provider: Provider, error: ProviderAway) -> None:
    """Strangers cause it too, as often as they like."""
    if provider.said != str(error):
        provider.said = str(error)
        LOG.warning("sign-in: %s", error)


def _browser_cookie(state: State, value: str, seconds: int) -> Cookie:
    return Cookie(
        key=BROWSER, value=value, httponly=True, samesite="lax", secure=state.hub.settings.secure_cookies, path="/sign-in",
        max_age=seconds,
    )  # fmt: skip


HANDLERS = (to_provider, back_from_provider, out_of_provider, ended_at_provider)
