"""Cameras: a thread reads each frame as it comes and keeps the newest; a camera that hangs or goes away is opened again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Event
from typing import NamedTuple, Protocol

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.backoff import Backoff
from edgeloop_agent.sources.regions import MotionGate, region_in
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, EdgeloopError

__all__ = ["CameraGone", "Device", "Frame", "LiveFrames"]

POLL_SECONDS = 0.5
GRACE_SECONDS = 1.0  # beyond a deadline: whoever keeps it has more to say of it
MAX_HANGING = 3  # threads of a driver that did not come back: more would only take memory
OUTCOMES = ("taken", "dropped", "still", "unreadable", "unchanged")


class CameraGone(Exception):
    """The camera is not available, and why."""


class Frame(NamedTuple):
    """`captured`: monotonic seconds. `picture`: (H, W, 3) or (H, W) uint8, or a function that decodes it (DataError: damaged);
    None: the camera says that it is the last one still.
    """

    captured: float
    picture: Array | Callable[[], Array] | None


class Device(Protocol):
    """One opened camera; used by one thread, except for `interrupt`."""

    what: str  # what was opened, and what it says of itself
    pause_seconds: float = 0.0  # that it takes on purpose between two frames

    def read(self) -> Frame | None:
        """The next frame; None where there is none yet. Raises CameraGone."""
        ...

    def close(self) -> None: ...

    def interrupt(self) -> None:
        """Make a `read` that waits come back, where that is possible; called by another thread."""
        ...


def decoded(frame: Frame) -> Array:
    """Raises DataError for a picture that is damaged."""
    assert frame.picture is not None
    return frame.picture() if callable(frame.picture) else frame.picture


class _Reader:
    """The thread of one opened camera."""

    def __init__(self, opener: Callable[[], Device], frames: Counter[str], every: int) -> None:
        self._opener, self._frames, self._every = opener, frames, every
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._device: Device | None = None
        self._ended = False
        self.failure, self.what = "", ""
        self.fault: EdgeloopError | None = None
        self.alive_at = time.monotonic()  # the last frame, or the beginning
        self.pause, self.read = 0.0, 0
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self.thread.start()

    def take(self, seconds: float) -> Frame | None:
        with self._changed:
            if self._newest is None and not self.failure:
                self._changed.wait(seconds)
            frame, self._newest = self._newest, None
            return frame

    def end(self) -> None:
        """Let go of it; a thread that hangs in a driver ends when the driver comes back."""
        with self._changed:
            self._ended, device = True, self._device
        if device is not None:
            device.interrupt()

    def _run(self) -> None:
        device = None
        try:
            device = self._opener()
            with self._changed:
                self._device, self.what, self.pause = device, device.what, device.pause_seconds
            while not self._ended:
                frame = device.read()
                if frame is not None:
                    with self._changed:
                        self._keep(frame)
        except EdgeloopError as error:  # the user must act
            self.fault = error
            self._fail(str(error))
        except CameraGone as error:
            self._fail(str(error))
        except Exception as error:  # a driver's, which must not end the agent
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            if device is not None:
                device.close()

    def _keep(self, frame: Frame) -> None:
        self.read, self.alive_at = self.read + 1, time.monotonic()
        if frame.picture is None:
            self._frames["unchanged"] += 1
        if frame.picture is None or (self.read - 1) % self._every:
            return
        self._frames["dropped"] += self._newest is not None
        self._newest = frame
        self._changed.notify_all()

    def _fail(self, why: str) -> None:
        with self._changed:
            self.failure = why
            self._changed.notify_all()


class LiveFrames:
    """The source of every camera. `opener` opens it, and may take long; `name`: of the camera, in sentences.

    `frames`: how many were taken, dropped for a newer one, still, unreadable, or not modified. `described`: what was opened.
    """

    def __init__(self, settings: Settings, opener: Callable[[], Device], name: str) -> None:
        self.settings, self._opener, self._name = settings, opener, name
        self.frames: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.described = ""
        self._gate = MotionGate(settings.camera)
        self._opened = self._count = 0
        self._hanging: list[threading.Thread] = []

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        camera = self.settings.camera
        backoff = Backoff(self.settings.poll_seconds, camera.max_reconnect_seconds)
        while not stop.is_set():
            self._hanging = [thread for thread in self._hanging if thread.is_alive()]
            if len(self._hanging) < MAX_HANGING:
                reader = _Reader(self._opener, self.frames, self.settings.every)
                self._opened += 1
                try:
                    yield from self._frames_of(reader, stop, report_unavailable, backoff)
                finally:
                    reader.end()
                    self._hanging.append(reader.thread)
                if reader.fault is not None:
                    raise reader.fault
            stop.wait(backoff.seconds())

    def _frames_of(self, reader: _Reader, stop: Event, report: ReportUnavailable, backoff: Backoff) -> Iterator[Recording]:
        """Until the camera is gone, or silent for too long."""
        camera, seen = self.settings.camera, False
        while not stop.is_set():
            frame = reader.take(POLL_SECONDS)
            if frame is None:
                if why := reader.failure or self._silence(reader):
                    report(f"{self._name}: {why}")
                    return
                continue
            self._count += 1
            name = f"frame {self._count}"
            try:
                picture = decoded(frame)
                region = region_in(camera.region, *picture.shape[:2])
            except DataError as error:
                self.frames["unreadable"] += 1
                yield Recording(name, None, str(error), captured=frame.captured)
                continue
            if not seen:
                seen = True
                backoff.reset()
                self.described = f"{reader.what}; came {picture.shape[1]}×{picture.shape[0]}"
            report("")
            seen_part = picture if region is None else picture[region[1] : region[3], region[0] : region[2]]
            if self._gate.is_still(seen_part, frame.captured):
                self.frames["still"] += 1
                continue
            self.frames["taken"] += 1
            yield Recording(name, picture, stream=self._opened, captured=frame.captured, region=region)

    def _silence(self, reader: _Reader) -> str:
        """Why the camera counts as gone, if it is silent for too long."""
        camera, silent = self.settings.camera, time.monotonic() - reader.alive_at
        if not reader.read and silent > camera.open_seconds + GRACE_SECONDS:
            return f"no frame in {camera.open_seconds:g} s"
        if reader.read and silent > camera.read_seconds + reader.pause + GRACE_SECONDS:
            return f"no frame for {camera.read_seconds:g} s"
        return ""


def asked_of(settings: Settings) -> str:
    """What the config asks for, in words; "" for nothing."""
    camera = settings.camera
    words = ["×".join(map(str, camera.size))] if camera.size else []
    words += [f"at {camera.rate:g}/s"] if camera.rate else []
    words += [camera.pixel_format] if camera.pixel_format else []
    return f"asked {' '.join(words)}; " if words else ""
