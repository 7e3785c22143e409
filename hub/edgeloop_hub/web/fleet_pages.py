"""The page of the fleet: tiles that filter, search, tags, the worst first, a page at a time."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Annotated

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.params import Parameter

from edgeloop_hub import health
from edgeloop_hub.fleet import finding
from edgeloop_hub.rollouts import service
from edgeloop_hub.web.page import ERROR_PAGES, PageRequest, is_person, page, query_link

Word = Annotated[str, Parameter(max_length=200)]
PageNumber = Annotated[int, Parameter(ge=1, le=1_000_000)]
ROLLOUTS_SHOWN = 5


class FleetPage(Controller):
    """Behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/", sync_to_thread=True)
    def fleet(
        self, state: State, request: PageRequest, q: Word = "", tag: Word = "", model: Word = "", bundle: Word = "",
        group: Word = "", sort: Word = "", show: Word = "", at: PageNumber = 1,
    ) -> Response[bytes]:  # fmt: skip
        """Filters and order as the form and the tiles name them."""
        asked, now = finding.Filter(show, q.strip(), tag, model, bundle, group), time.time()
        with state.hub.database.reading() as database:
            counts = finding.counts(database, asked, now)
            count = _count(counts, show)
            last = max(1, math.ceil(count / finding.PAGE))
            devices = finding.found(database, asked, sort, min(at, last), now)
            tags = finding.tags(database)
            rollouts, hub_health = service.summaries(database)[:ROLLOUTS_SHOWN], health.current(database, state.hub.settings)

        def link(**changed: object) -> str:
            return query_link("/", **{**asdict(asked), "sort": sort, **changed})

        return page(
            "fleet.html.j2", "Fleet", request, devices=devices, counts=counts, count=count, asked=asked, nothing=finding.Filter(),
            sort=sort, tags=tags, at=min(at, last), last=last, link=link, link_to=lambda number: link(at=number),
            rollouts=rollouts, health=hub_health,
        )  # fmt: skip


def _count(counts: finding.FleetCounts, state: str) -> int:
    """Devices of all pages."""
    by_state = {str(name): number for name, number in counts.by_state.items()}
    return {**by_state, "fine": counts.fine, "revoked": counts.revoked}.get(state, counts.devices + counts.revoked)


HANDLERS = (FleetPage,)
