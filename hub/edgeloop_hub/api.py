"""What devices, the workstation and cron say to the hub over HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post, put
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotAuthorizedException, NotFoundException, TooManyRequestsException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from litestar.response import Stream
from sqlalchemy import insert, select

from edgeloop_contract.errors import EdgeloopError
from edgeloop_contract.messages import Assignment, Device, Enrolled, Enrolment, Report, Sha256, Target
from edgeloop_hub import fleet, people, registry, rolling, signing
from edgeloop_hub.plans import Plan
from edgeloop_hub.schema import bundles, devices, events, jobs

BEARER = "Bearer "
Sha = Annotated[str, Parameter(pattern=Sha256.__metadata__[0].pattern)]


def bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    said = connection.headers.get("authorization", "")
    return said[len(BEARER) :] if said.startswith(BEARER) else ""


def is_device(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: a device with a credential that was not revoked."""
    hub = connection.app.state.hub
    with hub.database.reading() as database:
        found = people.device_of(database, bearer(connection))
    if found is None:
        raise NotAuthorizedException("no such device credential")
    connection.scope["device"] = found  # type: ignore[typeddict-unknown-key]


def is_workstation(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: a token of the workstation's or of cron's. Cookies do not count here, so no page can make a browser ask."""
    with connection.app.state.hub.database.reading() as database:
        if not people.token_is_good(database, bearer(connection)):
            raise NotAuthorizedException("no such token; make one with edgeloop-hub token api")


def may_read_updates(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard: a device, or the workstation, which reads everything."""
    with connection.app.state.hub.database.reading() as database:
        if people.token_is_good(database, bearer(connection)):
            connection.scope["device"] = None  # type: ignore[typeddict-unknown-key]
            return
    is_device(connection, handler)


def asking(request: Request[Any, Any, Any]) -> people.Device:
    found: people.Device = request.scope["device"]  # type: ignore[typeddict-item]
    return found


class Devices(Controller):
    """For devices: enrol, ask, report, and fetch what is signed."""

    path = "/"
    tags = ["devices"]

    @post("/api/v1/enrol", sync_to_thread=True, status_code=200, raises=[NotAuthorizedException, TooManyRequestsException])
    def enrol(self, data: Enrolment, state: State, request: Request[Any, Any, Any]) -> Enrolled:
        """A device's one-time token for a credential of its own, and the root of trust."""
        hub, who = state.hub, f"enrol {request.client.host if request.client else ''}"[:200]
        with hub.database.writing() as database:
            if not people.may_try(database, who, hub.settings):
                raise TooManyRequestsException("too many tries; wait a quarter of an hour")
        with hub.database.writing() as database:
            root = signing.latest(database, "root")
            if root is None:
                raise ClientException("this hub has no keys yet; run edgeloop keys init on the workstation")
            found = people.enrol(database, data, root[1])
            if found is not None:
                people.forget_tries(database, who)
                fleet.note(database, "enrolled", data.device)
        if found is None:
            raise NotAuthorizedException("the token is wrong, used, or too old; make one with edgeloop-hub token enrol")
        return found

    @get("/api/v1/update", guards=[is_device], sync_to_thread=True, raises=[NotAuthorizedException])
    def update(self, state: State, request: Request[Any, Any, Any]) -> Response[Assignment | None]:
        """What the device should run. With the ETag of the last answer: 304 while that stands."""
        device = asking(request)
        with state.hub.database.reading() as database:
            found = fleet.assignment(database, device)
            version = signing.latest_version(database, "targets")
        etag = f'"{version}-{found.target}-{found.job.id if found.job else ""}"'
        if request.headers.get("if-none-match") == etag:
            return Response(None, status_code=304, headers={"ETag": etag})
        return Response(found, headers={"ETag": etag})

    @post(
        "/api/v1/report",
        guards=[is_device],
        sync_to_thread=True,
        status_code=200,
        raises=[NotAuthorizedException, TooManyRequestsException],
    )
    def report(self, data: Report, state: State, request: Request[Any, Any, Any]) -> None:
        """How the device does, what happened to it, and a job's result. Sent twice, it is stored once."""
        with state.hub.database.writing(ordered=False) as database:
            if not fleet.store(database, asking(request), data, state.hub.settings):
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
            found = signing.find(database, file)
        if found is None:
            raise NotFoundException("there is no such metadata")
        return Response(found, media_type="application/json")

    @get(
        "/tuf/targets/{file:str}",
        guards=[may_read_updates],
        sync_to_thread=True,
        raises=[NotAuthorizedException, NotFoundException],
    )
    def target(self, file: str, state: State, request: Request[Any, Any, Any]) -> Stream:
        """A bundle that this device is to run or to measure, whole or from a byte on (Range)."""
        sha256, _, name = file.partition(".")
        with state.hub.database.reading() as database:
            row = database.execute(select(bundles.c.bytes, bundles.c.sha256).where(bundles.c.target == name)).first()
            device: people.Device | None = request.scope["device"]  # type: ignore[typeddict-item]
            allowed = device is None or fleet.may_fetch(database, device, name)
            if row is None or row.sha256 != sha256 or not allowed:
                raise NotFoundException("there is no such bundle for this device")
        begins = _begins(request.headers.get("range", ""), row.bytes)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(row.bytes - begins)}
        if begins:
            headers["Content-Range"] = f"bytes {begins}-{row.bytes - 1}/{row.bytes}"
        chunks: Iterator[bytes] = state.hub.blobs.read(f"bundles/{sha256}", begins, row.bytes)
        return Stream(chunks, status_code=206 if begins else 200, headers=headers, media_type="application/octet-stream")


def _begins(asked: str, size: int) -> int:
    """Only `bytes=N-` is served in part; anything else gets the whole, as RFC 9110 allows."""
    number = asked.removeprefix("bytes=").removesuffix("-") if asked.startswith("bytes=") and asked.endswith("-") else ""
    begins = int(number) if number.isascii() and number.isdigit() and len(number) < 16 else 0
    return begins if begins < size else 0


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata that the workstation signed: roots in order, and targets."""

    roots: list[str] = []
    targets: str = ""


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: Target
    plan: Plan
    fallback: str = ""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: Device
    target: Target


class Workstation(Controller):
    """For the workstation and cron: publish, roll out, look."""

    path = "/api/v1"
    guards = [is_workstation]
    tags = ["workstation"]

    @get("/key", sync_to_thread=True)
    def key(self, state: State) -> dict[str, Any]:
        """The public key with which this hub signs snapshot and timestamp; the root must name it."""
        public = state.hub.signer.public_key
        return {"keyid": public.keyid, **public.to_dict()}

    @get("/signed", sync_to_thread=True)
    def signed(self, state: State) -> Signed:
        """The newest root and targets metadata."""
        with state.hub.database.reading() as database:
            root, targets = signing.latest(database, "root"), signing.latest(database, "targets")
        return Signed([root[1].decode()] if root else [], targets[1].decode() if targets else "")

    @post("/signed", sync_to_thread=True, status_code=200)
    def publish(self, data: Signed, state: State) -> dict[str, int]:
        """Take newly signed metadata; every bundle that they name has to be here."""
        hub = state.hub
        with hub.database.writing() as database:
            if data.targets:
                rolling.guard_fallbacks(database)
            roots, targets = [r.encode() for r in data.roots], data.targets.encode() or None
            found = signing.accept(database, roots, targets, hub.signer, hub.settings)
            if found is not None:
                registry.complete(database, hub.blobs, found)
                fleet.note(database, "published", f"targets version {found.version}: {', '.join(sorted(found.targets)) or 'none'}")
            latest = signing.latest(database, "targets")
        return {"targets_version": latest[0] if latest else 0}

    @get("/uploads/{sha256:str}", sync_to_thread=True)
    def received(self, sha256: Sha, state: State) -> dict[str, int]:
        """How many bytes of this bundle are here: where to go on."""
        with state.hub.database.reading() as database:
            row = database.execute(select(bundles.c.bytes).where(bundles.c.sha256 == sha256)).scalar()
            return {"bytes": row if row is not None else registry.received(database, sha256)}

    @put("/uploads/{sha256:str}/{begins:int}", sync_to_thread=True, status_code=200)
    def upload(self, sha256: Sha, begins: Annotated[int, Parameter(ge=0, le=2**53)], state: State, body: bytes) -> dict[str, int]:
        """A part of a bundle, from byte `begins` on."""
        if not 0 < len(body) <= state.hub.settings.max_part_bytes:
            raise ClientException(f"a part has 1 to {state.hub.settings.max_part_bytes} bytes")
        with state.hub.database.writing() as database:
            return {"bytes": registry.add_part(database, state.hub.blobs, sha256, begins, body, state.hub.settings)}

    @get("/bundles", sync_to_thread=True)
    def bundles(self, state: State) -> list[dict[str, Any]]:
        """Every version, newest first."""
        with state.hub.database.reading() as database:
            return registry.listed(database)

    @get("/devices", sync_to_thread=True)
    def devices(self, state: State) -> list[dict[str, Any]]:
        with state.hub.database.reading() as database:
            return fleet.listed(database)

    @get("/events", sync_to_thread=True)
    def events(self, state: State, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """What happened, the newest first."""
        with state.hub.database.reading() as database:
            rows = database.execute(select(events).order_by(events.c.at.desc()).limit(limit))
            return [{k: v for k, v in row._mapping.items() if k != "key"} for row in rows]

    @get("/rollouts", sync_to_thread=True)
    def rollouts(self, state: State) -> list[dict[str, Any]]:
        with state.hub.database.reading() as database:
            return rolling.listed(database)

    @post("/rollouts", sync_to_thread=True, status_code=201)
    def start(self, data: Start, state: State) -> dict[str, int]:
        """Begin with the first step of the plan."""
        with state.hub.database.writing() as database:
            return {"id": rolling.start(database, data.target, data.plan, data.fallback.encode() or None)}

    @get("/rollouts/{number:int}", sync_to_thread=True)
    def rollout(self, number: Annotated[int, Parameter(ge=0, le=2**31 - 1)], state: State) -> dict[str, Any]:
        """Its state, and each gate as it stands."""
        with state.hub.database.reading() as database:
            return rolling.described(database, number)

    @post("/rollouts/{number:int}/{verb:str}", sync_to_thread=True, status_code=200)
    def change(
        self,
        number: Annotated[int, Parameter(ge=0, le=2**31 - 1)],
        verb: Annotated[str, Parameter(pattern="^(pause|resume|abort)$")],
        state: State,
    ) -> dict[str, Any]:
        """pause, resume or abort."""
        with state.hub.database.writing() as database:
            rolling.change(database, number, verb, "token")
            return rolling.described(database, number)

    @post("/jobs", sync_to_thread=True, status_code=201, raises=[NotFoundException])
    def ask(self, data: Asked, state: State) -> dict[str, str]:
        """Have a device measure a published bundle when it is idle."""
        with state.hub.database.writing() as database:
            if (
                database.execute(select(devices.c.name).where(devices.c.name == data.device, devices.c.revoked.is_(None))).first()
                is None
            ):
                raise NotFoundException(f"there is no device {data.device}")
            if database.execute(select(bundles.c.target).where(bundles.c.target == data.target)).first() is None:
                raise NotFoundException(f"{data.target} is not published")
            made = secrets.token_hex(8)
            values = {"device": data.device, "target": data.target, "state": "waiting", "at": time.time(), "result": "{}"}
            database.execute(insert(jobs).values(id=made, **values))
        return {"id": made}

    @get("/jobs/{job:str}", sync_to_thread=True, raises=[NotFoundException])
    def job(self, job: str, state: State) -> dict[str, Any]:
        """Waiting, refused, or done with what was measured."""
        with state.hub.database.reading() as database:
            row = database.execute(select(jobs).where(jobs.c.id == job)).first()
        if row is None:
            raise NotFoundException("there is no such job")
        return {
            "id": row.id,
            "device": row.device,
            "target": row.target,
            "state": row.state,
            "result": msgspec.json.decode(row.result),
        }


def said(_: Request[Any, Any, Any], error: EdgeloopError) -> Response[dict[str, Any]]:
    """Our own errors are the asker's to mend, but for those of our disk or database."""
    status = 503 if error.exit_code == 7 else 400
    return Response({"status_code": status, "detail": str(error)}, status_code=status)
