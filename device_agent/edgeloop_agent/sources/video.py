"""A video file by OpenCV: every frame, in order."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.camera import opencv
from edgeloop_agent.sources.regions import MotionGate, region_in
from edgeloop_contract.errors import DataError

__all__ = ["Video"]


class Video:
    """Every n-th frame of a file: (H, W, 3) uint8, RGB; then the source is done. Motion: by the file's own time."""

    def __init__(self, settings: Settings) -> None:
        self.library, self.settings = opencv(), settings

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        library, settings, count = self.library, self.settings, 0
        gate, capture = MotionGate(settings.camera), library.VideoCapture(settings.where)
        try:
            seconds = 1 / (capture.get(library.CAP_PROP_FPS) or 25.0)
            while not stop.is_set() and capture.grab():
                count += 1
                if (count - 1) % settings.every:
                    continue
                good, frame = capture.retrieve()
                if not good:
                    continue
                picture = library.cvtColor(frame, library.COLOR_BGR2RGB)
                try:
                    region = region_in(settings.camera.region, *picture.shape[:2])
                except DataError as error:
                    yield Recording(f"frame {count}", None, str(error))
                    continue
                part = picture if region is None else picture[region[1] : region[3], region[0] : region[2]]
                if not gate.is_still(part, count * seconds):
                    yield Recording(f"frame {count}", picture, stream=1, region=region)
        finally:
            capture.release()
        if not count:
            raise DataError(f"{settings.where}: OpenCV reads no frame from it; check the path and the format")
