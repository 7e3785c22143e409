"""The provider says that somebody's session there has ended: so have the hub's, and nobody else can say it."""

from __future__ import annotations

import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwt

from edgeloop_hub.auth.oidc.logout_token import EVENT
from hubs import Hub, free_port, running_hub
from oidc import Browser, Provider, new_key, provider_that_runs, sign_in_file


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with provider_that_runs() as found:
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Hub]:
    folder, port = tmp_path_factory.mktemp("hub"), free_port()
    sign_in_file(folder / "data", f"http://127.0.0.1:{port}", provider.issuer)
    with running_hub(folder, keys=False, port=port, serve=("--set", "sign_in_tries_per_address=400")) as found:
        found.run("user", "add", "ada", "--password-stdin", stdin="correct horse battery\n")
        yield found


def signed_in(hub: Hub, provider: Provider, name: str, sid: str | None) -> Browser:
    provider.person = {"sub": f"sub-{name}", "email": f"{name}@works.example", "email_verified": True, "groups": ["everybody"]}
    provider.changes = {"sid": sid}
    browser = Browser()
    browser.sign_in(hub)
    assert browser.is_in, browser.text
    return browser


def still_in(hub: Hub, browser: Browser) -> bool:
    browser.get(hub.address + "/versions")
    return "/sign-in" not in browser.address


def claims(provider: Provider, **changes: Any) -> dict[str, Any]:
    """Of a logout token as it should be, with changes; None takes a claim out."""
    now = int(time.time())
    right = {"iss": provider.issuer, "aud": "edgeloop hub", "iat": now, "exp": now + 120, "jti": secrets.token_hex(8), "sub": "sub-lin",
             "events": {EVENT: {}}}  # fmt: skip
    return {name: value for name, value in {**right, **changes}.items() if value is not None}


def say(hub: Hub, token: str | None) -> tuple[int, dict[str, Any]]:
    body = urllib.parse.urlencode({"logout_token": token} if token is not None else {"other": "x"}).encode()
    try:
        with urllib.request.urlopen(hub.address + "/sign-out/oidc/back-channel", body, timeout=20) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def signed(provider: Provider, said: dict[str, Any], typ: str = "logout+jwt", **words: Any) -> str:
    key = words.get("key") or provider.keys[-1]
    return jwt.encode({"alg": "ES256", "kid": words.get("kid", key.kid), "typ": typ}, said, key)


def test_a_session_ends_by_its_name_and_all_of_a_person_by_the_subject(hub: Hub, provider: Provider) -> None:
    phone, desk, unnamed = (signed_in(hub, provider, "lin", sid) for sid in ("phone", "desk", None))
    kim = signed_in(hub, provider, "kim", "kims")
    assert say(hub, signed(provider, claims(provider, sub=None, sid="phone"))) == (200, {"sessions": 1})
    assert not still_in(hub, phone) and all(still_in(hub, one) for one in (desk, unnamed, kim))
    assert say(hub, signed(provider, claims(provider, sid="another"))) == (200, {"sessions": 1})  # which may be the unnamed one
    assert not still_in(hub, unnamed) and still_in(hub, desk)
    assert say(hub, signed(provider, claims(provider, sub="sub-kim", sid="desk"))) == (200, {"sessions": 0})  # it is not hers
    again = signed_in(hub, provider, "lin", "phone")
    assert say(hub, signed(provider, claims(provider), typ="JWT")) == (200, {"sessions": 2})
    assert not still_in(hub, desk) and not still_in(hub, again) and still_in(hub, kim)
    assert say(hub, signed(provider, claims(provider, sub="nobody"))) == (200, {"sessions": 0})
    path = hub.folder / "audit.jsonl"
    hub.run("audit", "export", path)
    ended = [entry for entry in map(json.loads, path.read_text().splitlines()) if entry["action"] == "signed out"]
    assert [(e["who"], e["subject"], e["detail"]) for e in ended][-1] == (
        "Works", "lin@works.example", "2 sessions ended, as Works says",
    )  # fmt: skip
    assert len(ended) == 3


def test_the_same_token_counts_once(hub: Hub, provider: Provider) -> None:
    token = signed(provider, claims(provider))
    assert say(hub, token)[0] == 200
    lin = signed_in(hub, provider, "lin", "later")
    status, told = say(hub, token)
    assert status == 400 and "counted already" in told["error_description"] and still_in(hub, lin)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://evil.example"}, "iss"),
    "no issuer": ({"iss": None}, "iss"),
    "another client": ({"aud": "another"}, "aud"),
    "no client": ({"aud": None}, "aud"),
    "expired": ({"exp": int(time.time()) - 3600}, "expired"),
    "without an end": ({"exp": None}, "exp"),
    "of yesterday, with a late end": ({"iat": int(time.time()) - 86400, "exp": int(time.time()) + 86400}, "too old"),
    "of tomorrow": ({"iat": int(time.time()) + 86400}, "future"),
    "no time": ({"iat": None}, "iat"),
    "no events": ({"events": None}, "events"),
    "another event": ({"events": {"http://schemas.example/other": {}}}, "events"),
    "events of another kind": ({"events": [EVENT]}, "events"),
    "an event that is no object": ({"events": {EVENT: True}}, "events"),
    "a sign-in's nonce": ({"nonce": "n"}, "nonce"),
    "a nonce that is empty": ({"nonce": ""}, "nonce"),
    "no number": ({"jti": None}, "jti"),
    "a number of another kind": ({"jti": 7}, "jti"),
    "nobody": ({"sub": None}, "neither"),
    "a subject of another kind": ({"sub": ["sub-lin"]}, "sub"),
    "a session of another kind": ({"sid": {"a": 1}}, "sid"),
    "a subject of 100 kB": ({"sub": "s" * 20_000}, "sub"),
}


def test_a_token_that_does_not_fit_ends_nothing(hub: Hub, provider: Provider) -> None:
    person = signed_in(hub, provider, "max", "here")
    for case, (changes, words) in WRONG.items():
        status, told = say(hub, signed(provider, claims(provider, **changes)))
        assert status == 400 and told["error"] == "invalid_request" and words in told["error_description"], (case, told)
    right = claims(provider, sub="sub-max")
    thief = new_key("one")
    hostile = {
        "a thief's key": signed(provider, right, key=thief), "of another type": signed(provider, right, typ="at+jwt"),
        "an unknown key": signed(provider, right, kid="never published"), "half of one": signed(provider, right)[:80], "empty": "",
        "none at all": None,
    }  # fmt: skip
    for case, token in hostile.items():
        assert say(hub, token)[0] == 400, case
    assert still_in(hub, person) and say(hub, signed(provider, right)) == (200, {"sessions": 1})


def test_ended_sessions_are_forgotten_by_ticks_and_not_in_a_backup(hub: Hub, provider: Provider) -> None:
    from sqlalchemy import func, select, update

    from edgeloop_hub.storage.database import Database
    from edgeloop_hub.storage.people_tables import oidc_logouts, oidc_sessions

    signed_in(hub, provider, "lin", "old")
    say(hub, signed(provider, claims(provider, sub="nobody")))
    hub.run("backup", hub.folder / "backup")
    other = hub.folder / "elsewhere"
    hub.run("--data", other, "restore", hub.folder / "backup")
    database = Database(f"sqlite:///{hub.folder / 'data' / 'hub.sqlite'}")
    counts = [select(func.count()).select_from(table) for table in (oidc_sessions, oidc_logouts)]
    with database.reading() as connection:
        assert all(connection.execute(count).scalar() for count in counts)
    with Database(f"sqlite:///{other / 'hub.sqlite'}").reading() as connection:
        assert [connection.execute(count).scalar() for count in counts] == [0, 0]
    with database.writing() as connection:
        for table in (oidc_sessions, oidc_logouts):
            connection.execute(update(table).values(expires=1.0))
    hub.run("tick")
    with database.reading() as connection:
        assert [connection.execute(count).scalar() for count in counts] == [0, 0]
