"""Groups: who is in one, the channel that devices follow, and maintenance windows outside of which nothing is offered."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, select, update

from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.errors import UsageError
from edgeloop_contract.rollout import RolloutPlan, Step, parse_steps
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.fleet import assignment, marks
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import cohort, rollout_store, service
from edgeloop_hub.storage.fleet_tables import device_groups
from edgeloop_hub.storage.schema import bundles, device_bundles, devices, released
from hub_parts import NEW, Parts, parts
from hubs import running_hub, version
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
        assert [d.name for d in cohort.members(database, rollout).cohort] == ["one"]
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


@pytest.mark.long
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
