"""Cameras whose frames another program writes to a pipe: rpicam-vid on a Raspberry Pi, and GStreamer."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources.child import Child, program_in
from edgeloop_agent.sources.jpegs import JpegSplitter, TooLarge, decoded, needs_pillow
from edgeloop_agent.sources.live_frames import CameraGone, Device, Frame, LiveFrames, asked_of
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DeviceError

__all__ = ["gstreamer", "rpicam"]

RPICAM = ("rpicam-vid", "libcamera-vid")
QUALITY = 90  # of rpicam-vid's JPEG; its own 50 shows blocks


def rpicam(settings: Settings) -> LiveFrames:
    """Raises DeviceError where the program, or Pillow, is missing."""
    program = program_in(RPICAM, "on Raspberry Pi OS: apt install rpicam-apps")
    words = [program, *_options(settings)]
    number = settings.where or "0"
    if settings.camera.pixel_format == "yuv420":
        return LiveFrames(settings, lambda: PipedYuv(words, settings), f"rpicam {number}")
    needs_pillow()
    return LiveFrames(settings, lambda: PipedJpegs(words, settings), f"rpicam {number}")


def gstreamer(settings: Settings) -> LiveFrames:
    """A pipeline by gst-launch-1.0, where OpenCV was built without GStreamer. Raises DeviceError where that is not here."""
    remedy = "OpenCV was built without GStreamer too: apt install gstreamer1.0-tools gstreamer1.0-plugins-good"
    program = program_in(("gst-launch-1.0",), remedy)
    needs_pillow()
    try:
        pipeline = shlex.split(settings.where)
    except ValueError as error:
        raise DeviceError(f"source.where: {settings.where!r} is not a pipeline ({error})") from error
    if "appsink" in settings.where:
        raise DeviceError("source.where: OpenCV was built without GStreamer, so leave appsink out: frames come through a pipe")
    sink = f"! queue max-size-buffers=1 leaky=downstream ! videoconvert ! jpegenc quality={QUALITY} ! fdsink fd=1 sync=false"
    words = [program, "-q", *pipeline, *sink.split()]
    return LiveFrames(settings, lambda: PipedJpegs(words, settings), "gstreamer")


def _options(settings: Settings) -> list[str]:
    """Those of rpicam-vid and, before it, libcamera-vid. --flush: each frame is written when it is there."""
    camera = settings.camera
    options = ["--camera", settings.where or "0", "--timeout", "0", "--nopreview", "--flush"]
    options += ["--codec", camera.pixel_format or "mjpeg"]
    if camera.pixel_format != "yuv420":
        options += ["--quality", str(QUALITY)]
    if camera.size:
        options += ["--width", str(camera.size[0]), "--height", str(camera.size[1])]
    if camera.rate:
        options += ["--framerate", f"{camera.rate:g}"]
    return [*options, "--output", "-"]


class _Piped(Device):
    """What both kinds share. Time of capture: when the first byte of a frame was read."""

    def __init__(self, words: Sequence[str], settings: Settings) -> None:
        self._camera = settings.camera
        self._first = True
        self._child = Child(words)
        self.what = f"{words[0].rpartition('/')[2]}; {asked_of(settings)}".rstrip("; ")

    def _bytes(self) -> bytes:
        seconds = self._camera.open_seconds if self._first else self._camera.read_seconds
        chunk = self._child.read(seconds)
        self._first = False
        return chunk

    def close(self) -> None:
        self._child.close()

    def interrupt(self) -> None:
        self._child.interrupt()


class PipedJpegs(_Piped):
    """One JPEG after the other."""

    def __init__(self, words: Sequence[str], settings: Settings) -> None:
        self._splitter = JpegSplitter(settings.camera.max_bytes)
        self._began = 0.0
        super().__init__(words, settings)

    def read(self) -> Frame | None:
        """The newest of the pictures that are whole; None while there is none. Older ones of the same chunk are left out."""
        chunk = self._bytes()
        if not self._splitter.has_begun:
            self._began = time.monotonic()
        newest = None
        try:
            for picture in self._splitter.feed(chunk):
                newest = Frame(self._began, partial(decoded, picture, self._camera.max_pixels))
                self._began = time.monotonic()
        except TooLarge as error:
            raise CameraGone(str(error)) from error
        return newest


class PipedYuv(_Piped):
    """YUV 4:2:0 of one size, planar, in JPEG's full range (rpicam-vid asks the camera for it)."""

    def __init__(self, words: Sequence[str], settings: Settings) -> None:
        self._width, self._height = settings.camera.size
        self._data = bytearray()
        self._began = 0.0
        super().__init__(words, settings)

    def read(self) -> Frame | None:
        size = self._width * self._height * 3 // 2
        chunk = self._bytes()
        if not self._data:
            self._began = time.monotonic()
        self._data += chunk
        whole = len(self._data) // size
        if not whole:
            return None
        planes = bytes(self._data[(whole - 1) * size : whole * size])
        del self._data[: whole * size]
        frame = Frame(self._began, partial(rgb_of_yuv420, planes, self._width, self._height))
        self._began = time.monotonic()
        return frame


def rgb_of_yuv420(planes: bytes, width: int, height: int) -> Array:
    """(H, W, 3) uint8 of BT.601 in full range, as JPEG has it; each colour holds for four pixels."""
    flat = np.frombuffer(planes, np.uint8)
    size, squares = width * height, (height // 2, 2, width // 2, 2)
    luma = flat[:size].reshape(squares).astype(np.int16)
    blue, red = flat[size:].reshape(2, height // 2, 1, width // 2, 1).astype(np.int32) - 128
    rgb = np.empty((height, width, 3), np.uint8)
    parts = rgb.reshape(*squares, 3)
    for channel, shift in enumerate((359 * red, -88 * blue - 183 * red, 454 * blue)):  # in 1/256
        parts[..., channel] = np.clip(luma + ((shift + 128) >> 8).astype(np.int16), 0, 255)
    return rgb
