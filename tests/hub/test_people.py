"""What each role and each scope may do at every route, people and tokens, and the audit log."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import urllib3
from sqlalchemy import delete, insert

from commands import command, sentence
from edgeloop_contract.errors import DataError
from edgeloop_hub.app import build
from edgeloop_hub.auth import accounts, audit
from edgeloop_hub.auth.guards import is_workstation, scope_of
from edgeloop_hub.auth.people import ROLES
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.people_tables import audit_log, user_roles
from edgeloop_hub.web.page import is_person, role_of
from hub_parts import parts
from hubs import Hub, running_hub

HTTP = urllib3.PoolManager(retries=False, timeout=20)
PASSWORD = "correct horse battery"
PAGES = {  # every page and button, and the role from which on it is allowed
    "viewer": """GET / · GET /alerts · GET /devices/{name} · GET /devices/{name}/{verb} · GET /disagreements · GET /drift · GET /events · GET /groups
        · GET /groups/{name}/{verb} · GET /live
        · GET /queue · GET /rollouts · GET /rollouts/{number} · GET /rollouts/{number}/{verb} · GET /samples/{device}/{key}/picture.png · GET /versions
        · POST /sign-out""",
    "labeller": "POST /annotations · POST /queue · POST /queue/undo",
    "operator": "POST /devices/{name}/{verb} · POST /groups/{name}/{verb} · POST /rollouts/{number}/{verb}",
    "admin": "GET /audit · GET /people · GET /people/{name}/{verb} · POST /people/{name}/{verb}",
}
INTERFACE = {  # every route for tokens, and its scope
    "metrics": "GET /metrics",
    "read": """GET /api/v1/bundles · GET /api/v1/devices · GET /api/v1/devices/{name}/marks · GET /api/v1/drift · GET /api/v1/events · GET /api/v1/groups · GET /api/v1/groups/{name}/devices · GET /api/v1/health
        · GET /api/v1/jobs/{job} · GET /api/v1/key · GET /api/v1/job-wishes · GET /api/v1/signed-jobs
        · GET /api/v1/signed-jobs/{number} · GET /api/v1/labelled · GET /api/v1/queue · GET /api/v1/recordings · GET /api/v1/rollouts
        · GET /api/v1/rollouts/{number} · POST /api/v1/rollouts/power · GET /api/v1/samples · GET /api/v1/samples/{device}/{key}/annotations
        · GET /api/v1/samples/{device}/{key}/values · GET /api/v1/signed · GET /api/v1/unlabelled · GET /api/v1/uploads/{sha256}""",
    "label": "POST /api/v1/labels",
    "publish": "POST /api/v1/signed · PUT /api/v1/uploads/{sha256}/{begins}",
    "operate": """DELETE /api/v1/devices/{name} · DELETE /api/v1/devices/{name}/pin · PUT /api/v1/devices/{name}/pin · PUT /api/v1/devices/{name}/tags · PUT /api/v1/devices/{name}/note · PUT /api/v1/devices/{name}/channel · PUT /api/v1/groups/{name} · DELETE /api/v1/groups/{name} · PUT /api/v1/groups/{name}/pin · DELETE /api/v1/groups/{name}/pin
        · POST /api/v1/signed-jobs · DELETE /api/v1/job-wishes/{which}
        · POST /api/v1/jobs · POST /api/v1/rollouts · POST /api/v1/rollouts/{number}/{verb}""",
    "admin": "GET /api/v1/tokens · DELETE /api/v1/tokens/{which} · POST /api/v1/tokens/enrol",
}
ALLOWS = {  # what a token with one scope may do
    "metrics": {"metrics"}, "tails": set(), "read": {"read", "metrics"}, "label": {"label", "read", "metrics"},
    "publish": {"publish", "read", "metrics"}, "operate": {"operate", "read", "metrics"}, "admin": {"admin", "read", "metrics"},
}  # fmt: skip
FILLED = {
    "name": "nobody",
    "verb": "pin",
    "number": "999",
    "device": "nobody",
    "key": "none",
    "job": "none",
    "which": "nobody",
    "sha256": "a" * 64,
    "begins": "0",
}


def routes(table: dict[str, str]) -> dict[str, str]:
    return {route.strip(): needed for needed, listed in table.items() for route in listed.split("·")}


def filled(route: str) -> tuple[str, str]:
    method, path = route.split()
    path = path.format(**FILLED)
    return method, path.replace("/rollouts/999/pin", "/rollouts/999/pause").replace("/people/nobody/pin", "/people/nobody/delete")


class Browser(NamedTuple):
    cookie: str
    csrf: str


def signed_in(hub: Hub, name: str) -> Browser:
    form = urllib.parse.urlencode({"name": name, "password": PASSWORD})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = HTTP.request("POST", hub.address + "/sign-in", body=form, headers=kind, redirect=False)
    assert answer.status == 303
    cookie = answer.headers["Set-Cookie"].split(";")[0]
    page = HTTP.request("GET", hub.address + "/", headers={"Cookie": cookie}).data.decode()
    found = re.search(r'name="csrf" value="(\w+)"', page)
    assert found is not None
    return Browser(cookie, found[1])


def status(hub: Hub, route: str, browser: Browser, **form: str) -> int:
    method, path = filled(route) if "{" in route else route.split()
    body = urllib.parse.urlencode({"csrf": browser.csrf, **form}) if method == "POST" else None
    headers = {"Cookie": browser.cookie, **({"Content-Type": "application/x-www-form-urlencoded"} if body else {})}
    answer = HTTP.request(method, hub.address + path, body=body, headers=headers, redirect=False, preload_content=False)
    answer.close()
    return answer.status


def database_of(hub: Hub) -> Database:
    return Database(f"sqlite:///{hub.folder / 'data' / 'hub.sqlite'}")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub"), serve=("--set", "sign_in_tries_per_address=500")) as found:
        with database_of(found).writing() as database:
            for role in ROLES:
                accounts.add_user(database, f"{role}-1", PASSWORD)
                database.execute(insert(user_roles).values(name=f"{role}-1", role=role))
        yield found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the framework, about every handler with a body
def test_every_route_is_in_the_table(tmp_path: Path) -> None:
    found: dict[object, dict[str, str]] = {is_person: {}, is_workstation: {}}
    for route in build(parts(tmp_path).hub).routes:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
        for handler in getattr(route, "route_handlers", []):
            guards = {getattr(guard, "func", guard) for guard in handler.resolve_guards()}
            for guard, needed in ((is_person, role_of), (is_workstation, scope_of)):
                if guard in guards:
                    found[guard] |= {f"{method} {path}": needed(handler) for method in handler.http_methods - {"HEAD", "OPTIONS"}}
    assert found[is_person] == routes(PAGES)
    assert found[is_workstation] == routes(INTERFACE)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_at_each_route(hub: Hub, role: str) -> None:
    browser = signed_in(hub, f"{role}-1")
    for route, needed in routes(PAGES).items():
        if route != "POST /sign-out":
            allowed = ROLES.index(role) >= ROLES.index(needed)  # type: ignore[arg-type]
            assert (status(hub, route, browser) != 403) == allowed, f"{role} at {route}"
    assert status(hub, "POST /sign-out", browser) == 303 and status(hub, "GET /", browser) == 303


def test_without_a_sign_in_and_with_a_forged_form_nothing_goes(hub: Hub) -> None:
    browser = signed_in(hub, "admin-1")
    for route in routes(PAGES):
        assert status(hub, route, Browser("", "")) == 303, route
        if route.startswith("POST"):
            assert status(hub, route, Browser(browser.cookie, "forged")) == 403, route


@pytest.mark.parametrize("scope", ALLOWS)
def test_each_scope_at_each_route(hub: Hub, scope: str) -> None:
    with database_of(hub).writing() as database:
        secret = accounts.make_token(database, "api", f"only-{scope}", [], 3600.0, [scope])
    for route, needed in routes(INTERFACE).items():
        method, path = filled(route)
        answer = HTTP.request(method, hub.address + path, body=b"{}", headers={"Authorization": f"Bearer {secret}"})
        assert (answer.status != 403) == (needed in ALLOWS[scope]), f"{scope} at {route}: {answer.status}"
        assert answer.status not in (401, 500)


def test_tokens_are_made_listed_and_revoked(hub: Hub) -> None:
    secret = hub.run("token", "api", "ci", "--scope", "publish", "--scope", "label", "--days", "1")
    headers = {"Authorization": f"Bearer {secret}"}
    row = next(token for token in hub.get("/api/v1/tokens") if token["name"] == "ci")
    assert row["scopes"] == ["publish", "label"] and row["expires"] and "publish label" in hub.run("token", "list")
    assert HTTP.request("GET", hub.address + "/metrics", headers=headers).status == 200
    admin = signed_in(hub, "admin-1")
    assert status(hub, f"POST /people/{row['id']}/revoke", admin, sure="yes") == 303
    assert HTTP.request("GET", hub.address + "/metrics", headers=headers).status == 401
    for words in (("--scope", "everything"), ("--days", "0"), ("--days", "nan")):
        assert words[0] in hub.run("token", "api", "ci", *words, code=2)


def test_people_are_listed_changed_and_deleted(hub: Hub) -> None:
    hub.run("user", "add", "carl", "--password-stdin", stdin=f"{PASSWORD}\n")
    admin, carl = signed_in(hub, "admin-1"), signed_in(hub, "carl")
    assert "carl                  viewer" in hub.run("user", "list") and status(hub, "POST /queue", carl) == 403
    assert status(hub, "POST /people/carl/role", admin, role="labeller") == 303
    assert status(hub, "POST /queue", carl) != 403  # at once, in the session that is open
    hub.run("user", "add", "carl", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert "carl                  labeller" in hub.run("user", "list")  # another password is no other role
    assert status(hub, "POST /people/carl/role", admin, role="king") == 400
    carl = signed_in(hub, "carl")
    assert status(hub, "POST /people/carl/delete", admin) == 303 and status(hub, "GET /", carl) == 200  # it asks first
    assert status(hub, "POST /people/carl/delete", admin, sure="yes") == 303
    assert status(hub, "GET /", carl) == 303 and "carl" not in hub.run("user", "list")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the framework, about every handler with a body
def test_the_first_person_is_an_admin_and_there_is_always_one(tmp_path: Path) -> None:
    hub = parts(tmp_path)
    words = ("edgeloop-hub", "--data", tmp_path / "data", "user")
    assert "ada, admin" in command(*words, "add", "ada", "--password-stdin", stdin=f"{PASSWORD}\n").stdout
    assert "eve, viewer" in command(*words, "add", "eve", "--password-stdin", stdin=f"{PASSWORD}\n").stdout
    for last in (("delete", "ada"), ("role", "ada", "viewer")):
        assert "ada is the only admin" in sentence(command(*words, *last), 2)
    assert "there is no user 'bob'" in sentence(command(*words, "role", "bob", "admin"), 2)
    assert "there is no role 'king'" in sentence(command(*words, "role", "eve", "king"), 2)
    with hub.hub.database.writing() as database:
        database.execute(delete(user_roles))  # as an earlier release leaves it
    build(hub.hub)
    assert {line.split()[0]: line.split()[1] for line in command(*words, "list").stdout.splitlines()} == {
        "ada": "admin",
        "eve": "admin",
    }


def test_a_viewer_is_shown_no_buttons(hub: Hub) -> None:
    def page(name: str, path: str) -> str:
        return HTTP.request("GET", hub.address + path, headers={"Cookie": signed_in(hub, name).cookie}).data.decode()

    assert "/people" in page("admin-1", "/") and "/people" not in page("operator-1", "/")
    assert "your role is viewer" in page("viewer-1", "/audit").lower()


def test_the_audit_log_names_who_did_what(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        hub.run("user", "add", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
        hub.run("token", "enrol", "pi-1")
        browser = signed_in(hub, "ada")
        assert status(hub, "POST /people/ada/revoke", browser) == 303
        hub.run("user", "add", "bob", "--password-stdin", stdin=f"{PASSWORD}\n")
        assert status(hub, "POST /people/bob/role", browser, role="operator") == 303
        page = HTTP.request("GET", hub.address + "/audit", headers={"Cookie": browser.cookie}).data.decode()
        assert "role changed" in page and "127.0.0.1" in page
        hub.run("audit", "export", tmp_path / "audit.jsonl")
        entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        did = [(re.sub(r" \(.*", "", entry["who"]), entry["action"], entry["subject"]) for entry in entries]
        assert did == [
            ("token tests", "published", "targets version 1"), ("command line", "user added", "ada"), ("command line", "enrol token made", "pi-1"),
            ("ada", "signed in", ""), ("command line", "user added", "bob"), ("ada", "role changed", "bob")
        ]  # fmt: skip
        assert hub.run("audit", "verify").startswith("6 entries")


TAMPERED: dict[str, tuple[str, str]] = {
    "changed": ("UPDATE audit_log SET who = 'eve' WHERE number = 3", "entry 3 is not as it was written"),
    "a changed digest": ("UPDATE audit_log SET digest = 'a' WHERE number = 3", "entry 3 is not as it was written"),
    "removed": ("DELETE FROM audit_log WHERE number = 3", "entry 3 is missing"),
    "the first one removed": ("DELETE FROM audit_log WHERE number = 1", "entry 1 is missing"),
    "cut off": ("DELETE FROM audit_log WHERE number > 4", "no entry has the digest"),
    "all of it": ("DELETE FROM audit_log", "no entry has the digest"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_seen(tmp_path: Path, what: str) -> None:
    hub, (statement, part) = parts(tmp_path), TAMPERED[what]
    with hub.hub.database.writing() as database:
        for number in range(5):
            audit.append(database, "ada", "role changed", f"bob-{number}", "d\u00e9tail \udcff \0", "192.0.2.1")
        count, head = audit.verify(audit.entries(database))
        audit.append(database, "ada", "role changed", "eve")
        assert count == 5 and audit.verify(audit.entries(database), head)[0] == 6
        database.exec_driver_sql(statement)
        with pytest.raises(DataError, match=part):
            audit.verify(audit.entries(database), head)


def test_a_restored_log_is_as_it_was(tmp_path: Path) -> None:
    hub = parts(tmp_path)
    with hub.hub.database.writing() as database:
        audit.append(database, "ada", "role changed", "bob", "d\u00e9tail")
    words = ("edgeloop-hub", "--data", tmp_path / "data")
    assert command(*words, "backup", tmp_path / "hub.backup").returncode == 0
    assert command("edgeloop-hub", "--data", tmp_path / "copy", "restore", tmp_path / "hub.backup").returncode == 0
    assert command("edgeloop-hub", "--data", tmp_path / "copy", "audit", "verify").stdout.startswith("3 entries")
    hub.change(audit_log, audit_log.c.number == 1, who="eve")
    assert "entry 1 is not as it was written" in sentence(command(*words, "audit", "verify"), 3)
