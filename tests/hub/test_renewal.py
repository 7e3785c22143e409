"""What the workstation signed is renewed in time, and everybody is warned before it expires."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tuf.api.metadata import TargetFile

from commands import command
from edgeloop_agent.updates import trust
from edgeloop_contract.errors import DataError
from edgeloop_contract.hub_messages import MetadataUpload
from edgeloop_hub.hub import Hub
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import samples, signed
from edgeloop_hub.updates import signing
from edgeloop_pipeline.fleet import renewal
from edgeloop_pipeline.fleet import tuf_keys as workstation
from followers import Follower, HubInProcess, publish
from hub_parts import Parts, parts
from hubs import running_hub


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    found = parts(tmp_path / "old")
    publish(found, "m-1.edgeloop")
    found.device("pi-1")
    return found


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
    with pytest.raises(trust.TrustError, match=r"timestamp.json is expired; this device's clock: .* is the clock right"):
        device.refresh(hub.hub, later=10 * 86400)
    with pytest.raises(trust.TrustError, match=r"root.json is expired; this device's clock: .* keys renew root"):
        device.refresh(hub.hub, later=4 * 365 * 86400)
    expire(hub, -1)
    with pytest.raises(trust.TrustError, match=r"targets is expired\): the publisher must run .* clock is right"):
        device.refresh(hub.hub)
    client: Any = HubInProcess(hub.hub)
    assert "good until" in renewal.targets(hub.keys, client)
    assert device.refresh(hub.hub) == {"m-1.edgeloop"}


def test_root_is_renewed_with_the_same_keys(hub: Parts, tmp_path: Path) -> None:
    device, client = Follower(tmp_path / "device", hub), HubInProcess(hub.hub)
    before = hub.keys.root.signed
    assert "root: version 2" in renewal.root(hub.keys, client)  # type: ignore[arg-type]
    assert hub.keys.root.signed.roles["root"].keyids == before.roles["root"].keyids
    assert device.refresh(hub.hub) == {"m-1.edgeloop"}


def away(*_: object) -> None:
    raise DataError("the hub is away")


def test_a_root_that_did_not_arrive_goes_with_the_next(hub: Parts) -> None:
    client: Any = HubInProcess(hub.hub)
    taken, client.publish = client.publish, away
    with pytest.raises(DataError):
        renewal.root(hub.keys, client)
    client.publish = taken
    assert "root: version 3" in renewal.root(hub.keys, client)


@pytest.mark.parametrize("cut_off", ["sending", "signing"])
@pytest.mark.parametrize("again", ["rotate", "renew"])
def test_a_new_key_that_did_not_arrive_is_sent_by_the_next_try(
    again: str, cut_off: str, hub: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, client = Follower(tmp_path / "device", hub), cast(Any, HubInProcess(hub.hub))
    old = hub.keys.root.signed.roles["targets"].keyids
    with monkeypatch.context() as broken:
        broken.setattr(*((client, "publish", away) if cut_off == "sending" else (workstation, "signed_targets", away)))
        with pytest.raises(DataError):
            renewal.rotate(hub.keys, client, "targets")
    with pytest.raises(DataError, match="edgeloop keys renew sends it"):
        workstation.current_targets(hub.keys, client.signed().targets)
    new = hub.keys.root.signed.roles["targets"].keyids
    said = renewal.rotate(hub.keys, client, "targets") if again == "rotate" else renewal.targets(hub.keys, client)
    assert said
    assert hub.keys.root.signed.roles["targets"].keyids == new != old, "one new key, and not two"
    assert device.refresh(hub.hub) == {"m-1.edgeloop"}
    publish(hub, "m-2.edgeloop")
    assert device.refresh(hub.hub) == {"m-1.edgeloop", "m-2.edgeloop"}


def test_commands_and_pages_warn_in_time(tmp_path: Path) -> None:
    with running_hub(tmp_path) as running:
        running.run("tick")
        hub = Parts(SimpleNamespace(database=Hub.open(Settings(tmp_path / "data")).database), workstation.Keys(tmp_path / "keys"))  # type: ignore[arg-type]
        done = command("edgeloop", "rollout", "status", EDGELOOP_HUB=running.address, EDGELOOP_HUB_TOKEN=running.token)
        assert done.returncode == 0 and "warning" not in done.stderr
        hub.change(signed, signed.c.role == "targets", expires=time.time() + 20 * 86400)
        done = command("edgeloop", "rollout", "status", EDGELOOP_HUB=running.address, EDGELOOP_HUB_TOKEN=running.token)
        assert "warning: targets metadata expire in 20 days" in done.stderr and "edgeloop keys renew targets" in done.stderr
        text = running.http.get_bytes("/metrics").decode()
        figures = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("edgeloop_hub_")}
        assert (
            19 * 86400
            < figures['edgeloop_hub_metadata_remaining_seconds{role="targets"}']
            < 21 * 86400
            < figures['edgeloop_hub_metadata_remaining_seconds{role="root"}']
        )
        assert (
            figures["edgeloop_hub_last_tick_success"] == 1
            and time.time() - figures["edgeloop_hub_last_tick_timestamp_seconds"] < 120
        )
        assert "good until" in running.edgeloop("keys", "renew")
        assert running.get("/api/v1/health")["warnings"] == []
        assert hub.value(samples.c.key) is None


def test_metadata_that_no_device_would_fetch_are_not_taken(hub: Parts) -> None:
    client: Any = HubInProcess(hub.hub)
    targets = workstation.current_targets(hub.keys, client.signed().targets)
    targets.targets = {f"m-{i}.edgeloop": TargetFile(1, {"sha256": f"{i:064}"}, f"m-{i}.edgeloop") for i in range(20_000)}
    targets.version += 1
    with pytest.raises(DataError, match="withdraw old bundles first"):
        client.publish(MetadataUpload(targets=workstation.signed_targets(hub.keys, targets, remember=False).decode()))
