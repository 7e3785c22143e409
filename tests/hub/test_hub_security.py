"""What the hub must refuse: strangers, thieves of one credential, forged forms, planted sessions, and what devices say as HTML."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from asking import ask, enrolled
from hubs import Hub, running_hub, version

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        found.run("user", "add", "ada", "--password-stdin", stdin="correct horse battery\n")
        yield found


def report(key: str, **beat: Any) -> dict[str, Any]:
    return {"key": key, "at": time.time(), "heartbeat": {"model": "exercise_watch", "version": 1, **beat}}


def sign_in(hub: Hub, password: str = "correct horse battery", name: str = "ada", **headers: str) -> urllib3.BaseHTTPResponse:
    form = urllib.parse.urlencode({"name": name, "password": password}).encode()
    return ask(hub, "POST", "/sign-in", body=form, **{"Content-Type": "application/x-www-form-urlencoded", **headers})


def cookie_of(answer: urllib3.BaseHTTPResponse) -> str:
    return answer.headers["Set-Cookie"].split(";")[0]


@pytest.fixture(scope="module")
def cookie(hub: Hub) -> str:
    answer = sign_in(hub)
    assert answer.status == 303
    assert "httponly" in answer.headers["Set-Cookie"].lower() and "samesite=lax" in answer.headers["Set-Cookie"].lower()
    return cookie_of(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/devices",
        "/api/v1/update",
        "/api/v1/signed",
        "/tuf/metadata/timestamp.json",
        "/metrics",
        "/api/v1/rollouts",
        "/api/v1/jobs/x",
    ],
)
def test_strangers_and_made_up_secrets_get_nothing(hub: Hub, path: str, cookie: str) -> None:
    for secret in ("", "device-made-up", "api-made-up"):
        assert ask(hub, "GET", path, secret).status == 401
    assert ask(hub, "GET", path, Cookie=cookie).status == 401  # a browser's session is no token
    assert ask(hub, "GET", "/").status == 303


def test_a_stolen_device_credential_sees_and_writes_only_its_own(hub: Hub, tmp_path: Path) -> None:
    mine, other = enrolled(hub, "mine"), enrolled(hub, "other")
    path = version(tmp_path, 5)
    target = hub.publish(path)
    for secret in (mine, other):
        ask(hub, "POST", "/api/v1/report", secret, report(f"hello-{secret[-8:]}"))
    number = hub.edgeloop("rollout", "start", target, "--steps", "other").split()[1]
    name = f"/tuf/targets/{hashlib.sha256(path.read_bytes()).hexdigest()}.{target}"
    assert (
        ask(hub, "GET", "/api/v1/update", other).json()["target"] == target
        and "target" not in ask(hub, "GET", "/api/v1/update", mine).json()
    )
    assert ask(hub, "GET", name, other).status == 200 and ask(hub, "GET", name, mine).status == 404
    for method, address in (
        ("GET", "/api/v1/devices"),
        ("GET", "/api/v1/events"),
        ("POST", f"/api/v1/rollouts/{number}/abort"),
        ("GET", "/metrics"),
    ):
        assert ask(hub, method, address, mine).status == 401
    job = ask(hub, "POST", "/api/v1/jobs", hub.token, {"device": "other", "target": target}).json()["id"]
    ask(hub, "POST", "/api/v1/report", mine, {"key": "forged-job-x", "at": 1.0, "job": {"id": job, "measured": {"x": 1}}})
    assert ask(hub, "GET", f"/api/v1/jobs/{job}", hub.token).json()["state"] == "waiting"
    hub.run("device", "revoke", "mine")
    assert ask(hub, "GET", "/api/v1/update", mine).status == 401
    hub.edgeloop("rollout", "abort", number)


def test_an_enrolment_token_works_once_and_for_its_device_alone(hub: Hub) -> None:
    token = hub.run("token", "enrol", "once")
    wrong = ask(hub, "POST", "/api/v1/enrol", body={"token": token, "device": "another"})
    assert wrong.status == 400 and "is for device once" in wrong.json()["detail"]
    assert ask(hub, "POST", "/api/v1/enrol", body={"token": token, "device": "once"}).status == 200
    assert ask(hub, "POST", "/api/v1/enrol", body={"token": token, "device": "once"}).status == 401


def test_a_replayed_report_is_stored_once_and_lies_about_the_future_are_not_believed(hub: Hub) -> None:
    secret = enrolled(hub, "replay")
    event = {"key": "event-000001", "kind": "committed", "at": time.time() + 1e6, "text": "x"}
    body = {**report("the-same-report", answered=7), "events": [event]}
    for _ in range(3):
        assert ask(hub, "POST", "/api/v1/report", secret, body).status == 200
    events = [e for e in ask(hub, "GET", "/api/v1/events", hub.token).json() if e["source"] == "replay"]
    assert len(events) == 1 and events[0]["at"] <= time.time() + 1


def test_a_flood_of_reports_meets_the_quota(hub: Hub) -> None:
    secret = enrolled(hub, "flood")
    database = sqlite3.connect(hub.folder / "data" / "hub.sqlite", timeout=20)
    database.execute("UPDATE devices SET quota_used = 599 WHERE name = 'flood'")
    database.commit()
    assert [ask(hub, "POST", "/api/v1/report", secret, report(f"flood-{i:05}")).status for i in range(2)] == [200, 429]


@pytest.mark.parametrize(
    "path",
    ["/tuf/metadata/..%2F..%2Fonline-key.pem", "/tuf/metadata/online-key.pem", "/tuf/targets/..%2F..%2Fhub.sqlite", "/tuf/metadata/1.root.json%00.json",
     "/style.css/../../settings.py", "/tuf/metadata/-1.root.json", "/tuf/metadata/99999999999999999999.root.json"],
)  # fmt: skip
def test_path_tricks_find_nothing(hub: Hub, path: str) -> None:
    assert ask(hub, "GET", path, hub.token).status in (400, 404)


def test_unsigned_things_are_refused_even_with_the_token(hub: Hub) -> None:
    signed = ask(hub, "GET", "/api/v1/signed", hub.token).json()
    targets = json.loads(signed["targets"])
    targets["signed"]["version"] += 1
    answer = ask(hub, "POST", "/api/v1/signed", hub.token, {"targets": json.dumps(targets)})
    assert answer.status == 400 and "targets metadata" in answer.json()["detail"]
    assert "has" in ask(hub, "POST", "/api/v1/signed", hub.token, {"targets": signed["targets"]}).json()["detail"]
    assert ask(hub, "POST", "/api/v1/signed", hub.token, {"roots": signed["roots"]}).status == 400
    assert ask(hub, "GET", "/api/v1/signed", hub.token).json() == signed


def test_uploads_follow_on_and_are_bounded(hub: Hub) -> None:
    sha256 = "a" * 64

    def put(begins: int, body: bytes) -> urllib3.BaseHTTPResponse:
        return ask(
            hub, "PUT", f"/api/v1/uploads/{sha256}/{begins}", hub.token, body, **{"Content-Type": "application/octet-stream"}
        )

    assert put(0, b"12345").json() == {"bytes": 5} and put(0, b"12345").json() == {"bytes": 5}
    assert "5 bytes are here" in put(9, b"x").json()["detail"]
    assert put(5, b"x" * (9 << 20)).status == 413
    assert ask(hub, "POST", "/api/v1/report", enrolled(hub, "large"), b"x" * (9 << 20)).status == 413
    assert ask(hub, "PUT", "/api/v1/uploads/..%2Fkey/0", hub.token, b"x").status in (400, 404)


def test_what_a_device_says_is_never_html(hub: Hub, cookie: str) -> None:
    secret = enrolled(hub, "evil")
    body = {
        **report("evil-report-1", machine=EVIL, runtime=EVIL, labels={EVIL: 1}, target=EVIL),
        "events": [{"key": "evil-event-1", "kind": EVIL, "at": time.time(), "target": EVIL, "text": EVIL}],
    }
    body["heartbeat"]["model"] = EVIL
    assert ask(hub, "POST", "/api/v1/report", secret, body).status == 200
    for path in ("/", "/devices/evil", "/events"):
        answer = ask(hub, "GET", path, Cookie=cookie)
        assert answer.status == 200 and EVIL.encode() not in answer.data and b"&lt;script&gt;" in answer.data
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_forms_of_others_change_nothing(hub: Hub, cookie: str) -> None:
    page = ask(hub, "GET", "/", Cookie=cookie).data.decode()
    csrf = re.search(r'name="csrf" value="(\w+)"', page)
    assert csrf is not None
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
    right = f"csrf={csrf[1]}".encode()
    assert ask(hub, "POST", "/sign-out", body=b"csrf=", **kind).status == 403
    assert ask(hub, "POST", "/sign-out", body=right, **{**kind, "Origin": "https://evil.example"}).status == 403
    assert ask(hub, "GET", "/", Cookie=cookie).status == 200
    assert sign_in(hub, Origin="https://evil.example").status == 403
    mine = cookie_of(sign_in(hub))
    page = ask(hub, "GET", "/", Cookie=mine).data.decode()
    own = re.search(r'name="csrf" value="(\w+)"', page)
    assert own is not None and own[1] != csrf[1]
    assert ask(hub, "POST", "/sign-out", body=f"csrf={own[1]}".encode(), **{**kind, "Cookie": mine}).status == 303
    assert ask(hub, "GET", "/", Cookie=mine).status == 303  # the session is over, not just forgotten by the browser


def test_a_planted_session_is_worth_nothing(hub: Hub) -> None:
    planted = "edgeloop_session=session-planted-by-somebody"
    answer = sign_in(hub, Cookie=planted)
    assert cookie_of(answer) != planted and ask(hub, "GET", "/", Cookie=planted).status == 303


@pytest.mark.long
def test_guessing_passwords_is_slowed_down(hub: Hub) -> None:
    hub.run("user", "add", "bob", "--password-stdin", stdin="another password\n")
    assert "use 10 or more" in hub.run("user", "add", "eve", "--password-stdin", stdin="short\n", code=2)
    statuses = [sign_in(hub, f"guess {i}", "bob").status for i in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert sign_in(hub, "another password", "bob").status == 429  # also the right one waits
    database = sqlite3.connect(hub.folder / "data" / "hub.sqlite", timeout=20)
    database.execute("DELETE FROM tries")
    database.commit()


def test_secrets_are_in_no_log_and_in_no_table(hub: Hub) -> None:
    token = hub.run("token", "enrol", "quiet")
    credential = ask(hub, "POST", "/api/v1/enrol", body={"token": token, "device": "quiet"}).json()["credential"]
    stored = b"".join(p.read_bytes() for p in (hub.folder / "data").glob("hub.sqlite*"))
    for secret in (token, credential, hub.token, "correct horse battery"):
        assert secret not in hub.log and secret.encode() not in stored


@pytest.mark.long
def test_the_interface_keeps_to_its_openapi(hub: Hub) -> None:
    """schemathesis: no server error, and nothing that the document does not say."""
    import schemathesis
    from hypothesis import HealthCheck, given
    from hypothesis import settings as hypothesis_settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

    schema = schemathesis.openapi.from_url(f"{hub.address}/schema/openapi.json")
    seen, checks = 0, [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    for operation in schema.get_all_operations():
        found = operation.ok()

        @given(case=found.as_strategy())
        @hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def holds(case: Any) -> None:
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {hub.token}"}
            case.call_and_validate(checks=checks, headers={"Authorization": f"Bearer {hub.token}"})

        holds()
        seen += 1
    assert seen >= 20
