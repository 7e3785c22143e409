"""A microphone, by PortAudio (the extra `sound`)."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from threading import Event
from typing import Any

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_contract.errors import DeviceError

WAITING = 4  # blocks between PortAudio's thread and ours


class Microphone:
    """Blocks of `seconds` at `rate_hz`: (T, channels) int16. A microphone that is pulled out is opened again."""

    def __init__(self, settings: Settings) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: the wheel is there, PortAudio's library is not
            remedy = "pip install 'edgeloop[sound]', and on Debian apt install libportaudio2"
            raise DeviceError(f"a microphone needs sounddevice ({error}); {remedy}") from error
        self.library, self.settings = sounddevice, settings
        self.lost = 0

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        count = 0
        while not stop.is_set():
            blocks: queue.Queue[Any] = queue.Queue(WAITING)
            try:
                with self._stream(blocks) as stream:
                    report_unavailable("")
                    while not stop.is_set() and stream.active:
                        try:
                            block = blocks.get(timeout=1)
                        except queue.Empty:
                            continue
                        count += 1
                        yield Recording(f"sound {count}", block, rate_hz=self.settings.rate_hz)
            except self.library.PortAudioError as error:
                report_unavailable(f"microphone: {error}")
            stop.wait(self.settings.poll_seconds)

    def _stream(self, blocks: queue.Queue[Any]) -> Any:
        def take(data: Any, frames: int, time: object, status: object) -> None:
            if blocks.full():  # the loop is slower than sound
                self.lost += 1
            else:
                blocks.put_nowait(data.copy())

        settings = self.settings
        return self.library.InputStream(
            samplerate=settings.rate_hz, channels=settings.channels, dtype="int16", device=settings.where or None,
            blocksize=int(settings.seconds * settings.rate_hz), callback=take,
        )  # fmt: skip
