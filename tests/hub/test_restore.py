"""Backup and restore: whole or not at all, and devices and workstation follow; and what was signed is renewed in time."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert
from tuf.api.metadata import TargetFile

from commands import command
from edgeloop_agent.updates import trust
from edgeloop_agent.updates.journal import Folder, Journal
from edgeloop_agent.updates.origins import NotThere
from edgeloop_contract.errors import DataError, EdgeloopError, UsageError
from edgeloop_hub import backup, restore, signing
from edgeloop_hub.hub import Hub
from edgeloop_hub.schema import bundles, rollouts, samples, signed
from edgeloop_hub.settings import Settings
from edgeloop_hub.signing import KEY
from edgeloop_pipeline.fleet import renewal
from edgeloop_pipeline.fleet import tuf_keys as workstation
from hub_parts import Parts, parts
from hubs import running_hub

CONTENT = {name: (name * 50).encode() for name in ("m-1.edgeloop", "m-2.edgeloop", "m-3.edgeloop")}


def publish(hub: Parts, *names: str) -> None:
    """As the workstation does, but for bundles that are none."""
    with hub.hub.database.reading() as database:
        told = signing.latest(database, "targets")
    assert told is not None
    targets = workstation.current_targets(hub.keys, told[1].decode())
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
            found = signing.find(database, name)
        if found is None:
            raise NotThere(name)
        yield found


class Follower:
    """A device as far as it trusts metadata."""

    def __init__(self, folder: Path, hub: Parts) -> None:
        self.folder, self.journal = Folder(folder), Journal()
        self.folder.path.mkdir(parents=True)
        with hub.hub.database.reading() as database:
            root = signing.find(database, "1.root.json")
        assert root is not None
        self.folder.root.write_bytes(root)

    def refresh(self, hub: Hub, later: float = 0.0) -> set[str]:
        listed = trust.refresh(self.folder, self.journal, Origin(hub), time.time() + later)  # type: ignore[arg-type]
        self.journal = Journal(generation=listed.generation)
        return set(listed.offers)


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    found = parts(tmp_path / "old")
    publish(found, "m-1.edgeloop")
    found.device("pi-1")
    return found


def told(path: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() if p.is_file() else b"" for p in path.rglob("*")}


def test_devices_follow_a_hub_that_was_restored(hub: Parts, tmp_path: Path) -> None:
    device = Follower(tmp_path / "device", hub)
    backup.save(hub.hub, tmp_path / "hub.tar.gz")
    for _ in range(7):  # a week of signatures after the backup, which devices saw
        with hub.hub.database.writing() as database:
            signing.sign_snapshot(database, hub.hub.signer, hub.hub.settings)
    assert device.refresh(hub.hub) == {"m-1.edgeloop"}
    said = restore.load(Settings(tmp_path / "new"), tmp_path / "hub.tar.gz")
    assert "1 bundles are back" in said and "keys renew --after-restore" in said
    new = Hub.open(Settings(tmp_path / "new"))
    assert device.refresh(new) == {"m-1.edgeloop"}
    with new.database.writing() as database:  # and what it signs next
        signing.sign_snapshot(database, new.signer, new.settings)
    assert device.refresh(new) == {"m-1.edgeloop"}


class There:
    """The hub's interface, without the wire."""

    address = "http://hub"

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def get(self, path: str) -> Any:
        with self.hub.database.reading() as database:
            if path == "/api/v1/signed":
                root, targets = signing.latest(database, "root"), signing.latest(database, "targets")
                assert root and targets
                return {"roots": [root[1].decode()], "targets": targets[1].decode()}
            rows = database.execute(bundles.select()).all()
            return [{"target": r.target, "sha256": r.sha256} for r in rows]

    def post(self, path: str, body: dict[str, Any]) -> None:
        with self.hub.database.writing() as database:
            roots, targets = [r.encode() for r in body.get("roots", [])], body["targets"].encode() or None
            signing.accept(database, roots, targets, self.hub.signer, self.hub.settings)


def test_the_workstation_follows_too_and_names_what_was_lost(hub: Parts, tmp_path: Path) -> None:
    device = Follower(tmp_path / "device", hub)
    backup.save(hub.hub, tmp_path / "hub.tar.gz")
    publish(hub, "m-2.edgeloop")
    publish(hub, "m-3.edgeloop")
    assert len(device.refresh(hub.hub)) == 3
    restore.load(Settings(tmp_path / "new"), tmp_path / "hub.tar.gz")
    new = Hub.open(Settings(tmp_path / "new"))
    there: Any = There(new)
    with pytest.raises(DataError, match="keys renew --after-restore"):
        workstation.current_targets(hub.keys, there.get("/api/v1/signed")["targets"])
    with pytest.raises(EdgeloopError):  # devices take nothing older
        device.refresh(new)
    said = renewal.after_restore(hub.keys, there)
    assert [line for line in said if "lost" in line] == [
        f"lost by the hub: m-{i}.edgeloop; publish its bundle again" for i in (2, 3)
    ]
    assert device.refresh(new) == {"m-1.edgeloop"}
    assert "nothing is lost" in renewal.after_restore(hub.keys, there)[0]
    publish(Parts(new, hub.keys), "m-2.edgeloop")
    assert device.refresh(new) == {"m-1.edgeloop", "m-2.edgeloop"}


def test_what_ran_is_paused_and_the_clock_begins_anew(hub: Parts, tmp_path: Path) -> None:
    values = {
        "channel": "stable",
        "model": "m",
        "target": "m-1.edgeloop",
        "plan": "{}",
        "step": 0,
        "step_began": 1.0,
        "began": 1.0,
        "reason": "",
    }
    with hub.hub.database.writing() as database:
        database.execute(insert(rollouts).values(state="running", **values))
    hub.tick(accept_clock=True)
    hub.change(rollouts, rollouts.c.id == 1, state="running")
    backup.save(hub.hub, tmp_path / "hub.tar.gz")
    restore.load(Settings(tmp_path / "new"), tmp_path / "hub.tar.gz")
    new = Parts(Hub.open(Settings(tmp_path / "new")), hub.keys)
    assert new.value(rollouts.c.state) == "paused" and not new.tick().problems


def damaged(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "almost whole":
        path.write_bytes(content[:-6])
    elif kind == "one bit":
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        _changed(path, kind)


def _changed(path: Path, kind: str) -> None:
    """A whole archive in which one thing is not as it was: checksums of gzip do not see that."""
    with tarfile.open(path) as archive:
        files = {entry.name: (f.read() if (f := archive.extractfile(entry)) else b"") for entry in archive}
    bundle = next(name for name in files if name.startswith("bundles/"))
    if kind == "another bundle":
        files[bundle] = files[bundle][::-1]
    elif kind == "no bundle":
        del files[bundle]
    elif kind == "another row":
        files["tables/devices.jsonl"] = files["tables/devices.jsonl"].replace(b"pi-1", b"pi-2")
    elif kind == "no JSON":
        files["tables/devices.jsonl"] += b"\n{"
    elif kind == "a column of later":
        files["tables/devices.jsonl"] = files["tables/devices.jsonl"].replace(b'"name"', b'"later"')
    elif kind == "a value of another kind":
        files["tables/devices.jsonl"] = files["tables/devices.jsonl"].replace(b'"enrolled": 0.0', b'"enrolled": "x"')
    elif kind == "a row twice":
        files["tables/devices.jsonl"] = b"\n".join([files["tables/devices.jsonl"]] * 2)
        digests = json.loads(files["digests.json"])
        import hashlib

        digests["tables/devices.jsonl"] = hashlib.sha256(files["tables/devices.jsonl"]).hexdigest()
        files["digests.json"] = json.dumps(digests).encode()
    elif kind == "no key":
        del files["online-key.pem"]
    elif kind == "another key":
        files["online-key.pem"] = b"no key"
        del files["digests.json"]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path.write_bytes(gzip.compress(made.getvalue()))


KINDS = (
    "cut off", "almost whole", "one bit", "empty", "another bundle", "no bundle", "another row", "no JSON", "a column of later",
    "a value of another kind", "a row twice", "no key", "another key",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_backup_is_refused_and_leaves_nothing(hub: Parts, tmp_path: Path, kind: str) -> None:
    good, bad, data = tmp_path / "good", tmp_path / "bad", tmp_path / "new" / "data"
    backup.save(hub.hub, good)
    bad.write_bytes(good.read_bytes())
    damaged(bad, kind)
    with pytest.raises((DataError, UsageError)) as raised:
        restore.load(Settings(data), bad)
    assert str(bad) in str(raised.value)
    assert told(tmp_path / "new") == {} or not data.exists()
    assert "1 bundles are back" in restore.load(Settings(data), good)  # and it can be tried again


def test_a_restore_that_was_cut_off_can_be_tried_again(hub: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = tmp_path / "hub.tar.gz", tmp_path / "new"
    backup.save(hub.hub, path)
    with monkeypatch.context() as patch:
        patch.setattr(restore, "_write_key", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restore.load(Settings(data), path)
    assert not data.exists()
    with monkeypatch.context() as patch:  # the power fails: nothing is taken back
        patch.setattr(restore._Made, "take_back", lambda _: None)
        patch.setattr(signing, "jump", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            restore.load(Settings(data), path)
    with pytest.raises(EdgeloopError, match="restore again"):
        Hub.open(Settings(data))
    restore.load(Settings(data), path)
    assert Parts(Hub.open(Settings(data)), hub.keys).value(bundles.c.target) == "m-1.edgeloop"
    with pytest.raises(UsageError, match="there is a hub already"):
        restore.load(Settings(data), path)


def test_what_was_restored_is_its_owners_alone(hub: Parts, tmp_path: Path) -> None:
    """Before the hub is started for the first time, and in a folder that others may look into."""
    path, data = tmp_path / "hub.tar.gz", tmp_path / "open"
    backup.save(hub.hub, path)
    data.mkdir(mode=0o755)
    restore.load(Settings(data), path)
    assert {p.name for p in data.iterdir()} >= {"hub.sqlite", "blobs", KEY}
    assert [p.name for p in data.iterdir() if p.stat().st_mode & 0o077] == []


def test_a_backup_of_an_earlier_release_is_taken(hub: Parts, tmp_path: Path) -> None:
    """Without digests, and without the tables and columns of today."""
    path = tmp_path / "hub.tar.gz"
    backup.save(hub.hub, path)
    with tarfile.open(path) as archive:
        files = {entry.name: (f.read() if (f := archive.extractfile(entry)) else b"") for entry in archive}
    del files["digests.json"], files["tables/facts.jsonl"]
    row = json.loads(files["tables/devices.jsonl"])
    files["tables/devices.jsonl"] = json.dumps({k: v for k, v in row.items() if not k.startswith("quota_r")}).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert "1 bundles are back" in restore.load(Settings(tmp_path / "new"), path)


def test_a_damaged_bundle_in_storage_is_told_at_the_backup(hub: Parts, tmp_path: Path) -> None:
    sha256 = hub.value(bundles.c.sha256)
    hub.hub.blobs.put(f"bundles/{sha256}", b"x" * len(CONTENT["m-1.edgeloop"]))
    with pytest.raises(DataError, match="damaged in the hub's storage"):
        backup.save(hub.hub, tmp_path / "hub.tar.gz")
    assert list(tmp_path.glob("*.tar.gz")) == []


def test_the_command_says_it_in_a_sentence(hub: Parts, tmp_path: Path) -> None:
    path = tmp_path / "hub.tar.gz"
    backup.save(hub.hub, path)
    damaged(path, "cut off")
    done = command("edgeloop-hub", "--data", tmp_path / "x", "restore", path)
    assert done.returncode == 3 and "damaged, or cut off" in done.stderr and "Traceback" not in done.stderr


# Expiry


def expire(hub: Parts, days: float) -> None:
    with hub.hub.database.reading() as database:
        found = signing.latest(database, "targets")
    assert found is not None
    targets = workstation.hub_targets(hub.keys, found[1].decode())
    targets.version += 1
    targets.expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=days)
    with hub.hub.database.writing() as database:
        signing.accept(database, [], workstation.signed_targets(hub.keys, targets), hub.hub.signer, hub.hub.settings)


def test_a_device_names_what_expired_and_blames_its_clock_only_where_it_may_be_wrong(hub: Parts, tmp_path: Path) -> None:
    device = Follower(tmp_path / "device", hub)
    with pytest.raises(trust.TrustError, match=r"timestamp.json is expired; this clock says .* this clock right"):
        device.refresh(hub.hub, later=10 * 86400)
    with pytest.raises(trust.TrustError, match=r"root.json is expired; this clock says .* keys renew root"):
        device.refresh(hub.hub, later=4 * 365 * 86400)
    expire(hub, -1)
    with pytest.raises(trust.TrustError, match=r"targets is expired\): whoever publishes renews .* clock agrees"):
        device.refresh(hub.hub)
    there: Any = There(hub.hub)
    assert "good until" in renewal.targets(hub.keys, there)
    assert device.refresh(hub.hub) == {"m-1.edgeloop"}


def test_root_is_renewed_with_the_same_keys(hub: Parts, tmp_path: Path) -> None:
    device, there = Follower(tmp_path / "device", hub), There(hub.hub)
    before = hub.keys.root.signed
    assert "root: version 2" in renewal.root(hub.keys, there)  # type: ignore[arg-type]
    assert hub.keys.root.signed.roles["root"].keyids == before.roles["root"].keyids
    assert device.refresh(hub.hub) == {"m-1.edgeloop"}


def test_a_root_that_did_not_arrive_goes_with_the_next(hub: Parts) -> None:
    there: Any = There(hub.hub)
    post, there.post = there.post, lambda *_: (_ for _ in ()).throw(DataError("the hub is away"))
    with pytest.raises(DataError):
        renewal.root(hub.keys, there)
    there.post = post
    assert "root: version 3" in renewal.root(hub.keys, there)


def test_commands_and_pages_warn_in_time(tmp_path: Path) -> None:
    with running_hub(tmp_path) as running:
        running.run("tick")
        hub = Parts(SimpleNamespace(database=Hub.open(Settings(tmp_path / "data")).database), workstation.Keys(tmp_path / "keys"))  # type: ignore[arg-type]
        done = command("edgeloop", "rollout", "status", EDGELOOP_HUB=running.address, EDGELOOP_HUB_TOKEN=running.token)
        assert done.returncode == 0 and "warning" not in done.stderr
        hub.change(signed, signed.c.role == "targets", expires=time.time() + 20 * 86400)
        done = command("edgeloop", "rollout", "status", EDGELOOP_HUB=running.address, EDGELOOP_HUB_TOKEN=running.token)
        assert "warning: targets metadata expire in 20 days" in done.stderr and "edgeloop keys renew targets" in done.stderr
        text = running.http.raw("/metrics").decode()
        figures = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("edgeloop_hub_")}
        assert 19 * 86400 < figures["edgeloop_hub_targets_seconds"] < 21 * 86400 < figures["edgeloop_hub_root_seconds"]
        assert figures["edgeloop_hub_tick_success"] == 1 and time.time() - figures["edgeloop_hub_tick_time_seconds"] < 120
        assert "good until" in running.edgeloop("keys", "renew")
        assert running.get("/api/v1/health")["warnings"] == []
        assert hub.value(samples.c.key) is None


def test_metadata_that_no_device_would_fetch_are_not_taken(hub: Parts) -> None:
    there: Any = There(hub.hub)
    targets = workstation.current_targets(hub.keys, there.get("/api/v1/signed")["targets"])
    targets.targets = {f"m-{i}.edgeloop": TargetFile(1, {"sha256": f"{i:064}"}, f"m-{i}.edgeloop") for i in range(20_000)}
    targets.version += 1
    with pytest.raises(DataError, match="withdraw old bundles first"):
        there.post("/api/v1/signed", {"targets": workstation.signed_targets(hub.keys, targets, remember=False).decode()})
