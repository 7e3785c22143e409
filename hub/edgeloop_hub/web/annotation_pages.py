"""Annotations by people: the form of the queue page, and the samples on which people disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.response import Redirect

from edgeloop_contract.annotations import AnnotatedBox, Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.sample_messages import SampleAnnotations
from edgeloop_hub.samples import annotating, labelling
from edgeloop_hub.web.page import ERROR_PAGES, Form, PageRequest, asset, check_form, is_person, page, queue_link, session_of

SHOWN = 100
DRAWN = ("boxes", "masks")  # parts that are drawn on the picture, with a script


@get(
    ["/annotate.js", "/annotate_boxes.js", "/annotate_box_masks.js", "/annotate_masks.js", "/annotate_points.js"],
    sync_to_thread=False,
    include_in_schema=False,
)
def scripts(request: PageRequest) -> Response[bytes]:
    return asset(request.url.path.lstrip("/"), "text/javascript")


@dataclass(frozen=True)
class AnnotationForm:
    """What the queue page shows of a sample that needs more than a label. `start`: JSON that the editor begins with.

    `own`: the person annotated it before, and sees that. `others`: who else annotated it; what they said is not shown.
    `points`: the names of a box's points. `masked`: boxes have masks.
    """

    part: str
    names: list[str]
    start: str
    values: list[float]
    labels: list[str]
    own: bool
    others: list[str]
    height: int
    width: int
    points: list[str]
    masked: bool


def form_of(known: SampleAnnotations, person: str) -> AnnotationForm:
    """The person's own annotation to begin with, else the model's answer; labels that the model no longer knows are left out."""
    start = known.people.get(person) or known.answer
    own, names = person in known.people, set(known.names)
    boxes = [_with_points(box, len(known.points)) for box in (start.boxes if start else None) or [] if box.label in names]
    masks = [mask for mask in (start.masks if start else None) or [] if mask.label in names]
    drawn = Annotation(boxes=boxes) if known.part == "boxes" else Annotation(masks=masks)
    return AnnotationForm(
        known.part, known.names, msgspec.json.encode(drawn).decode(), list((start.values if start else None) or []),
        list((start.labels if start else None) or []), own, sorted(known.people.keys() - {person}), known.shape[0],
        known.shape[1] if len(known.shape) > 1 else 1, known.points, known.masks_of_boxes,
    )  # fmt: skip


def _with_points(box: AnnotatedBox, count: int) -> AnnotatedBox:
    """Without points that are others than the model's."""
    return box if box.points is None or len(box.points) == count else msgspec.structs.replace(box, points=None)


def of_fields(form: dict[str, str]) -> Annotation:
    """The annotation of a posted form: drawn ones as JSON, values and labels as fields. Raises DataError."""
    part = form.get("part", "")
    if part == "values":
        given = [form[name] for name in sorted((n for n in form if n.startswith("value.")), key=_number)]
        try:
            return Annotation(values=[float(text) for text in given])
        except ValueError as error:
            raise DataError("each quantity needs a number, such as 1.5") from error
    if part == "labels":
        return Annotation(labels=[form[name] for name in sorted((n for n in form if n.startswith("holds.")), key=_number)])
    try:
        return msgspec.json.decode(form.get("annotation", ""), type=Annotation)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"the form holds no annotation ({error}); boxes and masks need the page's script") from error


def _number(name: str) -> int:
    number = name.partition(".")[2]
    return int(number) if number.isdecimal() and len(number) < 6 else 0


class AnnotationPages(Controller):
    """Behind a sign-in."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @post("/annotations", role="labeller", sync_to_thread=True)
    def answer(self, data: Form, state: State, request: PageRequest) -> Response[Any]:
        check_form(request, data)
        device, key, hub = data.get("device", ""), data.get("key", ""), state.hub
        if "skip" in data:
            with hub.database.writing() as database:
                labelling.skip(database, device, key)
        else:
            said = of_fields(data)
            with hub.database.writing() as database:
                annotating.annotate(database, device, key, session_of(request).user, said, hub.settings)
        return Redirect(queue_link(data), status_code=303)

    @get("/disagreements", sync_to_thread=True)
    def disagreements(self, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            found = annotating.disagreements(database, state.hub.settings, SHOWN)
        return page("disagreements.html.j2", "Disagreements", request, found=found)


HANDLERS = (scripts, AnnotationPages)
