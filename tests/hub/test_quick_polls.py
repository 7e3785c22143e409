"""Polls of several devices that are answered together: each is told what the whole rules say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import Assignment
from edgeloop_contract.rollout import RolloutPlan, Step
from edgeloop_hub.fleet import assignment, jobs, marks, other_bundles
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import service
from edgeloop_hub.rollouts.policy import OPEN
from edgeloop_hub.storage.fleet_tables import device_groups
from edgeloop_hub.storage.job_tables import signed_job_devices, signed_jobs
from edgeloop_hub.storage.schema import bundles, devices, recordings, released, rollouts
from hub_parts import NEW, OLD, Parts, beat, with_two_versions


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    return with_two_versions(tmp_path)


def test_a_poll_is_told_what_the_whole_rules_say(hub: Parts) -> None:
    """Devices of each kind, before, during and after a rollout."""
    names = ["plain", "new", "pilot", "silent", "pinned", "measured", "several", "labelled", "elsewhere"]
    for name in names:
        hub.device(
            name, NEW if name == "new" else OLD, model="" if name == "silent" else "m", labels=("pilot",) * (name == "pilot")
        )
    hub.change(devices, devices.c.name == "elsewhere", channel="beta")
    with hub.hub.database.writing() as database:
        database.execute(insert(released).values(channel="stable", model="m", target="m-1"))
        marks.pin(database, "pinned", "m-1", "ada")
        jobs.create(database, "measured", "m-2")
        other_bundles.keep(database, {"several": {"n": beat(NEW)}}, 0.0)
        said = {"device": "labelled", "recording": "r", "model": "m", "person": "ada", "label": "A", "at": 0.0}
        database.execute(insert(recordings).values(**said))
    quick = 0

    def agree() -> None:
        nonlocal quick
        with hub.hub.database.reading() as database:
            polls = assignment.polls(database, [*names, "nobody"])
            assert polls.pop() is None
            for name, poll in zip(names, polls, strict=True):
                assert poll is not None and poll.device.name == name and poll.targets_version == 1
                whole = assignment.assignment(database, poll.device, hub.hub.settings, SCHEMA)
                if poll.target is not None:
                    assert whole == Assignment(target=poll.target, until=poll.until), name
                    quick += 1
                else:
                    assert name in ("pinned", "measured", "several", "labelled")

    agree()
    number = hub.rollout("m-2", [Step(label="pilot"), Step(percent=100.0)], soak_seconds=1e6)
    for state in (*OPEN, "aborted"):
        for step in (0, 1):
            hub.change(rollouts, rollouts.c.id == number, state=state, step=step)
            agree()
    assert quick == 9 * 5
    hub.change(rollouts, rollouts.c.id == number, state="running", plan="{")  # as no release writes it
    with hub.hub.database.reading() as database:
        (poll,) = assignment.polls(database, ["plain"])
    assert poll is not None and poll.target is None
    hub.change(devices, devices.c.name == "plain", revoked=1.0)
    with hub.hub.database.reading() as database:
        assert assignment.polls(database, ["plain"]) == [None]


def test_what_a_quick_poll_cannot_know_is_left_to_the_whole_rules(hub: Parts) -> None:
    """Withdrawn bundles and a signed job: none of them may be missed."""
    hub.device("plain", OLD, model="m")
    hub.device("other", OLD, model="m")

    def told() -> str | None:
        with hub.hub.database.reading() as database:
            (poll,) = assignment.polls(database, ["plain"])
            assert poll is not None
            whole = assignment.assignment(database, poll.device, hub.hub.settings, SCHEMA)
            assert poll.target is None or whole == Assignment(target=poll.target, until=poll.until)
            return poll.target

    with hub.hub.database.writing() as database:
        database.execute(insert(released).values(channel="stable", model="m", target="m-1"))
    number = hub.rollout("m-2", [Step(percent=100.0)], soak_seconds=1e6)
    assert told() == "m-2"
    hub.change(bundles, bundles.c.target == "m-2", withdrawn=1.0)
    assert told() is None
    hub.change(rollouts, rollouts.c.id == number, state="aborted")
    assert told() == "m-1"
    hub.change(bundles, bundles.c.target == "m-1", withdrawn=1.0)
    assert told() == ""
    order = {"number": 1, "expires": time.time() + 60, "at": 0.0}
    with hub.hub.database.writing() as database:
        database.execute(
            insert(signed_jobs).values(number=1, kind="logs", target="", expires=order["expires"], who="ada", document="{}")
        )
        database.execute(insert(signed_job_devices).values(device="other", state="waiting", result="", **order))
    assert told() == ""
    hub.change(signed_job_devices, signed_job_devices.c.device == "other", device="plain")
    assert told() is None
    hub.change(signed_job_devices, signed_job_devices.c.device == "plain", state="done")
    assert told() == ""


def test_polls_follow_groups_and_windows_as_the_whole_rules_do(hub: Parts) -> None:
    """Each change is seen at the next poll, without the longer way."""
    day, night = 1764586800.0, 1764626400.0  # 2025-12-01, 11:00 and 22:00 UTC
    for name in ("one", "other"):
        hub.device(name)

    def told(now: float) -> list[tuple[str, float]]:
        found = []
        with hub.hub.database.reading() as database:
            for poll in assignment.polls(database, ["one", "other"], now):
                assert poll is not None and poll.target is not None
                whole = assignment.assignment(database, poll.device, hub.hub.settings, SCHEMA, now)
                assert whole == Assignment(target=poll.target, until=poll.until)
                found.append((poll.target, poll.until))
        return found

    def group(name: str, **asked: Any) -> None:
        with hub.hub.database.writing() as database:
            store.save(database, name, GroupRequest(**asked), "ada")

    def tag(name: str, *tags: str) -> None:
        with hub.hub.database.writing() as database:
            marks.tag(database, name, tags, "ada")

    number = hub.rollout("m-2", [Step(percent=100.0)], soak_seconds=1e6)
    shut, free, closes = ("", 0.0), ("m-2", 0.0), 1764637200.0
    group("lab", tags="lab", windows=["mon 20:00-01:00"])
    assert told(day) == [free, free]
    tag("one", "lab")
    assert told(day) == [shut, free]
    assert told(night) == [("m-2", closes), free]
    assert told(closes - 0.5)[0] == ("m-2", closes) and told(closes)[0] == shut  # opens and shuts to the second
    group("lab", tags="lab", windows=["mon 11:00-11:01"])
    assert told(day)[0] == ("m-2", day + 60) and told(day - 1)[0] == shut and told(night)[0] == shut
    group("lab", tags="lab", windows=["mon 20:00-01:00"], time_zone="Asia/Tokyo")
    assert told(day)[0][0] == "m-2" and told(night)[0] == shut
    group("a-first", devices=["one"], windows=["daily 00:00-24:00"])
    assert told(night)[0][0] == "m-2"  # the first group by name that has windows
    group("a-first", devices=["other"], channel="beta")
    assert told(night) == [shut, shut]  # the one shut, the other of another channel
    group("a-first", devices=["one"])
    assert told(night) == [shut, free]
    tag("one")
    assert told(night) == [free, free]
    with hub.hub.database.writing() as database:
        service.change(database, number, "abort", "ada")
        why = "the old one sets off the fire alarm"
        service.start(database, "m-2", RolloutPlan([Step(label="group:lab")], soak_seconds=1e6, despite_windows=why), None)
    assert told(night) == [shut, shut]
    tag("other", "lab")
    assert told(night) == [shut, free]  # by its group, and despite its windows
    with hub.hub.database.writing() as database:
        store.remove(database, "lab", "ada")
    assert told(night) == [shut, shut]
    hub.change(device_groups, device_groups.c.name == "a-first", windows='["first mon 22:00-23:00"]')  # of a later hub
    assert told(day) == [shut, shut]
