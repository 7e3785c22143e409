"""The page of events, and the stylesheet."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.params import Parameter

from edgeloop_hub import event_list
from edgeloop_hub.web.page import ERROR_PAGES, PageRequest, asset, is_person, page, query_link

Word = Annotated[str, Parameter(max_length=300)]


@get("/style.css", sync_to_thread=False, include_in_schema=False)
def style() -> Response[bytes]:
    return asset("style.css", "text/css")


class Pages(Controller):
    """Everything behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/events", sync_to_thread=True)
    def events(
        self, state: State, request: PageRequest, severity: Word = "", source: Word = "", kind: Word = "", after: Word = "",
    ) -> Response[bytes]:  # fmt: skip
        """`after`: the place of the last event of the page before."""
        with state.hub.database.reading() as database:
            events, last = event_list.listed(database, severity, source.strip(), kind.strip(), before=event_list.place_of(after))

        def link(**changed: str) -> str:
            return query_link("/events", **{"severity": severity, "source": source, "kind": kind, **changed})

        return page(
            "events.html.j2", "Events", request, events=events, severity=severity, source=source, kind=kind, after=after,
            link=link, following="~".join(map(str, last)) if last else "",
        )  # fmt: skip


HANDLERS = (style, Pages)
