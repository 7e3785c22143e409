"""What the hub lets in: no request is a mistake of its own, deadlines and ceilings of connections, whose tries count, file modes."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from asking import HTTP, ask, bring, enrolled, sample
from commands import HERE, command, sentence
from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.messages import Enrolment
from edgeloop_hub.auth import accounts
from edgeloop_hub.storage.database import Database
from hubs import Hub, running_hub
from strict_hub import strict_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with strict_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


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


@pytest.mark.long
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
