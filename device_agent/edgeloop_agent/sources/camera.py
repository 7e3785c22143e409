"""A camera or a video file, by OpenCV without its windows (the extra `camera`)."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_contract.errors import DataError, DeviceError


def _library() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DeviceError(f"cameras and videos need OpenCV ({error}); pip install 'edgeloop[camera]'") from error
    return cv2


class Video:
    """Every n-th frame of a file: (H, W, 3) uint8, RGB; then the source is done."""

    def __init__(self, settings: Settings) -> None:
        self.library, self.settings = _library(), settings
        self.count = self.opened = 0

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        yield from self._frames(self.settings.where, stop)
        if not self.count:
            raise DataError(f"{self.settings.where}: OpenCV reads no frame from it; check the path and the format")

    def _frames(self, where: str | int, stop: Event) -> Iterator[Recording]:
        capture = self.library.VideoCapture(where)
        self.opened += 1
        try:
            while not stop.is_set() and capture.grab():
                self.count += 1
                if (self.count - 1) % self.settings.every:
                    continue
                good, frame = capture.retrieve()
                if good:
                    picture = self.library.cvtColor(frame, self.library.COLOR_BGR2RGB)
                    yield Recording(f"frame {self.count}", picture, stream=self.opened)
        finally:
            capture.release()


class Camera(Video):
    """The same of a camera, which is opened again when it goes away."""

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        where = self.settings.where
        while not stop.is_set():
            before = self.count
            for frame in self._frames(int(where) if where.isdecimal() else where, stop):
                report_unavailable("")
                yield frame
            report_unavailable(f"camera {where}: {'no more frames' if self.count > before else 'cannot be opened'}")
            stop.wait(self.settings.poll_seconds)
