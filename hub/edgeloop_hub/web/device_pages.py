"""The page of a device: its state, its last hours on one time axis, and what a person may do to it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.response import Redirect

from edgeloop_contract.errors import UsageError
from edgeloop_contract.signed_jobs import JobWish
from edgeloop_hub import event_list, event_log
from edgeloop_hub.auth import accounts, audit
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.fleet import finding, history, inventory, jobs, logs, marks, removal, signed_jobs
from edgeloop_hub.groups import pins, store
from edgeloop_hub.updates import registry
from edgeloop_hub.web.page import ERROR_PAGES, Form, PageRequest, check_form, is_person, page, session_of
from edgeloop_hub.web.plots import Axis, Plot, plot

EVENTS_SHOWN = 50
MEASUREMENTS_SHOWN, JOBS_SHOWN = 10, 5
TARGETS_SHOWN = 50
HOURS = (6, 24, 168, 720)
USUAL_HOT_CELSIUS = 82.0  # an agent's own limit, unless its config says another one
MIB = 1 << 20


class DevicePages(Controller):
    """Behind a sign-in."""

    path = "/devices"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/{name:str}", sync_to_thread=True)
    def device(
        self, name: str, state: State, request: PageRequest, hours: Annotated[int, Parameter(ge=1, le=8784)] = 24
    ) -> Response[bytes]:  # fmt: skip
        now = time.time()
        with state.hub.database.reading() as database:
            device, found = next(iter(inventory.listed(database, name=name)), None), finding.one(database, name, now)
            if device is None or found is None:
                raise NotFoundException(f"There is no device {name}.")
            past = history.of_device(database, name, now - hours * 3600)
            limit = history.latency_limit(database, past)
            values: dict[str, Any] = {
                "events": event_list.listed(database, source=name, limit=EVENTS_SHOWN)[0],
                "measurements": jobs.newest(database, name, MEASUREMENTS_SHOWN),
                "lines": logs.last(database, name), "note": marks.note_of(database, name), "pin": marks.pinned(database, name),
                "signed": signed_jobs.of_device(database, name, JOBS_SHOWN), "wishes": signed_jobs.wishes(database, name),
                "groups": [(one.name, store.state_words(one, now)) for one in store.of_device(database, name)],
                "group_pins": pins.of_device(database, name),
                "targets": registry.targets_of(database, device.model, TARGETS_SHOWN),
            }  # fmt: skip
        axis = Axis(now - hours * 3600, now, past.releases)
        return page(
            "device.html.j2", name, request, section="Fleet", device=device, found=found, axis=axis, past=past, hours=hours,
            plots=plots_of(axis, past, limit), ranges=HOURS, **values,
        )  # fmt: skip

    @get("/{name:str}/{verb:str}", sync_to_thread=True)
    def ask_first(self, name: str, verb: str, request: PageRequest) -> Response[bytes]:
        if verb not in CONFIRMED:
            raise NotFoundException("There is no such page.")
        return page(
            "confirm.html.j2", f"{verb.capitalize()} {name[:63]}?", request, section="Fleet", action=f"/devices/{name}/{verb}",
            button=verb.capitalize(), back=f"/devices/{name}", lines=CONFIRMED[verb],
        )  # fmt: skip

    @post("/{name:str}/{verb:str}", role="operator", sync_to_thread=True)
    def act(self, name: str, verb: str, data: Form, state: State, request: PageRequest) -> Response[Any]:
        check_form(request, data)
        if verb not in ACTIONS:
            raise NotFoundException("There is no such button.")
        if verb in CONFIRMED and data.get("sure") != "yes":
            return Redirect(f"/devices/{name}/{verb}", status_code=303)
        with state.hub.database.writing() as database:
            ACTIONS[verb](database, name, data, session_of(request).user)
            detail = data.get(DETAILS.get(verb, ""), "")
            audit.append(database, session_of(request).user, f"device {verb}", name, detail, client_of(request))
        if verb == "delete":
            removal.forget_reports(state.hub.database, name)
            return Redirect("/", status_code=303)
        return Redirect(f"/devices/{name}", status_code=303)


def _bench(database: Any, name: str, form: dict[str, str], who: str) -> None:
    target = form.get("target", "")
    if not jobs.is_enrolled(database, name):
        raise UsageError(f"there is no device {name[:80]!r}, or it was revoked")
    if not jobs.is_published(database, target):
        raise UsageError(f"{target[:200]!r} is not published")
    jobs.create(database, name, target)
    event_log.record(database, "measurement asked", f"{name} by {who}", target)


def _job(database: Any, name: str, form: dict[str, str], who: str) -> None:
    kind = form.get("kind", "")
    asked = {"kind": kind, "devices": [name], "target": form.get("target", "") if kind == "bench" else ""}
    try:
        signed_jobs.wish(database, msgspec.convert(asked, JobWish), who)
    except msgspec.ValidationError as error:
        raise UsageError(f"there is no such job ({error})") from error


def _revoke(database: Any, name: str, _: dict[str, str], who: str) -> None:
    accounts.revoke(database, name)
    event_log.record(database, "revoked", f"{name} by {who}")


ACTIONS: dict[str, Any] = {
    "pin": lambda database, name, form, who: marks.pin(database, name, form.get("target", ""), who),
    "unpin": lambda database, name, _, who: marks.unpin(database, name, who),
    "tags": lambda database, name, form, who: marks.tag(database, name, form.get("tags", "").replace(",", " ").split(), who),
    "note": lambda database, name, form, who: marks.note(database, name, form.get("text", ""), who),
    "channel": lambda database, name, form, who: store.set_channel(database, name, form.get("channel", "").strip(), who),
    "bench": _bench,
    "job": _job,
    "revoke": _revoke,
    "delete": lambda database, name, _, who: removal.remove(database, name, who),
}


CONFIRMED = {  # what is asked about first, and what it means
    "revoke": [
        "Its credential ends: the hub takes no report of it, and gives it nothing, from now on.",
        "The device goes on with the bundle that it runs.",
        "It can come back with a new token: edgeloop-hub token enrol NAME.",
    ],
    "delete": [
        "Its credential ends, and its reports, tags, pin and note are deleted.",
        "Its samples, labels and events stay under its name, and so does the audit log.",
        "The device goes on with the bundle that it runs. It can come back with a new token.",
    ],
}
DETAILS: dict[str, str] = {  # the field of each form that the audit log keeps
    "pin": "target", "bench": "target", "tags": "tags", "note": "text", "channel": "channel", "job": "kind",
}  # fmt: skip


def plots_of(axis: Axis, past: history.History, latency_limit: tuple[float, str] | None) -> list[Plot]:
    """One for each figure that was reported in this time."""
    beats = past.beats
    memory = [(at, b.memory_bytes / MIB if b.memory_bytes is not None else None) for at, b in beats]
    minutes = [(at, b.answered / b.seconds * 60 if b.seconds >= 1 else None) for at, b in beats]
    confidence = [(at, b.confidence.mean if b.confidence.count else None) for at, b in beats]
    hot = (USUAL_HOT_CELSIUS, f"{USUAL_HOT_CELSIUS:.0f} °C, an agent's usual one")
    drawn = (
        plot(
            "p95 latency, µs",
            axis,
            [(at, b.latency_us_p95) for at, b in beats],
            latency_limit,
            ranges=past.ranges["latency_us_p95"],
        ),
        plot("memory, MiB", axis, memory, ranges=[(at, low / MIB, high / MIB) for at, low, high in past.ranges["memory_bytes"]]),
        plot("heat, °C", axis, [(at, b.celsius) for at, b in beats], hot, ranges=past.ranges["celsius"]),
        plot("drift score", axis, past.scores, (1.0, "1, an alarm")),
        plot("answers a minute", axis, minutes),
        plot("mean confidence", axis, confidence),
    )
    return [one for one in drawn if one is not None]


HANDLERS = (DevicePages,)
