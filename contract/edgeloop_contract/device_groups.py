"""Groups of devices and channels, as the workstation sends them and the hub answers."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgeloop_contract.field_types import Device

__all__ = ["ChannelRequest", "DeviceChannel", "GroupRequest", "GroupStatus"]

Line = Annotated[str, msgspec.Meta(max_length=300)]


class GroupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a group is to be. `tags`: such as `line-3 and not spare`. `windows`: such as `mon-fri 22:00-05:00`; none: any time."""

    tags: Line = ""
    devices: Annotated[list[Device], msgspec.Meta(max_length=10_000)] = []
    channel: Annotated[str, msgspec.Meta(max_length=63)] = ""
    windows: Annotated[list[Line], msgspec.Meta(max_length=20)] = []
    time_zone: Annotated[str, msgspec.Meta(max_length=63)] = "UTC"


class GroupStatus(msgspec.Struct, frozen=True):
    """A group as it stands. `devices`: how many are in it. `open`: whether its devices are offered updates now.

    `pins`: the bundle that its devices stay with, by model.
    """

    name: str
    tags: str
    named: list[str]
    channel: str
    windows: list[str]
    time_zone: str
    devices: int
    open: bool
    pins: dict[str, str] = {}


class ChannelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The channel that a device is to follow; empty: by its groups again."""

    channel: Annotated[str, msgspec.Meta(max_length=63)]


class DeviceChannel(msgspec.Struct, frozen=True):
    """The channel that a device follows now."""

    device: str
    channel: str
