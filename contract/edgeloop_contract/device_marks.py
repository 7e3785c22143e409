"""What people say of a device, as the workstation sends it and the hub answers: tags, a pin, a note."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgeloop_contract.field_types import Device, Target, Text

__all__ = ["DeviceMarks", "NoteRequest", "PinRequest", "TagsRequest"]


class TagsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tags that a device is to have, instead of those before. Each is a name: a-z, 0-9 and -."""

    tags: Annotated[list[Device], msgspec.Meta(max_length=20)]


class PinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle that a device stays with, whatever is rolled out."""

    target: Target


class NoteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What people should know of a device; empty: the note is deleted."""

    text: Text


class DeviceMarks(msgspec.Struct, frozen=True):
    """What people said of a device. `labels`: of its enrolment, which choose cohorts. `pinned`: a target, or nothing."""

    device: str
    labels: list[str]
    tags: list[str]
    pinned: str
    note: str
