"""Updates without a network: the same signed files as the hub's, in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgeloop_contract.errors import NetworkError, StorageError
from edgeloop_contract.files import publish
from edgeloop_pipeline.fleet.hub_client import HubClient


def export(hub: HubClient, folder: Path) -> str:
    """Write bundles, then metadata, the timestamp last: a stick that is pulled out too early holds an older, complete state.

    Returns what was written, in words. Raises StorageError and NetworkError.
    """
    timestamp = hub.metadata_file("timestamp.json")
    snapshot_version = _of(Timestamp, timestamp).snapshot_meta.version
    snapshot = hub.metadata_file(f"{snapshot_version}.snapshot.json")
    targets_version = _of(Snapshot, snapshot).meta["targets.json"].version
    targets = hub.metadata_file(f"{targets_version}.targets.json")
    newest = _of(Root, hub.signed().roots[0].encode()).version
    files = {f"{n}.root.json": hub.metadata_file(f"{n}.root.json") for n in range(1, newest + 1)}
    files |= {
        f"{targets_version}.targets.json": targets,
        f"{snapshot_version}.snapshot.json": snapshot,
        "timestamp.json": timestamp,
    }
    listed, sent = _of(Targets, targets).targets, 0
    try:
        for part in ("metadata", "targets"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name, target in listed.items():
            path = folder / "targets" / f"{target.hashes['sha256']}.{name}"
            if not path.exists():
                content = hub.target_file(path.name)
                if hashlib.sha256(content).hexdigest() != target.hashes["sha256"]:
                    raise NetworkError(f"{name}: the hub's bytes are not those that were signed")
                publish(path, content)
                sent += len(content)
        for name, content in files.items():
            publish(folder / "metadata" / name, content)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); make room, or choose another folder") from error
    return f"{folder}: {len(listed)} files, {sent:,} bytes of them new; devices take it by updates.folder"


def _of(kind: Any, body: bytes) -> Any:
    return Metadata[kind].from_bytes(body).signed
