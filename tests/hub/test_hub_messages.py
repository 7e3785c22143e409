"""What the hub takes: bounds of every field and every message, quotas of a device, and whose word a label is."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from asking import ask, bring, enrolled, sample
from edgeloop_contract.errors import DataError
from edgeloop_contract.messages import MAX_LABELS, Heartbeat, Samples
from edgeloop_hub.auth import accounts
from edgeloop_hub.rollouts import evidence
from edgeloop_hub.rollouts.gates import DeviceEvidence
from edgeloop_hub.samples import ingest
from hub_parts import parts
from hubs import Hub, version
from strict_hub import strict_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with strict_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def device(hub: Hub) -> str:
    return enrolled(hub, "pi-1")


BEATS: dict[str, dict[str, Any]] = {
    "labels": {"labels": {f"l{i}": 1 for i in range(MAX_LABELS + 1)}},
    "label's name": {"labels": {"x" * 201: 1}},
    "label's count": {"labels": {"x": 2**53 + 2}},
    "seconds": {"seconds": 1e300},
    "latency": {"latency_us_p95": 1e300},
    "confidence": {"confidence": {"count": 1, "mean": 1e300, "variance": 1}},
    "variance": {"confidence": {"count": 1, "mean": 0.5, "variance": 1e17}},
    "heat": {"celsius": 1e300},
    "drift": {"drift": -1e300},
    "since": {"since": -1e300},
    "crashes": {"crashes": -1},
    "model": {"model": "m" * 201},
}


@pytest.mark.parametrize("what", BEATS)
def test_every_field_of_a_heartbeat_has_a_bound(hub: Hub, device: str, what: str) -> None:
    body = {"key": f"bound-{what:10}", "at": time.time(), "heartbeat": {"model": "m", **BEATS[what]}}
    answer = ask(hub, "POST", "/api/v1/report", device, body)
    assert answer.status == 400 and answer.json()["detail"], answer.data


@pytest.mark.parametrize(
    "more",
    [
        {"at": 1e300}, {"at": -1e300}, {"events": [{"key": "12345678", "kind": "x", "at": 1e300}]},
        {"drift": {"model": "m", "samples": 1, "drifting": True, "since": 1e300}}, {"drift": {"shifts": {"a": 1e300}}},
        {"drift": {"score": -1}}, {"events": [{"key": f"{i:08}", "kind": "x", "at": 1.0} for i in range(101)]},
        {"job": {"id": "x", "measured": {"a": json.loads("[" * 40 + "]" * 40)}}},
    ],
)  # fmt: skip
def test_every_field_of_a_report_has_a_bound(hub: Hub, device: str, more: dict[str, Any]) -> None:
    answer = ask(hub, "POST", "/api/v1/report", device, {"key": "bound-report", "at": time.time(), **more})
    assert answer.status == 400 and answer.json()["detail"], answer.data


def test_a_message_has_at_most_so_many_bytes(hub: Hub, device: str) -> None:
    """Not as many as a part of a bundle."""
    assert ask(hub, "POST", "/api/v1/report", device, b" " * ((1 << 20) + 1)).status == 413
    assert ask(hub, "POST", "/api/v1/enrol", body=b" " * ((1 << 20) + 1)).status == 413
    assert ask(hub, "POST", "/sign-in", body=b"a" * (65 << 10)).status == 413


@pytest.mark.parametrize(
    "more",
    [
        {"at": -1e300}, {"at": float("inf")}, {"at": float("nan")}, {"features": [float("inf")]}, {"features": [1e300]},
        {"value": float("inf")}, {"window": 2**63}, {"confidence": float("nan")}, {"shape": []}, {"shape": [65536] * 4},
        {"data": zlib.compress(np.full((16, 3), np.nan, np.float32).tobytes())}, {"data": b"no stream"},
        {"data": zlib.compress(np.zeros((16, 3), np.float32).tobytes()) + b"more"}, {"sha256": "0" * 64 + "\n"},
    ],
)  # fmt: skip
def test_every_field_of_a_sample_has_a_bound(hub: Hub, device: str, more: dict[str, Any]) -> None:
    answer = bring(hub, device, sample("bound-sample", **more))
    assert answer.status == 400 and answer.json()["detail"], answer.data


BOMB = zlib.compress(bytes(16 << 20), 1)


def bomb(key: str) -> dict[str, Any]:
    """Sixteen megabytes in some kilobytes."""
    return sample(key, dtype="uint8", shape=[16384, 1024], data=BOMB)


def test_what_unpacks_to_very_much_is_refused_before_it_is_unpacked(hub: Hub) -> None:
    secret = enrolled(hub, "bomber")
    began = time.monotonic()
    answer = bring(hub, secret, *[bomb(f"bomb-{i:05}") for i in range(100)])
    assert answer.status == 400 and "bytes unpacked" in answer.json()["detail"]
    assert time.monotonic() - began < 10
    # By the day, too: five of them fit into this hub's 100 MB, a sixth does not.
    assert bring(hub, secret, *[bomb(f"bomb-{i:05}") for i in range(4)]).status == 200
    assert bring(hub, secret, bomb("bomb-00010")).status == 200
    assert bring(hub, secret, bomb("bomb-00011")).status == 429


def test_events_of_a_device_meet_a_quota_by_rows_and_bytes(hub: Hub) -> None:
    secret = enrolled(hub, "chatty")
    for turn in range(4):
        made = [{"key": f"event-{turn}-{i:04}", "kind": "x", "at": 1.0, "text": "x"} for i in range(1000)]
        body = msgspec.msgpack.encode({"events": made})
        answer = ask(hub, "POST", "/api/v1/outbox", secret, body, **{"Content-Type": "application/msgpack"})
        assert answer.status == (200 if turn < 3 else 429), answer.data


def test_a_devices_own_word_is_no_persons_label(hub: Hub) -> None:
    secret = enrolled(hub, "knows-it-all")
    assert bring(hub, secret, sample("a-labelled-one", truth="walk", kind="labelled")).status == 200
    row = next(r for r in hub.get("/api/v1/samples") if r["device"] == "knows-it-all")
    assert (row["label"], row["truth"], row["people"]) == ("walk", "walk", [])
    packed = msgspec.msgpack.decode(ask(hub, "GET", "/api/v1/labelled?model=m", hub.token).data)
    assert [(r["said"], r["truth"]) for r in packed if r["device"] == "knows-it-all"] == [(False, "walk")]
    hub.post("/api/v1/labels", {"labels": [{"device": "knows-it-all", "key": "a-labelled-one", "label": "run"}], "who": "ada"})
    row = next(r for r in hub.get("/api/v1/samples") if r["device"] == "knows-it-all")
    assert (row["label"], row["truth"], row["people"]) == ("run", "walk", ["ada"])


def test_messages_still_take_what_agents_send(hub: Hub, device: str) -> None:
    beat = {
        "model": "m",
        "labels": {f"l{i}": 2**40 for i in range(MAX_LABELS)},
        "seconds": 86400.0,
        "confidence": {"count": 5, "mean": 1.0, "variance": 0.1},
    }
    body = {"key": "an-honest-one", "at": 12.0, "heartbeat": beat}
    assert ask(hub, "POST", "/api/v1/report", device, body).status == 200
    assert msgspec.msgpack.decode(msgspec.msgpack.encode({"samples": [sample("12345678")]}), type=Samples).samples
    assert version(hub.folder, 3).exists()


def test_uploads_that_are_refused_have_their_price(tmp_path: Path) -> None:
    """Unpacking costs time, whatever comes of it."""
    own = parts(tmp_path, report_quota_per_hour=2)
    own.device("pi-1")
    upload = msgspec.msgpack.decode(msgspec.msgpack.encode({"samples": [sample("a-sample", data=b"damaged")]}), type=Samples)
    device = accounts.EnrolledDevice("pi-1", [], "stable", "m", "")
    with own.hub.database.writing() as database:
        assert [ingest.admit(database, device, upload, own.hub.settings) for _ in range(3)] == [True, True, False]
    with pytest.raises(DataError, match="damaged"):
        ingest.check_all(upload)


def test_labels_of_one_device_are_bounded_over_all_its_reports() -> None:
    seen = DeviceEvidence()
    for turn in range(5):
        labels = {f"l{turn}-{i}": 2**53 for i in range(MAX_LABELS)}
        evidence.add(seen, Heartbeat(labels=labels, seconds=300.0, crashes=turn, right=2**53, labelled=5), 0)
    assert len(seen.labels) == evidence.MAX_KEPT_LABELS + 1 and max(seen.labels.values()) < 2**40
    assert seen.right <= seen.labelled and seen.worked
