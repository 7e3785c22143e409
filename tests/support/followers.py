"""Both sides of signed updates without a wire: a workstation that publishes to a hub in this process, and a device that follows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import insert
from tuf.api.metadata import TargetFile

from edgeloop_agent.hub_client import NotFound
from edgeloop_agent.updates import trust
from edgeloop_agent.updates.journal import Journal, UpdateFolder
from edgeloop_contract.hub_messages import MetadataUpload, PublishedBundle, SignedMetadata
from edgeloop_hub.hub import Hub
from edgeloop_hub.storage.schema import bundles
from edgeloop_hub.updates import registry, signing
from edgeloop_pipeline.fleet import tuf_keys as workstation
from hub_parts import Parts

CONTENT = {name: (name * 50).encode() for name in ("m-1.edgeloop", "m-2.edgeloop", "m-3.edgeloop")}


def publish(hub: Parts, *names: str) -> None:
    """As the workstation does, but its bundles hold no model."""
    with hub.hub.database.reading() as database:
        newest = signing.latest(database, "targets")
    assert newest is not None
    targets = workstation.current_targets(hub.keys, newest.body.decode())
    files = {name: TargetFile.from_data(name, CONTENT[name], ["sha256"]) for name in names}
    for file in files.values():
        file.unrecognized_fields["custom"] = {"model": "m", "version": 1, "channel": "stable"}
    targets.targets, targets.version = {**targets.targets, **files}, targets.version + 1
    body = workstation.signed_targets(hub.keys, targets)
    with hub.hub.database.writing() as database:
        signing.accept(database, [], body, hub.hub.signer, hub.hub.settings)
    for name, file in files.items():
        hub.hub.blobs.put(f"bundles/{file.hashes['sha256']}", CONTENT[name])
        values = {"sha256": file.hashes["sha256"], "bytes": file.length, "model": "m", "version": 1, "channel": "stable"}
        with hub.hub.database.writing() as database:
            database.execute(insert(bundles).values(target=name, about='{"labels": []}', published=1.0, **values))


class Origin:
    """What a device fetches, from the database."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def metadata(self, name: str) -> Iterator[bytes]:
        with self.hub.database.reading() as database:
            content = signing.find(database, name)
        if content is None:
            raise NotFound(name)
        yield content


class Follower:
    """A device as far as it trusts metadata."""

    def __init__(self, folder: Path, hub: Parts) -> None:
        self.folder, self.journal = UpdateFolder(folder), Journal()
        self.folder.path.mkdir(parents=True)
        with hub.hub.database.reading() as database:
            root = signing.find(database, "1.root.json")
        assert root is not None
        self.folder.root.write_bytes(root)

    def refresh(self, hub: Hub, later: float = 0.0) -> set[str]:
        listed = trust.refresh(self.folder, self.journal, Origin(hub), time.time() + later)  # type: ignore[arg-type]
        self.journal = Journal(generation=listed.generation)
        return set(listed.offers)


class HubInProcess:
    """The hub's interface as the workstation uses it, without the wire."""

    address = "http://hub"

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def signed(self) -> SignedMetadata:
        with self.hub.database.reading() as database:
            root, targets = signing.latest(database, "root"), signing.latest(database, "targets")
        assert root and targets
        return SignedMetadata([root.body.decode()], targets.body.decode())

    def bundles(self) -> list[PublishedBundle]:
        with self.hub.database.reading() as database:
            return registry.published(database)

    def publish(self, metadata: MetadataUpload) -> None:
        with self.hub.database.writing() as database:
            roots, targets = [r.encode() for r in metadata.roots], metadata.targets.encode() or None
            signing.accept(database, roots, targets, self.hub.signer, self.hub.settings)
