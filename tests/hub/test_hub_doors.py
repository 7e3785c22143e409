"""What the hub lets in: bounds of every message, deadlines and ceilings of connections, whose tries count, who may read its files."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import urllib3

from asking import HTTP, ask, enrolled
from commands import HERE, command, sentence
from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.messages import MAX_LABELS, Enrolment, Heartbeat, Samples
from edgeloop_hub.auth import accounts
from edgeloop_hub.rollouts import evidence
from edgeloop_hub.rollouts.gates import DeviceEvidence
from edgeloop_hub.samples import ingest
from edgeloop_hub.storage.database import Database
from hub_parts import parts
from hubs import Hub, running_hub, version

SMALL = (
    "sign_in_tries_per_address=12",
    "request_head_seconds=2",
    "request_body_seconds=3",
    "connections_per_address=40",
    "sample_unpacked_bytes_per_day=100000000",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    serve = ("--behind-tls", *(word for limit in SMALL for word in ("--set", limit)))
    with running_hub(tmp_path_factory.mktemp("hub"), serve=serve) as found:
        found.run("user", "add", "ada", "--password-stdin", stdin="correct horse battery\n")
        yield found


def sign_in(hub: Hub, name: str, password: str, address: str) -> urllib3.BaseHTTPResponse:
    form = urllib.parse.urlencode({"name": name, "password": password}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-For": address}
    return ask(hub, "POST", "/sign-in", body=form, **kind)


@pytest.fixture(scope="module")
def device(hub: Hub) -> str:
    return enrolled(hub, "pi-1")


@pytest.fixture(scope="module")
def cookie(hub: Hub) -> str:
    return sign_in(hub, "ada", "correct horse battery", "198.51.100.1").headers["Set-Cookie"].split(";")[0]


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


def sample(key: str, **more: Any) -> dict[str, Any]:
    values = np.zeros((16, 3), np.float32)
    told = {"key": key, "at": 1.0, "kind": "uncertain", "model": "m", "sha256": "0" * 64, "recording": "r", "dtype": "float32"}
    return {**told, "shape": [16, 3], "data": zlib.compress(values.tobytes()), **more}


def bring(hub: Hub, secret: str, *made: dict[str, Any]) -> urllib3.BaseHTTPResponse:
    body = msgspec.msgpack.encode({"samples": list(made)})
    return ask(hub, "POST", "/api/v1/outbox", secret, body, **{"Content-Type": "application/msgpack"})


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


@pytest.mark.parametrize(
    "path",
    ["/tuf/metadata/\u00b2.root.json", "/tuf/metadata/\u0663.root.json", "/tuf/metadata/99999999999999999999.root.json", "/api/v1/rollouts/99999999999999999999",
     "/api/v1/rollouts/-1", "/api/v1/rollouts/\u00b2", f"/api/v1/rollouts/{'9' * 5000}", "/api/v1/events?limit=99999999999999999999", "/api/v1/queue?limit=\u00b2",
     "/api/v1/drift?model=m&seconds=1e999", "/api/v1/labelled?model=m&at=nan", "/api/v1/unlabelled?model=m&at=inf", "/api/v1/samples/x/%00/values",
     "/api/v1/devices?limit=0", f"/api/v1/jobs/{'x' * 500}", "/api/v1/uploads/" + "a" * 64 + "%0A", "/api/v1/samples/%ff/%ff/values"],
)  # fmt: skip
def test_no_path_and_no_query_is_a_mistake_of_the_hub(hub: Hub, path: str) -> None:
    assert ask(hub, "GET", urllib.parse.quote(path, safe="/?=&%"), hub.token).status in (200, 400, 404)


@pytest.mark.parametrize(
    "path",
    [
        "/rollouts/99999999999999999999",
        "/rollouts/\u00b2",
        "/drift?days=nan",
        "/drift?days=1e999",
        "/devices/%00",
        "/?after=%ff",
        "/queue?model=%00",
    ],
)
def test_no_page_is_a_mistake_of_the_hub(hub: Hub, cookie: str, path: str) -> None:
    assert ask(hub, "GET", urllib.parse.quote(path, safe="/?=&%"), Cookie=cookie).status in (200, 400, 404)


@pytest.mark.parametrize(
    "path", ["/api/v1/report", "/api/v1/labels", "/api/v1/rollouts", "/api/v1/signed", "/api/v1/jobs", "/api/v1/enrol"]
)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"key":"12345678","at":1,"job":{"id":"x","measured":' + b'{"a":' * 20_000,
        b"1e999",
        b'"\\ud800"',
        b"\xff",
    ],
)
def test_no_body_is_a_mistake_of_the_hub(hub: Hub, device: str, path: str, body: bytes) -> None:
    assert ask(hub, "POST", path, device if path.endswith("report") else hub.token, body).status == 400


def test_pages_outlive_rows_that_an_earlier_release_took(hub: Hub, cookie: str, device: str) -> None:
    assert bring(hub, device, sample("an-old-sample")).status == 200
    database = sqlite3.connect(hub.folder / "data" / "hub.sqlite", timeout=20)
    drift = {"model": "odd", "samples": 1, "drifting": True, "since": 1e300, "cause": "population", "text": "x"}
    for i, body in enumerate((json.dumps(drift), '{"score": -5}', "{", '{"shifts": {"a": 1e300}}')):
        row = ("pi-1", f"odd-{i}", time.time(), "odd", "", 1, 1.0, body)
        database.execute("INSERT INTO drifts (device, key, at, model, sha256, samples, score, body) VALUES (?,?,?,?,?,?,?,?)", row)
    beat = (
        '{"model":"m","sha256":"a","drift":1e300,"celsius":1e300,"since":-1e300,"latency_us_p95":1e300,"crashes":9000000000000000}'
    )
    database.execute(
        "INSERT INTO heartbeats (device, key, at, sha256, body) VALUES (?,?,?,?,?)", ("pi-1", "odd", time.time(), "a", beat)
    )
    database.execute("UPDATE devices SET heartbeat = ? WHERE name = 'pi-1'", (beat,))
    for column in ("taken", "value", "confidence", "at"):
        for number in (-1e300, 1e300):
            database.execute(f"UPDATE samples SET {column} = ?", (number,))
            database.commit()
            for path in ("/", "/queue", "/drift", "/devices/pi-1", "/events", "/rollouts", "/versions"):
                answer = ask(hub, "GET", path, Cookie=cookie)
                assert answer.status == 200, (path, column, number)
            for path in (
                "/metrics",
                "/api/v1/devices",
                "/api/v1/queue",
                "/api/v1/samples",
                "/api/v1/drift?model=odd",
                "/api/v1/unlabelled?model=m",
            ):
                assert ask(hub, "GET", path, hub.token).status == 200, (path, column, number)
    database.execute("DELETE FROM samples")
    database.commit()


# Connections


def half_sent(hub: Hub, content: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", int(hub.address.rpartition(":")[2])), timeout=20)
    made.sendall(content)
    return made


HALVES = {
    "nothing": b"",
    "a head": b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
    "a body": b"POST /api/v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\nContent-Type: application/json\r\n\r\n{",
}


def test_half_sent_requests_hold_up_nobody(hub: Hub) -> None:
    """This hub has room for forty from an address that is no proxy's; from a proxy's for 900."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for i in range(1005):
            with contextlib.suppress(OSError):
                stack.enter_context(half_sent(hub, list(HALVES.values())[i % 3]))
        HTTP.clear()  # an idle connection of before may have made room, as it should
        for _ in range(3):
            assert ask(hub, "GET", "/healthz").status == 200


@pytest.mark.parametrize("half", HALVES)
def test_a_request_has_a_deadline_however_slowly_it_drips(hub: Hub, half: str) -> None:
    began = time.monotonic()
    with half_sent(hub, HALVES[half]) as wire:
        wire.settimeout(0.3)
        while time.monotonic() - began < 10:
            try:
                if wire.recv(1000) == b"":
                    break
            except TimeoutError:
                with contextlib.suppress(OSError):
                    wire.sendall(b"x" if half != "nothing" else b"")
            except OSError:
                break
    assert time.monotonic() - began < 6


def test_a_connection_that_is_kept_answers_again(hub: Hub) -> None:
    with half_sent(hub, b"") as wire:
        for _ in range(3):
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in answer(wire)
        time.sleep(2.5)  # longer than a head may take
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in answer(wire)


def answer(wire: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"}") and (more := wire.recv(10_000)):
        found += more
    return found


# Names, tries, tokens, files


@pytest.mark.parametrize("name", accounts.RESERVED)
def test_nobody_takes_a_name_under_which_the_hub_writes(tmp_path: Path, name: str) -> None:
    with Database(f"sqlite:///{tmp_path / 'hub.sqlite'}").writing() as database:
        secret = accounts.make_token(database, "enrol", "any", [], None)
        with pytest.raises(DataError, match="the hub uses this name itself"):
            accounts.enrol(database, Enrolment(token=secret, device=name), b"")
        with pytest.raises(UsageError, match="the hub uses this name itself"):
            accounts.add_user(database, name, "a long password")
        if name != "any":
            with pytest.raises(UsageError, match="the hub uses this name itself"):
                accounts.make_token(database, "enrol", name, [], None)


def test_the_hubs_name_is_refused_at_its_door(hub: Hub) -> None:
    answer = ask(hub, "POST", "/api/v1/enrol", body={"token": hub.run("token", "enrol", "any"), "device": "hub"})
    assert answer.status == 400 and "the hub uses this name itself" in answer.json()["detail"]


def test_a_device_that_an_earlier_release_let_in_as_the_hub_is_nobody(hub: Hub) -> None:
    secret = enrolled(hub, "to-be-renamed")
    database = sqlite3.connect(hub.folder / "data" / "hub.sqlite", timeout=20)
    database.execute("UPDATE devices SET name = 'hub' WHERE name = 'to-be-renamed'")
    database.commit()
    assert ask(hub, "GET", "/api/v1/update", secret).status == 401
    database.execute("DELETE FROM devices WHERE name = 'hub'")
    database.commit()


@pytest.mark.parametrize("name", ["pi-1\n", "pi-1\r", "\npi-1", "pi-1 ", "pi-1\u0000", "Pi-1", "p" * 64, "pi-1\u2028"])
def test_a_name_is_matched_to_its_end(hub: Hub, name: str) -> None:
    assert ask(hub, "POST", "/api/v1/enrol", body={"token": "enrol-x", "device": name}).status == 400
    assert ask(hub, "POST", "/api/v1/jobs", hub.token, {"device": name, "target": "x.edgeloop"}).status == 400
    assert ask(hub, "POST", "/api/v1/jobs", hub.token, {"device": "pi-1", "target": f"x.edgeloop{name[4:]}\n"}).status == 400


def nginx() -> dict[str, str]:
    """The headers that the documented line sets, as nginx would for a client at 203.0.113.9."""
    text = (HERE.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"proxy_set_header (\S+) (\S+);", text))
    values = {"$remote_addr": "203.0.113.9", "$http_host": "hub.example", "$scheme": "https"}
    return {name: values[value] for name, value in found.items()}


def test_strangers_lock_nobody_out(hub: Hub) -> None:
    assert "203.0.113.9" in nginx().values(), "the documented proxy sends no address of the client"
    hub.run("user", "add", "eve", "--password-stdin", stdin="correct horse battery\n")
    header = next(name for name, value in nginx().items() if value == "203.0.113.9")
    assert header == "X-Forwarded-For"
    statuses = [sign_in(hub, "eve", "wrong", nginx()[header]).status for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert sign_in(hub, "eve", "correct horse battery", nginx()[header]).status == 429  # from there also the right one waits
    assert sign_in(hub, "eve", "correct horse battery", "203.0.113.10").status == 303
    # Whoever tries many names from one address is stopped too; a subscriber's /64 is one address.
    statuses = [sign_in(hub, f"name-{i}", "wrong", f"2001:db8::{i:x}").status for i in range(14)]
    assert statuses == [401] * 12 + [429] * 2
    assert sign_in(hub, "eve", "correct horse battery", "2001:db8:0:1::1").status == 303


def test_tries_with_wrong_tokens_hold_up_no_good_one(hub: Hub) -> None:
    for i in range(14):
        answer = ask(hub, "POST", "/api/v1/enrol", body={"token": f"enrol-wrong-{i}", "device": "x"})
        assert answer.status == (401 if i < 12 else 429)
    enrolled(hub, "the-right-one")


def test_without_a_proxy_nobody_says_his_own_address(tmp_path: Path) -> None:
    with running_hub(tmp_path, keys=False) as hub:
        hub.run("user", "add", "ada", "--password-stdin", stdin="correct horse battery\n")
        statuses = [sign_in(hub, "ada", "wrong", f"203.0.113.{i}").status for i in range(6)]
        assert statuses == [401] * 5 + [429]
        for path in (hub.folder / "data", *(hub.folder / "data").glob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
    done = command("edgeloop-hub", "--data", tmp_path / "x", "serve", "--trusted-proxy", "10.0.0.1")
    assert "only with --behind-tls" in sentence(done, 2)


def test_a_hub_of_an_earlier_release_is_closed_to_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert command("edgeloop-hub", "--data", data, "token", "api", "x").returncode == 0
    data.chmod(0o755)
    (data / "hub.sqlite").chmod(0o644)
    assert command("edgeloop-hub", "--data", data, "token", "list").returncode == 0
    assert data.stat().st_mode & 0o077 == 0 and (data / "hub.sqlite").stat().st_mode & 0o077 == 0
    # A folder with other things in it stays open to those who use them; what is the hub's does not.
    (data / "notes.txt").write_text("mine")
    data.chmod(0o755)
    (data / "hub.sqlite").chmod(0o644)
    assert command("edgeloop-hub", "--data", data, "token", "list").returncode == 0
    assert data.stat().st_mode & 0o777 == 0o755 and (data / "hub.sqlite").stat().st_mode & 0o077 == 0


def test_tokens_are_listed_and_revoked_without_their_secrets(hub: Hub) -> None:
    first, second = hub.run("token", "api", "cron"), hub.run("token", "api", "cron")
    told = hub.run("token", "list")
    assert told.count(" cron ") == 2 and first not in told and second not in told
    assert len([t for t in hub.get("/api/v1/tokens") if t["name"] == "cron"]) == 2
    assert ask(hub, "GET", "/api/v1/devices", first).status == 200
    number = next(line.split()[0] for line in told.splitlines() if " cron " in line)
    assert "1 token revoked" in hub.run("token", "revoke", number)
    assert [ask(hub, "GET", "/api/v1/devices", t).status for t in (first, second)] == [401, 200]
    assert ask(hub, "DELETE", "/api/v1/tokens/cron", hub.token).json() == {"revoked": 1}
    assert ask(hub, "GET", "/api/v1/devices", second).status == 401
    assert "there is no token" in hub.run("token", "revoke", "cron", code=2)
    assert ask(hub, "GET", "/api/v1/tokens", enrolled(hub, "curious")).status == 401


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
    device = accounts.Device("pi-1", [], "stable", "m", "")
    with own.hub.database.writing() as database:
        assert [ingest.admit(database, device, upload, own.hub.settings) for _ in range(3)] == [True, True, False]
    with pytest.raises(DataError, match="damaged"):
        ingest.check_all(upload)


def test_labels_of_one_device_are_bounded_over_all_its_reports() -> None:
    seen = DeviceEvidence()
    for turn in range(5):
        labels = {f"l{turn}-{i}": 2**53 for i in range(MAX_LABELS)}
        evidence.add(seen, Heartbeat(labels=labels, seconds=300.0, crashes=turn, right=2**53, labelled=5), 2**53)
    assert len(seen.labels) == MAX_LABELS + 1 and max(seen.labels.values()) < 2**40
    assert seen.right <= seen.labelled and seen.worked
