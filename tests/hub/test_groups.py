"""Groups: who is in one, the channel that devices follow, and maintenance windows outside of which nothing is offered."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, select, update

from asking import ask, enrolled
from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.errors import UsageError
from edgeloop_contract.rollout import RolloutPlan, Step, parse_steps
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.fleet import assignment, marks
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import evidence, rollout_store, service
from edgeloop_hub.storage.fleet_tables import device_groups
from edgeloop_hub.storage.schema import bundles, device_bundles, devices, metadata, released
from hub_parts import NEW, Parts, parts
from hubs import Hub, running_hub, version
from serving import eventually, serving, write_config

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def group(found: Parts, name: str, **asked: Any) -> None:
    with found.hub.database.writing() as database:
        store.save(database, name, GroupRequest(**asked), "ada")


def test_channels_follow_tags_groups_and_people(tmp_path: Path) -> None:
    found = parts(tmp_path)
    for name in ("one", "two"):
        found.device(name)

    def channels() -> list[str]:
        with found.hub.database.reading() as database:
            return list(database.execute(select(devices.c.channel).order_by(devices.c.name)).scalars())

    group(found, "b-lab", tags="lab", channel="beta")
    group(found, "a-named", devices=["two"], channel="slow")
    assert channels() == ["stable", "slow"]
    with found.hub.database.writing() as database:
        marks.tag(database, "one", ["lab"], "ada")
        marks.tag(database, "two", ["lab"], "ada")
    assert channels() == ["beta", "slow"]  # the first group by name counts
    with found.hub.database.writing() as database:
        assert store.set_channel(database, "two", "night", "ada") == "night"
        store.remove(database, "a-named", "ada")
    assert channels() == ["beta", "night"]
    with found.hub.database.writing() as database:
        assert store.set_channel(database, "two", "", "ada") == "beta"
        marks.tag(database, "one", [], "ada")
    assert channels() == ["stable", "beta"]
    with pytest.raises(UsageError, match="no device 'three'"):
        group(found, "x", devices=["three"])


def offered(found: Parts, name: str, now: float) -> tuple[str, float]:
    with found.hub.database.reading() as database:
        row = database.execute(select(devices).where(devices.c.name == name)).one()
        device = EnrolledDevice(row.name, [], row.channel, row.model, row.sha256)
        found_now = assignment.assignment(database, device, found.hub.settings, 99, now)
        return found_now.target, found_now.until


def test_offers_come_in_the_window_alone_or_with_words(tmp_path: Path) -> None:
    found = parts(tmp_path)
    found.device("one")
    found.device("other")
    found.bundle("new.edgeloop", NEW)
    group(found, "line-3", devices=["one"], windows=["mon-fri 22:00-05:00"], time_zone="Europe/Berlin")
    number = found.rollout("new.edgeloop", parse_steps("group:line-3, 100%"))
    day, night = at("2026-11-30T12:00"), at("2026-11-30T23:00")
    assert offered(found, "one", day) == ("", 0.0)
    assert offered(found, "one", night) == ("new.edgeloop", at("2026-12-01T05:00"))
    assert offered(found, "other", night) == ("", 0.0)  # not of the first step
    with found.hub.database.reading() as database:
        rollout = rollout_store.find(database, number)
        assert [d.name for d in evidence.members(database, rollout).cohort] == ["one"]
        one = EnrolledDevice("one", [], "stable", "m", "a" * 64)
        assert assignment.may_fetch(database, one, "new.edgeloop")  # a download that began may end
    with found.hub.database.writing() as database:
        service.change(database, number, "abort", "ada")
        plan = RolloutPlan([Step(label="group:line-3")], despite_windows="the old one sets off the fire alarm")
        service.start(database, "new.edgeloop", plan, None)
    assert offered(found, "one", day) == ("new.edgeloop", 0.0)
    with found.hub.database.writing() as database, pytest.raises(UsageError, match="no group 'gone'"):
        service.start(database, "new.edgeloop", RolloutPlan([Step(label="group:gone")]), None)


@pytest.mark.parametrize(
    "column, words", [("tags", "lab^2"), ("windows", '["first mon 22:00-23:00"]'), ("time_zone", "Mars/North")]
)
def test_a_group_that_this_hub_cannot_read_keeps_no_other_device_waiting(column: str, words: str, tmp_path: Path) -> None:
    found = parts(tmp_path)
    for name in ("one", "other"):
        found.device(name)
    found.bundle("new.edgeloop", NEW)
    with found.hub.database.writing() as database:
        marks.tag(database, "one", ["lab"], "ada")
    group(found, "odd", tags="lab", channel="beta", windows=["daily 00:00-24:00"])
    with found.hub.database.writing() as database:
        database.execute(update(device_groups).values({column: words}))  # as a later hub may have written it
        marks.tag(database, "other", ["desk"], "ada")
        marks.tag(database, "one", ["lab", "desk"], "ada")
        found_group = store.find(database, "odd")
        assert "cannot read it" in store.state_words(found_group, time.time()) and found_group.problem
        assert store.count(database, found_group) == (0 if column == "tags" else 1)
        kept = {row.name: row.channel for row in database.execute(select(devices.c.name, devices.c.channel))}
    assert kept == {"one": "beta", "other": "stable"}
    found.rollout("new.edgeloop", parse_steps("100%"))
    assert offered(found, "other", at("2026-11-30T12:00")) == ("new.edgeloop", 0.0)
    assert offered(found, "one", at("2026-11-30T12:00"))[0] == ""  # of another channel, and its windows are not open
    group(found, "odd", tags="lab")
    with found.hub.database.reading() as database:
        assert store.find(database, "odd").problem == ""


def test_a_bundle_is_promoted_to_another_channel(tmp_path: Path) -> None:
    found = parts(tmp_path)
    found.device("one")
    found.bundle("new.edgeloop", NEW)
    with found.hub.database.writing() as database:
        store.set_channel(database, "one", "beta", "ada")
    number = found.rollout("new.edgeloop", [Step(percent=100)])
    assert offered(found, "one", time.time())[0] == ""
    with found.hub.database.writing() as database:
        service.change(database, number, "abort", "ada")
        service.start(database, "new.edgeloop", RolloutPlan([Step(percent=100)]), None, channel="beta")
    assert offered(found, "one", time.time())[0] == "new.edgeloop"


def test_what_was_withdrawn_is_offered_to_nobody(tmp_path: Path) -> None:
    found = parts(tmp_path)
    found.device("one")
    found.bundle("old.edgeloop", "c" * 64)
    found.bundle("new.edgeloop", NEW)
    with found.hub.database.writing() as database:
        database.execute(insert(released).values(channel="stable", model="m", target="old.edgeloop"))
    number = found.rollout("new.edgeloop", parse_steps("100%"))
    assert offered(found, "one", 0.0)[0] == "new.edgeloop"
    found.change(bundles, bundles.c.target == "new.edgeloop", withdrawn=1.0)
    assert offered(found, "one", 0.0)[0] == "old.edgeloop"
    found.tick()
    with found.hub.database.reading() as database:
        status = service.status(database, number)
    assert (status.state, "was withdrawn" in status.reason) == ("halted", True)
    found.change(bundles, bundles.c.target == "old.edgeloop", withdrawn=1.0)
    assert offered(found, "one", 0.0)[0] == ""


def test_a_group_has_a_configuration_of_its_own_by_its_channel(tmp_path: Path) -> None:
    found = parts(tmp_path)
    for name in ("one", "two"):
        found.device(name)
        with found.hub.database.writing() as database:
            database.execute(insert(device_bundles).values(device=name, model="config:kitchen", version=0, sha256="c" * 64, at=0.0))
    found.bundle("config-kitchen-2.toml", NEW, "config:kitchen")
    group(found, "lab", devices=["two"], channel="beta")
    with found.hub.database.writing() as database:
        service.start(database, "config-kitchen-2.toml", RolloutPlan([Step(percent=100)]), None, channel="beta")
        given = {}
        for row in database.execute(select(devices)).all():
            device = EnrolledDevice(row.name, [], row.channel, row.model, row.sha256)
            given[row.name] = assignment.assignment(database, device, found.hub.settings, 99).others
    assert given == {"one": [], "two": ["config-kitchen-2.toml"]}


def test_a_plan_without_news_is_as_an_earlier_hub_reads_it() -> None:
    import msgspec

    written = msgspec.json.encode(RolloutPlan(parse_steps("label:pilot, 25%"), 60.0))
    assert (
        written
        == b'{"steps":[{"devices":[],"label":"pilot","percent":0.0},{"devices":[],"label":"","percent":25.0}],"soak_seconds":60.0}'
    )


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


@pytest.mark.long
def test_an_agent_updates_in_its_window_and_in_its_channel(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with running_hub(tmp_path / "hub") as hub:
        text = (
            f'[source]\nkind = "watch"\nwhere = "in"\n[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\nhealth_seconds = 1.0\n'
        )
        hub.enrol(write_config(tmp_path, text), "pi-2")
        hub.run(
            "group",
            "set",
            "night",
            "--device",
            "pi-2",
            "--channel",
            "beta",
            "--window",
            "mon 00:00-00:01",
            "--time-zone",
            "Etc/GMT+12",
        )

        def runs() -> int:
            return int(hub.get("/api/v1/devices")[0]["version"])

        with serving(tmp_path, text) as agent:
            eventually(lambda: runs() == 1)
            target = hub.publish(version(tmp_path, 2))
            hub.edgeloop("rollout", "start", target, "--steps", "group:night", "--channel", "beta", "--soak-minutes", "9")
            time.sleep(3)
            assert runs() == 1 and "update" not in agent.log.replace("updates", "")
            hub.run("group", "set", "night", "--device", "pi-2", "--channel", "beta", "--window", "daily 00:00-24:00")
            eventually(lambda: runs() == 2)
            hub.run("group", "set", "night", "--device", "pi-2", "--channel", "beta", "--window", "mon 00:00-00:01")
            hub.edgeloop("rollout", "abort", "1")
            urgent = hub.publish(version(tmp_path, 3))
            words = ("--steps", "group:night", "--channel", "beta", "--despite-windows", "burns houses down")
            hub.edgeloop("rollout", "start", urgent, *words)
            eventually(lambda: runs() == 3)
        assert any("burns houses down" in e["text"] for e in hub.get("/api/v1/events"))


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
