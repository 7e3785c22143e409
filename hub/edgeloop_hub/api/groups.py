"""The HTTP interface for groups of devices, and for the channel of one."""

from __future__ import annotations

import time
from typing import Annotated, Any

from litestar import Controller, Request, delete, get, put
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from sqlalchemy import Connection

from edgeloop_contract.device_groups import ChannelRequest, DeviceChannel, GroupRequest, GroupStatus
from edgeloop_contract.device_marks import PinRequest
from edgeloop_hub.auth import audit
from edgeloop_hub.auth.guards import client_of, is_workstation, token_name
from edgeloop_hub.fleet import marks
from edgeloop_hub.groups import pins, store
from edgeloop_hub.http.error_responses import documents_errors

WHO = "token"
Asked = Request[Any, Any, Any]
Name = Annotated[str, Parameter(max_length=63)]
Model = Annotated[str, Parameter(max_length=200, description="whose pin ends")]


@documents_errors(400, 401, 403, 503)
class Groups(Controller):
    """For the workstation: groups of devices, and channels."""

    path = "/api/v1"
    guards = [is_workstation]
    tags = ["workstation"]

    @get("/groups", sync_to_thread=True)
    def groups(self, state: State) -> list[GroupStatus]:
        """All groups, by name."""
        with state.hub.database.reading() as database:
            return [_status(database, group) for group in store.listed(database)]

    @get("/groups/{name:str}/devices", sync_to_thread=True, raises=[NotFoundException])
    def devices(self, name: Name, state: State, after: Name = "") -> list[str]:
        """Names of its devices, the first thousand behind the name `after`."""
        with state.hub.database.reading() as database:
            return store.members(database, _known(database, name), after)

    @put("/groups/{name:str}", scope="operate", sync_to_thread=True)
    def save(self, name: Name, data: GroupRequest, state: State, request: Asked) -> GroupStatus:
        """Make a group, or say anew what it is."""
        with state.hub.database.writing() as database:
            store.save(database, name, data, WHO)
            audit.append(database, token_name(request), "group set", name, store.words(data), client_of(request))
            return _status(database, store.find(database, name))

    @delete("/groups/{name:str}", scope="operate", sync_to_thread=True, status_code=200, raises=[NotFoundException])
    def remove(self, name: Name, state: State, request: Asked) -> None:
        """Its devices stay."""
        with state.hub.database.writing() as database:
            _known(database, name)
            store.remove(database, name, WHO)
            audit.append(database, token_name(request), "group deleted", name, address=client_of(request))

    @put("/groups/{name:str}/pin", scope="operate", sync_to_thread=True, raises=[NotFoundException])
    def pin(self, name: Name, data: PinRequest, state: State, request: Asked) -> GroupStatus:
        """Its devices of the bundle's model are offered this bundle, and no other."""
        with state.hub.database.writing() as database:
            group = _known(database, name)
            pins.pin(database, name, data.target, WHO)
            audit.append(database, token_name(request), "group pin", name, data.target, client_of(request))
            return _status(database, group)

    @delete("/groups/{name:str}/pin", scope="operate", sync_to_thread=True, status_code=200, raises=[NotFoundException])
    def unpin(self, name: Name, model: Model, state: State, request: Asked) -> GroupStatus:
        """Its devices follow releases and rollouts of this model again."""
        with state.hub.database.writing() as database:
            group = _known(database, name)
            target = pins.unpin(database, name, model, WHO)
            audit.append(database, token_name(request), "group unpin", name, target, client_of(request))
            return _status(database, group)

    @put("/devices/{name:str}/channel", scope="operate", sync_to_thread=True, raises=[NotFoundException])
    def channel(self, name: Name, data: ChannelRequest, state: State, request: Asked) -> DeviceChannel:
        """The channel of this device, whatever its groups say; empty: by them again."""
        with state.hub.database.writing() as database:
            if not marks.is_device(database, name):
                raise NotFoundException(f"there is no device {name[:80]}")
            now = store.set_channel(database, name, data.channel, WHO)
            audit.append(database, token_name(request), "device channel", name, data.channel, client_of(request))
            return DeviceChannel(name, now)


def _known(database: Connection, name: str) -> store.Group:
    found = next((group for group in store.listed(database) if group.name == name), None)
    if found is None:
        raise NotFoundException(f"there is no group {name[:80]}")
    return found


def _status(database: Connection, group: store.Group) -> GroupStatus:
    is_open = not group.windows or group.closes_at(time.time()) is not None
    return GroupStatus(
        group.name, group.tags, store.named_devices(database, group.name), group.channel, list(group.windows), group.time_zone,
        store.count(database, group), is_open, {pin.model: pin.target for pin in pins.listed(database, group.name)},
    )  # fmt: skip
