"""The device's page in headless Chromium: live, on a desk and on a phone, and behind its token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browsers import BASICS
from browsers import browser as browser  # a fixture
from moving import detector, frame, passing
from programs import needs
from service import arrive
from serving import eventually, serving
from test_tracking_service import TRACKING, put

pytestmark = needs("chromium", "chromium-driver")
WATCH = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.1\n'


def text(browser: Any, name: str) -> str:
    return str(browser.find_element("id", name).text)


def test_a_page_that_follows_the_device(browser: Any, tmp_path: Path) -> None:
    for name in ("in", "squares"):
        (tmp_path / name).mkdir()
    (tmp_path / "token").write_text("0123456789abcdef0123\n")
    api = '[api]\nport = 0\ntoken_file = "token"\n'
    with serving(tmp_path, WATCH + TRACKING + api, detector(tmp_path / "squares")) as agent:
        browser.get(agent.address + "/")
        eventually(lambda: text(browser, "state") == "running")
        assert text(browser, "answer") == "no answer yet" and text(browser, "model") == "squares 1"
        put(tmp_path / "in", [*passing()[:3], frame(red=(60, 40))], "a")
        eventually(lambda: text(browser, "answer").startswith("red ") and "blue" not in text(browser, "answer"))
        eventually(
            lambda: (
                browser.execute_script("const p = document.getElementById('picture'); return !p.hidden && p.naturalWidth") == 160
            )
        )
        assert "door" in text(browser, "counts") and "hall" in text(browser, "counts") and "model loaded" in text(browser, "log")
        assert len(browser.find_elements("css selector", "#answers li")) == 4
        try:
            for width in (1280, 390):
                browser.set_window_size(width, 900)
                assert browser.execute_script(BASICS) == [], width
        finally:
            browser.set_window_size(1100, 900)
        assert not [
            entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
        ]
    (tmp_path / "series" / "in").mkdir(parents=True)
    with serving(tmp_path / "series", WATCH) as agent:
        browser.get(agent.address + "/")
        arrive(tmp_path / "series" / "in", "a.csv")
        shown = "const s = document.getElementById('series'); return getComputedStyle(s).display !== 'none' && s.children.length"
        eventually(lambda: browser.execute_script(shown) == 6)
    eventually(lambda: text(browser, "state") in ("no connection", "closed: reload the page"))
