"""The HTTP interface for devices: enrol, poll, report, fetch signed files."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from litestar import Controller, Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotAuthorizedException, NotFoundException, TooManyRequestsException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Stream
from sqlalchemy import select

from edgeloop_contract.errors import StorageError
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import READS_HEADER, REDIRECTS_HEADER, Assignment, Enrolled, Enrolment, Report
from edgeloop_hub import event_log
from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.guards import NO_DEVICE, asking, bearer, client_of, is_device, may_read_updates
from edgeloop_hub.auth.known_credentials import KnownCredentials
from edgeloop_hub.fleet import assignment, reports
from edgeloop_hub.groups import store
from edgeloop_hub.http.error_responses import documents_errors
from edgeloop_hub.http.together import Together
from edgeloop_hub.hub import Hub
from edgeloop_hub.storage.schema import bundles
from edgeloop_hub.updates import deltas, signing

AT_ONCE = 32  # requests that one transaction serves
REPORT_CALLS = 2  # transactions with reports of one worker, on PostgreSQL: most of one is the wait for its commit
WRONG_TOKEN = "the token is wrong, used, or too old; make one with edgeloop-hub token enrol"


def together(hub: Hub) -> dict[str, Any]:
    """What requests of several devices share, for the application's state: who asks, what polls want, and reports."""
    credentials = KnownCredentials()

    def known(secrets: Sequence[str]) -> list[accounts.EnrolledDevice | None]:
        with hub.database.reading() as database:
            found = accounts.devices_of(database, secrets)
        for secret, device in zip(secrets, found, strict=True):
            if device is not None:
                credentials.note(secret, device.name)
        return found

    def polled(secrets: Sequence[str]) -> list[assignment.Poll | None]:
        with hub.database.reading() as database:
            return assignment.polls(database, secrets)

    def stored(came: Sequence[reports.Came]) -> list[bool]:
        return reports.store_together(hub.database, came, hub.settings)

    away, calls = (StorageError,), 1 if hub.database.is_sqlite else REPORT_CALLS
    return {
        "devices": Together(known, AT_ONCE, away), "polls": Together(polled, AT_ONCE, away),
        "reports": Together(stored, AT_ONCE, away, calls), "known": credentials,
    }  # fmt: skip


async def _polls(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: a device, as `is_device`; the same query says what it is to run."""
    poll: assignment.Poll | None = await connection.app.state.polls(bearer(connection))
    if poll is None:
        raise NotAuthorizedException(NO_DEVICE)
    connection.scope["poll"] = poll  # type: ignore[typeddict-unknown-key]


def _offer(hub: Hub, device: accounts.EnrolledDevice, reads: int) -> tuple[Assignment, int]:
    """The assignment, and the version of the newest signed targets."""
    with hub.database.reading() as database:
        offer = assignment.assignment(database, device, hub.settings, reads)
        return offer, signing.latest_version(database, "targets")


@documents_errors(400, 503)
class Devices(Controller):
    """For devices: enrol, poll, report, and fetch signed files."""

    path = "/"
    tags = ["devices"]

    @post("/api/v1/enrol", sync_to_thread=True, status_code=200, raises=[NotAuthorizedException, TooManyRequestsException])
    def enrol(self, data: Enrolment, state: State, request: Request[Any, Any, Any]) -> Enrolled:
        """Exchange a one-time token for a credential of the device's own, and the root of trust."""
        hub, who = state.hub, accounts.from_address(f"enrol {client_of(request)}")
        with hub.database.reading() as database:
            good = accounts.is_enrolment(database, data.token)
        if not good:  # the tries of others never delay a good token
            with hub.database.writing() as database:
                may = accounts.may_try(database, who, hub.settings.sign_in_tries_per_address, hub.settings)
            if not may:
                raise TooManyRequestsException("too many tries with wrong tokens from this address; wait a quarter of an hour")
            raise NotAuthorizedException(WRONG_TOKEN)
        with hub.database.writing() as database:
            root = signing.latest(database, "root")
            if root is None:
                raise ClientException("this hub has no keys yet; run edgeloop keys init on the workstation")
            enrolled = accounts.enrol(database, data, root.body)
            if enrolled is not None:
                store.apply(database, data.device)
                event_log.record(database, "enrolled", data.device)
        if enrolled is None:
            raise NotAuthorizedException(WRONG_TOKEN)
        return enrolled

    @get("/api/v1/update", guards=[_polls], raises=[NotAuthorizedException])
    async def update(self, state: State, request: Request[Any, Any, Any]) -> Response[Assignment | None]:
        """What the device should run and send. With the ETag of the last answer: 304 while that answer holds."""
        poll: assignment.Poll = request.scope["poll"]  # type: ignore[typeddict-item]
        reads = _reads(request)
        if poll.target is None or (poll.target and reads < SCHEMA):
            offer, version = await asyncio.to_thread(_offer, state.hub, poll.device, reads)
        else:
            offer, version = Assignment(target=poll.target, until=poll.until), poll.targets_version
        wanted, others = _short_digest(offer.recordings), _short_digest(offer.others)
        job, signed = offer.job.id if offer.job else "", _short_digest([offer.signed_job] if offer.signed_job else [])
        etag = f'"{version}-{offer.target}-{offer.needs_upgrade}-{job}-{wanted}{others}-{offer.until:.0f}{signed}"'
        if request.headers.get("if-none-match") == etag:
            return Response(None, status_code=304, headers={"ETag": etag})
        return Response(offer, headers={"ETag": etag})

    @post(
        "/api/v1/report", guards=[is_device], status_code=200, raises=[NotAuthorizedException, TooManyRequestsException]
    )  # fmt: skip
    async def report(self, data: Report, state: State, request: Request[Any, Any, Any]) -> None:
        """A heartbeat, events, drift and a job's result. A report that is sent twice is stored once."""
        came = reports.Came(asking(request), data)
        if reports.is_short(data):
            stored = await state.reports(came)
        else:
            (stored,) = await asyncio.to_thread(reports.store_together, state.hub.database, [came], state.hub.settings)
        if not stored:
            raise TooManyRequestsException("too many reports in this hour")

    @get(
        "/tuf/metadata/{file:str}",
        guards=[may_read_updates],
        sync_to_thread=True,
        raises=[NotAuthorizedException, NotFoundException],
    )
    def metadata(self, file: str, state: State) -> Response[bytes]:
        """Signed metadata, such as timestamp.json or 3.targets.json."""
        with state.hub.database.reading() as database:
            content = signing.find(database, file)
        if content is None:
            raise NotFoundException("there is no such metadata")
        return Response(content, media_type="application/json")

    @get(
        "/tuf/targets/{file:str}",
        guards=[may_read_updates],
        sync_to_thread=True,
        raises=[NotAuthorizedException, NotFoundException],
        responses={307: ResponseSpec(None, generate_examples=False, description="the bytes are at the signed address in Location")},
    )
    def target(self, file: str, state: State, request: Request[Any, Any, Any]) -> Response[Any]:
        """A bundle that this device is to run or to measure, or a delta to it, whole or from a byte on (Range).

        Agents that say that they follow redirects are sent to the object store, where there is one.
        """
        sha256, _, name = file.partition(".")
        with state.hub.database.reading() as database:
            row = database.execute(select(bundles.c.bytes, bundles.c.sha256).where(bundles.c.target == name)).first()
            delta = deltas.find(database, name) if row is None else None
            row, leads_to = (row, name) if delta is None else (delta, delta.to_target)
            device: accounts.EnrolledDevice | None = request.scope["device"]  # type: ignore[typeddict-item]
            allowed = device is None or assignment.may_fetch(database, device, leads_to)
            if row is None or row.sha256 != sha256 or not allowed:
                raise NotFoundException("there is no such bundle for this device")
        settings = state.hub.settings
        follows = settings.bundle_redirects and request.headers.get(REDIRECTS_HEADER.lower()) == "1"
        if follows and (address := state.hub.blobs.address(f"bundles/{sha256}", settings.bundle_address_seconds)):
            return Response(b"", status_code=307, headers={"Location": address}, media_type="application/octet-stream")
        begins, ends = _part(request.headers.get("range", ""), row.bytes)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(ends - begins)}
        is_part = (begins, ends) != (0, row.bytes)
        if is_part:
            headers["Content-Range"] = f"bytes {begins}-{ends - 1}/{row.bytes}"
        chunks: Iterator[bytes] = state.hub.blobs.read(f"bundles/{sha256}", begins, ends)
        return Stream(chunks, status_code=206 if is_part else 200, headers=headers, media_type="application/octet-stream")


def _short_digest(words: list[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16] if words else ""


def _part(asked: str, size: int) -> tuple[int, int]:
    """Begin and end of a Range header. `bytes=N-` and `bytes=N-M` are served; anything else gets the whole, as RFC 9110 allows."""
    found = re.fullmatch(r"bytes=([0-9]{1,15})-([0-9]{0,15})", asked)
    if found is None:
        return 0, size
    begins, ends = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    return (begins, ends) if begins < ends else (0, size)


def _reads(request: Request[Any, Any, Any]) -> int:
    """The newest schema that the agent reads; 1 where it does not say, as agents before schema 2."""
    text = request.headers.get(READS_HEADER.lower(), "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 1
