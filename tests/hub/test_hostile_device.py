"""One device says anything that the messages allow, over HTTP: the hub bounds it, and the reports of others, ticks and pages go on."""

from __future__ import annotations

import http.client
import json
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asking import ask, bring, enrolled, sample
from edgeloop_contract.hub_messages import GroupVariance
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.auth.accounts import RESERVED
from edgeloop_hub.drift.discoveries import shifts
from hubs import Hub, running_hub, version

MODEL = "exercise_watch"
HONEST = ("pi-1", "pi-2", "pi-3")
YEAR = 366 * 86_400.0
FAR = 2.5e11  # a time in the year 9892


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def secrets(hub: Hub) -> dict[str, str]:
    """Credentials of each device, in a rollout that all of them are in."""
    found = {name: enrolled(hub, name) for name in (*HONEST, "mad-1")}
    target = hub.publish(version(hub.folder, 2))
    for name, secret in found.items():
        assert report(hub, secret, f"first-{name}", {"sha256": "0" * 64}).status == 200
    hub.edgeloop("rollout", "start", target, "--steps", "100%", "--soak-minutes", "60")
    return found


def report(hub: Hub, secret: str, key: str, beat: dict[str, Any], **more: Any) -> Any:
    body = {"key": key.ljust(8, "-"), "at": time.time(), "heartbeat": {"model": MODEL, "version": 1, **beat}, **more}
    return ask(hub, "POST", "/api/v1/report", secret, body)


def new_sha(hub: Hub) -> str:
    return str(next(row["sha256"] for row in hub.get("/api/v1/bundles")))


BELIEVED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "counts beyond any device": (
        {"answered": 2**53, "refused": 2**53, "crashes": 2**53, "seconds": 300.0},
        {"answered": 3_010_000},
    ),
    "a report over a year": ({"seconds": YEAR, "answered": 2**53}, {"seconds": 30 * 86_400.0}),
    "a beginning that is yet to come": ({"since": FAR}, {}),
    "more right than labelled": ({"right": 2**53, "labelled": 3}, {"right": 3}),
    "labels that nobody knows": ({"labels": {f"made-up-{i}": 2**53 for i in range(1000)}}, {}),
    "very long labels": ({"labels": {f"{i:0200}": 1 for i in range(1000)}}, {}),
    "answers beyond any device": ({"confidence": {"count": 2**53, "mean": 1.001, "variance": 1.0}, "seconds": 1.0}, {}),
    "latency of an hour": ({"latency_us_p95": 3.6e9, "latency_us_p50": 0.0}, {}),
    "any memory, drift and heat": ({"memory_bytes": 2**53, "drift": 1e18, "celsius": -1e4}, {}),
    "a schema that no agent reads": ({"reads": 2**53}, {}),
    "a version of its own": ({"version": 2**53, "sha256": "x" * 200, "target": "<b>" * 60, "machine": "\u202e" * 200}, {}),
}


@pytest.mark.parametrize("what", BELIEVED)
def test_what_a_device_claims_is_bounded_and_stops_nobody(hub: Hub, secrets: dict[str, str], what: str) -> None:
    claimed, kept = BELIEVED[what]
    for number, sha256 in enumerate((new_sha(hub), "0" * 64)):
        assert report(hub, secrets["mad-1"], f"{number} {what}"[:60], {"sha256": sha256, **claimed}).status == 200
    for name in HONEST:
        honest = {"sha256": "0" * 64, "answered": 9, "labels": {"FEL": 9}, "seconds": 300.0}
        assert report(hub, secrets[name], f"{name} {what}"[:60], honest).status == 200
    stored = next(row for row in hub.get("/api/v1/devices") if row["name"] == "mad-1")["heartbeat"]
    assert {name: stored[name] for name in kept} == kept
    assert stored.get("since", 0.0) <= time.time() and sum(map(len, stored.get("labels", {}))) < 40_000
    began = time.monotonic()
    assert hub.get("/api/v1/rollouts/1")["state"] == "running"
    assert time.monotonic() - began < 5


def test_made_up_features_hide_no_drift_of_another_device() -> None:
    real = [(1.0, DriftReport(sha256="a", samples=200, shifts={"x": 0.3}))]
    mad = [(1.0 + i, DriftReport(sha256="a", samples=200, shifts={f"{i}-{n}": 9.0 for n in range(100)})) for i in range(500)]
    variances = {"a": GroupVariance(between={"x": 0.02}, within={"x": 1.0})}
    alone = shifts({"pi-1": real}, variances)
    began = time.monotonic()
    assert len(alone) == 1 and shifts({"pi-1": real, "mad-1": mad}, variances) == alone
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("at", [0.0, FAR, -1.0, 1e300])
def test_times_lie_in_a_window(hub: Hub, secrets: dict[str, str], at: float) -> None:
    event = {"key": f"event-{at}", "kind": f"at {at}", "at": max(0.0, min(at, FAR))}
    answer = report(hub, secrets["mad-1"], f"at {at} of a report", {}, events=[event], at=at)
    assert answer.status == (200 if 0 <= at <= FAR else 400)
    stored = [row["at"] for row in hub.get("/api/v1/events?limit=1000") if row["kind"] == f"at {at}"]
    assert all(time.time() - 60 < each <= time.time() for each in stored)


def test_features_and_faults_that_a_device_makes_up_hide_and_hold_up_nothing(hub: Hub, secrets: dict[str, str]) -> None:
    for i in range(120):
        drift = {
            "model": MODEL, "sha256": new_sha(hub), "samples": 2**53, "score": 1e18, "drifting": True, "since": FAR,
            "shifts": {f"made-up-{i}-{n}": 1e18 for n in range(100)}, "faults": {f"fault-{i}-{n}": 2**53 for n in range(50)},
            "confidence": [2**53] * 10,
        }  # fmt: skip
        assert report(hub, secrets["mad-1"], f"drift-{i:04}", {}, drift=drift).status == 200
    began = time.monotonic()
    told = hub.get(f"/api/v1/drift?model={MODEL}")
    assert time.monotonic() - began < 5 and told["shifts"] == []
    hub.run("tick")
    assert len(told["devices"][0]["faults"]) <= 50 and told["devices"][0]["since"] <= time.time()


def test_masks_of_a_huge_sample_keep_nobody_waiting(hub: Hub, secrets: dict[str, str]) -> None:
    size, pixels = [4096, 4096], 4096 * 4096
    masks = [{"label": f"l{i}", "size": size, "counts": [i * 60, 50, pixels - i * 60 - 50]} for i in range(255)]
    upload = [
        sample(f"mask-{i}-----", model="nothing", shape=size, dtype="uint8", data=zlib.compress(bytes(pixels), 1),
               answer={"masks": masks}) for i in range(3)
    ]  # fmt: skip
    others = list[float]()

    def speak() -> None:
        for i in range(40):
            began = time.monotonic()
            assert report(hub, secrets["pi-1"], f"beside-masks-{i}", {}).status == 200
            others.append(time.monotonic() - began)

    speaker = threading.Thread(target=speak)
    speaker.start()
    began = time.monotonic()
    assert bring(hub, secrets["mad-1"], *upload).status == 200
    assert time.monotonic() - began < 10
    speaker.join()
    assert len(others) == 40 and max(others) < 3


def test_a_message_sent_in_chunks_has_as_many_bytes_as_another(hub: Hub, secrets: dict[str, str]) -> None:
    address = hub.address.removeprefix("http://")
    for path, secret in (("/api/v1/report", secrets["mad-1"]), ("/api/v1/enrol", "")):
        connection = http.client.HTTPConnection(address, timeout=20)
        said = {"Content-Type": "application/json", **({"Authorization": f"Bearer {secret}"} if secret else {})}
        connection.request("POST", path, iter([b" " * (1 << 18)] * 8), said, encode_chunked=True)
        assert connection.getresponse().status == 413, path
        connection.close()


NAMES = (
    *RESERVED,
    "pi-1\n",
    "\npi",
    "Pi",
    "pi\u00e9",
    "p" * 64,
    "",
    "-pi",
    "pi 1",
    "../pi",
    "pi/1",
    "pi\x00",
    "\uff50\uff49",
    "<b>",
    "pi_1",
    "pi.1",
)


@pytest.mark.parametrize("name", NAMES)
def test_no_such_name_enrols(hub: Hub, secrets: dict[str, str], name: str) -> None:
    token = hub_token(hub)
    assert ask(hub, "POST", "/api/v1/enrol", body={"token": token, "device": name}).status == 400
    assert {row["name"] for row in hub.get("/api/v1/devices")} == set(secrets)


def hub_token(hub: Hub) -> str:
    """For any device, made without a process of its own."""
    from edgeloop_hub.auth import accounts
    from edgeloop_hub.storage.database import Database

    with Database(f"sqlite:///{hub.folder / 'data' / 'hub.sqlite'}").writing() as connection:
        return accounts.make_token(connection, "enrol", "any", [], 600.0)


def test_a_device_that_never_stops_is_told_so_and_the_others_are_heard(hub: Hub, secrets: dict[str, str]) -> None:
    stop, statuses = threading.Event(), list[int]()
    big = json.dumps({"model": MODEL, "labels": {f"{i:0100}": 2**53 for i in range(1000)}})

    def hammer() -> None:
        for number in range(10**6):
            if stop.is_set():
                return
            statuses.append(report(hub, secrets["mad-1"], f"hammer-{number}-{threading.get_ident()}", json.loads(big)).status)

    hammers = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in hammers:
        thread.start()
    began = time.monotonic()
    for i in range(30):
        for name in HONEST:
            assert report(hub, secrets[name], f"heard-{i}-{name}", {"sha256": "0" * 64}).status == 200
    hub.run("tick")
    took = time.monotonic() - began
    stop.set()
    for thread in hammers:
        thread.join()
    assert 429 in statuses and took < 60
    health = hub.get("/api/v1/health")
    assert health["tick"]["fine"] and health["tick"]["longest_write_seconds"] < 0.5, msgspec.json.encode(health)


def test_nothing_of_it_was_a_mistake_of_the_hub(hub: Hub) -> None:
    assert "Traceback" not in hub.log and Path(hub.folder / "data" / "hub.sqlite").stat().st_size < 200 << 20


def test_names_that_a_device_makes_up_are_no_new_series_with_each_report(hub: Hub, secrets: dict[str, str]) -> None:
    """Before, each report could name another model and other kinds of events, and each was a series that Prometheus keeps."""
    seen = []
    for turn in range(3):
        events = [{"key": f"made-up-{turn}-{i:03}", "kind": f"made up {turn} {i}", "at": time.time()} for i in range(100)]
        beat = {"model": f"made up {turn}" if turn else MODEL, "version": turn}
        assert report(hub, secrets["mad-1"], f"series-{turn}", beat, events=events).status == 200
        text = hub.http.get_bytes("/metrics").decode()
        seen.append({line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("edgeloop_hub_stored_events")})
    assert seen[0] == seen[1] == seen[2] and 'edgeloop_hub_stored_events{kind="other"}' in seen[0]
    assert any('"enrolled"' in series for series in seen[0])
