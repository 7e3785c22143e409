"""The editors of the queue in headless Chromium: boxes and masks by mouse, by keyboard alone, and on a phone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from annotated_models import BOXES, HEIGHT, INSIDE, LABELS, MASKED, POINTED, WIDTH, detector, masker, pointer, segmenter
from browsers import BASICS
from browsers import browser as browser  # a fixture
from edgeloop_agent.hub_client import HubClient
from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation
from edgeloop_contract.masks import mask_of, run_lengths
from edgeloop_contract.messages import Sample, Samples
from edgeloop_contract.sample_messages import SampleAnnotations
from hubs import Hub, running_hub
from programs import needs
from serving import eventually
from test_pages import PASSWORD, by_name, click

pytestmark = needs("chromium", "chromium-driver")
SAMPLES = 6
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[10:20, 10:30] = True
ANSWERS = {
    "boxes": Annotation(boxes=[AnnotatedBox(label, box, score) for label, (box, score) in BOXES.items()]),
    "points": Annotation(boxes=[POINTED]),
    "things": Annotation(boxes=[MASKED, AnnotatedBox("cat", (2.0, 4.0, 12.0, 14.0), 0.4)]),
    "masks": Annotation(masks=[AnnotatedMask("red", (HEIGHT, WIDTH), run_lengths(MASK))]),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """With samples of a detector and a segmenter."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(folder) as hub:
        hub.run("user", "add", "berta", "--password-stdin", stdin=f"{PASSWORD}\n")
        hub.publish(detector(folder / "boxes.edgeloop"))
        hub.publish(pointer(folder / "points.edgeloop"))
        hub.publish(masker(folder / "things.edgeloop"))
        hub.publish(segmenter(folder / "masks.edgeloop"))
        token = hub.run("token", "enrol", "pi-1")
        secret = hub.post("/api/v1/enrol", {"token": token, "device": "pi-1"})["credential"]
        picture = zlib.compress(np.full((HEIGHT, WIDTH, 3), 90, np.uint8).tobytes())
        samples = [
            Sample(
                key=f"{part}-{i:08}", at=1.0, kind="uncertain", model=part, sha256="0" * 64, recording=f"r{i}", value=float(i),
                features=[100.0 * i], shape=[HEIGHT, WIDTH, 3], data=picture, answer=answer, confidence=0.6,
            )
            for part, answer in ANSWERS.items() for i in range(SAMPLES)
        ]  # fmt: skip
        HubClient(hub.address, secret, "", 10).samples(msgspec.msgpack.encode(Samples(samples=samples)))
        yield hub


class Editor:
    """The editor of the next sample of a model."""

    def __init__(self, hub: Hub, browser: Any, part: str) -> None:
        self.hub, self.browser = hub, browser
        browser.get(f"{hub.address}/queue?model={part}")
        if "/sign-in" in browser.current_url:
            by_name(browser, "name").send_keys("berta")
            by_name(browser, "password").send_keys(PASSWORD)
            click(browser, "Sign in")
            eventually(lambda: browser.find_elements("css selector", "nav"))
            browser.get(f"{hub.address}/queue?model={part}")
        eventually(lambda: browser.find_elements("css selector", ".tools:not([hidden])"))
        self.key = by_name(browser, "key").get_attribute("value")

    def at(self, x: float, y: float) -> tuple[int, int]:
        """A place of the sample, in pixels of the window."""
        ask = "const r = document.querySelector('.stage').getBoundingClientRect(); return [r.x, r.y, r.width / arguments[0]]"
        left, top, scale = self.browser.execute_script(ask, WIDTH)
        return round(left + x * scale), round(top + y * scale)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        from selenium.webdriver import ActionChains

        self.browser.execute_script("document.querySelector('.stage').scrollIntoView()")
        actions = ActionChains(self.browser, duration=20)
        pointer, middle = actions.w3c_actions.pointer_action, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        pointer.move_to_location(*self.at(*start)).pointer_down().move_to_location(*self.at(*middle))
        pointer.move_to_location(*self.at(*end)).pointer_up()
        actions.perform()

    def keys(self, *keys: str) -> None:
        """A key that begins with shift is pressed together with it."""
        from selenium.webdriver import ActionChains, Keys

        actions = ActionChains(self.browser, duration=10)
        for key in keys:
            if key.startswith(Keys.SHIFT):
                actions.key_down(Keys.SHIFT).send_keys(key[1:]).key_up(Keys.SHIFT)
            else:
                actions.send_keys(key)
        actions.perform()

    def saved(self) -> Annotation:
        """What the hub settled, after the next sample came."""
        path = f"/api/v1/samples/pi-1/{self.key}/annotations"
        settled = eventually(lambda: self.hub.http.get(path, SampleAnnotations).settled)
        eventually(lambda: by_name(self.browser, "key").get_attribute("value") != self.key)
        assert isinstance(settled, Annotation)
        return settled

    def saved_boxes(self) -> list[tuple[str, list[int]]]:
        """Edges in whole pixels: the mouse is on whole pixels of the screen."""
        return [(box.label, [round(edge) for edge in box.box]) for box in self.saved().boxes or []]


def test_boxes_are_drawn_moved_resized_and_deleted_by_mouse(hub: Hub, browser: Any) -> None:
    editor = Editor(hub, browser, "boxes")
    editor.drag((46, 2), (60, 10))  # a new one, of the first label
    editor.drag((50, 5), (48, 25))  # it is chosen, and moves by −2, 20
    editor.drag((58, 30), (63, 40))  # its lower right corner
    editor.drag((7, 9), (7, 9))  # the model's cat is chosen
    click(browser, "delete")
    click(browser, "save")
    assert editor.saved_boxes() == [("dog", [20, 12, 44, 36]), ("cat", [44, 22, 63, 40])]


def test_masks_of_boxes_are_shown_and_kept_until_their_box_moves(hub: Hub, browser: Any) -> None:
    from selenium.webdriver import Keys

    editor = Editor(hub, browser, "things")
    ask = "const c = document.querySelector('.stage canvas'); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    shown = np.array(browser.execute_script(ask)).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0
    assert (shown == INSIDE).all()
    assert "with its mask" in browser.find_elements("css selector", ".boxes button")[0].text
    browser.execute_script("arguments[0].focus()", browser.find_elements("css selector", ".boxes button")[0])
    editor.keys("3", Keys.ENTER)  # another label
    kept = msgspec.structs.replace(MASKED, label=LABELS[2], score=None)
    assert editor.saved() == Annotation(boxes=[kept, AnnotatedBox("cat", (2.0, 4.0, 12.0, 14.0))])
    editor = Editor(hub, browser, "things")
    browser.execute_script("arguments[0].focus()", browser.find_elements("css selector", ".boxes button")[0])
    editor.keys(Keys.ARROW_LEFT)
    assert not any(browser.execute_script(ask))
    editor.keys("u")
    assert any(browser.execute_script(ask))
    browser.find_elements("css selector", ".boxes button")[0].click()
    editor.keys(Keys.ARROW_LEFT, Keys.ENTER)
    assert [box.mask for box in editor.saved().boxes or []] == [None, None]


def test_boxes_are_edited_by_keyboard_alone(hub: Hub, browser: Any) -> None:
    from selenium.webdriver import Keys

    editor = Editor(hub, browser, "boxes")
    editor.keys("n", Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP, "3")
    editor.keys(Keys.SHIFT + Keys.ARROW_RIGHT, Keys.SHIFT + Keys.ARROW_DOWN)
    entries = browser.find_elements("css selector", ".boxes button")
    assert [entry.get_attribute("aria-pressed") for entry in entries] == ["false", "false", "true"]
    browser.execute_script("arguments[0].focus()", entries[1])
    editor.keys(Keys.DELETE, "u", Keys.ESCAPE, Keys.ARROW_LEFT)  # deleted and back; nothing is chosen, so nothing moves
    editor.keys(Keys.ENTER)
    assert editor.saved_boxes() == [("dog", [20, 12, 44, 36]), ("cat", [2, 4, 12, 14]), (LABELS[2], [23, 16, 40, 29])]


def test_points_are_placed_moved_and_hidden_by_mouse_and_by_keyboard(hub: Hub, browser: Any) -> None:
    from selenium.webdriver import Keys

    editor = Editor(hub, browser, "points")
    editor.drag((46, 20), (62, 40))  # a new worm; its head, then its tail
    editor.drag((48, 30), (48, 30))
    editor.drag((60, 30), (58, 36))
    editor.drag((24, 37), (24, 37))  # the model's worm is chosen
    editor.drag((16, 24), (18, 20))  # its head moves; the tail is next, which nobody has seen yet
    editor.drag((36, 24), (36, 24))
    click(browser, "save")
    boxes = [(box.label, [round(edge) for edge in box.box], rounded(box.points)) for box in editor.saved().boxes or []]
    assert boxes == [
        ("worm", [8, 8, 40, 40], [(18, 20, 2), (36, 24, 2)]), ("worm", [46, 20, 62, 40], [(48, 30, 2), (58, 36, 2)]),
    ]  # fmt: skip
    editor = Editor(hub, browser, "points")
    browser.execute_script("arguments[0].focus()", browser.find_element("css selector", ".boxes button"))
    # The head goes two to the right and is hidden; the tail comes from the middle of the box; the box and its points move by one.
    editor.keys("p", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, "v", "p", Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ESCAPE, Keys.ARROW_RIGHT)
    editor.keys("p", Keys.DELETE, "u", Keys.ENTER)  # the head is not known, and known again
    (box,) = editor.saved().boxes or []
    assert [round(edge) for edge in box.box] == [9, 8, 41, 40] and rounded(box.points) == [(19, 24, 1), (25, 25, 2)]


def rounded(points: Any) -> list[tuple[int, int, int]]:
    return [(round(x), round(y), state) for x, y, state in points]


def test_masks_are_painted_and_erased(hub: Hub, browser: Any) -> None:
    from selenium.webdriver import Keys

    editor = Editor(hub, browser, "masks")
    browser.execute_script("const size = document.querySelector('[data-do=size]'); size.value = 4;")
    editor.drag((40, 40), (60, 40))
    editor.keys("e")
    editor.drag((12, 15), (28, 15))
    editor.keys("u", "e", Keys.ENTER)  # the erased stroke comes back
    (mask,) = editor.saved().masks or []
    pixels = mask_of(mask.counts, *mask.size)
    assert pixels[10:20, 10:30].all() and pixels[39:41, 40:60].all() and not pixels[25:36].any() and not pixels[44:].any()
    editor = Editor(hub, browser, "masks")
    browser.execute_script("const size = document.querySelector('[data-do=size]'); size.value = 1;")
    browser.find_element("css selector", ".stage").send_keys("")
    editor.keys(Keys.ARROW_RIGHT, " ", Keys.ENTER)  # by keyboard, from the middle
    (mask,) = editor.saved().masks or []
    wanted = MASK.copy()
    wanted[HEIGHT // 2, WIDTH // 2 + 1] = True
    assert (mask_of(mask.counts, *mask.size) == wanted).all()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_editors_have_what_readers_and_phones_need(hub: Hub, browser: Any, width: int) -> None:
    browser.set_window_size(width, 900)
    try:
        for part in ANSWERS:
            Editor(hub, browser, part)
            assert browser.execute_script(BASICS) == [], part
    finally:
        browser.set_window_size(1100, 900)


def test_a_finger_draws_a_box(hub: Hub, browser: Any) -> None:
    editor = Editor(hub, browser, "boxes")
    browser.execute_script("document.querySelector('.stage').scrollIntoView()")
    places = [dict(zip("xy", editor.at(*place), strict=True)) for place in ((46, 2), (52, 6), (60, 10))]
    for kind, place in zip(("touchStart", "touchMove", "touchMove"), places, strict=True):
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
    browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    click(browser, "save")
    assert editor.saved_boxes()[-1] == ("cat", [46, 2, 60, 10])


def test_without_scripts_the_page_says_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    ask = hub.signed_in("carl")
    page = ask("/queue?model=boxes")
    assert "<noscript>" in page and "Boxes are drawn by a script of this hub" in page and "picture.png" in page
