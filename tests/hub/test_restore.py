"""Backup and restore: whole or not at all, and devices and workstation follow."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from commands import command
from edgeloop_contract.errors import DataError, EdgeloopError, StorageError, UsageError
from edgeloop_hub.auth import audit
from edgeloop_hub.backup import restore
from edgeloop_hub.backup import save as backup
from edgeloop_hub.hub import Hub
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.data_folder import KEY
from edgeloop_hub.storage.people_tables import audit_log
from edgeloop_hub.storage.schema import bundles, rollouts
from edgeloop_hub.updates import signing
from edgeloop_pipeline.fleet import renewal
from edgeloop_pipeline.fleet import tuf_keys as workstation
from followers import CONTENT, Follower, HubInProcess, publish
from hub_parts import Parts, parts


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


def test_the_workstation_follows_too_and_names_what_was_lost(hub: Parts, tmp_path: Path) -> None:
    device = Follower(tmp_path / "device", hub)
    backup.save(hub.hub, tmp_path / "hub.tar.gz")
    publish(hub, "m-2.edgeloop")
    publish(hub, "m-3.edgeloop")
    assert len(device.refresh(hub.hub)) == 3
    restore.load(Settings(tmp_path / "new"), tmp_path / "hub.tar.gz")
    new = Hub.open(Settings(tmp_path / "new"))
    client: Any = HubInProcess(new)
    with pytest.raises(DataError, match="keys renew --after-restore"):
        workstation.current_targets(hub.keys, client.signed().targets)
    with pytest.raises(EdgeloopError):  # devices take nothing older
        device.refresh(new)
    said = renewal.after_restore(hub.keys, client)
    assert [line for line in said if "lost" in line] == [
        f"lost by the hub: m-{i}.edgeloop; publish its bundle again" for i in (2, 3)
    ]
    assert device.refresh(new) == {"m-1.edgeloop"}
    assert "nothing is lost" in renewal.after_restore(hub.keys, client)[0]
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
        patch.setattr(restore._Written, "take_back", lambda _: None)
        patch.setattr(signing, "jump", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            restore.load(Settings(data), path)
    with pytest.raises(EdgeloopError, match="restore again"):
        Hub.open(Settings(data))
    restore.load(Settings(data), path)
    assert Parts(Hub.open(Settings(data)), hub.keys).value(bundles.c.target) == "m-1.edgeloop"
    with pytest.raises(UsageError, match="there is a hub already"):
        restore.load(Settings(data), path)


@pytest.mark.parametrize("what", ["a blob", "the audit log"])
def test_a_disk_that_is_full_leaves_nothing_and_the_next_try_works(
    hub: Parts, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "hub.tar.gz", tmp_path / "new"
    backup.save(hub.hub, path)

    def full(*_: object) -> None:
        raise StorageError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((Blobs, "put", full) if what == "a blob" else (audit, "append", full)))
        for _ in range(2):
            with pytest.raises(StorageError, match="no space"):
                restore.load(Settings(data), path, "ada")
            assert not data.exists()
    restore.load(Settings(data), path, "ada")
    assert Parts(Hub.open(Settings(data)), hub.keys).value(audit_log.c.who, audit_log.c.action == "restored") == "ada"


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
