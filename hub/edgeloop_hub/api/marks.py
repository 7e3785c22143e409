"""The HTTP interface for what people say of a device: its tags, the bundle that it is pinned to, a note."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, delete, get, put
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from sqlalchemy import Connection

from edgeloop_contract.device_marks import DeviceMarks, NoteRequest, PinRequest, TagsRequest
from edgeloop_hub.auth import audit
from edgeloop_hub.auth.guards import client_of, is_workstation, token_name
from edgeloop_hub.fleet import finding, marks, removal
from edgeloop_hub.http.error_responses import documents_errors

WHO = "token"
Asked = Request[Any, Any, Any]


@documents_errors(400, 401, 403, 503)
class Marks(Controller):
    """For the workstation: tag, pin, note and delete devices."""

    path = "/api/v1/devices/{name:str}"
    guards = [is_workstation]
    tags = ["workstation"]

    @delete(sync_to_thread=True, scope="operate", status_code=200, raises=[NotFoundException])
    def remove(self, name: str, state: State, request: Asked) -> None:
        """Delete the device. Samples, labels, events and the audit log stay under its name."""
        with state.hub.database.writing() as database:
            _known(database, name)
            removal.remove(database, name, WHO)
            audit.append(database, token_name(request), "device delete", name, "", client_of(request))
        removal.forget_reports(state.hub.database, name)

    @get("/marks", sync_to_thread=True, raises=[NotFoundException])
    def marks(self, name: str, state: State) -> DeviceMarks:
        """Its labels and tags, the bundle that it is pinned to, and the note."""
        with state.hub.database.reading() as database:
            return _known(database, name)

    @put("/tags", scope="operate", sync_to_thread=True, raises=[NotFoundException])
    def tag(self, name: str, data: TagsRequest, state: State, request: Asked) -> DeviceMarks:
        """These tags instead of those before."""
        with state.hub.database.writing() as database:
            _known(database, name)
            marks.tag(database, name, data.tags, WHO)
            audit.append(database, token_name(request), "device tags", name, " ".join(data.tags), client_of(request))
            return _known(database, name)

    @put("/pin", scope="operate", sync_to_thread=True, raises=[NotFoundException])
    def pin(self, name: str, data: PinRequest, state: State, request: Asked) -> DeviceMarks:
        """The device is offered this bundle, and no other."""
        with state.hub.database.writing() as database:
            _known(database, name)
            marks.pin(database, name, data.target, WHO)
            audit.append(database, token_name(request), "device pin", name, data.target, client_of(request))
            return _known(database, name)

    @delete("/pin", scope="operate", sync_to_thread=True, status_code=200, raises=[NotFoundException])
    def unpin(self, name: str, state: State, request: Asked) -> DeviceMarks:
        """The device follows releases and rollouts again."""
        with state.hub.database.writing() as database:
            _known(database, name)
            marks.unpin(database, name, WHO)
            audit.append(database, token_name(request), "device unpin", name, "", client_of(request))
            return _known(database, name)

    @put("/note", scope="operate", sync_to_thread=True, raises=[NotFoundException])
    def note(self, name: str, data: NoteRequest, state: State, request: Asked) -> DeviceMarks:
        """This note instead of the one before."""
        with state.hub.database.writing() as database:
            _known(database, name)
            marks.note(database, name, data.text, WHO)
            audit.append(database, token_name(request), "device note", name, data.text, client_of(request))
            return _known(database, name)


def _known(database: Connection, name: str) -> DeviceMarks:
    if not marks.is_device(database, name):
        raise NotFoundException(f"there is no device {name[:80]}")
    tags = finding.tags_of(database, [name]).get(name, [])
    pin, note = marks.pinned(database, name), marks.note_of(database, name)
    return DeviceMarks(
        device=name, labels=[tag for tag, fixed in tags if fixed], tags=[tag for tag, fixed in tags if not fixed],
        pinned=pin.target if pin else "", note=note.text if note else "",
    )  # fmt: skip
