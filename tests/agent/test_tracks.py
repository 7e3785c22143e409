"""Tracks, lines and zones: their rules, by generated paths."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeloop_agent.answering import Answering
from edgeloop_agent.box_answers import Box
from edgeloop_agent.config import CountedLine, CountedZone, Source, Tracking
from edgeloop_agent.engine import Answer
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.sources import Recording, camera
from edgeloop_agent.tracking.following import Following
from edgeloop_agent.tracking.tracker import MAX_TRACKS, Tracker
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes import Final
from edgeloop_contract.cleaning import NearDuplicate
from edgeloop_contract.tasks import Detection
from serving import GOLDEN

HEIGHT, WIDTH = 200, 400
DOOR = CountedLine("door", [(0.5, 0.0), (0.5, 1.0)])  # downwards: right of it is the left half
HALL = CountedZone("hall", [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)])


def box(x: float, y: float, side: float = 40, label: str = "a") -> Box:
    return Box(label, 0.9, [x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def following(folder: Path, **more: object) -> tuple[Following, io.StringIO]:
    said = io.StringIO()
    return Following(Tracking(enabled=True, point="middle", **more), folder, Log("info", said)), said


def walked(follow: Following, path: Sequence[tuple[float, float] | None]) -> None:
    for point in path:
        follow.follow([] if point is None else [box(*point)], HEIGHT, WIDTH, 0)


@settings(deadline=None)
@given(
    speed=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    before=st.integers(2, 12),
    limit=st.integers(0, 20),
    gap=st.integers(0, 25),
)
def test_a_track_lives_through_as_many_misses_as_the_limit_says(speed: tuple, before: int, limit: int, gap: int) -> None:
    tracker = Tracker(0.3, limit)
    numbers = []
    for i in range(before + gap + 3):
        missing = before <= i < before + gap
        tracks = tracker.follow([] if missing else [box(500 + speed[0] * i, 500 + speed[1] * i)])
        numbers += [track.number for track in tracks]
    assert len(set(numbers[:before])) == len(set(numbers[before:])) == 1
    assert (numbers[0] == numbers[-1]) == (gap <= limit)


@settings(deadline=None)
@given(speed=st.integers(1, 15), apart=st.integers(0, 60), swap=st.lists(st.booleans(), min_size=60, max_size=60))
def test_two_that_pass_each_other_keep_their_numbers_in_any_order(speed: int, apart: int, swap: list) -> None:
    tracker, seen = Tracker(0.3, 5), []
    for i in range(60):
        both = [box(30 * speed - speed * i, 100), box(speed * i - 30 * speed, 100 + apart)]
        tracks = tracker.follow(both[::-1] if swap[i] else both)
        seen.append(tuple(track.number for track in (tracks[::-1] if swap[i] else tracks)))
    met = 30  # where both are in one place nobody can tell them apart, nor need to
    assert set(seen[met - 3]) == {1, 2} and {pair for i, pair in enumerate(seen) if apart or i != met} == {seen[0]}


def test_labels_are_followed_apart_and_numbers_are_not_given_twice() -> None:
    tracker = Tracker(0.3, 0)
    assert [t.number for t in tracker.follow([box(50, 50), box(50, 50, label="b")])] == [1, 2]
    assert [t.number for t in tracker.follow([box(52, 50, label="b"), box(50, 50)])] == [2, 1]
    assert tracker.follow([]) == [] and not tracker.tracks
    assert [t.number for t in tracker.follow([box(50, 50)])] == [3]


def test_tracks_are_bounded_and_those_that_are_seen_stay() -> None:
    tracker = Tracker(0.3, 1000)
    first = tracker.follow([box(100 * i, 0) for i in range(MAX_TRACKS + 50)])
    assert first[MAX_TRACKS:] == [None] * 50 and len(tracker.tracks) == MAX_TRACKS
    again = tracker.follow([box(100 * i, 5000) for i in range(200)] + [box(0, 0)])
    assert len(tracker.tracks) == MAX_TRACKS and again[-1].number == 1
    assert sum(track.missed == 0 for track in tracker.tracks) == 201


@st.composite
def paths(draw) -> tuple[list[bool], list[tuple[float, float]]]:
    """Sides of the door that an object goes to in turn, and its path: steps to each, with jitter beside and on the line."""
    sides = draw(st.lists(st.booleans(), min_size=1, max_size=6))
    path, x, y = [(100.0 if sides[0] else 300.0, 100.0)] * 3, 100.0 if sides[0] else 300.0, 100.0
    for side in sides:
        goal = 100.0 if side else 300.0
        while abs(goal - x) > 8:
            x += 8 if goal > x else -8
            path.append((x, y))
            if abs(x - 200) <= 4:
                path += [(200 + jitter, y) for jitter in draw(st.lists(st.floats(-1.9, 1.9), max_size=8))]
    return sides, path


@settings(deadline=None)
@given(drawn=paths())
def test_each_crossing_is_counted_once_whatever_jitter_there_is(drawn: tuple, tmp_path_factory: pytest.TempPathFactory) -> None:
    sides, path = drawn
    follow, _ = following(tmp_path_factory.mktemp("state"), line=[DOOR])  # margin: 2 pixels
    walked(follow, path)
    (count,) = follow.counted.lines
    assert count.to_right == sum(not a and b for a, b in pairwise(sides))
    assert count.to_left == sum(a and not b for a, b in pairwise(sides))
    assert follow.active == 1


def to(*points: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """A path through these points in steps of ten pixels or less."""
    for (ax, ay), (bx, by) in pairwise(points):
        steps = max(1, int(max(abs(bx - ax), abs(by - ay)) // 10))
        yield from ((ax + (bx - ax) * i / steps, ay + (by - ay) * i / steps) for i in range(steps + 1))


def test_who_goes_round_the_end_of_a_line_did_not_cross_it(tmp_path: Path) -> None:
    follow, _ = following(tmp_path, line=[CountedLine("short", [(0.5, 0.0), (0.5, 0.5)])])
    walked(follow, list(to((300, 150), (100, 150), (100, 50))))
    assert follow.counted.lines[0].to_right == 0
    walked(follow, list(to((100, 50), (300, 50))))
    assert (follow.counted.lines[0].to_right, follow.counted.lines[0].to_left) == (0, 1)


def test_a_crossing_while_it_is_hidden_is_counted(tmp_path: Path) -> None:
    follow, _ = following(tmp_path, line=[DOOR])
    path = list(to((300, 100), (100, 100)))
    walked(follow, [None if 170 < x < 230 else (x, y) for x, y in path])
    assert (follow.counted.lines[0].to_right, follow.active) == (1, 1)


def test_zones_count_what_is_in_them_and_entered_them(tmp_path: Path) -> None:
    follow, _ = following(tmp_path, zone=[HALL], max_missing=2)
    walked(follow, list(to((100, 100), (300, 100))))
    assert (follow.counted.zones[0].now, follow.counted.zones[0].entries) == (1, 1)
    walked(follow, list(to((300, 100), (201, 100))) + [(200 + i % 2 * 1.5 - 1, 100) for i in range(20)])
    assert (follow.counted.zones[0].now, follow.counted.zones[0].entries) == (1, 1)  # jitter on the border
    walked(follow, list(to((199, 100), (150, 100), (260, 100))))
    assert (follow.counted.zones[0].now, follow.counted.zones[0].entries) == (1, 2)
    walked(follow, [None, None])
    assert follow.counted.zones[0].now == 1
    walked(follow, [None])
    assert (follow.counted.zones[0].now, follow.counted.zones[0].entries) == (0, 2)


def test_labels_and_unconfirmed_tracks_are_left_out(tmp_path: Path) -> None:
    only = [CountedLine("door", DOOR.points, ["b"])]
    follow, _ = following(tmp_path / "1", line=only)
    walked(follow, list(to((300, 100), (100, 100))))
    assert follow.counted.lines[0].to_right == 0
    brief, _ = following(tmp_path / "2", line=[DOOR], zone=[HALL])
    walked(brief, [(210, 100), (190, 100), *[None] * 16, (210, 100), (220, 100)])
    assert brief.counted.lines[0].to_right == brief.counted.zones[0].entries == 0
    walked(brief, [(230, 100)])
    assert brief.counted.zones[0].entries == 1
    quick, _ = following(tmp_path / "3", line=[DOOR])
    walked(quick, [(210, 100), (190, 100)])
    assert quick.counted.lines[0].to_right == 0
    walked(quick, [(172, 100)])  # now it is confirmed: it began on the other side
    assert quick.counted.lines[0].to_right == 1


def test_a_foot_at_the_lower_edge_is_in_a_zone_that_ends_there(tmp_path: Path) -> None:
    said = io.StringIO()
    follow = Following(Tracking(enabled=True, confirm=1, zone=[HALL]), tmp_path, Log("info", said))
    follow.follow([box(300, HEIGHT - 20)], HEIGHT, WIDTH, 0)
    assert follow.counted.zones[0].now == 1


def test_counts_are_kept_and_another_scene_begins_anew(tmp_path: Path) -> None:
    follow, _ = following(tmp_path, line=[DOOR], zone=[HALL])
    walked(follow, list(to((300, 100), (100, 100))))
    (first,) = follow.follow([box(100, 100)], HEIGHT, WIDTH, 0)
    (other,) = follow.follow([box(100, 100)], HEIGHT, WIDTH, 1)  # a camera that was opened again
    (small,) = follow.follow([box(100, 100)], HEIGHT - 1, WIDTH, 1)
    assert [first.track, other.track, small.track] == [1, 2, 3]
    follow.close()
    kept, said = following(tmp_path, line=[DOOR], zone=[HALL])
    assert kept.counted.lines == follow.counted.lines and kept.counted.lines[0].to_right == 1 and not said.getvalue()
    assert (kept.counted.zones[0].now, kept.counted.zones[0].entries) == (0, 1)
    assert kept.follow([box(100, 100)], HEIGHT, WIDTH, 0)[0].track == 4
    crashed, _ = following(tmp_path, line=[DOOR], zone=[HALL])  # without close(): numbers are left out, none is given twice
    assert crashed.follow([box(100, 100)], HEIGHT, WIDTH, 0)[0].track > 4
    moved, said = following(tmp_path, line=[CountedLine("door", [(0.4, 0.0), (0.4, 1.0)])])
    assert moved.counted.lines[0].to_right == 0 and "counts begin at 0" in said.getvalue()
    (tmp_path / "tracking.json").write_text("{")
    lost, said = following(tmp_path, line=[DOOR])
    assert lost.counted.lines[0].to_right == 0 and "cannot be read" in said.getvalue()


def test_an_update_begins_tracks_anew_and_does_not_end_the_agent(tmp_path: Path) -> None:
    follow, said = following(tmp_path, line=[CountedLine("door", DOOR.points, ["a"])])
    walked(follow, list(to((300, 100), (100, 100))))
    with Bundle.open(GOLDEN) as bundle:
        follow.use(bundle.manifest)
    assert "answers no boxes" in said.getvalue() and said.getvalue().count("error") == 1
    assert follow.follow([box(100, 100)], HEIGHT, WIDTH, 0)[0].track == 2 and follow.counted.lines[0].to_right == 1


def test_a_near_duplicate_repeats_tracks_and_counts_nothing(tmp_path: Path) -> None:
    with Bundle.open(GOLDEN) as bundle:
        manifest = msgspec.structs.replace(
            bundle.manifest, cleaning=[NearDuplicate()], task=Detection(labels=["a"], decode=Final())
        )
    places = iter([300, 250, 200, 150, 100])

    class Finder:
        def answers(self, values: np.ndarray) -> list[Answer]:
            return [Answer(0, boxes=[box(next(places), 100, side=120)])]

    counts = Counts()
    follow, _ = following(tmp_path, line=[DOOR])
    answering = Answering(manifest, Finder, counts, following=follow)
    pictures = np.random.default_rng(0).integers(0, 255, (5, HEIGHT, WIDTH, 3)).astype(np.uint8)
    lines = [line for i in (0, 1, 2, 3, 3, 3, 4) for line in answering.lines(Recording(f"{i}", pictures[i]))]
    assert [line.repeated for line in lines] == [False] * 4 + [True] * 2 + [False] and not any(line.refused for line in lines)
    assert [line.boxes[0].track for line in lines] == [1] * 7
    assert [line.lines[0].to_right for line in lines] == [0, 0, 0, 1, 1, 1, 1]  # each line keeps its own counts


def test_a_camera_that_is_opened_again_is_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Capture:
        def open(self, where: object, backend: object) -> bool:
            self.left = 2
            return True

        def get(self, what: object) -> float:
            return 0.0

        def grab(self) -> bool:
            self.left -= 1
            return self.left >= 0

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((4, 4, 3), np.uint8)

        def release(self) -> None: ...

    numbers = dict.fromkeys(("COLOR_BGR2RGB", "CAP_V4L2", "CAP_FFMPEG", "CAP_GSTREAMER", "CAP_PROP_FRAME_WIDTH", "CAP_PROP_FPS"), 0)
    numbers |= dict.fromkeys(("CAP_PROP_FRAME_HEIGHT", "CAP_PROP_FOURCC", "CAP_PROP_POS_MSEC"), 0)
    library = SimpleNamespace(VideoCapture=Capture, cvtColor=lambda frame, code: frame, **numbers)
    monkeypatch.setattr(camera, "opencv", lambda: library)
    stop, streams = Event(), []
    for recording in camera.camera(Source(kind="camera", where="0", poll_seconds=0.001)).recordings(stop, lambda why: None):
        streams.append(recording.stream)
        if len(streams) == 4:
            stop.set()
    assert streams == sorted(streams) and len(set(streams)) >= 2  # of two frames at once the newer one alone is given


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    follow, said = following(tmp_path / "state", line=[DOOR])
    walked(follow, list(to((300, 100), (100, 100))))
    assert follow.counted.lines[0].to_right == 1 and "cannot be kept" in said.getvalue()
