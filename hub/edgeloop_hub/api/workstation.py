"""What the workstation and cron say to the hub over HTTP."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

import msgspec
from litestar import Controller, delete, get, post, put
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import Parameter
from sqlalchemy import insert, select

from edgeloop_contract.messages import Device, Sha256, Target
from edgeloop_hub import event_log, health
from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.guards import is_workstation
from edgeloop_hub.fleet import inventory
from edgeloop_hub.http.error_responses import telling
from edgeloop_hub.rollouts import service
from edgeloop_hub.rollouts.policy import Plan
from edgeloop_hub.storage.schema import bundles, devices, events, jobs
from edgeloop_hub.updates import registry, signing

Sha = Annotated[str, Parameter(pattern=Sha256.__metadata__[0].pattern)]


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


@telling(400, 401, 503)
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
        roots, targets = [r.encode() for r in data.roots], data.targets.encode() or None
        with hub.database.reading() as database:  # nothing is put together that will not be taken
            if targets is not None:
                service.guard_fallbacks(database)
            new = signing.checked(database, roots, targets)
        made = registry.assemble(hub.database, hub.blobs, new) if new is not None else {}
        with hub.database.writing() as database:
            if targets is not None:
                service.guard_fallbacks(database)
            found = signing.accept(database, roots, targets, hub.signer, hub.settings)
            if found is not None:
                registry.complete(database, hub.blobs, found, made)
                event_log.record(
                    database, "published", f"targets version {found.version}: {', '.join(sorted(found.targets)) or 'none'}"
                )
            latest = signing.latest(database, "targets")
        registry.forget_parts(hub.database, hub.blobs, [new.targets[name].hashes["sha256"] for name in made] if new else [])
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
        return {"bytes": registry.add_part(state.hub.database, state.hub.blobs, sha256, begins, body, state.hub.settings)}

    @get("/health", sync_to_thread=True)
    def health(self, state: State) -> dict[str, Any]:
        """The last tick, when signed metadata expire, and what somebody should do about it."""
        with state.hub.database.reading() as database:
            return health.told(database)

    @get("/tokens", sync_to_thread=True)
    def tokens(self, state: State) -> list[dict[str, Any]]:
        """Every token by its id and name, without the secrets."""
        with state.hub.database.reading() as database:
            return accounts.tokens_told(database)

    @delete("/tokens/{which:str}", sync_to_thread=True, status_code=200)
    def revoke(self, which: Annotated[str, Parameter(max_length=63)], state: State) -> dict[str, int]:
        """Revoke the token with this id, or all of this name."""
        with state.hub.database.writing() as database:
            count = accounts.revoke_tokens(database, which)
            event_log.record(database, "token revoked", f"{which}: {count} of them")
        return {"revoked": count}

    @get("/bundles", sync_to_thread=True)
    def bundles(self, state: State) -> list[dict[str, Any]]:
        """Every version, newest first."""
        with state.hub.database.reading() as database:
            return registry.listed(database)

    @get("/devices", sync_to_thread=True)
    def devices(
        self, state: State, after: Annotated[str, Parameter(max_length=63)] = "",
        limit: Annotated[int, Parameter(ge=1, le=inventory.MOST_LISTED)] = inventory.MOST_LISTED,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Devices with their last heartbeats, by name, those behind the name `after`."""
        with state.hub.database.reading() as database:
            return inventory.listed(database, after, limit)

    @get("/events", sync_to_thread=True)
    def events(self, state: State, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """What happened, the newest first."""
        with state.hub.database.reading() as database:
            rows = database.execute(select(events).order_by(events.c.at.desc()).limit(limit))
            return [{k: v for k, v in row._mapping.items() if k != "key"} for row in rows]

    @get("/rollouts", sync_to_thread=True)
    def rollouts(self, state: State) -> list[dict[str, Any]]:
        with state.hub.database.reading() as database:
            return service.listed(database)

    @post("/rollouts", sync_to_thread=True, status_code=201)
    def start(self, data: Start, state: State) -> dict[str, int]:
        """Begin with the first step of the plan."""
        with state.hub.database.writing() as database:
            return {"id": service.start(database, data.target, data.plan, data.fallback.encode() or None)}

    @get("/rollouts/{number:int}", sync_to_thread=True)
    def rollout(self, number: Annotated[int, Parameter(ge=0, le=2**31 - 1)], state: State) -> dict[str, Any]:
        """Its state, and each gate as it stands."""
        with state.hub.database.reading() as database:
            return service.described(database, number)

    @post("/rollouts/{number:int}/{verb:str}", sync_to_thread=True, status_code=200)
    def change(
        self,
        number: Annotated[int, Parameter(ge=0, le=2**31 - 1)],
        verb: Annotated[str, Parameter(pattern=r"^(pause|resume|abort)(?!\n)$")],
        state: State,
    ) -> dict[str, Any]:
        """pause, resume or abort."""
        with state.hub.database.writing() as database:
            service.change(database, number, verb, "token")
        with state.hub.database.reading() as database:  # it is done, whatever can be told of it
            return service.described(database, number)

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
    def job(self, job: Annotated[str, Parameter(max_length=64)], state: State) -> dict[str, Any]:
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
