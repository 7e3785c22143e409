"""Follows the boxes of a source's frames and keeps what was counted, also over a restart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeloop_agent.box_answers import Box
from edgeloop_agent.config import CountedLine, CountedZone, Tracking
from edgeloop_agent.errand import Errand
from edgeloop_agent.logs import Log
from edgeloop_agent.tracking.counting import LineCount, LineCounter, Place, ZoneCount, ZoneCounter
from edgeloop_agent.tracking.tracker import Track, Tracker
from edgeloop_contract.errors import UsageError
from edgeloop_contract.files import publish
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.settings import nearest
from edgeloop_contract.tasks import Detection

__all__ = ["Counted", "Following", "check_model"]

KEEP_SECONDS = 10.0  # between two writes: flash wears
RESERVED = 1000  # numbers that may be given before the next write: after a crash none is given twice
SPARE = RESERVED // 2  # of them left when more are asked for: nobody waits for the write
CLOSE_SECONDS = 3.0  # for the counts to reach the disk at the end
EDGE = 0.5  # pixels that a point stays inside the picture, so that one on its edge is in a zone that ends there


class Counted(msgspec.Struct, frozen=True):
    """What lines and zones counted so far, in the config's order."""

    lines: list[LineCount]
    zones: list[ZoneCount]


class KeptLine(msgspec.Struct, frozen=True):
    """A line as it was when it was counted."""

    line: CountedLine
    count: LineCount


class KeptZone(msgspec.Struct, frozen=True):
    """A zone as it was when it was counted."""

    zone: CountedZone
    count: ZoneCount


class Kept(msgspec.Struct, frozen=True):
    """The file. `next`: no track has this number or a higher one."""

    next: int
    lines: list[KeptLine]
    zones: list[KeptZone]


def check_model(settings: Tracking, manifest: Manifest) -> None:
    """Raises UsageError where the model answers no boxes, or where a line or zone counts a label that it does not have."""
    task = manifest.task
    if not isinstance(task, Detection):
        kind = task.__struct_config__.tag
        raise UsageError(
            f"tracking.enabled: {manifest.name} answers no boxes (its task is {kind}); turn it off, or name a detector"
        )
    for kind, shapes in (("line", settings.line), ("zone", settings.zone)):
        for number, shape in enumerate(shapes):
            for label in shape.labels:
                if label not in task.labels:
                    where = f"tracking.{kind}[{number}].labels"
                    raise UsageError(f"{where}: {manifest.name} has no label {label!r}{nearest(label, task.labels)}")


class Following:
    """One tracker and its counters, for the frames of one source. `state`: the agent's folder. No frame waits for the disk."""

    def __init__(self, settings: Tracking, state: Path, log: Log) -> None:
        self._settings, self._file, self._log = settings, state / "tracking.json", log
        kept = self._read()
        self.counted = self._restored(kept)
        self._tracker = Tracker(settings.min_iou, settings.max_missing, kept.next)
        self._lines: list[LineCounter] = []
        self._zones: list[ZoneCounter] = []
        self._scene = (0, 0, -1)  # height, width and stream of the last frame
        self._kept, self._reserved, self._kept_at = self.counted, kept.next, float("-inf")
        self._content, self._writer = b"", Errand("counts", self._to_disk)
        self._write(kept.next + RESERVED)
        self._writer.wait(CLOSE_SECONDS)  # before the first frame: what it numbers is reserved

    @property
    def active(self) -> int:
        """How many objects are followed."""
        return len(self._tracker.tracks)

    @property
    def lost(self) -> bool:
        """Whether a confirmed track has no box in this frame, and had one in the last; not of those that left the picture."""
        return any(
            track.missed == 1 and track.seen >= self._settings.confirm and self._is_inside(track.expected())
            for track in self._tracker.tracks
        )

    def _is_inside(self, box: list[float]) -> bool:
        height, width, _ = self._scene
        return box[0] > 0 and box[1] > 0 and box[2] < width and box[3] < height

    def use(self, manifest: Manifest) -> None:
        """Another model answers from now on: tracks begin anew, counts go on."""
        self._scene = (0, 0, -1)
        try:
            check_model(self._settings, manifest)
        except UsageError as error:  # after an update: the agent must not end because of it
            self._log("error", "the new bundle cannot be counted as the config says", why=error)

    def follow(self, boxes: Sequence[Box], height: int, width: int, stream: int) -> list[Box]:
        """The boxes of the next frame, best first, with the numbers of their tracks; `counted` then holds for this frame.

        `height`, `width`: of the picture, in pixels. Another size or stream is another scene, in which all tracks begin anew.
        """
        if (height, width, stream) != self._scene:
            self._begin(height, width, stream)
        found = self._tracker.follow(boxes)
        if self._lines or self._zones:
            self._count(self._tracker.tracks)
        if self._tracker.next > self._reserved - SPARE:
            self._write(self._tracker.next + RESERVED)
        return [
            box if track is None else msgspec.structs.replace(box, track=track.number)
            for box, track in zip(boxes, found, strict=True)
        ]

    def keep(self) -> None:
        """Write what was counted, if it changed, every KEEP_SECONDS. A power cut loses what was counted since."""
        if self.counted is not self._kept and time.monotonic() >= self._kept_at + KEEP_SECONDS:
            self._write(self._reserved)

    def close(self) -> None:
        """Write what was counted and the next number: the agent ends."""
        self._write(self._tracker.next)
        self._writer.wait(CLOSE_SECONDS)

    def _write(self, reserved: int) -> None:
        """`reserved`: no number from here on was given, or will be before the next write."""
        self._kept_at, self._kept, self._reserved = time.monotonic(), self.counted, reserved
        settings = self._settings
        content = Kept(
            self._reserved,
            [KeptLine(line, count) for line, count in zip(settings.line, self.counted.lines, strict=True)],
            [KeptZone(zone, count) for zone, count in zip(settings.zone, self.counted.zones, strict=True)],
        )
        self._content = msgspec.json.encode(content)
        self._writer.ask()

    def _to_disk(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            publish(self._file, self._content)
        except OSError as error:
            self._log("warning", "what was counted cannot be kept", file=self._file, why=error)

    def _begin(self, height: int, width: int, stream: int) -> None:
        self._scene = (height, width, stream)
        self._tracker.clear()
        margin, confirm = self._settings.margin * min(height, width), self._settings.confirm
        self._lines = [LineCounter(line, height, width, margin, confirm) for line in self._settings.line]
        self._zones = [ZoneCounter(zone, height, width, margin, confirm) for zone in self._settings.zone]

    def _count(self, tracks: Sequence[Track]) -> None:
        places = [self._place(track) for track in tracks]
        lines = [c.count(tracks, places, so_far) for c, so_far in zip(self._lines, self.counted.lines, strict=True)]
        zones = [c.count(tracks, places, so_far) for c, so_far in zip(self._zones, self.counted.zones, strict=True)]
        if (lines, zones) != (self.counted.lines, self.counted.zones):
            self.counted = Counted(lines, zones)

    def _place(self, track: Track) -> Place:
        """The point of a track that crosses lines and lies in zones."""
        x1, y1, x2, y2 = track.box
        height, width, _ = self._scene
        y = y2 if self._settings.point == "foot" else (y1 + y2) / 2
        return min(max((x1 + x2) / 2, EDGE), width - EDGE), min(max(y, EDGE), height - EDGE)

    def _read(self) -> Kept:
        nothing = Kept(1, [], [])
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except FileNotFoundError:
            return nothing
        except (OSError, msgspec.MsgspecError) as error:
            self._log("warning", "what was counted before cannot be read: counts begin at 0", file=self._file, why=error)
            return nothing

    def _restored(self, kept: Kept) -> Counted:
        """Counts of lines and zones that are still what they were; nothing is inside a zone before the first frame."""
        lines, zones = [], []
        for line in self._settings.line:
            before = next((each for each in kept.lines if each.line.name == line.name), None)
            same = before is not None and before.line == line
            lines.append(before.count if before is not None and same else LineCount(line.name))
            if before is not None and not same:
                self._log("warning", "another line than before: its counts begin at 0", line=line.name)
        for zone in self._settings.zone:
            was = next((each for each in kept.zones if each.zone.name == zone.name), None)
            same = was is not None and was.zone == zone
            zones.append(ZoneCount(zone.name, 0, was.count.entries) if was is not None and same else ZoneCount(zone.name))
            if was is not None and not same:
                self._log("warning", "another zone than before: its counts begin at 0", zone=zone.name)
        return Counted(lines, zones)
