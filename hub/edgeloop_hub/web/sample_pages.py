"""The page of the labelling queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from edgeloop_hub.drift import reports
from edgeloop_hub.samples import annotating, label_queue, labelling, sample_store, undoing
from edgeloop_hub.samples.values import arrays_of
from edgeloop_hub.updates import registry
from edgeloop_hub.web import annotation_pages, rendering
from edgeloop_hub.web.page import (
    ERROR_PAGES,
    Form,
    PageRequest,
    asset,
    check_form,
    is_person,
    page,
    query_link,
    queue_link,
    session_of,
)

QUEUE_SHOWN = 100  # samples of the queue that are counted


@get("/keys.js", sync_to_thread=False, include_in_schema=False)
def keys() -> Response[bytes]:
    return asset("keys.js", "text/javascript")


@dataclass(frozen=True)
class SamplePart:
    """One input of a sample: a picture, or lines. `name` is empty where the model has one input."""

    name: str
    is_picture: bool
    lines: list[rendering.Line]


class SamplePages(Controller):
    """Behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/queue", sync_to_thread=True)
    def queue(
        self,
        state: State,
        request: PageRequest,
        model: str = "",
        whole: bool = False,
        device: str = "",
        key: str = "",
        last: str = "",
    ) -> Response[bytes]:
        """The next sample, or the one of this device and key: with a button for each label, or what it takes to annotate it.

        `whole`: recordings were last labelled as a whole. `last`: device/key of the sample that was answered before this one.
        """
        person = session_of(request).user
        with state.hub.database.reading() as database:
            waiting = label_queue.waiting(database, model, person, QUEUE_SHOWN, reports.faulty(database))
            first = sample_store.queued(database, device, key) if key else waiting[0] if waiting else None
            row = sample_store.find(database, first.device, first.key) if first else None
            names = registry.labels_of(database, first.model) if first else []
            known = annotating.of_sample(database, first.device, first.key) if first else None
            progress = undoing.progress(database, model, person)
            contested = len(annotating.contested(database, annotation_pages.SHOWN))
        form = annotation_pages.form_of(known, person) if known and known.part else None
        parts = [
            SamplePart(name, rendering.is_image(values), [] if rendering.is_image(values) else rendering.lines(values))
            for name, values in (arrays_of(row) if row is not None else {}).items()
        ]
        names = names or ([first.prediction] if first and first.prediction else [])  # a model without labels has nothing to press
        return page(
            "queue.html.j2", "Labels", request, sample=first, parts=parts, names=names,
            waiting=len(waiting), model=model, whole=whole, form=form, contested=contested, progress=progress,
            last=last.partition("/"),
            drawn=form is not None and form.part in annotation_pages.DRAWN,
        )  # fmt: skip

    @get("/samples/{device:str}/{key:str}/picture.png", sync_to_thread=True)
    def picture(self, device: str, key: str, state: State, input: str = "") -> Response[bytes]:
        with state.hub.database.reading() as database:
            row = sample_store.find(database, device, key)
        values = arrays_of(row).get(input) if row is not None else None
        if values is None or not rendering.is_image(values):
            raise NotFoundException("There is no such picture.")
        return Response(rendering.png(values), media_type="image/png")

    @post("/queue", role="labeller", sync_to_thread=True)
    def answer(self, data: Form, state: State, request: PageRequest) -> Response[Any]:
        check_form(request, data)
        device, key, whole = data.get("device", ""), data.get("key", ""), "whole" in data
        with state.hub.database.writing() as database:
            if data.get("label"):
                person = session_of(request).user
                labelling.label(database, device, key, person, data["label"], state.hub.settings, whole)
            else:
                labelling.skip(database, device, key)
        return Redirect(queue_link(data, whole="true" if whole else ""), status_code=303)

    @post("/queue/undo", role="labeller", sync_to_thread=True)
    def undo(self, data: Form, state: State, request: PageRequest) -> Response[Any]:
        """Take the last answer back, and ask about that sample again."""
        check_form(request, data)
        device, key = data.get("device", ""), data.get("key", "")
        with state.hub.database.writing() as database:
            undoing.undo(database, device, key, session_of(request).user, state.hub.settings)
        return Redirect(query_link("/queue", model=data.get("model", ""), device=device, key=key), status_code=303)


HANDLERS = (keys, SamplePages)
