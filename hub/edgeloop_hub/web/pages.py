"""The fleet page: what a person looks at. Rendered here, and usable without a script; what devices say is always escaped."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Controller, Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie, State
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, NotAuthorizedException, NotFoundException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import Body, Parameter
from litestar.response import Redirect
from sqlalchemy import select

from edgeloop_contract.errors import EdgeloopError, StorageError
from edgeloop_hub import health
from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.fleet import inventory
from edgeloop_hub.http.error_responses import UNREADABLE, unreadable_words
from edgeloop_hub.rollouts import evidence, service
from edgeloop_hub.storage.schema import events, heartbeats, jobs, users
from edgeloop_hub.time_text import ago, when
from edgeloop_hub.updates import registry
from edgeloop_hub.web import plots

HERE = Path(__file__).parent / "templates"
COOKIE = "edgeloop_session"
SHOWN = 200  # heartbeats in a plot, events in a list
DEVICES_SHOWN = 500
HASHING_SECONDS = 5.0
HASHING = threading.BoundedSemaphore(4)  # passwords that are checked at a time: each takes 64 MiB
Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
Asking = Request[Any, Any, Any]


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters |= {"ago": ago, "when": when}


def page(name: str, title: str, request: Asking | None, status: int = 200, **values: Any) -> Response[bytes]:
    user, csrf = request.scope["person"] if request is not None else ("", "")  # type: ignore[typeddict-item]
    html = TEMPLATES.get_template(name).render(title=title, user=user, csrf=csrf, **values)
    return Response(html.encode(), media_type="text/html; charset=utf-8", status_code=status)


def is_person(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: somebody who signed in; what changes something must come from our own pages."""
    with connection.app.state.hub.database.reading() as database:
        found = accounts.session_of(database, connection.cookies.get(COOKIE, ""))
    if found is None:
        raise NotAuthorizedException("sign in first")
    connection.scope["person"] = found  # type: ignore[typeddict-unknown-key]


def check_form(request: Asking, form: dict[str, str]) -> None:
    """Raises PermissionDeniedException unless the form is one that we gave to this very session."""
    _, csrf = request.scope["person"]  # type: ignore[typeddict-item]
    if not _same_origin(request) or form.get("csrf") != csrf:
        raise PermissionDeniedException("this form is not from here; go back and load the page again")


def _same_origin(request: Asking) -> bool:
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


@get("/style.css", sync_to_thread=False, include_in_schema=False)
def style() -> Response[bytes]:
    return Response((HERE / "style.css").read_bytes(), media_type="text/css", headers={"Cache-Control": "max-age=300"})


@get("/sign-in", sync_to_thread=False, include_in_schema=False)
def sign_in_page() -> Response[bytes]:
    return page("sign-in.html.j2", "Sign in", None, failed="")


@post("/sign-in", sync_to_thread=True, include_in_schema=False)
def sign_in(data: Form, state: State, request: Asking) -> Response[Any]:
    """A new session for the right password; a wait after some wrong ones."""
    hub, name = state.hub, data.get("name", "")[:63]
    address = client_of(request)
    if not _same_origin(request):
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


def refused(request: Asking, error: HTTPException) -> Response[Any]:
    """A sentence on a page; who is not signed in is sent to sign in."""
    if isinstance(error, NotAuthorizedException):
        return Redirect("/sign-in", status_code=303)
    return page("refused.html.j2", "That did not work", None, error.status_code, text=error.detail)


def unreadable(request: Asking, error: Exception) -> Response[Any]:
    return page("refused.html.j2", "That did not work", None, 400, text=unreadable_words(error))


def unusable(request: Asking, error: EdgeloopError) -> Response[Any]:
    status = 503 if error.exit_code == StorageError.exit_code else 400
    return page("refused.html.j2", "That did not work", None, status, text=str(error))


HANDLED: dict[Any, Any] = {HTTPException: refused, EdgeloopError: unusable, **dict.fromkeys(UNREADABLE, unreadable)}
Number = Annotated[int, Parameter(ge=0, le=2**31 - 1)]


class Pages(Controller):
    """Everything behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = HANDLED

    @get("/", sync_to_thread=True)
    def fleet(self, state: State, request: Asking, after: Annotated[str, Parameter(max_length=63)] = "") -> Response[bytes]:
        """Devices by name, a page of them; the next one begins behind the name `after`."""
        with state.hub.database.reading() as database:
            rows, count = inventory.listed(database, after, DEVICES_SHOWN + 1), inventory.count(database)
            rows, more = rows[:DEVICES_SHOWN], len(rows) > DEVICES_SHOWN
            rollouts, told = service.listed(database)[:5], health.told(database)
        return page(
            "fleet.html.j2", "Fleet", request, devices=rows, rollouts=rollouts, health=told, count=count, after=after,
            following=rows[-1]["name"] if more else "",
        )  # fmt: skip

    @get("/devices/{name:str}", sync_to_thread=True)
    def device(self, name: str, state: State, request: Asking) -> Response[bytes]:
        with state.hub.database.reading() as database:
            found = next(iter(inventory.listed(database, name=name)), None)
            if found is None:
                raise NotFoundException(f"There is no device {name}.")
            newest = select(heartbeats.c.at, heartbeats.c.body).where(heartbeats.c.device == name, heartbeats.c.sha256 != "")
            rows = database.execute(newest.order_by(heartbeats.c.at.desc()).limit(SHOWN)).all()[::-1]
            told = database.execute(select(events).where(events.c.source == name).order_by(events.c.at.desc()).limit(SHOWN)).all()
            measured = database.execute(select(jobs).where(jobs.c.device == name).order_by(jobs.c.at.desc()).limit(10)).all()
        beats = [(row.at, beat) for row in rows if (beat := evidence.beat_of(row.body)) is not None]
        jobs_told = [(row, _in_words(row.result)) for row in measured]
        return page("device.html.j2", name, request, device=found, plots=plots.of(beats), events=told, jobs=jobs_told)

    @get("/versions", sync_to_thread=True)
    def versions(self, state: State, request: Asking) -> Response[bytes]:
        with state.hub.database.reading() as database:
            return page("versions.html.j2", "Versions", request, bundles=registry.listed(database))

    @get("/rollouts", sync_to_thread=True)
    def rollouts(self, state: State, request: Asking) -> Response[bytes]:
        with state.hub.database.reading() as database:
            return page("rollouts.html.j2", "Rollouts", request, rollouts=service.listed(database), health=health.told(database))

    @get("/rollouts/{number:int}", sync_to_thread=True)
    def rollout(self, number: Number, state: State, request: Asking) -> Response[bytes]:
        with state.hub.database.reading() as database:
            found, told = service.described(database, number), health.told(database)
            decisions = database.execute(
                select(events).where(events.c.rollout == number).order_by(events.c.at.desc()).limit(SHOWN)
            ).all()
        return page("rollout.html.j2", f"Rollout {number}", request, rollout=found, events=decisions, health=told)

    @post("/rollouts/{number:int}/{verb:str}", sync_to_thread=True)
    def change(self, number: Number, verb: str, data: Form, state: State, request: Asking) -> Response[Any]:
        check_form(request, data)
        if verb not in service.VERBS:
            raise NotFoundException("There is no such button.")
        with state.hub.database.writing() as database:
            service.change(database, number, verb, request.scope["person"][0])  # type: ignore[typeddict-item]
        return Redirect(f"/rollouts/{number}", status_code=303)

    @get("/events", sync_to_thread=True)
    def events(self, state: State, request: Asking) -> Response[bytes]:
        with state.hub.database.reading() as database:
            rows = database.execute(select(events).order_by(events.c.at.desc()).limit(SHOWN)).all()
        return page("events.html.j2", "Events", request, events=rows)

    @post("/sign-out", sync_to_thread=True)
    def sign_out(self, data: Form, state: State, request: Asking) -> Response[Any]:
        check_form(request, data)
        with state.hub.database.writing() as database:
            accounts.close_session(database, request.cookies.get(COOKIE, ""))
        return Redirect("/sign-in", status_code=303)


HANDLERS = (style, sign_in_page, sign_in, Pages)


class _Cost(msgspec.Struct):
    latency_us_p50: float


class _Row(msgspec.Struct):
    variant: str
    cost: _Cost | None = None


class _Sustained(msgspec.Struct):
    per_second: float
    memory_bytes: int
    microjoules: float | None = None
    celsius: float | None = None


class _Bench(msgspec.Struct):
    """Of `edgeloop-agent bench --json`, what a line on a page has room for."""

    variants: list[_Row] = []
    sustained: _Sustained | None = None


class _Result(msgspec.Struct):
    refused: str = ""
    measured: _Bench = msgspec.field(default_factory=_Bench)


def _in_words(result: str) -> str:
    """A job's answer; a device may have sent anything."""
    try:
        found = msgspec.json.decode(result, type=_Result)
    except (msgspec.MsgspecError, RecursionError):
        return ""
    said = [f"{r.variant} {r.cost.latency_us_p50:,.0f} µs" for r in found.measured.variants[:6] if r.cost is not None]
    if (s := found.measured.sustained) is not None:
        said += [f"{s.per_second:,.0f}/s sustained", f"{s.memory_bytes / 2**20:.1f} MiB"]
        said += [f"{s.microjoules:,.0f} µJ an inference" if s.microjoules is not None else "energy not measurable there"]
        said += [f"{s.celsius:.0f} °C"] if s.celsius is not None else []
    return found.refused or ", ".join(said)
