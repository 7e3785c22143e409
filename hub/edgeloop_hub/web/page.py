"""A page: rendered here from a template, usable without a script. What devices say is always escaped."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, NotAuthorizedException, NotFoundException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import Body
from litestar.response import Redirect

from edgeloop_contract.errors import EdgeloopError, StorageError
from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.people import Role, is_at_least
from edgeloop_hub.http.error_responses import UNREADABLE, http_error, public_words, unreadable_words
from edgeloop_hub.time_text import ago, when

HERE = Path(__file__).parent / "templates"
COOKIE = "edgeloop_session"
MAX_NEXT = 500  # letters of the page that comes after signing in
Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
PageRequest = Request[Any, Any, Any]


def figure(value: float | None, form: str) -> str:
    """A device's figure; a dash where there is none."""
    return "–" if value is None else form.format(value)


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters |= {"ago": ago, "when": when, "figure": figure}
TEMPLATES.globals["section"] = ""
TEMPLATES.tests["at_least"] = is_at_least


def page(
    name: str, title: str, request: PageRequest | None, status: int = 200, section: str = "", **values: Any
) -> Response[bytes]:  # fmt: skip
    """`request`: of somebody who signed in; None: a page without navigation. `section`: where in it this page belongs."""
    user, csrf, role = "", "", "viewer"
    if request is not None:
        session = session_of(request)
        user, csrf, role = session.user, session.csrf, session.role
    html = TEMPLATES.get_template(name).render(title=title, user=user, csrf=csrf, role=role, section=section, **values)
    return Response(html.encode(), media_type="text/html; charset=utf-8", status_code=status)


def query_link(path: str, **values: object) -> str:
    """A path with those values that are not empty."""
    given = urlencode({name: value for name, value in values.items() if value})
    return f"{path}?{given}" if given else path


def queue_link(answered: dict[str, str], **more: str) -> str:
    """The queue after this form was answered: it can be taken back there."""
    last = f"{answered.get('device', '')}/{answered.get('key', '')}"
    return query_link("/queue", model=answered.get("model", ""), last=last, **more)


def asset(name: str, media_type: str) -> Response[bytes]:
    """A file that browsers may keep for five minutes."""
    return Response((HERE / name).read_bytes(), media_type=media_type, headers={"Cache-Control": "max-age=300"})


def is_person(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler | None = None) -> None:
    """Guard: somebody who signed in, with the role that the route names."""
    with connection.app.state.hub.database.reading() as database:
        session = accounts.session_of(database, connection.cookies.get(COOKIE, ""))
    if session is None:
        raise NotAuthorizedException("sign in first")
    connection.scope["session_of_person"] = session  # type: ignore[typeddict-unknown-key]
    needed = role_of(handler) if handler is not None else "viewer"
    if not is_at_least(session.role, needed):
        raise PermissionDeniedException(f"Your role is {session.role}; this needs {needed}. An admin can change that.")


def role_of(handler: BaseRouteHandler) -> Role:
    """What a page needs: to look, a viewer; what changes something and names no role needs an admin."""
    reads = getattr(handler, "http_methods", set()) <= {"GET", "HEAD"}
    role: Role = handler.opt.get("role") or ("viewer" if reads else "admin")
    return role


def session_of(request: PageRequest) -> accounts.Session:
    """Of a request that passed the guard `is_person`."""
    session: accounts.Session = request.scope["session_of_person"]  # type: ignore[typeddict-item]
    return session


def check_form(request: PageRequest, form: dict[str, str]) -> None:
    """Raises PermissionDeniedException unless the hub gave the form to this very session."""
    if not same_origin(request) or form.get("csrf") != session_of(request).csrf:
        raise PermissionDeniedException("this form is not from here; go back and load the page again")


def same_origin(request: PageRequest) -> bool:
    """Whether a browser sent the request from a page of this hub, as far as it says."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def local_path(asked: str) -> str:
    """A page of this hub that somebody asked for before signing in; "/" for everything else, which may lead elsewhere."""
    named = urlsplit(asked) if asked.isprintable() and "\\" not in asked else None
    safe = named is not None and asked.startswith("/") and not asked.startswith("//") and not named.scheme and not named.netloc
    return asked if safe else "/"


def _refused(request: PageRequest, error: HTTPException) -> Response[Any]:
    """One sentence on a page; a person who is not signed in is sent to sign in."""
    if isinstance(error, NotAuthorizedException):
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")  # no stream, no picture
        there = asked if is_page and asked != "/" and len(asked) <= MAX_NEXT else ""
        return Redirect(query_link("/sign-in", next=there), status_code=303)
    return _sentence(request, error.status_code, error.detail)


def _unreadable(request: PageRequest, error: Exception) -> Response[Any]:
    return _sentence(request, 400, unreadable_words(error))


def _failed(request: PageRequest, error: EdgeloopError) -> Response[Any]:
    return _sentence(request, 503 if error.exit_code == StorageError.exit_code else 400, public_words(error))


def not_found(request: PageRequest, error: NotFoundException) -> Response[Any]:
    """A page for people, also where the path is none; JSON for others."""
    if "session_of_person" in request.scope:
        return _sentence(request, 404, error.detail)
    if "text/html" not in request.headers.get("accept", ""):
        return http_error(request, error)
    with contextlib.suppress(NotAuthorizedException, EdgeloopError):
        is_person(request)
    return _sentence(request, 404, "There is no such page.")


def _sentence(request: PageRequest, status: int, text: str) -> Response[Any]:
    """With the navigation, for who is signed in."""
    person = request if "session_of_person" in request.scope else None
    return page("refused.html.j2", "That did not work", person, status, text=text)


def _mistake(request: PageRequest, _: Exception) -> Response[Any]:
    """A mistake of the hub: it is in the log."""
    return _sentence(request, 500, "The hub made a mistake; its log says which. Try again, or another page.")


ERROR_PAGES: dict[Any, Any] = {
    HTTPException: _refused, EdgeloopError: _failed, **dict.fromkeys(UNREADABLE, _unreadable), Exception: _mistake,
}  # fmt: skip
