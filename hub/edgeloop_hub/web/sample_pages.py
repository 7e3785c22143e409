"""Pages for what the field says: drift over the fleet, and the labelling queue."""

from __future__ import annotations

import time
from typing import Any

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.response import Redirect
from sqlalchemy import Connection

from edgeloop_hub.drift import reports, summary
from edgeloop_hub.samples import label_queue
from edgeloop_hub.samples.values import array_of
from edgeloop_hub.web import plots, rendering
from edgeloop_hub.web.pages import DEVICES_SHOWN, HANDLED, HERE, SHOWN, Asking, Form, check_form, is_person, page

DAY = 86400.0
FAULTS_SHOWN = 5  # of a device, on a page


@get("/keys.js", sync_to_thread=False, include_in_schema=False)
def keys() -> Response[bytes]:
    return Response((HERE / "keys.js").read_bytes(), media_type="text/javascript", headers={"Cache-Control": "max-age=300"})


class SamplePages(Controller):
    """Behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = HANDLED

    @get("/drift", sync_to_thread=True)
    def drift(self, state: State, request: Asking, days: float = 1.0) -> Response[bytes]:
        seconds = min(max(days, 0.01), 365.0) * DAY
        with state.hub.database.reading() as database:
            found = [_looked_at(database, model, seconds) for model in reports.models(database)]
        return page("drift.html.j2", "Drift", request, models=found, days=days)

    @get("/queue", sync_to_thread=True)
    def queue(self, state: State, request: Asking, model: str = "", whole: bool = False) -> Response[bytes]:
        """The next sample, with a button for each label. `whole`: recordings were last labelled as a whole."""
        person = request.scope["person"][0]  # type: ignore[typeddict-item]
        with state.hub.database.reading() as database:
            waiting = label_queue.waiting(database, model, person, 100, reports.faulty(database))
            first = waiting[0] if waiting else None
            row = label_queue.find(database, first["device"], first["key"]) if first else None
            names = label_queue.names_of(database, first["model"]) if first else []
        sample = array_of(row) if row is not None else None
        image = sample is not None and rendering.is_image(sample)
        lines = rendering.lines(sample) if sample is not None and not image else []
        names = names or ([first["guess"]] if first else [])
        return page(
            "queue.html.j2", "Labels", request, sample=first, image=image, lines=lines, names=names,
            waiting=len(waiting), model=model, whole=whole,
        )  # fmt: skip

    @get("/samples/{device:str}/{key:str}/picture.png", sync_to_thread=True)
    def picture(self, device: str, key: str, state: State) -> Response[bytes]:
        with state.hub.database.reading() as database:
            row = label_queue.find(database, device, key)
        if row is None or not rendering.is_image(found := array_of(row)):
            raise NotFoundException("There is no such picture.")
        return Response(rendering.png(found), media_type="image/png")

    @post("/queue", sync_to_thread=True)
    def answer(self, data: Form, state: State, request: Asking) -> Response[Any]:
        check_form(request, data)
        person = request.scope["person"][0]  # type: ignore[typeddict-item]
        with state.hub.database.writing() as database:
            device, key, whole = data.get("device", ""), data.get("key", ""), "whole" in data
            if data.get("label"):
                label_queue.label(database, device, key, person, data["label"], state.hub.settings, whole)
            else:
                label_queue.skip(database, device, key)
        kept = {"model": data.get("model", ""), "whole": "true" if "whole" in data else ""}
        return Redirect("/queue", status_code=303, query_params={name: value for name, value in kept.items() if value})


def _looked_at(database: Connection, model: str, seconds: float) -> dict[str, Any]:
    """A model's drift as the page shows it: of many devices those that drift, or come nearest to it."""
    rows = reports.of_model(database, model, time.time() - seconds)
    told = summary.described(database, model, seconds, rows)
    every = sorted(told["devices"], key=lambda device: (not device["drifting"], -device["score"], device["device"]))
    shown = every if len(every) <= DEVICES_SHOWN else every[:DEVICES_SHOWN]
    for device in shown:  # the most frequent ones: no device fills the page
        device["most_faults"] = sorted(device["faults"].items(), key=lambda fault: -fault[1])[:FAULTS_SHOWN]
    drawn = {device["device"]: plots.of_drift(rows[device["device"]][-SHOWN:]) for device in shown}
    return {**told, "devices": shown, "count": len(every), "plots": drawn}


HANDLERS = (keys, SamplePages)
