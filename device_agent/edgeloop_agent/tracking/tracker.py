"""Which boxes of two frames are one object: by overlap with where it is expected, best overlaps first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edgeloop_agent.box_answers import Box
from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import iou_matrix

__all__ = ["MAX_TRACKS", "Track", "Tracker"]

MAX_TRACKS = 300  # that are followed at once: memory and time of a frame are bounded by it
STEADY = 0.2  # weight of the last step in the velocity, once there are five: boxes jitter


class Track(msgspec.Struct):
    """One object. `box`: x1, y1, x2, y2 in pixels, where it was found last; `velocity`: of its middle, in pixels a frame.

    `seen`: frames with a box of it; `missed`: frames since the last one.
    """

    number: int
    label: str
    box: list[float]
    velocity: tuple[float, float] = (0.0, 0.0)
    seen: int = 1
    missed: int = 0

    def expected(self) -> list[float]:
        """Where it should be in the next frame, if it goes on as it went."""
        frames = self.missed + 1
        right, down = self.velocity[0] * frames, self.velocity[1] * frames
        x1, y1, x2, y2 = self.box
        return [x1 + right, y1 + down, x2 + right, y2 + down]

    def found(self, box: list[float]) -> None:
        """It was found again."""
        frames, old = self.missed + 1, self.box
        weight = max(STEADY, 1 / self.seen)
        right = ((box[0] + box[2]) - (old[0] + old[2])) / 2 / frames
        down = ((box[1] + box[3]) - (old[1] + old[3])) / 2 / frames
        was = self.velocity
        self.velocity = was[0] + weight * (right - was[0]), was[1] + weight * (down - was[1])
        self.box, self.seen, self.missed = box, self.seen + 1, 0


class Tracker:
    """Tracks of one stream of frames. `first`: the number of the first track; no number is given twice."""

    def __init__(self, min_iou: float, max_missing: int, first: int = 1) -> None:
        self.min_iou, self.max_missing, self.next = min_iou, max_missing, first
        self.tracks: list[Track] = []

    def clear(self) -> None:
        """End all tracks: what comes next is another scene."""
        self.tracks = []

    def follow(self, boxes: Sequence[Box]) -> list[Track | None]:
        """The track of each box of the next frame, best box first. None beyond MAX_TRACKS boxes.

        A track takes boxes of its own label only, and each track one of them. A box without a track begins one.
        """
        followed = boxes[:MAX_TRACKS]
        found: list[Track | None] = [None] * len(boxes)
        for track, place in self._pairs(followed):
            track.found(followed[place].box)
            found[place] = track
        lost = {track.number for track in self.tracks} - {track.number for track in found if track is not None}
        for track in self.tracks:
            track.missed += track.number in lost
        kept = [track for track in self.tracks if track.missed <= self.max_missing]
        for place, box in enumerate(followed):
            if found[place] is None:
                found[place] = track = Track(self.next, box.label, box.box)
                self.next += 1
                kept.append(track)
        # Tracks that wait make room for those that are seen; sorting is stable, so older ones come first.
        self.tracks = kept if len(kept) <= MAX_TRACKS else sorted(kept, key=lambda track: track.missed)[:MAX_TRACKS]
        return found

    def _pairs(self, boxes: Sequence[Box]) -> Iterator[tuple[Track, int]]:
        """Tracks with the places of their boxes, by falling overlap."""
        if not self.tracks or not boxes:
            return
        overlap = iou_matrix(_edges([track.expected() for track in self.tracks]), _edges([box.box for box in boxes]))
        codes = {label: code for code, label in enumerate({track.label for track in self.tracks})}
        ours = np.array([codes[track.label] for track in self.tracks])
        theirs = np.array([codes.get(box.label, -1) for box in boxes])
        overlap[ours[:, None] != theirs[None, :]] = 0
        rows, columns = np.nonzero(overlap >= self.min_iou)
        order = np.argsort(-overlap[rows, columns], kind="stable")
        tracks, places = set[int](), set[int]()
        for row, place in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if row not in tracks and place not in places:
                tracks.add(row)
                places.add(place)
                yield self.tracks[row], place


def _edges(boxes: list[list[float]]) -> Array:
    return np.array(boxes, np.float64)
