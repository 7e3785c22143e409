"""The HTTP interface for the workstation and cron: publish, roll out, look."""

from __future__ import annotations

import time
from typing import Annotated, Any

from litestar import Controller, Request, delete, get, post, put
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import Parameter
from sqlalchemy import select
from tuf.api.metadata import Targets

from edgeloop_contract.gate_messages import GatePower
from edgeloop_contract.hub_messages import (
    DeviceStatus,
    EventRecord,
    Health,
    JobCreated,
    JobRequest,
    JobStatus,
    MetadataUpload,
    PublicKey,
    PublishedBundle,
    ReceivedBytes,
    RevokedTokens,
    RolloutCreated,
    RolloutRequest,
    RolloutStatus,
    RolloutSummary,
    SignedMetadata,
    TargetsVersion,
    TokenSummary,
)
from edgeloop_contract.messages import Sha256
from edgeloop_hub import event_log, health
from edgeloop_hub.auth import accounts, audit
from edgeloop_hub.auth.guards import client_of, is_workstation, token_name
from edgeloop_hub.fleet import inventory, jobs
from edgeloop_hub.http.error_responses import documents_errors
from edgeloop_hub.rollouts import forecast, service
from edgeloop_hub.storage.schema import bundles
from edgeloop_hub.updates import clock, registry, signing, uploads

Sha = Annotated[str, Parameter(pattern=Sha256.__metadata__[0].pattern)]
Asked = Request[Any, Any, Any]
Number = Annotated[int, Parameter(ge=0, le=2**31 - 1)]


@documents_errors(400, 401, 403, 503)
class Workstation(Controller):
    """For the workstation and cron: publish, roll out, look."""

    path = "/api/v1"
    guards = [is_workstation]
    tags = ["workstation"]

    @get("/key", sync_to_thread=True)
    def key(self, state: State) -> PublicKey:
        """The public key with which this hub signs snapshot and timestamp; the root must name it."""
        public = state.hub.signer.public_key
        return PublicKey(keyid=public.keyid, keytype=public.keytype, scheme=public.scheme, keyval=public.keyval)

    @get("/signed", sync_to_thread=True)
    def signed(self, state: State) -> SignedMetadata:
        """The newest root and targets metadata: the workstation signs what follows them. 400 while the hub would sign nothing."""
        with state.hub.database.reading() as database:
            clock.check(database, time.time(), state.hub.settings)
            root, targets = signing.latest(database, "root"), signing.latest(database, "targets")
        return SignedMetadata(roots=[root.body.decode()] if root else [], targets=targets.body.decode() if targets else "")

    @post("/signed", scope="publish", sync_to_thread=True, status_code=200)
    def publish(self, data: MetadataUpload, state: State, request: Asked) -> TargetsVersion:
        """Store newly signed metadata. Every bundle that they name must have been uploaded."""
        hub = state.hub
        roots, body = [r.encode() for r in data.roots], data.targets.encode() or None
        with hub.database.reading() as database:  # checked first, so that no bundle is put together in vain
            if body is not None:
                service.guard_fallbacks(database)
            new = signing.checked(database, roots, body)
        assembled = registry.assemble(hub.database, hub.blobs, new) if new is not None else {}
        with hub.database.writing() as database:
            if body is not None:
                service.guard_fallbacks(database)
            accepted = signing.accept(database, roots, body, hub.signer, hub.settings)
            if accepted is not None:
                registry.complete(database, hub.blobs, accepted, assembled)
                event_log.record(database, "published", f"targets version {accepted.version}: {names_of(accepted) or 'none'}")
            if roots or body is not None:
                what = f"targets version {accepted.version}" if accepted is not None else "root"
                audit.append(database, token_name(request), "published", what, names_of(accepted), client_of(request))
            latest = signing.latest(database, "targets")
        uploads.forget_parts(hub.database, hub.blobs, [new.targets[name].hashes["sha256"] for name in assembled] if new else [])
        return TargetsVersion(targets_version=latest.version if latest else 0)

    @get("/uploads/{sha256:str}", sync_to_thread=True)
    def received(self, sha256: Sha, state: State) -> ReceivedBytes:
        """How many bytes of this bundle the hub has: where to go on."""
        with state.hub.database.reading() as database:
            size = database.execute(select(bundles.c.bytes).where(bundles.c.sha256 == sha256)).scalar()
            return ReceivedBytes(bytes=size if size is not None else uploads.received(database, sha256))

    @put("/uploads/{sha256:str}/{begins:int}", scope="publish", sync_to_thread=True, status_code=200)
    def upload(self, sha256: Sha, begins: Annotated[int, Parameter(ge=0, le=2**53)], state: State, body: bytes) -> ReceivedBytes:
        """A part of a bundle, from byte `begins` on."""
        hub = state.hub
        if not 0 < len(body) <= hub.settings.max_part_bytes:
            raise ClientException(f"a part has 1 to {hub.settings.max_part_bytes} bytes")
        return ReceivedBytes(bytes=uploads.add_part(hub.database, hub.blobs, sha256, begins, body, hub.settings))

    @get("/health", sync_to_thread=True)
    def health(self, state: State) -> Health:
        """The last tick, when signed metadata expire, and warnings."""
        with state.hub.database.reading() as database:
            return health.current(database, state.hub.settings)

    @get("/tokens", scope="admin", sync_to_thread=True)
    def tokens(self, state: State) -> list[TokenSummary]:
        """Every token by its id and name, without the secrets."""
        with state.hub.database.reading() as database:
            return accounts.token_summaries(database)

    @delete("/tokens/{which:str}", scope="admin", sync_to_thread=True, status_code=200)
    def revoke(self, which: Annotated[str, Parameter(max_length=63)], state: State, request: Asked) -> RevokedTokens:
        """Revoke the token with this id, or all of this name."""
        with state.hub.database.writing() as database:
            count = accounts.revoke_tokens(database, which)
            event_log.record(database, "token revoked", f"{which}: {count} of them")
            audit.append(database, token_name(request), "token revoked", which, f"{count} of them", client_of(request))
        return RevokedTokens(revoked=count)

    @get("/bundles", sync_to_thread=True)
    def bundles(self, state: State) -> list[PublishedBundle]:
        """Every version, newest first."""
        with state.hub.database.reading() as database:
            return registry.published(database)

    @get("/devices", sync_to_thread=True)
    def devices(
        self, state: State, after: Annotated[str, Parameter(max_length=63)] = "",
        limit: Annotated[int, Parameter(ge=1, le=inventory.MAX_LISTED)] = inventory.MAX_LISTED,
    ) -> list[DeviceStatus]:  # fmt: skip
        """Devices with their last heartbeats, by name, those behind the name `after`."""
        with state.hub.database.reading() as database:
            return inventory.listed(database, after, limit)

    @get("/events", sync_to_thread=True)
    def events(self, state: State, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100) -> list[EventRecord]:
        """What happened, the newest first."""
        with state.hub.database.reading() as database:
            return event_log.newest(database, limit)

    @get("/rollouts", sync_to_thread=True)
    def rollouts(self, state: State) -> list[RolloutSummary]:
        """The newest hundred, the newest first."""
        with state.hub.database.reading() as database:
            return service.summaries(database)

    @post("/rollouts", scope="operate", sync_to_thread=True, status_code=201)
    def start(self, data: RolloutRequest, state: State, request: Asked) -> RolloutCreated:
        """Begin with the first step of the plan."""
        with state.hub.database.reading() as database:
            power = forecast.of_plan(database, data.target, data.plan, data.channel)
        with state.hub.database.writing() as database:
            number = service.start(database, data.target, data.plan, data.fallback.encode() or None, power, data.channel)
            despite = f", despite windows: {data.plan.despite_windows}" if data.plan.despite_windows else ""
            said = data.target + (f" in {data.channel}" if data.channel else "") + despite
            audit.append(database, token_name(request), "rollout started", str(number), said, client_of(request))
        return RolloutCreated(id=number)

    @post("/rollouts/power", scope="read", sync_to_thread=True, status_code=200)
    def power(self, data: RolloutRequest, state: State) -> list[GatePower]:
        """What each gate could find in each step of such a rollout; nothing begins."""
        with state.hub.database.reading() as database:
            return forecast.of_plan(database, data.target, data.plan, data.channel)

    @get("/rollouts/{number:int}", sync_to_thread=True)
    def rollout(self, number: Number, state: State) -> RolloutStatus:
        """Its state, and each gate as it stands."""
        with state.hub.database.reading() as database:
            return service.status(database, number)

    @post("/rollouts/{number:int}/{verb:str}", scope="operate", sync_to_thread=True, status_code=200)
    def change(
        self, number: Number, verb: Annotated[str, Parameter(pattern=r"^(pause|resume|abort)(?!\n)$")], state: State, request: Asked
    ) -> RolloutStatus:
        """pause, resume or abort."""
        with state.hub.database.writing() as database:
            service.change(database, number, verb, "token")
            audit.append(database, token_name(request), f"rollout {verb}", str(number), address=client_of(request))
        with state.hub.database.reading() as database:  # the change holds, whatever the status says
            return service.status(database, number)

    @post("/jobs", scope="operate", sync_to_thread=True, status_code=201, raises=[NotFoundException])
    def ask(self, data: JobRequest, state: State, request: Asked) -> JobCreated:
        """Have a device measure a published bundle when it is idle."""
        with state.hub.database.writing() as database:
            if not jobs.is_enrolled(database, data.device):
                raise NotFoundException(f"there is no device {data.device}")
            if not jobs.is_published(database, data.target):
                raise NotFoundException(f"{data.target} is not published")
            audit.append(database, token_name(request), "device bench", data.device, data.target, client_of(request))
            return JobCreated(id=jobs.create(database, data.device, data.target))

    @get("/jobs/{job:str}", sync_to_thread=True, raises=[NotFoundException])
    def job(self, job: Annotated[str, Parameter(max_length=64)], state: State) -> JobStatus:
        """Waiting, refused, or done with what was measured."""
        with state.hub.database.reading() as database:
            status = jobs.status(database, job)
        if status is None:
            raise NotFoundException("there is no such job")
        return status


def names_of(accepted: Targets | None) -> str:
    return ", ".join(sorted(accepted.targets)) if accepted is not None else ""
