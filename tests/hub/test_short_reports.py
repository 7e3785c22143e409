"""The short way of reports: what it answers, stores and refuses is what the framework answers, stores and refuses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func

from edgeloop_contract.errors import StorageError
from edgeloop_contract.messages import Event, JobResult, Report
from edgeloop_hub.api.short_reports import MAX_BYTES, PATH, ShortReports
from edgeloop_hub.app import SECURITY_HEADERS, build
from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.known_credentials import KnownCredentials
from edgeloop_hub.fleet import removal, reports
from edgeloop_hub.http import error_responses
from edgeloop_hub.http.error_responses import public_words
from edgeloop_hub.storage.schema import devices, events, heartbeats
from hub_parts import NEW, Parts, beat, parts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the framework's, of how handlers name what they take
Answer = tuple[int, dict[str, str], bytes]


class Ways:
    """A hub's application with the short way around it. `long`: how many requests reached the framework."""

    def __init__(self, hub: Parts) -> None:
        self.hub, self.app, self.long = hub, build(hub.hub), 0
        self.short = ShortReports(self._counting(), SECURITY_HEADERS)

    def _counting(self) -> Any:
        ways = self

        class Counting:
            state = ways.app.state

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                ways.long += 1
                await ways.app(scope, receive, send)

        return Counting()

    def ask(self, body: bytes, secret: str = "pi-1", by: str = "short", gone: bool = False, **more: Any) -> Answer:
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json", "content-length": str(len(body))}
        headers |= more.pop("headers", {})
        lines = [(name.encode(), value.encode()) for name, value in headers.items() if value]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": PATH,
            "raw_path": PATH.encode(), "query_string": b"", "root_path": "", "headers": [*lines, *more.pop("lines", [])],
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": {}, **more,
        }  # fmt: skip
        halves = [body[: len(body) // 2], body[len(body) // 2 :]]
        waiting = [{"type": "http.request", "body": halves[0], "more_body": True}]
        waiting += [{"type": "http.disconnect"}] if gone else [{"type": "http.request", "body": halves[1], "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(getattr(self, by if by == "short" else "app")(scope, receive, send))
        if not sent:
            return 0, {}, b""
        found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def ways(tmp_path: Path) -> Iterator[Ways]:
    hub = parts(tmp_path)
    hub.device("pi-1")
    hub.device("pi-2")
    made = Ways(hub)
    for secret in ("pi-1", "pi-2"):
        assert made.ask(body(), secret)[0] == 200  # the first one makes the device known
    assert made.long == 2
    made.long = 0
    yield made


def body(key: str = "", **more: Any) -> bytes:
    report = Report(key=key or f"key-{time.perf_counter_ns()}", at=time.time(), heartbeat=beat(NEW, answered=3))
    return msgspec.json.encode(msgspec.structs.replace(report, **more))


def count(ways: Ways) -> int:
    return int(ways.hub.value(func.count(), heartbeats.c.device == "pi-1"))


def test_a_usual_report_goes_the_short_way_and_is_answered_as_by_the_framework(ways: Ways) -> None:
    there = count(ways)
    short, by_framework = ways.ask(body("key-00000001")), ways.ask(body("key-00000002"), by="framework")
    assert short == by_framework and short[2] == b"null" and ways.long == 0
    assert ways.ask(body("key-00000001"))[0] == 200 and count(ways) == there + 2
    assert ways.hub.value(devices.c.sha256, devices.c.name == "pi-1") == NEW


ODD: dict[str, Any] = {
    "no JSON": (b"{", {}),
    "another shape": (b'{"key": "key-00000003"}', {}),
    "not UTF-8": (b'{"key": "key-0000000\xff", "at": 1}', {}),
    "nested without end": (
        b'{"key":"key-00000003","at":1,"job":{"id":"a","measured":{"a":' + b"[" * 2000 + b"]" * 2000 + b"}}}",
        {},
    ),
    "no body": (b"", {}),
    "MessagePack": (b"\x80", {"headers": {"content-type": "application/x-msgpack"}}),
    "a form": (b"a=b", {"headers": {"content-type": "application/x-www-form-urlencoded"}}),
    "another media type": (b"{}", {"headers": {"content-type": "text/plain"}}),
    "a wrong credential": (b"{}", {"secret": "nobody"}),
    "no credential": (b"{}", {"headers": {"authorization": ""}}),
    "a credential that is no ASCII": (b"{}", {"secret": "ü"}),
    "another method": (b"{}", {"method": "PUT"}),
    "another path": (b"{}", {"path": "/api/v1/reports", "raw_path": b"/api/v1/reports"}),
    "a length that is no number": (b"{", {"headers": {"content-length": "-1"}}),
    "two credentials": (b"{", {"lines": [(b"authorization", b"Bearer pi-2")]}),
    "too long": (b'{"key": "' + b"a" * (2 << 20) + b'"}', {}),
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_else_comes_is_answered_by_the_framework(ways: Ways, name: str) -> None:
    odd, more = ODD[name]
    there = count(ways)
    answer = ways.ask(odd, **more)
    assert ways.long == 1 and answer == ways.ask(odd, by="framework", **more) and answer[0] >= 400 and count(ways) == there


def test_what_takes_long_goes_the_long_way_and_is_stored_once(ways: Ways) -> None:
    many = [Event(key=f"event-{i:06}", kind="installed", at=time.time()) for i in range(20)]
    long_ones = (
        (body(events=many), {}), (body(job=JobResult(id="a")), {}), (body(log=["a" * 300] * 20) + b" " * MAX_BYTES, {}),
        (body(), {"headers": {"content-type": "application/json; charset=utf-8"}}),
        (body(), {"headers": {"content-length": "", "transfer-encoding": "chunked"}}),
    )  # fmt: skip
    there = count(ways)
    for number, (long_one, more) in enumerate(long_ones, 1):
        assert ways.ask(long_one, **more)[0] == 200 and ways.long == number
    assert count(ways) == there + len(long_ones) and ways.hub.value(func.count(), events.c.source == "pi-1") == 20


def test_a_revocation_and_a_deletion_hold_for_the_next_report(ways: Ways) -> None:
    there = count(ways)
    with ways.hub.hub.database.writing() as database:
        accounts.revoke(database, "pi-1")
        removal.remove(database, "pi-2", "ada")
    for secret in ("pi-1", "pi-2"):
        status, _, words = ways.ask(body(), secret)
        assert status == 401 and b"no such device credential" in words
    assert count(ways) == there
    ways.hub.device("pi-2")
    ways.hub.change(devices, devices.c.name == "pi-2", credential="another one's")  # enrolled again: the old credential is nobody's
    assert ways.ask(body(), "pi-2")[0] == 401


def test_a_quota_a_client_that_went_away_and_a_database_that_is_away(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    there = count(ways)
    assert ways.ask(body(), gone=True)[0] == ways.long == 0 and count(ways) == there
    ways.hub.change(devices, devices.c.name == "pi-1", quota_from=time.time(), quota_used=10**6)
    status, _, words = ways.ask(body())
    assert status == 429 and b"too many reports" in words and count(ways) == there

    def away(*_: object) -> Any:
        raise StorageError("database: it is away; see that it runs")

    monkeypatch.setattr(reports, "store_together", away)
    ways.long = 0
    status, headers, words = ways.ask(body(), "pi-2")
    assert status == 503 and json.loads(words) == {"status_code": 503, "detail": "database: it is away; see that it runs"}
    assert ways.long == 0 and headers == ways.ask(body(), "pi-2", by="framework")[1]


def test_a_database_that_is_away_is_named_to_nobody(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL's driver says where the server is, and who asks; strangers ask too."""
    where = 'database: (psycopg.OperationalError) connection to server at "db.internal", port 5432 failed: Connection refused'

    def away(*_: object) -> Any:
        raise StorageError(where)

    monkeypatch.setattr(reports, "store_together", away)
    monkeypatch.setattr(error_responses, "_logged", {})
    for by in ("short", "framework"):
        status, _, words = ways.ask(body(), "pi-2", by=by)
        assert status == 503 and b"the database does not answer" in words and b"5432" not in words, by
    assert [record.getMessage() for record in caplog.records if "db.internal" in record.getMessage()] == [where]  # once a minute
    assert public_words(StorageError("database: disk is full; make room")) == "database: disk is full; make room"


def test_what_is_remembered_of_credentials_is_bounded() -> None:
    known = KnownCredentials(most=3)
    for i in range(5):
        known.note(f"secret {i}", f"pi-{i}")
        known.note(f"secret {i}", f"pi-{i}")
    assert [known.name_of(f"secret {i}") is not None for i in range(5)] == [False, False, True, True, True]
