"""A group's pin: its devices stay with a bundle, whatever is rolled out; who wins, who is counted, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from asking import ask, enrolled
from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.errors import UsageError
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.rollout import Step
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.fleet import assignment, finding, marks, other_bundles, removal, rollout_members
from edgeloop_hub.groups import pins, store
from edgeloop_hub.rollouts import rollout_store, service
from edgeloop_hub.storage import device_rows
from edgeloop_hub.storage.fleet_tables import device_group_pins, device_groups
from edgeloop_hub.storage.schema import bundles, devices
from hub_parts import NEW, OLD, Parts, beat, parts
from hubs import Hub, running_hub, version
from programs import needs
from test_hub_stores import postgres


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=[needs("postgresql"), pytest.mark.long])])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    def filled(found: Parts) -> Parts:
        for number, sha256 in ((1, OLD), (2, NEW), (3, "c" * 64)):
            found.bundle(f"m-{number}", sha256, version=number)
        found.bundle("n-1", "d" * 64, model="n", version=1)
        for name in ("one", "two", "three"):
            found.device(name)
        device_rows.adopt(found.hub.database)
        return found

    if request.param == "SQLite":
        yield filled(parts(tmp_path))
        return
    with postgres() as address:
        yield (found := filled(parts(tmp_path, database=address)))
        found.hub.database.engine.dispose()


def group(found: Parts, name: str, **asked: Any) -> None:
    with found.hub.database.writing() as database:
        store.save(database, name, GroupRequest(**asked), "ada")


def told(found: Parts, *names: str) -> list[str]:
    """What polls are answered, by the short way and by the long one."""
    answers = []
    with found.hub.database.reading() as database:
        for name, poll in zip(names, assignment.polls(database, names), strict=True):
            assert poll is not None
            whole = assignment.assignment(database, poll.device, found.hub.settings, SCHEMA)
            assert poll.target in (None, whole.target), name
            answers.append(whole.target)
    return answers


def test_a_groups_pin_holds_against_rollouts_until_it_ends(hub: Parts) -> None:
    group(hub, "lab", tags="lab")
    number = hub.rollout("m-3", [Step(percent=100.0)], soak_seconds=1e6)
    with hub.hub.database.writing() as database:
        assert pins.pin(database, "lab", "m-2", "ada") == "m"
    assert told(hub, "one", "two", "three") == ["m-3"] * 3
    with hub.hub.database.writing() as database:
        marks.tag(database, "one", ["lab"], "ada")
        marks.tag(database, "two", ["lab"], "ada")
    assert told(hub, "one", "two", "three") == ["m-2", "m-2", "m-3"]  # tags are followed at the next poll
    with hub.hub.database.writing() as database:
        marks.pin(database, "two", "m-1", "ada")
    assert told(hub, "one", "two") == ["m-2", "m-1"]  # a device's own pin counts first
    with hub.hub.database.reading() as database:
        rollout = rollout_store.find(database, number)
        status = service.status(database, number)
        cohort = rollout_members.cohort(database, rollout)
        late, _ = rollout_members.members(database, rollout, "late", "")
        device = EnrolledDevice("one", [], "stable", "m", OLD)
        assert assignment.may_fetch(database, device, "m-2") and not assignment.may_fetch(database, device, "m-3")
        found = {one.name: one.pinned for one in finding.found(database, finding.Filter(), "", 1, time.time())}
        alone = finding.one(database, "one", time.time())
    assert (status.cohort, status.pinned) == (1, 2) and (cohort.size, cohort.late, cohort.pinned) == (1, 1, 2)
    assert [one.name for one in late] == ["three"]
    assert found == {"one": "m-2", "two": "m-1", "three": None} and alone is not None and alone.pinned == "m-2"
    with hub.hub.database.writing() as database:
        marks.unpin(database, "two", "ada")
    assert told(hub, "two") == ["m-2"]
    with hub.hub.database.writing() as database:
        assert pins.unpin(database, "lab", "m", "ada") == "m-2"
    assert told(hub, "one", "two", "three") == ["m-3"] * 3
    with hub.hub.database.reading() as database:
        assert service.status(database, number).pinned == 0


def test_of_several_groups_the_first_one_by_name_that_pins_the_model(hub: Parts) -> None:
    group(hub, "a-other", devices=["one"])
    group(hub, "b-lab", devices=["one", "two"])
    group(hub, "c-all", devices=["one", "two", "three"])
    with hub.hub.database.writing() as database:
        pins.pin(database, "c-all", "m-1", "ada")
        pins.pin(database, "b-lab", "m-2", "ada")
        pins.pin(database, "a-other", "n-1", "ada")  # of a model that the device does not run
    assert told(hub, "one", "two", "three") == ["m-2", "m-2", "m-1"]
    with hub.hub.database.writing() as database:
        other_bundles.keep(database, {"one": {"n": beat("e" * 64)}}, 0.0)
        (poll,) = assignment.polls(database, ["one"])
        assert poll is not None
        whole = assignment.assignment(database, poll.device, hub.hub.settings, SCHEMA)
        assert (whole.target, whole.others) == ("m-2", ["n-1"])  # each model has its own pin
        store.remove(database, "b-lab", "ada")
    assert told(hub, "two", "three") == ["m-1", "m-1"]
    group(hub, "c-all", devices=["three"])  # who leaves it is pinned no more
    assert told(hub, "two", "three") == ["", "m-1"]
    with hub.hub.database.writing() as database:
        removal.remove(database, "three", "ada")
        assert database.execute(select(device_group_pins.c.device).where(device_group_pins.c.device == "three")).first() is None


def test_withdrawn_bundles_and_groups_that_cannot_be_read(hub: Parts) -> None:
    group(hub, "lab", tags="lab")
    with hub.hub.database.writing() as database:
        marks.tag(database, "one", ["lab"], "ada")
        pins.pin(database, "lab", "m-2", "ada")
    hub.rollout("m-3", [Step(percent=100.0)], soak_seconds=1e6)
    hub.change(bundles, bundles.c.target == "m-2", withdrawn=1.0)
    assert told(hub, "one") == [""]  # it stays as it is
    hub.change(bundles, bundles.c.target == "m-2", withdrawn=None)
    with hub.hub.database.writing() as database:
        database.execute(update(device_groups).values(tags="lab^2"))  # as a later hub may have written it
        marks.tag(database, "two", ["desk"], "ada")
        marks.tag(database, "one", ["lab", "desk"], "ada")
    assert told(hub, "one", "two") == ["m-2", "m-3"]
    with hub.hub.database.writing() as database:
        for words, act in (
            ("no group 'gone'", lambda: pins.pin(database, "gone", "m-2", "ada")),
            ("not published", lambda: pins.pin(database, "lab", "m-9", "ada")),
            ("no pin of 'n'", lambda: pins.unpin(database, "lab", "n", "ada")),
        ):
            with pytest.raises(UsageError, match=words):
                act()
    hub.change(devices, devices.c.name == "one", model="", sha256="")
    assert told(hub, "one") == [""]  # it runs nothing of a model that is pinned


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def test_pins_of_groups_by_http_commands_and_the_page(running: Hub, tmp_path: Path) -> None:
    hub = running
    secret = enrolled(hub, "pi-1")
    said = {"key": "hello-12", "at": 1.0, "heartbeat": {"model": "exercise_watch", "version": 1}}
    ask(hub, "POST", "/api/v1/report", secret, said)
    targets = [hub.publish(version(tmp_path, number)) for number in (2, 3)]
    hub.run("group", "set", "line-3", "--device", "pi-1")
    made = ask(hub, "PUT", "/api/v1/groups/line-3/pin", hub.token, {"target": targets[0]})
    assert made.status == 200 and made.json()["pins"] == {"exercise_watch": targets[0]}
    hub.edgeloop("rollout", "start", targets[1], "--steps", "100%")
    assert ask(hub, "GET", "/api/v1/update", secret).json()["target"] == targets[0]
    assert "1 devices of these steps are pinned to another bundle" in hub.edgeloop("rollout", "status", "1")
    assert f"pinned to {targets[0]}" in hub.run("group", "list")
    reader = hub.run("token", "api", "reader", "--scope", "read")
    assert ask(hub, "PUT", "/api/v1/groups/line-3/pin", reader, {"target": targets[0]}).status == 403
    assert ask(hub, "PUT", "/api/v1/groups/gone/pin", hub.token, {"target": targets[0]}).status == 404
    assert ask(hub, "PUT", "/api/v1/groups/line-3/pin", hub.token, {"target": "gone"}).status == 400
    assert ask(hub, "DELETE", "/api/v1/groups/line-3/pin?model=exercise_watch", reader).status == 403
    assert ask(hub, "DELETE", "/api/v1/groups/line-3/pin?model=exercise_watch", hub.token).json()["pins"] == {}
    assert ask(hub, "DELETE", "/api/v1/groups/line-3/pin?model=exercise_watch", hub.token).status == 400
    assert ask(hub, "GET", "/api/v1/update", secret).json()["target"] == targets[1]
    assert "are pinned to" in hub.run("group", "pin", "line-3", targets[0])
    assert "no pin of 'm'" in hub.run("group", "pin", "line-3", "m", "--end", code=2)
    person, looker = hub.signed_in("olga", "operator"), hub.signed_in("vera", "viewer")
    page = person("/groups")
    assert f"exercise_watch to {targets[0]}" in page and "Unpin exercise_watch" in page and "Unpin" not in looker("/groups")
    assert "by the group" in person("/devices/pi-1") and "pinned to another bundle" in person("/rollouts/1")
    csrf = page.split('name="csrf" value="')[1].split('"')[0]
    person("/groups/line-3/unpin", csrf=csrf, model="exercise_watch")
    person("/groups/line-3/pin", csrf=csrf, target=targets[1])
    assert ask(hub, "GET", "/api/v1/groups", hub.token).json()[0]["pins"] == {"exercise_watch": targets[1]}
    assert "follow rollouts again" in hub.run("group", "pin", "line-3", targets[1], "--end")
    audited = hub.folder / "audit.jsonl"
    hub.run("audit", "export", audited)
    lines = [line for line in audited.read_text().splitlines() if '"group pin"' in line or '"group unpin"' in line]
    assert len(lines) == 6 and sum("olga" in line for line in lines) == 2
    assert {"group pinned", "group unpinned"} <= {event["kind"] for event in hub.get("/api/v1/events")}
