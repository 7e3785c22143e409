"""Groups through the hub's doors: its interface, its commands, its page; and devices that are deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from asking import ask, enrolled
from edgeloop_hub.storage.schema import metadata
from hubs import Hub, running_hub, version


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def test_groups_by_http(hub: Hub) -> None:
    enrolled(hub, "pi-1")
    closed = {"tags": "shift and not spare", "windows": ["mon 00:00-00:01"], "time_zone": "Pacific/Kiritimati"}
    made = ask(hub, "PUT", "/api/v1/groups/line-3", hub.token, closed)
    assert made.status == 200 and made.json()["devices"] == 0
    ask(hub, "PUT", "/api/v1/devices/pi-1/tags", hub.token, {"tags": ["shift"]})
    assert ask(hub, "GET", "/api/v1/groups/line-3/devices", hub.token).json() == ["pi-1"]
    assert ask(hub, "PUT", "/api/v1/devices/pi-1/channel", hub.token, {"channel": "beta"}).json()["channel"] == "beta"
    assert ask(hub, "PUT", "/api/v1/groups/x", hub.token, {"tags": "a and"}).status == 400
    assert ask(hub, "DELETE", "/api/v1/groups/x", hub.token).status == 404
    assert ask(hub, "GET", "/api/v1/groups", hub.token).json()[0]["named"] == []


@pytest.mark.long
def test_groups_by_commands(hub: Hub, tmp_path: Path) -> None:
    secret = enrolled(hub, "pi-3")
    ask(
        hub,
        "POST",
        "/api/v1/report",
        secret,
        {"key": "hello-12", "at": 1.0, "heartbeat": {"model": "exercise_watch", "version": 1}},
    )
    target = hub.publish(version(tmp_path, 7))
    hub.run("device", "tag", "pi-3", "night")
    words = ("group", "set", "line-4", "--tags", "night and not spare")
    assert "no updates until" in hub.run(*words, "--window", "mon 00:00-00:01", "--time-zone", "Pacific/Kiritimati")
    assert hub.run("group", "show", "line-4") == "pi-3" and "line-4" in hub.run("group", "list")
    said = hub.edgeloop("rollout", "power", target, "--steps", "label:nobody, group:line-4")
    assert "step 1  no device is in it now" in said and "step 2  install failures" in said
    hub.edgeloop("rollout", "start", target, "--steps", "group:line-4")
    assert "target" not in ask(hub, "GET", "/api/v1/update", secret).json()
    assert "updates at any time" in hub.run(*words)
    assert ask(hub, "GET", "/api/v1/update", secret).json()["target"] == target
    assert "follows the channel beta" in hub.run("device", "channel", "pi-3", "beta")
    assert "target" not in ask(hub, "GET", "/api/v1/update", secret).json()
    assert "no group" in hub.run("group", "delete", "gone", code=2)
    assert "window" in hub.run("group", "set", "x", "--device", "pi-3", "--window", "at night", code=2)
    audited = hub.folder / "audit.jsonl"
    hub.run("audit", "export", audited)
    assert all(f'"{action}"' in audited.read_text() for action in ("group set", "device channel"))
    assert "pi-3: deleted" in hub.run("device", "delete", "pi-3")


def test_the_page_of_groups(hub: Hub) -> None:
    ask_page = hub.signed_in("olga", "operator")
    page = ask_page("/groups")
    csrf = page.split('name="csrf" value="')[1].split('"')[0]
    fields = {
        "tags": "night",
        "devices": "",
        "channel": "slow",
        "windows": "sat-sun 00:00-24:00\nmon 01:00-02:00",
        "time_zone": "Europe/Berlin",
    }
    shown = ask_page("/groups/new/set", csrf=csrf, name="weekend", **fields)
    assert "weekend" in shown and "sat-sun 00:00-24:00; mon 01:00-02:00" in shown
    enrolled(hub, "sleeper")
    ask(hub, "PUT", "/api/v1/devices/sleeper/tags", hub.token, {"tags": ["night"]})
    fleet = ask_page("/?group=weekend")
    assert "/devices/sleeper" in fleet and "/devices/pi-1" not in fleet and "/devices/" not in ask_page("/?group=none")
    assert "Delete the group weekend?" in ask_page("/groups/weekend/delete", csrf=csrf)
    assert "weekend" not in ask_page("/groups/weekend/delete", csrf=csrf, sure="yes").split("A new group")[0]


def test_a_device_is_deleted_with_what_is_kept_of_it(hub: Hub) -> None:
    secret, other = enrolled(hub, "gone"), enrolled(hub, "stays")
    for number, each in enumerate((secret, other)):
        beat = {"model": "exercise_watch", "version": 1, "sha256": "a" * 64}
        ask(hub, "POST", "/api/v1/report", each, {"key": f"hello-of-{number}", "at": 1.0, "heartbeat": beat, "log": ["a line"]})
    for name in ("gone", "stays"):
        ask(hub, "PUT", f"/api/v1/devices/{name}/tags", hub.token, {"tags": ["x"]})
        ask(hub, "PUT", f"/api/v1/devices/{name}/note", hub.token, {"text": "a note"})
        ask(hub, "PUT", f"/api/v1/devices/{name}/channel", hub.token, {"channel": "beta"})
    ask(hub, "PUT", "/api/v1/groups/both", hub.token, {"devices": ["gone", "stays"]})
    assert ask(hub, "DELETE", "/api/v1/devices/gone", hub.token).status == 200
    assert ask(hub, "DELETE", "/api/v1/devices/gone", hub.token).status == 404
    assert ask(hub, "GET", "/api/v1/update", secret).status == 401 and ask(hub, "GET", "/api/v1/update", other).status == 200
    assert ask(hub, "GET", "/api/v1/groups/both/devices", hub.token).json() == ["stays"]
    database = sqlite3.connect(hub.folder / "data" / "hub.sqlite", timeout=20)
    for table in metadata.sorted_tables:
        left = [c.name for c in table.columns if c.name in ("device", "name")]
        for column in left if table.name not in ("rollout_evidence", "audit_log", "tokens") else ():
            assert not database.execute(f"SELECT 1 FROM {table.name} WHERE {column} = 'gone'").fetchall(), table.name
    assert any(e["kind"] == "device deleted" for e in ask(hub, "GET", "/api/v1/events", hub.token).json())
    again = enrolled(hub, "gone")  # by a new token, as somebody new
    assert ask(hub, "GET", "/api/v1/update", again).status == 200
    assert ask(hub, "GET", "/api/v1/devices/gone/marks", hub.token).json() == {
        "device": "gone",
        "labels": [],
        "tags": [],
        "pinned": "",
        "note": "",
    }
