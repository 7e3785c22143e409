"""The fleet page and the page of a device: what is kept of each report, filters, order, pages, tags, pins, notes, live updates."""

from __future__ import annotations

import http.cookiejar
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import urllib3
from sqlalchemy import delete, insert, select

from asking import ask as ask_hub
from edgeloop_contract.errors import UsageError
from edgeloop_contract.messages import DriftReport, Event, Report
from edgeloop_hub.auth import accounts
from edgeloop_hub.fleet import finding, logs, marks, reports, states
from edgeloop_hub.storage import device_rows
from edgeloop_hub.storage.fleet_tables import device_states, device_tags
from edgeloop_hub.storage.schema import devices, events, released
from hub_parts import NEW, OLD, Parts, beat, parts
from hubs import Hub, running_hub, say_hello, version
from serving import write_config

Asked = Callable[..., str]


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    return parts(tmp_path)


def told(hub: Parts, device: str, key: str, **report: object) -> None:
    with hub.hub.database.writing() as database:
        mine = accounts.EnrolledDevice(device, [], "stable", "m", "")
        assert reports.store(database, mine, Report(key=key, at=time.time(), **report), hub.hub.settings)  # type: ignore[arg-type]


def states_of(hub: Parts, device: str, now: float | None = None) -> list[str]:
    with hub.hub.database.reading() as database:
        found = finding.one(database, device, now or time.time())
    assert found is not None
    return list(found.states)


def test_each_report_brings_the_kept_row_up_to_date(hub: Parts) -> None:
    hub.device("pi")
    told(hub, "pi", "key-00001", heartbeat=beat(OLD, answered=100, crashes=2))
    assert states_of(hub, "pi") == ["crashing"], "the agent counted two crashes"
    told(hub, "pi", "key-00002", heartbeat=beat(OLD, answered=90, refused=10, crashes=2))
    assert states_of(hub, "pi") == ["crashing", "refusing"], "a tenth of the samples"
    now = time.time()
    assert states_of(hub, "pi", now + 7200) == ["crashing", "silent", "refusing"]
    assert states_of(hub, "pi", now + 90_000) == ["silent", "refusing"], "a day without another crash"
    told(hub, "pi", "key-00003", heartbeat=beat(OLD, answered=100, crashes=1))
    with hub.hub.database.reading() as database:
        row = database.execute(select(device_states)).one()
    assert row.crashes_of_day == 3, "the agent began to count anew"
    drift = DriftReport(model="m", drifting=True, cause="placement", score=1.4)
    refused = Event(key="event-01", kind="refused", at=now, target="m-2.edgeloop", text="needs more memory")
    told(hub, "pi", "key-00004", heartbeat=beat(OLD, answered=100, crashes=1), drift=drift, events=[refused])
    assert states_of(hub, "pi") == ["crashing", "refusing", "drifting"]
    committed = Event(key="event-02", kind="committed", at=now, target="m-2.edgeloop")
    told(hub, "pi", "key-00005", heartbeat=beat(OLD, answered=1, crashes=1), drift=DriftReport(model="m"), events=[committed])
    assert states_of(hub, "pi") == ["crashing"]


def test_a_device_that_reports_once_a_day_is_not_silent_after_an_hour_and_none_is_believed_for_years(hub: Parts) -> None:
    for name, seconds in (("daily", 20_000.0), ("never", 3e7)):
        hub.device(name)
        told(hub, name, "key-00001", heartbeat=msgspec.structs.replace(beat(OLD), seconds=seconds))
    now = time.time()
    assert states_of(hub, "daily", now + 50_000) == [] and states_of(hub, "daily", now + 70_000) == ["silent"]
    assert states_of(hub, "never", now + states.DAY + 60) == ["silent"]


def test_who_reported_under_a_clock_that_was_ahead_is_not_heard_for_a_year(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    right = time.time
    hub.device("pi")
    monkeypatch.setattr(time, "time", lambda: right() + 365 * 86_400)
    told(hub, "pi", "key-00001", heartbeat=beat(OLD))
    monkeypatch.setattr(time, "time", right)
    assert states_of(hub, "pi") == ["silent"]
    told(hub, "pi", "key-00002", heartbeat=beat(OLD))
    assert states_of(hub, "pi") == []


def test_behind_is_who_runs_less_than_what_is_released_and_is_not_pinned(hub: Parts) -> None:
    hub.bundle("m-1.edgeloop", OLD, version=1)
    hub.bundle("m-2.edgeloop", NEW, version=2)
    with hub.hub.database.writing() as database:
        database.execute(insert(released).values(channel="stable", model="m", target="m-2.edgeloop"))
    hub.device("pi")
    told(hub, "pi", "key-00001", heartbeat=beat(OLD))
    assert states_of(hub, "pi") == ["behind"]
    with hub.hub.database.writing() as database:
        marks.pin(database, "pi", "m-1.edgeloop", "ada")
    assert states_of(hub, "pi") == []


def test_devices_that_an_earlier_release_enrolled_get_their_rows(hub: Parts) -> None:
    hub.device("pi", labels=("pilot",))
    hub.change(devices, devices.c.name == "pi", heartbeat='{"crashes": 7}')
    with hub.hub.database.writing() as database:
        database.execute(delete(device_states))
    assert device_rows.adopt(hub.hub.database) == 1 and device_rows.adopt(hub.hub.database) == 0
    with hub.hub.database.reading() as database:
        assert database.execute(select(device_tags.c.tag, device_tags.c.fixed)).all() == [("pilot", 1)]
    told(hub, "pi", "key-00001", heartbeat=beat(OLD, crashes=7))
    assert states_of(hub, "pi") == [], "crashes of before are no news"


@pytest.mark.parametrize(
    ("what", "words"),
    {
        "an unknown device": ("pin nobody m-1.edgeloop", "there is no device 'nobody'"),
        "an unknown bundle": ("pin pi m-9.edgeloop", "m-9.edgeloop is not published"),
        "a bundle of another model": ("pin pi other-1.edgeloop", "pi runs m, and other-1.edgeloop is of other"),
        "a tag that is no name": ("tag pi Two_Words", "tag 'Two_Words': use a-z, 0-9 and -"),
        "too many tags": ("tag pi " + " ".join(f"t{i}" for i in range(21)), "21 tags; a device has up to 20"),
    }.values(),
)
def test_what_cannot_be_marked_is_one_sentence_and_nothing_changes(hub: Parts, what: str, words: str) -> None:
    hub.device("pi")
    hub.bundle("m-1.edgeloop", OLD, version=1)
    hub.bundle("other-1.edgeloop", NEW, model="other", version=1)
    verb, device, *rest = what.split()
    with pytest.raises(UsageError, match=re.escape(words)), hub.hub.database.writing() as database:
        marks.pin(database, device, rest[0], "ada") if verb == "pin" else marks.tag(database, device, rest, "ada")
    with hub.hub.database.reading() as database:
        assert marks.pinned(database, "pi") is None and finding.tags_of(database, ["pi"]) == {}
        assert database.execute(select(events)).all() == []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Asked]]:
    """A hub with two versions and a device that runs the first."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(folder) as hub:
        for number in (1, 2):
            hub.publish(version(folder, number))
        hub.enrol(write_config(folder, f'[updates]\nhub = "{hub.address}"\n'), "pi-1", "--label", "pilot")
        say_hello(hub, folder)
        hub.run("token", "enrol", "quiet")
        yield hub, hub.signed_in("ada")


def form(page: str, action: str) -> dict[str, str]:
    """The hidden fields of a form on a page."""
    inside = page.split(f'action="{action}"', 1)[1].split("</form>", 1)[0]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', inside))


def test_a_pinned_device_is_offered_no_other_bundle(running: tuple[Hub, Asked]) -> None:
    hub, ask = running
    targets = {b["version"]: b["target"] for b in hub.get("/api/v1/bundles")}
    number = hub.post("/api/v1/rollouts", {"target": targets[2], "plan": {"steps": [{"percent": 100}]}})["id"]
    assert offer(hub) == targets[2]
    assert f"pinned to {targets[1]}" in hub.run("device", "pin", "pi-1", targets[1])
    assert offer(hub) == targets[1]
    assert "pinned" in ask("/") and f"to {targets[1]} by the command line" in ask("/devices/pi-1")
    page = ask("/devices/pi-1")
    assert "Unpin" not in ask("/devices/pi-1/unpin", **form(page, "/devices/pi-1/unpin"))
    assert offer(hub) == targets[2]
    hub.post(f"/api/v1/rollouts/{number}/abort", {})
    assert [e["kind"] for e in hub.get("/api/v1/events") if "pin" in e["kind"]] == ["unpinned", "pinned"]


def offer(hub: Hub) -> str:
    """What the device is offered."""
    secret = json.loads((hub.folder / "state" / "updates" / "credential.json").read_text())["secret"]
    answer = urllib3.request(
        "GET", f"{hub.address}/api/v1/update", headers={"Authorization": f"Bearer {secret}", "Edgeloop-Reads": "9"}
    )
    return str(answer.json().get("target", ""))


def test_tags_find_devices_and_a_note_is_read(running: tuple[Hub, Asked]) -> None:
    hub, ask = running
    assert ask_hub(hub, "PUT", "/api/v1/devices/pi-1/tags", hub.token, {"tags": ["north", "roof"]}).json() == {
        "device": "pi-1", "labels": ["pilot"], "tags": ["north", "roof"], "pinned": "", "note": "",
    }  # fmt: skip
    for tag in ("north", "pilot"):
        assert "/devices/pi-1" in ask(f"/?tag={tag}")
    assert "No device is like that" in ask("/?tag=south")
    page = ask("/devices/pi-1")
    assert "ladder" in ask("/devices/pi-1/note", text="bring a ladder", **form(page, "/devices/pi-1/note"))
    assert "north, pilot" in hub.run("device", "tag", "pi-1", "north")
    assert "use a-z" in hub.run("device", "tag", "pi-1", "No Name", code=2)


def test_revoking_asks_first(running: tuple[Hub, Asked]) -> None:
    hub, ask = running
    hub.post("/api/v1/enrol", {"token": hub.run("token", "enrol", "old"), "device": "old"})
    csrf = form(ask("/devices/pi-1"), "/devices/pi-1/note")["csrf"]
    asked = ask("/devices/old/revoke", csrf=csrf)
    assert "Revoke old?" in asked and "revoked" not in ask("/devices/old").split("<main", 1)[1].split("Actions")[0]
    ask("/devices/old/revoke", **form(asked, "/devices/old/revoke"))
    assert "<strong>revoked" in ask("/devices/old") and "revoked" in ask("/?show=revoked")


def test_the_log_of_a_device_is_shown_the_newest_first_and_bounded(hub: Parts) -> None:
    hub.device("pi")
    for i in range(5):
        told(hub, "pi", f"key-{i:05}", heartbeat=beat(OLD), log=[f"warning {i}-{n}" for n in range(20)])
    with hub.hub.database.reading() as database:
        lines = logs.last(database, "pi")
    assert (lines[0], lines[-1], len(lines)) == ("warning 3-0", "warning 4-19", logs.KEPT_LINES)


def test_an_error_keeps_the_navigation(running: tuple[Hub, Asked]) -> None:
    _, ask = running
    for path in ("/devices/nobody", "/rollouts/99", "/?at=0"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(path)
        assert refused.value.code in (400, 404)
        assert 'aria-label="Pages"' in refused.value.read().decode(), path


def test_a_change_is_told_to_an_open_page(running: tuple[Hub, Asked]) -> None:
    """And the stream ends when the hub does: the fixture's hub stops in time although this stream is open."""
    hub, _ = running
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    words = urllib.parse.urlencode({"name": "ada", "password": "correct horse battery"}).encode()
    browser.open(hub.address + "/sign-in", words, timeout=20).close()
    with browser.open(hub.address + "/live", timeout=20) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.readline() == b"retry: 3000\n"
        say_hello(hub, hub.folder)
        ask_hub(hub, "PUT", "/api/v1/devices/pi-1/note", hub.token, {"text": "changed"})
        ends = time.monotonic() + 15
        while stream.readline() != b"event: changed\n":
            assert time.monotonic() < ends
    request = urllib.request.Request(hub.address + "/live")
    assert urllib.request.build_opener().open(request, timeout=20).url.endswith("/sign-in"), "for who signed in"
