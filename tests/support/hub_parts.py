"""A hub's parts in this process, without a server: for rules that need a database and keys, and no network."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update

from edgeloop_contract.messages import Event, Heartbeat, Report
from edgeloop_contract.rollout import RolloutPlan
from edgeloop_hub.auth import accounts, secret_digests
from edgeloop_hub.fleet import reports
from edgeloop_hub.hub import Hub
from edgeloop_hub.rollouts import service
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import bundles, devices
from edgeloop_hub.tick import TickOutcome, tick
from edgeloop_hub.updates import signing
from edgeloop_pipeline.fleet import tuf_keys as workstation

OLD, NEW = "a" * 64, "b" * 64


@dataclass
class Parts:
    hub: Hub
    keys: workstation.Keys

    def device(self, name: str, sha256: str = OLD, model: str = "m", labels: tuple[str, ...] = ()) -> None:
        values = {"credential": secret_digests.digest(name), "labels": json.dumps(labels), "channel": "stable", "enrolled": 0.0}
        with self.hub.database.writing() as database:
            database.execute(
                insert(devices).values(
                    name=name, machine="", model=model, version=1, sha256=sha256, heartbeat="{}", quota_from=0.0, quota_used=0,
                    last_seen=time.time(), **values,
                )
            )  # fmt: skip

    def bundle(self, target: str, sha256: str, model: str = "m", version: int = 2) -> None:
        values = {"sha256": sha256, "bytes": 1, "model": model, "version": version, "channel": "stable"}
        with self.hub.database.writing() as database:
            database.execute(insert(bundles).values(target=target, about='{"labels": []}', published=0.0, **values))

    def rollout(self, target: str, steps: list[Any], **plan: Any) -> int:
        with self.hub.database.writing() as database:
            return service.start(database, target, RolloutPlan(steps, soak_seconds=plan.pop("soak_seconds", 0.0), **plan), None)

    def report(self, device: str, key: str, beat: Heartbeat, at: float = 0.0, events: list[Event] | None = None) -> bool:
        with self.hub.database.writing() as database:
            row = accounts.EnrolledDevice(device, [], "stable", "m", "")
            report = Report(key=key, at=at or time.time(), heartbeat=beat, events=events or [])
            return reports.store(database, row, report, self.hub.settings)

    def tick(self, **words: Any) -> TickOutcome:
        return tick(self.hub.database, self.hub.blobs, self.hub.signer, self.hub.settings, **words)

    def value(self, column: Any, *where: Any) -> Any:
        with self.hub.database.reading() as database:
            return database.execute(select(column).where(*where)).scalar()

    def change(self, table: Any, *where: Any, **values: Any) -> None:
        with self.hub.database.writing() as database:
            database.execute(update(table).where(*where).values(**values))


def parts(folder: Path, **limits: Any) -> Parts:
    """With keys, and empty targets signed."""
    hub = Hub.open(Settings(folder / "data", **limits))
    keys = workstation.Keys(folder / "keys")
    root, targets = workstation.first_root(keys, hub.signer.public_key, 3, 2)
    with hub.database.writing() as database:
        signing.accept(database, [root], targets, hub.signer, hub.settings)
    return Parts(hub, keys)


def beat(sha256: str = OLD, **more: Any) -> Heartbeat:
    return Heartbeat(model="m", version=1, sha256=sha256, seconds=300.0, **more)


def with_two_versions(folder: Path) -> Parts:
    """Versions 1 (OLD) and 2 (NEW) of the model m."""
    made = parts(folder)
    made.bundle("m-1", OLD, version=1)
    made.bundle("m-2", NEW)
    return made
