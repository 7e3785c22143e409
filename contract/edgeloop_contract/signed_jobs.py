"""Jobs for devices, signed by the key that signs what devices run: recent log lines, a measurement, a restart. Nothing else.

A job's bytes are signed as DSSE has it (pre-authentication encoding with a type), so that no signature of a job is one of metadata.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgeloop_contract.errors import DataError
from edgeloop_contract.field_types import Count, Device, Short, Text, Time

__all__ = [
    "MAX_DEVICES", "MAX_JOB_SECONDS", "MAX_LINE", "MAX_LINES", "JobAsked", "JobKind", "JobOrder", "JobSignature", "JobWish",
    "SignedJob", "SignedJobDevice", "SignedJobStatus", "SignedJobSummary", "order_of", "signed_bytes",
]  # fmt: skip

PAYLOAD_TYPE = "application/vnd.edgeloop.job+json"
MAX_DEVICES = 100  # that one document names; a larger group takes several
MAX_JOB_SECONDS = 7 * 86400.0  # from its number to its end
MAX_LINES, MAX_LINE = 60, 300  # of a result

JobKind = Literal["logs", "bench", "restart"]
Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{1,1024}(?!\n)$", max_length=1024)]


class JobOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is signed. `number`: milliseconds since 1970 of the signing; devices take higher ones only. `target`: of a bench."""

    number: Count
    kind: JobKind
    devices: Annotated[list[Device], msgspec.Meta(min_length=1, max_length=MAX_DEVICES)]
    expires: Time
    target: Annotated[str, msgspec.Meta(max_length=200)] = ""


class JobSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: Hex
    sig: Hex


class SignedJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`order`: a JobOrder as JSON, the very bytes that were signed."""

    order: Annotated[str, msgspec.Meta(max_length=16_384)]
    signatures: Annotated[list[JobSignature], msgspec.Meta(min_length=1, max_length=10)]


def signed_bytes(order: str) -> bytes:
    """What the signatures are of."""
    kind, body = PAYLOAD_TYPE.encode(), order.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def order_of(job: SignedJob) -> JobOrder:
    """What the job says; whether it is signed is another question. Raises DataError."""
    try:
        order = msgspec.json.decode(job.order, type=JobOrder)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(f"not a job: {error}") from error
    if (order.kind == "bench") != bool(order.target):
        raise DataError("not a job: a measurement names its bundle, and no other job does")
    if not 0 < order.expires - order.number / 1000 <= MAX_JOB_SECONDS:
        raise DataError(f"not a job: it ends within {MAX_JOB_SECONDS / 86400:g} days of its signing")
    return order


class JobWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody asked for on a page: it waits for who has the key. `devices` by name, or all of a group."""

    kind: JobKind
    devices: Annotated[list[Device], msgspec.Meta(max_length=MAX_DEVICES)] = []
    group: Annotated[str, msgspec.Meta(max_length=63)] = ""
    target: Annotated[str, msgspec.Meta(max_length=200)] = ""


class JobAsked(msgspec.Struct, frozen=True):
    """A wish that waits."""

    id: str
    kind: JobKind
    devices: list[str]
    group: str
    target: str
    who: str
    at: float


class SignedJobDevice(msgspec.Struct, frozen=True):
    """What a device made of a job. `state`: waiting, done, refused, or expired."""

    device: str
    state: str
    at: float
    refused: Text = ""
    lines: list[str] = []
    measured: dict[Short, Any] = {}


class SignedJobSummary(msgspec.Struct, frozen=True):
    """`devices`: how many it names; `waiting`: how many have not answered."""

    number: int
    kind: str
    target: str
    expires: float
    who: str
    devices: int
    waiting: int


class SignedJobStatus(msgspec.Struct, frozen=True):
    number: int
    kind: str
    expires: float
    devices: list[SignedJobDevice]
