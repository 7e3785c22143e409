"""Raw sound of 16 bits from ALSA's arecord, standard input or a FIFO."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from threading import Event

import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.backoff import Backoff
from edgeloop_agent.sources.byte_stream import chunks, opened
from edgeloop_agent.sources.child import Child, program_in
from edgeloop_agent.sources.live_frames import CameraGone
from edgeloop_agent.sources.sound_blocks import SoundBlocks
from edgeloop_contract.arrays import Array

__all__ = ["Arecord", "Pcm"]

MAX_PAUSE_SECONDS = 30.0
SILENCE_SECONDS = 5.0  # beyond what one recording lasts, without a byte of arecord
OTHER_RATE = re.compile(rb"rate is not accurate \(requested = \d+Hz, got = (\d+)Hz\)")


class _Points:
    """Bytes as points (T, channels); a point that is cut is kept until its rest comes."""

    def __init__(self, channels: int) -> None:
        self._channels, self._rest = channels, b""

    def of(self, data: bytes) -> Array:
        data = self._rest + data
        whole = len(data) // (2 * self._channels) * 2 * self._channels
        self._rest = data[whole:]
        return np.frombuffer(data[:whole], "<i2").reshape(-1, self._channels).astype(np.int16, copy=False)

    @property
    def left(self) -> int:
        """Bytes of a point whose rest did not come."""
        return len(self._rest)


class _Sound:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model_hz: int | None = None
        self.described, self.overruns, self._number = "", 0, 0

    def _recordings(self, blocks: SoundBlocks, sound: Array) -> Iterator[Recording]:
        for recording in blocks.add(sound, self._number):
            self._number += 1
            yield recording


class _Listened(Child):
    """arecord: its overruns are counted while it says them."""

    overruns = 0

    def heard(self, chunk: bytes) -> None:
        self.overruns += chunk.count(b"overrun!!!")


class Arecord(_Sound):
    """The device `where` of ALSA, else its default. A microphone that is pulled out is opened again."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        program = program_in(("arecord",), "apt install alsa-utils")
        self._words = [
            program, "-D", settings.where or "default", "-t", "raw", "-f", "S16_LE",
            "-r", str(settings.rate_hz), "-c", str(settings.channels),
        ]  # fmt: skip

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        backoff = Backoff(self.settings.poll_seconds, MAX_PAUSE_SECONDS)
        while not stop.is_set():
            child = None
            try:
                child = _Listened(self._words)
                yield from self._heard(child, stop, report_unavailable, backoff)
            except CameraGone as error:
                report_unavailable(f"microphone: {error}")
            finally:
                if child is not None:
                    child.close()
            stop.wait(backoff.seconds())

    def _heard(self, child: _Listened, stop: Event, report: ReportUnavailable, backoff: Backoff) -> Iterator[Recording]:
        settings, points, blocks, before = self.settings, _Points(self.settings.channels), None, self.overruns
        while not stop.is_set():
            data = child.read(settings.seconds + SILENCE_SECONDS)
            if blocks is None:
                other = OTHER_RATE.search(child.said.encode())
                rate = int(other[1]) if other else settings.rate_hz
                blocks = SoundBlocks(settings, rate, self.model_hz)
                asked = f"asked {settings.rate_hz} Hz; " if other else ""
                self.described = f"arecord; {asked}{rate} Hz, {settings.channels} channels, answered at {blocks.rate_hz} Hz"
                backoff.reset()
                report("")
            self.overruns = before + child.overruns
            yield from self._recordings(blocks, points.of(data))


class Pcm(_Sound):
    """Signed 16-bit points, little-endian, `channels` beside each other. Standard input and files end; a FIFO does not."""

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        where = self.settings.where
        closed = f"{where}: closed at its other end"
        while not stop.is_set():
            points, blocks = self._begun()
            try:
                with opened(where) as file:
                    report_unavailable("")
                    for data in chunks(file, where, stop):
                        report_unavailable("" if data else closed)
                        yield from self._recordings(blocks, points.of(data))
                        if not data:  # the writer of a FIFO has gone: the next one begins a sound of its own
                            yield from self._cut(points)
                            points, blocks = self._begun()
                    if stop.is_set() or where == "-" or stat.S_ISREG(os.fstat(file).st_mode):
                        return
                report_unavailable(closed)
            except OSError as error:
                report_unavailable(f"{where}: {error.strerror}")
            stop.wait(self.settings.poll_seconds)

    def _begun(self) -> tuple[_Points, SoundBlocks]:
        settings = self.settings
        blocks = SoundBlocks(settings, settings.rate_hz, self.model_hz)
        self.described = f"{settings.rate_hz} Hz, {settings.channels} channels, answered at {blocks.rate_hz} Hz"
        return _Points(settings.channels), blocks

    def _cut(self, points: _Points) -> Iterator[Recording]:
        if points.left:
            self._number += 1
            why = f"its writer closed the FIFO within a point: {points.left} bytes of it are left"
            yield Recording(f"sound {self._number}", None, why)
