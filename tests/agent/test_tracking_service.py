"""Tracks and counts through the agent: a folder of frames, a video, restarts, wrong models; and pictures with boxes in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeloop
from commands import command, sentence
from edgeloop_agent.config import Config, Source, Tracking
from moving import HEIGHT, WIDTH, detector, frame, passing
from serving import GOLDEN, Agent, eventually, serving, write_config

TRACKING = """
[tracking]
enabled = true
[[tracking.line]]
name = "door"
points = [[0.5, 0.0], [0.5, 1.0]]
[[tracking.line]]
name = "red door"
points = [[0.5, 0.0], [0.5, 1.0]]
labels = ["red"]
[[tracking.zone]]
name = "hall"
points = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]
[runtime]
threads = 1
"""
WATCH = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.1\n'
DOORS = [{"line": "door", "to_right": 1, "to_left": 1}, {"line": "red door", "to_right": 0, "to_left": 1}]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector(tmp_path_factory.mktemp("squares"))


def put(folder: Path, frames: list[np.ndarray], first: str) -> None:
    """Frames as files, in order: each is complete when it appears."""
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(frames):
        Image.fromarray(picture).save(folder.parent / "next.png")
        (folder.parent / "next.png").rename(folder / f"{first}{i:03d}.png")


def tracks_of(lines: list[dict], label: str) -> set[int]:
    return {box["track"] for line in lines for box in line["boxes"] if box["label"] == label}


def metric(agent: Agent, name: str) -> dict[str, float]:
    """Values of a metric by its labels."""
    found = re.findall(rf"^edgeloop_agent_{name}(?:{{(.*)}})? (\S+)$", agent.get("/metrics"), re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_a_folder_of_frames_is_tracked_and_counted_also_over_a_restart(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with serving(tmp_path, WATCH + TRACKING, squares) as agent:
        assert set(metric(agent, "line_crossings_total").values()) == {0.0} and len(metric(agent, "line_crossings_total")) == 4
        assert metric(agent, "zone_entries_total") == {'zone="hall"': 0} and metric(agent, "tracks") == {"": 0}
        frames = passing(hidden=(14, 15, 16))  # the red one crosses the line while it is hidden
        put(tmp_path / "in", frames, "a")
        lines = eventually(lambda: len(agent.lines) == len(frames) and agent.lines)
        assert [line["input"] for line in lines] == sorted(line["input"] for line in lines)
        assert len(tracks_of(lines, "red")) == len(tracks_of(lines, "blue")) == 1
        assert tracks_of(lines, "red") != tracks_of(lines, "blue")
        assert lines[0]["zones"] == [{"zone": "hall", "now": 0, "entries": 0}]
        assert lines[-1]["lines"] == DOORS and lines[-1]["zones"] == [{"zone": "hall", "now": 1, "entries": 2}]
        assert metric(agent, "line_crossings_total")['direction="to_left",line="door"'] == 1
        assert metric(agent, "zone_objects") == {'zone="hall"': 1} and metric(agent, "tracks") == {"": 2}
    with serving(tmp_path, WATCH + TRACKING, squares) as agent:
        assert sum(metric(agent, "line_crossings_total").values()) == 3 and metric(agent, "zone_entries_total") == {
            'zone="hall"': 2
        }
        before = len(frames)  # the watched folder may be read again already
        put(tmp_path / "in", passing()[:5], "b")
        lines = eventually(lambda: len(agent.lines) == before + len(frames) + 5 and agent.lines)
        assert not tracks_of(lines[before:], "red") & tracks_of(lines[:before], "red")
        assert lines[-1]["lines"][0]["to_left"] == 2


def test_a_video_is_tracked_and_counted(squares: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="the camera extra is not installed")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for picture in passing():
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    video = '[source]\nkind = "video"\nwhere = "a.avi"\n[api]\nenabled = false\n'
    config = write_config(tmp_path, video + TRACKING, squares)
    shown = command("edgeloop-agent", "check", config)
    assert "tracking: on; lines: 2, zones: 1" in shown.stdout, shown.stderr
    done = command("edgeloop-agent", "serve", config)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == len(passing()) and lines[-1]["lines"] == DOORS
    assert tracks_of(lines, "red") | tracks_of(lines, "blue") == {1, 2}


def test_tracking_is_off_by_default(squares: Path, tmp_path: Path) -> None:
    assert not Config(bundles=["m"], source=Source(kind="camera")).tracking.enabled and not Tracking().enabled
    Image.fromarray(frame(red=(60, 40))).save(tmp_path / "a.png")
    done = command("edgeloop-agent", "run", squares, "--source", tmp_path / "a.png", "--state", tmp_path / "state")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert set(line) == {"input", "window", "milliseconds", "boxes"} and set(line["boxes"][0]) == {"label", "score", "box"}


WRONG = {
    "a model without boxes": (GOLDEN, "", "exercise_watch answers no boxes (its task is classification); turn it off"),
    "a label that it does not have": (
        None,
        'labels = ["rod"]',
        "tracking.zone[0].labels: squares has no label 'rod'; did you mean red?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_cannot_be_counted_is_said_by_check_and_at_the_start(name: str, squares: Path, tmp_path: Path) -> None:
    bundle, labels, why = WRONG[name]
    (tmp_path / "in").mkdir()
    text = WATCH + TRACKING.replace("[runtime]", f"{labels}\n[runtime]")
    config = write_config(tmp_path, text, bundle or squares)
    assert why in sentence(command("edgeloop-agent", "check", config), 2)
    assert why in sentence(command("edgeloop-agent", "serve", config), 2)


def test_boxes_are_drawn_on_request(squares: Path, tmp_path: Path) -> None:
    picture = frame(red=(60, 40), blue=(120, 60))
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "a b.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    done = command(
        "edgeloop-agent", "run", squares, "--source", tmp_path / "in", "--draw", tmp_path / "out", "--state", tmp_path / "state"
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000001-a_b.png.png"]
    model = edgeloop.open(squares, state=tmp_path / "state")
    answer = model(picture)
    drawn = np.asarray(edgeloop.draw(picture, answer))
    assert (drawn == np.asarray(Image.open(tmp_path / "out" / "000001-a_b.png.png"))).all()
    changed = (drawn != picture).any(2)
    x1, y1, x2, y2 = (round(edge) for edge in answer.boxes[0].box)
    assert drawn.shape == picture.shape and changed[y1 : y2 + 1, x1].all() and changed[y2, x1 : x2 + 1].all()
    assert not changed[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].any() and not changed[80:].any()
    assert edgeloop.draw(tmp_path / "in" / "a b.png", answer).size == (WIDTH, HEIGHT)
    assert edgeloop.draw(picture[..., 0], []).mode == "RGB"
    far = [edgeloop.Box("läbel 猫", 0.5, [-500.0, -500.0, 5000.0, 5000.0], 3), edgeloop.Box("b", 1.0, [9.0, 9.0, 1.0, 1.0])]
    assert edgeloop.draw(picture, far).size == (WIDTH, HEIGHT)


def test_what_cannot_be_drawn_is_one_sentence(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = frame(red=(60, 40))
    with pytest.raises(edgeloop.DataError, match="the answer has no boxes"):
        edgeloop.draw(picture, edgeloop.Answer(label="cat"))
    with pytest.raises(edgeloop.DataError, match=r"shape \(96, 160, 3\), float64; boxes and masks are drawn into pictures"):
        edgeloop.draw(picture / 255, [])
    with pytest.raises(edgeloop.DataError, match="no such file"):
        edgeloop.draw(tmp_path / "none.png", [])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(edgeloop.DataError, match=r"broken\.png: no picture"):
        edgeloop.draw(tmp_path / "broken.png", [])
    Image.fromarray(picture).save(tmp_path / "a.png")
    no_boxes = command("edgeloop-agent", "run", GOLDEN, "--source", tmp_path / "a.png", "--draw", tmp_path / "out")
    assert "answers no boxes or masks to draw; leave --draw out" in sentence(no_boxes, 2)
    full = command(
        "edgeloop-agent", "run", squares, "--source", tmp_path / "a.png", "--draw", tmp_path / "a.png", "--state", tmp_path
    )
    assert "cannot be written" in sentence(full, 7)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(edgeloop.DeviceError, match=r"needs Pillow: pip install 'edgeloop\[images\]'"):
        edgeloop.draw(picture, [])
