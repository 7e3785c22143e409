"""The page on the device, and who may see it: a token from elsewhere, a cookie for a browser, live events, many viewers."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

from commands import command, sentence
from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.box_answers import Box, Point
from edgeloop_agent.config import Api
from edgeloop_agent.local_api.access import Door
from edgeloop_agent.local_api.connection import Request
from edgeloop_agent.mask_answers import Mask, RunLengths
from edgeloop_agent.page.live_view import in_words
from edgeloop_agent.page.pictures import LONGEST_SIDE, as_shown
from moving import detector, passing
from service import WATCH, WINDOWS, arrive
from serving import GOLDEN, Agent, eventually, serving
from test_callers import ask
from test_tracking_service import TRACKING, put

TOKEN = "0123456789abcdef0123"
ELSEWHERE = ("Host: 127.0.0.1", "X-Forwarded-For: 192.0.2.7")  # a proxy on the device asks for somebody


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("page")
    for name in ("in", "squares"):
        (folder / name).mkdir()
    (folder / "token").write_text(TOKEN + "\n")
    text = WATCH + TRACKING + '[api]\nport = 0\ntoken_file = "token"\nconnections = 8\n'
    with serving(folder, text, detector(folder / "squares")) as running:
        yield running


def events(agent: Agent, *headers: str, until: Callable[[dict], bool] = lambda _: True) -> dict:
    """The first event of a viewer that is `until`."""
    place = urlsplit(agent.address)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        lines = ["GET /page/events HTTP/1.1", *(headers or ("Host: 127.0.0.1",))]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        got = b""
        while some := connection.recv(1 << 16):
            got += some
            head, _, body = got.partition(b"\r\n\r\n")
            *whole, _ = body.split(b"\n\n")
            for event in (json.loads(part.removeprefix(b"data: ")) for part in whole if part.startswith(b"data: ")):
                if until(event):
                    assert head.startswith(b"HTTP/1.1 200") and b"text/event-stream" in head and b"Content-Length" not in head
                    return event  # type: ignore[no-any-return]
    raise AssertionError(got[:200])


def test_it_shows_what_the_agent_sees(agent: Agent) -> None:
    status, headers, page = ask(agent, "GET /", "Host: 127.0.0.1")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"] and b"/page/page.js" in page
    assert not re.findall(rb"(?:src|href)=\"(?!/)", page)  # nothing from elsewhere
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        status, headers, content = ask(agent, f"GET /page/{name}", "Host: 127.0.0.1")
        assert status == 200 and headers["content-type"].startswith(kind) and len(content) > 500
    assert ask(agent, "GET /page/picture", "Host: 127.0.0.1")[0] == 404  # it saw nothing yet
    frames = passing()
    put(agent.folder / "in", frames, "a")
    eventually(lambda: len(agent.lines) == len(frames))
    now = events(agent)
    last = agent.lines[-1]
    assert (
        now["model"] == "squares"
        and now["answered"] == len(frames)
        and now["answers"][0]["text"].startswith(last["boxes"][0]["label"])
    )
    assert (
        now["lines"][0] == last["lines"][0] and now["zones"] == last["zones"] and any("model loaded" in line for line in now["log"])
    )
    status, headers, picture = ask(agent, f"GET /page/picture?{now['picture']}", "Host: 127.0.0.1")
    assert status == 200 and headers["content-type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(picture)), int)
    assert shown.shape == frames[-1].shape and np.abs(shown - frames[-1]).max() > 60  # boxes are drawn in
    with_more = threading.Thread(target=lambda: (time.sleep(0.7), put(agent.folder / "in", frames[:1], "b")))
    with_more.start()
    assert events(agent, until=lambda event: event["answered"] == len(frames) + 1)
    with_more.join()


def test_who_asks_from_elsewhere_needs_the_token(agent: Agent) -> None:
    for path in ("/metrics", "/v2", "/v2/models/squares", "/page/picture", "/page/events", "/split"):
        status, headers, content = ask(agent, f"GET {path}", *ELSEWHERE)
        assert status == 401 and headers["www-authenticate"] == "Bearer" and "token_file" in json.loads(content)["error"], path
        assert ask(agent, f"GET {path}", *ELSEWHERE, "Authorization: Bearer wrong")[0] == 401
    assert ask(agent, "POST /v2/models/squares/infer", *ELSEWHERE, body=b"{}")[0] == 401
    assert ask(agent, "GET /v2/health/live", *ELSEWHERE)[0] == 200
    bearer = f"Authorization: Bearer {TOKEN}"
    assert ask(agent, "GET /metrics", *ELSEWHERE, bearer)[0] == 200 and ask(agent, "GET /", *ELSEWHERE, bearer)[0] == 200
    status, _, page = ask(agent, "GET /", *ELSEWHERE)
    assert status == 401 and b'action="/page/sign-in"' in page and b'role="alert"' not in page
    status, headers, page = ask(agent, "POST /page/sign-in", *ELSEWHERE, body=urlencode({"token": "wrong"}).encode())
    assert status == 401 and b'role="alert"' in page and "set-cookie" not in headers
    status, headers, _ = ask(agent, "POST /page/sign-in", *ELSEWHERE, body=urlencode({"token": TOKEN}).encode())
    assert (status, headers["location"]) == (303, "/")
    said = headers["set-cookie"]
    assert TOKEN not in said and "HttpOnly" in said and "SameSite=Strict" in said
    cookie = f"Cookie: other=1; {said.partition(';')[0]}"
    assert ask(agent, "GET /", *ELSEWHERE, cookie)[0] == 200 and events(agent, *ELSEWHERE, cookie)
    assert ask(agent, "GET /v2", *ELSEWHERE, cookie)[0] == 401  # it opens the page alone
    foreign = ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site")
    assert ask(agent, "POST /page/sign-in", *ELSEWHERE, *foreign, body=urlencode({"token": TOKEN}).encode())[0] == 403


@pytest.mark.long
def test_a_viewer_is_not_sent_away_where_nothing_happens(agent: Agent) -> None:
    """For longer than a request may take."""
    place = urlsplit(agent.address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(b"GET /page/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        got, end = b"", time.monotonic() + 13
        while time.monotonic() < end and b": still here" not in got:
            some = connection.recv(1 << 16)
            assert some, "it was closed"
            got += some


def test_viewers_who_leave_at_once_leave_their_places(agent: Agent) -> None:
    place = urlsplit(agent.address)
    for _ in range(40):
        with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            connection.sendall(b"GET /page/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    def somebody_looks() -> bool:
        try:
            return bool(events(agent))
        except (AssertionError, OSError):
            return False

    eventually(somebody_looks, 20)


def viewers(agent: Agent, count: int) -> tuple[list[socket.socket], list[bytes]]:
    """So many who look at once, and how each was answered."""
    place = urlsplit(agent.address)
    opened = []
    for _ in range(count):
        connection = socket.create_connection((place.hostname, place.port), timeout=10)
        connection.sendall(b"GET /page/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        opened.append(connection)
    return opened, sorted(connection.recv(16)[:12] for connection in opened)


def test_viewers_are_bounded_and_take_no_place_from_others(agent: Agent) -> None:
    def half_look() -> bool:  # those of the tests before leave within a moment
        opened, answered = viewers(agent, 6)
        try:
            assert answered.count(b"HTTP/1.1 200") <= 4  # of 8 connections half may look
            others = ask(agent, "GET /v2", "Host: 127.0.0.1")[0]
            return (others, answered) == (200, [b"HTTP/1.1 200"] * 4 + [b"HTTP/1.1 503"] * 2)
        finally:
            for connection in opened:
                connection.close()
            time.sleep(1)

    eventually(half_look)
    put(agent.folder / "in", passing()[:3], "c")  # something to say, so that the threads notice who left

    def place_again() -> bool:
        try:
            return bool(events(agent))
        except AssertionError:
            return False

    eventually(place_again, 30)


def test_a_series_has_a_plot_and_a_page_can_be_off(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH) as agent:
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        now = events(agent)
        assert now["picture"] is None and len(now["series"]) == 6 and now["answers"][0]["text"].startswith(agent.lines[-1]["label"])
        assert {v for channel in now["series"] for v in channel} <= {round(v / 1000, 3) for v in range(1001)}
    with serving(tmp_path, WATCH + "[api]\nport = 0\npage = false\n") as agent:
        assert ask(agent, "GET /", "Host: 127.0.0.1")[0] == 404 and ask(agent, "GET /page/page.js", "Host: 127.0.0.1")[0] == 404


@pytest.mark.parametrize(
    ("text", "says"),
    {
        "no token": ('[api]\nhost = "0.0.0.0"\n', "api.host: 0.0.0.0 is reached from other machines, and there is no token"),
        "a name": ('[api]\nhost = "pi.local"\n', "api.host: pi.local is reached from other machines"),
        "short": ('[api]\nport = 0\ntoken_file = "short"\n', "holds no token of 16 letters and digits or more"),
        "missing": ('[api]\nport = 0\ntoken_file = "nowhere"\n', "api.token_file:"),
    }.values(),
    ids=str,
)  # fmt: skip
def test_no_start_beyond_this_machine_without_a_token(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("secret")
    (tmp_path / "agent.toml").write_text(f'bundles = ["{GOLDEN}"]\nstate = "state"\n{text}')
    for verb in ("check", "serve"):
        assert says in sentence(command("edgeloop-agent", verb, tmp_path / "agent.toml"), 2)


def test_peers_of_this_machine_and_others(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    door = Door(Api(token_file=str(tmp_path / "token")))
    peers = {"127.0.0.1": True, "::1": True, "::ffff:127.0.0.1": True, "192.168.1.2": False, "fe80::1%eth0": False, "": False}
    assert {peer: door.lets_in(Request("GET", "/v2", {}, peer=peer)) for peer in peers} == peers
    assert door.lets_in(Request("GET", "/v2", {"authorization": f"bearer {TOKEN}"}, peer="192.168.1.2"))
    assert not door.lets_in(Request("GET", "/v2", {"authorization": f"Basic {TOKEN}"}, peer="192.168.1.2"))
    assert Door(Api()).lets_in(Request("GET", "/v2", {}, peer="192.168.1.2"))


def test_large_pictures_are_shown_small_and_masks_are_painted() -> None:
    picture = np.zeros((1000, 2000), np.uint8)
    assert max(Image.open(io.BytesIO(as_shown(picture, []))).size) <= LONGEST_SIDE
    mask = Mask("nucleus", 0.5, 0.9, RunLengths([10, 10], [50, 50]))
    line = AnswerLine("x", 0, masks=[mask])
    shown = np.asarray(Image.open(io.BytesIO(as_shown(np.zeros((10, 10, 3), np.uint8), [line]))))
    assert shown[:, 7:].max() > 60 and shown[:, :3].max() < 40
    assert in_words(line) == "nucleus 50%" and as_shown(np.zeros((4, 4, 2), np.uint8), []) == b""


def test_points_and_masks_of_boxes_lie_where_they_are_in_a_smaller_picture() -> None:
    points = [Point("nose", 0.9, [1200.0, 400.0])]
    runs = RunLengths([800, 1600], [800 * 200, 800 * 100, 800 * 1300])  # columns 200 to 299
    boxes = [
        Box("person", 0.9, [1000.0, 200.0, 1400.0, 600.0], points=points),
        Box("dog", 0.8, [200.0, 100.0, 300.0, 700.0], mask=runs),
    ]
    shown = np.asarray(Image.open(io.BytesIO(as_shown(np.zeros((800, 1600, 3), np.uint8), [AnswerLine("x", 0, boxes=boxes)]))))
    assert shown.shape == (200, 400, 3)
    assert shown[100, 300].max() > 100 and shown[60:90, 270:330].max() < 60  # a dot, and nothing around it
    assert shown[150, 55:70].max(-1).min() > 60 and shown[150, 85:120].max() < 40
