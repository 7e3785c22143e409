"""A microphone, by PortAudio (the extra `sound`)."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from threading import Event
from typing import Any

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.sound_blocks import SoundBlocks
from edgeloop_contract.errors import DeviceError

__all__ = ["Microphone"]

CHUNK_SECONDS = 0.1  # between PortAudio's thread and ours
WAITING = 4  # recordings between them


class Microphone:
    """Recordings of `seconds`: (T, channels) int16, at the bundle's rate. A microphone that is pulled out is opened again.

    One that cannot do `rate_hz` or `channels` is opened with its own.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: the wheel is there, PortAudio's library is not
            remedy = "pip install 'edgeloop[sound]', and on Debian apt install libportaudio2"
            raise DeviceError(f"a microphone needs sounddevice ({error}); {remedy}") from error
        self.library, self.settings = sounddevice, settings
        self.model_hz: int | None = None
        self.lost = self.overruns = 0
        self.described = ""

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        count = 0
        waiting = 1 + int(WAITING * self.settings.seconds / CHUNK_SECONDS)
        while not stop.is_set():
            chunks: queue.Queue[Any] = queue.Queue(waiting)
            try:
                stream, rate, channels = self._stream(chunks)
                blocks = SoundBlocks(self.settings, rate, self.model_hz)
                asked = f"asked {self.settings.rate_hz} Hz; " if rate != self.settings.rate_hz else ""
                self.described = f"{asked}{rate} Hz, {channels} channels, answered at {blocks.rate_hz} Hz"
                with stream:
                    report_unavailable("")
                    while not stop.is_set() and (stream.active or not chunks.empty()):
                        try:
                            chunk = chunks.get(timeout=1)
                        except queue.Empty:
                            continue
                        for recording in blocks.add(chunk, count):
                            count += 1
                            yield recording
            except self.library.PortAudioError as error:
                report_unavailable(f"microphone: {error}")
            stop.wait(self.settings.poll_seconds)

    def _stream(self, chunks: queue.Queue[Any]) -> tuple[Any, int, int]:
        """A stream with what was asked, else with what the device has; its rate and channels. Raises PortAudioError."""
        settings = self.settings
        try:
            return self._opened(chunks, settings.rate_hz, settings.channels), settings.rate_hz, settings.channels
        except self.library.PortAudioError:
            own = self.library.query_devices(settings.where or None, "input")
            rate, channels = int(own["default_samplerate"]), min(settings.channels, int(own["max_input_channels"]))
            if (rate, channels) == (settings.rate_hz, settings.channels):
                raise
        return self._opened(chunks, rate, channels), rate, channels

    def _opened(self, chunks: queue.Queue[Any], rate: int, channels: int) -> Any:
        def take(data: Any, frames: int, time: object, status: Any) -> None:
            self.overruns += bool(getattr(status, "input_overflow", False))  # between the device and PortAudio
            if chunks.full():  # the loop is slower than sound
                self.lost += 1
            else:
                chunks.put_nowait(data.copy())

        return self.library.InputStream(
            samplerate=rate, channels=channels, dtype="int16", device=self.settings.where or None,
            blocksize=max(1, int(min(CHUNK_SECONDS, self.settings.seconds) * rate)), callback=take,
        )  # fmt: skip
