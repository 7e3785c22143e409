"""The page of drift: discoveries over the fleet first, then devices on one scale. All from what is kept, not from reports."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.params import Parameter

from edgeloop_hub.drift import kept
from edgeloop_hub.drift.expected_accuracy import of_answers
from edgeloop_hub.updates import registry
from edgeloop_hub.web import plots
from edgeloop_hub.web.page import ERROR_PAGES, PageRequest, is_person, page, query_link

DAY = 86400.0
MODELS_SHOWN = 50
DISCOVERIES_SHOWN = 25
PAGE = 25
FAULTS_SHOWN = 5  # of a device
BINS = 96  # of a device's scores
SCALE = 1.5, 5.0  # the highest score of the scale that all devices share: at least, at most
Model = Annotated[str, Parameter(max_length=200)]
PageNumber = Annotated[int, Parameter(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class DriftRow:
    """A device on the page. `top_faults`: the most frequent ones, with their counts; `faults`: how many kinds there are."""

    row: Any
    top_faults: list[tuple[str, int]]
    faults: int
    plot: plots.Plot | None


class DriftPages(Controller):
    """Behind a sign-in."""

    path = "/drift"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get(sync_to_thread=True)
    def drift(
        self, state: State, request: PageRequest, days: float = 1.0, model: Model = "", at: PageNumber = 1
    ) -> Response[bytes]:  # fmt: skip
        """`days`: of the scores. Discoveries are of the last half day to day."""
        now, days = time.time(), min(max(days, 0.01), 30.0) if math.isfinite(days) else 1.0
        with state.hub.database.reading() as database:
            models = kept.models(database, MODELS_SHOWN)
            model = model or (models[0][0] if models else "")
            count = dict(models).get(model, 0)
            last = max(1, math.ceil(count / PAGE))
            at = min(at, last)
            shifts, discovered = kept.discoveries(database, model, now, DISCOVERIES_SHOWN)
            summaries = registry.summaries(database, model)
            accuracy = of_answers(database, kept.answers(database, model, now), summaries, now - DAY)
            stored = kept.devices(database, model, at, PAGE)
            scores = kept.scores(database, [row.device for row in stored], now - days * DAY, now, BINS)
        top = min(max([SCALE[0], *(score for points in scores.values() for _, score in points)]), SCALE[1])
        axis = plots.Axis(now - days * DAY, now)

        def link(**words: object) -> str:
            return query_link("/drift", **{"model": model, "days": f"{days:g}", **words})

        return page(
            "drift.html.j2", "Drift", request, models=models, model=model, count=count, accuracy=accuracy, shifts=shifts,
            discovered=discovered, rows=[row_of(row, scores.get(row.device, []), axis, top) for row in stored], days=days, top=top,
            at=at, last=last, axis=axis, link=link, link_to=lambda number: link(at=number),
        )  # fmt: skip


def row_of(row: Any, scores: list[tuple[float, float]], axis: plots.Axis, top: float) -> DriftRow:
    faults: dict[str, int] = {}
    for half in kept.halves_of(row.body):
        for reason, number in half.faults.items():
            faults[reason] = faults.get(reason, 0) + number
    most = sorted(faults.items(), key=lambda fault: -fault[1])[:FAULTS_SHOWN]
    return DriftRow(row, most, len(faults), plots.plot("drift score", axis, scores, (1.0, "1, an alarm"), top=top))


HANDLERS = (DriftPages,)
