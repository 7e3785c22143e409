"""The page of versions: where each runs, and what changed against its parent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.params import Parameter

from edgeloop_contract.hub_messages import PublishedBundle
from edgeloop_hub.fleet import finding
from edgeloop_hub.updates import lineage, registry
from edgeloop_hub.web.page import ERROR_PAGES, PageRequest, is_person, page, query_link

PAGE = 20
Model = Annotated[str, Parameter(max_length=200)]
PageNumber = Annotated[int, Parameter(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class Version:
    """A bundle on the page. `before`: its parent where that is published, else the version before it; None: it is the first."""

    bundle: PublishedBundle
    devices: int
    released: bool
    before: PublishedBundle | None
    is_parent: bool
    changes: list[str]


class VersionPages(Controller):
    """Behind a sign-in."""

    path = "/versions"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get(sync_to_thread=True)
    def versions(self, state: State, request: PageRequest, model: Model = "", at: PageNumber = 1) -> Response[bytes]:
        with state.hub.database.reading() as database:
            bundles = registry.published(database)
            running, released = finding.running(database), registry.released_targets(database)
        models = sorted({bundle.model for bundle in bundles})
        chosen = [bundle for bundle in bundles if not model or bundle.model == model]
        last = max(1, math.ceil(len(chosen) / PAGE))
        at = min(at, last)
        shown = [version_of(b, bundles, running, released) for b in chosen[(at - 1) * PAGE : at * PAGE]]
        return page(
            "versions.html.j2", "Versions", request, versions=shown, models=models, model=model, at=at, last=last,
            count=len(chosen), link_to=lambda number: query_link("/versions", model=model, at=number),
        )  # fmt: skip


def version_of(bundle: PublishedBundle, bundles: list[PublishedBundle], running: dict[str, int], released: set[str]) -> Version:
    parent = next((b for b in bundles if bundle.parent and b.sha256 == bundle.parent), None)
    earlier = [b for b in bundles if b.model == bundle.model and b.version < bundle.version]
    before = parent or max(earlier, key=lambda b: b.version, default=None)
    changes = lineage.changes(bundle, before) if before else []
    return Version(bundle, running.get(bundle.sha256, 0), bundle.target in released, before, parent is not None, changes)


HANDLERS = (VersionPages,)
