"""What a device says of its other bundles, and what a workstation publishes beside bundles: the hub bounds it, or refuses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import ask, enrolled
from edgeloop_contract.errors import NetworkError
from edgeloop_pipeline.fleet import deltas, release, tuf_keys
from edgeloop_pipeline.fleet.hub_client import HubClient
from edgeloop_pipeline.fleet.hub_connection import HubConnection
from hubs import Hub, running_hub, version


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def said(hub: Hub, secret: str, key: str, others: list[dict[str, Any]]) -> int:
    beat = {"model": "first", "version": 1, "sha256": "a" * 64}
    body = {"key": key.ljust(8, "-"), "at": time.time(), "heartbeat": beat, "others": others}
    return int(ask(hub, "POST", "/api/v1/report", secret, body).status)


def kept(hub: Hub, name: str) -> list[tuple[str, int]]:
    row = next(d for d in hub.get("/api/v1/devices") if d["name"] == name)
    return [(o["model"], o["version"]) for o in row["others"]]


def test_what_a_device_says_of_its_other_bundles_is_bounded(hub: Hub) -> None:
    secret = enrolled(hub, "pi-1")
    one = {"model": "second", "version": 2, "sha256": "b" * 64}
    assert said(hub, secret, "twice", [one, {**one, "version": 9}, {**one, "model": "first"}, {**one, "model": ""}]) == 200
    assert kept(hub, "pi-1") == [("second", 2)]  # the first word counts, and the first bundle is no other one
    assert said(hub, secret, "many", [{**one, "model": f"m{i}"} for i in range(32)]) == 400
    assert said(hub, secret, "far", [{**one, "version": -1}]) == 400
    assert kept(hub, "pi-1") == [("second", 2)]
    assert said(hub, secret, "fewer", []) == 200 and kept(hub, "pi-1") == []


def signed(hub: Hub, path: Path, name: str, target: Any) -> None:
    keys = tuf_keys.Keys(hub.folder / "keys")
    client = HubClient(HubConnection(hub.address, hub.token))
    targets = tuf_keys.current_targets(keys, client.signed().targets)
    client.upload(path, target.hashes["sha256"])
    release.sign(keys, client, targets, {**targets.targets, name: target})


def _delta(folder: Path, content: bytes, to: str) -> tuple[Path, str, Any]:
    file = folder / "made.delta"
    file.write_bytes(content)
    return file, *deltas.target_of(content, "a" * 64, to)


def test_the_hub_takes_no_delta_config_or_kind_that_is_none(hub: Hub, tmp_path: Path) -> None:
    old, new = version(tmp_path, 1), version(tmp_path, 2)
    name = hub.publish(new)
    made = deltas.make(old, new)
    assert made is not None
    _, target_of_text = tuf_keys.config_target(_text(tmp_path), "kitchen", 1, "stable")
    custom = target_of_text.unrecognized_fields["custom"]
    wrong = {
        "not a delta": _delta(tmp_path, b"x" * 500, name),
        "not between the bundles": _delta(tmp_path, made, name),  # it begins at another bundle than is signed
        "between": _delta(tmp_path, made, "gone.edgeloop"),
    }
    for says, (file, target_name, target) in wrong.items():
        file.write_bytes(b"x" * 500 if says == "not a delta" else made)
        with pytest.raises(NetworkError, match=says):
            signed(hub, file, target_name, target)
    custom["kind"] = "firmware"
    with pytest.raises(NetworkError, match="does not know"):
        signed(hub, _text(tmp_path), "firmware-1.bin", target_of_text)
    custom.update(kind="config", model="kitchen")
    with pytest.raises(NetworkError, match="names no config"):
        signed(hub, _text(tmp_path), "config-kitchen-1.toml", target_of_text)
    assert [b["target"] for b in hub.get("/api/v1/bundles")] == [name]


def _text(folder: Path) -> Path:
    path = folder / "text.toml"
    path.write_text("bundles = []\n")
    return path
