"""Counts crossings of lines and objects in zones, by the path of one point of each track.

A point counts as beyond a line, or as outside of a zone it was in, once it is `margin` pixels away: a box that jitters on a line
crosses it once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edgeloop_agent.config import CountedLine, CountedZone
from edgeloop_agent.tracking.tracker import Track

__all__ = ["LineCount", "LineCounter", "ZoneCount", "ZoneCounter"]

Place = tuple[float, float]  # in pixels from the left and from the top


class LineCount(msgspec.Struct, frozen=True):
    """Crossings of a line so far. Right and left: of who looks from its first point to its second."""

    line: str
    to_right: int = 0
    to_left: int = 0


class ZoneCount(msgspec.Struct, frozen=True):
    """Objects in a zone now, and how many entered it, or were found in it first, so far."""

    zone: str
    now: int = 0
    entries: int = 0


class _Passage(msgspec.Struct):
    """One track at one line. `x`, `y`, `distance`: its last point that was not on the line, and how far to the right of it.

    `side`: 1 right, -1 left, 0 where it was never clear of the line. `within`: it last went through the line, not past
    its ends.
    """

    x: float
    y: float
    distance: float
    side: int
    within: bool = False


class LineCounter:
    """One line in pictures of one size. `margin`: in pixels; `confirm`: frames with a box, before a track is counted."""

    def __init__(self, line: CountedLine, height: int, width: int, margin: float, confirm: int) -> None:
        (self._ax, self._ay), (bx, by) = ((x * width, y * height) for x, y in line.points)
        self._dx, self._dy = bx - self._ax, by - self._ay
        self._length = math.hypot(self._dx, self._dy)
        self._labels, self._margin, self._confirm = frozenset(line.labels), margin, confirm
        self._passages: dict[int, _Passage] = {}

    def count(self, tracks: Sequence[Track], places: Sequence[Place], so_far: LineCount) -> LineCount:
        """The count after one more frame, with all tracks that are followed and the place of each."""
        passages, to_right, to_left = {}, so_far.to_right, so_far.to_left
        for track, place in zip(tracks, places, strict=True):
            if self._labels and track.label not in self._labels:
                continue
            passage = self._passages.get(track.number)
            if passage is None:
                passages[track.number] = self._begin(*place)
                continue
            passages[track.number] = passage
            if not track.missed:
                crossed = self._step(passage, *place, counts=track.seen >= self._confirm)
                to_right += crossed > 0
                to_left += crossed < 0
        self._passages = passages
        if (to_right, to_left) == (so_far.to_right, so_far.to_left):
            return so_far
        return LineCount(so_far.line, to_right, to_left)

    def _distance(self, x: float, y: float) -> float:
        """How far to the right of the line, which is thought to go on without end."""
        return (self._dx * (y - self._ay) - self._dy * (x - self._ax)) / self._length

    def _side(self, distance: float) -> int:
        return 0 if abs(distance) <= self._margin else 1 if distance > 0 else -1

    def _begin(self, x: float, y: float) -> _Passage:
        distance = self._distance(x, y)
        return _Passage(x, y, distance, self._side(distance))

    def _step(self, passage: _Passage, x: float, y: float, counts: bool) -> int:
        """1 for a crossing to the right, -1 to the left, else 0."""
        distance = self._distance(x, y)
        if distance == 0:
            return 0
        if passage.distance * distance < 0:
            share = passage.distance / (passage.distance - distance)
            crossed_x, crossed_y = passage.x + share * (x - passage.x), passage.y + share * (y - passage.y)
            along = (crossed_x - self._ax) * self._dx + (crossed_y - self._ay) * self._dy
            passage.within = 0 <= along <= self._length * self._length
        passage.x, passage.y, passage.distance = x, y, distance
        side = self._side(distance)
        if not counts or side in (0, passage.side):  # a track that is confirmed later is then on the other side than it began
            return 0
        was, passage.side = passage.side, side
        return side if was and passage.within else 0


class ZoneCounter:
    """One zone in pictures of one size. `margin`: in pixels; `confirm`: frames with a box, before a track is counted."""

    def __init__(self, zone: CountedZone, height: int, width: int, margin: float, confirm: int) -> None:
        corners = [(x * width, y * height) for x, y in zone.points]
        self._edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
        self._labels, self._margin, self._confirm = frozenset(zone.labels), margin, confirm
        self._inside: dict[int, bool] = {}

    def count(self, tracks: Sequence[Track], places: Sequence[Place], so_far: ZoneCount) -> ZoneCount:
        """The count after one more frame, with all tracks that are followed and the place of each.

        A track that is missed stays where it was.
        """
        inside, entries = {}, so_far.entries
        for track, place in zip(tracks, places, strict=True):
            if track.seen < self._confirm or (self._labels and track.label not in self._labels):
                continue
            was = self._inside.get(track.number)
            inside[track.number] = now = bool(was) if track.missed and was is not None else self._is_inside(was, *place)
            entries += now and not was
        self._inside = inside
        now_inside = sum(inside.values())
        if (now_inside, entries) == (so_far.now, so_far.entries):
            return so_far
        return ZoneCount(so_far.zone, now_inside, entries)

    def _is_inside(self, was: bool | None, x: float, y: float) -> bool:
        inside = False
        for (ax, ay), (bx, by) in self._edges:  # how often a ray to the right meets the border
            if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                inside = not inside
        if was is None or inside == was or self._to_border(x, y) > self._margin:
            return inside
        return was

    def _to_border(self, x: float, y: float) -> float:
        return min(_to_edge(x, y, a, b) for a, b in self._edges)


def _to_edge(x: float, y: float, a: Place, b: Place) -> float:
    """How far a point is from the nearest point between `a` and `b`."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    square = dx * dx + dy * dy
    share = min(1.0, max(0.0, ((x - a[0]) * dx + (y - a[1]) * dy) / square)) if square else 0.0
    return math.hypot(x - a[0] - share * dx, y - a[1] - share * dy)
