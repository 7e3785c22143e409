"""The pages of versions, rollouts and events."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.response import Redirect

from edgeloop_hub import event_log, health
from edgeloop_hub.auth import accounts
from edgeloop_hub.rollouts import service
from edgeloop_hub.updates import registry
from edgeloop_hub.web.page import COOKIE, ERROR_PAGES, Form, PageRequest, asset, check_form, is_person, page, session_of

SHOWN = 200  # heartbeats in a plot, events in a list
Number = Annotated[int, Parameter(ge=0, le=2**31 - 1)]


@get("/style.css", sync_to_thread=False, include_in_schema=False)
def style() -> Response[bytes]:
    return asset("style.css", "text/css")


class Pages(Controller):
    """Everything behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/versions", sync_to_thread=True)
    def versions(self, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            return page("versions.html.j2", "Versions", request, bundles=registry.published(database))

    @get("/rollouts", sync_to_thread=True)
    def rollouts(self, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            rollouts, hub_health = service.summaries(database), health.current(database)
        return page("rollouts.html.j2", "Rollouts", request, rollouts=rollouts, health=hub_health)

    @get("/rollouts/{number:int}", sync_to_thread=True)
    def rollout(self, number: Number, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            rollout, hub_health = service.status(database, number), health.current(database)
            events = event_log.newest(database, SHOWN, rollout=number)
        return page("rollout.html.j2", f"Rollout {number}", request, rollout=rollout, events=events, health=hub_health)

    @post("/rollouts/{number:int}/{verb:str}", sync_to_thread=True)
    def change(self, number: Number, verb: str, data: Form, state: State, request: PageRequest) -> Response[Any]:
        check_form(request, data)
        if verb not in service.VERBS:
            raise NotFoundException("There is no such button.")
        with state.hub.database.writing() as database:
            service.change(database, number, verb, session_of(request).user)
        return Redirect(f"/rollouts/{number}", status_code=303)

    @get("/events", sync_to_thread=True)
    def events(self, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            return page("events.html.j2", "Events", request, events=event_log.newest(database, SHOWN))

    @post("/sign-out", sync_to_thread=True)
    def sign_out(self, data: Form, state: State, request: PageRequest) -> Response[Any]:
        check_form(request, data)
        with state.hub.database.writing() as database:
            accounts.close_session(database, request.cookies.get(COOKIE, ""))
        return Redirect("/sign-in", status_code=303)


HANDLERS = (style, Pages)
