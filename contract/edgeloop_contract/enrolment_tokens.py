"""Tokens with which several devices enrol, as the workstation asks for them and the hub answers."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgeloop_contract.field_types import Device

__all__ = ["MAX_AT_ONCE", "EnrolmentTokens", "EnrolmentTokensRequest"]

MAX_AT_ONCE = 500
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]


class EnrolmentTokensRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`labels`: of each device. `why`: for the audit log."""

    devices: Annotated[list[Device], msgspec.Meta(min_length=1, max_length=MAX_AT_ONCE)]
    why: Line
    labels: Annotated[list[Device], msgspec.Meta(max_length=20)] = []


class EnrolmentTokens(msgspec.Struct, frozen=True):
    """A token for each device, in the order of the request. The hub shows them once."""

    tokens: list[str]
