"""The hub's pages in headless Chromium: real clicks, the keyboard alone, what a screen reader needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsers import BASICS
from browsers import browser as browser  # a fixture
from commands import HERE
from edgeloop_hub.fleet import logs
from edgeloop_hub.storage.database import Database
from hubs import Hub, running_hub, version
from programs import needs
from serving import eventually, serving, write_config

pytestmark = needs("chromium", "chromium-driver")
BUNDLE = HERE / "goldens" / "v0.2" / "exercise_watch-1.edgeloop"
PASSWORD = "correct horse battery"
ASKING = ("/devices/pi-1/revoke", "/rollouts/1/abort", "/nowhere", "/?show=silent&sort=heat", "/rollouts/1?who=in")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a device that reported, samples in the queue, a rollout that runs, and a device that calls itself something odd."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(folder) as hub:
        hub.run("user", "add", "berta", "--password-stdin", stdin=f"{PASSWORD}\n")
        hub.publish(BUNDLE)
        text = (
            '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nafter = "delete"\n'
            f'[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\n'
            '[samples]\nsend = "samples"\nrandom_share = 0.2\nuncertain_share = 0.2\nmax_per_hour = 100000\n'
        )
        device = folder / "device"
        (device / "in").mkdir(parents=True)
        hub.enrol(write_config(device, text, BUNDLE), "pi-1", "--label", "pilot")
        with serving(device, text, BUNDLE):
            recording = (BUNDLE.parent / "recording.csv").read_text()
            (device / "in" / "spoiled.csv").write_text("no recording")
            for i in range(3):
                (device / "in" / f"{i}.csv").write_text(recording)
            eventually(lambda: len(hub.get("/api/v1/queue?model=exercise_watch")) >= 4)
            database = Database(f"sqlite:///{folder / 'data' / 'hub.sqlite'}")
            eventually(lambda: log_lines(database, "pi-1"))
        target = hub.publish(version(folder, 2))
        hub.edgeloop("rollout", "start", target, "--steps", "pi-1, 100%")
        yield hub


def log_lines(database: Database, device: str) -> list[str]:
    with database.reading() as connection:
        return logs.last(connection, device)


@pytest.fixture
def signed_in(hub: Hub, browser: Any) -> Any:
    browser.delete_all_cookies()
    browser.get(hub.address + "/sign-in")
    by_name(browser, "name").send_keys("berta")
    by_name(browser, "password").send_keys(PASSWORD)
    click(browser, "Sign in")
    arrives(browser, "Fleet")
    return browser


def by_name(browser: Any, name: str) -> Any:
    return browser.find_element("css selector", f"[name={name}]")


def heading(browser: Any) -> str:
    """Of the page that is there, or comes."""
    return str(eventually(lambda: browser.find_elements("tag name", "h1"))[0].text)


def arrives(browser: Any, title: str) -> None:
    """Wait until the page of this heading is there: a click returns before that."""
    eventually(lambda: browser.execute_script("const h = document.querySelector('h1'); return h && h.textContent") == title)


def click(browser: Any, text: str) -> None:
    """A button or link by its words."""
    found = browser.find_elements("xpath", f"//button[contains(., '{text}')] | //a[normalize-space()='{text}']")
    assert found, f"there is no {text!r} on {browser.current_url}"
    found[0].click()


def body(browser: Any) -> str:
    return str(browser.execute_script("return document.body ? document.body.innerText : ''"))


def test_a_person_finds_the_way_by_clicks(signed_in: Any) -> None:
    browser = signed_in
    click(browser, "pi-1")
    arrives(browser, "pi-1")
    assert browser.find_elements("css selector", "svg polyline"), "the device's history is drawn"
    warned = browser.find_element("css selector", "pre.log").get_attribute("textContent")
    assert "file kept" in warned and "spoiled.csv" in warned, "the agent's log came with its report"
    assert "0.1" in body(browser).split("Agent", 1)[1].split("Runtime")[0], "and so did its version"
    for page, seen in (("Rollouts", "running"), ("Versions", "exercise_watch 2"), ("Drift", "pi-1"), ("Events", "enrolled")):
        click(browser, page)
        arrives(browser, page)
        eventually(lambda seen=seen: seen in body(browser))
        assert browser.find_element("css selector", "nav [aria-current=page]").text == page
    click(browser, "Sign out berta")
    arrives(browser, "Sign in")
    browser.back()
    browser.refresh()
    arrives(browser, "Sign in")


def test_what_changes_comes_to_an_open_page(signed_in: Any, hub: Hub) -> None:
    browser = signed_in
    browser.execute_script("window.same = true")
    hub.run("device", "tag", "pi-1", "greenhouse")
    shown = "return document.querySelector('tbody').innerText"  # in one go: the rows are exchanged between two calls
    eventually(lambda: "greenhouse" in browser.execute_script(shown))
    assert browser.execute_script("return window.same"), "the page was not loaded again"


def test_a_rollout_is_paused_and_goes_on_by_clicks(signed_in: Any, hub: Hub) -> None:
    browser = signed_in
    click(browser, "Rollout 1")
    eventually(lambda: "running" in body(browser))
    click(browser, "Pause")
    eventually(lambda: "is paused" in body(browser))
    assert hub.get("/api/v1/rollouts/1")["state"] == "paused"
    click(browser, "Resume")
    eventually(lambda: "is running" in body(browser))
    assert hub.get("/api/v1/rollouts/1")["state"] == "running"


def test_labels_are_given_by_keyboard_alone(signed_in: Any, hub: Hub) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser = signed_in
    browser.get(hub.address + "/queue")
    before, key = len(hub.get("/api/v1/samples?which=labelled")), by_name(browser, "key").get_attribute("value")
    ActionChains(browser).send_keys("2").perform()
    eventually(lambda: len(hub.get("/api/v1/samples?which=labelled")) > before)
    label = next(s["label"] for s in hub.get("/api/v1/samples?which=labelled") if s["key"] == key)
    assert label == "ABD", "the second label of the model"
    eventually(lambda: by_name(browser, "key").get_attribute("value") != key)
    focus = []
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focus.append(browser.switch_to.active_element.text)
    assert focus[0] == "Skip to content"
    assert any("Labels" in text for text in focus)
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "where the focus is can be seen"


def test_a_whole_recording_is_labelled_by_keyboard(signed_in: Any, hub: Hub) -> None:
    """The box stays ticked for the next one."""
    from selenium.webdriver import ActionChains

    browser = signed_in
    browser.get(hub.address + "/queue")
    key = by_name(browser, "key").get_attribute("value")
    recording = next(s["recording"] for s in hub.get("/api/v1/samples") if s["key"] == key)
    together = sum(s["recording"] == recording for s in hub.get("/api/v1/samples?which=open"))
    assert together > 1 and f"all of this recording is the same: {together} here" in body(browser)
    ActionChains(browser).send_keys("0").perform()
    assert by_name(browser, "whole").is_selected()
    ActionChains(browser).send_keys("3").perform()
    eventually(lambda: [s["label"] for s in hub.get("/api/v1/samples") if s["recording"] == recording].count("FEL") >= together)
    eventually(lambda: by_name(browser, "key").get_attribute("value") != key)
    assert by_name(browser, "whole").get_attribute("type") == "hidden" or by_name(browser, "whole").is_selected()


@pytest.mark.parametrize("width", [1100, 380])
def test_every_page_has_what_readers_and_phones_need(signed_in: Any, hub: Hub, width: int) -> None:
    browser = signed_in
    browser.set_window_size(width, 900)
    try:
        for path in (
            "/",
            "/devices/pi-1",
            "/rollouts",
            "/rollouts/1",
            "/versions",
            "/drift",
            "/queue",
            "/events",
            "/sign-in",
            *ASKING,
        ):
            browser.get(hub.address + path)
            assert browser.execute_script(BASICS) == [], path
    finally:
        browser.set_window_size(1100, 900)


def test_what_a_device_says_is_text(signed_in: Any, hub: Hub, tmp_path: Path) -> None:
    browser = signed_in
    told = hub.post(
        "/api/v1/enrol", {"token": hub.run("token", "enrol", "odd"), "device": "odd", "machine": HOSTILE, "agent": HOSTILE}
    )
    import urllib.request

    import msgspec

    odd_event = {"key": "k" * 16, "kind": "refused", "at": 1.0, "target": HOSTILE, "text": HOSTILE}
    report = {"key": "r" * 16, "at": 1.0, "events": [odd_event]}
    asked = urllib.request.Request(
        f"{hub.address}/api/v1/report", msgspec.json.encode(report), method="POST",
        headers={"Authorization": f"Bearer {told['credential']}", "Content-Type": "application/json"},
    )  # fmt: skip
    urllib.request.urlopen(asked, timeout=20).close()
    for path in ("/devices/odd", "/events", "/"):
        browser.get(hub.address + path)
        assert "owned" not in browser.title
        assert not browser.find_elements("css selector", "img")
    browser.get(hub.address + "/events")
    assert HOSTILE in body(browser)
