"""A camera by OpenCV without its windows (the extra `camera`): V4L2, RTSP and HTTP by FFmpeg, GStreamer."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import quote, urlsplit

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.config.files_checked import secret_in
from edgeloop_agent.sources.live_frames import CameraGone, Device, Frame, LiveFrames, asked_of
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError, UsageError

__all__ = ["camera", "opencv", "password_of", "shown"]

FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # of OpenCV: name;value|name;value
MAX_CLOCK_SECONDS = 10.0  # a driver's time further back than this is on another clock


def opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DeviceError(f"cameras and videos need OpenCV ({error}); pip install 'edgeloop[camera]'") from error
    return cv2


def camera(settings: Settings) -> LiveFrames:
    """The source. Raises DeviceError where OpenCV, or this build's part of it, is missing."""
    library, backend = opencv(), _backend(settings)
    if backend == "gstreamer" and not library.videoio_registry.hasBackend(library.CAP_GSTREAMER):
        from edgeloop_agent.sources.piped_camera import gstreamer

        return gstreamer(settings)
    return LiveFrames(settings, lambda: OpenCvCamera(library, settings, backend), f"camera {shown(settings.where)}")


def shown(where: str) -> str:
    """An address without its password and query, for logs."""
    if "://" not in where:
        return where
    parts = urlsplit(where)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _backend(settings: Settings) -> str:
    where = settings.where
    if settings.camera.backend:
        return settings.camera.backend
    return "ffmpeg" if "://" in where else "gstreamer" if "!" in where else "v4l2"


def password_of(settings: Settings) -> str:
    """Raises UsageError for a file that cannot be used."""
    if not settings.password_file:
        return ""
    try:
        return secret_in(settings.password_file)
    except (OSError, ValueError) as error:
        raise UsageError(f"source.password_file: {settings.password_file} cannot be read ({type(error).__name__})") from error


class OpenCvCamera(Device):
    """One opened capture. Opening and reading have deadlines in FFmpeg and V4L2 themselves; the reader's own stand over them."""

    def __init__(self, library: Any, settings: Settings, backend: str) -> None:
        self._library, self._settings = library, settings
        numbers = {"v4l2": library.CAP_V4L2, "ffmpeg": library.CAP_FFMPEG, "gstreamer": library.CAP_GSTREAMER}
        self._capture = library.VideoCapture()
        self._driver_clock = backend == "v4l2"
        where: str | int = settings.where
        if backend == "ffmpeg":
            where = self._address()
            os.environ.setdefault(FFMPEG_OPTIONS, self._options())
            camera = settings.camera
            deadlines = [
                library.CAP_PROP_OPEN_TIMEOUT_MSEC, int(camera.open_seconds * 1000),
                library.CAP_PROP_READ_TIMEOUT_MSEC, int(camera.read_seconds * 1000),
            ]  # fmt: skip
            opened = self._capture.open(where, numbers[backend], deadlines)
        else:
            where = int(where) if settings.where.isdecimal() else where
            where = _with_sink(str(where)) if backend == "gstreamer" else where
            opened = self._capture.open(where, numbers[backend])
        if not opened:
            self._capture.release()
            raise CameraGone("cannot be opened")
        if backend == "v4l2":
            self._ask()
        self.what = self._described(backend)

    def _address(self) -> str:
        where, settings = self._settings.where, self._settings
        if not settings.username:
            return where
        scheme, _, rest = where.partition("://")
        secret = f"{quote(settings.username, safe='')}:{quote(password_of(settings), safe='')}"
        return f"{scheme}://{secret}@{rest}"

    def _options(self) -> str:
        """Without FFmpeg's own queue."""
        options = ["fflags;nobuffer", "flags;low_delay"]
        if self._settings.where.startswith(("rtsp://", "rtsps://")):
            options.append(f"rtsp_transport;{self._settings.camera.rtsp_transport}")
        return "|".join(options)

    def _ask(self) -> None:
        """The format first: which sizes and rates there are depends on it."""
        library, camera = self._library, self._settings.camera
        if camera.pixel_format:
            self._capture.set(library.CAP_PROP_FOURCC, library.VideoWriter_fourcc(*camera.pixel_format))
        if camera.size:
            self._capture.set(library.CAP_PROP_FRAME_WIDTH, camera.size[0])
            self._capture.set(library.CAP_PROP_FRAME_HEIGHT, camera.size[1])
        if camera.rate:
            self._capture.set(library.CAP_PROP_FPS, camera.rate)

    def _described(self, backend: str) -> str:
        library = self._library
        width, height = (self._capture.get(p) for p in (library.CAP_PROP_FRAME_WIDTH, library.CAP_PROP_FRAME_HEIGHT))
        rate, code = self._capture.get(library.CAP_PROP_FPS), int(self._capture.get(library.CAP_PROP_FOURCC))
        letters = code.to_bytes(4, "little", signed=code < 0).decode("latin-1").strip("\0 ")
        says = [f"{width:.0f}×{height:.0f}"] if width else []
        says += [f"at {rate:g}/s"] if rate else []
        says += [letters] if letters.isprintable() and letters else []
        return f"{backend}; {asked_of(self._settings)}says {' '.join(says) or 'nothing of itself'}"

    def read(self) -> Frame | None:
        if not self._capture.grab():
            raise CameraGone("no more frames")
        captured, library = self._captured(), self._library
        self._check(*(int(self._capture.get(p)) for p in (library.CAP_PROP_FRAME_WIDTH, library.CAP_PROP_FRAME_HEIGHT)))
        good, frame = self._capture.retrieve()
        if not good:
            return None
        self._check(frame.shape[1], frame.shape[0])
        return Frame(captured, lambda: self._as_rgb(frame))

    def _check(self, width: int, height: int) -> None:
        """FFmpeg has decoded a frame by then (1.5 bytes a pixel); what would come of it is not made."""
        limit = self._settings.camera.max_pixels
        if width * height > limit:
            raise CameraGone(f"frames of {width}×{height} pixels; source.camera.max_pixels is {limit}")

    def _captured(self) -> float:
        """The driver's own time of the frame, where it is one: V4L2 gives that of the monotonic clock."""
        now = time.monotonic()
        if self._driver_clock:
            stamp = float(self._capture.get(self._library.CAP_PROP_POS_MSEC)) / 1000
            if 0 <= now - stamp < MAX_CLOCK_SECONDS:
                return stamp
        return now

    def _as_rgb(self, frame: Array) -> Array:
        try:
            picture: Array = self._library.cvtColor(frame, self._library.COLOR_BGR2RGB)
        except self._library.error as error:
            raise DataError(f"OpenCV cannot convert a frame of the shape {frame.shape}") from error
        return picture

    def close(self) -> None:
        self._capture.release()

    def interrupt(self) -> None:
        """OpenCV has no way: its own deadlines hold."""


def _with_sink(pipeline: str) -> str:
    return pipeline if "appsink" in pipeline else f"{pipeline} ! videoconvert ! appsink drop=true max-buffers=1 sync=false"
