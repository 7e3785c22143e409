"""A repository of signed updates whose owner can do anything, also what he must not: files in a folder, as a stick or a hub has them."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from edgeloop_pipeline.fleet import deltas

DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


class Repository:
    """Two root keys of two, and a key for each other role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "metadata").mkdir(parents=True)
        (folder / "targets").mkdir()
        self.root_keys = [CryptoSigner.generate_ed25519() for _ in range(2)]
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ("targets", "snapshot", "timestamp")}
        self.versions = dict.fromkeys(("root", "targets", "snapshot", "timestamp"), 0)
        self.files: dict[str, TargetFile] = {}
        self.root()
        self.publish()

    def root(self, signers: list[Any] | None = None) -> None:
        """The next root, naming the keys as they are now."""
        self.versions["root"] += 1
        root = Root(self.versions["root"], expires=now() + 365 * DAY, consistent_snapshot=True)
        for key in self.root_keys:
            root.add_key(key.public_key, "root")
        root.roles["root"].threshold = 2
        for role, key in self.keys.items():
            root.add_key(key.public_key, role)
        self.write(f"{root.version}.root.json", root, *(signers if signers is not None else self.root_keys))

    def add(self, bundle: Path, version: int, model: str = "exercise_watch", name: str = "", **custom: str) -> str:
        content = bundle.read_bytes()
        target = TargetFile.from_data(name or bundle.name, content, ["sha256"])
        target.unrecognized_fields["custom"] = {"model": model, "version": version, "channel": "stable", **custom}
        self.files[target.path] = target
        (self.folder / "targets" / f"{target.hashes['sha256']}.{target.path}").write_bytes(content)
        return target.path

    def add_delta(self, old: Path, new: Path, content: bytes | None = None) -> Path:
        """A signed delta from one bundle to the other, which is listed as its file is named. `content`: other bytes for it."""
        made = deltas.make(old, new) if content is None else content
        assert made is not None
        name, target = deltas.target_of(made, hashlib.sha256(old.read_bytes()).hexdigest(), new.name)
        self.files[name] = target
        file = self.folder / "targets" / f"{target.hashes['sha256']}.{name}"
        file.write_bytes(made)
        return file

    def publish(self, days: float = 10, **signers: Any) -> None:
        """New targets, snapshot and timestamp. `signers`: other keys than the right ones."""
        self.targets(days, signers.get("targets"))
        self.snapshot(days, signers.get("snapshot"))
        self.timestamp(days, signers.get("timestamp"))

    def targets(self, days: float = 10, signer: Any = None) -> None:
        self.versions["targets"] += 1
        made = Targets(self.versions["targets"], expires=now() + days * DAY, targets=dict(self.files))
        self.write(f"{made.version}.targets.json", made, signer or self.keys["targets"])

    def snapshot(self, days: float = 10, signer: Any = None, targets_version: int = 0) -> None:
        self.versions["snapshot"] += 1
        meta = {"targets.json": MetaFile(targets_version or self.versions["targets"])}
        made = Snapshot(self.versions["snapshot"], expires=now() + days * DAY, meta=meta)
        self.write(f"{made.version}.snapshot.json", made, signer or self.keys["snapshot"])

    def timestamp(self, days: float = 10, signer: Any = None, version: int = 0) -> None:
        self.versions["timestamp"] = version or self.versions["timestamp"] + 1
        made = Timestamp(self.versions["timestamp"], expires=now() + days * DAY, snapshot_meta=MetaFile(self.versions["snapshot"]))
        self.write("timestamp.json", made, signer or self.keys["timestamp"])

    def write(self, name: str, payload: Any, *signers: Any) -> None:
        made = Metadata(payload)
        for signer in signers:
            made.sign(signer, append=True)
        (self.folder / "metadata" / name).write_bytes(made.to_bytes())

    @property
    def first_root(self) -> bytes:
        return (self.folder / "metadata" / "1.root.json").read_bytes()
